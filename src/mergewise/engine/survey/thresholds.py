"""Where claims begin: brackets around the k-th magnitudes from a sample, and the exact ones once all was seen.

What lies inside a bracket is set aside while a tensor is read, so that one reading finds the thresholds and counts the
claims. A bracket that misses, or that holds more than there is room for, costs a search and a second reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.gather import sample_magnitudes, search_magnitudes
from mergewise.engine.pieces import Piece, Runner
from mergewise.kernels import count_set_aside
from mergewise.method import VotingProgram
from mergewise.statistics.claims import DENSE_EXPERTS
from mergewise.statistics.magnitude import kept_count, nth_largest, sampled_bracket

__all__ = ["ASIDE_BYTES", "Aside", "Brackets", "bracketed", "found_thresholds", "searched"]

_RUN = 1 << 12  # elements that are sampled together
_KEY_BYTES = 13  # of a magnitude, its owner, and the masks of an element

ASIDE_BYTES = _KEY_BYTES << 19
"""What elements that are set aside may take, for each expert and worker."""


@dataclass(frozen=True)
class Brackets:
    """Where the k-th magnitude of each expert is, by magnitude keys.

    Attributes:
        kept: k.
        low: (experts,) uint32, from where on an element may be claimed; noughts never are.
        mark: (experts,) uint32, from where on it is.
        high: (experts,) uint32, the end of the bracket.
        known: (experts,) bool, whether the bracket is the threshold itself.
        thresholds: (experts,) uint32, of those that are known.
    """

    kept: int
    low: NDArray[np.uint32]
    mark: NDArray[np.uint32]
    high: NDArray[np.uint32]
    known: NDArray[np.bool_]
    thresholds: NDArray[np.uint32]

    @classmethod
    def of(cls, kept: int, thresholds: NDArray[np.uint32]) -> "Brackets":
        """Return brackets around thresholds that are known."""
        from_there = np.maximum(thresholds, np.uint32(1))
        return cls(kept, from_there, from_there, from_there, np.ones(thresholds.size, np.bool_), thresholds)


@dataclass
class Aside:
    """Elements that one worker set aside.

    Attributes:
        masks: (2, room) uint32, what is claimed for sure, and what may be.
        owners: (room,) uint8, the expert of each key.
        keys: (room,) uint32, magnitudes in doubt, by element and then by expert.
        filled: (3,) int64, elements, keys, and times that there was no room.
    """

    masks: NDArray[np.uint32]
    owners: NDArray[np.uint8]
    keys: NDArray[np.uint32]
    filled: NDArray[np.int64]

    @classmethod
    def empty(cls, numel: int, experts: int, brackets: Brackets) -> "Aside":
        """Return room for the elements of a tensor that are in doubt."""
        room = 0 if brackets.known.all() else experts * min(numel, ASIDE_BYTES // _KEY_BYTES)
        return cls(
            np.empty((2, room), np.uint32), np.empty(room, np.uint8), np.empty(room, np.uint32), np.zeros(3, np.int64)
        )

    def by_expert(self, experts: int) -> list[NDArray[np.uint32]]:
        """Return the magnitudes that are in doubt, of each expert."""
        owners = self.owners[: self.filled[1]]
        ordered = self.keys[np.argsort(owners, kind="stable")]  # numbers of a byte are sorted by counting
        return np.split(ordered, np.cumsum(np.bincount(owners, minlength=experts))[:-1])

    def count(self, thresholds: NDArray[np.uint32], counts: NDArray[np.uint32]) -> None:
        """Count the elements, now that thresholds are known."""
        masks = np.ascontiguousarray(self.masks[:, : self.filled[0]])
        count_set_aside(masks, self.owners, self.keys, np.ascontiguousarray(thresholds), counts)


def bracketed(pieces: Sequence[Piece], runner: Runner, known: NDArray[np.float32]) -> Brackets:
    """Bracket the k-th magnitudes of a tensor; those of a small one, and of very many experts, are searched for.

    Args:
        pieces: The tensor, in order; its program says the density.
        runner: Does the work.
        known: Thresholds of the first experts.
    """
    job = pieces[0].job
    experts = len(job.inputs) - 1
    kept = _kept(pieces)
    if known.size == experts:
        return Brackets.of(kept, known.view(np.uint32))
    sample = sample_magnitudes(experts, pieces, runner, _RUN) if experts <= DENSE_EXPERTS else None
    if sample is None or sample.shape[1] == job.numel:
        return searched(pieces, runner, known)
    low, high = sampled_bracket(sample, [kept] * experts, job.numel)
    # where a bracket holds one magnitude alone nothing is in doubt, if the count confirms it
    mark = np.where(high - low == 1, low, high)
    found = np.zeros(experts, np.uint32)
    found[: known.size] = known.view(np.uint32)
    for bounds in (low, mark, high):
        bounds[: known.size] = found[: known.size]
    one = np.uint32(1)
    return Brackets(
        kept, np.maximum(low, one), np.maximum(mark, one), np.maximum(high, one), np.arange(experts) < known.size, found
    )


def searched(pieces: Sequence[Piece], runner: Runner, known: NDArray[np.float32]) -> Brackets:
    """Search for the exact k-th magnitudes of a tensor, by reading it; arguments as for ``bracketed``."""
    program = pieces[0].job.program
    assert isinstance(program, VotingProgram)
    found = search_magnitudes(program, pieces, runner).thresholds[: len(pieces[0].job.inputs) - 1].copy()
    found[: known.size] = known.view(np.uint32)
    return Brackets.of(_kept(pieces), found)


def found_thresholds(
    brackets: Brackets, tally: NDArray[np.int64], asides: Sequence[Aside]
) -> NDArray[np.uint32] | None:
    """Return the exact thresholds, (experts,) uint32, from what was counted and set aside; ``None`` if in vain.

    Args:
        brackets: Where they were looked for.
        tally: (experts, 3) int64, magnitudes above each bracket, those not below it, and those that are not zero.
        asides: What was set aside.
    """
    if any(aside.filled[2] for aside in asides):
        return None
    found = brackets.thresholds.copy()
    doubtful = [aside.by_expert(found.size) for aside in asides]
    for i in np.flatnonzero(~brackets.known):
        above, reached = int(tally[i, 0]), int(tally[i, 1])
        if reached < brackets.kept and brackets.low[i] == 1:
            found[i] = 0  # the k-th magnitude is nought
        elif not above < brackets.kept <= reached:
            return None
        elif brackets.mark[i] == brackets.low[i]:
            found[i] = brackets.low[i]
        else:
            own = np.concatenate([keys[i] for keys in doubtful])
            found[i] = nth_largest(own, brackets.kept - above)[0]
    return found


def _kept(pieces: Sequence[Piece]) -> int:
    program = pieces[0].job.program
    assert isinstance(program, VotingProgram)
    return kept_count(program.densities[0], pieces[0].job.numel)
