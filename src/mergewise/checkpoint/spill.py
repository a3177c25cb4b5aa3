"""Tensors that are finished before it is known how large all of them will be: kept on disk until they are laid out."""

import os
import tempfile
import threading
from pathlib import Path

from mergewise.checkpoint.place import is_here
from mergewise.checkpoint.source import Target, Writable
from mergewise.checkpoint.staging import cannot_write
from mergewise.checkpoint.writer import OutputTensor

__all__ = ["Spill"]

_COPY_BYTES = 8 << 20


class Spill:
    """A nameless file beside an output, which vanishes with the process. Use it as a context manager.

    Args:
        out: The folder that will be made.

    Raises:
        CheckpointError: The disk cannot be written to.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        place = out.absolute().parent
        while not is_here(place):
            place = place.parent
        try:
            self._file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise cannot_write(out, error) from error
        self._places: dict[str, tuple[OutputTensor, int]] = {}
        self._end = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def tensors(self) -> list[OutputTensor]:
        """What it holds, in byte order of the names."""
        return [self._places[name][0] for name in sorted(self._places, key=str.encode)]

    def add(self, output: OutputTensor, data: Writable) -> None:
        """Keep a tensor; several threads may do so at once.

        Raises:
            CheckpointError: The disk is full or gives a write error.
        """
        with self._lock:
            at = self._end
            self._end += output.nbytes
            self._places[output.name] = (output, at)
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], at + done)
        except OSError as error:
            raise cannot_write(self._out, error) from error

    def pour(self, target: Target) -> None:
        """Hand everything to a target.

        Raises:
            CheckpointError: The disk gives a read error, or the target does not take it.
        """
        for output in self.tensors:
            _, at = self._places[output.name]
            for offset in range(0, output.nbytes, _COPY_BYTES):
                size = min(_COPY_BYTES, output.nbytes - offset)
                try:
                    chunk = bytearray(os.pread(self._file.fileno(), size, at + offset))
                except OSError as error:
                    raise cannot_write(self._out, error) from error
                target.write(output.name, offset, chunk)
            target.finish(output.name)
