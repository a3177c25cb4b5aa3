"""RHT, examined: docs/rht.md's tables and figures, from the zoo's models.

    python benchmarks/rht.py [--bases pt-1 pt-6 …] [--cache FOLDER] [--out rht-out] [--no-adapters] [--write docs]

Scores come from a study whose cells are kept in the cache, so a second run computes nothing of it; the adapters are
trained once and kept there too. Without `--write` the tables are printed; with it, those in docs/rht.md are replaced,
each between its two marks, and the figures in docs/rht/ written. The sentences around them are by hand and have to be
read again when figures change.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mergewise.cache import cache_folder
from mergewise.study.cells import digest, model
from mergewise.study.chart import Axis, Figure, Panel, Point, Series, axis, log_axis
from mergewise.study.family import Training
from mergewise.study.run import StudyResult, local_engine, run_study
from mergewise.study.spec import Spec, Study, check_fields, resolve
from mergewise.study.svg import figure_svg
from mergewise.study.zoo_family import ZooWorkshop
from mergewise.zoo.experts import expert_recipe
from mergewise.zoo.family import CATEGORIES
from mergewise.zoo.store import load_tasks
from rht_deltas import DENSITIES, coverage_and_tails, same_and_not, task_vectors
from rht_factors import Adapters, compare, train

COUNTS = (2, 4, 8)
LAMBDAS = (0.6, 1.0, 1.4, 2.0, 2.8, 4.0)
SUMS = (0.3, 0.5, 0.7, 1.0, 1.4, 2.0)
LABELS = {"ties": "TIES", "dare_ties": "DARE-TIES", "rht": "RHT"}
STARTS = ("same", "own")

Say = Callable[[str], None]
Record = Mapping[str, Any]


def methods(density: float) -> dict[str, Any]:
    """Return the voting methods of the study at one density; RHT's λ are those of TIES times ρ."""
    found: dict[str, Any] = {
        "ties": {"density": density, "lambda": list(LAMBDAS)},
        "dare_ties": {"density": density, "rescale": "expected", "lambda": list(SUMS)},
        "rht": {"density": density, "lambda": [round(density * one, 6) for one in LAMBDAS]},
    }
    return {
        _named(name, density): {"method": name, "label": f"{LABELS[name]} ρ {density:g}", "parameters": parameters}
        for name, parameters in found.items()
    }


def _named(method: str, density: float) -> str:
    return f"{method}_{round(100 * density)}"


def study_of(base: str) -> Study:
    """Return the study of one base."""
    spec = {
        "name": "rht",
        "family": "zoo",
        "bases": [base],
        "methods": {
            "task_arithmetic": {"parameters": {"weight": 1.0, "lambda": list(SUMS)}},
            **{name: one for density in DENSITIES for name, one in methods(density).items()},
            "rht_as_given": {"method": "rht", "label": "RHT ρ 0.7, λ 1", "parameters": {"density": 0.7}},
            "rht_count": {
                "method": "rht", "label": "RHT as published: ρ 0.7, count, λ 1",
                "parameters": {"density": 0.7, "normalize": "count"},
            },
        },
        "k": list(COUNTS),
    }  # fmt: skip
    return resolve(check_fields(Spec, spec, "the study of RHT"))


def main() -> None:
    """Measure, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=["pt-1"], help="bases of the zoo")
    parser.add_argument("--cache", type=Path, default=None, help="where models and cells are kept")
    parser.add_argument("--out", type=Path, default=Path("rht-out"), help="folder for the studies' own results")
    parser.add_argument("--write", type=Path, default=None, help="the folder of docs, to replace tables and figures")
    parser.add_argument(
        "--no-adapters", action="store_true", help="train none; their table and figure stay as they are"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = (options.cache or cache_folder()).absolute()
    found = {
        base: measure(base, cache, options.out, _say, () if options.no_adapters else STARTS) for base in options.bases
    }
    tables = {name: make(found) for name, make in TABLES.items() if name != "factors" or not options.no_adapters}
    if options.write is None:
        print("\n\n".join(f"{name}\n\n{table}" for name, table in tables.items()))
        return
    page = options.write / "rht.md"
    page.write_text(filled(page.read_text("utf-8"), tables), "utf-8")
    folder = options.write / "rht"
    folder.mkdir(exist_ok=True)
    for number, (name, figure, note) in enumerate(figures(found), 1):
        if not figure.panels:
            continue
        (folder / f"{name}.svg").write_text(figure_svg(figure, {}, f"Figure {number}. {figure.title}", note), "utf-8")


def _say(line: str) -> None:
    print(line, flush=True)


def measure(base: str, cache: Path, out: Path, say: Say, starts: Sequence[str]) -> dict[str, Any]:
    """Return all that is measured on one base, as plain data."""
    study = study_of(base)
    done = run_study(study, out / base, cache, local_engine(1), say)
    workshop = study.family.open(cache, say)
    assert isinstance(workshop, ZooWorkshop)
    folders = {name: _folder(workshop.expert(base, name), cache) for name in study.names}
    root = _folder(workshop.base(base), cache)
    inputs = [done.document["code"], json.dumps(done.document["inputs"][base])]

    def deltas() -> dict[str, Any]:
        taus = task_vectors(root, list(folders.values()))
        return {"tails": coverage_and_tails(taus, COUNTS), **same_and_not(taus, COUNTS)}

    found = _kept(cache, f"{base}-deltas", [*inputs, _source("rht_deltas")], deltas)
    say(f"{base}: task vectors")
    factors = {start: _adapters(base, root, start, workshop, study, done, inputs, cache, say) for start in starts}
    return {"tables": done.document["tables"], **found, "factors": factors}


def _kept(cache: Path, name: str, inputs: Sequence[str], compute: Callable[[], Any]) -> Any:
    """Return what was computed of the same inputs before, or compute it."""
    key = digest(part.encode() for part in inputs)
    path = cache / "rht" / f"{name}-{key[:16]}.json"
    if not path.exists():
        found = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".part").write_text(json.dumps(found, indent=1), "utf-8")
        path.with_suffix(".part").replace(path)
    return json.loads(path.read_text("utf-8"))


def _source(name: str) -> str:
    return Path(__file__).with_name(f"{name}.py").read_text("utf-8")


def _folder(source: Any, cache: Path) -> Path:
    """Return where a model of the zoo is; the study has made it."""
    return cache / source.place if isinstance(source, Training) else Path(source.path)


def _adapters(
    base: str, root: Path, start: str, workshop: ZooWorkshop, study: Study, done: StudyResult, inputs: Sequence[str],
    cache: Path, say: Say,
) -> Any:  # fmt: skip
    sources = workshop.plans.sources
    tasks = load_tasks(sources.tasks_file)
    files = {}
    for number, name in enumerate(study.names):
        (task,) = CATEGORIES[name]
        files[name] = cache / "rht" / f"{root.name}-{start}-{task}.safetensors"
        if not files[name].exists():
            seed = 0 if start == "same" else number
            train(root, sources.base, tasks[task], expert_recipe(task, sources.precision), seed, files[name])
            say(f"{base}: adapter for {task}")

    def factors() -> list[dict[str, Any]]:
        adapters = Adapters.read(root, files)
        bench = workshop.bench(model(base, root))
        return compare(study, bench, adapters, done.measured[base], say)

    trained = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files.values()]
    return _kept(cache, f"{base}-factors-{start}", [*inputs, *trained, _source("rht_factors")], factors)


def filled(page: str, tables: Mapping[str, str]) -> str:
    """Return the page with every table between its marks replaced."""
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        head, _, rest = page.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise SystemExit(f"the page lacks the marks '{begin.strip()}' and '{end}'")
        page = f"{head}{begin}{table}\n{end}{tail}"
    return page


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _interval(row: Record, name: str, sign: str = "") -> str:
    return f"{row[name]:{sign}.3f} [{row[f'{name}_low']:{sign}.3f}, {row[f'{name}_high']:{sign}.3f}]"


def _nested(found: Record, sign: str = "") -> str:
    return f"{found['estimate']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"


def scores_table(found: Record) -> str:
    """Return normalised scores by method and number of experts."""
    rows = [
        (base, row["label"], row["k"], _interval(row, "held_in_normalised"), _interval(row, "held_out_normalised"),
         row["held_in_items"])
        for base, one in found.items()
        for row in sorted(one["tables"]["scores"], key=lambda row: row["k"])
        if row["method"] not in ("base", "multitask")
    ]  # fmt: skip
    return _table(("base", "method", "k", "held-in", "held-out", "n held-in"), rows)


def comparisons_table(found: Record) -> str:
    """Return differences of RHT from the others at equal density."""
    rows = []
    for base, one in found.items():
        for density in DENSITIES:
            ours = _named("rht", density)
            for row in one["tables"]["comparisons"]:
                others = {_named("ties", density), _named("dare_ties", density), "task_arithmetic"}
                pair = {row["method"], row["other"]}
                if row["side"] == "held_in" and ours in pair and pair & others:
                    sign = 1 if row["method"] == ours else -1
                    ends = sorted((sign * row["difference_low"], sign * row["difference_high"]))
                    difference = sign * row["difference"] + 0.0  # + 0.0: no -0
                    value = {"d": difference, "d_low": ends[0] + 0.0, "d_high": ends[1] + 0.0}
                    other = row["other"] if sign == 1 else row["method"]
                    name = "Task Arithmetic" if other == "task_arithmetic" else LABELS[other.rpartition("_")[0]]
                    rows.append((base, f"{density:g}", row["k"], name, _interval(value, "d", "+")))
    rows.sort(key=lambda row: (row[0], row[1], row[2]))
    return _table(("base", "ρ", "k", "RHT minus", "held-in difference"), rows)


def tuning_table(found: Record) -> str:
    """Return the λ that tuning chose."""
    rows = [
        (base, row["label"], row["k"], json.loads(row["setting"]).get("lambda", "–"), row["at_edge"] or "")
        for base, one in found.items()
        for row in sorted(one["tables"]["tuning"], key=lambda row: row["k"])
        if row["chosen"] and row["method"] not in ("rht_as_given", "rht_count")
    ]
    return _table(("base", "method", "k", "λ", "at the edge of its grid"), rows)


def tails_table(found: Record) -> str:
    """Return coverage and tails of merged changes."""
    rows = [
        (base, row["k"], "–" if row["method"] in ("one expert", "Task Arithmetic") else f"{row['density']:g}",
         row["method"], f"{row['coverage']:.3f}", f"{row['kurtosis']:.2f}", f"{row['hill']:.2f}")
        for base, one in found.items()
        for row in sorted(one["tails"], key=lambda row: row["k"])
        if row["method"] != "Task Arithmetic" or row["density"] == DENSITIES[0]
    ]  # fmt: skip
    return _table(("base", "k", "ρ", "method", "coverage", "excess kurtosis", "Hill index"), rows)


def equal_table(found: Record) -> str:
    """Return how far RHT is from a multiple of TIES, and the two normalisations from each other, at equal weights."""
    rows = [
        (base, row["k"], f"{row['density']:g}", f"{row['ties']:.1e}", f"{row['count']:.1e}")
        for base, one in found.items()
        for row in one["equal"]
    ]
    return _table(("base", "k", "ρ", "RHT from TIES / ρ", "k · count from agreeing"), rows)


def unequal_table(found: Record) -> str:
    """Return what differs at unequal weights, over pairs of experts."""
    rows = [
        (base, f"{row['larger']:g} : {row['smaller']:g}", f"{row['density']:g}", f"{row['opposed']:.3f}",
         f"{row['turned']:.3f}", f"{row['ties_cosine']:.3f}", f"{row['count_cosine']:.3f}",
         f"{row['count_length']:.3f}")
        for base, one in found.items()
        for row in one["unequal"]
    ]  # fmt: skip
    columns = ("base", "weights", "ρ", "opposed", "of these, other sign than TIES", "cos RHT, TIES",
               "cos count, agreeing", "length of count / agreeing")  # fmt: skip
    return _table(columns, rows)


def factors_table(found: Record) -> str:
    """Return scores of merged adapters."""
    rows = [
        (base, start, row["k"], row["way"], f"{row['lambda']:.3g}", _nested(row["held_in"]),
         _nested(row["against_sum"], "+"), _nested(row["held_out"]))
        for base, one in found.items()
        for start, rows in one["factors"].items()
        for row in rows
    ]  # fmt: skip
    columns = ("base", "first A", "k", "merged", "λ", "held-in", "minus the sum of changes", "held-out")
    return _table(columns, rows)


TABLES = {
    "scores": scores_table,
    "comparisons": comparisons_table,
    "tuning": tuning_table,
    "tails": tails_table,
    "equal": equal_table,
    "unequal": unequal_table,
    "factors": factors_table,
}


def figures(found: Record) -> list[tuple[str, Figure, str]]:
    """Return the page's figures with their names and notes."""
    shown = [
        *(("task_arithmetic", "Task Arithmetic"),),
        *((_named(name, 0.7), f"{label} ρ 0.7") for name, label in LABELS.items()),
        ("rht_count", "RHT as published"),
    ]
    panels = []
    for base, one in found.items():
        rows = {(row["method"], row["k"]): row for row in one["tables"]["scores"]}
        series = [
            Series(label, slot, tuple(_point(rows[name, k], place, label) for place, k in enumerate(COUNTS)))
            for slot, (name, label) in enumerate(shown)
        ]
        panels.append(Panel(base, tuple(map(str, COUNTS)), "experts merged", tuple(series)))
    scores = Figure(
        "scores", "RHT beside its relatives at equal density, λ tuned", "", "normalised held-in",
        axis(panels, 1.0), tuple(panels), (1.0, "expert"),
    )  # fmt: skip
    return [
        ("scores", scores, "Bars: 95 % bootstrap intervals over items and draws. As published: normalize count, λ 1."),
        ("coverage", _tail_figure(found, "coverage", "Coverage: share of elements that a merge changes", False), ""),
        ("kurtosis", _tail_figure(found, "kurtosis", "Tails: excess kurtosis of merged changes", True),
         "Mean over tensors, weighted by their elements. A normal sample has 0; one expert alone is k = 1."),
        ("factors", _factor_figure(found), "Held-in: 1 is each adapter's own score. Bars: 95 % bootstrap intervals."),
    ]  # fmt: skip


def _point(row: Record, place: int, label: str) -> Point:
    value, low, high = (row[f"held_in_normalised{end}"] for end in ("", "_low", "_high"))
    return Point(place, value, low, high, f"{label}, {row['k']}: {value:.3f}")


def _tail_figure(found: Record, what: str, title: str, logarithmic: bool) -> Figure:
    panels = []
    for base, one in found.items():
        for density in DENSITIES:
            names = ["Task Arithmetic", *LABELS.values()]
            known = {(row["method"], row["k"]): row[what] for row in one["tails"] if row["density"] == density}
            (alone,) = (row[what] for row in one["tails"] if row["k"] == 1)
            series = [
                Series(
                    name, slot,
                    tuple(
                        Point(place, value, None, None, f"{name}, {k}: {value:.3f}")
                        for place, k, value in (
                            (0, 1, alone if name == "Task Arithmetic" else None),
                            *((place, k, known[name, k]) for place, k in enumerate(COUNTS, 1)),
                        )
                        if value is not None
                    ),
                )
                for slot, name in enumerate(names)
            ]  # fmt: skip
            panels.append(Panel(f"{base}, ρ {density:g}", ("1", *map(str, COUNTS)), "experts merged", tuple(series)))
    scale: Axis = log_axis(panels) if logarithmic else axis(panels, 0.0, 1.0)
    return Figure(what, title, "", "excess kurtosis" if what == "kurtosis" else what, scale, tuple(panels))


def _factor_figure(found: Record) -> Figure:
    panels = []
    for base, one in found.items():
        for start, rows in one["factors"].items():
            ways = list(dict.fromkeys(row["way"] for row in rows))
            series = [
                Series(
                    way, slot,
                    tuple(
                        Point(
                            COUNTS.index(row["k"]), row["held_in"]["estimate"], row["held_in"]["low"],
                            row["held_in"]["high"], f"{way}, {row['k']}: {row['held_in']['estimate']:.3f}",
                        )
                        for row in rows
                        if row["way"] == way
                    ),
                )
                for slot, way in enumerate(ways)
            ]  # fmt: skip
            title = f"{base}, {'the same' if start == 'same' else 'an own'} first A"
            panels.append(Panel(title, tuple(map(str, COUNTS)), "adapters merged", tuple(series)))
    return Figure(
        "factors", "Adapters merged by their changes and by their factors", "", "normalised held-in",
        axis(panels, 1.0), tuple(panels), (1.0, "adapter"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
