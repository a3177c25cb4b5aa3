"""Limits as plain data, for JSON and for the report."""

from dataclasses import asdict, astuple
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mergewise.theory.dimension import MatrixRoom
    from mergewise.theory.limits import GroupLimits, Limits
    from mergewise.theory.threshold import Threshold

__all__ = ["plain", "summary"]

_DIGITS = 6
_RANGES = ("k_safe_range", "k_star_range", "k_full_range")  # if all sketched ranks are an error larger, or smaller


def summary(found: "Limits") -> dict[str, Any]:
    """Return limits as plain data; see ``Limits.summary``."""
    order = found.recommendation.order
    chain = found.claims.curve(order)
    recommendation = asdict(found.recommendation) | {
        "experts": [found.experts[i] for i in order],
        "left_out": {found.experts[i]: why for i, why in found.recommendation.left_out},
        "coverage": chain[:, 0] if len(order) else [],
        "conflict": chain[:, 1] if len(order) else [],
    }
    content: dict[str, Any] = {
        "base": found.base, "experts": list(found.experts), "density": found.density, "eta": found.eta,
        "recommendation": recommendation,
        "findings": [asdict(finding) for finding in found.findings],
        "model": _group(found.model),
        "layers": [_group(group) for group in found.layers],
        "kinds": [_group(group) for group in found.kinds],
        "matrices": [_matrix(room) for room in found.matrices],
        "collisions": [asdict(one) for one in found.collisions],
        "tails": [asdict(tail) for tail in found.tails],
        "remarks": list(found.remarks),
    }  # fmt: skip
    result: dict[str, Any] = plain(content)
    return result


def _group(group: "GroupLimits") -> dict[str, Any]:
    curves = asdict(group.width)
    coverage, conflict = group.coverage.T
    return {
        "name": group.name, "tensors": group.tensors, "parameters": group.parameters, "energy": group.energy,
        "norms": group.norms, "cosines": group.cosines, "width": curves,
        "gain_shares": group.width.gains / group.width.gains[0] if group.width.gains[0] > 0 else group.width.gains,
        "coverage": coverage, "conflict": conflict, "conflict_together": group.conflict,
        "ranks": dict(zip(("stable", "participation", "entropy"), group.ranks, strict=True)),
        "consumed": group.consumed, "occupancy": group.occupancy, "participation_occupancy": group.participation,
        "k_safe": group.room[0], "k_star": group.room[1], "k_full": group.room[2], "sketched": group.sketched,
        **dict(zip(_RANGES, group.room_range, strict=True)),
    }  # fmt: skip


def _matrix(room: "MatrixRoom") -> dict[str, Any]:
    limits: Threshold = room.threshold
    ends = zip(*map(astuple, room.threshold_range), strict=True)
    return {
        "name": room.name, "shape": list(room.shape), "energy": room.energy, "capacity": room.capacity,
        "entropy_ranks": room.consumed, "stable_ranks": room.ranks[:, 0], "participation": room.ranks[:, 1],
        "occupancy_rows": room.occupancy[0], "occupancy_columns": room.occupancy[1], "occupancy_error": room.error,
        "participation_occupancy": room.participation,
        "dimension_rows": room.dimension[0], "dimension_columns": room.dimension[1],
        "k_safe": limits.safe, "k_star": limits.most, "k_full": limits.full, "sketched": room.sketched,
        "entropy_rank_errors": room.consumed_errors, **dict(zip(_RANGES, ends, strict=True)),
    }  # fmt: skip


def plain(value: Any) -> Any:
    """Return lists and numbers in place of arrays and tuples, rounded to six digits; ``None`` for NaN."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return None if not np.isfinite(value) else float(f"{float(value):.{_DIGITS}g}")
    return int(value) if isinstance(value, np.integer) else value
