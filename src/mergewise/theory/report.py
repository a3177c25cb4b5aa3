"""The report of ``limits``: one HTML page that loads nothing, and whose own policy forbids it to."""

import json
import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import astuple
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mergewise.errors import SurveyError
from mergewise.statistics.claims import DENSE_EXPERTS
from mergewise.theory.charts import Line, Range, line_chart, range_chart
from mergewise.theory.crosstalk import concentration
from mergewise.theory.groups import OUTSIDE, Place, kind_of, place_names, place_of, short_names
from mergewise.theory.tables import (
    COLLISIONS,
    KINDS,
    ORDER,
    TAILS,
    collision_rows,
    counted,
    kind_rows,
    largest,
    number,
    order_rows,
    sketching,
    tail_rows,
)
from mergewise.theory.threshold import weighted_quartiles

if TYPE_CHECKING:
    from mergewise.theory.dimension import MatrixRoom
    from mergewise.theory.limits import Limits

__all__ = ["render", "write_report"]

_CONSTRUCTION = (
    "Construction of ours, not proven to predict the quality of a merge: c_i as the dimensions that an expert takes "
    "up, in general position; the median over matrices; the recommended number. Evaluate what you merge."
)

_STYLE = """
:root { --ink:#1c2126; --faint:#5d666f; --grid:#e3e7ea; --page:#fff; --card:#f6f8f9; --fill:0,114,178;
  --m0:#005282; --m1:#9c4300; --m2:#007857; --m3:#a86389; --m4:#c28500; --m5:#499bc9; }
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
  background:var(--page) } .map td.dense { color:var(--page) }
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
        _collisions(found),
        _room(found),
        _kinds(found),
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
    title = "The experts, in the order in which they widen the set most, lengths counted"
    return f"<h2>{title}</h2>{_table(ORDER, order_rows(found, names))}"


def _width(found: "Limits") -> str:
    curve = found.model.width
    lines = [
        Line("widest directions first", curve.greedy.tolist(), curve.greedy_errors.tolist()),
        Line("mean over all orders", curve.mean.tolist(), curve.mean_errors.tolist()),
    ]
    note = "Bars are two standard errors. Each further expert adds less, whatever the experts: that is a theorem."
    return f'<h2>Gaussian width</h2>{line_chart(lines, "Gaussian width", "width")}<p class="note">{note}</p>'


def _claims(found: "Limits") -> str:
    mean = found.model.coverage
    chain = found.claims.curve(found.recommendation.order).reshape(-1, 2)
    lines = [
        Line("coverage, recommended order", chain[:, 0].tolist()),
        Line("coverage, mean of all surveyed sets", mean[:, 0].tolist()),
        Line("conflict, recommended order", chain[:, 1].tolist()),
        Line("conflict, mean of all surveyed sets", mean[:, 1].tolist()),
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
    cells: dict[tuple[Place, str], list[MatrixRoom]] = {}
    for matrix in found.matrices:
        cells.setdefault((place_of(matrix.name), kind_of(matrix.name)), []).append(matrix)
    inside = {kind for (_, layer), kind in cells if layer != OUTSIDE}
    kinds = sorted({kind for _, kind in cells}, key=lambda kind: (kind not in inside, kind))
    whole = sum(matrix.energy for matrix in found.matrices) or 1.0
    head = "".join(f"<th>{escape(kind)}</th>" for kind in kinds)
    rows = []
    for place, name in place_names(place for place, _ in cells).items():
        cols = [_cell(cells[place, kind], whole) if (place, kind) in cells else "<td></td>" for kind in kinds]
        rows.append(f"<tr><td>{escape(name)}</td>{''.join(cols)}</tr>")
    note = (
        "Number: k*, how many experts the matrix has room for. Shade: the share of its smaller side that "
        f"{counted(found)} occupy together, by the participation ratio. Of several matrices in one place: medians, "
        "weighted by change. Where dark cells with small numbers carry much of the change, experts collide."
    )
    return (
        f'<h2>Where it gets crowded</h2><div class="scroll"><table class="map"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="note">{note}</p>'
    )


def _cell(matrices: "Sequence[MatrixRoom]", whole: float) -> str:
    energies = np.array([one.energy for one in matrices])
    figures = np.array(
        [
            (one.participation[-1], *astuple(one.threshold), *(end.most for end in one.threshold_range))
            for one in matrices
        ]
    )
    weights = energies if energies.any() else np.ones_like(energies)
    share, safe, most, full, *ends = (float(weighted_quartiles(column, weights)[1]) for column in figures.T)
    sketched = any(one.sketched for one in matrices)
    error = f" ± {number(max(abs(end - most) for end in ends))} by sketching" if sketched else ""
    dense = ' class="dense"' if share > 0.6 else ""
    first = f"{matrices[0].name} {list(matrices[0].shape)}"
    title = (
        f"{first if len(matrices) == 1 else f'{len(matrices)} matrices such as {first}'}: occupied {share:.0%}, k_safe "
        f"{number(safe)}, k* {number(most)}{error}, k_full {number(full)}, {energies.sum() / whole:.1%} of the change"
    )
    style = f"background:rgba(var(--fill),{0.08 + 0.92 * min(1.0, share):.2f})"
    return f'<td{dense} style="{style}" title="{escape(title)}">{number(most)}</td>'


def _collisions(found: "Limits") -> str:
    if not found.collisions:
        return ""
    note = (
        "Crosstalk: what others do to the inputs that an expert's change answers to, times what it does itself; among "
        "the recommended experts, the largest shares. Best λ: what suits a sum of them in that matrix."
    )
    table = _table(COLLISIONS, collision_rows(found))
    said = f"<p>{escape(concentration(found.collisions))}</p>"
    return f'<h2>Where the recommended experts collide</h2>{said}{table}<p class="note">{escape(note)}</p>'


def _room(found: "Limits") -> str:
    groups = [group for group in largest(found) if not np.isnan(group.room).any()]
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
    if off := sketching(found):
        note += f" Standard errors, all taken the same way: {off}."
    return f'<h2>Room by kind of matrix</h2>{chart}<p class="note">{note}</p>'


def _kinds(found: "Limits") -> str:
    note = (
        "Energy: the share of all change. Ranks: of one expert's change, as shares of the smaller side. Occupied, "
        f"k_safe, k*, k_full and conflict: of {counted(found)} together. All but energy and conflict are medians, "
        "weighted by change."
    )
    table = _table(KINDS, kind_rows(found))
    return f'<h2>Ranks, room and conflict by kind of tensor</h2>{table}<p class="note">{escape(note)}</p>'


def _occupancy(found: "Limits") -> str:
    groups = [group for group in largest(found) if not np.isnan(group.participation).any()][:6]
    if not groups:
        return ""
    lines = [Line(group.name, group.participation[:, 1].tolist()) for group in groups]
    note = (
        "What the first k experts of the recommended order occupy together of the matrix's smaller side: medians "
        "weighted by change, for the kinds that carry most of it."
    )
    chart = line_chart(lines, "Occupancy", "share of the smaller side", percent=True)
    return f'<h2>Occupancy</h2>{chart}<p class="note">{note}</p>'


def _tails(found: "Limits", names: Sequence[str]) -> str:
    note = (
        f"Medians over tensors. A small Hill index is a heavy tail. Merged deltas: all experts at equal weights and "
        f"density {found.density:g}; from samples of coordinates, with standard errors of one tensor's figure."
    )
    return f'<h2>Tails</h2>{_table(TAILS, tail_rows(found, names))}<p class="note">{note}</p>'


def _cosines(found: "Limits", names: Sequence[str]) -> str:
    rows = [
        (name, *(f"{value:.3f}" for value in row))
        for name, row in zip(names, found.model.cosines.tolist(), strict=True)
    ]
    return f"<h2>Cosines between changes</h2>{_table(('', *names), rows)}"


def _reading(found: "Limits") -> str:
    sampled = len(found.experts) > DENSE_EXPERTS
    return _notes(
        [
            f"Measured, without error: norms, cosines,{'' if sampled else ' coverage, conflict,'} kurtosis of experts"
            + (", ranks of matrices up to the size that docs/limits.md states." if found.matrices else "."),
            *(["Measured over samples of coordinates: coverage and conflict."] if sampled else []),
            "Theorem: width grows with every expert by less and less; k_safe ≤ k* ≤ k_full.",
            _CONSTRUCTION,
        ]
    )
