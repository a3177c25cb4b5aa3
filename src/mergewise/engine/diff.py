"""Comparing two checkpoints, streaming."""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import STORAGE_DTYPES, Access, Connections, Source, TensorInfo, numpy_dtype, open_source
from mergewise.errors import CheckpointError

__all__ = ["TensorDifference", "diff"]

_CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class TensorDifference:
    """How a tensor differs between two checkpoints.

    Attributes:
        name: Its name.
        kind: ``equal``, ``values``, ``dtype`` or ``bytes`` (the values are equal, but for the signs of zeros, say),
            ``shape``, ``only in A`` or ``only in B``.
        differing: Elements whose values differ.
        largest: Largest absolute difference.
        relative: L2 norm of the difference over the L2 norm of A's tensor; infinite where that is zero.
    """

    name: str
    kind: str
    differing: int = 0
    largest: float = 0.0
    relative: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Return the finding as plain data; JSON has no infinity, so an infinite figure is ``None``."""
        return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in asdict(self).items()}


def diff(
    a: str | os.PathLike[str], b: str | os.PathLike[str], *, access: Access | None = None
) -> Iterator[TensorDifference]:
    """Compare two checkpoints tensor by tensor, in byte order of the names; quantised ones as they would be merged.

    Args:
        a: A folder or file, a URL, or a model on the Hub.
        b: Another.
        access: How other machines may be reached; by default as the environment says.

    Raises:
        CheckpointError: One of them cannot be read.
    """
    connections = Connections(access)
    first, second = (open_source(given, connections) for given in (a, b))
    for name in sorted(first.tensors.keys() | second.tensors.keys(), key=str.encode):
        if name not in second.tensors:
            yield TensorDifference(name, "only in A")
        elif name not in first.tensors:
            yield TensorDifference(name, "only in B")
        elif first.tensors[name].shape != second.tensors[name].shape:
            yield TensorDifference(name, "shape")
        else:
            yield _difference(first, second, name)


def _difference(first: Source, second: Source, name: str) -> TensorDifference:
    a, b = first.tensors[name], second.tensors[name]
    differing, largest, distance, norm = 0, 0.0, _Norm(), _Norm()
    same = True
    for start in range(0, a.numel, _CHUNK_ELEMENTS):
        count = min(_CHUNK_ELEMENTS, a.numel - start)
        raw_x, raw_y = _raw(first, a, start, count), _raw(second, b, start, count)
        same = same and np.array_equal(raw_x, raw_y)
        x, y = _values(raw_x, a), _values(raw_y, b)
        unequal = ~np.equal(x, y)
        if x.dtype.kind in "fc" and y.dtype.kind in "fc":
            unequal &= ~(np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore", over="ignore"):
            norm.add(np.abs(x.astype(_wide(x.dtype))))
            if unequal.any():
                gap = _gap(x[unequal], y[unequal])
                gap[np.isnan(gap)] = np.inf
                differing += int(gap.size)
                largest = max(largest, float(gap.max()))
                distance.add(gap)
    kind = "values" if differing else "dtype" if a.dtype != b.dtype else "equal" if same else "bytes"
    return TensorDifference(name, kind, differing, largest, distance.over(norm) if differing else 0.0)


class _Norm:
    """An L2 norm of magnitudes that come piece by piece, whose squares neither overflow nor vanish.

    They are squares of parts of a scale, the power of two below the largest magnitude so far.
    """

    def __init__(self) -> None:
        self._scale = 0.0
        self._squares = 0.0

    def add(self, magnitudes: NDArray[np.float64]) -> None:
        largest = float(np.max(magnitudes))
        if not math.isfinite(largest):
            self._scale, self._squares = largest, 1.0
        elif largest > 0 and largest >= 2 * self._scale:
            scale = math.ldexp(1.0, math.frexp(largest)[1] - 1)
            self._squares *= (self._scale / scale) ** 2
            self._scale = scale
        if self._scale > 0 and math.isfinite(self._scale):
            self._squares += float(np.sum((magnitudes / self._scale) ** 2))

    def over(self, other: "_Norm") -> float:
        """Return this norm over another; infinite over zero, or where it is not a number."""
        if not other._scale:
            return math.inf
        ratio = self._scale / other._scale * math.sqrt(self._squares / other._squares)
        return math.inf if math.isnan(ratio) else ratio


def _gap(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far apart values are; integers of one signedness exactly, before the one rounding to float64."""
    if x.dtype.kind == y.dtype.kind and x.dtype.kind in "iu":
        wide, other = (values.astype(f"{values.dtype.kind}8") for values in (x, y))
        high, low = np.maximum(wide, other).view(np.uint64), np.minimum(wide, other).view(np.uint64)
        gap: NDArray[Any] = high - low  # modulo 2⁶⁴, where every such gap has its place
    else:
        gap = np.abs(x.astype(_wide(x.dtype)) - y.astype(_wide(y.dtype)))
    return gap.astype(np.float64)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype in which differences of values are taken."""
    return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)


def _raw(source: Source, info: TensorInfo, start: int, count: int) -> NDArray[np.uint8]:
    """Return the bytes of a run of elements."""
    dtype = STORAGE_DTYPES[info.dtype]
    if not dtype.numpy_name:
        raise CheckpointError(
            f"Tensor '{info.name}' in {source.location} has dtype {info.dtype}, which cannot be read."
        )
    width = dtype.bits // 8
    raw = np.empty(count * width, np.uint8)
    source.read_into(info, start * width, raw)
    return raw


def _values(raw: NDArray[np.uint8], info: TensorInfo) -> NDArray[Any]:
    """Return stored elements, floating ones in float64."""
    found = raw.view(numpy_dtype(info.dtype))
    exact = STORAGE_DTYPES[info.dtype].kind == "exact" or found.dtype.kind == "c"
    return found if exact else found.astype(np.float64)
