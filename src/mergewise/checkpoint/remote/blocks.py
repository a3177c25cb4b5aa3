"""Ranges of remote files: large ones straight into place, small ones in blocks that are kept and fetched ahead."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mergewise.checkpoint.remote.access import BLOCK_BYTES, READ_AHEAD_BYTES
from mergewise.checkpoint.remote.faults import AbsentError, StoppedError, attempt
from mergewise.checkpoint.remote.stores import Facts
from mergewise.errors import CheckpointError

if TYPE_CHECKING:
    from mergewise.checkpoint.remote.path import RemotePath

__all__ = ["BlockCache", "RemoteRanges"]

_SMALLEST_BLOCK = 256 << 10
_Key = tuple[str, int, int]
_Span = tuple[int, int]


class BlockCache:
    """Blocks that several threads read from, each fetched once; the one that was not used for longest goes first.

    Args:
        parallel: Requests that are under way at once.
        readers: About how many threads will read.
        folders: The folders that files are read from together; it may grow.
        capacity: Bytes that are kept at most.
    """

    def __init__(
        self, parallel: int, readers: int, folders: Collection[str] = (), capacity: int = READ_AHEAD_BYTES
    ) -> None:
        self.pool = ThreadPoolExecutor(parallel, "mergewise-fetch")
        self._readers = readers
        self._capacity = capacity
        self._lock = threading.Lock()
        self._blocks: OrderedDict[_Key, Future[bytes]] = OrderedDict()
        self._bytes = 0
        self._folders = folders

    @property
    def block_bytes(self) -> int:
        """Bytes of a block: as many as leave every reader the block that it reads and the next, of every model."""
        share = self._capacity // (2 * self._readers * max(1, len(self._folders)))
        return max(_SMALLEST_BLOCK, min(BLOCK_BYTES, 1 << (share.bit_length() - 1) if share else 0))

    def block(self, file: str, span: _Span, fetch: Callable[[int, int], bytes]) -> Future[bytes]:
        """Return a block of a file, which may be on its way."""
        key = (file, *span)
        with self._lock:
            found = self._blocks.get(key)
            if found is not None and not (found.done() and found.exception() is not None):
                self._blocks.move_to_end(key)
                return found
            if found is None:
                self._bytes += span[1] - span[0]
            self._blocks[key] = begun = self.pool.submit(fetch, *span)
            self._blocks.move_to_end(key)
            while self._bytes > self._capacity and len(self._blocks) > 1:
                (_, start, end), _ = self._blocks.popitem(last=False)
                self._bytes -= end - start
        return begun

    def close(self) -> None:
        """Let go of all blocks, and of the threads."""
        with self._lock:
            self._blocks.clear()
            self._bytes = 0
        self.pool.shutdown(wait=False, cancel_futures=True)


class RemoteRanges:
    """A remote file that is read by byte range.

    Args:
        place: The file.
        facts: What its server said when it was opened; another size later is a fault.
    """

    def __init__(self, place: "RemotePath", facts: Facts) -> None:
        self._place = place
        self._facts = facts
        place.connections.folders.add(str(place.parent))
        self._name = str(place)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._facts.size

    @property
    def _blocks(self) -> BlockCache:
        return self._place.connections.blocks

    def read_into(self, start: int, view: memoryview, within: _Span) -> int:
        """Fill a buffer: what is larger than a block in parallel, what is smaller from blocks.

        Raises:
            StoppedError: Nothing more is to be read, since something else went wrong.
        """
        with self._unless_stopped():
            return self._read_into(start, view, within)

    @contextmanager
    def _unless_stopped(self) -> Iterator[None]:
        try:
            yield
        except (CancelledError, RuntimeError) as error:  # as a pool that was shut down has it
            if not self._place.connections.closed.is_set():
                raise
            raise StoppedError("Reading was stopped, since something else went wrong before.") from error

    def _read_into(self, start: int, view: memoryview, within: _Span) -> int:
        end = min(start + len(view), self.size)
        blocks = self._blocks
        step = blocks.block_bytes
        if end - start >= step:
            spans = [(at, min(at + step, end)) for at in range(start, end, step)]

            def place_part(span: _Span) -> None:
                view[span[0] - start : span[1] - start] = self._fetch(*span)

            parts = [blocks.pool.submit(place_part, span) for span in spans]
            wait(parts)  # all of them: nothing may be written into the buffer later
            for part in parts:
                part.result()
        else:
            for span, block in list(self._begin(start, end, within)):
                first, last = max(start, span[0]), min(end, span[1])
                view[first - start : last - start] = block.result()[first - span[0] : last - span[0]]
        return max(0, end - start)

    def expect(self, start: int, nbytes: int, within: _Span) -> None:
        """Begin to fetch what will be read soon; large reads are parallel by themselves.

        Raises:
            StoppedError: As :meth:`read_into`.
        """
        with self._unless_stopped():
            if nbytes < self._blocks.block_bytes:
                for _ in self._begin(start, min(start + nbytes, self.size), within):
                    pass

    def close(self) -> None:
        """Do nothing: connections are shared."""

    def _begin(self, start: int, end: int, within: _Span) -> Iterator[tuple[_Span, Future[bytes]]]:
        """Begin to fetch the blocks of a range, and the one after it; return the former."""
        step, (first, last) = self._blocks.block_bytes, within
        last = min(last, self.size)
        begin = first + (start - first) // step * step
        for at in range(begin, end, step):
            span = (at, min(at + step, last))
            yield span, self._blocks.block(self._name, span, self._fetch)
        after = begin + -(-(end - begin) // step) * step
        if after < last:
            self._blocks.block(self._name, (after, min(after + step, last)), self._fetch)

    def _fetch(self, start: int, end: int) -> bytes:
        cache, place = self._place.connections.cache, self._place
        if cache is not None:
            return cache.read(place, self._facts, start, end, self._download)
        return self._download(start, end)

    def _download(self, start: int, end: int) -> bytes:
        place = self._place
        try:
            return attempt(
                lambda: place.store.read(place.path, start, end, self._facts),
                str(place),
                place.connections.access,
                place.connections.closed,
            )
        except AbsentError:
            raise CheckpointError(f"{place}: it was there when the merge began, but is gone.") from None
