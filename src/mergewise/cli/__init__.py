"""The command line: one small module per command, no logic of its own.

What is here is loaded before Ctrl-C is taken care of, so it takes no time to import.
"""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

__all__ = ["INTERRUPTED", "main", "stoppable"]

INTERRUPTED = "Interrupted; a merge or study goes on where it was when the same command is run again."

_COLLECT_EVERY = 100_000  # objects: imports make more than there are left to collect, and looking for those takes .1 s
_status: int | None = None  # to exit with, once all is done


def main() -> None:
    """Run the command line, which Ctrl-C ends with a sentence at any moment; exits as ``mergewise.cli.app.main``."""
    global _status  # noqa: PLW0603 - of the process, as its exit is
    gc.set_threshold(_COLLECT_EVERY)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background it may be ignored
        signal.signal(signal.SIGINT, _leave)
    atexit.register(_finish)  # first, so that it is called last
    _open_streams()
    from mergewise.cli.app import main as run

    try:
        run()
    except SystemExit as end:
        _status = end.code if isinstance(end.code, int) else None
        raise
    _status = 0


def _open_streams() -> None:
    """Put the null device in place of standard streams that are closed: else other files would get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 - for good


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C raise ``KeyboardInterrupt`` within, where something may have to be left in order.

    The caller says that it was interrupted; after that, Ctrl-C ends the process without another word.
    """
    if signal.getsignal(signal.SIGINT) is not _leave:
        yield
        return
    after = _leave
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        after = _end
        raise
    finally:
        signal.signal(signal.SIGINT, after)


def _leave(*_: object) -> NoReturn:
    """End the process at once, where nothing has been begun, or all is done.

    An exception would pass through imports and parsers, some of which swallow it or print its traceback.
    """
    with suppress(Exception):  # it may be in use just now
        sys.stdout.flush()
    with suppress(OSError):  # there may be no room
        if "--json" in sys.argv:
            os.write(1, f'{{"error": "{INTERRUPTED}"}}\n'.encode())
        os.write(2, f"mergewise: {INTERRUPTED}\n".encode())
    _end()


def _end(*_: object) -> NoReturn:
    os._exit(130)


def _finish() -> None:
    """Let nothing happen to the exit code any more: the last thing that the process does.

    What is left are objects to be taken apart one by one, for .1 s, whose memory goes back as a whole.
    """
    # the interpreter would die by the signal, if it has passed through an ``eval`` of a library that was imported
    interrupted = signal.getsignal(signal.SIGINT) is _end
    if not interrupted:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        if not interrupted:
            return
    if interrupted:
        _end()
    if _status is not None:
        os._exit(_status)
