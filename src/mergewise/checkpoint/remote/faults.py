"""What goes wrong on the way to another machine: in one sentence, and whether it is worth another try."""

import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from mergewise.checkpoint.remote.access import Access
from mergewise.errors import CheckpointError

__all__ = ["AbsentError", "BrokenAnswerError", "StoppedError", "attempt", "status_of"]

T = TypeVar("T")

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE = 30.0
# types by name: the libraries that define them are not always installed
_NO_ANSWER = {"ConnectTimeout", "ReadTimeout", "PoolTimeout", "ReadTimeoutError", "ConnectTimeoutError", "TimeoutError"}
_NO_CONNECTION = {
    "ClientConnectorError", "ConnectError", "ConnectionError", "EndpointConnectionError", "ConnectionClosedError",
    "ServerDisconnectedError", "ClientOSError", "RemoteProtocolError", "ReadError", "ProtocolError",
}  # fmt: skip
_CUT_SHORT = {"ClientPayloadError", "IncompleteReadError", "IncompleteRead", "ResponseStreamingError"}
_NO_TRUST = {"SSLError", "SSLCertVerificationError", "ClientConnectorCertificateError"}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError"}


class BrokenAnswerError(OSError):
    """A server answered with something other than the range that it was asked for; it may do better next time."""


class AbsentError(FileNotFoundError):
    """There is no such remote file."""


class StoppedError(CheckpointError):
    """Reading was given up because something else had gone wrong; that is what should be reported."""


def attempt(action: Callable[[], T], what: str, access: Access, stop: threading.Event | None = None) -> T:
    """Do something on another machine, again after a pause if it failed for a reason that may pass.

    Args:
        action: What to do; it must be safe to repeat.
        what: What messages call the thing that is asked for.
        access: How often, and with what pauses.
        stop: Once it is set, nothing is tried again.

    Raises:
        AbsentError: There is no such thing.
        CheckpointError: It cannot be had; the message says why in one sentence.
        StoppedError: It could not be had before ``stop`` was set.
    """
    for number in range(1, max(1, access.attempts) + 1):
        try:
            return action()
        except (CheckpointError, AbsentError, MemoryError):
            raise
        except Exception as error:
            if status_of(error) == 404 or (status_of(error) is None and isinstance(error, FileNotFoundError)):
                raise AbsentError(what) from error
            reason, advice, may_pass = _diagnosis(error, access)
            if stop is not None and stop.is_set():
                raise StoppedError(f"{what}: reading was stopped.") from error
            if not may_pass or number >= access.attempts:
                tries = f" after {number} attempts" if number > 1 else ""
                raise CheckpointError(f"{what}: cannot be had{tries}: {reason}; {advice}.") from error
        pause = min(_LONGEST_PAUSE, access.pause * 2 ** (number - 1))
        pause *= random.uniform(0.75, 1.25)  # noqa: S311 - so that many readers do not come back at once
        (stop or threading.Event()).wait(pause)
    raise AssertionError("the last attempt returns or raises")


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that a fault of any of the libraries carries, if it does."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        found = getattr(one, "status", None) or getattr(response, "status_code", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(found, int) and found >= 300:
            return found
    return None


def _diagnosis(error: Exception, access: Access) -> tuple[str, str, bool]:
    """Return why something failed, what to do, and whether it may pass by itself: the first case that holds."""
    status, brief = status_of(error), _brief(error)
    chain = list(_chain(error))
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    may_pass = status in _TRANSIENT
    log_in, look, later = "log in, or check the credentials and the name", "check the address", "try again later"
    look_around = "check the address and the network, or work offline"
    broken = bool(names & _CUT_SHORT) or isinstance(error, BrokenAnswerError)
    late = isinstance(error, TimeoutError) or bool(names & _NO_ANSWER)
    unknown_host = any(isinstance(one, socket.gaierror) for one in chain)
    passing = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    cases: list[tuple[bool, str, str, bool]] = [
        ("GatedRepoError" in names, "the repository is gated", "ask for access on its page and log in", False),
        ("RepositoryNotFoundError" in names, "there is no such repository, or it is private", log_in, False),
        (status in {401, 403}, f"access is denied (status {status})", log_in, False),
        (status is not None, f"the server answered with status {status}", later if may_pass else look, may_pass),
        (isinstance(error, PermissionError), "access is denied", log_in, False),
        (
            bool(names & _NO_CREDENTIALS),
            "there are no credentials for it",
            "set them as its own tools need them",
            False,
        ),
        (unknown_host, "its host is not known", look_around, False),
        (bool(names & _NO_TRUST), "its certificate is not accepted", look, False),
        (broken, f"the answer was cut short or wrong ({brief})", later, True),
        (late, f"no answer within {access.timeout:g} s", later, True),
        (bool(names & _NO_CONNECTION), f"no connection ({brief})", look_around, True),
        (True, brief, look, passing),
    ]
    return next((reason, advice, passes) for holds, reason, advice, passes in cases if holds)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 10:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())[:160].rstrip(".")
    return text or type(error).__name__
