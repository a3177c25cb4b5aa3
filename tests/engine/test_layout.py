"""What sources take beside the rows of pieces is part of what a plan says of its memory."""

from dataclasses import replace

import numpy as np
import pytest

import mergewise as mw
from mergewise.engine.layout import lay_out, parse_size
from support import expert_of, model_arrays, save_model

MIB = 1 << 20


def peak(folder, expert):
    base = save_model(folder / "base", model_arrays(0)) if not (folder / "base").exists() else folder / "base"
    planned = mw.plan(mw.Recipe(method="task_arithmetic", base=base, experts=[expert]))
    return lay_out(planned, 1, "2GiB").peak_bytes(planned)


@pytest.fixture
def plain(tmp_path):
    return peak(tmp_path, save_model(tmp_path / "plain", expert_of(model_arrays(0), 1)))


def test_decoding_eight_bit_weights_is_counted_also_under_other_names(plain, tmp_path):
    codes = {name: array.astype("float8_e4m3fn") for name, array in model_arrays(0).items()}
    eight = save_model(tmp_path / "eight", codes)
    renamed = save_model(tmp_path / "renamed", {f"wrapped.{name}": array for name, array in codes.items()})
    assert peak(tmp_path, eight) == peak(tmp_path, renamed) >= plain + 15 * MIB


def test_torch_and_what_it_cannot_map_are_counted(plain, tmp_path):
    torch = pytest.importorskip("torch")
    big = {"big": np.zeros((2048, 1024), np.float32)}
    for name in ("base", "plain"):
        save_model(tmp_path / name, model_arrays(0) | big)
    tensors = {name: torch.tensor(array) for name, array in (model_arrays(0) | big).items()}
    (tmp_path / "mapped").mkdir()
    torch.save(tensors, tmp_path / "mapped" / "pytorch_model.bin")
    (tmp_path / "turned").mkdir()
    torch.save(tensors | {"big": tensors["big"].t().contiguous().t()}, tmp_path / "turned" / "pytorch_model.bin")
    assert peak(tmp_path, tmp_path / "mapped") == peak(tmp_path, tmp_path / "plain") + 256 * MIB
    assert peak(tmp_path, tmp_path / "turned") == peak(tmp_path, tmp_path / "mapped") + 8 * MIB


def test_headers_of_very_many_tensors_and_models_are_counted(plain, tmp_path):
    for name in ("base", "plain"):
        save_model(tmp_path / name, model_arrays(0) | {f"t{i}": np.zeros((), np.float32) for i in range(10_000)})
    planned = mw.plan(mw.Recipe(method="task_arithmetic", base=tmp_path / "base", experts=[tmp_path / "plain"] * 9))
    assert lay_out(planned, 1, "2GiB").peak_bytes(planned) >= plain + 30 * MIB


@pytest.mark.parametrize("memory", ["220MiB", "600MiB"])
def test_rows_of_many_experts_take_no_more_than_one_at_a_time(memory, tmp_path):
    # six squares of the number of experts in float64 for every row, of two numbers
    experts = [save_model(tmp_path / f"{i}", {"w": np.ones((4096, 2), np.float32) * i}) for i in range(100)]
    recipe = mw.Recipe(method="model_stock", base=experts[0], experts=experts, parameters={"filter_wise": True})
    planned = mw.plan(recipe)
    assert lay_out(planned, 1, memory).peak_bytes(planned) <= parse_size(memory, "budget")


@pytest.mark.parametrize(
    ("method", "parameters", "of_a_block"),
    [
        ("ties", {"density": 0.5}, 0),
        ("ties", {"density": 0.5, "scope": "model"}, 2 * 8),
        ("ties", {"density": 0.5, "scope": "model", "rescale": "l1"}, 2 * 8 + 2 * 16),
        ("model_stock", {}, 2 * 2 * 16),
    ],
)
def test_what_is_kept_of_every_block_of_a_scope_is_counted(method, parameters, of_a_block, tmp_path):
    models = [save_model(tmp_path / f"{i}", {"w": np.ones(4, np.float32) * i}) for i in range(3)]
    planned = mw.plan(mw.Recipe(method=method, base=models[0], experts=models[1:], parameters=parameters))
    (job,), blocks = planned.jobs, 1 << 20

    def peak_of(numel):
        larger = replace(job, inputs=tuple(replace(i, shape=(numel,), nbytes=4 * numel) for i in job.inputs))
        return lay_out(replace(planned, jobs=(larger,)), 1, "8GiB").peak_bytes(replace(planned, jobs=(larger,)))

    assert peak_of(blocks << 16) - peak_of(1 << 26) >= of_a_block * (blocks - (1 << 10))


def test_a_row_too_long_for_the_budget_is_named(tmp_path):
    models = [save_model(tmp_path / f"{i}", {"bias": np.ones(6 << 20, np.float32) * i}) for i in range(3)]
    recipe = mw.Recipe(method="della", base=models[0], experts=models[1:], parameters={"density": 0.5})
    with pytest.raises(mw.RecipeError, match=r"for tensor 'bias' of shape \[6291456\], whose rows it ranks as a whole"):
        lay_out(mw.plan(recipe), 1, "250MiB")


def test_the_sample_of_a_large_scope_is_counted():
    from mergewise.engine.layout import sample_size

    assert sample_size(1000, 4) == 1000
    assert sample_size(1 << 30, 4) == 1 << 19
    assert sample_size(1 << 30, 64) == 1 << 16
