"""What loops need and numba's Python has no word for: bits as numbers, sums in lanes that stay in registers, tiles."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

from mergewise.kernels.constants import APART, BLOCK_LANES, BLOCK_ROWS, LANES, LINE, MARK_LANES

__all__ = [
    "as_bits",
    "as_double",
    "as_single",
    "as_wide_bits",
    "between",
    "bf16_differences",
    "block_products_1",
    "block_products_2",
    "block_products_3",
    "dot",
    "magnitude_sums",
    "own_products_1",
    "own_products_2",
    "own_products_3",
    "power_sums",
    "tile",
    "trailing_zeros",
]

_intrinsic: Any = extending.intrinsic  # what it decorates is called without its first argument


def _reinterpret(given: Any, wanted: Any, llvm: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], llvm)

    return wanted(given), generate


@_intrinsic
def as_single(context: Any, bits: Any) -> Any:  # noqa: ARG001 - numba's signature
    """Return the float32 that has these 32 bits."""
    return _reinterpret(types.uint32, types.float32, ir.FloatType())


@_intrinsic
def as_bits(context: Any, single: Any) -> Any:  # noqa: ARG001
    """Return the 32 bits of a float32."""
    return _reinterpret(types.float32, types.uint32, ir.IntType(32))


@_intrinsic
def as_double(context: Any, bits: Any) -> Any:  # noqa: ARG001
    """Return the float64 that has these 64 bits."""
    return _reinterpret(types.uint64, types.float64, ir.DoubleType())


@_intrinsic
def as_wide_bits(context: Any, double: Any) -> Any:  # noqa: ARG001
    """Return the 64 bits of a float64."""
    return _reinterpret(types.float64, types.uint64, ir.IntType(64))


@_intrinsic
def dot(context: Any, x: Any, y: Any, count: Any) -> Any:  # noqa: ARG001
    """Return Σ x_j y_j over the first ``count`` elements (a multiple of ``LANES``) of contiguous float64 arrays.

    Lane l adds the elements j ≡ l (mod ``LANES``) in their order; then the lanes are added in theirs.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.VectorType(ir.DoubleType(), LANES)
        x, y = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[:2], arguments[:2], strict=True)
        )
        sums = cgutils.alloca_once_value(builder, ir.Constant(wide, None))
        step = ir.Constant(arguments[2].type, LANES)
        start = ir.Constant(arguments[2].type, 0)
        with cgutils.for_range_slice(builder, start, arguments[2], step, inc=True) as (index, _):
            parts = []
            for data in (x, y):
                at = builder.bitcast(builder.gep(data, [index]), wide.as_pointer())
                parts.append(builder.load(at, align=8))
            builder.store(builder.fadd(builder.load(sums), builder.fmul(*parts)), sums)
        total: Any = ir.Constant(ir.DoubleType(), 0.0)
        lanes = builder.load(sums)
        for lane in range(LANES):
            total = builder.fadd(total, builder.extract_element(lanes, ir.Constant(ir.IntType(32), lane)))
        return total

    return types.float64(x, y, types.intp), generate


@_intrinsic
def magnitude_sums(context: Any, tau: Any, mark: Any, count: Any, sums: Any) -> Any:  # noqa: ARG001
    """Write Σ |τ_j|, and the same over what is marked, of the first ``count`` elements (a multiple of ``LANES``).

    ``tau`` is float64, ``mark`` uint8, ``sums`` (2,) float64. Lanes are added as ``dot`` adds them.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, bits = ir.VectorType(ir.DoubleType(), LANES), ir.VectorType(ir.IntType(64), LANES)
        marked, nought = ir.VectorType(ir.IntType(8), LANES), ir.Constant(wide, None)
        tau, mark, _, found = (
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else None
            for kind, value in zip(signature.args, arguments, strict=True)
        )
        sums = [cgutils.alloca_once_value(builder, nought) for _ in range(2)]
        number = arguments[2].type
        zero, step = ir.Constant(number, 0), ir.Constant(number, LANES)
        with cgutils.for_range_slice(builder, zero, arguments[2], step, inc=True) as (index, _):
            value = builder.load(builder.bitcast(builder.gep(tau, [index]), bits.as_pointer()), align=8)
            value = builder.and_(value, ir.Constant(bits, [0x7FFFFFFFFFFFFFFF] * LANES))
            value = builder.bitcast(value, wide)
            own = builder.load(builder.bitcast(builder.gep(mark, [index]), marked.as_pointer()), align=1)
            kept = builder.select(builder.icmp_unsigned("!=", own, ir.Constant(marked, None)), value, nought)
            for total, term in zip(sums, (value, kept), strict=True):
                builder.store(builder.fadd(builder.load(total), term), total)
        for place, lanes in enumerate(sums):
            added: Any = ir.Constant(ir.DoubleType(), 0.0)
            all_lanes = builder.load(lanes)
            for lane in range(LANES):
                added = builder.fadd(added, builder.extract_element(all_lanes, ir.Constant(ir.IntType(32), lane)))
            builder.store(added, builder.gep(found, [ir.Constant(number, place)]))
        return context.get_dummy_value()

    return types.none(tau, mark, types.intp, sums), generate


_literal_intrinsic: Any = extending.intrinsic(prefer_literal=True)


@_literal_intrinsic
def tile(context: Any, count: Any, dtype: Any) -> Any:  # noqa: ARG001
    """Return an array of ``count`` elements, a constant, that lives on the stack until the kernel returns.

    Arrays of NumPy's come from numba's allocator, which compiled kernels are to do without.
    """
    size: int = count.literal_value
    kind = types.Array(dtype.dtype, 1, "C")

    def generate(context: Any, builder: Any, _: Any, __: Any) -> Any:
        element = context.get_data_type(kind.dtype)
        width = context.get_abi_sizeof(element)
        whole = context.get_constant(types.intp, size)
        stride = context.get_constant(types.intp, width)
        array = context.make_array(kind)(context, builder)
        padded = context.get_constant(types.intp, size + APART // width)
        data = cgutils.alloca_once(builder, element, size=padded)
        data.align = LINE
        context.populate_array(array, data=data, shape=[whole], strides=[stride], itemsize=stride, meminfo=None)
        return array._getvalue()

    return kind(count, dtype), generate


@_intrinsic
def power_sums(context: Any, x: Any, count: Any, lanes: Any) -> Any:  # noqa: ARG001
    """Add Σx, Σx³ and Σx⁴ of the first ``count`` elements (a multiple of ``LANES``) to lanes of sums.

    Lane l adds the elements j ≡ l (mod ``LANES``) in their order, in the precision of x, float32 or float64; what comes
    out is added to the lanes, (3, LANES) float64 contiguous, which stay apart: adding them up takes longer than a tile.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.VectorType(context.get_value_type(signature.args[0].dtype), LANES)
        data, found = (context.make_array(signature.args[k])(context, builder, arguments[k]).data for k in (0, 2))
        with _powers(builder, wide, arguments[1], found) as (index, add):
            add(builder.load(builder.bitcast(builder.gep(data, [index]), wide.as_pointer()), align=4))
        return context.get_dummy_value()

    return types.none(x, types.intp, lanes), generate


@_intrinsic
def bf16_differences(context: Any, half: Any, base: Any, count: Any, out: Any, lanes: Any) -> Any:  # noqa: ARG001
    """Decode ``count`` bfloat16 numbers (a multiple of ``LANES``), subtract a base, and add up powers of differences.

    To decode them, to subtract, and to call ``power_sums`` gives the same bits; in one loop it takes less time. The
    numbers are (≥ count,) uint16, the base (≥ count,) float32, as are the differences that are written to ``out``; of
    the lanes see there.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits, wide = ir.VectorType(ir.IntType(32), LANES), ir.VectorType(ir.FloatType(), LANES)
        stored, theirs, found, sums = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data for k in (0, 1, 3, 4)
        )
        with _powers(builder, wide, arguments[2], sums) as (index, add):
            at = builder.bitcast(builder.gep(stored, [index]), ir.VectorType(ir.IntType(16), LANES).as_pointer())
            shifted = builder.shl(builder.zext(builder.load(at, align=2), bits), ir.Constant(bits, [16] * LANES))
            other, to = (builder.bitcast(builder.gep(data, [index]), wide.as_pointer()) for data in (theirs, found))
            difference = builder.fsub(builder.bitcast(shifted, wide), builder.load(other, align=4))
            builder.store(difference, to, align=4)
            add(difference)
        return context.get_dummy_value()

    return types.none(half, base, types.intp, out, lanes), generate


@contextmanager
def _powers(builder: Any, wide: Any, count: Any, found: Any) -> Iterator[tuple[Any, Callable[[Any], None]]]:
    """Loop over lanes; yield the index, and what adds powers of lanes to sums, which go to (3, LANES) float64."""
    sums = [cgutils.alloca_once_value(builder, ir.Constant(wide, None)) for _ in range(3)]
    for total in sums:
        builder.store(ir.Constant(wide, None), total)

    def add(one: Any) -> None:
        square = builder.fmul(one, one)
        for total, term in zip(sums, (one, builder.fmul(square, one), builder.fmul(square, square)), strict=True):
            builder.store(builder.fadd(builder.load(total), term), total)

    step, start = ir.Constant(count.type, LANES), ir.Constant(count.type, 0)
    with cgutils.for_range_slice(builder, start, count, step, inc=True) as (index, _):
        yield index, add
    _add_to_lanes(builder, sums, _lane_places(builder, found, 3, LANES))


def _products_of_rows(height: int, *, same: bool) -> Any:
    """Return an intrinsic that adds the inner products of ``height`` rows from i on with those from j on to lanes.

    The rows are of a contiguous two-dimensional array, float32 or float64; of each the first ``count`` elements are
    taken, a multiple of ``BLOCK_LANES``. Lane l adds the elements ≡ l in their order, in the precision of the rows, and
    the outcome is added to the lanes, (BLOCK_ROWS, BLOCK_ROWS, BLOCK_LANES) float64 contiguous, which stay apart. A
    product and a sum are rounded each by itself, whether or not a machine could do both at once, so that they are equal
    everywhere.

    Args:
        height: Rows from i on.
        same: Whether j is i: then only the products of a row with those up to itself are added; else there are
            ``BLOCK_ROWS`` from j on.
    """

    def products(context: Any, rows: Any, i: Any, j: Any, count: Any, lanes: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            wide = ir.VectorType(context.get_value_type(signature.args[0].dtype), BLOCK_LANES)
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            found = context.make_array(signature.args[4])(context, builder, arguments[4]).data
            width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
            number = arguments[1].type

            def row(first: Any, offset: int) -> Any:
                return builder.gep(array.data, [builder.mul(builder.add(first, ir.Constant(number, offset)), width)])

            def loaded(side: list[Any], index: Any) -> list[Any]:
                places = (builder.bitcast(builder.gep(data, [index]), wide.as_pointer()) for data in side)
                return [builder.load(place, align=4) for place in places]

            left, right = (
                [row(first, r) for r in range(rows)]
                for first, rows in zip(arguments[1:3], (height, BLOCK_ROWS), strict=True)
            )
            pairs = [(a, b) for a in range(height) for b in range(a + 1 if same else BLOCK_ROWS)]
            sums = {pair: cgutils.alloca_once_value(builder, ir.Constant(wide, None)) for pair in pairs}
            for total in sums.values():
                builder.store(ir.Constant(wide, None), total)
            step, start = ir.Constant(arguments[3].type, BLOCK_LANES), ir.Constant(arguments[3].type, 0)
            with cgutils.for_range_slice(builder, start, arguments[3], step, inc=True) as (index, _):
                mine = loaded(left, index)
                theirs = mine if same else loaded(right, index)
                for (a, b), total in sums.items():
                    builder.store(builder.fadd(builder.load(total), builder.fmul(mine[a], theirs[b])), total)
            places = _lane_places(builder, found, BLOCK_ROWS**2, BLOCK_LANES)
            _add_to_lanes(builder, list(sums.values()), [places[a * BLOCK_ROWS + b] for a, b in pairs])
            return context.get_dummy_value()

        return types.none(rows, types.intp, types.intp, types.intp, lanes), generate

    return _intrinsic(products)


block_products_1, block_products_2, block_products_3 = (_products_of_rows(h, same=False) for h in (1, 2, 3))
own_products_1, own_products_2, own_products_3 = (_products_of_rows(h, same=True) for h in (1, 2, 3))


@_intrinsic
def trailing_zeros(context: Any, bits: Any) -> Any:  # noqa: ARG001
    """Return the place of the lowest bit that is set in a uint64; there must be one."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@_intrinsic
def between(context: Any, keys: Any, count: Any, low: Any, width: Any, words: Any) -> Any:  # noqa: ARG001
    """Mark the keys inside a bracket, and return how many of the others are above it, int64.

    Args:
        context: numba's.
        keys: (≥ count,) uint32.
        count: A multiple of ``MARK_LANES``.
        low: uint32, the first key inside.
        width: uint32, how many keys are inside.
        words: (≥ count / MARK_LANES,) uint64, written: a bit for every key inside.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, number = ir.VectorType(ir.IntType(32), MARK_LANES), arguments[1].type
        data, out = (context.make_array(signature.args[k])(context, builder, arguments[k]).data for k in (0, 4))
        edges = [_in_all_lanes(builder, value, MARK_LANES) for value in arguments[2:4]]
        above = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(64), 0))
        steps = (ir.Constant(number, 0), arguments[1], ir.Constant(number, MARK_LANES))
        with cgutils.for_range_slice(builder, *steps, inc=True) as (place, _):
            own = builder.load(builder.bitcast(builder.gep(data, [place]), lanes.as_pointer()), align=4)
            reached = builder.icmp_unsigned(">=", own, edges[0])
            inside = builder.icmp_unsigned("<", builder.sub(own, edges[0]), edges[1])
            word, others = (
                builder.bitcast(where, ir.IntType(MARK_LANES))
                for where in (builder.and_(reached, inside), builder.and_(reached, builder.not_(inside)))
            )
            builder.store(word, builder.gep(out, [builder.udiv(place, ir.Constant(number, MARK_LANES))]))
            builder.store(builder.add(builder.load(above), builder.ctpop(others)), above)
        return builder.load(above)

    return types.int64(keys, types.intp, types.uint32, types.uint32, words), generate


def _in_all_lanes(builder: Any, value: Any, lanes: int) -> Any:
    """Return a vector that holds a number in all lanes."""
    vector = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    places = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), places)


def _add_to_lanes(builder: Any, sums: list[Any], places: list[Any]) -> None:
    """Add vectors of sums, float32 or float64, to float64 lanes."""
    for total, place in zip(sums, places, strict=True):
        value, wide = builder.load(total), place.type.pointee
        value = value if value.type == wide else builder.fpext(value, wide)
        builder.store(builder.fadd(builder.load(place, align=8), value), place, align=8)


def _lane_places(builder: Any, data: Any, sums: int, lanes: int) -> list[Any]:
    """Return pointers to rows of lanes that lie one after the other."""
    wide = ir.VectorType(ir.DoubleType(), lanes)
    steps = [ir.Constant(ir.IntType(64), k * lanes) for k in range(sums)]
    return [builder.bitcast(builder.gep(data, [step]), wide.as_pointer()) for step in steps]
