"""Adapters merged into an adapter: the same changes as merging the models, refused where that cannot be."""

import json
import math

import ml_dtypes
import numpy as np
import pytest

import mergewise as mw
from adapters import PREFIX, factors, linear_adapter, product, save_adapter
from engine.models import assert_identical
from mergewise.checkpoint import AdaptedCheckpoint, ArrayCheckpoint, numpy_dtype, open_adapter
from mergewise.engine.adapters.core_space import CoreSpace
from support import load_file, model_arrays, save_model

RANKS = {"lm_head": 2, "model.layers.2.mlp.up_proj": 6}


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A base and three float64 adapters of differing ranks, scales and modules."""
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    base = {name: array.astype(np.float64) for name, array in model_arrays(0, width=40).items()}
    save_model(tmp_path / "base", base)
    tensors = [linear_adapter(i, base, RANKS if i == 2 else None) for i in range(3)]
    tensors = [{k: v.astype(np.float64) for k, v in t.items()} for t in tensors]
    tensors[1] = {k: v for k, v in tensors[1].items() if "q_proj" not in k}
    save_adapter(tmp_path / "a0", tensors[0])
    save_adapter(tmp_path / "a1", tensors[1], use_rslora=True)
    save_adapter(tmp_path / "a2", tensors[2], rank_pattern={"lm_head": 2, "2.mlp.up_proj": 6}, lora_alpha=3)
    return tmp_path


def recipe(folder, method="task_arithmetic", rank=None, count=3, **changes):
    experts = [{"model": str(folder / f"a{i}"), "parameters": {}} for i in range(count)]
    asked = {"method": method, "base": str(folder / "base"), "experts": experts, "adapter": {"rank": rank}}
    return mw.Recipe(**asked | changes)


def changes_of(folder, adapter):
    """What an adapter adds to every weight of the base, in float64."""
    base = ArrayCheckpoint(load_file(folder / "base" / "model.safetensors"), "base")
    source = AdaptedCheckpoint(base, open_adapter(adapter), "adapter")
    found = {}
    for name in base.tensors:
        values = []
        for each in (source, base):
            info = each.tensors[name]
            raw = np.empty(info.nbytes, np.uint8)
            each.read_into(info, 0, raw)
            values.append(raw.view(numpy_dtype(info.dtype)).reshape(info.shape).astype(np.float64))
        found[name] = values[0] - values[1]
    return found


def full_changes(folder, asked):
    """The same merge on whole models, less the base."""
    whole = asked.model_copy(update={"adapter": None, "out_dtype": "float64"})
    if asked.method == "linear":  # of whole models, it would merge the base with the others
        unchanged = mw.Expert(model=asked.base, parameters={"weight": 0.0})
        whole = whole.model_copy(update={"experts": (*asked.experts, unchanged)})
    base = load_file(folder / "base" / "model.safetensors")
    return {name: array - base[name] for name, array in mw.merge_to_arrays(whole).items()}


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.max(np.abs(found[name] - values), initial=0) <= tolerance, name


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("task_arithmetic", {"weight": 0.4, "lambda": 1.5}),
        ("task_arithmetic", {"weight": [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.5}]}),
        ("average", {}),
        ("linear", {"weight": 2.0}),
        ("model_stock", {}),
        ("nuslerp", {"weight": [{"filter": "lm_head", "value": 0.2}, {"value": 0.6}]}),
        ("multislerp", {}),
    ],
)
def test_the_adapter_makes_the_changes_that_merging_whole_models_makes(family, method, parameters):
    asked = recipe(family, method, parameters=parameters, count=2 if method == "nuslerp" else 3)
    report = mw.merge(asked, family / "out")
    assert report.relative_error == 0
    assert_close(changes_of(family, family / "out"), full_changes(family, asked), 1e-12)


def test_gradients_go_over_the_layers_of_the_base_whichever_of_them_the_adapters_change(family):
    for i in range(2):  # as layers_to_transform of PEFT's makes them
        tensors = load_file(family / f"a{i}" / "adapter_model.safetensors")
        save_adapter(family / f"a{i}", {f"raw:{n}": t for n, t in tensors.items() if ".layers.1." in n})
    asked = recipe(family, count=2, parameters={"weight": [0.0, 0.9]})
    mw.merge(asked, family / "out")
    assert_close(changes_of(family, family / "out"), full_changes(family, asked), 1e-12)
    assert mw.explain(asked, "model.layers.1.mlp.up_proj.weight").position == 0.5


def test_no_product_of_factors_of_two_adapters_is_in_a_sum(family):
    asked = recipe(family, parameters={"weight": 0.5})
    merged = mw.merge_to_arrays(asked)
    tensors = [load_file(family / f"a{i}" / "adapter_model.safetensors") for i in range(3)]
    plain = [{k.removeprefix(PREFIX): v for k, v in t.items()} for t in tensors]
    module = "model.layers.0.mlp.up_proj"
    sums = 0.5 * (2 * product(plain[0], module) + 4 * product(plain[1], module) + 3 / 4 * product(plain[2], module))
    found = product({k.removeprefix(PREFIX): v for k, v in merged.items()}, module)
    assert np.allclose(found, sums, atol=1e-13)
    b, a = (sum(0.5 * t[f"{module}.lora_{side}.weight"] for t in plain) for side in "BA")
    assert not np.allclose(b @ a, sums, atol=1e-2)


@pytest.mark.parametrize("rank", [1, 5])
def test_a_lower_rank_loses_what_the_best_approximation_loses_and_says_how_much(family, rank):
    asked = recipe(family, rank=rank)
    report = mw.merge(asked, family / "out")
    expected, lost, norm = {}, 0.0, 0.0
    for name, change in full_changes(family, asked).items():
        if change.ndim == 2 and np.any(change):
            u, s, v = np.linalg.svd(change, full_matrices=False)
            expected[name] = (u[:, :rank] * s[:rank]) @ v[:rank]
            lost, norm = lost + np.sum(s[rank:] ** 2), norm + np.sum(s**2)
        else:
            expected[name] = change
    assert_close(changes_of(family, family / "out"), expected, 1e-11)
    assert report.relative_error == pytest.approx(math.sqrt(lost / norm), rel=1e-9)
    assert all(t.shape[1 if "lora_B" in n else 0] == rank for n, t in mw.merge_to_arrays(asked).items())


def test_ranks_that_differ_stand_in_the_patterns_of_the_configuration(family):
    mw.merge(recipe(family), family / "out")
    config = json.loads((family / "out" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 8
    expected = {f"model.layers.{i}.mlp.up_proj": 14 if i == 2 else 12 for i in range(3)} | {"lm_head": 10}
    assert config["rank_pattern"] == config["alpha_pattern"] == expected
    assert config["base_model_name_or_path"] == str(family / "base")
    assert sorted(p.name for p in (family / "out").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "mergewise.json", "mergewise_recipe.yaml",
    ]  # fmt: skip
    assert {t.dtype.name for t in load_file(family / "out" / "adapter_model.safetensors").values()} == {"float64"}


def test_methods_that_vote_do_so_on_the_entries_of_the_cores(family):
    asked = recipe(family, "ties", parameters={"density": 0.4})
    planned = mw.plan(asked)
    assert any("entries of the adapters' cores" in remark for remark in planned.remarks)
    space = planned.adapter.space
    assert isinstance(space, CoreSpace)
    cores = [{name: space.core(name, i) for name in space.modules} for i in range(3)]
    zeros = {name: np.zeros_like(core) for name, core in cores[0].items()}
    merged = mw.merge_arrays("ties", zeros, cores, density=0.4)
    report = mw.merge(asked, family / "out")
    assert report.relative_error < 1e-12
    for name, change in changes_of(family, family / "out").items():
        if name in merged:
            assert np.linalg.norm(change) == pytest.approx(np.linalg.norm(merged[name]), rel=1e-9)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("task_arithmetic", {}), ("ties", {"density": 0.3, "scope": "model"}), ("dare_ties", {"density": 0.5, "seed": 3})],
)
def test_the_bytes_are_the_same_for_any_threads_and_memory_and_verify_derives_them(family, method, parameters):
    asked = recipe(family, method, rank=7, parameters=parameters)
    first = mw.merge_to_arrays(asked, threads=1, memory="220MiB")
    for threads, memory in ((3, "260MiB"), (2, "2GiB")):
        assert_identical(mw.merge_to_arrays(asked, threads=threads, memory=memory), first)
    mw.merge(asked, family / "out")
    assert_identical(load_file(family / "out" / "adapter_model.safetensors"), first)
    found = mw.verify(family / "out", sample=None)
    assert (found.faults, found.tensors) == ((), len(first))
    assert mw.verify(family / "out", sample=3).faults == ()
    path = family / "out" / "adapter_model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    assert any("is not what the recipe gives" in fault for fault in mw.verify(family / "out", sample=None).faults)


def test_an_adapter_merged_with_itself_is_that_adapter(family):
    twice = [str(family / "a0"), f"{family / 'base'}+{family / 'a0'}"]
    asked = recipe(family, experts=twice, parameters={"weight": 0.5})
    mw.merge(asked, family / "out")
    assert_close(changes_of(family, family / "out"), changes_of(family, family / "a0"), 1e-14)


def test_more_vectors_than_a_side_has_are_no_rank(family):
    save_model(family / "small", {"m.w.weight": np.zeros((6, 30))})
    for i in (0, 1, 2):
        save_adapter(family / f"a{i}", {k: v.astype(np.float64) for k, v in factors(i, "m.w", 6, 30).items()})
    asked = recipe(family, base=str(family / "small"))
    merged = {k.removeprefix(PREFIX): v for k, v in mw.merge_to_arrays(asked).items()}
    assert merged["m.w.lora_B.weight"].shape == (6, 6)
    expected = sum(2 * product(factors(i, "m.w", 6, 30), "m.w") for i in range(3))
    assert np.allclose(product(merged, "m.w"), expected, atol=1e-12)


def other_kinds(i, dtype=np.float64):
    """Factors of an embedding, a convolution and a linear module with a bias; and a norm that is brought whole."""
    rng = np.random.default_rng(i)
    return {
        "m.embed.lora_embedding_A": rng.normal(size=(4, 50)).astype(dtype),
        "m.embed.lora_embedding_B": rng.normal(size=(8, 4)).astype(dtype),
        "m.embed.base_layer.weight": np.zeros((50, 8), dtype),
        "m.conv.lora_A.weight": rng.normal(size=(4, 5, 3, 3)).astype(dtype),
        "m.conv.lora_B.weight": rng.normal(size=(6, 4, 1, 1)).astype(dtype),
        **{k: v.astype(dtype) for k, v in factors(i, "m.q", 8, 8).items()},
        "m.q.lora_B.bias": rng.normal(size=8).astype(dtype),
        "m.norm.weight": 1 + rng.normal(size=8).astype(dtype),
    }


@pytest.fixture
def kinds(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    base = {
        "m.embed.weight": np.zeros((50, 8)), "m.conv.weight": np.zeros((6, 5, 3, 3)), "m.q.weight": np.zeros((8, 8)),
        "m.q.bias": np.zeros(8), "m.norm.weight": np.ones(8),
    }  # fmt: skip
    save_model(tmp_path / "base", base)
    for i in range(3):
        tensors = other_kinds(i)
        if i == 1:
            del tensors["m.norm.weight"]
        save_adapter(tmp_path / f"a{i}", tensors, modules_to_save=["norm"] if i != 1 else None, lora_bias=True)
    return tmp_path


def test_embeddings_convolutions_biases_and_whole_tensors_are_merged_too(kinds):
    asked = recipe(kinds, parameters={"weight": 0.7})
    mw.merge(asked, kinds / "out")
    assert_close(changes_of(kinds, kinds / "out"), full_changes(kinds, asked), 1e-13)
    config = json.loads((kinds / "out" / "adapter_config.json").read_text())
    assert (config["modules_to_save"], config["lora_bias"]) == (["norm"], True)


@pytest.mark.parametrize("whole", [0, 2])
def test_a_module_that_one_brings_whole_and_others_change_is_held_whole(kinds, whole):
    tensors = {k: v for k, v in other_kinds(whole).items() if "m.q" not in k and "m.embed" not in k}
    tensors |= {"m.q.weight": np.full((8, 8), 2.0), "m.q.bias": np.ones(8), "m.embed.weight": np.ones((50, 8))}
    names = {"modules_to_save": ["norm", "q", "embed", "not_here"], "target_modules": ["conv"]}
    for i in range(3):
        own = {"target_modules": ["q", "conv", "embed"], "modules_to_save": ["norm"]}
        save_adapter(kinds / f"a{i}", tensors if i == whole else other_kinds(i), **(names if i == whole else own))
    asked = recipe(kinds, parameters={"weight": 0.7})
    mw.merge(asked, kinds / "out")
    assert_close(changes_of(kinds, kinds / "out"), full_changes(kinds, asked), 1e-13)
    config = json.loads((kinds / "out" / "adapter_config.json").read_text())
    assert (config["modules_to_save"], config["target_modules"]) == (["embed", "norm", "q"], ["conv"])
    assert mw.verify(kinds / "out", sample=None).faults == ()


def test_factors_of_an_embedding_whose_tied_head_another_leaves_behind_are_refused(tmp_path):
    save_model(tmp_path / "base", {"m.embed_tokens.weight": np.zeros((50, 8))}, config={"tie_word_embeddings": True})
    save_adapter(tmp_path / "a0", {"m.embed_tokens.weight": np.ones((50, 8))}, modules_to_save=["embed_tokens"])
    both = {f"m.embed_tokens.lora_embedding_{side}": np.ones(shape) for side, shape in (("A", (4, 50)), ("B", (8, 4)))}
    save_adapter(tmp_path / "a1", both)
    with pytest.raises(mw.CheckpointError, match=r"a0 brings 'm\.embed_tokens\.weight' whole.*a1 adds factors to it"):
        mw.plan(recipe(tmp_path, count=2))
    save_adapter(tmp_path / "a1", {"m.embed_tokens.weight": np.ones((50, 8))}, ensure_weight_tying=True)
    with pytest.raises(mw.CheckpointError, match="'ensure_weight_tying' is true, but false"):
        mw.plan(recipe(tmp_path, count=2))


def test_a_head_that_follows_its_embedding_does_so_in_the_result(tmp_path):
    save_model(tmp_path / "base", {"m.embed_tokens.weight": np.zeros((50, 8))}, config={"tie_word_embeddings": True})
    for i in range(2):
        tensors = {"m.embed_tokens.weight": np.full((50, 8), i + 1.0)}
        save_adapter(tmp_path / f"a{i}", tensors, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    mw.merge(recipe(tmp_path, count=2), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["ensure_weight_tying"] is True
    assert config["target_modules"] == "dummy-target-modules"


def test_whole_tensors_need_the_base(kinds):
    with pytest.raises(mw.CheckpointError, match=r"whole tensors such as 'm\..*'base_model' that is on this machine"):
        mw.plan(recipe(kinds, base="org/elsewhere"))


def test_without_the_base_on_this_machine_adapters_are_merged_and_compared_with_each_other(family):
    asked = recipe(family, base="org/elsewhere")
    assert any("not here to check them against" in remark for remark in mw.plan(asked).remarks)
    assert_identical(mw.merge_to_arrays(asked), mw.merge_to_arrays(recipe(family)))
    save_adapter(family / "a1", factors(1, "lm_head", 80, 41))
    with pytest.raises(mw.CheckpointError, match="'lm_head' has other inputs and outputs"):
        mw.plan(asked)


def test_a_base_that_adapters_name_as_the_machine_that_trained_them_had_it_is_not_here(family):
    base = f"/{'x' * 300}"
    for path in family.glob("a?/adapter_config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    planned = mw.plan(recipe(family, "average", base=None))
    assert any("not here to check them against" in remark for remark in planned.remarks)
    assert planned.adapter.config["base_model_name_or_path"] == base


def test_the_dtype_of_the_factors_is_theirs_or_the_recipes(family):
    for i in range(2):
        half = {k: v.astype(ml_dtypes.bfloat16) for k, v in linear_adapter(i, model_arrays(0, width=40)).items()}
        save_adapter(family / f"a{i}", half)
    own = mw.merge_to_arrays(recipe(family, count=2))
    assert {t.dtype.name for t in own.values()} == {"bfloat16"}
    asked = mw.merge_to_arrays(recipe(family, count=2, dtype="float32"))
    assert {t.dtype.name for t in asked.values()} == {"float32"}
    for name, array in asked.items():
        assert np.array_equal(array.astype(np.float64).astype(ml_dtypes.bfloat16), own[name]), name


def test_values_that_are_not_finite_are_reported_by_tensor_and_adapter(family):
    tensors = {k.removeprefix(PREFIX): v for k, v in load_file(family / "a1" / "adapter_model.safetensors").items()}
    tensors["lm_head.lora_A.weight"][1, 2] = np.nan
    save_adapter(family / "a1", tensors, use_rslora=True)
    with pytest.raises(mw.MergeError, match=r"lm_head.lora_A.weight' of .*a1 holds NaN"):
        mw.merge(recipe(family), family / "out")
    assert not (family / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": ["{}/base", "{}/a1"], "base": None, "method": "linear"}, "expected an adapter, since the result"),
        ({"method": "slerp", "experts": ["{}/a0"]}, "slerp merges weights, so its result is not the base plus"),
        ({"method": "linear", "parameters": {"normalize": False}}, "sum to 3, so that the result is not"),
        ({"method": "model_stock", "parameters": {"filter_wise": True}}, "rows or columns of the weights"),
        ({"experts": ["{}/a0", "{}/other+{}/a1"]}, "Expected adapters of one base"),
        ({"adapter": {"rank": 0}}, "'adapter.rank'"),
        ({"adapter": {"rnak": 3}}, "unknown key 'rnak' at adapter.rnak. Did you mean 'rank'"),
    ],
)
def test_what_makes_no_adapter_is_refused_in_the_plan(family, changes, message):
    changes = {k: [e.format(family, family) for e in v] if k == "experts" else v for k, v in changes.items()}
    with pytest.raises(mw.MergewiseError, match=message):
        mw.plan(recipe(family, **changes))


def test_a_memory_budget_that_factoring_does_not_fit_is_refused_before_a_weight_is_read(family, monkeypatch):
    monkeypatch.setattr(CoreSpace, "working_bytes", 1 << 29)
    with pytest.raises(mw.RecipeError, match="needs at least"):
        mw.merge(recipe(family), family / "out", memory="600MiB")
    assert mw.merge(recipe(family), family / "out", memory="1GiB").threads == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]}, "needs 'models'; found slices or modules"),
        ({"modules": {"default": {"models": [{"model": "a"}]}}}, "needs 'models'; found slices or modules"),
        ({"experts": ["a"], "tokenizer": {"source": "union"}}, "take 'tokenizer' out of the recipe"),
        ({"experts": ["a"], "chat_template": "chatml"}, "take 'chat_template' out of the recipe"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_an_adapter_has_no_place_for_is_refused(more, message):
    with pytest.raises(mw.RecipeError, match=message):
        mw.Recipe(method="task_arithmetic", base="b", adapter=True, **more)
