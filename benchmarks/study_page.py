"""docs/study.md and its figures, from the `results.json` of a study."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergewise.study.asked import parameter_text
from mergewise.study.columns import columns
from mergewise.study.page_tables import (
    CHOSEN,
    ScoreTable,
    Wins,
    by_chance,
    chosen_settings,
    cost_tables,
    rests_on,
    score_tables,
    wins,
)
from mergewise.study.paper_figures import QUALITIES, SIDES, Grid, grid_of
from mergewise.study.published import PUBLISHED_NOTE, published_evidence
from mergewise.study.study_report import QUESTIONS, heading, published_rows, sizes_beside, study_figures, write_figures
from mergewise.study.verdicts import DOES_NOT_HOLD, HOLDS, OPEN
from study_fit import FIT, FORESEEN, agreement, foreseen, knees

__all__ = ["page", "write_study"]

Record = Mapping[str, Any]

HEAD = """\
# The study on the zoo: what matters for merging

Made by `python benchmarks/zoo.py --study OUT --write docs` from what `mergewise study run {spec} OUT` and
`mergewise study report` wrote; every sentence and number below is written from these data by code, whatever they say.
The protocol is that of "What Matters for Model Merging at Scale?" (arXiv 2410.03617), of which neither code nor
checkpoints were published; [zoo.md](zoo.md) says what the models and tasks here are.
"""
READING = """\
Scores are normalised: held-in is score over that of each task's own expert, held-out is score over the base's; means
are taken over tasks, categories and draws. Square brackets are 95 % intervals, paired wherever two numbers are
compared: {replicates} bootstrap resamples of the test items, with random weights of the {draws} draws by which their
mean has Student's distribution, so that few draws that differ make them wide. They tell how sure a number is for
*these* experts and tasks, and nothing of other trainings, other tasks or larger models. n is the number of different
test items.
"""
VERDICTS = """\
An effect is positive where it speaks for the claim. *Does not hold*: its whole interval lies below 0.01, so that there
is no effect, a negligible one, or the opposite. *Holds*: the whole interval lies above 0, and not below 0.01. Strong
bases are the instruction-tuned ones. Published values were read from a secondary source of the paper's Tables 1 to 4,
not from the paper itself.
"""
LAW = """\
The loss over the number k of merged experts as L(k) = L∞ + A/(k + b) ([forecast.md](forecast.md)), fitted to 1 - score
on the held-out tasks. A above 0: more experts help; below 0: they harm, and the law does not apply. No intervals are
given, as those over the few draws alone would be too narrow.
"""
RHT = """\
With equal weights RHT is TIES of the same density and scope times 1/density ([rht.md](rht.md)), which λ undoes: where
both are tuned, a comparison of the two compares their grids of λ and density, and their scopes where these differ.
"""
COST = """\
Median seconds on one core with {most} experts, in memory, over the different merges: draws of the same experts are one,
unless they have random masks."""
WELL = 0.95  # R², as `mergewise forecast` has it
GAINS = "Held-in, raw score minus that of the best single one of the merged experts; probability of beating the base:"


TASKS = "tasks.parquet"


def write_study(out: Path, docs: Path) -> Path:
    """Write `study.md`, and its figures into the folder `study` beside it, from the results in a study's folder.

    Raises:
        SystemExit: there are no results, or other code wrote them.
    """
    results = out / "results.json"
    again = "write them with `mergewise study report SPEC -o OUT`."
    if not results.is_file():
        raise SystemExit(f"Expected a study's results.json in {out}, found none; {again}")
    document = json.loads(results.read_text("utf-8"))
    for name in ("scores", "comparisons", "verdicts", "tuning", "costs"):
        missing = [column for row in document["tables"][name][:1] for column in columns(name) if column not in row]
        if missing:
            raise SystemExit(f"{results}: the table of {name} lacks '{missing[0]}', so other code wrote it; {again}")
    folder = docs / "study"
    folder.mkdir(parents=True, exist_ok=True)
    figures = write_figures(document, folder)
    for stale in set(folder.glob("*.svg")) - set(figures):
        stale.unlink()
    if (out / TASKS).is_file():  # for `same_study.py`
        shutil.copy(out / TASKS, docs / "study" / TASKS)
    written = docs / "study.md"
    written.write_text(page(document, [f"study/{path.name}" for path in figures]), "utf-8")
    return written


def page(document: Record, figures: Sequence[str]) -> str:
    """Return the page as Markdown.

    Args:
        document: as `run_study` gives it.
        figures: addresses of the figures, in the order of `study_figures`.
    """
    grid = grid_of(document)
    tables = document["tables"]
    parts = [
        *opening(document, grid),
        *verdict_section(tables["verdicts"], grid),
        *figure_section(grid, figures),
        *published_section(grid),
        *score_section(grid),
        *pair_section(wins(grid, tables["comparisons"]), grid),
        *setting_section(chosen_settings(tables["tuning"]), grid),
        *fit_section(grid),
        *law_section(grid),
        *cost_section(grid),
    ]
    return "\n".join(parts).rstrip() + "\n"


def opening(document: Record, grid: Grid) -> Iterator[str]:
    """Say what ran, on what, and what is missing."""
    study, run = document["study"], document.get("run", {})
    yield HEAD.format(spec=f"examples/{study['name']}.yaml")
    yield READING.format(replicates=study["scoring"]["replicates"], draws=study["draws"])
    merges = sum(row["draws"] for row in document["tables"]["scores"] if row["method"] in grid.methods)
    wanted = len(grid.bases) * len(grid.methods) * len(grid.counts) * study["draws"]
    if merges < wanted:
        failed = f"; {len(document['failures'])} cells failed" if document["failures"] else ""
        yield (
            f"**Not finished:** {merges} of {wanted} merges are there{failed}. Missing ones are marked as missing, and "
            "every verdict says which merges it rests on.\n"
        )
    few = {row["k"]: row["sets"] for row in document["tables"]["scores"] if row["sets"] < row["draws"]}
    repeated = "".join(f" (different sets with k = {k}: {sets})" for k, sets in few.items())
    bases = ", ".join(f"{base['name']} ({parameter_text(base['parameters'])})" for base in grid.bases)
    held_in = [one["name"] for one in document["categories"] if one["held_in"]]
    held_out = [one["name"] for one in document["categories"] if not one["held_in"]]
    facts = [
        ("bases (parameters)", bases),
        ("methods", ", ".join(grid.methods.values())),
        (
            "merges",
            f"{merges}: k = {', '.join(map(str, grid.counts))} experts, {study['draws']} draws of which{repeated}",
        ),
        ("held-in categories", ", ".join(held_in)),
        ("held-out categories", ", ".join(held_out)),
        ("test items per task", str(study["scoring"]["test_items"] or "all")),
        ("code", f"`{document['code'][:16]}`"),
    ]
    if "machine" in run:
        facts.append(("machine", run["machine"]))
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())))
    if "cells" in run:
        done, hours = (sum(tally[name] for tally in run["cells"]) for name in ("done", "seconds"))
        facts.append(("cells", f"{done:,}, {hours / 3600:.1f} hours as one worker after the other"))
    if "seconds" in run:  # not where a report alone was written
        computed = sum(tally["computed"] for tally in run["cells"])
        facts.append(
            ("last run", f"{run['seconds'] / 60:.1f} minutes for {computed:,} cells, {run['workers']} workers")
        )
    yield from table(("what", "in this study"), facts)


def verdict_section(verdicts: Sequence[Record], grid: Grid) -> Iterator[str]:
    """Set the verdicts beside what is published, say which contradict it, and give the evidence."""
    published = published_evidence()
    yield from ("", "## The questions, and what these data say", "", VERDICTS, by_chance(verdicts), "")
    asked = [verdict for verdict in verdicts if verdict["question"] in published]
    for verdict, words in (
        (HOLDS, "hold here"),
        (DOES_NOT_HOLD, "do **not** hold here, against the paper"),
        (OPEN, "are open here"),
    ):
        found = [f"{one['question']} ({one['claim'].rstrip('.')})" for one in asked if one["verdict"] == verdict]
        if found:
            yield f"- Of the paper's claims these {words}, {len(found)} of {len(asked)}: {'; '.join(found)}."
    yield ""
    yield from table(
        ("", "claim", "published", "here", "effect"),
        [
            (
                one["question"],
                one["claim"],
                published.get(one["question"], "–"),
                f"**{one['verdict']}**{so_far(one)}",
                f"{signed(one, 'effect')}",
            )
            for one in verdicts
        ],
    )
    for number, question in QUESTIONS.items():
        yield from ("", f"### {number}. {question}", "")
        for one in verdicts:
            if one["question"].startswith(number):
                yield (
                    f"- **{one['question']}: {one['verdict']}**{so_far(one)}. {one['evidence']} Measured: "
                    f"{one['measure']}. {rests_on(one, grid.methods)}"
                )
        if number == "6" and grid.named("rht") and grid.named("ties"):
            yield from ("", RHT.rstrip())


def so_far(verdict: Record) -> str:
    """Say that a verdict rests on a part of the merges, if it does."""
    partial = 0 < verdict["merges"] < verdict["merges_wanted"]
    return f" so far, on {verdict['merges']} of {verdict['merges_wanted']} merges" if partial else ""


def figure_section(grid: Grid, addresses: Sequence[str]) -> Iterator[str]:
    """Show the figures with their captions."""
    yield from ("", "## Figures")
    for number, (figure, address) in enumerate(zip(study_figures(grid), addresses, strict=True), 1):
        line = f" Dashed: {figure.line[1]}." if figure.line else ""
        missing = len(figure.missing)
        lacks = f" {missing} of {len(list(figure.points()))} points are missing, marked ×." if missing else ""
        shown = figure.lacks or f"{figure.caption.replace(', chosen above', ', named below the figure')}{line}{lacks}"
        yield from ("", f"### {heading(figure.title, number)}", "", f"![{figure.title}]({address})", "", shown)


def published_section(grid: Grid) -> Iterator[str]:
    """Set the published values of task arithmetic beside ours."""
    yield from ("", "## Published values beside ours", "")
    yield f"Task arithmetic with fewest → most experts, and multitask models. {sizes_beside(grid)} {PUBLISHED_NOTE}"
    yield ""
    names = ("base", "source", "experts", "held_in", "held_in_multitask", "held_out", "held_out_multitask")
    heads = ("base", "source", "experts", "held-in", "multitask", "held-out", "multitask")
    yield from table(heads, [[row[name] for name in names] for row in published_rows(grid)])


def score_section(grid: Grid) -> Iterator[str]:
    """Tell the scores of every method, number of experts and base."""
    yield from ("", "## Scores", "")
    yield "Each cell: normalised score, its interval, and after the dot the raw score."
    for base, pair in score_tables(grid):
        yield from ("", f"### {QUALITIES.get(base['quality'], base['quality'])}, {base['size']} ({base['name']})")
        for one in pair:
            yield ""
            yield from table(score_heads(one), [(line.label, *map(score, line.cells)) for line in one.lines])
            if one.side == "held_in":
                yield from ("", GAINS, "")
                merged = [line for line in one.lines if line.method in grid.methods]
                yield from table(score_heads(one), [(line.label, *map(gain, line.cells)) for line in merged])


def score_heads(one: ScoreTable) -> list[str]:
    """Return the heads of a table of scores."""
    return [
        SIDES[one.side],
        *(f"k = {k}" + ("" if n is None else f", n {n}") for k, n in zip(one.counts, one.items, strict=True)),
    ]


def score(cell: Record | None) -> str:
    """Write a normalised score, its interval and the raw score."""
    if cell is None:
        return "missing"
    if cell["normalised"] is None:
        return f"undefined · {cell['raw']:.3f}"
    ends = f"[{cell['normalised_low']:.3f}, {cell['normalised_high']:.3f}]"
    return f"{cell['normalised']:.3f} {ends} · {cell['raw']:.3f}"


def gain(cell: Record | None) -> str:
    """Write the gain over the best expert, and the chance of beating the base."""
    return "missing" if cell is None else f"{signed(cell, 'gain')}; {cell['beats_base']:.2f}"


def pair_section(found: Sequence[Wins], grid: Grid) -> Iterator[str]:
    """Count the sure differences between methods."""
    yield from ("", "## Methods compared in pairs", "")
    yield (
        "In how many pairs of a base and a number of experts the row's method is surely above the column's: the whole "
        "interval of the paired difference of normalised scores lies above 0. One in forty is so by chance where there "
        "is no difference."
    )
    for one in found:
        yield ""
        yield from table(
            (f"{SIDES[one.side]}, of {one.places}", *grid.methods.values()),
            [
                (label, *("–" if name == other else str(one.counts[name, other]) for other in grid.methods))
                for name, label in grid.methods.items()
            ],
        )


def setting_section(chosen: Mapping[tuple[str, str, int], str], grid: Grid) -> Iterator[str]:
    """Tell the settings that tuning chose, by method, number of experts and base."""
    if not chosen:
        return
    yield from ("", "## Chosen settings", "", CHOSEN, "")
    tuned = [method for method in grid.methods if any(method == one for _, one, _ in chosen)]
    yield from table(
        ("method", "k", *(base["name"] for base in grid.bases)),
        [
            (grid.methods[method], str(k), *(chosen.get((base["name"], method, k), "missing") for base in grid.bases))
            for method in tuned
            for k in grid.counts
        ],
    )


def fit_section(grid: Grid) -> Iterator[str]:
    """Set how many experts fit, as the weights foresaw it, beside the knees that were measured."""
    yield from ("", "## How many experts fit: foreseen and measured", "", FIT)
    heads = ("base", *FORESEEN.values(), *grid.methods.values())
    yield from table(heads, [(base["name"], *foreseen(grid, base), *knees(grid, base)) for base in grid.bases])
    yield from ("", agreement(list(grid.forecasts.values())))


def law_section(grid: Grid) -> Iterator[str]:
    """Fit the floor and the tail to the held-out scores of every method and base over the number of experts."""
    yield from ("", "## A floor and a tail", "", LAW)
    laws = []
    rows = []
    for method, label in grid.methods.items():
        cells = []
        for base in grid.bases:
            found = grid.forecasts.get((base["name"], method))
            if found is None or found["law_r_squared"] is None:
                cells.append("missing" if found is None or found["law_tail"] is None else "all the same")
                continue
            laws.append(found)
            cells.append(f"{found['law_tail']:+.3f}, R² {found['law_r_squared']:.2f}".replace("-", "−"))
        rows.append((label, *cells))
    if not laws:
        yield "Nothing could be fitted: the law takes at least three numbers of experts."
        return
    well = [one["law_tail"] for one in laws if one["law_r_squared"] >= WELL]
    yield (
        f"The law explains {len(well)} of {len(laws)} curves well (R² of {WELL} or more), with A above 0 in "
        f"{sum(tail > 0 for tail in well)} of these. It has three parameters and here {len(grid.counts)} numbers of "
        "experts to meet, so that chance alone does so now and then.\n"
    )
    yield from table(("A", *(base["name"] for base in grid.bases)), rows)


def cost_section(grid: Grid) -> Iterator[str]:
    """Tell what merges cost, on every base with most experts, and on the largest by their number."""
    costs = cost_tables(grid)
    yield from ("", "## Cost per merge", "", COST.format(most=grid.counts[-1]), "")
    by_method = {method: [line for t in costs for line in t.lines if line[0] == method] for method in grid.methods}
    heads = [f"{t.base['name']}" + (f", {t.nbytes[-1] / 1e6:.0f} MB" if t.nbytes[-1] else "") for t in costs]
    yield from table(
        ("method", *heads),
        [(grid.methods[method], *(seconds(line[2][-1]) for line in lines)) for method, lines in by_method.items()],
    )
    largest = next(t for t in costs if t.base == grid.largest)
    yield from ("", f"On {largest.base['name']}, by number of experts; scoring one merge; all of tuning.", "")
    yield from table(
        ("method", *(f"k = {count}" for count in largest.counts), "scoring", "tuning"),
        [(label, *map(seconds, each), seconds(scoring), seconds(tuning))
         for _, label, each, scoring, tuning in largest.lines],
    )  # fmt: skip


def seconds(value: float | None) -> str:
    """Write seconds."""
    return "missing" if value is None else f"{value:.3g}"


def signed(row: Record, name: str) -> str:
    """Write an effect with its interval."""
    if row[name] is None:
        return "–"
    return f"{row[name]:+.3f} [{row[f'{name}_low']:+.3f}, {row[f'{name}_high']:+.3f}]".replace("-", "−")


def table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Return a Markdown table."""
    heads = list(heads)
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
