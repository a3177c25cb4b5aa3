"""Agreement is its formula, whatever the model, the order and the memory; what has none is refused in one sentence."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import mergewise as mw
from adapters import linear_adapter, save_adapter
from learning import tiny
from mergewise.learning.agreement import agreement
from mergewise.learning.errors import ExamplesError
from support import load_model, save_model

pytestmark = pytest.mark.filterwarnings("default")  # those of transformers and torch are not ours

WORDS = [f"w{i}" for i in range(28)]


def add_tokenizer(folder):
    """Save a tokenizer of 32 words beside a model."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[MASK]", "[CLS]", *WORDS])}
    own = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    ).save_pretrained(folder)


@pytest.fixture
def family(model, examples, tokens, tmp_path, monkeypatch):
    """A base, two experts with examples, and the sum of their changes at λ = 0.4, in the folder a test stands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))

    def made(kind, scale=0.2):
        model(kind, "base")
        for i in (1, 2):
            model(kind, f"e{i}", i, tmp_path / "base", scale)
            examples(tokens(6, seed=i), f"{i}.jsonl")
        arrays = [load_model(tmp_path / name) for name in ("base", "e1", "e2")]
        base = arrays[0]
        summed = {n: (b + 0.4 * sum(one[n] - b for one in arrays[1:])).astype(b.dtype) for n, b in base.items()}
        save_model(tmp_path / "sum", summed)
        (tmp_path / "sum" / "config.json").write_bytes((tmp_path / "base" / "config.json").read_bytes())
        if kind == "masked":
            add_tokenizer(tmp_path / "base")

    return made


def measure(*merged, experts=("e1", "e2"), examples=("1.jsonl", "2.jsonl"), **options):
    return agreement("base", list(experts), list(examples), list(merged), **options)


def outputs_of(name, kind, file):
    """Log probabilities or the embedding for every line of a file, as transformers alone gives them."""
    import json

    import torch

    network = tiny.load(Path(name), kind)
    found = []
    for line in Path(file).read_text().splitlines():
        with torch.no_grad():
            given = network(input_ids=torch.tensor([json.loads(line)["tokens"]]))
        if kind == "encoder":
            embedding = given.last_hidden_state[0].double().mean(0).numpy()
            found.append((embedding / np.linalg.norm(embedding))[None])
        else:
            logits = given.logits.double()
            found.append((logits[0, :-1] if kind == "llama" else logits).log_softmax(-1).numpy())
    return found


def neighbours(outputs):
    rows = np.concatenate(outputs)
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    cosines = rows @ rows.T - 9.0 * np.eye(len(rows))
    return [np.array([one]) for one in cosines.argmax(1)]


def said(outputs, kind):
    return neighbours(outputs) if kind == "encoder" else [one.argmax(-1) for one in outputs]


def share(found, own):
    return np.mean([np.mean(a == b) for a, b in zip(found, own, strict=True)])


@pytest.mark.parametrize("kind", ["llama", "classifier", "encoder"])
def test_agreement_of_merges_is_its_formula(kind, family):
    family(kind)
    report = measure("sum", "e2")
    for row, name in ((report.base, "base"), (report.candidates[0], "sum"), (report.candidates[1], "e2")):
        expected, kept = [], []
        for i in (1, 2):
            answers = {n: said(outputs_of(n, kind, f"{i}.jsonl"), kind) for n in ("base", f"e{i}", name)}
            own, base = answers[f"e{i}"], answers["base"]
            expected.append(share(answers[name], own))
            changed = sum(np.mean(a != b) for a, b in zip(own, base, strict=True))
            same = sum(np.mean((a == o) & (o != b)) for a, o, b in zip(answers[name], own, base, strict=True))
            kept.append(same / changed if changed else None)
        assert row.by_expert == pytest.approx(expected)
        assert row.kept_by_expert == pytest.approx(kept)
        assert row.agreement == pytest.approx(np.mean(expected))
    assert report.inputs == (6, 6)
    assert report.predictions == ((48, 48) if kind == "llama" else (6, 6))


@pytest.mark.parametrize("kind", ["llama", "classifier", "encoder"])
def test_what_is_foreseen_of_sums_is_the_formula_on_added_outputs(kind, family):
    family(kind)
    report = measure()
    assert [one.scale for one in report.candidates] == pytest.approx([n / 10 for n in range(1, 11)])
    for one in report.candidates:
        for i in (1, 2):
            e, *experts = (outputs_of(name, kind, f"{i}.jsonl") for name in ("base", "e1", "e2"))
            sums = [b + one.scale * (x - b + y - b) for b, x, y in zip(e, *experts, strict=True)]
            assert one.by_expert[i - 1] == pytest.approx(share(said(sums, kind), said(experts[i - 1], kind)), abs=0.05)
    exact = measure(experts=["e1"], examples=["1.jsonl"]).candidates[-1]
    assert (exact.scale, exact.agreement) == (1.0, 1.0)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "classifier", "masked", "encoder"])
def test_an_expert_agrees_with_itself_and_the_base_keeps_no_change(kind, family):
    family(kind, 0.6)
    report = measure("e1", "base")
    assert report.base.kept == 0.0
    assert report.candidates[0].by_expert[0] == report.candidates[0].kept_by_expert[0] == 1.0
    assert report.candidates[0].by_expert[1] < 1.0
    assert dataclasses.replace(report.candidates[1], name="the base") == report.base
    assert report.best == 0
    assert report.kind == {"gpt2": "causal", "llama": "causal"}.get(kind, kind)


def test_experts_that_are_the_same_lose_nothing_in_their_mean(family):
    family("llama")
    mean = next(one for one in measure(experts=["e1", "e1"]).candidates if one.scale == 0.5)
    assert (mean.agreement, mean.kept) == (1.0, 1.0)
    assert mean.name == "λ = 0.5 (1/2, the mean)"


def test_the_order_of_experts_and_merges_changes_nothing(family):
    family("llama")
    one = measure("sum", "base", "e2")
    other = measure("e2", "base", "sum", experts=["e2", "e1"], examples=["2.jsonl", "1.jsonl"])
    for a, b in zip(one.candidates, reversed(other.candidates), strict=True):
        assert (a.name, a.by_expert) == (b.name, b.by_expert[::-1])
        assert (a.agreement, a.kept, a.behind) == pytest.approx((b.agreement, b.kept, b.behind))
    assert one.candidates[one.best].name == other.candidates[other.best].name


@pytest.mark.parametrize("kind", ["llama", "encoder"])
def test_memory_changes_nothing_but_how_often_models_are_opened(kind, family):
    family(kind)
    calls = []
    whole, little = measure(), measure(memory="2kB", progress=lambda *far: calls.append(far))
    assert whole.passes == 1
    assert little.passes == {"llama": 12, "encoder": 1}[kind]
    assert dataclasses.replace(little, passes=1, seconds=0.0) == dataclasses.replace(whole, seconds=0.0)
    assert calls == [(n, 36) for n in range(1, 37)]


def test_one_file_serves_all_experts(family):
    family("classifier")
    shared, twice = measure("sum", examples=["1.jsonl"]), measure("sum", examples=["1.jsonl", "1.jsonl"])
    assert shared.candidates[0].by_expert == twice.candidates[0].by_expert
    assert shared.candidates[0].error != twice.candidates[0].error  # the same inputs vary together
    foreseen, again = measure(examples=["1.jsonl"]), measure(examples=["1.jsonl", "1.jsonl"])
    assert [one.by_expert for one in foreseen.candidates] == [one.by_expert for one in again.candidates]


def test_encoders_answer_with_choices_where_there_are_some(family, examples, tokens):
    family("encoder", 0.6)
    examples(tokens(4, seed=9), "choices.jsonl")
    report = measure("e1", "sum", choices=["choices.jsonl"])
    head = np.concatenate(outputs_of("base", "encoder", "choices.jsonl"))
    for row, name in ((report.candidates[0], "e1"), (report.candidates[1], "sum"), (report.base, "base")):
        for i in (1, 2):
            found, own = ([one @ head.T for one in outputs_of(n, "encoder", f"{i}.jsonl")] for n in (name, f"e{i}"))
            assert row.by_expert[i - 1] == share([a.argmax(1) for a in found], [a.argmax(1) for a in own])
    assert report.summary() != measure("e1", "sum").summary()


def test_lines_of_a_text_file_are_texts(family, tmp_path, examples):
    family("llama")
    add_tokenizer(tmp_path / "base")
    texts = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9"]
    (tmp_path / "x.txt").write_text("\n\n".join(texts) + "\n", "utf-8")
    examples([{"text": text} for text in texts], "x.jsonl")
    lines, objects = (measure("sum", examples=[f"x.{end}"]) for end in ("txt", "jsonl"))
    assert lines.predictions == (6, 6)
    assert lines.candidates == objects.candidates


def test_adapters_are_put_on_the_base(family, tmp_path):
    family("llama")
    save_adapter(tmp_path / "lora", linear_adapter(0, load_model(tmp_path / "base")))
    report = measure("base", "base+lora", experts=["lora"], examples=["1.jsonl"])
    assert report.candidates[1].agreement == 1.0
    assert report.candidates[0].agreement < 1.0


def test_a_difference_is_clear_only_beyond_two_standard_errors(family):
    family("llama", 0.6)
    report = measure("e1", "sum", "base", experts=["e1"], examples=["1.jsonl"])
    first, other, _ = report.candidates
    assert (first.behind, first.behind_error) == (0.0, 0.0)
    assert other.behind == pytest.approx(1.0 - other.agreement)
    assert not other.level
    assert report.sentence == "Prefer e1: e1 has the most agreement, 1.000, and all others have clearly less."
    twins = measure("e1", "e1", experts=["e1"], examples=["1.jsonl"])
    assert twins.best == 0
    assert twins.sentence.endswith("it is not clearly ahead of e1.")
    nothing = measure("base", experts=["e1"], examples=["1.jsonl"])
    assert "which is no more than the base has" in nothing.sentence
    alone = measure("sum", experts=["e1"], examples=["1.jsonl"], limit=1)
    assert (alone.candidates[0].error, alone.inputs) == (None, (1,))
    assert alone.sentence.endswith(f"where the base has {alone.base.agreement:.3f}.")


# ---- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("llama", {"experts": []}, "Agreement is with experts, found none"),
        ("llama", {"examples": []}, "Expected one file of examples for all experts, or one for each of 2, found 0"),
        ("llama", {"examples": ["1.jsonl"] * 3}, "one for each of 2, found 3"),
        ("llama", {"examples": ["none.jsonl"]}, "none.jsonl: examples cannot be read: No such file"),
        ("llama", {"examples": ["empty.txt"]}, "empty.txt: expected at least one example, found none"),
        ("llama", {"examples": ["text.txt"]}, "expected a tokenizer in .*base, found none"),
        ("llama", {"examples": ["short.jsonl"]}, "short.jsonl: an example has one token, from which nothing"),
        ("llama", {"choices": ["1.jsonl"]}, "base: choices are for encoders, found a model that is causal"),
        ("llama", {"memory": "much"}, "memory budget"),
        ("encoder", {"limit": 2}, "1.jsonl: expected three texts or more, .* found 2"),
        ("encoder", {"choices": ["short.jsonl"]}, "short.jsonl: expected two choices or more, found 1"),
        ("encoder", {"choices": ["1.jsonl"] * 3}, "Expected one file of choices .* each of 2, found 3"),
    ],
)
@pytest.mark.parametrize("merged", [(), ("sum",)])
def test_what_tells_nothing_is_refused_in_one_sentence(kind, options, words, merged, family, tmp_path):
    family(kind)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "text.txt").write_text("a b c")
    (tmp_path / "short.jsonl").write_text('{"tokens": [1]}\n')
    with pytest.raises(mw.MergewiseError, match=words) as caught:
        measure(*merged, **options)
    assert "\n" not in str(caught.value)


def test_models_of_other_kinds_and_sizes_are_refused(family, model, tmp_path):
    family("classifier")
    model("encoder", "other")
    with pytest.raises(
        ExamplesError, match=r"other: expected a model like .*base \(classifier, 3 outputs\), found enc"
    ):
        measure("other")
    with pytest.raises(mw.CheckpointError, match="nowhere: expected a checkpoint"):
        measure("nowhere")


def test_weights_that_are_not_finite_are_found(family, tmp_path):
    family("llama")
    arrays = load_model(tmp_path / "sum")
    arrays["model.norm.weight"] = arrays["model.norm.weight"] * np.float32("nan")
    save_model(tmp_path / "sum", arrays)
    (tmp_path / "sum" / "config.json").write_bytes((tmp_path / "base" / "config.json").read_bytes())
    with pytest.raises(ExamplesError, match=r"sum: its outputs are not finite on example 1 of 1.jsonl"):
        measure("sum")


def test_one_output_is_no_class(family, tmp_path):
    import json

    family("classifier")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExamplesError, match="a classifier of one class out of several, found 3 outputs for multi"):
        measure("sum")
