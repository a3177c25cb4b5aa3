"""Adapters as experts: merged as the models would be that they make with their base, but never made."""

import json
import shutil

import numpy as np
import pytest

import mergewise as mw
from adapters import factors, linear_adapter, materialised, save_adapter
from engine.models import CASES, arguments, assert_identical
from mergewise.checkpoint import FolderTarget
from support import load_model, model_arrays, save_model, write_recipe


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A base, three adapters in the wild of it, and the float64 models that they make."""
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    base = model_arrays(0, width=40, exact=True)
    save_model(tmp_path / "base", base)
    ranks = {"lm_head": 2, "model.layers.2.mlp.up_proj": 6}
    plain = {f"a{i}": linear_adapter(i, base, ranks if i == 3 else None) for i in (1, 2, 3)}
    save_adapter(tmp_path / "a1", plain["a1"])
    save_adapter(tmp_path / "a2", plain["a2"], use_rslora=True)
    pattern = {"lm_head": 2, "2.mlp.up_proj": 6}
    save_adapter(tmp_path / "a3", plain["a3"], rank_pattern=pattern, alpha_pattern={"up_proj": 3})
    scales = {
        "a1": lambda m: 2.0,
        "a2": lambda m: 4.0,
        "a3": lambda m: (3 if m.endswith("up_proj") else 8) / ranks.get(m, 4),
    }
    floats = {k: v for k, v in base.items() if v.dtype.kind == "f"}
    exact = {k: v for k, v in base.items() if v.dtype.kind != "f"}
    models = {name: materialised(floats, plain[name], scales[name]) | exact for name in plain}
    for name, model in models.items():
        save_model(tmp_path / f"full-{name}", model)
    return tmp_path


@pytest.mark.parametrize("case", sorted(case for case in CASES if not mw.methods()[CASES[case][0]].statistics))
def test_every_method_merges_adapters_as_it_merges_the_models_they_make(family, case):
    method, experts, parameters = arguments(case)
    shared = {k: v for k, v in parameters.items() if not isinstance(v, list)}
    own = [{k: v[i] for k, v in parameters.items() if isinstance(v, list)} for i in range(experts)]
    merged = []
    base = None if mw.methods()[method].base_joins else str(family / "base")  # it would be one of the models
    for prefix in (f"{family / 'base'}+{family}/", f"{family}/full-"):
        models = [{"model": f"{prefix}a{i + 1}", "parameters": own[i]} for i in range(experts)]
        recipe = mw.Recipe(method=method, base=base, experts=models, parameters=shared, out_dtype="float64")
        merged.append(mw.merge_to_arrays(recipe))
    found, expected = merged
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        far = np.abs(found[name].astype(np.float64) - values) > 1e-12
        # an element whose magnitude is at a threshold but for its last bit may fall on either side
        assert np.count_nonzero(far) <= (2 if "ties" in case or "rht" in case else 0), name


def test_the_result_is_stored_as_the_base_is(family):
    base = model_arrays(0, width=40, dtype="bfloat16", exact=True)
    save_model(family / "half", base)
    for method in ("task_arithmetic", "average"):
        recipe = mw.Recipe(method=method, base=str(family / "half"), experts=[str(family / "a1"), str(family / "a2")])
        merged = mw.merge_to_arrays(recipe)
        assert {n: a.dtype for n, a in merged.items()} == {n: a.dtype for n, a in base.items()}


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "model_stock"])
def test_the_bytes_are_the_same_for_any_threads_and_memory(family, method):
    rng = np.random.default_rng(0)
    save_model(family / "large", {"m.w.weight": rng.normal(size=(300, 1030)).astype(np.float32)})
    for i in (1, 2):
        save_adapter(family / f"l{i}", factors(i, "m.w", 300, 1030))
    parameters = {"density": 0.3} if method == "ties" else {}
    recipe = mw.Recipe(
        method=method,
        base=str(family / "large"),
        experts=[str(family / f"l{i}") for i in (1, 2)],
        parameters=parameters,
    )
    first = mw.merge_to_arrays(recipe, threads=1, memory="220MiB")
    for threads, memory in ((3, "260MiB"), (2, "2GiB")):
        assert_identical(mw.merge_to_arrays(recipe, threads=threads, memory=memory), first)


def test_a_base_and_an_adapter_are_named_together_in_either_form(family):
    base, adapter = str(family / "base"), str(family / "a2")
    alone = mw.merge_to_arrays(mw.Recipe(method="task_arithmetic", base=base, experts=[adapter]))
    for model in (f"{base}+{adapter}", {"model": {"path": base}, "lora": {"path": adapter}}):
        content = {"merge_method": "task_arithmetic", "base_model": base, "models": [{"model": model}]}
        assert_identical(mw.merge_to_arrays(write_recipe(family / "recipe.yaml", content)), alone)


def test_adapters_of_an_adapted_base_change_what_it_makes(family):
    base = str(family / "base")
    recipe = mw.Recipe(method="task_arithmetic", base=f"{base}+{family / 'a1'}", experts=[str(family / "a2")])
    merged = mw.merge_to_arrays(recipe)
    one, two = load_model(family / "full-a1"), load_model(family / "full-a2")
    plain = load_model(family / "base")
    for name, values in merged.items():
        if values.dtype.kind == "f":
            expected = one[name] + (two[name] - plain[name].astype(np.float64))
            assert np.allclose(values, expected, rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize("turned", [False, True])
def test_an_adapter_upon_an_adapter_is_put_on_the_recipes_base_as_one_alone_is(family, turned):
    # the one below names another base, which counts only where the recipe has none
    base = model_arrays(1, width=40)
    save_model(family / "other", base)
    tensors = linear_adapter(1, base)
    save_adapter(family / "named", tensors, base_model_name_or_path=str(family / "base"))
    experts = [str(family / "named"), f"{family / 'named'}+{family / 'a2'}"]
    recipe = mw.Recipe(method="task_arithmetic", base=str(family / "other"), experts=experts[:: -1 if turned else 1])
    floats = {k: v for k, v in base.items() if v.dtype.kind == "f"}
    one = materialised(floats, tensors, lambda module: 2.0)
    two = materialised(one, linear_adapter(2, base), lambda module: 4.0)
    for name, values in mw.merge_to_arrays(recipe).items():
        if name in floats:
            assert np.allclose(values, one[name] + two[name] - base[name], rtol=1e-6, atol=1e-7), name


def test_the_record_names_base_and_adapter_and_verify_derives_the_merge_again(family):
    recipe = mw.Recipe(method="ties", base=str(family / "base"), experts=[str(family / "a1"), str(family / "a2")])
    report = mw.merge(recipe, family / "out")
    names = {path.removeprefix(str(family)) for path in report.inputs}
    assert {"/base/model.safetensors", "/a1/adapter_model.safetensors", "/a1/adapter_config.json"} <= names
    assert mw.verify(family / "out", sample=None).faults == ()
    config = json.loads((family / "a1" / "adapter_config.json").read_text())
    (family / "a1" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 9}))
    assert any("adapter_config.json: expected SHA-256" in fault for fault in mw.verify(family / "out").faults)


def test_an_adapter_without_a_base_takes_the_one_it_names_or_asks_for_it(family):
    tensors = linear_adapter(1, model_arrays(0, width=40))
    save_adapter(family / "named", tensors, base_model_name_or_path=str(family / "base"))
    merged = mw.merge_to_arrays(mw.Recipe(method="average", experts=[str(family / "named")]))
    whole = load_model(family / "full-a1")
    assert all(np.allclose(merged[name], whole[name], atol=1e-7) for name in merged)
    for base in ("org/elsewhere", f"/{'x' * 300}"):
        save_adapter(family / "lost", tensors, base_model_name_or_path=base)
        with pytest.raises(mw.CheckpointError, match=rf"needs its base \({base}\); give the recipe a 'base_model'"):
            mw.plan(mw.Recipe(method="average", experts=[str(family / "lost")]))


def test_a_folder_that_holds_a_whole_model_too_is_read_as_the_adapter_with_a_remark(family):
    asked = mw.Recipe(method="task_arithmetic", base=str(family / "base"), experts=[str(family / "a1")])
    merged, said = mw.merge_to_arrays(asked), mw.plan(asked).remarks
    shutil.copy(family / "full-a2" / "model.safetensors", family / "a1")
    assert_identical(mw.merge_to_arrays(asked), merged)
    (remark,) = set(mw.plan(asked).remarks) - set(said)
    assert "a1 holds an adapter and a whole model, model.safetensors; it is read as the adapter" in remark


def test_what_an_adapter_cannot_be_merged_for_is_found_in_the_plan(family):
    save_adapter(family / "dora", factors(1, "lm_head", 80, 40), use_dora=True)
    with pytest.raises(mw.CheckpointError, match="DoRA"):
        mw.plan(mw.Recipe(method="task_arithmetic", base=str(family / "base"), experts=[str(family / "dora")]))


def test_extra_whole_tensors_follow_the_recipes_policy(family):
    extra = factors(1, "lm_head", 80, 40) | {"score.weight": np.ones((2, 40), np.float32)}
    save_adapter(family / "scored", extra)
    asked = {"method": "task_arithmetic", "base": str(family / "base"), "experts": [str(family / "scored")]}
    with pytest.raises(mw.CheckpointError, match=r"such as 'score.weight'.*extra_tensors: drop"):
        mw.plan(mw.Recipe(**asked))
    assert "score.weight" not in mw.merge_to_arrays(mw.Recipe(**asked, extra_tensors="drop"))


def test_an_interrupted_merge_of_adapters_goes_on_where_it_was_unless_an_adapter_changed(family, monkeypatch):
    recipe = mw.Recipe(method="ties", base=str(family / "base"), experts=[str(family / "a1"), str(family / "a2")])
    finish = FolderTarget.finish

    def interrupt():
        def stop(self, name):
            finish(self, name)
            if len(self._journal.finished) == 3:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(FolderTarget, "finish", stop)
            with pytest.raises(KeyboardInterrupt):
                mw.merge(recipe, family / "out", threads=1)

    interrupt()
    report = mw.merge(recipe, family / "out")
    assert any("3 tensors were taken over" in remark for remark in report.remarks)
    assert_identical(load_model(family / "out"), mw.merge_to_arrays(recipe))
    shutil.rmtree(family / "out")
    interrupt()
    config = json.loads((family / "a1" / "adapter_config.json").read_text())
    (family / "a1" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 80}))
    assert not any("taken over" in remark for remark in mw.merge(recipe, family / "out").remarks)
