"""Models of all shapes and dtypes, settings from declared parameters, and results by a method's own definition."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import Source, StatisticsWriter, model_digest, numpy_dtype
from mergewise.engine.arrays import merge_arrays
from mergewise.engine.masks import random_masks
from mergewise.engine.measured import in_memory
from mergewise.kernels import encode_all
from mergewise.kernels.constants import CODES
from mergewise.method import Measured, Parameter, find_method

__all__ = [
    "DTYPES",
    "SHAPES",
    "Model",
    "assert_close",
    "assert_identical",
    "by_definition",
    "expert_counts",
    "identity",
    "lowers",
    "merged",
    "normal_model",
    "one_family",
    "plain_settings",
    "python_name",
    "random_mask",
    "resolved",
    "round_once",
    "save_statistics",
    "settings_of",
    "slack_of",
    "statistics_of",
    "takes",
    "wrong_values",
]

Model = dict[str, NDArray[Any]]
Chosen = Mapping[str, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""Storage dtypes of floating-point weights, by their everyday names."""

SHAPES = ((0,), (), (1,), (7,), (2, 0, 3), (5, 3), (2, 3, 4), (1025,))

_CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


# ---- settings -------------------------------------------------------------------------------------------------------


def expert_counts(name: str, most: int = 4) -> tuple[int, int]:
    """Return how few and how many experts to merge, beside a base that the method may count among its models.

    More than ``most`` models only where the method needs them.
    """
    method = find_method(name)
    beside = 1 if method.base_is_first else 0
    fewest = max(1, method.min_experts - beside)
    return fewest, max(fewest, min(method.max_experts or most, most) - beside)


def takes(name: str, parameter: str) -> bool:
    """Whether a method has a parameter."""
    return find_method(name).parameter(parameter) is not None


def python_name(parameter: str) -> str:
    """Return how an argument of ``merge_arrays`` is spelt."""
    return {"lambda": "lambda_"}.get(parameter, parameter)


def resolved(name: str, chosen: Chosen, models: int) -> dict[str, Any]:
    """Return the settings that a definition sees: a tuple per per-model parameter, defaults filled in."""
    found = {}
    for parameter in find_method(name).parameters:
        if parameter.inert:
            continue
        if parameter.path:
            found[parameter.name] = (Measured(),) * models  # what a plan makes of files
            continue
        given = chosen.get(python_name(parameter.name), parameter.default)
        if parameter.per_model:
            given = tuple(given) if isinstance(given, list) else (given,) * models
        found[parameter.name] = given
    return found


def lowers(name: str, chosen: Chosen, experts: int) -> bool:
    """Whether settings fit together."""
    models = experts + find_method(name).base_is_first
    try:
        find_method(name).lower(resolved(name, chosen, models), models)
    except ValueError:
        return False
    return True


def plain_settings(name: str, experts: int, density: float | None = None) -> dict[str, Any]:  # noqa: ARG001
    """Return the defaults, and a density where the method takes one."""
    return {"density": density} if density is not None and takes(name, "density") else {}


def identity(name: str, experts: int) -> dict[str, Any]:
    """Return settings under which equal models should give that model: weights 1/n, nothing dropped."""
    chosen: dict[str, Any] = {}
    if takes(name, "weight"):
        chosen["weight"] = [1.0 / experts] * experts
    if takes(name, "density"):
        chosen["density"] = [1.0] * experts
    nothing_left_out = {"ram": {"epsilon": 0.0}, "ramplus_tl": {"epsilon": 0.0}, "nearswap": {"t": 1e9}}
    return chosen | nothing_left_out.get(name, {}) | ({"lambda_t": [0.0] * experts} if takes(name, "lambda_t") else {})


def settings_of(rng: np.random.Generator, name: str, experts: int, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Draw arguments of ``merge_arrays`` that fit together: each parameter left out, or given, at edges or between."""
    for _ in range(50):
        chosen: dict[str, Any] = {}
        for parameter in find_method(name).parameters:
            if parameter.inert or parameter.path or parameter.name in without or rng.random() < 0.4:
                continue
            values = [_value_of(rng, parameter) for _ in range(experts if parameter.per_model else 1)]
            chosen[python_name(parameter.name)] = values if parameter.per_model else values[0]
        if lowers(name, chosen, experts):
            return chosen
    return {}


def _value_of(rng: np.random.Generator, parameter: Parameter) -> Any:
    if parameter.choices:
        return parameter.choices[rng.integers(len(parameter.choices))]
    if isinstance(parameter.default, bool):
        return bool(rng.random() < 0.5)
    middle = float(parameter.default)
    low = (
        parameter.low
        if parameter.low is not None
        else min(-2.0, middle, *([] if parameter.high is None else [parameter.high - 2.0]))
    )
    high = parameter.high if parameter.high is not None else max(2.0, middle, low + 2.0)
    if isinstance(parameter.default, int):
        return int(rng.integers(math.ceil(low), math.floor(high), endpoint=True))
    return float([low, high, middle, rng.uniform(low, high)][rng.integers(4)])


def wrong_values(parameter: Parameter) -> list[Any]:
    """Return values that a parameter must refuse."""
    common: list[Any] = [None, "nonsense", {"a": 1}]
    if parameter.path:
        return [None, {"a": 1}, 3, 0.5, True]
    if parameter.choices:
        return [*common, 3, 0.5, ""] + ([] if parameter.aliases else [True, False])
    if isinstance(parameter.default, bool):
        return [*common, 2, 0.5, "true", "yes"]
    numbers: list[Any] = [True, False, "1", "0.5", math.nan, math.inf, -math.inf, 10**400, 1j]
    if isinstance(parameter.default, int):
        numbers += [0.5, 1.0]
        numbers.remove(10**400)  # an integer has no largest value
    if parameter.low is not None:
        numbers += [parameter.low - 1, parameter.low - 1e-9]
    if parameter.high is not None:
        numbers += [parameter.high + 1, math.nextafter(parameter.high, math.inf)]
    return [*common, *numbers]


# ---- models ---------------------------------------------------------------------------------------------------------


def round_once(values: Any, dtype: str) -> NDArray[Any]:
    """Round float64 values to a storage dtype as merges do: once, to nearest, ties to even."""
    wide = np.asarray(values, np.float64)
    flat = np.ascontiguousarray(wide).reshape(-1)
    width = DTYPES[dtype].itemsize
    raw = np.zeros((flat.size * width + 7) & ~7, np.uint8)
    encode_all(CODES[_CODES[dtype]], flat, flat.size, raw, 0)
    return raw[: flat.size * width].view(DTYPES[dtype]).reshape(wide.shape)


def normal_model(
    rng: np.random.Generator,
    shapes: Sequence[tuple[int, ...]],
    dtype: str,
    scale: float = 1.0,
    around: Model | None = None,
) -> Model:
    """Return a model of normal weights, around another or around zero: tensors ``t0``, ``t1``, … of the shapes."""
    model = {}
    for i, shape in enumerate(shapes):
        values = scale * rng.normal(size=shape)
        if around is not None:
            values = values + np.asarray(around[f"t{i}"], np.float64)
        model[f"t{i}"] = round_once(values, dtype)
    return model


def one_family(
    seed: int,
    experts: int,
    dtype: str = "float32",
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    dtypes: Sequence[str] | None = None,
) -> tuple[Model, list[Model]]:
    """Return a base and experts near it."""
    rng = np.random.default_rng(seed)
    base = normal_model(rng, shapes, dtype)
    return base, [normal_model(rng, shapes, d, 0.1, base) for d in dtypes or [dtype] * experts]


def statistics_of(name: str, model: Model) -> Model:
    """Return statistics that a model might have, from nothing but its weights: the same for the same model.

    Squares of the weights stand for their Fisher information, WᵀW and a ridge for the Gram matrix of a layer's inputs.
    """
    wide = {
        tensor: np.nan_to_num(np.asarray(array, np.float64), posinf=0.0, neginf=0.0)
        for tensor, array in model.items()
        if np.issubdtype(array.dtype, np.floating) or array.dtype == DTYPES["bfloat16"]
    }
    if find_method(name).statistics == "fisher":
        return {tensor: array * array for tensor, array in wide.items()}
    return {tensor: array.T @ array + 0.1 * np.eye(array.shape[1]) for tensor, array in wide.items() if array.ndim == 2}


def save_statistics(name: str, model: Source, out: Path) -> Path:
    """Write ``statistics_of`` a checkpoint for a method, as 'mergewise statistics' writes those of examples."""
    arrays: Model = {}
    for tensor, info in model.tensors.items():
        raw = np.empty(info.nbytes, np.uint8)
        model.read_into(info, 0, raw)
        arrays[tensor] = raw.view(numpy_dtype(info.dtype)).reshape(info.shape)
    found = statistics_of(name, arrays)
    words = {"kind": find_method(name).statistics, "model": model_digest(model), "inputs_first": "[]"}
    with StatisticsWriter(out, {tensor: array.shape for tensor, array in found.items()}, words, ()) as writer:
        for tensor, array in found.items():
            writer.write(tensor, array)
        writer.finish()
    return out


def merged(name: str, base: Model | None, experts: Sequence[Model], **chosen: Any) -> Model:
    """Merge arrays, with made-up statistics where the method needs some."""
    if find_method(name).statistics and "statistics" not in chosen:
        chosen["statistics"] = [statistics_of(name, model) for model in experts]
    return merge_arrays(name, base, experts, **chosen)


# ---- results --------------------------------------------------------------------------------------------------------


def random_mask(seed: int, expert: int, tensor: str, shape: tuple[int, ...], density: Any) -> NDArray[np.bool_]:
    """Return which elements a random mask keeps; a density for all, or for each."""
    kept: NDArray[np.bool_] = random_masks({"seed": seed}, tensor, shape)(expert, density)
    return kept


def by_definition(
    name: str,
    base: Model | None,
    experts: Sequence[Model],
    chosen: Chosen,
    as_array: Callable[[Any], Any] = np.asarray,
    mask: Callable[..., Any] = random_mask,
) -> Model:
    """Return what a method's definition gives on whole tensors in float64: the merged model before rounding."""
    assert "scope" not in chosen, "a definition sees one tensor"
    method = find_method(name)
    models = [base, *experts] if method.base_is_first and base is not None else list(experts)
    settings = resolved(name, chosen, len(models))
    measured = [statistics_of(name, model) for model in experts] if method.statistics else []
    norms = [in_memory(one, method.statistics, "").norm for one in measured]
    found = {}
    for tensor in experts[0]:
        start = np.zeros(()) if base is None else np.asarray(base[tensor], np.float64)
        arrays = [np.asarray(m[tensor], np.float64) for m in models]
        if method.merges_deltas(base):
            arrays = [a - start for a in arrays]
        if not arrays[0].size:
            found[tensor] = arrays[0]
            continue
        given = settings
        if method.statistics:
            arrays += [one[tensor] for one in measured if tensor in one]
            known = tensor in measured[0]
            given = {**settings, "statistics": tuple(Measured(norm) for norm in norms) if known else ()}

        def masks(i: int, density: Any, tensor: str = tensor, shape: tuple[int, ...] = arrays[0].shape) -> Any:
            return as_array(mask(settings.get("seed", 0), i, tensor, shape, density))

        merged = np.asarray(method.definition([as_array(a) for a in arrays], given, masks))
        found[tensor] = start + merged if method.merges_deltas(base) else merged
    return found


def slack_of(name: str, chosen: Chosen, dtype: str) -> float:
    """Return how far apart two float64 evaluations of one definition may be.

    Where nothing but the same operations in the same order happens, not at all. Sums over a tensor (norms, inner
    products) may be added up in another order, and in float64 storage the last bit of every operation shows.
    """
    exact = find_method(name).family in {"linear", "voting"} and dtype != "float64" and name != "sce"
    default = find_method(name).parameter("rescale")
    l1 = chosen.get("rescale", default.default if default else "none") == "l1"
    return 0.0 if exact and not l1 else 1e-11


def assert_close(
    found: Model,
    expected: Model,
    dtype: str,
    slack: float = 0.0,
    rounding: Callable[[Any, str], NDArray[Any]] = round_once,
) -> None:
    """Require the correct rounding of the expected values, or of others no further than ``slack`` from them."""
    assert found.keys() == expected.keys(), f"expected tensors {sorted(expected)}, found {sorted(found)}"
    for name, values in expected.items():
        low, high = rounding(values - slack, dtype), rounding(values + slack, dtype)
        assert found[name].dtype == low.dtype, f"{name}: expected {low.dtype}, found {found[name].dtype}"
        assert found[name].shape == low.shape, f"{name}: expected shape {low.shape}, found {found[name].shape}"
        wide = found[name].astype(np.float64)
        bad = np.flatnonzero(~((low.astype(np.float64) <= wide) & (wide <= high.astype(np.float64))))
        assert not bad.size, (
            f"{name}: {bad.size} of {wide.size} elements differ; at {bad[0]} found {wide.ravel()[bad[0]]!r}, expected "
            f"the rounding of {np.ravel(values)[bad[0]]!r}"
        )


def assert_identical(found: Model, expected: Model) -> None:
    """Require the same tensors, byte for byte."""
    assert found.keys() == expected.keys(), f"expected tensors {sorted(expected)}, found {sorted(found)}"
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, f"{name}: expected {values.dtype}, found {found[name].dtype}"
        assert found[name].shape == values.shape, f"{name}: expected shape {values.shape}, found {found[name].shape}"
        assert found[name].tobytes() == values.tobytes(), f"{name}: the bytes differ"
