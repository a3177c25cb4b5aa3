"""What loops need and numba's Python has no word for: bits as numbers, sums in lanes that stay in registers, tiles."""

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

from mergewise.kernels.constants import APART, LANES, LINE

__all__ = ["as_bits", "as_double", "as_single", "as_wide_bits", "dot", "tile"]

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
