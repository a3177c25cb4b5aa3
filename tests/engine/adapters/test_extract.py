"""An adapter extracted from an expert: as near as its rank allows, with the error that it says, and only that."""

import json
import math

import ml_dtypes
import numpy as np
import pytest

import mergewise as mw
from support import expert_of, load_file, load_model, model_arrays, save_model

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    base = {n: a.astype(np.float64) for n, a in model_arrays(0, width=24).items()}
    expert = expert_of(base, 1)
    expert["model.layers.1.mlp.up_proj.weight"] = base["model.layers.1.mlp.up_proj.weight"].copy()
    rng = np.random.default_rng(5)
    for model in (base, expert):
        model["model.layers.0.mlp.down_proj.weight"] = rng.normal(0, 0.1, (24, 60))  # wider than it is tall
        model["conv.weight"] = rng.normal(0, 0.1, (6, 5, 3, 3))
    save_model(tmp_path / "base", base)
    save_model(tmp_path / "expert", expert)
    return tmp_path, base, expert


def changes(base, expert):
    return {name: expert[name] - base[name] for name in base}


def applied(folder, base):
    """The changes that an adapter makes when it is merged."""
    recipe = mw.Recipe(method="task_arithmetic", base=str(folder / "base"), experts=[str(folder / "out")])
    merged = mw.merge_to_arrays(recipe)
    return {name: merged[name] - base[name] for name in base}


def is_matrix(change):
    return change.ndim in {2, 4}


@pytest.mark.parametrize("rank", [2, 7, 1000])
def test_every_matrix_is_approximated_as_well_as_the_rank_allows(models, rank):
    folder, base, expert = models
    report = mw.extract_lora(folder / "expert", folder / "base", folder / "out", rank=rank, dtype="float64")
    found, lost, norm = applied(folder, base), 0.0, 0.0
    errors = {m.name: m.relative_error for m in report.modules}
    for name, change in changes(base, expert).items():
        norm += np.sum(change**2)
        if not is_matrix(change):
            assert not np.any(found[name])
            lost += np.sum(change**2)
            continue
        flat = change.reshape(change.shape[0], -1)
        u, s, v = np.linalg.svd(flat, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ v[:rank]
        assert np.allclose(found[name].reshape(flat.shape), best, atol=1e-12), name
        lost += np.sum(s[rank:] ** 2)
        if np.any(change):
            assert errors[name] == pytest.approx(np.linalg.norm(flat - best) / np.linalg.norm(flat), rel=1e-6, abs=1e-7)
    assert report.relative_error == pytest.approx(math.sqrt(lost / norm), rel=1e-6)
    assert "model.layers.1.mlp.up_proj.weight" not in errors
    assert {one.name for one in report.left_out} == {n for n, c in changes(base, expert).items() if c.ndim == 1}
    assert sum(m.share for m in report.modules) + sum(o.share for o in report.left_out) == pytest.approx(1.0)


def test_an_energy_chooses_a_rank_for_every_module_which_the_configuration_states(models):
    folder, base, expert = models
    report = mw.extract_lora(folder / "expert", folder / "base", folder / "out", energy=0.8, dtype="float64")
    ranks = {m.name.removesuffix(".weight"): m.rank for m in report.modules}
    assert all(m.relative_error**2 <= 0.2 for m in report.modules)
    assert len(set(ranks.values())) > 1
    config = json.loads((folder / "out" / "adapter_config.json").read_text())
    assert {m: config["rank_pattern"].get(m, config["r"]) for m in ranks} == ranks
    assert config["alpha_pattern"] == config["rank_pattern"]
    found = applied(folder, base)
    for name, change in changes(base, expert).items():
        if is_matrix(change):
            assert np.sum((found[name] - change) ** 2) <= 0.2 * np.sum(change**2) + 1e-20


def test_modules_that_are_saved_whole_are_the_experts_own_bytes(models):
    folder, _, expert = models
    names = ["input_layernorm", "model.norm", "lm_head"]
    report = mw.extract_lora(folder / "expert", folder / "base", folder / "out", rank=3, save_modules=names)
    saved = {n for n in expert if any(name in n for name in names)}
    assert set(report.saved) == saved
    assert report.left_out == ()
    held = load_file(folder / "out" / WEIGHTS)
    for name in saved:
        assert held[f"base_model.model.{name}"].tobytes() == expert[name].tobytes()
    assert json.loads((folder / "out" / "adapter_config.json").read_text())["modules_to_save"] == names
    merged = mw.merge_to_arrays(
        mw.Recipe(method="task_arithmetic", base=str(folder / "base"), experts=[str(folder / "out")])
    )
    assert all(np.array_equal(merged[name], expert[name]) for name in saved)


def test_an_expert_that_an_adapter_made_gives_its_ranks_and_changes_back(models):
    folder, base, _ = models
    mw.extract_lora(folder / "expert", folder / "base", folder / "out", rank=3, dtype="float64")
    recipe = mw.Recipe(method="task_arithmetic", base=str(folder / "base"), experts=[str(folder / "out")])
    mw.merge(recipe, folder / "made")
    report = mw.extract_lora(folder / "made", folder / "base", folder / "again", energy=1 - 1e-12, dtype="float64")
    assert {m.rank for m in report.modules} == {3}
    made = load_model(folder / "made")
    (folder / "out").rename(folder / "first")
    (folder / "again").rename(folder / "out")
    for name, change in applied(folder, base).items():
        assert np.allclose(change, made[name] - base[name], atol=1e-13), name


def test_weights_of_gpt2_that_are_stored_transposed_are_factored_so(tmp_path):
    rng = np.random.default_rng(0)
    base = {"h.0.attn.c_attn.weight": np.zeros((8, 24)), "h.0.attn.c_proj.weight": np.zeros((8, 8))}
    expert = {n: rng.normal(size=a.shape) for n, a in base.items()}
    save_model(tmp_path / "base", base, config={"model_type": "gpt2"})
    save_model(tmp_path / "expert", expert, config={"model_type": "gpt2"})
    mw.extract_lora(tmp_path / "expert", tmp_path / "base", tmp_path / "out", rank=8, dtype="float64")
    held = load_file(tmp_path / "out" / WEIGHTS)
    assert held["base_model.model.h.0.attn.c_attn.lora_A.weight"].shape == (8, 8)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    for name, change in applied(tmp_path, base).items():
        assert np.allclose(change, expert[name], atol=1e-12)


@pytest.mark.parametrize(("rank", "said"), [(8, True), (2, False)])
def test_ranks_of_experts_that_differ_from_those_of_their_gate_come_with_a_remark(tmp_path, rank, said):
    shapes = {"q": (8, 8), "moe.gate": (2, 8), "moe.experts.0.w1": (9, 8), "moe.experts.1.w1": (9, 8)}
    base = {f"l.{module}.weight": np.zeros(shape) for module, shape in shapes.items()}
    rng = np.random.default_rng(0)
    save_model(tmp_path / "base", base)
    save_model(tmp_path / "expert", {name: rng.normal(size=array.shape) for name, array in base.items()})
    report = mw.extract_lora(tmp_path / "expert", tmp_path / "base", tmp_path / "out", rank=rank)
    assert [("ranks 2 to 8" in remark, "rank 2 if" in remark) for remark in report.remarks] == [(True, True)] * said


def test_the_bytes_are_the_same_for_any_threads_and_memory(models):
    folder, _, _ = models
    mw.extract_lora(folder / "expert", folder / "base", folder / "out", rank=3, threads=1)
    mw.extract_lora(folder / "expert", folder / "base", folder / "other", rank=3, threads=3, memory="4GiB")
    assert (folder / "other" / WEIGHTS).read_bytes() == (folder / "out" / WEIGHTS).read_bytes()
    assert {array.dtype.name for array in load_file(folder / "out" / WEIGHTS).values()} == {"float32"}


def test_matrices_of_several_panels_are_put_together(models, monkeypatch):
    folder, base, _ = models
    mw.extract_lora(folder / "expert", folder / "base", folder / "out", rank=3, dtype="float64")
    whole = applied(folder, base)
    (folder / "out").rename(folder / "first")
    monkeypatch.setattr("mergewise.engine.adapters.changes.PANEL_ELEMENTS", 100)
    mw.extract_lora(folder / "expert", folder / "base", folder / "out", rank=3, dtype="float64")
    for name, change in applied(folder, base).items():
        assert np.allclose(change, whole[name], atol=1e-13), name


def test_half_precision_models_are_read_and_half_precision_factors_written(models):
    folder, base, expert = models
    for name, model in (("base", base), ("expert", expert)):
        save_model(folder / name, {n: a.astype(ml_dtypes.bfloat16) for n, a in model.items()})
    report = mw.extract_lora(folder / "expert", folder / "base", folder / "out", rank=3, dtype="bfloat16")
    assert {a.dtype.name for a in load_file(folder / "out" / WEIGHTS).values()} == {"bfloat16"}
    assert report.bytes_out == 2 * report.parameters


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "Expected a rank or an energy"),
        ({"rank": 0}, "at least 1, found 0"),
        ({"energy": 1.5}, r"must be in \(0, 1\], found 1.5"),
        ({"rank": 2, "dtype": "int8"}, "dtype must be one of"),
        ({"rank": 2, "save_modules": ["normm"]}, "name ends in 'normm'"),
        ({"rank": 2, "memory": "192MiB"}, "factoring the largest matrix needs at least"),
        ({"rank": 2, "threads": 0}, "--threads must be at least 1"),
    ],
)
def test_requests_without_a_meaning_are_refused(models, asked, message):
    folder, _, _ = models
    with pytest.raises(mw.RecipeError, match=message):
        mw.extract_lora(folder / "expert", folder / "base", folder / "out", **asked)
    assert not (folder / "out").exists()


def test_models_that_are_equal_leave_nothing_to_extract(models):
    folder, base, _ = models
    save_model(folder / "expert", base)
    with pytest.raises(mw.MergeError, match="found none; nothing to extract"):
        mw.extract_lora(folder / "expert", folder / "base", folder / "out", rank=2)


def test_a_tensor_that_the_expert_lacks_counts_as_unchanged(models):
    folder, base, expert = models
    del expert["model.norm.weight"], expert["model.layers.0.mlp.up_proj.weight"]
    save_model(folder / "expert", expert)
    report = mw.extract_lora(folder / "expert", folder / "base", folder / "out", rank=1000, dtype="float64")
    assert any("lacks count as unchanged" in remark for remark in report.remarks)
    assert not np.any(applied(folder, base)["model.layers.0.mlp.up_proj.weight"])


def test_values_that_are_not_finite_are_reported_and_nothing_is_written(models):
    folder, _, expert = models
    expert["lm_head.weight"][3, 3] = np.inf
    save_model(folder / "expert", expert)
    with pytest.raises(mw.MergeError, match=r"'lm_head.weight' of .* holds NaN or infinity"):
        mw.extract_lora(folder / "expert", folder / "base", folder / "out", rank=2)
    assert {path.name for path in folder.iterdir()} <= {"base", "expert", "cache"}


def test_progress_counts_up_to_all_bytes(models):
    folder, _, _ = models
    seen = []
    mw.extract_lora(
        folder / "expert", folder / "base", folder / "out", rank=2, progress=lambda *step: seen.append(step)
    )
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
