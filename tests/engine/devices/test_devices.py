"""Merges on a device give what the kernels give; what a device cannot do is said before a weight is read."""

import builtins
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mergewise as mw
from adapters import linear_adapter, save_adapter
from engine.models import TENSOR_SCOPE, arguments
from mergewise.checkpoint import FolderTarget
from mergewise.engine.devices import device as devices
from method.cases import (
    SHAPES,
    WITH_BASE,
    assert_close,
    by_definition,
    expert_counts,
    lowers,
    merged,
    one_family,
    settings_for,
    slack_of,
)
from reference import DTYPES, round_once
from support import expert_of, load_model, model_arrays, save_file, save_model

torch = pytest.importorskip("torch")

PROPERTY = settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow])


BLIND = [one for one in WITH_BASE if not mw.methods()[one[0]].statistics]
"""Methods that look at models only; devices refuse the others."""


@pytest.mark.parametrize("name", ["fisher", "regmean"])
def test_a_device_refuses_statistics(name):
    base, models = one_family(0, 2, "float32")
    with pytest.raises(mw.RecipeError, match=f"Statistics that {name} reads are not for devices yet"):
        merged(name, base, models, device="cpu")


@pytest.mark.parametrize(("name", "with_base"), BLIND, ids=[f"{name} {with_base}" for name, with_base in BLIND])
@pytest.mark.parametrize("dtype", list(DTYPES))
@given(data=st.data())
@PROPERTY
def test_a_device_merges_as_the_definition_says_rounded_once(name, with_base, dtype, data):
    experts = data.draw(st.integers(*expert_counts(name)))
    chosen = data.draw(settings_for(name, experts, without={"scope"}))
    assume(lowers(name, chosen, experts))
    base, models = one_family(data.draw(st.integers(0, 9)), experts, dtype)
    base = base if with_base else None
    found = mw.merge_arrays(name, base, models, device="cpu", **chosen)
    if name == "arcee_fusion":  # many changes lie at its very threshold, where the last bit of a logarithm decides
        for tensor, values in found.items():
            either = [round_once(np.asarray(m[tensor], np.float64), dtype) for m in (base, *models)]
            assert np.all((values == either[0]) | (values == either[1]))
        return
    assert_close(found, by_definition(name, base, models, chosen), dtype, slack_of(name, chosen, dtype))


@pytest.mark.parametrize("case", TENSOR_SCOPE)
def test_a_device_and_the_kernels_differ_by_one_rounding_step_at_most(case):
    name, experts, chosen = arguments(case)
    for dtype in ("bfloat16", "float32"):
        shapes = (*SHAPES, (70_001,), (90, 120))
        if name == "arcee_fusion" and dtype == "bfloat16":
            continue  # as above
        base, models = one_family(3, experts, dtype, shapes)
        by_kernels = mw.merge_arrays(name, base, models, **chosen)
        for tensor, found in mw.merge_arrays(name, base, models, device="cpu", **chosen).items():
            expected = by_kernels[tensor].astype(np.float64)
            spread = 1e-9 * np.abs(expected).max(initial=0.0)  # where sums cancel
            below, above = (np.nextafter(by_kernels[tensor], by_kernels[tensor].dtype.type(s)) for s in (-1e30, 1e30))
            wide = found.astype(np.float64)
            assert np.all((wide >= below.astype(np.float64) - spread) & (wide <= above.astype(np.float64) + spread))


def test_a_users_method_runs_on_a_device(monkeypatch):
    import array_api_compat

    from mergewise.method import registry

    monkeypatch.setattr(registry, "_declared", {})
    seen = set()

    @mw.merge_method(summary="For a test.", elementwise=True)
    def sampled(taus, masks: mw.Masks, density: float = 0.5):
        seen.add(type(taus[0]))
        xp = array_api_compat.array_namespace(*taus)
        return sum(xp.where(masks(i, xp.abs(tau)), tau * density, xp.zeros_like(tau)) for i, tau in enumerate(taus))

    base, models = one_family(0, 3, "bfloat16", (*SHAPES, (70_001,)))
    expected = mw.merge_arrays("sampled", base, models, seed=5)
    found = mw.merge_arrays("sampled", base, models, seed=5, device="cpu")
    assert seen == {np.ndarray, torch.Tensor}
    for name, values in expected.items():
        assert found[name].tobytes() == values.tobytes()


# ---- folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path):
    base = model_arrays(0, dtype="bfloat16")
    save_model(tmp_path / "base", base)
    for number in (1, 2):
        save_model(tmp_path / f"e{number}", expert_of(base, number))
    return mw.Recipe(
        method="dare_ties", base=tmp_path / "base", experts=[tmp_path / "e1", tmp_path / "e2"],
        parameters={"density": 0.4},
    )  # fmt: skip


def test_a_merge_on_a_device_says_so_and_is_verified(recipe, tmp_path):
    report = mw.merge(recipe, tmp_path / "out", device="cpu")
    assert report.device == "cpu"
    record = json.loads((tmp_path / "out" / "mergewise.json").read_text())
    assert record["device"] == {"name": "cpu", "title": "", "computes_in": "float64", "torch": torch.__version__}
    assert mw.verify(tmp_path / "out", sample=None).faults == ()
    merged = load_model(tmp_path / "out")
    for name, values in mw.merge_to_arrays(recipe, device="cpu").items():
        assert values.tobytes() == merged[name].tobytes()


@pytest.mark.parametrize(("steps", "faults"), [(1, 0), (2, 1)])
def test_verifying_lets_one_rounding_step_of_a_device_pass_and_no_more(recipe, tmp_path, steps, faults):
    mw.merge(recipe, tmp_path / "out", device="cpu")
    arrays = load_model(tmp_path / "out")
    name = max(arrays, key=lambda n: arrays[n].size)
    largest = np.argmax(np.abs(arrays[name].astype(np.float32)))
    arrays[name].reshape(-1).view(np.uint16)[largest] -= steps
    save_file(tmp_path / "out" / "model.safetensors", arrays)
    assert len(mw.verify(tmp_path / "out", sample=None).faults) == faults


def test_a_merge_of_a_device_without_float64_is_verified_on_such_a_device(recipe, tmp_path):
    mw.merge(recipe, tmp_path / "out", device="cpu")
    path = tmp_path / "out" / "mergewise.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"device": record["device"] | {"name": "mps", "computes_in": "float32"}}))
    with pytest.raises(mw.RecipeError, match="--device mps: expected a device"):
        mw.verify(tmp_path / "out")


class Stop(KeyboardInterrupt):
    pass


def test_an_interrupted_merge_goes_on_on_the_same_device_and_begins_anew_on_another(recipe, tmp_path, monkeypatch):
    mw.merge(recipe, tmp_path / "undisturbed", device="cpu")
    finish = FolderTarget.finish

    def finish_some(self, name):
        finish(self, name)
        if len(self._journal.finished) == 3:
            raise Stop

    def interrupt():
        with monkeypatch.context() as patch:
            patch.setattr(FolderTarget, "finish", finish_some)
            with pytest.raises(KeyboardInterrupt):
                mw.merge(recipe, tmp_path / "out", device="cpu")

    interrupt()
    report = mw.merge(recipe, tmp_path / "out", device="cpu")
    assert any("3 tensors were taken over" in remark for remark in report.remarks)
    for name, values in load_model(tmp_path / "undisturbed").items():
        assert load_model(tmp_path / "out")[name].tobytes() == values.tobytes()
    (tmp_path / "out").rename(tmp_path / "done")
    interrupt()
    report = mw.merge(recipe, tmp_path / "out")  # by the kernels
    assert not any("taken over" in remark for remark in report.remarks)


# ---- faults ---------------------------------------------------------------------------------------------------------


def refusal(**options):
    base, models = one_family(0, 2, "float32", ((5, 3), (70_001,)))
    method = options.pop("method", "ties")
    with pytest.raises(mw.MergewiseError) as caught:
        mw.merge_arrays(method, base, models, **{"device": "cpu", **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "gpu"}, "--device must be 'cuda', 'mps' or 'cpu' (or one of several, 'cuda:1'), found 'gpu'."),
        ({"device": "cuda:7"}, "--device cuda:7: expected a device that torch"),
        ({"scope": "model", "density": 0.5}, "take 'scope: tensor', or leave --device out"),
        ({"threads": 2}, "--threads (2) says how many workers run kernels"),
        ({"memory": "300MiB"}, "--memory is 300 MiB, but this merge on cpu needs at least"),
    ],
)
def test_what_a_device_cannot_do_is_refused_in_one_sentence(options, said):
    assert said in refusal(**options)


def test_without_torch_a_device_is_refused_in_one_sentence(monkeypatch):
    imported = builtins.__import__

    def without_torch(name, *rest, **more):
        if name == "torch":
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert refusal(device="cuda") == (
        "--device cuda needs torch, which is not installed; install 'mergewise[torch]', or leave --device out."
    )


def test_a_device_with_too_little_memory_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 20, 1 << 30))
    assert devices.open_device("cuda").record()["title"] == "A card"
    sentence = refusal(device="cuda", density=0.5)
    assert sentence.startswith("This merge needs 14 MiB on cuda:0, for tensor 't1' of shape [70001], found 1 MiB free")


# settings that take large weights beyond float16
BEYOND = {"linear": {"weight": 9.0, "normalize": False}, "ties": {}, "slerp": {"t": 1.0}, "tsv_m": {"lambda_": 9.0}}


@pytest.mark.parametrize("method", BEYOND)
def test_what_is_not_finite_or_does_not_fit_is_said_as_by_the_kernels(method):
    rng = np.random.default_rng(0)
    base, expert = ({"t": rng.normal(size=(30, 70)).astype(np.float32)} for _ in "ab")
    for place, value, dtype in [((3, 5), np.nan, None), ((29, 69), -np.inf, None), ((3, 5), 1e5, "float16")]:
        models = [expert] if method == "slerp" else [expert, expert]
        broken = {"t": models[-1]["t"].copy()}
        broken["t"][place] = value
        models[-1] = broken
        said = []
        for device in (None, "cpu"):
            with pytest.raises(mw.MergeError) as caught:
                mw.merge_arrays(method, base, models, dtype=dtype, device=device, **BEYOND[method])
            said.append(str(caught.value))
        assert said[0] == said[1]


def test_adapters_are_not_merged_into_an_adapter_on_a_device_but_are_experts_there(tmp_path):
    base = model_arrays(0)
    save_model(tmp_path / "base", base)
    paths = [save_adapter(tmp_path / f"a{i}", linear_adapter(i, base)) for i in range(2)]
    named = {"method": "task_arithmetic", "base": tmp_path / "base", "experts": paths}
    with pytest.raises(mw.RecipeError, match="in core space, on the processors"):
        mw.merge(mw.Recipe(**named, adapter={}), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
    expected = mw.merge_to_arrays(mw.Recipe(**named))
    for name, found in mw.merge_to_arrays(mw.Recipe(**named), device="cpu").items():
        assert found.tobytes() == expected[name].tobytes()
