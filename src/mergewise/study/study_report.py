"""The report of a whole study: one HTML page that loads nothing, and its figures as SVG and PNG files.

Everything is written from the document of `run_study` alone. A page of a study that is not finished says what is
missing, and draws it as missing.
"""

import csv
import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mergewise.study.asked import parameter_text
from mergewise.study.chart import Figure
from mergewise.study.files import make_folder, put, put_text
from mergewise.study.forecast_figures import forecast_figures
from mergewise.study.page_tables import (
    CHOSEN,
    by_chance,
    chosen_settings,
    cost_tables,
    rests_on,
    score_tables,
    wins,
)
from mergewise.study.paper_figures import (
    NOT_ASKED,
    PAPER_FIGURES,
    QUALITIES,
    SIDES,
    Grid,
    grid_of,
    paper_figures,
    shown_first,
)
from mergewise.study.published import PUBLISHED, PUBLISHED_NOTE, arrow, published_evidence
from mergewise.study.svg import LETTER, PALETTE, figure_svg, key_svg, panel_svg, style
from mergewise.study.tables import csv_of
from mergewise.study.task_tables import headline, made_by, sources, task_tables

__all__ = [
    "QUESTIONS",
    "heading",
    "published_rows",
    "render_study",
    "sizes_beside",
    "study_figures",
    "write_figures",
    "write_report",
]

Record = Mapping[str, Any]

QUESTIONS = {
    "1": "Is a stronger base better?",
    "2": "Is a larger model easier to merge?",
    "3": "Does merging help held-out tasks, and against multitask training?",
    "4": "How many experts can be merged, by size?",
    "5": "Do the methods become alike at scale?",
    "6": "Where do the methods beyond the paper's stand?",
    "7": "Is a merge better than the best single expert?",
}
MEASURES = {
    "normalised": "normalised, with raw below",
    "raw": "raw",
    "gain": "raw, over the best single expert",
    "beats": "probability of beating the base",
}
TABLES = {
    "scores": "scores",
    "tasks": "scores task by task",
    "comparisons": "paired comparisons of methods",
    "verdicts": "verdicts",
    "tuning": "tuning",
    "forecasts": "how many experts fit, foreseen and measured",
    "costs": "costs",
}


def write_report(document: Record, out: Path, progress: Callable[[str], None] | None = None) -> Path:
    """Write `report.html`, and every figure as `figures/NUMBER-NAME.svg` and `.png`, each file whole or not at all.

    PNG files need the package resvg-py, and take their letters from the fonts of this machine; without either they are
    left out, which is said.

    Args:
        document: as `run_study` gives it.
        out: a folder; made if missing.
        progress: called with a line of text.

    Returns:
        The page.
    """
    folder = out / "figures"
    make_folder(folder, "the figures")
    lacks = _png_lacks()
    if lacks and progress:
        progress(f"the figures are written as SVG only, not as PNG: {lacks}")
    for path in write_figures(document, folder):
        if not lacks:
            png = _png(path.read_text("utf-8"))
            put(path.with_suffix(".png"), partial(Path.write_bytes, data=png))
    page = out / "report.html"
    put_text(page, render_study(document))
    return page


def study_figures(grid: Grid) -> list[Figure]:
    """Return all figures of a report in order: those of the paper first."""
    return [*paper_figures(grid), *forecast_figures(grid)]


def write_figures(document: Record, folder: Path) -> list[Path]:
    """Write every figure as `NUMBER-NAME.svg` into a folder that exists, and return the files in order."""
    grid = grid_of(document)
    shown = shown_first(grid)
    written = []
    for number, figure in enumerate(study_figures(grid), 1):
        path = folder / f"{number}-{figure.name}.svg"
        put_text(path, figure_svg(figure, shown, heading(figure.title, number), _note(figure, grid, shown)))
        written.append(path)
    return written


def render_study(document: Record) -> str:
    """Return the report as one HTML document."""
    grid = grid_of(document)
    shown = shown_first(grid)
    environment = Environment(
        loader=PackageLoader("mergewise.study", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": _score, "signed": _signed, "share": _share, "stacked": _stacked, "seconds": _seconds,
        "arrows": _arrows, "percent": _percent,
        "rests_on": lambda verdict: rests_on(verdict, grid.methods),
    }  # fmt: skip
    tables = document["tables"]
    published = published_rows(grid)
    links = {
        name: (title, _csv_link(csv_of(name, tables[name])), len(tables[name]))
        for name, title in TABLES.items()
        if name in tables
    }
    links["published"] = ("published values beside ours", _csv_link(_published_csv(published)), len(published))
    return environment.get_template("study.html.j2").render(
        name=document["study"]["name"],
        lead=headline(grid),
        grid=grid,
        qualities=QUALITIES,
        shown=shown,
        questions=[(QUESTIONS[verdict["question"][0]], verdict) for verdict in tables["verdicts"]],
        figures=[_drawn(figure, number, grid, shown) for number, figure in enumerate(study_figures(grid), 1)],
        scores=score_tables(grid),
        tasks=task_tables(grid, tables["tasks"]),
        costs=cost_tables(grid),
        settings=chosen_settings(tables["tuning"]),
        settings_note=CHOSEN,
        chance=by_chance(tables["verdicts"]),
        wins=wins(grid, tables["comparisons"]),
        comparisons=tables["comparisons"],
        sides=SIDES,
        measures=MEASURES,
        papers=published_evidence(),
        sizes_beside=sizes_beside(grid),
        links=links,
        published=published,
        published_note=PUBLISHED_NOTE,
        palette=PALETTE,
        file_style=style("light"),
        letter=LETTER,
        failures=document["failures"],
        merges=sum(row["draws"] for row in tables["scores"] if row["method"] in grid.methods),
        merges_wanted=len(grid.bases) * len(grid.methods) * len(grid.counts) * document["study"]["draws"],
        scoring=document["study"]["scoring"],
        made_by=made_by(document["run"]),
        draws=document["draws"],
        sources=sources(document["categories"]),
        code=document["code"],
    )


def heading(title: str, number: int) -> str:
    """Return what stands above a figure, from its title and place: those after the paper's have no number of it."""
    if number > PAPER_FIGURES:
        return f"Beyond the paper: {title[0].lower()}{title[1:]}"
    return f"Figure {number}. {title}"


def _drawn(figure: Figure, number: int, grid: Grid, shown: Mapping[str, str]) -> Record:
    headed = heading(figure.title, number)
    drawing = figure_svg(figure, shown, headed, _note(figure, grid, shown))
    return {
        "number": number,
        "name": figure.name,
        "heading": headed,
        "title": figure.title,
        "caption": figure.caption,
        "line": figure.line,
        "lacks": figure.lacks,
        "missing": [point.text for point in figure.missing],
        "points": len(list(figure.points())),
        "across": 4 if figure.panels and len(figure.panels) % 4 == 0 else 2,
        "legend": [
            (_common_tags(figure, series.name), Markup(key_svg(series)), series.name)  # noqa: S704 - ours, escaped
            for series in figure.legend()
        ],
        "panels": [
            (panel.tags, Markup(panel_svg(panel, figure, shown)))  # noqa: S704 - ours, escaped
            for panel in figure.panels
        ],
        "svg": "data:image/svg+xml;base64," + b64encode(drawing.encode()).decode(),
        "marks": _marks(figure),
    }


def _common_tags(figure: Figure, name: str) -> dict[str, str]:
    """Return the tags that all series of a name share: a legend's entry goes when they all go."""
    tags = [set(series.tags.items()) for panel in figure.panels for series in panel.series if series.name == name]
    return dict(sorted(set.intersection(*tags)))


def _note(figure: Figure, grid: Grid, shown: Mapping[str, str]) -> str:
    """Say in a file what the page says beside a figure."""
    if figure.lacks:
        return figure.lacks
    used = {name for panel in figure.panels for series in panel.series for name in series.tags}
    used |= {name for point in figure.points() for name in point.tags}
    words = []
    if "focus" in used:
        words.append(f"{grid.methods[shown['focus']]}.")
    if "k" in used:
        words.append(f"{shown['k']} experts.")
    return " ".join(filter(None, [*words, _marks(figure)]))


def _marks(figure: Figure) -> str:
    """Say what lines and marks mean."""
    words = []
    if figure.line:
        words.append(f"Dashed: {figure.line[1]}.")
    if any(point.low is not None for point in figure.points()):
        words.append("Bars: 95 % intervals.")
    if figure.missing:
        words.append(f"×: missing ({len(figure.missing)} of {len(list(figure.points()))} points of all choices).")
    return " ".join(words)


def published_rows(grid: Grid) -> list[Record]:
    """Return published rows, then the same of ours: task arithmetic with fewest and most experts, and multitask.

    What the study was not asked for is said to be not in it; missing is what is not there yet, or failed.
    """
    found: list[Record] = [
        {
            "source": "published",
            "base": row.base,
            "experts": "2 → 8",
            "held_in": arrow(row.held_in),
            "held_in_multitask": arrow(row.held_in_multitask),
            "held_out": arrow(row.held_out),
            "held_out_multitask": arrow(row.held_out_multitask),
        }
        for row in PUBLISHED
    ]
    few, most, ours = grid.counts[0], grid.counts[-1], grid.named("task_arithmetic")
    for base in grid.bases:
        record = {
            "source": "this study",
            "base": f"{QUALITIES.get(base['quality'], base['quality'])}, {base['size']}",
            "experts": f"{few} → {most}" if few < most else str(few),
        }
        for side in ("held_in", "held_out"):
            for column, method in ((side, ours), (f"{side}_multitask", "multitask" if grid.multitask else "")):
                if not method:
                    record[column] = NOT_ASKED
                    continue
                rows = [grid.scores.get((base["name"], method, count)) for count in dict.fromkeys((few, most))]
                record[column] = " → ".join(_score(row, f"{side}_normalised") if row else "missing" for row in rows)
        found.append(record)
    return found


def sizes_beside(grid: Grid) -> str:
    """Say how large the paper's models are, and how large these."""
    sizes = [int(base["parameters"]) for base in grid.bases]
    return (
        f"Its models have one to 64 billion parameters, those here {parameter_text(min(sizes))} to "
        f"{parameter_text(max(sizes))}: shapes can be compared, not values."
    )


def _published_csv(rows: Sequence[Record]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _csv_link(text: str) -> str:
    return "data:text/csv;charset=utf-8;base64," + b64encode(text.encode()).decode()


def _score(row: Record, name: str) -> str:
    """Write a score with its interval; one has no value where what it is divided by is 0."""
    if row[name] is None:
        return "undefined"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def _stacked(text: str) -> Markup:
    """Set an interval below its estimate, so that tables stay narrow."""
    estimate, bracket, ends = text.partition(" [")
    return Markup("{} <small>[{}</small>").format(estimate, ends) if bracket else Markup("{}").format(estimate)


def _arrows(text: str) -> Markup:
    """Set the intervals of scores that an arrow joins apart."""
    return Markup(" → ").join(map(_stacked, text.split(" → ")))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}"


def _seconds(value: float | None) -> str:
    """Write seconds with three figures, in full above a thousand."""
    return "missing" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _signed(row: Record, name: str) -> str:
    if row[name] is None:
        return "–"
    ends = f"{row[name]:+.3f} [{row[f'{name}_low']:+.3f}, {row[f'{name}_high']:+.3f}]"
    return ends.replace("-", "−")


def _png(drawing: str) -> bytes:
    import resvg_py  # noqa: PLC0415 - pages need none

    return bytes(resvg_py.svg_to_bytes(svg_string=drawing, zoom=2))


def _png_lacks() -> str:
    """Say why PNG files cannot be written; empty if they can. Letters without a font leave no mark in resvg."""
    if find_spec("resvg_py") is None:
        return "they need the package resvg-py (pip install resvg-py)"
    empty, letter = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><text y="15">{text}</text></svg>'
        for text in ("", "M")
    )
    return "" if _png(empty) != _png(letter) else "no fonts were found on this machine"
