"""The table of scores: as records for JSON, as CSV, and as plain text for a terminal."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergewise.study.intervals import interval
from mergewise.study.scores import Floats
from mergewise.study.summary import Row, Score

__all__ = ["as_csv", "as_text", "records"]

Record = dict[str, Any]
SCORES = ("normalised", "merged", "expert", "base")


def records(rows: Sequence[Row], labels: Mapping[str, str]) -> list[Record]:
    """Return the rows as what JSON can hold: every score as `{"estimate", "low", "high"}`, None where there is none."""
    return [
        {
            "method": row.method,
            "label": labels[row.method],
            "experts": row.count,
            "draws": row.draws,
            "held_in": _score(row.held_in),
            "held_out": _score(row.held_out),
        }
        for row in rows
    ]


def as_csv(table: Sequence[Record]) -> str:
    """Return the table as CSV, one line per method and number of experts, at full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header = ["method", "experts", "draws"]
    for side in ("held_in", "held_out"):
        for score in SCORES:
            header += [f"{side}_{score}", f"{side}_{score}_low", f"{side}_{score}_high"]
        header += [f"{side}_tasks", f"{side}_items"]
    writer.writerow(header)
    for record in table:
        cells: list[Any] = [record["method"], record["experts"], record["draws"]]
        for side in ("held_in", "held_out"):
            for score in SCORES:
                value = record[side][score]
                cells += ["", "", ""] if value is None else [value["estimate"], value["low"], value["high"]]
            cells += [record[side]["tasks"], record[side]["items"]]
        writer.writerow(cells)
    return file.getvalue()


def as_text(table: Sequence[Record]) -> str:
    """Return the table for a terminal of 120 columns, with a line between numbers of experts."""
    header = (
        "method",
        "k",
        "draws",
        "held-in [95%]",
        "raw",
        "expert",
        "base",
        "n",
        "held-out [95%]",
        "raw",
        "base",
        "n",
    )
    lines = [header, *(_text_cells(record) for record in table)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text, last = [], table[0]["experts"] if table else None
    for line, count in zip(lines, [last, *(record["experts"] for record in table)], strict=True):
        if count != last:
            text.append("\n")
        last = count
        cells = [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        text.append("  ".join(cells) + "\n")
    return "".join(text)


def _text_cells(record: Record) -> tuple[str, ...]:
    held_in, held_out = record["held_in"], record["held_out"]
    raw_in = [f"{held_in[score]['estimate']:.3f}" for score in ("merged", "expert", "base")]
    raw_out = [f"{held_out[score]['estimate']:.3f}" for score in ("merged", "base")]
    return (
        record["label"],
        str(record["experts"]),
        str(record["draws"]),
        _short(held_in["normalised"]),
        *raw_in,
        str(held_in["items"]),
        _short(held_out["normalised"]),
        *raw_out,
        str(held_out["items"]),
    )


def _score(score: Score) -> Record:
    return {
        "normalised": _interval(score.normalised),
        "merged": _interval(np.clip(score.merged, 0.0, 1.0)),
        "expert": None if score.expert is None else _interval(np.clip(score.expert, 0.0, 1.0)),
        "base": _interval(np.clip(score.base, 0.0, 1.0)),
        "tasks": score.tasks,
        "items": score.items,
    }


def _interval(replicates: Floats) -> Record:
    found = interval(replicates)
    return {"estimate": found.estimate, "low": found.low, "high": found.high}


def _short(score: Record) -> str:
    return f"{score['estimate']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
