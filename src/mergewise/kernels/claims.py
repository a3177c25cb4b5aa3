"""Which elements each expert claims, 64 elements at a time, and how often every combination of claims occurs.

Magnitudes are compared by the upper halves of their float32 bits, of which a register holds twice as many. An expert's
claims are certain below and above the halves that its bracket covers; elements inside are *in doubt*: they are counted
as if it did not claim them, and set aside with their values until the threshold is known. So a tensor is read once.

Up to ``JOINT_EXPERTS`` experts an element has one *state*: a number in base three, whose digits say whether an expert
claims it not at all, with a positive or with a negative change. For more it has two masks, of claims and of negative
claims.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils

from mergewise.kernels.constants import JOINT_EXPERTS, LIMIT_ROWS, MARK_LANES, SURVEY_TILE
from mergewise.kernels.intrinsics import as_bits, tile, trailing_zeros
from mergewise.kernels.storage import COMPILE

__all__ = ["add_changed", "claim", "count_above", "count_set_aside", "write_limits"]

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_HALF = np.uint32(16)
_NONE = np.uint64(0)
_WORDS = SURVEY_TILE // MARK_LANES


def _marking(*, joint: bool, halves: bool) -> Any:
    """Return an intrinsic that marks what is claimed and what is in doubt, and counts what is not nought.

    Its arguments: (≥ 1 + experts, ≥ count) float32 rows, the base first; their count, a multiple of ``MARK_LANES``;
    (experts, LIMIT_ROWS, MARK_LANES) uint16 limits, see ``write_limits``; (3, ≥ count) uint16 planes that are written:
    states or claims, negative claims unless joint, and a bit for every doubt; (≥ count / MARK_LANES,) uint64, written:
    a bit for every element in doubt; (experts, 2) int64, of which the first column is added to.

    Args:
        joint: Whether it writes states; otherwise masks.
        halves: Whether magnitudes are nought if their upper halves are.
    """

    def mark(context: Any, rows: Any, count: Any, limits: Any, planes: Any, waiting: Any, tally: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            tau, edges, out, words, totals = (
                context.make_array(signature.args[k])(context, builder, arguments[k]) for k in (0, 2, 3, 4, 5)
            )
            number = arguments[1].type

            def times(a: Any, factor: int) -> Any:
                return builder.mul(a, ir.Constant(number, factor))

            def loop(end: Any, step: int) -> Any:
                bounds = (ir.Constant(number, 0), end, ir.Constant(number, step))
                return cgutils.for_range_slice(builder, *bounds, inc=True)

            experts = cgutils.unpack_tuple(builder, edges.shape, 3)[0]
            width, room = (cgutils.unpack_tuple(builder, array.shape, 2)[1] for array in (tau, out))
            found = [cgutils.alloca_once_value(builder, _lanes(16)) for _ in range(3)]
            with loop(arguments[1], MARK_LANES) as (place, _):
                for plane in found:
                    builder.store(_lanes(16), plane)
                with loop(experts, 1) as (expert, _):
                    row = builder.add(width, builder.mul(expert, width))
                    bits = builder.load(_at(builder, tau, builder.add(row, place), 32), align=4)
                    edge = [
                        builder.load(
                            _at(
                                builder,
                                edges,
                                times(builder.add(times(expert, LIMIT_ROWS), ir.Constant(number, k)), MARK_LANES),
                                16,
                            ),
                            align=2,
                        )
                        for k in range(LIMIT_ROWS)
                    ]
                    total = builder.gep(totals.data, [times(expert, 2)])
                    changed = _mark_one(builder, bits, edge, found, joint=joint, halves=halves)
                    builder.store(builder.add(builder.load(total), changed), total)
                for k in (0, 2) if joint else (0, 1, 2):
                    own = builder.add(times(room, k), place)
                    builder.store(builder.load(found[k]), _at(builder, out, own, 16), align=2)
                some = builder.icmp_unsigned("!=", builder.load(found[2]), _lanes(16))
                word = builder.gep(words.data, [builder.udiv(place, ir.Constant(number, MARK_LANES))])
                builder.store(builder.bitcast(some, ir.IntType(MARK_LANES)), word)
            return context.get_dummy_value()

        return types.none(rows, types.intp, limits, planes, waiting, tally), generate

    return extending.intrinsic(mark)


def _mark_one(builder: Any, bits: Any, limits: Any, found: Any, *, joint: bool, halves: bool) -> Any:
    """Add what one expert claims of some lanes to planes; return how many of its magnitudes are not nought."""
    low, mark, plus, minus, doubt = limits
    upper = _upper_halves(builder, bits)
    magnitude = builder.and_(upper, _lanes(16, 0x7FFF))
    negative = builder.icmp_signed("<", upper, _lanes(16))
    claimed = builder.icmp_unsigned(">=", magnitude, mark)
    reached = builder.icmp_unsigned(">=", magnitude, low)
    if halves:
        changed = builder.icmp_unsigned("!=", magnitude, _lanes(16))
    else:
        changed = builder.icmp_unsigned("!=", builder.shl(bits, _lanes(32, 1)), _lanes(32))
        reached = builder.and_(reached, changed)
    terms = [
        (claimed, builder.select(negative, minus, plus) if joint else plus),
        (builder.and_(claimed, negative), plus),
        (builder.and_(reached, builder.not_(claimed)), doubt),
    ]
    for k in (0, 2) if joint else (0, 1, 2):
        where, step = terms[k]
        builder.store(builder.add(builder.load(found[k]), builder.select(where, step, _lanes(16))), found[k])
    return builder.ctpop(builder.bitcast(changed, ir.IntType(MARK_LANES)))


def _lanes(bits: int, value: int = 0) -> Any:
    """Return a number in all lanes."""
    return ir.Constant(ir.VectorType(ir.IntType(bits), MARK_LANES), [value] * MARK_LANES)


def _at(builder: Any, array: Any, index: Any, bits: int) -> Any:
    """Return a pointer to lanes of an array from an index on."""
    return builder.bitcast(builder.gep(array.data, [index]), _lanes(bits).type.as_pointer())


def _upper_halves(builder: Any, bits: Any) -> Any:
    """Return the upper halves of lanes of 32 bits."""
    halves = builder.bitcast(bits, ir.VectorType(ir.IntType(16), 2 * MARK_LANES))
    places = ir.Constant(_lanes(32).type, [2 * lane + 1 for lane in range(MARK_LANES)])
    return builder.shuffle_vector(halves, ir.Constant(halves.type, ir.Undefined), places)


_states_of_halves, _states = _marking(joint=True, halves=True), _marking(joint=True, halves=False)
_masks_of_halves, _masks = _marking(joint=False, halves=True), _marking(joint=False, halves=False)


@njit(**COMPILE)
def write_limits(low, mark, halves, limits):
    """Write, over all lanes, where an expert's bracket begins and ends, and what a claim and a doubt add.

    Args:
        low: (experts,) uint32, first key of each bracket.
        mark: (experts,) uint32, key from which on elements are claimed.
        halves: Whether magnitudes are nought if their upper halves are.
        limits: (experts, LIMIT_ROWS, MARK_LANES) uint16, written: the upper halves of both, then what a positive claim,
            a negative one, and a doubt add.
    """
    joint = low.size <= JOINT_EXPERTS
    step = 1
    for i in range(low.size):
        first = low[i] >> _HALF
        if halves:
            first = max(first, np.uint32(1))
        for lane in range(MARK_LANES):
            limits[i, 0, lane] = first
            limits[i, 1, lane] = mark[i] >> _HALF
            limits[i, 2, lane] = step
            limits[i, 3, lane] = 2 * step
            limits[i, 4, lane] = 1 << i
        step *= 3 if joint else 2


@njit(**COMPILE)
def count_above(x, key, size):
    """Return how many magnitudes have this key or a greater one."""
    found = np.uint32(0)
    for j in range(size):
        found += np.uint32((as_bits(x[j]) & _MAGNITUDE) >= key)
    return np.int64(found)


@njit(**COMPILE)
def add_changed(rows, size, tally):
    """Count magnitudes that are not nought, where claims are not counted."""
    for i in range(tally.shape[0]):
        tally[i, 0] += count_above(rows[1 + i], np.uint32(1), size)


@njit(**COMPILE)
def claim(rows, size, limits, halves, planes, tally, counts, masks, places, changes, filled):
    """Count the claims of a tile, and set aside what is in doubt.

    Args:
        rows: (≥ 1 + experts, ≥ SURVEY_TILE) float32, the base first; noughts from ``size`` on.
        size: Elements.
        limits: Of ``write_limits``.
        halves: See there.
        planes: (3, ≥ SURVEY_TILE) uint16, room to work in.
        tally: As for ``survey_piece``, and so is what follows.
        counts: See there.
        masks: See there.
        places: See there.
        changes: See there.
        filled: See there.
    """
    waiting = tile(_WORDS, np.uint64)
    groups = -(-size // MARK_LANES)
    joint = counts.shape[0] == 1
    if joint and halves:
        _states_of_halves(rows, groups * MARK_LANES, limits, planes, waiting, tally)
    elif joint:
        _states(rows, groups * MARK_LANES, limits, planes, waiting, tally)
    elif halves:
        _masks_of_halves(rows, groups * MARK_LANES, limits, planes, waiting, tally)
    else:
        _masks(rows, groups * MARK_LANES, limits, planes, waiting, tally)
    _count(planes[0], planes[1], size, counts)
    _set_aside(rows, size, waiting[:groups], planes, masks, places, changes, filled)


@njit(**COMPILE)
def _count(first, second, size, counts):
    """Count elements by their state, or by both of their masks."""
    states = counts[0]
    if counts.shape[0] == 1:
        for j in range(size):
            states[first[j]] += np.uint32(1)
    else:
        sides = counts[1]
        for j in range(size):
            states[first[j]] += np.uint32(1)
            sides[second[j]] += np.uint32(1)
            sides[first[j] ^ second[j]] += np.uint32(1)


@njit(**COMPILE)
def _set_aside(rows, size, waiting, planes, masks, places, changes, filled):
    """Set aside the elements of a tile that are in doubt, if there is room."""
    experts = changes.shape[0]
    elements = filled[experts]
    enough = elements + size <= masks.shape[1]
    for i in range(experts):
        enough = enough and filled[i] + size <= changes.shape[1]
    for w in range(waiting.size):
        word = waiting[w]
        if word != _NONE and not enough:
            filled[experts + 1] += 1
            break
        while word != _NONE:
            j = MARK_LANES * w + trailing_zeros(word)
            word &= word - np.uint64(1)
            masks[0, elements] = planes[0, j]
            masks[1, elements] = planes[1, j]
            doubts = np.uint64(planes[2, j])
            while doubts != _NONE:
                i = trailing_zeros(doubts)
                doubts &= doubts - np.uint64(1)
                at = filled[i]
                places[i, at] = elements
                changes[i, at] = rows[1 + i, j]
                filled[i] = at + 1
            elements += 1
    filled[experts] = elements


@njit(**COMPILE)
def count_set_aside(masks, places, changes, filled, thresholds, counts):
    """Count elements that were set aside once more, as they are now that thresholds are known.

    Args:
        masks: As for ``survey_piece``, and so is what follows; changed.
        places: See there.
        changes: See there.
        filled: See there.
        thresholds: (experts,) uint32, keys from which on magnitudes are claimed; noughts never are.
        counts: See there.
    """
    experts = changes.shape[0]
    elements = filled[experts]
    _count_again(masks, elements, np.uint32(0xFFFFFFFF), counts)
    step = 1
    for i in range(experts):
        threshold = max(thresholds[i], np.uint32(1))
        for p in range(filled[i]):
            bits = as_bits(changes[i, p])
            claimed = np.int64((bits & _MAGNITUDE) >= threshold)
            negative = np.int64(bits >> np.uint32(31))
            if counts.shape[0] == 1:
                masks[0, places[i, p]] += np.uint16(claimed * (1 + negative) * step)
            else:
                masks[0, places[i, p]] += np.uint16(claimed * step)
                masks[1, places[i, p]] += np.uint16(claimed * negative * step)
        step *= 3 if counts.shape[0] == 1 else 2
    _count_again(masks, elements, np.uint32(1), counts)


@njit(**COMPILE)
def _count_again(masks, elements, once, counts):
    """Count elements by their state or masks, or, with 2³² - 1 for once, take their counts back."""
    for e in range(elements):
        counts[0, masks[0, e]] += once
        if counts.shape[0] == 2:
            counts[1, masks[1, e]] += once
            counts[1, masks[0, e] ^ masks[1, e]] += once
