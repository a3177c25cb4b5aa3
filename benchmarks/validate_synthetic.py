"""Task vectors of known rank in known positions: does `limits` find the number of experts that the space has room for?

Every expert changes one d x d matrix by U S Vᵀ of rank r, plus noise. How U and V lie is known, and with it the last
number of experts that can still have directions of their own, k₀: ⌊d/r⌋, or ⌊d/(2r)⌋ where all experts stay inside one
half of the space. What `limits` says comes from checkpoints on disk, by `survey`, as for any model.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

import mergewise as mw
from mergewise.theory.recommendation import LEAST_GAIN

__all__ = ["EXPERTS", "SEEDS", "Case", "Found", "cases", "expected_interference", "find", "interference", "positions"]

Floats = NDArray[np.float64]
Position = Literal["separate", "random", "half"]
EXPERTS = 16
SEEDS = (0, 1)


@dataclass(frozen=True)
class Case:
    """A family of experts.

    Attributes:
        position: ``separate``: each in directions of its own as long as there are some, then in those of the first
            again, turned within them, so that they share directions and are no copies; ``random``; or ``half``: at
            random, but inside the same half of the space.
        decay: Singular values fall as j^-decay; 0 for equal ones.
        noise: ‖noise‖²/‖U S Vᵀ‖².
        side: d.
        rank: r.
    """

    position: Position
    decay: float
    noise: float
    side: int
    rank: int

    @property
    def room(self) -> int:
        """k₀."""
        return (self.side // 2 if self.position == "half" else self.side) // self.rank


@dataclass(frozen=True)
class Found:
    """What `limits` and the weights themselves say of a case; means over seeds where there are several.

    Attributes:
        consumed: Mean entropy rank of an expert as a share of r.
        safe: k_safe.
        most: k*.
        full: k_full.
        occupied: Occupancy of the first 1, 2, … experts.
        filled: The smallest k whose occupancy is at least 95 % of that of all experts.
        width_stops: The k before the first gain of width below 2 %; None where all are larger.
        interference: What the others do to an expert's inputs, ‖Σ_{j≠i} τ_j x‖²/‖τ_i x‖², with k experts.
    """

    consumed: float
    safe: float
    most: float
    full: float
    occupied: Floats
    filled: float
    width_stops: float | None
    interference: Floats


def cases() -> list[Case]:
    """Return all families."""
    forms: list[tuple[Position, float, float]] = [
        ("separate", 0.0, 0.0), ("random", 0.0, 0.0), ("random", 0.5, 0.0), ("random", 1.0, 0.0),
        ("random", 0.0, 0.1), ("random", 0.0, 0.5), ("half", 0.0, 0.0),
    ]  # fmt: skip
    sizes = ((64, 16), (64, 8), (192, 48), (192, 24))
    return [Case(position, decay, noise, *size) for position, decay, noise in forms for size in sizes]


def positions(case: Case, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield an orthonormal basis for every expert, (d, r): the directions on one side of its change."""
    d, r = case.side, case.rank
    whole = np.linalg.qr(rng.standard_normal((d, d)))[0]
    for i in range(EXPERTS):
        if case.position == "separate":
            first = (i % (d // r)) * r
            yield whole[:, first : first + r] @ np.linalg.qr(rng.standard_normal((r, r)))[0]
        elif case.position == "half":
            inside = np.linalg.qr(rng.standard_normal((d // 2, r)))[0]
            yield whole[:, : d // 2] @ inside
        else:
            yield np.linalg.qr(rng.standard_normal((d, r)))[0]


def experts(case: Case, seed: int) -> tuple[list[Floats], list[Floats]]:
    """Return the change of every expert, (d, d), and its directions on the side of the inputs, (d, r)."""
    rng = np.random.default_rng([seed, case.side, case.rank])
    rows, columns = list(positions(case, rng)), list(positions(case, rng))
    values = np.arange(1, case.rank + 1) ** -case.decay
    values /= np.linalg.norm(values)
    noise = np.sqrt(case.noise) / case.side
    changes = [
        (u * values) @ v.T + noise * rng.standard_normal((case.side, case.side))
        for u, v in zip(rows, columns, strict=True)
    ]
    return changes, columns


def interference(changes: Sequence[Floats], columns: Sequence[Floats]) -> Floats:
    """Return ‖Σ_{j≠i} τ_j x‖²/‖τ_i x‖² for the first k experts, over inputs x of each of them, (experts,) float64.

    Inputs are spread evenly over the directions that an expert reads.
    """
    n = len(changes)
    found = np.zeros(n)
    for k in range(2, n + 1):
        total = np.sum(changes[:k], axis=0)
        shares = [
            np.sum(((total - changes[i]) @ columns[i]) ** 2) / np.sum((changes[i] @ columns[i]) ** 2) for i in range(k)
        ]
        found[k - 1] = np.mean(shares)
    return found


def expected_interference(case: Case, k: int) -> float:
    """Return what `interference` of k experts is in closed form: the ratio of the expectations of its two squares.

    In random position that is (k - 1) r/d without noise: it grows from the second expert on, and reaches 1, the
    expert's own effect, at k = 1 + d/r; inside half of the space it is twice that. Noise falls on all directions alike.
    Of separate experts those in the same directions interfere, each with as much as the expert's own effect.
    """
    if case.position == "separate":
        places = case.side // case.rank
        sharing = [len(range(place, k, places)) for place in range(places)]
        return sum(m * (m - 1) for m in sharing) / k
    space = case.side // 2 if case.position == "half" else case.side
    noise = case.noise * case.rank / case.side
    return (k - 1) * (case.rank / space + noise) / (1.0 + noise)


def find(case: Case, folder: Path | None = None) -> Found:
    """Survey the case's experts for every seed, and return the means of what `limits` says."""
    each = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            each.append(_find(case, seed, Path(scratch)))
    stops = [one.width_stops for one in each if one.width_stops is not None]
    means = {
        name: float(np.mean([getattr(one, name) for one in each])) for name in ("consumed", "safe", "most", "full")
    }
    return Found(
        means["consumed"], means["safe"], means["most"], means["full"],
        np.mean([one.occupied for one in each], axis=0),
        float(np.mean([one.filled for one in each])),
        float(np.mean(stops)) if stops else None,
        np.mean([one.interference for one in each], axis=0),
    )  # fmt: skip


def _find(case: Case, seed: int, folder: Path) -> Found:
    changes, columns = experts(case, seed)
    paths = [folder / "base", *(folder / f"expert{i}" for i in range(EXPERTS))]
    for path, change in zip(paths, [np.zeros((case.side, case.side)), *changes], strict=True):
        path.mkdir()
        save_file({"layer.0.weight": change.astype(np.float32)}, path / "model.safetensors")
    found = mw.limits(mw.survey(paths[0], paths[1:], threads=1))
    room, gains = found.matrices[0], found.model.width.gains
    # experts of one kind, whose order says nothing: as surveyed, not by width
    occupied = room.occupancy[0]
    small = np.flatnonzero(gains < LEAST_GAIN * gains[0])
    limit = room.threshold
    return Found(
        float(room.consumed.mean() / case.rank), limit.safe, limit.most, limit.full, occupied,
        float(np.flatnonzero(occupied >= 0.95 * occupied[-1])[0] + 1),
        float(small[0]) if small.size else None, interference(changes, columns),
    )  # fmt: skip
