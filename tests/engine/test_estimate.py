"""What a plan says of reading and of time."""

import numpy as np
import pytest

import mergewise as mw
from mergewise.checkpoint import ArrayTarget, Checkpoint
from mergewise.engine import estimate
from mergewise.engine.carry_out import run
from mergewise.engine.layout import Layout, lay_out
from mergewise.engine.provenance import unhashed_bytes
from support import save_model

ELEMENTS = 5 << 16


@pytest.fixture
def family(tmp_path):
    random = np.random.default_rng(0)
    for name in ("base", "e1", "e2"):
        arrays = {"layers.0.a": random.normal(size=(ELEMENTS,)), "layers.1.b": random.normal(size=(64, 16))}
        save_model(tmp_path / name, {key: array.astype("f4") for key, array in arrays.items()})
    return tmp_path


def planned(folder, method, parameters):
    base = None if method == "karcher" else folder / "base"
    return mw.plan(mw.Recipe(method=method, base=base, experts=[folder / "e1", folder / "e2"], parameters=parameters))


CASES = [
    ("task_arithmetic", {}, 1), ("dare_ties", {"density": 0.5, "rescale": "none"}, 1), ("karcher", {}, 2),
    ("ties", {"density": 0.3}, 2), ("ties", {"density": 0.3, "scope": "model"}, 2),
    ("dare_ties", {"density": 0.5, "rescale": "l1"}, 2), ("sce", {"select_topk": 0.5}, 4),
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("method", "parameters", "times"), CASES)
def test_what_all_passes_read_is_what_a_merge_reads(family, monkeypatch, method, parameters, times, threads):
    """Of a tensor of several pieces, beside a small one that stays in hand."""
    plan, read = planned(family, method, parameters), []
    plain = Checkpoint.read_into

    def counting(self, tensor, offset, buffer):
        read.append(memoryview(buffer).nbytes)
        plain(self, tensor, offset, buffer)

    monkeypatch.setattr(Checkpoint, "read_into", counting)
    layout = Layout(threads, 2 << 20, 1 << 16)
    assert len(range(0, ELEMENTS, layout.piece_elements(plan.jobs[0]))) > 1
    run(plan, layout, ArrayTarget((o.name, o.dtype, o.shape) for o in plan.outputs))
    said = estimate.bytes_read(plan, layout)
    models = 2 if method == "karcher" else 3
    small = times if parameters.get("scope") == "model" else 1
    assert said == 4 * models * (times * ELEMENTS + small * 1024)
    # but for a sample, and for a piece that was still in hand: one of each worker and pass, as it happens with two
    in_hand = 4 * models * layout.piece_elements(plan.jobs[0]) * (times - 1) * (threads - 1)
    assert sum(read) - (1 << 20) <= said <= sum(read) + (1 << 20) + in_hand
    in_hand = lay_out(plan, threads, "1GiB")
    assert estimate.bytes_read(plan, in_hand) == plan.bytes_in * (2 if parameters.get("scope") == "model" else 1)


def test_what_is_read_again_takes_time_where_memory_does_not_hold_the_models(family, monkeypatch):
    plan = planned(family, "ties", {"density": 0.3, "scope": "model"})
    layout = lay_out(plan, 1, "1GiB")
    monkeypatch.setattr(estimate, "DISK_BYTES_PER_SECOND", 1e3)
    held = estimate.seconds(plan, layout)
    assert held == pytest.approx((plan.bytes_in + plan.bytes_out) / 1e3, abs=2)
    monkeypatch.setattr(estimate.os, "sysconf", lambda _: 1)
    from_disk = 2 * plan.bytes_in + plan.bytes_out + unhashed_bytes(plan.sources)
    assert estimate.seconds(plan, layout) == pytest.approx(from_disk / 1e3, abs=2)


def test_files_are_said_to_be_hashed_until_they_are(family, monkeypatch):
    monkeypatch.setenv("MERGEWISE_CACHE", str(family / "cache"))
    plan = planned(family, "task_arithmetic", {})
    assert unhashed_bytes(plan.sources) == sum(
        path.stat().st_size for name in ("base", "e1", "e2") for path in (family / name).glob("*.*")
        if path.name in ("config.json", "model.safetensors")
    )  # fmt: skip
    mw.merge(plan.recipe, family / "out")
    assert unhashed_bytes(plan.sources) == 0


def test_free_space_is_told_of_a_place_that_no_folder_can_have(tmp_path, monkeypatch):
    assert estimate.free_bytes(tmp_path) > 0
    asked, usage = [], estimate.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda place: asked.append(place) or usage)
    assert estimate.free_bytes(tmp_path / ("x" * 300)) == usage.free  # others may write meanwhile: it is asked once
    assert asked == [tmp_path]


def test_many_tiny_tensors_take_time_each(tmp_path):
    arrays = {f"layers.{i}.a": np.zeros(1, "f4") for i in range(2000)}
    experts = [save_model(tmp_path / f"e{i}", arrays) for i in range(8)]
    plan = mw.plan(mw.Recipe(method="average", experts=experts))
    one = mw.plan(mw.Recipe(method="average", experts=experts[:1]))
    few, many = (estimate.seconds(p, lay_out(p, 2, "1GiB")) for p in (one, plan))
    assert 1.2 < few < many < 2.5
