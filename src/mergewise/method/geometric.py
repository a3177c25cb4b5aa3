"""The geometric family: combinations along arcs, whose coefficients follow from inner products alone.

Every method is a function from Gram matrices to coefficients; the merge is then a linear combination. Vectors are
whole tensors, or slices of them where a parameter says so. Coefficients are computed for many slices at once.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from mergewise.method.base import (
    Cost,
    Definition,
    GeometricProgram,
    MatrixProgram,
    Method,
    Program,
    Settings,
    WholeProgram,
    row_elements,
)
from mergewise.method.linear import WEIGHT, weighted_sum
from mergewise.method.masks import Masks
from mergewise.method.matrix import panel_rows
from mergewise.method.matrix_method import Panels, panel_elements
from mergewise.method.parameters import Parameter

__all__ = ["METHODS", "combine"]

Grams = NDArray[np.float64]  # (rows, experts, experts)
Coefficients = NDArray[np.float64]  # (rows, experts)

_TINY = 1e-8
_RESOLVED = 1e-7  # sines and lengths that inner products in float64 can tell from nought
_PARALLEL = 0.9995


def _norms(gram: Grams) -> Coefficients:
    norms: Coefficients = np.sqrt(np.maximum(np.einsum("rii->ri", gram), 0.0))
    return norms


def _arc(cosine: NDArray[np.float64], t: float, straight: NDArray[np.bool_]) -> Coefficients:
    """Return the coefficients of two vectors at ``t`` of the arc between them, or of the line where it is straight."""
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    sine = np.where(straight, 1.0, np.sin(angle))
    arc = np.stack([np.sin((1.0 - t) * angle) / sine, np.sin(t * angle) / sine], axis=-1)
    return np.where(straight[..., None], np.array([1.0 - t, t]), arc)


def _slerp(gram: Grams, t: float) -> Coefficients:
    norms = _norms(gram)
    norms = np.where(norms > _TINY, norms, 1.0)  # a vector of zeros counts as orthogonal
    cosine = gram[:, 0, 1] / (norms[:, 0] * norms[:, 1])
    return _arc(cosine, t, np.abs(cosine) > _PARALLEL)


def _nuslerp(gram: Grams, t: float) -> Coefficients:
    norms = _norms(gram)
    norms = np.where(norms > 0.0, norms, 1.0)
    cosine = np.clip(gram[:, 0, 1] / (norms[:, 0] * norms[:, 1]), -1.0, 1.0)
    return _arc(cosine, t, np.sin(np.arccos(cosine)) < _RESOLVED)


def _multislerp(gram: Grams, weights: tuple[float, ...], eps: float) -> Coefficients:
    w = np.array(weights)
    norms = _norms(gram)
    lengths = np.where(norms > 0.0, norms + eps, 1.0)
    units = gram / (lengths[:, :, None] * lengths[:, None, :])
    mean = np.broadcast_to(w, norms.shape)
    mean_norm = _length(mean, units)
    # directions cancel, but for what inner products can resolve, or there are none: the tangent space has no origin
    undirected = mean_norm <= max(eps, _RESOLVED * float(np.sum(np.abs(w))))
    mean = mean / np.where(undirected, 1.0, mean_norm)[:, None]
    cosines = np.einsum("rij,rj->ri", units, mean)
    tangent = w - np.sum(w * cosines, axis=1, keepdims=True) * mean
    on_sphere = _exponential(mean, tangent, units, eps)
    scaled = on_sphere * np.sum(w * norms, axis=1, keepdims=True) / lengths
    return np.where(undirected[:, None], w, scaled)


def _karcher(gram: Grams, max_iter: int, tol: float) -> Coefficients:
    norms = _norms(gram)
    present = norms > 0.0
    lengths = np.where(present, norms, 1.0)
    units = gram / (lengths[:, :, None] * lengths[:, None, :])
    share = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
    mean = share / np.where(_length(share, units) > 0.0, _length(share, units), 1.0)[:, None]
    moving = present.any(axis=1)
    for _ in range(max_iter):
        cosines = np.clip(np.einsum("rij,rj->ri", units, mean), -1.0, 1.0)
        angles = np.arccos(cosines)
        apart = (angles >= tol) & (np.sin(angles) > 0.0)
        pull = share * np.where(apart, angles / np.where(apart, np.sin(angles), 1.0), 0.0)
        tangent = pull - np.sum(pull * cosines, axis=1, keepdims=True) * mean
        moving &= (_length(tangent, units) >= tol) & (_length(tangent, units) > 0.0)
        if not moving.any():
            break
        moved = _exponential(mean, tangent, units, 0.0)
        length = _length(moved, units)
        mean = np.where(moving[:, None], moved / np.where(length > 0.0, length, 1.0)[:, None], mean)
    size = np.mean(norms, axis=1, keepdims=True)  # also of vectors of zeros, which have no direction
    merged: Coefficients = mean * size / lengths
    return merged


def _model_stock(gram: Grams) -> Coefficients:
    experts = gram.shape[1]
    norms = _norms(gram)
    cosines = np.clip(gram / np.maximum(norms[:, :, None] * norms[:, None, :], 1e-6), -1.0, 1.0)
    i, j = np.triu_indices(experts, 1)
    mean = np.ascontiguousarray(cosines[:, i, j]).mean(axis=1)  # summed in one order, however many rows there are
    # anti-correlated experts would extrapolate without bound; past the base there is nothing to average
    rest = 1.0 + (experts - 1) * mean
    t = np.clip(experts * mean / np.where(rest > 0.0, rest, 1.0), 0.0, 1.0)
    return np.repeat(t[:, None] / experts, experts, axis=1)


def _length(coefficients: Coefficients, units: Grams) -> NDArray[np.float64]:
    length: NDArray[np.float64] = np.sqrt(np.maximum(np.einsum("ri,rij,rj->r", coefficients, units, coefficients), 0.0))
    return length


def _exponential(mean: Coefficients, tangent: Coefficients, units: Grams, eps: float) -> Coefficients:
    """Walk from a point of the sphere along a tangent."""
    length = _length(tangent, units)
    still = length <= eps
    direction = tangent / np.where(still, 1.0, length)[:, None]
    moved = mean * np.cos(length)[:, None] + direction * np.sin(length)[:, None]
    return np.where(still[:, None], mean, moved)


def combine(arrays: Sequence[Any], program: GeometricProgram) -> Any:
    """Carry a program out on whole arrays, without the base and its scale."""
    xp = array_api_compat.array_namespace(*arrays)
    rows = [xp.reshape(a, (-1, max(1, row_elements(a.shape, program.row)))) for a in arrays]
    coefficients = program.solve(_products(rows, axis=1))  # (rows, experts)
    weights = [xp.expand_dims(weight, axis=1) for weight in _beside(coefficients, rows[0])]
    return xp.reshape(weighted_sum(rows, weights), arrays[0].shape)


def _products(matrices: Sequence[Any], axis: int) -> Grams:
    """Return the inner products of the slices along an axis."""
    xp = array_api_compat.array_namespace(*matrices)
    gram = np.empty((matrices[0].shape[1 - axis], len(matrices), len(matrices)))
    for i, x in enumerate(matrices):
        for j, y in enumerate(matrices[: i + 1]):
            gram[:, i, j] = gram[:, j, i] = np.asarray(array_api_compat.to_device(xp.sum(x * y, axis=axis), "cpu"))
    return gram


def _beside(coefficients: Coefficients, like: Any) -> list[Any]:
    """Return the coefficients of each model as an array of the library, dtype and device of another."""
    xp, device = array_api_compat.array_namespace(like), array_api_compat.device(like)
    return [xp.asarray(column, dtype=like.dtype, device=device) for column in coefficients.T]


def _definition(lower: Any) -> Definition:
    """Return the definition on whole arrays of the method that ``lower`` belongs to."""

    def definition(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:
        program = lower(settings, len(arrays))
        if isinstance(program, WholeProgram):
            return program.definition(arrays, settings, masks)
        return combine(arrays, program)

    return definition


def _lower_slerp(settings: Settings, experts: int) -> Program:  # noqa: ARG001 - one signature for all
    return GeometricProgram(delta=False, solve=partial(_slerp, t=settings["t"]))


def _nuslerp_t(settings: Settings) -> float:
    first, second = settings["weight"]
    total = first + second
    return 0.5 if abs(total) < 1e-6 else second / total


def _nuslerp_columns(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:  # noqa: ARG001
    program = GeometricProgram(delta=False, solve=partial(_nuslerp, t=_nuslerp_t(settings)), row="last")
    xp = array_api_compat.array_namespace(*arrays)
    if arrays[0].ndim < 2:
        return combine(arrays, program)
    if arrays[0].ndim == 2 and all(arrays[0].shape):
        merged = xp.zeros_like(arrays[0])
        for place, part in _nuslerp_panels(arrays, settings):
            merged[place] = part
        return merged
    return xp.moveaxis(combine([xp.moveaxis(a, 0, -1) for a in arrays], program), -1, 0)


def _nuslerp_panels(arrays: Sequence[Any], settings: Settings) -> Panels:
    """Yield panels of two matrices whose columns are merged each by itself: they are walked over twice."""
    panels = panel_rows(*arrays[0].shape)
    gram = np.zeros((arrays[0].shape[1], 2, 2))
    for panel in panels:
        parts = [array[panel, :] for array in arrays]
        gram += _products(parts, axis=0)
    coefficients = _nuslerp(gram, _nuslerp_t(settings))
    for panel in panels:
        parts = [array[panel, :] for array in arrays]
        yield (panel, slice(None)), weighted_sum(parts, _beside(coefficients, parts[0]))


def _nuslerp_cost(rows: int, columns: int) -> Cost:
    # both panels, their product, the merged one beside what it is made from; and of each column products in two forms
    return Cost(8 * panel_elements(rows, columns) + 24 * columns, 40.0 * rows * columns)


def _lower_nuslerp(settings: Settings, experts: int) -> Program:  # noqa: ARG001
    if settings["nuslerp_row_wise"] and not settings["nuslerp_flatten"]:
        return WholeProgram(delta=False, definition=_nuslerp_columns, settings=settings)
    row: Literal["last"] | None = None if settings["nuslerp_flatten"] else "last"
    return GeometricProgram(delta=False, solve=partial(_nuslerp, t=_nuslerp_t(settings)), row=row)


def _lower_nuslerp_shaped(settings: Settings, experts: int, shape: tuple[int, ...]) -> Program:
    """Lower it to panels of matrices, which need not be in memory as a whole."""
    program = _lower_nuslerp(settings, experts)
    if isinstance(program, WholeProgram) and len(shape) == 2 and all(shape):
        cost = _nuslerp_cost(*shape)
        return MatrixProgram(_nuslerp_panels, settings, cost, 1.0, delta=False, decomposes=False)
    return program


def _lower_multislerp(settings: Settings, experts: int) -> Program:
    weights = settings["weight"]
    total = sum(weights)
    if experts == 1:
        weights = (1.0,)  # there is nothing to weigh it against
    elif settings["normalize_weights"]:
        if abs(total) < _TINY:
            raise ValueError("weights that do not sum to zero (they are divided by their sum)")
        weights = tuple(w / total for w in weights)
    return GeometricProgram(delta=False, solve=partial(_multislerp, weights=weights, eps=settings["eps"]))


def _lower_karcher(settings: Settings, experts: int) -> Program:  # noqa: ARG001
    return GeometricProgram(delta=False, solve=partial(_karcher, max_iter=settings["max_iter"], tol=settings["tol"]))


def _lower_model_stock(settings: Settings, experts: int) -> Program:  # noqa: ARG001
    return GeometricProgram(delta=True, solve=_model_stock, row="last" if settings["filter_wise"] else None)


METHODS = (
    Method(
        "slerp", "geometric", "weight", "The point at t of the arc from the base to another model.",
        "Shoemake 1985, Animating Rotation with Quaternion Curves",
        (Parameter("t", 0.5, "0 gives the base, 1 the other model"),),
        _definition(_lower_slerp), _lower_slerp, min_experts=2, max_experts=2, base_is_first=True,
    ),
    Method(
        "nuslerp", "geometric", "either", "The point of the arc between two models, or task vectors, that weights say.",
        "mergekit 0.1.5",
        (
            WEIGHT,
            Parameter("nuslerp_flatten", True, "one arc per tensor, not per slice of it"),
            Parameter("nuslerp_row_wise", False, "without flattening: slices along the first axis, not the last"),
        ),
        _definition(_lower_nuslerp), _lower_nuslerp, min_experts=2, max_experts=2, lower_shaped=_lower_nuslerp_shaped,
    ),
    Method(
        "multislerp", "geometric", "either", "A weighted mean on the sphere, by one step in its tangent space.",
        "mergekit 0.1.5",
        (
            WEIGHT,
            Parameter("normalize_weights", True, "divide the weights by their sum"),
            Parameter("eps", 1e-8, "added to norms, and below which a length counts as none", low=0.0),
        ),
        _definition(_lower_multislerp), _lower_multislerp,
    ),
    Method(
        "karcher", "geometric", "weight", "The Riemannian mean on the sphere, of mean length.",
        "Karcher 1977, Riemannian Center of Mass",
        (
            Parameter("max_iter", 10, "most steps", low=0),
            Parameter("tol", 1e-5, "angle below which the iteration ends", low=0.0),
        ),
        _definition(_lower_karcher), _lower_karcher, base_joins=True,
    ),
    Method(
        "model_stock", "geometric", "delta", "The mean of the experts, drawn to the base as their angles say.",
        "Jang et al. 2024, arXiv 2403.19522",
        (Parameter("filter_wise", False, "one angle per row, along the last axis, not per tensor"),),
        _definition(_lower_model_stock), _lower_model_stock, min_experts=2,
    ),
)  # fmt: skip
