"""A checkpoint whose embeddings have other rows: each taken from some model, or averaged, or empty.

Rows are read when they are asked for, so no embedding is ever whole in memory. Where a row has to be computed, the
whole tensor is shown in float64, and what is merged from it is rounded once, as everything else.
"""

import copy
import itertools
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint.dtypes import STORAGE_DTYPES, numpy_dtype
from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.place import Place
from mergewise.checkpoint.source import Source, Writable
from mergewise.checkpoint.wrapped import WrappedCheckpoint

__all__ = ["GatheredCheckpoint", "RowMap"]

ZERO, MEAN, AVERAGE = -1, -2, -3
_BLOCK = 1 << 18  # elements of a block of the mean


@dataclass(frozen=True)
class RowMap:
    """Where the rows of an embedding come from.

    Attributes:
        model: For every row the number of a model, or ``ZERO`` (a row of zeros), ``MEAN`` (the mean of all rows before
            the first such row) or ``AVERAGE``; (rows,) int32.
        row: For every row its number in that model, or the number of an average; (rows,) int64.
        averages: Rows whose mean is taken, as pairs of a model and a row.
    """

    model: NDArray[np.int32]
    row: NDArray[np.int64]
    averages: tuple[tuple[tuple[int, int], ...], ...] = ()

    @property
    def computes(self) -> bool:
        """Whether there are rows that no model has."""
        return bool(np.any((self.model == MEAN) | (self.model == AVERAGE)))

    @property
    def models(self) -> set[int]:
        """Numbers of the models that rows come from."""
        used = {int(number) for number in np.unique(self.model) if number >= 0}
        return used | {number for average in self.averages for number, _ in average}


class GatheredCheckpoint(WrappedCheckpoint):
    """A source of which some tensors have other rows.

    Args:
        own: The checkpoint that it stands for.
        rows: Where the rows of such a tensor come from.
        places: For each such tensor, the tensor of every model that rows may come from; ``None`` for a model without.
        config: Its configuration.
        beside: Further files that say which rows they are, such as those of tokenizers.
    """

    def __init__(
        self,
        own: Source,
        rows: RowMap,
        places: Mapping[str, Sequence[tuple[Source, TensorInfo] | None]],
        config: Mapping[str, Any],
        beside: Sequence[Place] = (),
    ) -> None:
        super().__init__(own)
        self._rows = rows
        self._places = {name: list(of) for name, of in places.items()}
        self._config = config
        self._beside = tuple(beside)
        self._means: dict[str, NDArray[np.float64]] = {}
        self._lock = threading.Lock()
        self._starts = _runs(rows)
        self.costly = True  # rows are read one by one where they do not follow each other
        self.tensors = dict(own.tensors)
        for name in places:
            info = own.tensors[name]
            used = {place[1].dtype for place in self._used(name)} | {info.dtype}
            dtype = info.dtype if len(used) == 1 and not rows.computes else "F64"
            shape = (len(rows.model), *info.shape[1:])
            nbytes = math.prod(shape) * STORAGE_DTYPES[dtype].bits // 8
            self.tensors[name] = replace(info, dtype=dtype, shape=shape, nbytes=nbytes)

    @property
    def parts(self) -> tuple[Source, ...]:
        """Its own checkpoint, and those that rows come from."""
        others = [source for name in self._places for source, _ in self._used(name)]
        return tuple({id(source): source for source in (self.own, *others)}.values())

    @property
    def files(self) -> tuple[Place, ...]:
        """Its own files, those of every checkpoint that a row comes from, and those that say so."""
        others = [path for name in self._places for source, _ in self._used(name) for path in source.files]
        return tuple(dict.fromkeys([*self.own.files, *others, *self._beside]))

    def config(self) -> dict[str, Any]:
        """Return its configuration."""
        return copy.deepcopy(dict(self._config))

    def gathers(self, name: str) -> bool:
        """Whether the rows of a tensor are gathered."""
        return name in self._places

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Announce a read of a tensor whose rows stay; where others are gathered is found out when they are read."""
        if tensor.name not in self._places:
            self.own.will_read(tensor, offset, nbytes)

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on."""
        name = tensor.name
        if name not in self._places:
            self.own.read_into(tensor, offset, buffer)
            return
        columns = math.prod(tensor.shape[1:])
        view = memoryview(buffer).cast("B")
        if not columns or not len(view):
            return
        width = STORAGE_DTYPES[tensor.dtype].bits // 8
        first, skip = divmod(offset, columns * width)
        last = -(-(offset + len(view)) // (columns * width))
        if self._rows.computes or any(place[1].dtype != tensor.dtype for place in self._used(name)):
            rows = self._computed(tensor, first, last).view(np.uint8).reshape(-1)
            np.frombuffer(view, np.uint8)[:] = rows[skip : skip + len(view)]
            return
        begins = self._starts[np.searchsorted(self._starts, first, "right") - 1 : np.searchsorted(self._starts, last)]
        ends = np.append(begins[1:], last)
        for begin, end in zip(np.maximum(begins, first).tolist(), ends.tolist(), strict=True):
            model, row = int(self._rows.model[begin]), int(self._rows.row[begin])
            start = max(begin * columns * width, offset)
            part = view[start - offset : min(end * columns * width, offset + len(view)) - offset]
            if model == ZERO:
                part[:] = bytes(len(part))
            else:
                source, info = self._place(name, model)
                source.read_into(info, row * columns * width + start - begin * columns * width, part)

    def _computed(self, tensor: TensorInfo, first: int, last: int) -> NDArray[np.float64]:
        """Return rows in float64, (rows, columns)."""
        model, row = self._rows.model[first:last], self._rows.row[first:last]
        out = np.zeros((last - first, math.prod(tensor.shape[1:])), np.float64)
        for number in np.unique(model[model >= 0]).tolist():
            at = np.flatnonzero(model == number)
            out[at] = self._taken(tensor.name, number, row[at])
        averaged = np.flatnonzero(model == AVERAGE)
        if averaged.size:
            members = [(at, *member) for at in averaged.tolist() for member in self._rows.averages[row[at]]]
            where, whose, which = np.array(members, np.int64).T
            for number in np.unique(whose).tolist():  # a model has a token once, so each row is met once here
                mine = whose == number
                out[where[mine]] += self._taken(tensor.name, number, which[mine])
            out[averaged] /= np.bincount(where, minlength=len(out))[averaged, None]
        if (model == MEAN).any():
            out[model == MEAN] = self._mean(tensor)
        return out

    def _taken(self, name: str, model: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return some rows of a model's tensor in float64."""
        source, info = self._place(name, model)
        columns = math.prod(info.shape[1:])
        nbytes = columns * STORAGE_DTYPES[info.dtype].bits // 8
        raw = np.empty(len(rows) * nbytes, np.uint8)
        view = memoryview(raw.data)
        begins = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1, [len(rows)]]).tolist()
        for begin, end in itertools.pairwise(begins):
            source.read_into(info, int(rows[begin]) * nbytes, view[begin * nbytes : end * nbytes])
        with np.errstate(invalid="ignore"):  # of signalling NaN, which the merge reports
            return raw.view(numpy_dtype(info.dtype)).astype(np.float64).reshape(len(rows), columns)

    def _mean(self, tensor: TensorInfo) -> NDArray[np.float64]:
        """Return the mean of the rows before the padding: blocks in order, so that it is the same every time."""
        with self._lock:
            if tensor.name not in self._means:
                columns = math.prod(tensor.shape[1:])
                rows = int(np.argmax(self._rows.model == MEAN))
                step = max(1, _BLOCK // columns)
                total = np.zeros(columns, np.float64)
                for start in range(0, rows, step):
                    total += self._computed(tensor, start, min(start + step, rows)).sum(axis=0)
                self._means[tensor.name] = total / max(rows, 1)
            return self._means[tensor.name]

    def _place(self, name: str, model: int) -> tuple[Source, TensorInfo]:
        place = self._places[name][model]
        assert place is not None
        return place

    def _used(self, name: str) -> list[tuple[Source, TensorInfo]]:
        return [self._place(name, model) for model in sorted(self._rows.models)]


def _runs(rows: RowMap) -> NDArray[np.int64]:
    """Return the first row of every run that can be read at once, and the number of rows."""
    follows = (rows.model[1:] == rows.model[:-1]) & ((rows.row[1:] == rows.row[:-1] + 1) | (rows.model[1:] == ZERO))
    begins = np.flatnonzero(~follows) + 1
    return np.concatenate([[0], begins, [len(rows.model)]]).astype(np.int64)
