"""How commands speak: tables for people, JSON for programs, progress on the error stream."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

__all__ = [
    "JsonOption",
    "figure",
    "print_json",
    "print_pairs",
    "print_remarks",
    "print_table",
    "progress_bar",
    "refuse_given",
    "size",
]

_FILE_WIDTH = 160  # columns where there is no terminal to ask

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def print_json(content: Any) -> None:
    """Print plain data as JSON."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, numeric: Sequence[str] = ()) -> None:
    """Print a table; ``numeric`` names the columns that are aligned right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line."""
    pairs = list(pairs)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name:<{width}}  {value}")


def print_remarks(remarks: Iterable[str]) -> None:
    """Print what the user should know, on the error stream."""
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr)


def size(nbytes: float) -> str:
    """Return bytes in words, such as ``1.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def figure(count: float) -> str:
    """Return a count in words, such as ``22.7 M``."""
    for unit in ("", " k", " M", " G"):
        if count < 1000:
            return f"{count:.0f}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f} T"


@contextmanager
def progress_bar(label: str, *, quiet: bool, counts: str = "") -> Iterator[Callable[[int, int], None] | None]:
    """Show how far a job is, of bytes or of what it counts: a bar on a terminal, a line every few seconds otherwise."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        how_far = (MofNCompleteColumn(),) if counts else (DownloadColumn(), TransferSpeedColumn())
        columns = (TextColumn(label), BarColumn(), *how_far, TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        said = time.monotonic()

        def say(done: int, total: int) -> None:
            nonlocal said
            if time.monotonic() - said >= 5.0:
                said = time.monotonic()
                how_far = f"{done} of {total} {counts}" if counts else f"{size(done)} of {size(total)}"
                print(f"{label}: {how_far}", file=sys.stderr, flush=True)

        yield say


def refuse_given(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that were given, though they would do nothing.

    Args:
        context: Of the command.
        names: Of its parameters.
        why: The end of a sentence that begins with the option.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"{'/'.join((*parameter.opts, *parameter.secondary_opts))} {why}")
