"""What more experts would bring, from a few measured merges: the law, its intervals, and when to stop."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.theory.cells import Cells, read_cells
from mergewise.theory.decline import Decline, fit_declines
from mergewise.theory.errors import ForecastError
from mergewise.theory.size_law import SizeLaw, fit_size_law, laws_at_size
from mergewise.theory.tail_law import LARGEST_SHIFT, Law, fit_laws, r_squared

__all__ = ["Forecast", "Point", "forecast"]

Floats = NDArray[np.float64]
LEVEL = 0.95
LEAST_R_SQUARED = 0.95
MOST_EXPERTS = 1000
_PARAMETERS, _PARAMETERS_OVER_SIZES = 3, 6
_ROUNDING = 1e-12  # of the largest mean loss
_STAYS = "the loss does not fall with the number of experts"
_RISES = "the loss rises with every expert"
_NO_FALL = (_STAYS, _RISES)
WORTH = 0.05
"""Without a rule: stop where one more expert brings less than this share of all that experts beyond the first can."""


@dataclass(frozen=True)
class Point:
    """One number of experts; losses, also where scores were measured (1 − score).

    Attributes:
        k: the number.
        measured: mean over the measured subsets; None where there are none.
        subsets: how many were measured.
        loss: what the law says, or the line where losses rise.
        low: lower end of its 95 % interval, low ≤ loss; None without replicates.
        high: upper end.
        gain: what expert k + 1 brings.
    """

    k: int
    measured: float | None
    subsets: int
    loss: float
    low: float | None
    high: float | None
    gain: float


@dataclass(frozen=True)
class Forecast:
    """A fitted law and what follows from it.

    Attributes:
        law: floor, tail and shift, at ``size``.
        low: the lower ends of their 95 % intervals; None without replicates.
        high: the upper ends.
        r_squared: weighted, of the mean losses; NaN where these are all the same.
        decline: the line that stands in for the law where losses rise with k; None where they do not, or over sizes.
        sizes: the law over sizes; None where one size was measured.
        size: parameters of the base that ``law`` and ``curve`` are for; None where one size was measured.
        scores: whether scores were measured; losses are then 1 − score.
        curve: k = 1, 2, …
        experts: the recommended number.
        reason: why no more, as the end of a sentence.
        warnings: where the law should not be trusted, as sentences.
        remarks: how cells were read.
    """

    law: Law
    low: Law | None
    high: Law | None
    r_squared: float
    decline: Decline | None
    sizes: SizeLaw | None
    size: float | None
    scores: bool
    curve: tuple[Point, ...]
    experts: int
    reason: str
    warnings: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The recommendation in one sentence."""
        name = "score" if self.scores else "loss"
        point = self.curve[self.experts - 1]
        if self.law.tail <= 0.0 and self.reason in _NO_FALL:
            if point.measured is None:
                return f"The law says nothing here: {self.reason}."
            best = f"{self.experts} is best of the numbers measured ({name} {self.value(point.measured):.4g})"
            last = self.curve[-1]
            more = f"; with {last.k} expect {self._expected(last)}" if self.decline and last.k > self.experts else ""
            return f"The law says nothing here, and {best}: {self.reason}{more}."
        merge = "Merge 1 expert" if self.experts == 1 else f"Merge {self.experts} experts"
        return f"{merge} and expect a {name} of {self._expected(point)}: {self.reason}."

    def _expected(self, point: Point) -> str:
        ends = sorted(self.value(end) for end in (point.low, point.high) if end is not None)
        return f"{self.value(point.loss):.4g}" + (f" ({ends[0]:.4g} to {ends[1]:.4g})" if ends else "")

    def value(self, loss: float) -> float:
        """Return a loss as it was measured: itself, or the score."""
        return 1.0 - loss if self.scores else loss

    def summary(self) -> dict[str, Any]:
        """Return everything as plain data; in scores, and with a ceiling for a floor, where these were measured."""
        found = asdict(self) | {"sentence": self.sentence}
        found["r_squared"] = None if math.isnan(self.r_squared) else self.r_squared
        return _in_scores(found) if self.scores else found


def forecast(
    cells: Cells | Mapping[int, Sequence[float]] | str | Path,
    *,
    stop: float | None = None,
    target: float | None = None,
    budget: float | None = None,
    cost: float = 1.0,
    experts: int | None = None,
    size: float | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Forecast:
    """Fit the floor and tail law to measured merges, and say how many experts are worth it.

    Args:
        cells: losses of merged subsets by k, cells, or a file for `read_cells`.
        stop: merge no more once one more expert lowers the loss by no more than this. Without ``stop`` and ``target``
            that is 5 % of what all experts beyond the first can bring.
        target: a loss (a score where scores were measured) that is good enough: the fewest experts that meet it, or,
            where losses rise with k, the most.
        budget: what all experts together may cost.
        cost: what one expert costs, in the same unit.
        experts: how many there are at most.
        size: parameters of the base to forecast for; by default the largest measured. Needs three sizes.
        replicates: bootstrap resamples of the subsets of every k, from which 95 % intervals come; 0 for none.
        seed: of the resamples.

    Raises:
        ForecastError: if there are too few different k or sizes to fit, or a rule makes no sense.
    """
    if isinstance(cells, str | Path):
        cells = read_cells(cells)
    elif not isinstance(cells, Cells):
        pairs = [(k, loss) for k, losses in cells.items() for loss in losses]
        cells = Cells(np.array([k for k, _ in pairs], np.int64), np.array([loss for _, loss in pairs], np.float64))
    _check(cells, stop, target, budget, cost, experts, size)
    points, index = np.unique(np.stack([_sizes(cells), cells.k]), axis=1, return_inverse=True)
    sizes, k = points
    means, resamples = _means(cells.losses, index.reshape(-1), replicates, seed)
    law, over_sizes, at, size = _fit(cells, sizes, k, means, size)
    warnings = _warnings(law, at, sizes, k, means)
    decline, declines = None, None
    if law.tail < 0.0 and over_sizes is None:
        decline, declines = _decline(k, means, resamples)
    laws = None
    if len(resamples):
        laws = fit_laws(k, resamples) if over_sizes is None else laws_at_size(sizes, k, resamples, float(size or 0))
    if replicates and (alone := _measured_once(k, index, experts)):
        counts = ", ".join(map(str, alone))
        warnings.append(
            f"Numbers of experts measured on one subset only ({counts}) "
            + ("make the intervals too narrow." if len(resamples) else "give no intervals.")
        )
    known = {int(n): (float(y), int((index.reshape(-1) == i).sum())) for i, (s, n, y) in
             enumerate(zip(sizes, k, means, strict=True)) if over_sizes is None or s == size}  # fmt: skip
    if target is not None and cells.scores:
        target = 1.0 - target
    chosen, reason = _recommended(law, decline, known, stop, target, budget, cost, experts, warnings)
    last = max(int(cells.k.max()), chosen + 1) if experts is None else max(experts, int(cells.k.max()))
    if decline is None:
        curve = tuple(_point(law, _losses(laws, n), n, known.get(n)) for n in range(1, last + 1))
    else:
        curve = tuple(_point(decline, _on_lines(declines, n), n, known.get(n)) for n in range(1, last + 1))
    low, high = (None, None) if laws is None else _ends(laws, np.array([law.floor, law.tail, law.shift]))
    return Forecast(
        law, None if low is None else Law(*map(float, low)), None if high is None else Law(*map(float, high)),
        r_squared(means, at, k), decline, over_sizes, size, cells.scores, curve, chosen, reason, tuple(warnings),
        cells.remarks,
    )  # fmt: skip


def _in_scores(found: dict[str, Any]) -> dict[str, Any]:
    """Return the plain data of losses 1 − score as those of scores: low and high ends change places."""

    def score(loss: float | None) -> float | None:
        return None if loss is None else 1.0 - loss

    def law(one: dict[str, Any] | None, floor: dict[str, Any] | None) -> dict[str, Any] | None:
        if one is None or floor is None:
            return None
        return {"ceiling": score(floor["floor"])} | {name: value for name, value in one.items() if name != "floor"}

    decline = found["decline"] and {"first": score(found["decline"]["first"]), "rate": found["decline"]["rate"]}
    curve = [
        {
            "k": point["k"], "measured": score(point["measured"]), "subsets": point["subsets"],
            "score": score(point["loss"]), "low": score(point["high"]), "high": score(point["low"]),
            "gain": point["gain"],
        }
        for point in found["curve"]
    ]  # fmt: skip
    return found | {
        "law": law(found["law"], found["law"]), "low": law(found["low"], found["high"]),
        "high": law(found["high"], found["low"]), "sizes": law(found["sizes"], found["sizes"]), "curve": curve,
        "decline": decline,
    }  # fmt: skip


def _check(
    cells: Cells, stop: float | None, target: float | None, budget: float | None, cost: float, experts: int | None,
    size: float | None,
) -> None:  # fmt: skip
    counts = np.unique(cells.k)
    if len(counts) < 3:
        found = ", ".join(map(str, counts))
        raise ForecastError(
            f"A floor, a tail and a shift need at least three different numbers of experts. Got {found}; measure more."
        )
    if cells.sizes is not None and len(np.unique(cells.sizes)) < 3:
        raise ForecastError(
            "The law over sizes needs at least three sizes. Got two; choose one of them, or add another."
        )
    if size is not None and (cells.sizes is None or not size > 0.0):
        raise ForecastError(f"Forecasting for another size needs cells of three sizes. Got one, and size {size:g}.")
    if (stop is not None and not stop > 0.0) or not cost > 0.0:
        raise ForecastError(f"A gain to stop at and a cost per expert are above 0. Got {stop if cost > 0.0 else cost}.")
    if target is not None and not math.isfinite(target):
        raise ForecastError(f"A target is a finite number. Got {target}.")
    if experts is not None and experts < 1:
        raise ForecastError(f"There is at least one expert to merge. Got {experts}.")
    if budget is not None and not cost <= budget < math.inf:
        raise ForecastError(f"A budget pays for one expert at least, which costs {cost:g}. Got {budget:g}.")


def _sizes(cells: Cells) -> Floats:
    return np.ones(len(cells.k)) if cells.sizes is None else cells.sizes


def _means(losses: Floats, index: NDArray[np.intp], replicates: int, seed: int) -> tuple[Floats, Floats]:
    """Return mean losses by point, and those of subsets resampled within every point: (replicates, points).

    A number of experts with one subset keeps it. There are no replicates where that is so of all.
    """
    groups = [losses[index == i] for i in range(index.max() + 1)]
    means = np.array([group.mean() for group in groups])
    if max(map(len, groups)) == 1 or not replicates:
        return means, np.empty((0, len(groups)))
    rng = np.random.default_rng(seed)
    drawn = [group[rng.integers(len(group), size=(replicates, len(group)))].mean(axis=1) for group in groups]
    return means, np.stack(drawn, axis=1)


def _measured_once(k: Floats, index: NDArray[np.intp], experts: int | None) -> list[int]:
    """Return the numbers of experts that have one subset, though there are others: not so where all are merged."""
    subsets = np.bincount(index.reshape(-1))
    return sorted({int(n) for n in k[subsets == 1] if n != experts})


def _fit(
    cells: Cells, sizes: Floats, k: Floats, means: Floats, size: float | None
) -> tuple[Law, SizeLaw | None, Floats, float | None]:
    """Fit one size or several; return the law at a size, the law over sizes, fitted means, and the size."""
    if cells.sizes is None:
        law = Law(*map(float, fit_laws(k, means[None])[0]))
        return _without_rounding(law, means), None, law.floor + law.tail / (k + law.shift), None
    size = float(sizes.max()) if size is None else float(size)
    over = fit_size_law(sizes, k, means)
    fitted = np.array([over.at(n).loss(int(count)) for n, count in zip(sizes, k, strict=True)])
    return _without_rounding(over.at(size), means), over, fitted, size


def _without_rounding(law: Law, means: Floats) -> Law:
    """Return a law without a tail that is nothing but the rounding of losses that do not depend on k."""
    nothing = abs(law.loss(1) - law.floor) <= _ROUNDING * float(np.abs(means).max())
    return replace(law, tail=0.0) if nothing else law


def _warnings(law: Law, fitted: Floats, sizes: Floats, k: Floats, means: Floats) -> list[str]:
    found = []
    fit = r_squared(means, fitted, k)
    if math.isnan(fit):
        found.append("The measured losses are all the same: more experts change nothing.")
    elif fit < LEAST_R_SQUARED:
        found.append(f"The law explains the measured means badly: R² is {fit:.3f}, below {LEAST_R_SQUARED}.")
    if law.tail < 0.0:
        found.append(
            "The loss rises with the number of experts (A < 0): the law does not apply"
            + (", and a line in ln k stands in for it." if len(np.unique(sizes)) == 1 else ", nor do its rules.")
        )
    pairs = zip(sizes, sizes[1:], k, k[1:], np.diff(means), strict=False)
    rises = [(int(a), int(b)) for s, t, a, b, step in pairs if s == t and step > 0.0]
    if rises:
        a, b = rises[0]
        found.append(f"The measured mean loss is not monotone: it rises from {a} to {b} experts.")
    if law.tail > 0.0 and not math.isnan(fit):
        if law.shift >= LARGEST_SHIFT:
            found.append("The best b lies at the end of its grid, 3: the loss falls more slowly than the law can tell.")
        elif law.shift <= 0.0:
            found.append("The best b lies at the end of its grid, 0: the loss may fall faster than the law can tell.")
    if len(np.unique(sizes)) == 1:
        if len(k) == _PARAMETERS:
            found.append("Three numbers of experts determine the law but do not test it: R² says little here.")
    elif len(k) <= _PARAMETERS_OVER_SIZES:
        found.append(
            f"{len(k)} pairs of size and number determine the law over sizes, which has {_PARAMETERS_OVER_SIZES} "
            "parameters, but do not test it: R² says little here."
        )
    return found


def _recommended(
    law: Law, decline: Decline | None, known: Mapping[int, tuple[float, int]], stop: float | None,
    target: float | None, budget: float | None, cost: float, experts: int | None, warnings: list[str],
) -> tuple[int, str]:  # fmt: skip
    """Return the least of what the rules allow, with the reason; add to the warnings where a rule cannot be kept."""
    limits = [(MOST_EXPERTS, "a forecast looks no further")]
    if experts is not None:
        limits.append((experts, "there are no more experts"))
    if budget is not None:
        limits.append((math.floor(budget / cost * (1 + 1e-12)), f"the budget of {budget:g} pays for no more"))
    if law.tail <= 0.0:
        if decline is not None and target is not None:
            most = decline.most(target)
            if most is not None:
                return min([*limits, (most, "one more would miss the target")], key=lambda limit: limit[0])
            warnings.append("No number of experts meets the target: not even one alone does.")
        allowed = min(n for n, _ in limits)
        best = min((n for n in known if n <= allowed), key=lambda n: known[n][0], default=1)
        return best, _RISES if decline is not None else _STAYS
    enough = None if target is None else law.target(target)
    if enough is not None:
        limits.append((enough, "that meets the target"))
    elif target is not None:
        warnings.append("No number of experts meets the target: it lies at or beyond the floor.")
    if stop is not None:
        limits.append((law.stop(stop), f"one more would bring no more than {stop:g}"))
    elif enough is None:
        worth = WORTH * (law.loss(1) - law.floor)
        limits.append(
            (
                law.stop(worth),
                f"one more would bring less than {WORTH:.0%} of all that those beyond the first can bring",
            )
        )
    chosen = min(limits, key=lambda limit: limit[0])
    if enough is not None and chosen[0] < enough:
        warnings.append(f"The target would take {enough} experts.")
    return chosen


def _decline(k: Floats, means: Floats, resamples: Floats) -> tuple[Decline | None, Floats | None]:
    """Fit the line to losses that rise, and to their replicates; None where it falls after all."""
    first, rate = map(float, fit_declines(k, means[None])[0])
    if not rate > 0.0:
        return None, None
    return Decline(first, rate), fit_declines(k, resamples) if len(resamples) else None


def _losses(laws: Floats | None, k: int) -> Floats | None:
    return None if laws is None else laws[:, 0] + laws[:, 1] / (k + laws[:, 2])


def _on_lines(lines: Floats | None, k: int) -> Floats | None:
    return None if lines is None else lines[:, 0] + lines[:, 1] * math.log(k)


def _point(law: Law | Decline, replicates: Floats | None, k: int, known: tuple[float, int] | None) -> Point:
    loss = law.loss(k)
    low, high = (None, None) if replicates is None else map(float, _ends(replicates, loss))
    measured, subsets = (None, 0) if known is None else known
    return Point(k, measured, subsets, loss, low, high, law.gain(k))


def _ends(replicates: Floats, estimate: Floats | float) -> tuple[Floats, Floats]:
    """Return the percentile interval, widened where needed to hold the estimate."""
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return np.minimum(low, estimate), np.maximum(high, estimate)
