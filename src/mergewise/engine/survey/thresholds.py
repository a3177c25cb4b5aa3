"""Where claims begin: brackets around the k-th magnitudes from a sample, and the exact ones once all was seen.

What lies inside a bracket is set aside while a tensor is read, so that one reading finds the thresholds and counts the
claims. A bracket that misses, or that holds more than there is room for, costs a search and a second reading.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.gather import sample_magnitudes, search_magnitudes
from mergewise.engine.pieces import Piece, Runner
from mergewise.kernels import count_set_aside
from mergewise.method import VotingProgram
from mergewise.statistics.claims import DENSE_EXPERTS
from mergewise.statistics.magnitude import kept_count, nth_largest, sampled_bracket

__all__ = ["ASIDE_BYTES", "Aside", "AsideRooms", "Brackets", "bracketed", "found_thresholds", "searched"]

_RUN = 1 << 12  # elements that are sampled together
_DOUBT_BYTES = 12  # of a change, its place, and the masks of an element
_STEP = 1 << 16  # kernels compare the upper halves of keys

ASIDE_BYTES = _DOUBT_BYTES << 19
"""What elements that are set aside may take, for each expert and worker."""


@dataclass(frozen=True)
class Brackets:
    """Where the k-th magnitude of each expert is, by magnitude keys.

    Attributes:
        kept: k.
        low: (experts,) uint32, from where on an element may be claimed, a multiple of 2^16; noughts never are.
        mark: (experts,) uint32, from where on it is, a multiple of 2^16.
        high: (experts,) uint32, above ``mark`` where the bracket is the magnitude at ``mark`` alone: the next one.
        known: (experts,) bool, whether the threshold is known.
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
        low, mark = _around(thresholds, np.maximum(thresholds, 1))
        return cls(kept, low, mark, mark, np.ones(thresholds.size, np.bool_), thresholds)


def _around(low: NDArray[np.uint32], mark: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the ends of brackets, the lower rounded down to a multiple of 2^16, the upper one up."""
    down = low // _STEP * _STEP
    up = -(-mark.astype(np.int64) // _STEP) * _STEP
    return down.astype(np.uint32), np.minimum(up, 1 << 31).astype(np.uint32)


@dataclass
class Aside:
    """Elements that one worker set aside.

    Attributes:
        masks: (2, room) uint16, what is claimed for sure: a state, or the masks of claims and of negative claims.
        places: (experts, room) uint32, the places among those elements where an expert's claim is in doubt.
        changes: (experts, room) float32, its changes there.
        filled: (experts + 2,) int64, changes of each expert, elements, and tiles for which there was no room.
        held: The memory of the first three.
    """

    masks: NDArray[np.uint16]
    places: NDArray[np.uint32]
    changes: NDArray[np.float32]
    filled: NDArray[np.int64]
    held: NDArray[np.uint8]

    def keys(self, expert: int) -> NDArray[np.uint32]:
        """Return the magnitude keys that are in doubt, of one expert."""
        return self.changes[expert, : self.filled[expert]].view(np.uint32) & np.uint32(0x7FFFFFFF)

    def count(self, thresholds: NDArray[np.uint32], counts: NDArray[np.uint32]) -> None:
        """Count the elements once more, now that thresholds are known, and let go of them."""
        given = np.ascontiguousarray(thresholds)
        count_set_aside(self.masks, self.places, self.changes, self.filled, given, counts)
        self.filled[:] = 0


class AsideRooms:
    """Memory for what workers set aside, kept from tensor to tensor: fresh pages cost as much as filling them does."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def take(self, pieces: Sequence[Piece], brackets: Brackets) -> Aside:
        """Return room for the elements that are in doubt: of a tensor, or of one piece where thresholds are known."""
        experts = brackets.low.size
        room = min(pieces[0].job.numel, ASIDE_BYTES // _DOUBT_BYTES)
        if brackets.known.all():
            room = max(piece.count for piece in pieces)
        if (brackets.low == brackets.mark).all() or experts > DENSE_EXPERTS:
            room = 0
        count = experts * room
        held = self._free.pop() if self._free else np.empty(0, np.uint8)
        if held.size < _DOUBT_BYTES * count:
            held = np.empty(max(_DOUBT_BYTES * count, experts * ASIDE_BYTES), np.uint8)
        masks, places, changes = (held[4 * n * count : 4 * (n + 1) * count] for n in range(3))
        return Aside(
            masks.view(np.uint16).reshape(2, count), places.view(np.uint32).reshape(experts, room),
            changes.view(np.float32).reshape(experts, room), np.zeros(experts + 2, np.int64), held,
        )  # fmt: skip

    def give(self, asides: Iterable[Aside]) -> None:
        """Take back what nothing refers to any more."""
        self._free += [aside.held for aside in asides]


def bracketed(
    pieces: Sequence[Piece], runner: Runner, known: NDArray[np.float32], sample: NDArray[np.uint32] | None
) -> Brackets:
    """Bracket the k-th magnitudes of a tensor; those of a small one, and of very many experts, are searched for.

    Args:
        pieces: The tensor, in order; its program says the density.
        runner: Does the work.
        known: Thresholds of the first experts.
        sample: (experts, elements) uint32, keys of evenly spread elements; ``None`` where they are to be taken.
    """
    job = pieces[0].job
    experts = len(job.inputs) - 1
    kept = _kept(pieces)
    if known.size == experts:
        return Brackets.of(kept, known.view(np.uint32))
    if sample is None and experts <= DENSE_EXPERTS:
        sample = sample_magnitudes(experts, pieces, runner, _RUN)
    if sample is None or sample.shape[1] == job.numel:
        return searched(pieces, runner, known)
    first, end = sampled_bracket(sample, [kept] * experts, job.numel)
    first[: known.size] = known.view(np.uint32)
    end[: known.size] = first[: known.size]
    low, mark = _around(first, np.maximum(end, 1))
    # where a bracket holds one magnitude alone nothing is in doubt, if the count of those above it confirms it
    alone = (end - first == 1) & (first == low) & (first > 0)
    mark[alone] = first[alone]
    found = np.where(np.arange(experts) < known.size, first, np.uint32(0))
    return Brackets(kept, low, mark, np.where(alone, end, mark), np.arange(experts) < known.size, found)


def searched(pieces: Sequence[Piece], runner: Runner, known: NDArray[np.float32]) -> Brackets:
    """Search for the exact k-th magnitudes of a tensor, by reading it; arguments as for ``bracketed``."""
    program = pieces[0].job.program
    assert isinstance(program, VotingProgram)
    found = search_magnitudes(program, pieces, runner).thresholds[: len(pieces[0].job.inputs) - 1].copy()
    found[: known.size] = known.view(np.uint32)
    return Brackets.of(_kept(pieces), found)


def found_thresholds(
    brackets: Brackets,
    above: NDArray[np.int64],
    claimed: NDArray[np.int64],
    asides: Sequence[Aside],
) -> NDArray[np.uint32] | None:
    """Return the exact thresholds, (experts,) uint32, from what was counted and set aside; ``None`` if in vain.

    Args:
        brackets: Where they were looked for.
        above: (experts,) int64, magnitudes from ``high`` on, where that is above ``mark``.
        claimed: (experts,) int64, magnitudes from ``mark`` on.
        asides: What was set aside.
    """
    if any(aside.filled[-1] for aside in asides):
        return None
    found = brackets.thresholds.copy()
    for i in map(int, np.flatnonzero(~brackets.known)):
        alone = brackets.high[i] > brackets.mark[i]
        doubtful = np.concatenate([aside.keys(i) for aside in asides])
        larger = int(above[i] if alone else claimed[i])
        reached = int(claimed[i]) + doubtful.size
        if reached < brackets.kept and brackets.low[i] == 0:
            found[i] = 0  # the k-th magnitude is nought
        elif not larger < brackets.kept <= reached:
            return None
        else:
            low = brackets.low[i]
            found[i] = low if alone else low + nth_largest(doubtful - low, brackets.kept - larger)[0][0]
    return found


def _kept(pieces: Sequence[Piece]) -> int:
    program = pieces[0].job.program
    assert isinstance(program, VotingProgram)
    return kept_count(program.densities[0], pieces[0].job.numel)
