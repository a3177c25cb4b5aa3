"""docs/benchmarks.md, with its plots, from the results of compare.py: ``python benchmarks/report.py``."""

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import results
import svg
from measure import Ratio, ratio
from recipes import CASES

__all__ = ["main", "page"]

Row = Mapping[str, Any]
ROOT = Path(__file__).parent.parent

RUNS, KILLS = 5, 50
"""How many runs, and kills, a verdict takes."""

_FLOOR_TOO = {"threads": "", **dict.fromkeys(("experts", "size"), "; what the floor takes shows what the disk gives")}

PEAK, PEAK_GROWTH, PER_BYTE = 800e6, 1.05, 1.15
"""Targets: anonymous memory at 512 MiB in bytes; its growth with model or experts; seconds per byte, most to least."""

_PLOTS = "(plots/"  # begins links to them

_INTRODUCTION = """\
# Benchmarks

Made by `benchmarks/report.py` from what `benchmarks/compare.py` left in the folder `results` beside the plots, every
run of it; `make bench` measures a part of this on your machine, `make bench-all` nearly all. The last section says on
what machine, with which versions and by which commands these figures came about. There is a page of all figures
[on an EPYC](benchmarks.md), and one of some, with larger pieces and wider vectors, [on a Xeon](benchmarks-xeon.md).

Everything is measured as a **whole process**: start of Python, imports, plan, merge, and writing until the exit. The
contenders take turns (A B C A B C …) in one session; ratios are taken within each turn, and a table shows their median
and, in brackets, the least and the greatest. Outputs are removed and the disk is synchronised between runs, outside of
the measured time. Checkpoints are synthetic, Llama-shaped, a base and experts near it (`benchmarks/checkpoints.py`);
recipes are in `benchmarks/recipes.py`, the same file for mergewise and mergekit. Pages of their own:
[spectral methods](benchmarks/spectral.md) beside FusionBench's, and [adapters](benchmarks/adapters.md).

- *Warm*: the files that are read are in the page cache, and those of other rows are not; before commit 82947a6 they
  were, and the system had to make room for outputs. *Cold*: the page cache was dropped before each run by
  `/proc/sys/vm/drop_caches`, so that programs too come from the disk. A disk of a virtual machine may have a cache of
  its own.
- *The floor* is what no merge can do without: `cat` all weight files that the recipe reads to `/dev/null`, then write
  one output of the size of one input, with bytes of an input that was just read, and `sync` it. mergewise syncs its
  output too; the peers do not.
- mergewise keeps the SHA-256 of its inputs and compiled kernels between runs. Unless a table says otherwise,
  both were there, as they are for every merge but the first: see *The first merge*.
- *Anonymous* memory is the sampled peak of `RssAnon` over the process and its descendants; *resident* counts pages of
  mapped files too.
"""


def page(rows: Sequence[Row], folder: str) -> tuple[str, dict[str, str]]:
    """Return the page and its plots by file name, from rows of results; the plots go to a folder beside the page."""
    kinds: dict[str, list[Row]] = {}
    order = list(CASES)
    for row in sorted(rows, key=lambda row: (order.index(row["method"]), row.get("parameters", 0))):
        kinds.setdefault(row["kind"], []).append(row)
    plots: dict[str, str] = {}
    parts = [_INTRODUCTION, _targets(kinds)]
    sections: dict[str, Callable[[Sequence[Row], dict[str, str]], str]] = {
        "peers": _peers, "floor": _floor, "first": _first, "memory": _memory, "scaling": _scaling, "kill": _kill,
        "options": _options,
    }  # fmt: skip
    parts += [section(kinds[kind], plots) for kind, section in sections.items() if kind in kinds]
    parts.append(_provenance(rows))
    text = "\n\n".join(part.strip() for part in parts if part) + "\n"
    return text.replace(_PLOTS, f"({folder}/"), plots


def _targets(kinds: Mapping[str, Sequence[Row]]) -> str:
    """Return the promises, what was measured, and whether they are kept."""
    lines: list[Sequence[str]] = []
    for row in kinds.get("peers", []):
        if row["parameters"] >= 3e8 and "mergekit" in row["runs"]:
            found = _compared(row, "mergekit", "mergewise")
            lines.append(_target(
                f"{row['method']}, {_size(row)}: times as fast as mergekit", f"≥ {row['target']:g}", _times(found),
                found.median >= row["target"], found.pairs, RUNS,
            ))  # fmt: skip
    for row in kinds.get("floor", []):
        if row["parameters"] >= 1e9 and row["target"] is not None:
            found = _compared(row, "mergewise", "floor")
            state = "cold" if row["cold"] else "warm"
            lines.append(_target(
                f"{row['method']}, {_size(row)}: times the floor, {state}", f"≤ {row['target']:g}", _times(found),
                found.median <= row["target"], found.pairs, RUNS,
            ))  # fmt: skip
    for row in kinds.get("memory", []):
        peaks = _peaks(row)
        most, first = max(peaks.values()), next(iter(peaks.values()))
        runs = len(next(iter(row["runs"].values())))
        what = f"{row['method']}: peak anonymous memory at {row['memory']}"
        lines.append(_target(f"{what}, most", "≤ 800 MB", f"{most / 1e6:.0f} MB", most <= PEAK, runs))
        lines.append(_target(
            f"{what}, against that of {next(iter(peaks))}", "≤ 1.05", f"{most / first:.3f}",
            most <= PEAK_GROWTH * first, runs,
        ))  # fmt: skip
    for row in kinds.get("scaling", []):
        if row["axis"] != "threads":
            per_byte = list(_per_byte(row).values())
            # a merge that is lost in the noise of its start-up says nothing about bytes
            spread = max(per_byte) / min(per_byte) if min(per_byte) > 0 else math.inf
            lines.append(_target(
                f"{row['method']}: seconds per byte over {row['axis']}, most to least", "≤ 1.15",
                f"{spread:.2f}" if spread < math.inf else "too short to tell", spread <= PER_BYTE,
                len(next(iter(row["runs"].values()))), RUNS,
            ))  # fmt: skip
    lines += [
        _target(
            f"{row['method']}: killed, resumed, byte-identical", "all", f"{row['identical']} of {row['kills']}",
            row["identical"] == row["kills"], row["kills"], KILLS,
        )
        for row in kinds.get("kill", [])
    ]  # fmt: skip
    if not lines:
        return ""
    head = "## Targets\n\nComparisons count from 300 million parameters (mergekit) and a billion (the floor) on.\n"
    return f"{head}\n{results.table(('what', 'target', 'measured', 'met', 'runs'), lines)}\n"


def _target(what: str, target: str, measured: str, met: bool, runs: int, least: int = 1) -> Sequence[str]:
    verdict = "yes" if met else "**no**"
    return what, target, measured, verdict if runs >= least else f"open, as it takes {least} runs", str(runs)


def _peers(rows: Sequence[Row], plots: dict[str, str]) -> str:
    lines = []
    bars = []
    largest = _size(max(rows, key=lambda row: row["parameters"]))
    for row in rows:
        ours = row["runs"]["mergewise"]
        line = [row["method"], _settings(row), _size(row), _seconds(ours), _memory_of(ours)]
        shown = {}
        for peer in ("mergekit", "sd-mecha"):
            if peer in row["runs"]:
                found = _compared(row, peer, "mergewise")
                shown[peer] = found.median
                line += [_seconds(row["runs"][peer]), _times(found), _memory_of(row["runs"][peer])]
            else:
                line += ["–", "–", "–"]
        lines.append(line)
        if shown and _size(row) == largest:
            bars.append((row["method"], shown, row["target"]))
    plot = ""
    if bars:
        title = f"How many times as fast mergewise is, {largest}"
        plots["peers.svg"] = svg.bars(title, "dashed: target against mergekit", bars)
        plot = f"![How many times as fast mergewise is as its peers]{_PLOTS}peers.svg)\n"
    options = " ".join(rows[0]["mergekit_options"])
    said = (
        "Four experts and a base in bfloat16 unless a row says otherwise (slerp: the base and one), warm. mergekit ran "
        f"with `{options}`. sd-mecha has no breadcrumbs, and methods that are near, not equal: what it ran is in "
        "`benchmarks/sd_mecha_merge.py`, with its default threads. Memory is the peak of anonymous / resident MB.\n"
    )
    head = ("method", "parameters", "size", "mergewise", "MB", "mergekit", "times", "MB", "sd-mecha", "times", "MB")
    return f"## Against the peers\n\n{said}\n{results.table(head, lines)}\n{plot}"


def _floor(rows: Sequence[Row], _plots: dict[str, str]) -> str:
    lines = [
        (
            row["method"], _size(row), "cold" if row["cold"] else "warm", _seconds(row["runs"]["mergewise"]),
            _seconds(row["runs"]["floor"]), _times(_compared(row, "mergewise", "floor")),
        )
        for row in sorted(rows, key=lambda row: row["cold"])
    ]  # fmt: skip
    head = ("method", "size", "files", "mergewise", "floor", "times the floor")
    return f"## Against the floor\n\n{results.table(head, lines)}\n"


def _first(rows: Sequence[Row], _plots: dict[str, str]) -> str:
    names = list(rows[0]["runs"])
    lines = [(row["method"], _size(row), *(_seconds(row["runs"][name]) for name in names)) for row in rows]
    said = (
        "The first merge of a checkpoint reads it once more to hash it, while the page cache is warm; the first on a "
        "machine, or of a storage dtype that is new to it, compiles the kernels that it calls.\n"
    )
    return f"## The first merge\n\n{said}\n{results.table(('method', 'size', *names), lines)}\n"


def _memory(rows: Sequence[Row], _plots: dict[str, str]) -> str:
    parts = [
        "## Memory\n",
        f"Peaks of anonymous / resident MB at `--memory {rows[0]['memory']}`, greatest of all runs.\n",
    ]
    for names in dict.fromkeys(tuple(row["points"]) for row in rows):
        lines = [
            (row["method"], *(_memory_of(row["runs"][name]) for name in names))
            for row in rows
            if tuple(row["points"]) == names
        ]
        parts.append(results.table(("method", *names), lines))
    return "\n".join(parts)


def _scaling(rows: Sequence[Row], plots: dict[str, str]) -> str:
    parts = ["## Scaling\n"]
    said = {
        "experts": "Over experts. In brackets: nanoseconds per byte read and written, without the start-up.",
        "size": "Over the size of the model. In brackets: nanoseconds per byte read and written, without the start-up.",
        "threads": "Over threads (`--threads`). In brackets: times as fast as the first, start-up included.",
    }
    for axis, sentence in said.items():
        chosen = [row for row in rows if row["axis"] == axis]
        for names in dict.fromkeys(tuple(row["points"]) for row in chosen):
            group = [row for row in chosen if tuple(row["points"]) == names]
            parts += [f"{sentence} *Start-up* is the same merge of a model of no size{_FLOOR_TOO[axis]}.\n"]
            lines = []
            for row in group:
                own = [_scaled(row, name, axis) for name in names]
                lines.append((row["method"], _seconds(row["runs"]["start-up"]), *own))
                if axis != "threads":
                    lines.append(("… the floor", "–", *(_floor_scaled(row, name) for name in names)))
            parts.append(results.table(("method", "start-up", *names), lines))
        if chosen and axis != "threads":
            key, scale, label = (
                ("experts", 1.0, "experts") if axis == "experts" else ("parameters", 1e9, "10⁹ parameters")
            )
            series = {
                row["method"]: [
                    (point[key] / scale, _median(row["runs"][name])) for name, point in row["points"].items()
                ]
                for row in chosen
            }
            plots[f"{axis}.svg"] = svg.lines(f"Time over {axis}", label, "seconds, whole process", series)
            parts.append(f"![Time over {axis}]{_PLOTS}{axis}.svg)\n")
    return "\n".join(parts)


def _kill(rows: Sequence[Row], _plots: dict[str, str]) -> str:
    lines = [
        (row["method"], _size(row), str(row["kills"]), str(row["while_writing"]), str(row["identical"])) for row in rows
    ]
    said = (
        "`kill -9` at moments drawn evenly over the time of an undisturbed merge, then the same command again; every "
        "file of the output is compared with the undisturbed one by SHA-256.\n"
    )
    head = ("method", "size", "killed", "of them while the output grew", "byte-identical when resumed")
    return f"## Killed and resumed\n\n{said}\n{results.table(head, lines)}\n"


def _options(rows: Sequence[Row], _plots: dict[str, str]) -> str:
    names = list(rows[0]["runs"])
    lines = [(row["method"], _size(row), *(_seconds(row["runs"][name]) for name in names)) for row in rows]
    return f"## mergekit with other options\n\n{results.table(('method', 'size', *names), lines)}\n"


def _provenance(rows: Sequence[Row]) -> str:
    machines = dict.fromkeys(_machine(row["about"]["machine"]) for row in rows)
    commands = sorted({row["about"]["command"] for row in rows})
    dates = sorted({row["about"]["date"] for row in rows})
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, version in row["about"]["versions"].items():
            versions.setdefault(name, set()).add(version)
    commits = sorted({row["about"]["commit"] for row in rows} - {None})
    said = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items())
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    made = f", commit {' and '.join(commits)}" if commits else ""
    return "\n".join([
        "## Machine, versions, commands\n", *(f"- {machine}" for machine in machines),
        f"- {said}{made}; measured {when}\n", "```", *commands, "```",
    ])  # fmt: skip


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['processor']}, {machine['processors']} processors, {machine['memory'] / 2**30:.0f} GiB of memory, "
        f"{machine['filesystem']}, {machine['system']}"
    )


def _compared(row: Row, above: str, below: str) -> Ratio:
    return ratio(*([run["wall"] for run in row["runs"][name]] for name in (above, below)))


def _per_byte(row: Row) -> dict[str, float]:
    """Return seconds for a byte that is read or written, without the start-up, by point."""
    start = _median(row["runs"]["start-up"])
    return {name: (_median(row["runs"][name]) - start) / point["bytes"] for name, point in row["points"].items()}


def _scaled(row: Row, name: str, axis: str) -> str:
    wall = _seconds(row["runs"][name])
    if axis == "threads":
        first = next(iter(row["points"]))
        return f"{wall} ({_compared(row, first, name).median:.2f}×)"
    return f"{wall} ({_per_byte(row)[name] * 1e9:.2f})"


def _floor_scaled(row: Row, name: str) -> str:
    runs = row["runs"][f"floor, {name}"]
    return f"{_seconds(runs)} ({_median(runs) / row['points'][name]['bytes'] * 1e9:.2f})"


def _peaks(row: Row) -> dict[str, float]:
    return {name: max(run["anonymous"] for run in row["runs"][name]) for name in row["points"]}


def _median(runs: Iterable[Mapping[str, float]]) -> float:
    return statistics.median(run["wall"] for run in runs)


def _seconds(runs: Iterable[Mapping[str, float]]) -> str:
    median = _median(runs)
    return f"{median:.2f} s" if median < 10 else f"{median:.1f} s"


def _times(found: Ratio) -> str:
    return f"{found.median:.2f} ({found.least:.2f}–{found.greatest:.2f})"


def _memory_of(runs: Sequence[Mapping[str, float]]) -> str:
    return " / ".join(f"{max(run[key] for run in runs) / 1e6:.0f}" for key in ("anonymous", "rss"))


def _size(row: Row) -> str:
    """Return the size of a row's model, with what is not as usual about the merge."""
    unusual = [] if row["dtype"] == "bfloat16" else [row["dtype"]]
    return ", ".join([row["size"], *unusual, *([] if row["experts"] == 4 else [f"{row['experts']} experts"])])


def _settings(row: Row) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row["settings"].items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and its plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="plots go to a folder beside it"
    )
    given = parser.parse_args(arguments)
    rows = results.load(given.results)
    if not rows:
        parser.exit(1, f"{given.results}: expected results of compare.py, found none; measure something first.\n")
    text, plots = page(rows, given.out.stem)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text)
    for name, plot in plots.items():
        path = given.out.with_suffix("") / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(plot)
    print(given.out)


if __name__ == "__main__":
    main()
