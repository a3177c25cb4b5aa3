"""The report of ``limits``: one HTML page that loads nothing, and whose own policy forbids it to."""

import json
import os
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mergewise.errors import SurveyError
from mergewise.theory.charts import Line, Range, line_chart, range_chart
from mergewise.theory.groups import OUTSIDE, kind_of, layer_of, short_names
from mergewise.theory.threshold import NEVER

if TYPE_CHECKING:
    from mergewise.theory.dimension import MatrixRoom
    from mergewise.theory.limits import GroupLimits, Limits

__all__ = ["render", "write_report"]

_CONSTRUCTION = (
    "Construction of ours, not proven to predict the quality of a merge: c_i as the dimensions that an expert takes "
    "up, in general position; the median over matrices; the recommended number. Evaluate what you merge."
)

_STYLE = """
:root { --ink:#1c2126; --faint:#5d666f; --grid:#e3e7ea; --page:#fff; --card:#f6f8f9; --fill:0,114,178;
  --m0:#0072b2; --m1:#d55e00; --m2:#009e73; --m3:#cc79a7; --m4:#e69f00; --m5:#56b4e9; }
@media (prefers-color-scheme: dark) { :root { --ink:#e8eaed; --faint:#9aa3ab; --grid:#343a40; --page:#16191c;
  --card:#1f2327; --fill:86,180,233; --m0:#56b4e9; --m1:#f2711c; --m2:#2fbf94; --m3:#e08fbd; --m4:#e69f00;
  --m5:#f0e442; } }
* { box-sizing:border-box }
body { margin:0 auto; padding:1rem; max-width:60rem; background:var(--page); color:var(--ink);
  font:16px/1.5 system-ui,sans-serif } h1 { font-size:1.4rem } h2 { font-size:1.1rem; margin-top:2rem }
.say { background:var(--card); border-left:4px solid var(--m0); padding:.8rem 1rem; font-size:1.1rem }
p.note, li { color:var(--faint) } li b, p.note b { color:var(--ink) } svg { width:100%; height:auto; display:block }
.scroll { overflow-x:auto } table { border-collapse:collapse; font-variant-numeric:tabular-nums }
th,td { padding:.25rem .6rem; text-align:right; white-space:nowrap }
th:first-child,td:first-child { text-align:left } th { color:var(--faint);
  font-weight:600 } tbody tr { border-top:1px solid var(--grid) } .map td { text-align:center; min-width:3.2rem;
  border:2px solid var(--page) } .map td:first-child { text-align:left; color:var(--faint); position:sticky; left:0;
  background:var(--page) } .map td.dense { color:#fff }
.grid { stroke:var(--grid) } text { fill:var(--ink); font-size:13px } .tick,.label { fill:var(--faint); font-size:12px }
.line { fill:none; stroke-width:2.5 } .bar { stroke-width:1.5 } .range { fill:rgba(var(--fill),.35) }
.middle { stroke:var(--ink); stroke-width:3 } .here { stroke:var(--m1); stroke-width:2; stroke-dasharray:5 4 }
.legend { display:flex; flex-wrap:wrap; gap:.3rem 1rem; margin:.2rem 0; font-size:.9rem } .legend span { display:flex;
  align-items:center; gap:.3rem } .legend svg { width:16px } a { color:var(--m0) }
""" + "".join(f".line.c{i},.bar.c{i} {{ stroke:var(--m{i}) }} .mark.c{i} {{ fill:var(--m{i}) }}\n" for i in range(6))


def write_report(found: "Limits", path: str | os.PathLike[str]) -> None:
    """Write the report to a file.

    Raises:
        SurveyError: It cannot be written.
    """
    try:
        Path(path).write_text(render(found), "utf-8")
    except OSError as error:
        raise SurveyError(f"{path}: cannot be written: {error.strerror}; choose another place for it.") from error


def render(found: "Limits") -> str:
    """Return the report as one HTML document."""
    names = short_names(found.experts)
    data = b64encode(json.dumps(found.summary()).encode()).decode()
    sections = [
        f"<h1>How many experts fit into {escape(found.base.rstrip('/').split('/')[-1])}</h1>",
        f'<p class="say">{escape(found.recommendation.sentence)}</p>',
        _notes([*(finding.sentence for finding in found.findings), *found.remarks]),
        _order(found, names),
        _width(found),
        _claims(found),
        _map(found),
        _room(found),
        _occupancy(found),
        _tails(found, names),
        _cosines(found, names),
        _reading(found),
        f'<p><a download="limits.json" href="data:application/json;base64,{data}">All figures as JSON</a></p>',
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>mergewise limits</title><style>{_STYLE}</style></head><body>'
        f"{''.join(sections)}</body></html>\n"
    )


def _notes(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in sentences)}</ul>" if sentences else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _order(found: "Limits", names: Sequence[str]) -> str:
    chosen = found.recommendation
    rows = []
    for k, expert in enumerate(chosen.order):
        before = chosen.order[: k + 1]
        reached, error = found.width_of(before)
        covered, conflict = found.coverage_of(before)
        rows.append(
            (
                f"{k + 1}", names[expert], f"{chosen.gains[k]:.1%}", f"{reached:.3f} ± {error:.3f}",
                f"{covered:.1%}", f"{conflict:.1%}",
                f"{found.model.norms[expert]:.3g}",
            )
        )  # fmt: skip
    columns = ("k", "expert added", "gain, of the first", "width", "coverage", "conflict", "norm of its change")
    return (
        f"<h2>The experts, in the order in which they widen the set most, lengths counted</h2>{_table(columns, rows)}"
    )


def _width(found: "Limits") -> str:
    curve = found.model.width
    lines = [
        Line("best order", curve.greedy.tolist(), curve.greedy_errors.tolist()),
        Line("mean over all orders", curve.mean.tolist(), curve.mean_errors.tolist()),
    ]
    note = "Bars are two standard errors. Each further expert adds less, whatever the experts: that is a theorem."
    return f'<h2>Gaussian width</h2>{line_chart(lines, "Gaussian width", "width")}<p class="note">{note}</p>'


def _claims(found: "Limits") -> str:
    mean = found.model.coverage
    chain = found.claims.curve(found.model.width.order)
    lines = [
        Line("coverage, best order", chain[:, 0].tolist()),
        Line("coverage, mean", mean[:, 0].tolist()),
        Line("conflict, best order", chain[:, 1].tolist()),
        Line("conflict, mean", mean[:, 1].tolist()),
    ]
    note = (
        f"Coverage: coordinates that are among the largest {found.density:.0%} of at least one expert's changes "
        "to their tensor. Conflict: those that two or more such experts pull in opposite directions."
    )
    chart = line_chart(lines, "Coverage and conflict", "share of coordinates", percent=True)
    return f'<h2>Coverage and conflict</h2>{chart}<p class="note">{escape(note)}</p>'


def _map(found: "Limits") -> str:
    """Return the map of layers and kinds of matrix."""
    if not found.matrices:
        return ""
    cells: dict[tuple[int, str], MatrixRoom] = {(layer_of(m.name), kind_of(m.name)): m for m in found.matrices}
    layers = sorted({layer for layer, _ in cells})
    energies: dict[str, float] = {}
    for (_, kind), matrix in cells.items():
        energies[kind] = energies.get(kind, 0.0) + matrix.energy
    inside = {kind for layer, kind in cells if layer != OUTSIDE}
    kinds = sorted(energies, key=lambda kind: (kind not in inside, kind))
    whole = sum(energies.values()) or 1.0
    head = "".join(f"<th>{escape(kind)}</th>" for kind in kinds)
    rows = []
    for layer in layers:
        cols = []
        for kind in kinds:
            found_here = cells.get((layer, kind))
            cols.append("<td></td>" if found_here is None else _cell(found_here, whole))
        name = "outside" if layer == OUTSIDE else f"layer {layer}"
        rows.append(f"<tr><td>{name}</td>{''.join(cols)}</tr>")
    note = (
        "Number: k*, how many experts the matrix has room for. Shade: how much of its smaller side all experts "
        "together occupy. Where dark cells with small numbers carry much of the change, experts collide."
    )
    return (
        f'<h2>Where it gets crowded</h2><div class="scroll"><table class="map"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="note">{note}</p>'
    )


def _cell(matrix: "MatrixRoom", whole: float) -> str:
    share = float(matrix.occupancy[int(np.argmin(matrix.shape)), -1])
    dense = ' class="dense"' if share > 0.6 else ""
    title = (
        f"{matrix.name} {list(matrix.shape)}: occupied {share:.0%}, k_safe {_number(matrix.threshold.safe)}, k* "
        f"{_number(matrix.threshold.most)}, k_full {_number(matrix.threshold.full)}, "
        f"{matrix.energy / whole:.1%} of the change"
    )
    style = f"background:rgba(var(--fill),{0.08 + 0.92 * min(1.0, share):.2f})"
    return f'<td{dense} style="{style}" title="{escape(title)}">{_number(matrix.threshold.most)}</td>'


def _room(found: "Limits") -> str:
    groups = [group for group in _largest(found.kinds) if not np.isnan(group.room).any()]
    if not groups:
        return ""
    ranges = [Range(group.name, *(float(step[1]) for step in group.room)) for group in [found.model, *groups]]
    most = 4.0 * len(found.experts)
    cut = [Range(one.name, min(one.low, most), min(one.middle, most), min(one.high, most)) for one in ranges]
    chart = range_chart(cut, "How many experts fit, by kind of matrix", float(len(found.experts)))
    note = (
        f"From k_safe to k_full, with k* marked; medians weighted by change. The dashed line is the "
        f"{len(found.experts)} experts at hand. η = {found.eta:g}. What lies beyond {most:g} is drawn there."
    )
    return f'<h2>Room by kind of matrix</h2>{chart}<p class="note">{note}</p>'


def _occupancy(found: "Limits") -> str:
    groups = [group for group in _largest(found.kinds) if not np.isnan(group.occupancy).any()][:6]
    if not groups:
        return ""
    lines = [Line(group.name, group.occupancy[:, 1].tolist()) for group in groups]
    note = (
        "Entropy rank of the first k experts together, as a share of the matrix's smaller side: in the order of the "
        "survey, medians weighted by change, for the kinds that carry most of it."
    )
    chart = line_chart(lines, "Occupancy", "share of the smaller side", percent=True)
    return f'<h2>Occupancy</h2>{chart}<p class="note">{note}</p>'


def _largest(groups: "Sequence[GroupLimits]") -> "list[GroupLimits]":
    return sorted(groups, key=lambda group: -group.energy)[:12]


def _tails(found: "Limits", names: Sequence[str]) -> str:
    labels = (*names, *(f"merged: {tail.name}" for tail in found.tails[len(names) :]))
    rows = [
        (
            label, f"{tail.kurtosis[1]:.2f} ± {tail.kurtosis_error:.2f}", f"{tail.hill[1]:.2f} ± {tail.hill_error:.2f}",
            f"{tail.nonzero:.1%}",
        )
        for label, tail in zip(labels, found.tails, strict=True)
    ]  # fmt: skip
    note = (
        f"Medians over tensors. A small Hill index is a heavy tail. Merged deltas: all experts at equal weights and "
        f"density {found.density:g}; from samples of coordinates, with standard errors of one tensor's figure."
    )
    columns = ("of", "excess kurtosis", "Hill index", "not zero")
    return f'<h2>Tails</h2>{_table(columns, rows)}<p class="note">{note}</p>'


def _cosines(found: "Limits", names: Sequence[str]) -> str:
    rows = [
        (name, *(f"{value:.3f}" for value in row))
        for name, row in zip(names, found.model.cosines.tolist(), strict=True)
    ]
    return f"<h2>Cosines between changes</h2>{_table(('', *names), rows)}"


def _reading(found: "Limits") -> str:
    return _notes(
        [
            "Measured, without error: norms, cosines, coverage, conflict, kurtosis of experts"
            + (", ranks of matrices up to the size that docs/limits.md states." if found.matrices else "."),
            "Theorem: width grows with every expert by less and less; k_safe ≤ k* ≤ k_full.",
            _CONSTRUCTION,
        ]
    )


def _number(value: int) -> str:
    return "any" if value >= NEVER else f"{value}"
