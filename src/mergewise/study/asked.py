"""What the study's questions ask for: the rows of scores that they compare, and which of them are there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mergewise.study.family import Base
from mergewise.study.lacking import Place, lacking, without_value
from mergewise.study.scores import Floats
from mergewise.study.spec import Study
from mergewise.study.store import Failure
from mergewise.study.summary import Row

__all__ = ["PAPER", "Asked", "Basis", "mean", "parameter_text"]

PAPER = ("average", "task_arithmetic", "ties", "dare_ties")
"""In the recipe language, whatever a study calls them."""
Rows = Mapping[tuple[str, str, int], Row]


@dataclass(frozen=True)
class Basis:
    """What a verdict rests on.

    Attributes:
        bases: names of the bases whose scores it uses.
        methods: names of the methods.
        counts: numbers of merged experts.
        merges: how many merges it uses.
        wanted: how many it would use if all were there that the study names; 0 if the study never compares these.
        missing: a sentence on those that are not there; empty if all are.
    """

    bases: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    merges: int = 0
    wanted: int = 0
    missing: str = ""


class Asked:
    """The rows of a study, by what the questions compare.

    Args:
        study: what was asked for.
        rows: scores by base, method and number of experts.
        failures: of its cells.
        side: of the normalised scores that are compared; rows where these have no value do not count; None for raw.

    Attributes:
        paper: the paper's methods as far as the study has them; all of its methods if it has none of these.
        further: the other methods.
        strong: instruction-tuned bases; empty if the study has none.
        sized: bases of those kinds that the study has with at least two numbers of parameters.
    """

    def __init__(
        self, study: Study, rows: Rows, failures: Sequence[Failure], side: Literal["held_in", "held_out"] | None = None
    ) -> None:
        methods = study.protocol.methods
        names = [method.name for method in methods]
        self._side = side
        self._unsolved: dict[Place, tuple[str, ...]] = {}
        if side:
            self._unsolved = {place: tasks for place, row in rows.items() if (tasks := getattr(row, side).unsolved)}
        self.rows = {place: row for place, row in rows.items() if place not in self._unsolved}
        self.failures = failures
        self.draws = study.protocol.draws
        self.multitask = study.spec.multitask
        self.labels = {method.name: method.label for method in methods}
        self.labels["multitask"] = "the multitask model"
        self.paper = [method.name for method in methods if method.merge_method in PAPER] or names
        self.further = [name for name in names if name not in self.paper]
        self.counts = sorted(study.protocol.counts)
        self.bases = study.bases
        self.qualities = list(dict.fromkeys(base.quality for base in study.bases))
        self.strong = [base for base in study.bases if base.quality == "it"]
        sizes = {quality: {base.parameters for base in self.by_size(quality)} for quality in self.qualities}
        self.sized = [base for base in study.bases if len(sizes[base.quality]) > 1]

    def of(self, base: Base, methods: Iterable[str], counts: Iterable[int]) -> list[Row] | None:
        """Return the rows of a base, or None if one is missing or has no value."""
        found = [self.rows.get((base.name, method, count)) for count in counts for method in methods]
        return None if None in found or not found else [row for row in found if row is not None]

    def whole(self, bases: Iterable[Base], methods: Iterable[str], counts: Iterable[int]) -> dict[Base, list[Row]]:
        """Return the rows of every base that lacks none."""
        found = {base: self.of(base, list(methods), list(counts)) for base in bases}
        return {base: rows for base, rows in found.items() if rows is not None}

    def held_in(self, base: Base, methods: Iterable[str], counts: Iterable[int]) -> Floats | None:
        """Return the mean normalised held-in score, or None if a row is missing."""
        rows = self.of(base, methods, counts)
        return None if rows is None else mean([row.held_in.normalised for row in rows])

    def basis(
        self,
        used: Iterable[Base],
        wanted: Iterable[Base],
        methods: Sequence[str],
        counts: Sequence[int],
        beside: Sequence[str] = (),
    ) -> Basis:
        """Return what a verdict rests on that uses all rows of some bases.

        Args:
            used: bases with all that is needed.
            wanted: bases that the question is of.
            methods: whose merges it takes.
            counts: numbers of merged experts.
            beside: what else it takes scores of, such as the multitask model.
        """
        found = self.whole(used, methods, counts)
        wanted = list(dict.fromkeys(wanted))
        places = [(base.name, method, count) for base in wanted for method in methods for count in counts]
        unused = [base for base in wanted if base not in found]
        others = [(base.name, one, count) for base in unused for one in beside for count in counts]
        return Basis(
            tuple(base.name for base in self.bases if base in found),
            tuple(methods),
            tuple(counts),
            sum(row.draws for rows in found.values() for row in rows),
            len(places) * self.draws,
            self._lacking([*places, *others]),
        )

    def lacks(
        self,
        takes: str,
        possible: bool,
        bases: Iterable[Base] | None = None,
        methods: Iterable[str] | None = None,
        counts: Iterable[int] | None = None,
    ) -> str:
        """Say what a question takes if the study never compares it, and else which of its scores are missing."""
        if not possible:
            return takes
        wanted = [
            (base.name, method, count)
            for base in bases or self.bases
            for method in methods or self.paper
            for count in counts or self.counts
        ]
        return self._lacking(wanted) or takes

    def _lacking(self, wanted: Sequence[Place]) -> str:
        """Say which scores are missing and which have no value; empty if none."""
        unsolved = {place: self._unsolved[place] for place in wanted if place in self._unsolved}
        computed = [place for place in wanted if place not in unsolved]
        parts = (
            lacking(computed, self.rows.keys(), self.labels, self.failures),
            without_value(unsolved, "it" if self._side == "held_out" else "its expert"),
        )
        return " ".join(filter(None, parts))

    def by_size(self, quality: str) -> list[Base]:
        """Return the bases of a quality, the smallest first."""
        return sorted((base for base in self.bases if base.quality == quality), key=lambda base: base.parameters)


def mean(values: Sequence[Floats]) -> Floats:
    """Return the mean of replicates, replicate by replicate."""
    return np.asarray(np.mean(values, axis=0), np.float64)


def parameter_text(parameters: int) -> str:
    """Write a number of parameters for readers.

    >>> parameter_text(22_713_216)
    '22.7M'
    """
    return f"{parameters / 1e9:.3g}B" if parameters >= 10**9 else f"{parameters / 1e6:.3g}M"
