"""Every program on torch's arrays: where its arrays live, of what dtype they are, and how much memory they take."""

import weakref
from contextlib import nullcontext

import numpy as np
import pytest

import mergewise as mw
from engine.models import TENSOR_SCOPE, arguments
from mergewise.engine.devices.device import Device, open_device
from mergewise.engine.devices.layout import DeviceLayout
from mergewise.engine.devices.run import run_on_device
from mergewise.engine.masks import random_masks
from mergewise.engine.plan import build_plan
from mergewise.method import MatrixProgram, carry_out, masks_like
from mergewise.testing.cases import python_name, resolved

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402 - comes with torch
from torch.utils._pytree import tree_flatten  # noqa: E402

each_case = pytest.mark.parametrize("case", TENSOR_SCOPE)


def program_of(case, shape):
    """A program, and how many arrays it sees."""
    name, experts, chosen = arguments(case)
    method = mw.methods()[name]
    models = experts + method.base_is_first
    return method.program(resolved(name, {python_name(k): v for k, v in chosen.items()}, models), models, shape), models


def carried_out(program, arrays):
    masks = masks_like(arrays[0], random_masks({"seed": 1}, "t", tuple(arrays[0].shape)))
    with torch.inference_mode():
        return carry_out(program, arrays, masks)


def normal(count, shape, **options):
    return [torch.tensor(np.random.default_rng(i).normal(size=shape), **options) for i in range(count)]


READ_BACK = {
    "L1 norms": ["dare_linear, l1", "dare_ties, l1", "della, l1", "ties trimmed, l1"],
    "inner products": [
        "karcher", "model_stock", "model_stock by filters", "multislerp", "nuslerp", "nuslerp across slices",
        "nuslerp by slices", "slerp",
    ],
    "sums over the tensor": ["ramplus_tl", "ramplus_tl, few changes", "sce"],
    "how many elements differ": ["sce, few elements"],
    "quartiles": ["arcee_fusion"],
    "whether a matrix is zero, and its singular values": ["iso_c", "iso_cts", "knots", "tsv_m", "wudi", "wudi_ridge"],
}  # fmt: skip
"""What a program must read back from the device before it can go on, so that it cannot run without data."""


@each_case
def test_definitions_run_without_data_but_for_what_they_must_read_back(case):
    program, models = program_of(case, (6, 4))
    arrays = [torch.empty(6, 4, dtype=torch.float64, device="meta") for _ in range(models)]
    reads_back = any(case in cases for cases in READ_BACK.values())
    with pytest.raises((RuntimeError, NotImplementedError), match="meta") if reads_back else nullcontext():
        found = carried_out(program, arrays)
        assert (found.shape, found.dtype, found.device.type) == ((6, 4), torch.float64, "meta")


@each_case
@pytest.mark.parametrize("shape", [(7, 5), (30,)])
def test_definitions_make_every_array_on_the_device_of_their_inputs(case, shape):
    program, models = program_of(case, shape)
    arrays = normal(models, shape)
    expected = carried_out(program, arrays)
    with torch.device("meta"):  # where an array goes for which no device is given: without values it is of no use
        found = carried_out(program, arrays)
    assert found.device.type == "cpu"
    assert torch.equal(found, expected)


class _NoFloat64(TorchDispatchMode):
    """Fails where an array in float64 is made."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if (
            func is torch.ops.aten.lift_fresh.default
        ):  # of NumPy's arrays, which are on the host until they are converted
            return made
        for one in tree_flatten(made)[0]:
            assert not isinstance(one, torch.Tensor) or one.dtype != torch.float64, f"{func} gives float64"
        return made


@each_case
def test_definitions_keep_to_float32_where_their_inputs_are(case):
    program, models = program_of(case, (7, 5))
    if isinstance(program, MatrixProgram) and program.decomposes:
        pytest.skip("matrices are decomposed in float64, so such a device refuses them")
    wide, single = (normal(models, (7, 5), dtype=dtype) for dtype in (torch.float64, torch.float32))
    wide = carried_out(program, wide)
    with _NoFloat64():
        found = carried_out(program, single)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, wide, rtol=1e-4, atol=1e-5)


class _Peak(TorchDispatchMode):
    """Counts the most bytes that arrays take at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in tree_flatten(made)[0]:
            if isinstance(one, torch.Tensor):
                self._add(one.untyped_storage())
        return made

    def _add(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key, size):
        self._seen.discard(key)
        self.now -= size


class _Nowhere:
    """A target that keeps nothing."""

    def write(self, name, offset, data):
        pass

    def finish(self, name):
        pass


@each_case
@pytest.mark.parametrize("shape", [(400, 80), (3, 900), (100_000,)])
def test_the_memory_that_a_plan_states_is_not_exceeded(case, shape):
    name, experts, chosen = arguments(case)
    rng = np.random.default_rng(0)
    models = [{"t": rng.normal(size=shape).astype(np.float32)} for _ in range(1 + experts)]
    planned = planned_arrays(name, models[0], models[1:], chosen)
    layout = DeviceLayout(open_device("cpu"))
    peak = _Peak()
    with peak:
        run_on_device(planned, layout, _Nowhere(), lambda _: None)
    stated = layout.device_bytes(planned)
    assert stated / 12 < peak.most <= stated, f"{peak.most / stated:.2f} of what is stated"


def planned_arrays(name, base, experts, chosen):
    """The plan of a merge of arrays."""
    from mergewise.checkpoint import ArrayCheckpoint

    own = {k: v for k, v in chosen.items() if isinstance(v, list)}
    entries = [mw.Expert(model=f"e{i}", parameters={k: v[i] for k, v in own.items()}) for i in range(len(experts))]
    method = mw.methods()[name]
    recipe = mw.Recipe(
        method=name,
        base=None if method.base_joins else "base",
        experts=entries,
        parameters={k: v for k, v in chosen.items() if k not in own},
    )
    sources = [ArrayCheckpoint(e, f"e{i}") for i, e in enumerate(experts)]
    if recipe.in_delta_space or method.base_is_first:
        sources.insert(0, ArrayCheckpoint(base, "base"))
    return build_plan(recipe, sources)


@pytest.mark.parametrize("case", ["linear by weights", "dare_ties, expected", "ram"])
def test_pieces_of_any_size_give_the_same_bytes(case):
    name, experts, chosen = arguments(case)
    rng = np.random.default_rng(0)
    models = [{"t": rng.normal(size=(517, 613)).astype(np.float32)} for _ in range(1 + experts)]
    planned = planned_arrays(name, models[0], models[1:], chosen)

    class Kept(_Nowhere):
        def __init__(self):
            self.bytes = np.zeros(models[0]["t"].nbytes, np.uint8)

        def write(self, name, offset, data):
            self.bytes[offset : offset + len(data)] = data

    found = []
    for limit in (65536, 131072, 1 << 22):
        kept, sizes = Kept(), []
        run_on_device(planned, DeviceLayout(open_device("cpu"), limit), kept, sizes.append)
        assert len(sizes) == 1 + -(-517 * 613 // limit)
        found.append(kept.bytes.tobytes())
    assert found[0] == found[1] == found[2]
    merged = mw.merge_arrays(name, models[0], models[1:], **chosen)["t"]
    assert found[0] == merged.tobytes()  # nothing is summed over these tensors, so not even one step may differ


def test_a_device_without_float64_refuses_what_needs_it():
    from mergewise.engine.devices.layout import lay_out_on

    single = Device("mps", "", "float32", torch, lambda: 1 << 40)
    rng = np.random.default_rng(0)
    for dtype, name, said in [
        (np.float64, "linear", "mps has no float64, which tensor 't' is stored in"),
        (np.float32, "tsv_m", "tsv_m decomposes matrices such as 't' in float64, which mps does not have"),
    ]:
        models = [{"t": rng.normal(size=(6, 5)).astype(dtype)} for _ in range(3)]
        with pytest.raises(mw.RecipeError, match=said) as caught:
            lay_out_on(planned_arrays(name, models[0], models[1:], {}), single, None, "1GiB")
        assert "\n" not in str(caught.value)
