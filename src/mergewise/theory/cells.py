"""Measured cells as a forecast sees them: for every subset the number of experts and the mean loss of their merge."""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.errors import did_you_mean
from mergewise.theory.errors import ForecastError

__all__ = ["MOST_EXPERTS", "Cells", "cells_of", "count_of", "read_cells"]

Record = Mapping[str, Any]
MOST_EXPERTS = 10_000
"""A curve has a point for every number of experts, so there is an end to what is taken for one."""
_VALUES = ("loss", "score", "value")
_PLAIN = ("loss", "score")  # of which nothing need be assumed
_LOSSES = {"loss", "losses", "nll", "ppl", "perplexity", "error", "errors", "entropy", "value"}  # words of a name
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_SIZES = ("parameters", "size")
_SUBSETS = ("subset", "draw")
_NOT_MERGES = ("base", "multitask")
_BEYOND = "fields beyond the columns"
_SINGLE = ("method", "base")  # a curve is of one method, and of one base where sizes do not tell bases apart


@dataclass(frozen=True)
class Cells:
    """One number per merged subset.

    Attributes:
        k: (cells,) int64, how many experts are merged.
        losses: (cells,) float64, mean losses; 1 − score where scores were measured.
        sizes: (cells,) float64, parameters of the base; None where there is one size or none is known.
        scores: whether scores, of which higher ones are better, were measured.
        remarks: what the user should know of how they were read.
    """

    k: NDArray[np.int64]
    losses: NDArray[np.float64]
    sizes: NDArray[np.float64] | None = None
    scores: bool = False
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = np.ones(1) if self.sizes is None else self.sizes
        if not len(self.k) or not np.isfinite(self.losses).all() or self.k.min() < 1 or not (sizes > 0).all():
            raise ForecastError(
                "Cells are counts of 1 or more experts with finite values, and sizes above 0. Got "
                + (
                    f"k {self.k.min()} to {self.k.max()}, values {self.losses.tolist()[:4]}."
                    if len(self.k)
                    else "none."
                )
            )


def read_cells(
    path: str | Path, *, value: str | None = None, where: Mapping[str, str] | None = None, scores: bool | None = None
) -> Cells:
    """Read cells from a table as CSV, JSON (a list of records, or a study's ``results.json``) or Parquet.

    Args:
        path: the file.
        value: the column to fit; by default ``loss``, ``score`` or ``value``.
        where: columns with the values that rows must have.
        scores: whether higher values are better; by default they are unless the column is ``value``, or its name has
            a word such as ``loss``, ``nll``, ``perplexity`` or ``error``, and a remark says what was assumed.

    Raises:
        ForecastError: if the file is no such table, or does not say what to fit.
    """
    return cells_of(_records(Path(path)), value=value, where=where, scores=scores, origin=str(path))


def cells_of(
    records: Sequence[Record],
    *,
    value: str | None = None,
    where: Mapping[str, str] | None = None,
    scores: bool | None = None,
    origin: str = "the table",
) -> Cells:
    """Return the cells of a table: columns ``k``, a value, and, if there are any, subset and size.

    A row is a cell. With a column ``task``, as in the table ``tasks`` of a study, rows are one task of a cell, and the
    cell is their mean over those tasks that every cell was scored on: a law of mean losses needs the same mean
    everywhere. With a column ``category`` too, it is the mean over categories of the means over their tasks, as the
    scores of a study are. The arguments are those of `read_cells`.

    Raises:
        ForecastError: as `read_cells`.
    """
    records = _chosen(records, where or {}, origin)
    names = list(records[0])
    if "k" not in names:
        raise ForecastError(f"Expected a column 'k', the number of experts, in {origin}.{did_you_mean('k', names)}")
    if value is None:
        value = next((name for name in _VALUES if name in names), None)
    if value is None or value not in names:
        raise ForecastError(
            f"Expected a column {' or '.join(map(repr, _VALUES if value is None else (value,)))} in {origin}; "
            f"name another with --value.{did_you_mean(value or 'value', names)}"
        )
    assumed: tuple[str, ...] = ()
    if scores is None:
        scores = not _LOSSES & {word.lower() for word in _WORD.findall(value)}
        assumed = () if value in _PLAIN else (_assumed(value, scores),)
    size = next((name for name in _SIZES if name in names and _are_numbers(records, name)), None)
    for column in _SINGLE:
        found = sorted({str(r[column]) for r in records} if column in names else ())
        if len(found) > 1 and not (
            column == "base" and size is not None and len(_distinct(records, size)) == len(found)
        ):
            raise ForecastError(
                f"Expected one {column} in {origin}. Got {', '.join(found)}; choose with --where {column}={found[0]}."
            )
    k, values, sizes, remarks = (_of_tasks if "task" in names else _of_rows)(records, value, size, origin)
    losses = 1.0 - values if scores else values
    several = size is not None and len(np.unique(sizes)) > 1
    return Cells(k, losses, sizes if several else None, scores, (*assumed, *remarks))


def _assumed(value: str, scores: bool) -> str:
    what, other = ("scores, of which higher", "--losses") if scores else ("losses, of which lower", "--scores")
    return f"the values of '{value}' are taken for {what} ones are better; say {other} if it is the other way round"


Columns = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]


def _of_rows(records: Sequence[Record], value: str, size: str | None, origin: str) -> Columns:
    kept = [r for r in records if not _empty(r[value])]
    if not kept:
        raise ForecastError(f"Expected numbers in column '{value}' of {origin}. Got none.")
    k = np.array([_count(r, origin) for r in kept], np.int64)
    sizes = np.array([_number(r, size, origin) if size else 1.0 for r in kept])
    empty = len(records) - len(kept)
    remarks = (f"{empty} of {len(records)} rows have no '{value}' and are left out",) if empty else ()
    return k, np.array([_number(r, value, origin) for r in kept]), sizes, remarks


def _of_tasks(records: Sequence[Record], value: str, size: str | None, origin: str) -> Columns:
    cells: dict[tuple[float, int, str], dict[str, float]] = {}
    subset = next((name for name in _SUBSETS if name in records[0]), None)
    for r in records:
        key = _number(r, size, origin) if size else 1.0, _count(r, origin), str(r[subset]) if subset else ""
        cell, task = cells.setdefault(key, {}), str(r["task"])
        if task in cell:
            raise ForecastError(
                f"Expected one row for every task of a merge in {origin}. Got two for k={key[1]}, task={task}; "
                + ("tell merges apart by a column 'subset'." if subset is None else f"'{subset}' is {key[2]} in both.")
            )
        cell[task] = _number(r, value, origin)
    everywhere = sorted(set.intersection(*(set(cell) for cell in cells.values())))
    if not everywhere:
        raise ForecastError(
            f"Expected tasks in {origin} that every merge was scored on, since the law is one of the same mean "
            "everywhere. Got none; a column of averages can be chosen with --value in another table."
        )
    ever = {str(r["task"]) for r in records}
    remark = f"values are means over the {len(everywhere)} of {len(ever)} tasks that every merge was scored on"
    groups = [everywhere]
    if "category" in records[0]:
        category = {str(r["task"]): str(r["category"]) for r in records}
        groups = [[t for t in everywhere if category[t] == c] for c in sorted({category[t] for t in everywhere})]
        remark += ", averaged inside their categories first"
    values = np.array([
        np.mean([np.mean([cell[task] for task in group]) for group in groups]) for cell in cells.values()
    ])  # fmt: skip
    return np.array([k for _, k, _ in cells], np.int64), values, np.array([n for n, _, _ in cells]), (remark,)


def _chosen(records: Sequence[Record], where: Mapping[str, str], origin: str) -> Sequence[Record]:
    for column, wanted in where.items():
        if records and column not in records[0]:
            raise ForecastError(f"{origin} has no column '{column}' to choose by.{did_you_mean(column, records[0])}")
        found = {str(r[column]) for r in records}
        records = [r for r in records if str(r[column]) == wanted]
        if not records:
            raise ForecastError(f"No row of {origin} has {column}={wanted}.{did_you_mean(wanted, found)}")
    if "method" in where:
        return records
    records = [r for r in records if r.get("method") not in _NOT_MERGES]
    if not records:
        raise ForecastError(f"Expected rows of merges in {origin}. Got none; run its study, or name another table.")
    return records


def _records(path: Path) -> list[Record]:
    try:
        if path.suffix == ".parquet":
            try:
                parquet = import_module("pyarrow.parquet")
            except ModuleNotFoundError:
                raise ForecastError(f"{path} is Parquet, which needs pyarrow: install it, or give the CSV.") from None
            return list(parquet.read_table(path).to_pylist())
        text = path.read_text("utf-8-sig")  # Excel begins with a mark of its encoding
        if path.suffix != ".json":
            return _rows(text, path)
        found = json.loads(text)
    except (OSError, ValueError, csv.Error) as fault:
        raise ForecastError(f"{path} cannot be read as a table of cells: {fault}.") from fault
    if isinstance(found, dict):
        tables = found.get("tables")
        found = tables.get("tasks") if isinstance(tables, dict) else None
    if not isinstance(found, list) or not all(isinstance(r, dict) and r.keys() == found[0].keys() for r in found):
        raise ForecastError(f"Expected {path} to hold a list of records with the same keys, or a study's results.")
    return found


def _rows(text: str, path: Path) -> list[Record]:
    reader = csv.DictReader(text.splitlines(), restkey=_BEYOND)
    rows: list[Record] = list(reader)
    columns = list(reader.fieldnames or ())
    long = next((f"row {i} has more fields than columns" for i, row in enumerate(rows, 1) if _BEYOND in row), "")
    if long or ("k" not in columns and any(mark in name for name in columns for mark in ";\t")):
        raise ForecastError(
            f"Expected {path} to have commas between columns and points in numbers. Got the columns "
            f"'{', '.join(columns)}'{f', and {long}' if long else ''}; save it with commas, or as JSON."
        )
    return rows


def _are_numbers(records: Sequence[Record], column: str) -> bool:
    return all(_as_number(r[column]) is not None for r in records)


def _distinct(records: Sequence[Record], column: str) -> set[float | None]:
    return {_as_number(r[column]) for r in records}


def _as_number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _empty(value: Any) -> bool:
    return value is None or value == ""


def _number(record: Record, column: str, origin: str) -> float:
    found = _as_number(record[column])
    if found is None:
        raise ForecastError(f"Expected a number in column '{column}' of {origin}. Got '{record[column]}'.")
    return found


def _count(record: Record, origin: str) -> int:
    return count_of(_number(record, "k", origin), f"in column 'k' of {origin}")


def count_of(found: float, where: str) -> int:
    """Return a number of experts.

    Raises:
        ForecastError: it is none, or too large a one.
    """
    if not (abs(found) <= MOST_EXPERTS and found == int(found)):
        raise ForecastError(f"Expected whole numbers of experts, at most {MOST_EXPERTS}, {where}. Got {found}.")
    return int(found)
