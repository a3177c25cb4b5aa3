"""What is collected is what the formulas say, whatever the memory, and merges with numpy alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mergewise as mw
from learning import tiny
from mergewise.checkpoint import open_source, open_statistics_file
from mergewise.learning.collect import collect_statistics
from mergewise.learning.errors import ExamplesError
from support import load_file, load_model

PATH = [str(Path(path).resolve()) for path in sys.path]
pytestmark = pytest.mark.filterwarnings("default")  # those of transformers and torch are not ours


def slow_fisher(network, kind, entries, outcomes):
    """The mean over examples of Σ_y p(y) (∂ log p(y))², by one backward pass for each example and outcome."""
    import torch

    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in network.named_parameters()}
    for entry in entries:
        ids = torch.tensor([entry["tokens"]])
        for outcome in outcomes(entry):
            network.zero_grad()
            logs = network(input_ids=ids).logits.log_softmax(-1)
            if kind == "classifier":
                weight, log = (float(logs[0, outcome].detach().exp()), logs[0, outcome])
                weight = weight if len(outcomes(entry)) > 1 else 1.0
            else:
                weight, log = 1.0, sum(logs[0, t, ids[0, t + 1]] for t in range(ids.shape[1] - 1))
            log.backward()
            for name, parameter in network.named_parameters():
                if parameter.grad is not None:
                    sums[name] += weight * parameter.grad.double() ** 2
    return {name: (total / len(entries)).numpy() for name, total in sums.items()}


@pytest.mark.parametrize(
    ("kind", "labels", "outcomes"),
    [
        ("classifier", None, lambda entry: range(3)),
        ("classifier", "given", lambda entry: [entry["label"]]),
        ("llama", "given", lambda entry: [None]),
        ("tied llama", "given", lambda entry: [None]),
    ],
)
def test_fisher_information_is_its_formula(kind, labels, outcomes, model, examples, tokens, tmp_path):
    entries = tokens(4)
    collect_statistics(str(model(kind)), examples(entries), tmp_path / "f.safetensors", kind="fisher", labels=labels)
    found = load_file(tmp_path / "f.safetensors")
    expected = slow_fisher(tiny.load(tmp_path / "model", kind), kind, entries, outcomes)
    assert found.keys() == expected.keys()
    assert found.keys() <= load_model(tmp_path / "model").keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-3, atol=1e-5 * values.max() + 1e-12, err_msg=name)


def test_sampled_fisher_information_comes_near_the_expected_one(model, examples, tokens, tmp_path):
    folder, path = str(model("classifier")), examples(tokens(4) * 60)
    for labels in ("sampled", "expected"):
        collect_statistics(folder, path, tmp_path / labels, kind="fisher", labels=labels)
    sampled, expected = load_file(tmp_path / "sampled"), load_file(tmp_path / "expected")
    totals = [sum(float(a.sum()) for a in found.values()) for found in (sampled, expected)]
    assert totals[0] == pytest.approx(totals[1], rel=0.25)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "classifier", "encoder"])
def test_gram_matrices_are_those_of_what_goes_into_linear_layers(kind, model, examples, tokens, tmp_path):
    import torch

    entries = tokens(3)
    collect_statistics(str(model(kind)), examples(entries), tmp_path / "g.safetensors", kind="gram")
    found = load_file(tmp_path / "g.safetensors")
    network = tiny.load(tmp_path / "model", kind)
    watched = {"llama": "model.layers.1.mlp.down_proj", "gpt2": "transformer.h.1.mlp.c_proj"}
    name = watched.get(kind, "bert.encoder.layer.1.output.dense").removeprefix("bert." if kind == "encoder" else "#")
    rows = []
    network.get_submodule(name).register_forward_hook(lambda _, given, __: rows.append(given[0][0]))
    with torch.no_grad():
        for entry in entries:
            network(input_ids=torch.tensor([entry["tokens"]]))
    x = torch.cat(rows).double().numpy()
    np.testing.assert_allclose(found[f"{name}.weight"], x.T @ x / len(x), rtol=1e-4, atol=1e-6)
    linear = {n for n, m in network.named_modules() if type(m).__name__ in ("Linear", "Conv1D")}
    stored = load_model(tmp_path / "model")
    assert found.keys() == {f"{n}.weight" for n in linear if f"{n}.weight" in stored}


@pytest.mark.parametrize("kind", ["fisher", "gram"])
def test_memory_and_repetition_change_no_byte(kind, model, examples, tokens, tmp_path):
    folder, path = str(model("llama")), examples(tokens(3))
    outs = [tmp_path / f"{i}.safetensors" for i in range(3)]
    reports = [
        collect_statistics(folder, path, out, kind=kind, memory=memory)
        for out, memory in zip(outs, ["1GiB", "1GiB", "5kB"], strict=True)
    ]
    assert [report.passes for report in reports][:2] == [1, 1]
    assert reports[2].passes > 5
    assert outs[0].read_bytes() == outs[1].read_bytes()
    one, other = load_file(outs[0]), load_file(outs[2])
    for name, values in one.items():
        # fewer gradients at a time may be added up in another order by torch
        np.testing.assert_allclose(other[name], values, rtol=1e-4, atol=1e-6 * np.abs(values).max())


def test_another_seed_draws_other_labels(model, examples, tokens, tmp_path):
    folder, path = str(model("llama")), examples(tokens(3))
    for seed in (0, 1):
        collect_statistics(folder, path, tmp_path / str(seed), kind="fisher", seed=seed)
    assert (tmp_path / "0").read_bytes() != (tmp_path / "1").read_bytes()


def test_a_file_says_what_it_is(model, examples, tokens, tmp_path):
    from mergewise.checkpoint import model_digest

    folder = model("gpt2")
    collect_statistics(str(folder), examples(tokens(2)), tmp_path / "g.safetensors", kind="gram")
    found = open_statistics_file(tmp_path / "g.safetensors", "g")
    assert (found.kind, found.model) == ("gram", model_digest(open_source(folder)))
    assert found.inputs_first == {n for n in found.source.tensors if n.startswith("transformer.h.")}
    norm = np.sqrt(sum(np.sum(a.astype(float) ** 2) for a in load_file(tmp_path / "g.safetensors").values()))
    assert found.norm == pytest.approx(norm, rel=1e-12)
    assert found.source.metadata["examples"] == "2"
    assert found.source.metadata["predictions"].strip() == "18"


def test_prompts_are_read_but_only_targets_are_predicted(model, examples, tmp_path):
    from mergewise.learning.examples import Example
    from mergewise.learning.network import log_probabilities, open_network

    network = open_network(open_source(model("llama")), "a test")
    whole = log_probabilities(network, Example((1, 2, 3, 4, 5)))
    target = log_probabilities(network, Example((1, 2, 3, 4, 5), start=3))
    assert whole.shape == (4, 32)
    assert np.array_equal(target.numpy(), whole[2:].numpy())


# ---- merges ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(model, examples, tokens, tmp_path, monkeypatch):
    """Two experts of a kind with statistics of a kind, in the folder that a test stands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))

    def made(kind, statistics):
        model(kind, "base")
        for i in (1, 2):
            model(kind, f"e{i}", i, tmp_path / "base", 0.05)
            path = examples(tokens(5, seed=i), f"{i}.jsonl")
            collect_statistics(f"e{i}", path, tmp_path / f"s{i}.safetensors", kind=statistics)
        entries = [{"model": f"e{i}", "parameters": {"statistics": f"s{i}.safetensors"}} for i in (1, 2)]
        return mw.Recipe(method={"fisher": "fisher", "gram": "regmean"}[statistics], experts=entries)

    return made


@pytest.mark.parametrize("kind", ["llama", "tied llama", "gpt2", "classifier"])
@pytest.mark.parametrize("statistics", ["fisher", "gram"])
def test_merges_with_statistics_are_the_formulas_and_can_be_verified(kind, statistics, measured, tmp_path):
    recipe = measured(kind, statistics)
    mw.merge(recipe, "out", memory="400MiB", threads=2)
    merged, models = load_model(tmp_path / "out"), [load_model(tmp_path / f"e{i}") for i in (1, 2)]
    files = [load_file(tmp_path / f"s{i}.safetensors") for i in (1, 2)]
    for name, found in merged.items():
        a, b = (m[name].astype(np.float64) for m in models)
        expected = (a + b) / 2
        if name in files[0]:
            f, g = (file[name].astype(np.float64) for file in files)
            if statistics == "fisher":
                known = f + g > 0
                expected = np.where(known, (f * a + g * b) / np.where(known, f + g, 1), expected)
            else:
                f, g = (0.9 * x + 0.1 * np.diag(np.diag(x)) for x in (f, g))
                turned = kind == "gpt2" and ".h." in name
                a, b = (a, b) if turned else (a.T, b.T)
                expected = np.linalg.solve(f + g, f @ a + g @ b)
                expected = expected if turned else expected.T
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7, err_msg=name)
    record = json.loads((tmp_path / "out" / "mergewise.json").read_text())
    files = {entry["file"] for entry in record["inputs"]}
    read = {f"{model}/{file}" for model in ("e1", "e2") for file in ("config.json", "model.safetensors")}
    assert files == read | {"s1.safetensors", "s2.safetensors"}
    assert mw.verify("out", sample=None).faults == ()
    tiny.load(tmp_path / "out", kind)


def test_a_merge_that_regmean_makes_answers_as_the_experts_do_better_than_their_mean(measured, tmp_path):
    import torch

    recipe = measured("llama", "gram")
    mw.merge(recipe, "regmean")
    mw.merge(mw.Recipe(method="average", experts=["e1", "e2"]), "average")
    away = {}
    for name in ("regmean", "average"):
        merged = tiny.load(tmp_path / name, "llama")
        gaps = []
        for i in (1, 2):
            expert = tiny.load(tmp_path / f"e{i}", "llama")
            for line in (tmp_path / f"{i}.jsonl").read_text().splitlines():
                ids = torch.tensor([json.loads(line)["tokens"]])
                with torch.no_grad():
                    gaps.append(float((merged(ids).logits - expert(ids).logits).square().mean()))
        away[name] = np.mean(gaps)
    assert away["regmean"] < away["average"]


def test_merging_with_statistics_needs_no_torch(measured, tmp_path):
    recipe = measured("classifier", "fisher")
    script = (
        "import json, sys, mergewise as mw\n"
        "mw.merge(mw.Recipe(**json.loads(sys.argv[1])), 'out')\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    fields = {"method": recipe.method, "experts": [e.model_dump() for e in recipe.experts]}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(PATH)}
    command = [sys.executable, "-c", script, json.dumps(fields)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_statistics_of_another_model_are_refused_in_the_plan(measured):
    recipe = measured("llama", "fisher")
    swapped = [{"model": f"e{i}", "parameters": {"statistics": f"s{3 - i}.safetensors"}} for i in (1, 2)]
    with pytest.raises(mw.CheckpointError, match=r"s2.safetensors: expected statistics of e1, found those of another"):
        mw.plan(mw.Recipe(method="fisher", experts=swapped))
    assert mw.plan(recipe).bytes_in > 0


def test_statistics_of_what_a_model_was_before_are_refused(measured, model, tmp_path):
    recipe = measured("llama", "gram")
    model("llama", "e2", 2, tmp_path / "base", 0.06)
    with pytest.raises(mw.CheckpointError, match=r"s2.safetensors: expected statistics of e2, found those of another"):
        mw.plan(recipe)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"method": "regmean"},
            "regmean needs statistics of the kind 'gram', found 'fisher'; 'mergewise statistics e1",
        ),
        ({"experts": ["e1", "e2"]}, r"fisher needs 'statistics' of every model, found none for e1 at models.0"),
        (
            {"experts": ["e1"], "parameters": {"statistics": "none"}},
            "none: expected a checkpoint folder or file, found",
        ),
        ({"parameters": {"statistics": "e1/model.safetensors"}, "experts": ["e1"]}, "found another safetensors file"),
        ({"tokenizer": {"source": "base"}, "base": "base"}, "fisher merges whole models.* found a 'tokenizer'"),
        ({"adapter": True, "base": "base"}, "fisher merges weights, so the result is no adapter"),
        ({"parameters": {"statistics": [{"value": "s1"}]}}, "must be the path of a file, one for a whole model"),
    ],
)
def test_what_statistics_cannot_serve_is_refused_in_one_sentence(change, words, measured):
    recipe = measured("llama", "fisher")
    fields = {"method": recipe.method, "experts": [e.model_dump() for e in recipe.experts]}
    with pytest.raises(mw.MergewiseError, match=words) as caught:
        mw.plan(mw.Recipe(**(fields | change)))
    assert "\n" not in str(caught.value)


def test_slices_are_refused(measured):
    measured("llama", "fisher")
    slices = [{"sources": [{"model": "e1", "layer_range": [0, 1]}]}]
    with pytest.raises(mw.RecipeError, match=r"fisher merges whole models.* found slices or modules"):
        mw.plan(mw.Recipe(method="fisher", slices=slices))


def test_a_plan_says_which_tensors_are_averaged_and_explain_names_the_statistics(measured):
    from mergewise.engine.explain import explain

    recipe = measured("llama", "gram")
    (remark,) = mw.plan(recipe).remarks
    assert remark == (
        "6 of 21 tensors have no statistics and are averaged by weight, such as 'model.embed_tokens.weight'."
    )
    found = explain(recipe, "model.layers.0.mlp.up_proj.weight")
    assert [one.role for one in found.inputs] == ["model 1", "model 2", "statistics 1", "statistics 2"]
    assert [one.file for one in found.inputs][2:] == ["s1.safetensors", "s2.safetensors"]
    assert [one.value for one in found.parameters["statistics"]] == ["s1.safetensors", "s2.safetensors"]


# ---- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "expected at least one example, found none"),
        ('{"tokens": [1, 2]}\nnot JSON\n', "line 2: .*it is not JSON"),
        ("[1, 2]\n", r"line 1: .*found \[1, 2\]"),
        ('{"tokens": [1, 2], "lable": 1}\n', "line 1: .*found 'lable'.* Did you mean 'label'"),
        ('{"text": 3}\n', "line 1: .*found '3' for 'text'"),
        ('{"label": 1}\n', "line 1: .*found label"),
        ('{"prompt": "a"}\n', "line 1: .*found prompt"),
        ('{"tokens": [1, 32]}\n', "line 1: .*whole numbers from 0 to 31"),
        ('{"tokens": []}\n', "line 1: .*no tokens are left"),
        ('{"tokens": [1]}\n', "example 1 has one token"),
        ('{"text": "hello"}\n', "expected a tokenizer in .*, found none"),
    ],
)
def test_a_file_that_holds_no_examples_is_refused_with_its_line(lines, words, model, tmp_path):
    (tmp_path / "x.jsonl").write_text(lines)
    with pytest.raises(ExamplesError, match=words) as caught:
        collect_statistics(str(model("llama")), tmp_path / "x.jsonl", tmp_path / "out", kind="fisher")
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("encoder", {"kind": "fisher"}, "needs a model that predicts something, found an encoder"),
        ("llama", {"kind": "fisher", "labels": "expected"}, "Labels must be 'sampled' or 'given'"),
        ("llama", {"kind": "gram", "labels": "given"}, "Labels are for Fisher information"),
        ("classifier", {"kind": "fisher", "labels": "given"}, "needs a 'label' of every example, found none"),
        ("masked", {"kind": "fisher"}, "expected a tokenizer in .*, found none"),
        ("vision", {"kind": "gram"}, "a model that reads tokens, found ViTFor.*, which reads 'pixel_values'"),
        ("text and vision", {"kind": "gram"}, "the model cannot be run on tokens alone"),
    ],
)
def test_what_a_model_cannot_say_is_refused(kind, options, words, model, examples, tmp_path):
    path = examples([{"tokens": [1, 2, 3]}])
    with pytest.raises(ExamplesError, match=words):
        collect_statistics(str(model(kind)), path, tmp_path / "out", **options)


def test_texts_are_cut_to_the_positions_that_are_left_where_these_begin_after_the_padding_token(
    model, examples, tmp_path
):
    path = examples([{"tokens": [3] * 20}])
    report = collect_statistics(str(model("roberta")), path, tmp_path / "out", kind="gram")
    assert report.predictions == tiny.SIZES["max_position_embeddings"] - 2


def test_a_label_beyond_the_classes_is_refused(model, examples, tmp_path):
    path = examples([{"tokens": [1, 2, 3], "label": 3}])
    with pytest.raises(ExamplesError, match="expected labels from 0 to 2, found 3"):
        collect_statistics(str(model("classifier")), path, tmp_path / "out", kind="fisher", labels="given")


def test_a_checkpoint_that_lacks_weights_of_its_model_is_refused(model, examples, tokens, tmp_path):
    folder = model("llama")
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 3})
    )
    with pytest.raises(ExamplesError, match=r"LlamaForCausalLM needs 9 tensors that .* such as 'model.layers.2"):
        collect_statistics(str(folder), examples(tokens(1)), tmp_path / "out", kind="gram")


@pytest.mark.parametrize("architectures", [True, "LlamaForCausalLM", {"first": "LlamaForCausalLM"}, [], None], ids=str)
def test_a_model_whose_architecture_is_not_named_is_taken_for_an_encoder(
    architectures, model, examples, tokens, tmp_path
):
    folder = model("llama")
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"architectures": architectures})
    )
    with pytest.raises(ExamplesError, match="an encoder"):
        collect_statistics(str(folder), examples(tokens(1)), tmp_path / "out", kind="fisher")


def test_a_file_that_is_there_is_not_written_over(model, examples, tokens, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(mw.CheckpointError, match="expected a new file"):
        collect_statistics(str(model("llama")), examples(tokens(1)), tmp_path / "out", kind="gram")
    assert (tmp_path / "out").read_text() == "mine"


def test_texts_are_read_with_the_models_tokenizer(model, examples, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[UNK]", "[MASK]", "the", "cat", "sat", "on", "mat"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", mask_token="[MASK]")
    for kind in ("masked", "llama"):
        folder = model(kind, kind)
        fast.save_pretrained(folder)
        texts = examples([{"text": "the cat sat on the mat"}, {"prompt": "the cat", "target": "sat"}], "texts.jsonl")
        report = collect_statistics(str(folder), texts, tmp_path / f"{kind}.f", kind="fisher")
        # of six tokens one is masked, and of three; or five are predicted, and the target
        assert report.predictions == (2 if kind == "masked" else 6)


def test_adapters_have_statistics_too(model, examples, tokens, tmp_path, monkeypatch):
    from adapters import factors, save_adapter

    monkeypatch.chdir(tmp_path)
    model("llama", "base")
    entries = []
    for i in (1, 2):
        save_adapter(tmp_path / f"a{i}", factors(i, "model.layers.0.mlp.up_proj", 24, 16))
        report = collect_statistics(f"base+a{i}", examples(tokens(3)), tmp_path / f"s{i}", kind="gram")
        assert report.tensors == 15
        (tmp_path / f"s{i}").rename(tmp_path / f"s{i}.safetensors")
        entries.append({"model": f"base+a{i}", "parameters": {"statistics": f"s{i}.safetensors"}})
    merged = mw.merge_to_arrays(mw.Recipe(method="regmean", experts=entries))
    assert all(np.isfinite(array).all() for array in merged.values())
