"""Commands that launchers of trainings run: they end with the process that started them, and say why they failed."""

import ctypes
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from mergewise.study.errors import StudyError

__all__ = ["end_with_parent", "run_launched"]

PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent has gone, however it went
# which a process has to ask for itself, and keeps in becoming another program
_START = f"import ctypes, os, sys; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {signal.SIGTERM:d}); "
_START += "os.execvp(sys.argv[1], sys.argv[1:])"

_ERROR = re.compile(r"(?:\[\w+\]: ?)?(?:\w+\.)*(\w*(?:Error|Exception|Interrupt)\b.*)")  # as ends a traceback
_TAIL = 20_000  # characters of what it said that are kept


def end_with_parent() -> None:
    """Let this process be terminated when the one that started it has gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def run_launched(launch: str, arguments: Sequence[str]) -> None:
    """Run a launcher's command, which is terminated if this process ends before it.

    Args:
        launch: the command, as in a shell.
        arguments: what it gets after its own.

    Raises:
        StudyError: it failed; what it said last goes along as a note.
    """
    command = [sys.executable, "-c", _START, *shlex.split(launch), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as launched:
        try:
            _, said = launched.communicate()
        finally:
            launched.terminate()  # which does nothing to one that has ended
    if launched.returncode:
        fault = StudyError(f"The training started by '{launch}' failed: {_reason(said, launched.returncode)}.")
        fault.add_note(said[-_TAIL:])
        raise fault


def _reason(said: str, code: int) -> str:
    """Return the last error that was not the launcher's own, or else the last words, or the exit code."""
    lines = [line.strip() for line in said.splitlines()]
    errors = [match[1] for line in lines if (match := _ERROR.match(line)) and "ChildFailedError" not in line]
    words = [line for line in lines if any(character.isalnum() for character in line)]
    return (errors or words or [f"exit code {code}"])[-1][:200].rstrip(".")
