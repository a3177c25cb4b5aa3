"""Saying that kernels are compiled, which takes seconds but happens once per machine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

__all__ = ["announced_compilation"]

_LOG = logging.getLogger("mergewise")


class _Announcement(event.Listener):
    """Says so at the first compilation; what is loaded from the cache is not compiled."""

    said = False

    def on_start(self, event: Any) -> None:  # noqa: ARG002 - numba's signature
        if not self.said:
            self.said = True
            _LOG.info("Compiling kernels for this machine; this takes a few seconds, once.")

    def on_end(self, event: Any) -> None:
        """Nothing is said."""


@contextmanager
def announced_compilation() -> Iterator[None]:
    """Log a line, at level INFO to ``mergewise``, if a kernel must be compiled within the context."""
    with event.install_listener("numba:compile", _Announcement()):
        yield
