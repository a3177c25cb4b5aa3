"""The ``mergewise`` command: its subcommands, and how faults leave it."""

import functools
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

import typer

from mergewise._version import __version__
from mergewise.cli import INTERRUPTED, stoppable
from mergewise.cli.adamerging import adamerging
from mergewise.cli.agreement import agreement
from mergewise.cli.demo import demo
from mergewise.cli.diff import diff
from mergewise.cli.evolve import evolve
from mergewise.cli.explain import explain
from mergewise.cli.extract import extract_lora
from mergewise.cli.forecast import forecast
from mergewise.cli.inspect import inspect
from mergewise.cli.limits import limits
from mergewise.cli.merge import merge
from mergewise.cli.methods import methods
from mergewise.cli.plan import plan
from mergewise.cli.statistics import statistics
from mergewise.cli.study import study_app
from mergewise.cli.survey import survey
from mergewise.cli.verify import verify
from mergewise.cli.zoo import zoo_app
from mergewise.errors import MergewiseError

__all__ = ["app", "main"]

app = typer.Typer(
    name="mergewise",
    help="Merge many fine-tuned experts of one base model into one, and know what that is worth.",
    epilog="Start with 'mergewise demo' (real models, real tasks, one report), or 'mergewise methods'. "
    "Exit codes: 0 done, 1 a fault, 2 wrong usage, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Let Ctrl-C end a command with a sentence."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            with stoppable():
                command(*args, **options)
        except KeyboardInterrupt:
            _fail(INTERRUPTED, 130)

    return run


COMMANDS = (
    merge, plan, explain, verify, inspect, diff, survey, limits, agreement, forecast, extract_lora, statistics,
    adamerging, methods, evolve, demo,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
for group in (app, zoo_app, study_app):
    for registered in group.registered_commands:
        registered.callback = registered.callback and _interruptible(registered.callback)
app.add_typer(zoo_app)
app.add_typer(study_app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mergewise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line; exit with 0 done, 1 a fault reported in one sentence, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # paths need not be text
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mergewise").setLevel(logging.WARNING if "--json" in sys.argv else logging.INFO)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except MergewiseError as fault:
        _fail(str(fault), 1)
    except ModuleNotFoundError as fault:  # also when the version of what is not installed is asked for
        if fault.name is None or fault.name.partition(".")[0] == "mergewise":
            raise
        _fail(
            f"This needs the package '{fault.name}', which is not installed; install what studies need, "
            "'mergewise[study]', or the package by itself.",
            1,
        )
    except MemoryError:
        _fail("The machine has not enough memory for this; lower --threads or --memory.", 1)
    except OSError as error:
        if error.filename is not None:
            raise
        _let_go(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # else whoever read has gone, as in `mergewise inspect … | head`
            _fail(f"The output cannot be written: {error.strerror}.", 1)
        sys.exit(1)


def _fail(sentence: str, code: int) -> NoReturn:
    # names in files and on the command line may hold line breaks, control codes, or bytes that are no text
    sentence = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
    if "--json" in sys.argv:
        _say(json.dumps({"error": sentence}, ensure_ascii=False), sys.stdout)
    _say(f"mergewise: {sentence}", sys.stderr)
    sys.exit(code)


def _say(line: str, stream: TextIO) -> None:
    """Print a line; where there is no room for it, the exit code is left to tell."""
    try:
        print(line, file=stream, flush=True)
    except OSError:
        _let_go(stream)


def _let_go(stream: TextIO) -> None:
    """Let a stream lead nowhere: what could not be written would be tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
