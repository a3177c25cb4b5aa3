"""The tables of a study, as records with the columns that `columns` describes, and as files."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mergewise.study.cells import Scores
from mergewise.study.columns import REFERENCES, TABLES, columns
from mergewise.study.family import Base
from mergewise.study.forecasts import forecast_columns
from mergewise.study.intervals import interval_columns
from mergewise.study.measured import Measured
from mergewise.study.spec import Study
from mergewise.study.summary import Outcomes, Resamples, Row, Score, share_above
from mergewise.study.verdicts import Verdict

__all__ = ["BASE", "MULTITASK", "Rows", "csv_of", "rows_of", "study_tables", "write_parquet"]

BASE, MULTITASK = "base", "multitask"
_MOST = {"raw": 1.0, "expert": 1.0, "base": 1.0, "multitask": 1.0, "normalised": None, "multitask_normalised": None}
"""The most that scores and their ratios can be, whose least is 0; `gain` is a difference."""
Record = dict[str, Any]
Rows = Mapping[tuple[str, str, int], Row]
"""By base, method ('base' and 'multitask' among them) and number of experts."""


def rows_of(study: Study, measured: Mapping[str, Measured], resamples: Resamples) -> dict[tuple[str, str, int], Row]:
    """Sum up every base, method and number of experts for which all draws are there."""
    found: dict[tuple[str, str, int], Row] = {}
    for base, one in measured.items():
        outcomes = Outcomes(study.categories, one, resamples)
        for count in study.protocol.counts:
            for method in study.protocol.methods:
                draws = one.merges.get((method.name, count))
                if draws:
                    found[base, method.name, count] = outcomes.row(method.name, draws)
            picks = [pick.experts for pick in study.protocol.picks(study.names, count)]
            if all(name in one.experts for pick in picks for name in pick):
                found[base, BASE, count] = outcomes.base_row(BASE, picks)
                multitask = outcomes.multitask_row(MULTITASK, picks)
                if multitask is not None:
                    found[base, MULTITASK, count] = multitask
    return found


def study_tables(
    study: Study, measured: Mapping[str, Measured], rows: Rows, verdicts: Sequence[Verdict]
) -> dict[str, list[Record]]:
    """Return all tables by name, each a list of records with exactly the columns that `columns` names."""
    bases = {base.name: base for base in study.bases}
    labels = {m.name: m.label for m in study.protocol.methods} | REFERENCES

    def which(base: str, method: str | None = None, count: int | None = None) -> Record:
        one = bases[base]
        record: Record = {
            "base": base, "quality": one.quality, "size": one.size, "parameters": one.parameters
        }  # fmt: skip
        if method is not None:
            record |= {"method": method, "label": labels[method], "k": count}
        return record

    def costs() -> Iterator[Record]:
        for base, one in measured.items():
            for (method, count), cost in one.costs.items():
                yield which(base, method, count) | {
                    "merges": cost.merges,
                    "bytes_in": cost.nbytes,
                    "merge_seconds": cost.merge,
                    "score_seconds": cost.score,
                    "tuning_seconds": cost.tuning,
                }

    def tuning() -> Iterator[Record]:
        for base, one in measured.items():
            for (method, count), found in one.tuned.items():
                for trial in found.trials:
                    chosen = trial.parameters == found.parameters
                    yield which(base, method, count) | {
                        "setting": json.dumps(dict(trial.parameters)),
                        "score": trial.score if np.isfinite(trial.score) else None,
                        "chosen": chosen,
                        "at_edge": ", ".join(found.at_edge) if chosen else "",
                        "left_out": ", ".join(found.left_out),
                    }

    tables = {
        "scores": [
            which(*key)
            | {"draws": row.draws, "sets": row.sets}
            | _side("held_in", row.held_in)
            | _side("held_out", row.held_out)
            for key, row in rows.items()
        ],
        "tasks": [record for base, one in measured.items() for record in _tasks(study, bases[base], one, which)],
        "comparisons": list(_comparisons(study, rows, which)),
        "verdicts": [
            {"question": v.question, "claim": v.claim, "measure": v.measure}
            | interval_columns("effect", v.effect)
            | {
                "verdict": v.verdict,
                "evidence": v.evidence,
                "bases": ", ".join(v.basis.bases),
                "methods": ", ".join(v.basis.methods),
                "k": ", ".join(map(str, v.basis.counts)),
                "merges": v.basis.merges,
                "merges_wanted": v.basis.wanted,
            }
            for v in verdicts
        ],
        "tuning": list(tuning()),
        "forecasts": list(_forecasts(study, measured, rows, which)),
        "costs": list(costs()),
    }
    return {name: [_ordered(record, name) for record in tables[name]] for name in TABLES}


def _ordered(record: Record, table: str) -> Record:
    assert set(record) == set(columns(table)), set(record) ^ set(columns(table))
    return {name: record[name] for name in columns(table)}


def _side(side: str, score: Score) -> Record:
    found: Record = {}
    for name in ("normalised", "raw", "expert", "base", "multitask", "multitask_normalised", "gain"):
        replicates = getattr(score, "merged" if name == "raw" else name)
        if name in _MOST and replicates is not None:  # of few draws resamples may lie beyond
            replicates = np.clip(replicates, 0.0, _MOST[name])
        found |= interval_columns(f"{side}_{name}", replicates)
    for name in ("beats_base", "categories", "tasks", "items"):
        found[f"{side}_{name}"] = getattr(score, name)
    return found


def _tasks(study: Study, base: Base, measured: Measured, which: Callable[..., Record]) -> Iterator[Record]:
    """Yield the scores of every model on every task that it was scored on."""
    own = {
        task: float(scores[task].mean())
        for name, scores in measured.experts.items()
        for task in study.categories[name].tasks
    }

    def records(scores: Scores, experts: Sequence[str], method: str, count: int | None, draw: int | None) -> Any:
        for category in study.categories.values():
            for task in category.tasks:
                if task in scores:
                    yield which(base.name, method, count) | {
                        "draw": draw,
                        "experts": " + ".join(experts),
                        "task": task,
                        "category": category.name,
                        "held_in": category.held_in,
                        "far": category.far,
                        "merged": category.name in experts,
                        "score": float(scores[task].mean()),
                        "items": len(scores[task]),
                        "expert": own.get(task),
                        "base_score": float(measured.base[task].mean()),
                        "multitask": None if measured.multitask is None else float(measured.multitask[task].mean()),
                    }

    yield from records(measured.base, (), BASE, 0, None)
    if measured.multitask is not None:
        yield from records(measured.multitask, study.names, MULTITASK, len(study.names), None)
    for (method, count), draws in measured.merges.items():
        for index, draw in enumerate(draws):
            yield from records(draw.answers, draw.experts, method, count, index)


def _forecasts(
    study: Study, measured: Mapping[str, Measured], rows: Rows, which: Callable[..., Record]
) -> Iterator[Record]:
    """Yield what limits foresaw of every base, beside what the merges of every method were worth."""
    for base, one in measured.items():
        for method in study.protocol.methods:
            pair = base, method.name
            by_count = {count: row for (*other, count), row in rows.items() if tuple(other) == pair}
            if by_count:
                named = {name: value for name, value in which(*pair).items() if name != "k"}
                yield named | forecast_columns(by_count, one.limits, study.names)


def _comparisons(study: Study, rows: Rows, which: Callable[..., Record]) -> Iterator[Record]:
    """Yield the paired difference of every two methods at every base and number of experts."""
    names = [method.name for method in study.protocol.methods]
    for base in study.bases:
        for count in study.protocol.counts:
            for method, other in combinations(names, 2):
                pair = rows.get((base.name, method, count)), rows.get((base.name, other, count))
                if pair[0] is None or pair[1] is None:
                    continue
                for side in ("held_in", "held_out"):
                    first, second = getattr(pair[0], side).normalised, getattr(pair[1], side).normalised
                    difference = first - second
                    yield (
                        which(base.name)
                        | {"k": count, "side": side, "method": method, "other": other}
                        | interval_columns("difference", difference)
                        | {"above": share_above(difference) if np.isfinite(difference[0]) else None}
                    )


def csv_of(table: str, records: Sequence[Record]) -> str:
    """Return a table as CSV at full precision; empty where there is nothing to say."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns(table), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def write_parquet(table: str, records: Sequence[Record], path: Path) -> None:
    """Write a table as Parquet, with the meaning of every column in its schema's metadata."""
    import pyarrow as pa  # noqa: PLC0415 - a second, for those who write tables only
    import pyarrow.parquet as pq  # noqa: PLC0415

    names = columns(table)
    about = TABLES[table]
    arrays = {name: pa.array([record[name] for record in records]) for name in names}
    fields = [
        pa.field(name, array.type, metadata={"about": about.get(name) or about[name.rpartition("_")[0]]})
        for name, array in arrays.items()
    ]
    pq.write_table(pa.Table.from_arrays(list(arrays.values()), schema=pa.schema(fields)), path)
