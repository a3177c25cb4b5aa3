"""What more experts would bring, from a few measured merges: the law, its intervals, and when to stop."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.theory.cells import MOST_EXPERTS, Cells, count_of, read_cells
from mergewise.theory.decline import Decline, fit_declines, line_error
from mergewise.theory.errors import ForecastError
from mergewise.theory.fit_warnings import PARAMETERS_OVER_SIZES, warnings_of
from mergewise.theory.rules import RISES, STAYS, allowed, recommended
from mergewise.theory.size_law import SizeLaw, fit_size_law, laws_at_size, r_squared_within
from mergewise.theory.tail_law import Law, fit_laws, r_squared

__all__ = ["Forecast", "Point", "forecast"]

Floats = NDArray[np.float64]
LEVEL = 0.95
_ROUNDING = 1e-12  # of the largest mean loss


@dataclass(frozen=True)
class Point:
    """One number of experts; losses, also where scores were measured (1 − score).

    Attributes:
        k: the number.
        measured: mean over the measured subsets; None where there are none.
        subsets: how many were measured.
        loss: what the law says, or the line where losses rise.
        low: lower end of an interval around it, low ≤ loss; None without replicates. Of a line, a 95 % interval with
            the line's own error in it. Of the law, the middle 95 % of resampled subsets alone: that knows nothing of
            how well the law fits, or holds beyond what was measured, and is narrower than a 95 % interval.
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
        low: the lower ends of the middle 95 % of resampled subsets, see ``Point.low``; None without replicates.
        high: the upper ends.
        r_squared: weighted, of the mean losses; NaN where these are all the same.
        r_squared_within: the same within sizes, of deviations from the mean of each, which is how well the tail over k
            is explained; NaN where no mean losses of one size differ, None where one size was measured.
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
    r_squared_within: float | None
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
        if self.law.tail <= 0.0 and self.reason.startswith((STAYS, RISES)):
            if point.measured is None:
                return f"The law says nothing here: {self.reason}."
            best = f"{self.experts} is best of the numbers measured ({name} {self.value(point.measured):.4g})"
            return f"The law says nothing here, and {best}: {self.reason}."
        merge = "Merge 1 expert" if self.experts == 1 else f"Merge {self.experts} experts"
        over = "" if self.decline is not None else " over subsets"
        return f"{merge} and expect a {name} of {_expected(point, over, scores=self.scores)}: {self.reason}."

    def value(self, loss: float) -> float:
        """Return a loss as it was measured: itself, or the score."""
        return 1.0 - loss if self.scores else loss

    def summary(self) -> dict[str, Any]:
        """Return everything as plain data; in scores, and with a ceiling for a floor, where these were measured."""
        found = asdict(self) | {"sentence": self.sentence}
        for name in ("r_squared", "r_squared_within"):
            found[name] = None if found[name] is None or math.isnan(found[name]) else found[name]
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

    L(k) = L_∞ + A/(k + b), over sizes N also L* + B·N^(−β) + A₀·N^(−γ)/(k + b) (arXiv 2509.24244); of scores, 1 − score
    is fitted. Where losses rise with k, a line in ln k stands in, which is ours.

    Args:
        cells: losses of merged subsets by k, cells, or a file for `read_cells`.
        stop: merge no more once one more expert lowers the loss by no more than this. Without ``stop`` and ``target``
            that is 5 % of what all experts beyond the first can bring.
        target: a loss (a score where scores were measured) that is good enough: the fewest experts that meet it, or,
            where losses rise with k, the most.
        budget: what all experts together may cost.
        cost: what one expert costs, in the same unit.
        experts: how many there are at most.
        size: parameters of the base to forecast for; by default the largest measured. Needs three sizes, two of them
            with several numbers of experts, and six pairs of size and number.
        replicates: bootstrap resamples of the subsets of every k, from which intervals come; 0 for none.
        seed: of the resamples.

    Returns:
        The law or the line, its curve over k with intervals, the recommended number, and warnings.

    Raises:
        ForecastError: if there are too few different k, sizes or pairs of them to fit, or a rule makes no sense.
    """
    if isinstance(cells, str | Path):
        cells = read_cells(cells)
    elif not isinstance(cells, Cells):
        pairs = [(count_of(k, "as keys of the losses"), loss) for k, losses in cells.items() for loss in losses]
        cells = Cells(np.array([k for k, _ in pairs], np.int64), np.array([loss for _, loss in pairs], np.float64))
    _check(cells, stop, target, budget, cost, experts, size, replicates)
    points, index = np.unique(np.stack([_sizes(cells), cells.k]), axis=1, return_inverse=True)
    sizes, k = points
    means, resamples = _means(cells.losses, index.reshape(-1), replicates, seed)
    law, over_sizes, at, size = _fit(cells, sizes, k, means, size)
    decline, declines = None, None
    if law.tail < 0.0 and over_sizes is None:
        decline, declines = _decline(k, means, resamples)
    fit = r_squared(means, at, k)
    fit_within = None if over_sizes is None else r_squared_within(sizes, means, at, k)
    warnings = warnings_of(law, decline, fit, fit_within, sizes, k, means)
    laws = None
    if len(resamples):
        laws = fit_laws(k, resamples) if over_sizes is None else laws_at_size(sizes, k, resamples, float(size or 0))
    if replicates and (alone := _measured_once(k, index, experts)):
        counts = ", ".join(map(str, alone))
        warnings.append(
            f"Numbers of experts measured on one subset only ({counts}) "
            + ("make the intervals too narrow." if len(resamples) or decline else "give no intervals.")
        )
    known = {int(n): (float(y), int((index.reshape(-1) == i).sum())) for i, (s, n, y) in
             enumerate(zip(sizes, k, means, strict=True)) if over_sizes is None or s == size}  # fmt: skip
    if target is not None and cells.scores:
        target = 1.0 - target
    chosen, reason = recommended(law, decline, known, stop, target, budget, cost, experts, warnings)
    measured = int(cells.k.max())
    if law.tail > 0.0 and (beyond := max(chosen, experts or 0)) > measured:
        warnings.append(
            f"No more than {measured} experts were measured: that the law holds for {beyond} is assumed, and no "
            "interval tells how far off it is."
        )
    last = max(measured, chosen + 1) if experts is None else max(experts, measured)
    if decline is None:
        curve = tuple(_point(law, _losses(laws, n), n, known.get(n)) for n in range(1, last + 1))
    else:
        error = line_error(k, means, decline, resampled=declines is not None, scores=cells.scores)
        curve = tuple(
            _point(decline, _on_lines(declines, n), n, known.get(n), error.at(n) if replicates else None)
            for n in range(1, last + 1)
        )
    if reason == RISES:
        within = [point for point in curve if point.k <= allowed(budget, cost, experts)[0]]
        if within[-1].k > chosen:
            reason += f"; with {within[-1].k} expect {_expected(within[-1], scores=cells.scores)}"
    low, high = (None, None) if laws is None else _ends(laws, np.array([law.floor, law.tail, law.shift]))
    return Forecast(
        law, None if low is None else Law(*map(float, low)), None if high is None else Law(*map(float, high)),
        fit, fit_within, decline, over_sizes, size, cells.scores, curve, chosen, reason, tuple(warnings), cells.remarks,
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
    size: float | None, replicates: int,
) -> None:  # fmt: skip
    counts = np.unique(cells.k)
    if len(counts) < 3:
        found = ", ".join(map(str, counts))
        raise ForecastError(
            f"A floor, a tail and a shift need at least three different numbers of experts. Got {found}; measure more."
        )
    if size is not None and not 0.0 < size < math.inf:
        raise ForecastError(
            f"A size to forecast for is a finite number above 0. Got {size:g}; give it as the sizes of the cells are."
        )
    if cells.sizes is not None:
        _check_sizes(cells.sizes, cells.k)
    elif size is not None:
        raise ForecastError(f"Forecasting for another size needs cells of three sizes. Got one, and size {size:g}.")
    if (stop is not None and not stop > 0.0) or not cost > 0.0:
        raise ForecastError(f"A gain to stop at and a cost per expert are above 0. Got {stop if cost > 0.0 else cost}.")
    if target is not None and not math.isfinite(target):
        raise ForecastError(f"A target is a finite number. Got {target}.")
    if replicates < 0:
        raise ForecastError(f"Subsets are resampled 0 times or more. Got {replicates}.")
    if experts is not None and not 1 <= experts <= MOST_EXPERTS:
        raise ForecastError(f"There is at least one expert to merge, and {MOST_EXPERTS} at most. Got {experts}.")
    if budget is not None and not cost <= budget < math.inf:
        raise ForecastError(f"A budget pays for one expert at least, which costs {cost:g}. Got {budget:g}.")


def _check_sizes(sizes: Floats, k: NDArray[np.int64]) -> None:
    """Refuse what leaves parameters of the law over sizes open."""
    pairs = np.unique(np.stack([sizes, k]), axis=1)
    _, numbers = np.unique(pairs[0], return_counts=True)
    if len(numbers) < 3:
        raise ForecastError(
            "The law over sizes needs at least three sizes. Got two; choose one of them, or add another."
        )
    if pairs.shape[1] < PARAMETERS_OVER_SIZES:
        raise ForecastError(
            f"The law over sizes has {PARAMETERS_OVER_SIZES} parameters, and needs as many different pairs of size "
            f"and number of experts. Got {pairs.shape[1]}; measure more."
        )
    if (several := int((numbers > 1).sum())) < 2:
        raise ForecastError(
            "The tail of the law over sizes changes with size, and needs at least two sizes with two or more numbers "
            f"of experts each. Got {several or 'none'}; measure more numbers at one size or another."
        )


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


def _expected(point: Point, over: str = "", *, scores: bool) -> str:
    """Return what a number of experts is expected to bring, with its interval and what that is over, as measured."""
    values = [1.0 - one if scores else one for one in (point.loss, point.low, point.high) if one is not None]
    return f"{values[0]:.4g}" + (f" ({min(values[1:]):.4g} to {max(values[1:]):.4g}{over})" if len(values) > 1 else "")


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


def _point(
    law: Law | Decline, replicates: Floats | None, k: int, known: tuple[float, int] | None, off: float | None = None
) -> Point:
    """Return a point of the curve; its interval is that of the replicates, widened by how far a line is off."""
    loss = law.loss(k)
    low, high = (None, None) if replicates is None else map(float, _ends(replicates, loss))
    if off is not None:
        below, above = (0.0, 0.0) if low is None or high is None else (loss - low, high - loss)
        low, high = loss - math.hypot(below, off), loss + math.hypot(above, off)
    measured, subsets = (None, 0) if known is None else known
    return Point(k, measured, subsets, loss, low, high, law.gain(k))


def _ends(replicates: Floats, estimate: Floats | float) -> tuple[Floats, Floats]:
    """Return the percentile interval, widened where needed to hold the estimate."""
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return np.minimum(low, estimate), np.maximum(high, estimate)
