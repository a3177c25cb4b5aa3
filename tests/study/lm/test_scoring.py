"""Scores of items from the harness, and weights put into a resident model."""

import numpy as np
import pytest

from mergewise.study.errors import StudyError
from mergewise.study.lm.options import TaskOptions

lm_eval = pytest.importorskip("lm_eval")


@pytest.fixture
def bench(opened):
    return opened.bench(opened.base("small"))


def tensors_of(bench):
    return {
        name: tensor.numpy().copy() for name, tensor in bench._model.state_dict().items() if name != "lm_head.weight"
    }


def test_scores_are_those_of_simple_evaluate_item_by_item(bench, opened, small):
    from lm_eval.tasks import TaskManager

    found = bench.score(tensors_of(bench), ["letters_last"], "test", 12)["letters_last"]
    order = bench._harness.items("letters_last", TaskOptions(), "test").order[:12]
    whole = lm_eval.simple_evaluate(
        model=bench._lm,
        tasks=["letters_last"],
        task_manager=TaskManager(include_path=str(small / "tasks"), include_defaults=False),
        limit=240,
        bootstrap_iters=0,
    )
    right = {sample["doc_id"]: sample["acc"] for sample in whole["samples"]["letters_last"]}
    assert found.tolist() == [bool(right[number]) for _, number in order]
    assert len(found) == 12
    assert 0 < sum(right.values()) < 240


def test_few_solved_examples_change_the_prompt(bench):
    from mergewise.study.lm.scoring import score_items

    options = TaskOptions(num_fewshot=3)
    found = score_items(bench._lm, bench._harness, "letters_last", options, "test", 6)
    assert found.shape == (6,)
    task = bench._harness.leaves("letters_last")["letters_last"]
    assert task.instances[0].args[0].count("=") == 4
    again = score_items(bench._lm, bench._harness, "letters_last", TaskOptions(), "test", 6)
    assert task.instances[0].args[0].count("=") == 1
    assert again.shape == (6,)


def test_merged_weights_take_the_place_of_the_base(bench):
    before = tensors_of(bench)
    zero = {name: np.zeros_like(array) for name, array in before.items()}
    flat = bench.score(zero, ["letters_last"], "test", 40)["letters_last"]
    first = [bench._harness.leaves("letters_last")["letters_last"].eval_docs[n]["answer"] == 0
             for _, n in bench._harness.items("letters_last", TaskOptions(), "test").order[:40]]  # fmt: skip
    assert flat.tolist() == first  # all choices are equally likely, and the first of them is taken
    assert bench.score(before, ["letters_last"], "test", 40)["letters_last"].tolist() != first


def test_half_precision_is_copied_bit_by_bit():
    import ml_dtypes
    import torch

    from mergewise.study.lm.scoring import _torch, load_tensors

    array = np.array([[1.5, -0.0, 3e38]], ml_dtypes.bfloat16)
    assert _torch(array).tolist() == torch.tensor([[1.5, -0.0, 3e38]], dtype=torch.bfloat16).tolist()
    layer = torch.nn.Linear(3, 1, bias=False, dtype=torch.bfloat16)
    load_tensors(layer, {"weight": array})
    assert layer.weight.tolist() == _torch(array).tolist()


def test_a_weight_that_is_missing_or_of_another_shape_is_named():
    import torch

    from mergewise.study.lm.scoring import load_tensors

    layer = torch.nn.Linear(3, 1, bias=False)
    with pytest.raises(StudyError, match=r"needs a weight 'weight' of shape \(1, 3\)\. The merged model has none"):
        load_tensors(layer, {})
    with pytest.raises(StudyError, match=r"has one of shape \(3, 1\)"):
        load_tensors(layer, {"weight": np.zeros((3, 1), np.float32)})


def sample(**values):
    return {"metrics": list(values), "filter": "none", **values}


def test_the_metric_is_the_first_or_the_one_that_is_asked_for():
    from mergewise.study.lm.scoring import item_score

    assert item_score(sample(acc=1.0, acc_norm=0.0), TaskOptions(), "t") == 1.0
    assert item_score(sample(acc=1.0, acc_norm=0.0), TaskOptions(metric="acc_norm"), "t") == 0.0
    assert item_score(sample(rouge=25.0), TaskOptions(scale=0.01), "t") == 0.25
    assert item_score(sample(mcc=(1, np.int64(1))), TaskOptions(), "t") == 1.0
    assert item_score(sample(f1=(0, 1)), TaskOptions(), "t") == 0.0
    assert item_score(sample(chrf=("a small boat", "a small boat")), TaskOptions(), "t") == pytest.approx(1.0)
    assert 0 < item_score(sample(bleu=("a small boat", "a small cat")), TaskOptions(), "t") < 1


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({"acc": 1.0}, {"metric": "f1"}, r"tasks\.t: there is no metric 'f1'; there are acc"),
        ({"rouge": 25.0}, {}, r"expected 'rouge' of an item in \[0, 1\], found 25\.0; set 'scale'"),
        ({"likelihood": (0, [0.5])}, {}, r"expected a number for 'likelihood' of an item"),
    ],
)
def test_what_is_no_score_is_one_sentence(values, options, message):
    from mergewise.study.lm.scoring import item_score

    with pytest.raises(StudyError, match=message):
        item_score(sample(**values), TaskOptions(**options), "t")


def test_weights_without_the_prefix_of_the_architecture_are_put_where_transformers_puts_them():
    from transformers import GPT2Config, GPT2LMHeadModel

    from mergewise.study.lm.scoring import load_tensors

    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8, bos_token_id=0, eos_token_id=0)
    saved, model = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
    weights = {name.removeprefix("transformer."): tensor.numpy() for name, tensor in saved.state_dict().items()}
    load_tensors(model, {name: weights[name] for name in weights if name != "lm_head.weight"})
    assert all((tensor == saved.state_dict()[name]).all() for name, tensor in model.state_dict().items())
    del weights["h.0.ln_1.bias"]
    with pytest.raises(StudyError, match=r"needs a weight '[a-z0-9_.]+' of shape"):
        load_tensors(model, weights)


def test_experts_of_a_mixture_are_put_together_as_transformers_does(tmp_path):
    from safetensors.numpy import load_file
    from transformers import MixtralConfig, MixtralForCausalLM

    from mergewise.study.lm.scoring import load_tensors

    config = MixtralConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=3,
    )  # fmt: skip
    saved, model = MixtralForCausalLM(config), MixtralForCausalLM(config)
    saved.save_pretrained(tmp_path)
    load_tensors(model, load_file(tmp_path / "model.safetensors"))
    assert all((tensor == saved.state_dict()[name]).all() for name, tensor in model.state_dict().items())
