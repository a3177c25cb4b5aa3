"""What only the weights can show: NaN, infinity and overflow are named, and a fault leaves nothing behind."""

import math
import threading

import ml_dtypes
import numpy as np
import pytest

import mergewise as mw
from engine.models import CASES, TENSOR_SCOPE, arguments, file_recipe, large_family
from mergewise.checkpoint import Checkpoint
from mergewise.engine import local
from mergewise.testing.cases import merged
from support import load_model, save_model


def merge(case, base, experts, **options):
    name, count, chosen = arguments(case)
    return merged(name, base, experts[:count], **options, **chosen)


def uses_base(case, base):
    method = mw.methods()[CASES[case][0]]
    return method.merges_deltas(base) or method.base_is_first


def small(experts, dtype="float32"):
    rng = np.random.default_rng(0)
    base = {"before": rng.normal(size=(4, 5)).astype(dtype), "w": rng.normal(size=(3, 7)).astype(dtype)}
    return base, [
        {k: (v.astype(float) + 0.1 * rng.normal(size=v.shape)).astype(dtype) for k, v in base.items()}
        for _ in range(experts)
    ]


def own_threads():
    # nothing is fetched here; idle connections of other tests may still wait to be collected
    names = [t.name for t in threading.enumerate()]
    return [name for name in names if name.startswith("mergewise") and not name.startswith("mergewise-fetch")]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["base", "first expert", "last expert"])
def test_nan_and_infinity_are_reported_with_tensor_model_and_place(case, bad, where):
    _, count, _ = arguments(case)
    base, experts = small(count)
    if where == "base" and not uses_base(case, base):
        base["w"][1, 2] = bad
        assert np.isfinite(merge(case, base, experts)["w"]).all()  # it takes no part
        return
    places = {"base": (base, "base"), "first expert": (experts[0], "expert 1")}
    model, label = places.get(where, (experts[-1], f"expert {count}"))
    model["w"][1, 2] = bad
    with pytest.raises(mw.MergeError) as caught:
        merge(case, base, experts)
    message = str(caught.value)
    assert f"Tensor 'w' of {label} holds {bad} at [1, 2]" in message
    assert "\n" not in message


@pytest.mark.parametrize("case", [c for c in TENSOR_SCOPE if mw.methods()[CASES[c][0]].family != "spectral"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_mask_that_is_the_same_in_all_models_stays_as_it_is(case, dtype):
    _, count, _ = arguments(case)
    base, experts = small(count, dtype)
    mask = np.where(np.tri(8, dtype=bool), 0.0, -np.inf).astype(dtype)[None]
    found = merge(case, base | {"mask": mask}, [expert | {"mask": mask} for expert in experts])
    np.testing.assert_array_equal(found["mask"], mask)
    np.testing.assert_array_equal(found["w"], merge(case, base, experts)["w"])
    experts[0]["mask"] = np.where(np.isfinite(mask), 1.0, mask).astype(dtype)
    with pytest.raises(mw.MergeError, match=r"Tensor 'mask' of .* holds -inf at"):
        merge(case, base | {"mask": mask}, [{"mask": mask} | expert for expert in experts])


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("ties", {"density": [0.0, 1.0]}),
        ("ties", {"weight": [0.0, 1.0]}),
        ("dare_ties", {"density": [0.0, 1.0]}),
        ("dare_linear", {"density": [1e-9, 1.0], "rescale": "none"}),
        ("linear", {"weight": [0.0, 1.0]}),
        ("task_arithmetic", {"weight": [0.0, 1.0]}),
        ("task_arithmetic", {"lambda_": 0.0}),
    ],
)
def test_nan_is_reported_also_where_it_would_be_dropped(name, chosen):
    base, experts = small(2)
    experts[0]["w"][0, 0] = np.nan
    with pytest.raises(mw.MergeError, match=r"Tensor 'w' of expert 1 holds nan at \[0, 0\]"):
        mw.merge_arrays(name, base, experts, **chosen)


@pytest.mark.parametrize("pattern", [0x7F81, 0xFF81, 0x7FC0, 0xFFFF, 0x7F80, 0xFF80])
def test_every_kind_of_nan_is_reported_without_a_warning(pattern):
    # 0x7f81 is a signalling NaN, of which NumPy warns when it converts one
    base, experts = small(1, ml_dtypes.bfloat16)
    experts[0]["w"].view(np.uint16)[2, 6] = pattern
    with pytest.raises(mw.MergeError, match=r"Tensor 'w' of expert 1 holds -?(nan|inf) at \[2, 6\]"):
        mw.merge_arrays("task_arithmetic", base, experts)


@pytest.mark.parametrize("case", ["average", "ties trimmed", "ties over the model", "dare_ties, l1", "model_stock"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_fault_deep_in_a_long_tensor_is_found_in_any_thread(case, threads):
    base, experts = large_family(3)
    experts[1]["layers.0.long"][-1] = np.nan
    at = experts[1]["layers.0.long"].size - 1
    with pytest.raises(mw.MergeError, match=rf"Tensor 'layers.0.long' of expert 2 holds nan at \[{at}\]"):
        merge(case, base, experts, threads=threads)
    assert own_threads() == []


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4)])
def test_the_place_of_a_fault_is_an_index_into_the_tensor(shape):
    base, expert = {"w": np.zeros(shape, np.float32)}, {"w": np.zeros(shape, np.float32)}
    last = tuple(n - 1 for n in shape)
    expert["w"][last] = np.inf
    with pytest.raises(mw.MergeError) as caught:
        mw.merge_arrays("ties", base, [expert])
    assert f"holds inf at {list(last)}" in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [
        ("float16", 65520.0),
        ("bfloat16", float.fromhex("0x1.ffp127")),
        ("float32", float.fromhex("0x1.ffffffp127")),
    ],
)
@pytest.mark.parametrize("name", ["average", "task_arithmetic", "ties", "dare_linear", "model_stock"])
def test_a_result_too_large_for_the_dtype_is_reported_and_one_just_below_is_not(name, dtype, limit):
    def run(value):
        base, expert = {"w": np.zeros(3)}, {"w": np.array([1.0, -value, 2.0])}
        return mw.merge_arrays(name, base, [expert, expert], dtype=dtype, **halves)["w"]

    halves = {} if name in {"average", "ties", "model_stock"} else {"weight": 0.5}
    # experts in float64 hold what the result cannot
    with pytest.raises(mw.MergeError, match=r"Tensor 'w' merges to values that do not fit"):
        run(limit)
    largest = run(limit * (1 - 1e-9)).astype(np.float64)
    assert np.isfinite(largest).all()
    assert largest[1] == -float(ml_dtypes.finfo(np.dtype(dtype)).max)


@pytest.mark.parametrize("case", ["average", "ties trimmed", "ties over the model, l1", "slerp", "dare_ties, l1"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_fault_leaves_no_file_and_no_thread_behind(case, threads, tmp_path):
    base, experts = large_family(3)
    name, count, chosen = arguments(case)
    experts[count - 1]["layers.1.matrix"][5, 6] = np.nan
    paths = [save_model(tmp_path / "in" / f"m{i}", m) for i, m in enumerate([base, *experts[:count]])]
    own = [{k: v[i] for k, v in chosen.items() if isinstance(v, list)} for i in range(count)]
    recipe = mw.Recipe(
        method=name,
        base=paths[0],
        experts=[mw.Expert(model=p, parameters=o) for p, o in zip(paths[1:], own, strict=True)],
        parameters={k: v for k, v in chosen.items() if not isinstance(v, list)},
    )
    before = threading.active_count()
    (tmp_path / "out").mkdir()
    with pytest.raises(mw.MergeError, match=rf"Tensor 'layers.1.matrix' of .*m{count} holds nan at \[5, 6\]"):
        mw.merge(recipe, tmp_path / "out" / "merged", threads=threads)
    assert list((tmp_path / "out").iterdir()) == []
    assert own_threads() == []
    assert threading.active_count() == before


class Broken(RuntimeError):
    pass


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_an_unforeseen_fault_of_a_worker_reaches_the_caller_and_stops_the_others(threads, after, tmp_path, monkeypatch):
    base, experts = large_family(2)
    paths = [save_model(tmp_path / "in" / f"m{i}", m) for i, m in enumerate([base, *experts])]
    combine, calls = local.combine, []

    def break_down(*args, **options):
        calls.append(1)
        if len(calls) > after:
            raise Broken
        return combine(*args, **options)

    monkeypatch.setattr(local, "combine", break_down)
    recipe = mw.Recipe(method="ties", base=paths[0], experts=paths[1:], parameters={"density": 0.5})
    (tmp_path / "out").mkdir()
    with pytest.raises(Broken):
        mw.merge(recipe, tmp_path / "out" / "merged", threads=threads)
    assert not (tmp_path / "out" / "merged").exists()
    assert own_threads() == []
    assert len(calls) <= after + threads  # nobody began another piece
    monkeypatch.undo()
    mw.merge(recipe, tmp_path / "out" / "merged", threads=threads)  # and the next merge is as good as ever
    expected = mw.merge_arrays("ties", base, experts, density=0.5)
    assert all(np.array_equal(v, expected[k]) for k, v in load_model(tmp_path / "out" / "merged").items())


def test_a_fault_while_reading_names_the_file(tmp_path, monkeypatch):
    base, experts = small(1)
    paths = [save_model(tmp_path / f"m{i}", m) for i, m in enumerate([base, *experts])]
    recipe = mw.Recipe(method="ties", base=paths[0], experts=paths[1:])
    read_into = Checkpoint.read_into

    def cut_short(self, tensor, offset, buffer):
        if "m1" in self.location:
            (paths[1] / "model.safetensors").write_bytes(b"")
        return read_into(self, tensor, offset, buffer)

    monkeypatch.setattr(Checkpoint, "read_into", cut_short)
    with pytest.raises(mw.CheckpointError, match=r"m1.*cut short"):
        mw.merge(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert own_threads() == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threads", [1, 2])
def test_progress_grows_to_the_whole_and_no_further(case, threads, tmp_path):
    base, experts = large_family(3)
    name, count, chosen = arguments(case)
    paths = [save_model(tmp_path / f"m{i}", m) for i, m in enumerate([base, *experts[:count]])]
    shared = {k: v for k, v in chosen.items() if not isinstance(v, list)}
    seen = []
    recipe = file_recipe(name, paths[0], paths[1:], tmp_path, parameters=shared)
    report = mw.merge(recipe, tmp_path / "out", threads=threads, progress=lambda *p: seen.append(p))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (report.bytes_out, report.bytes_out)
    assert {total for _, total in seen} == {report.bytes_out}
