"""The page says what was measured, and whether it is what was promised."""

import json
import xml.etree.ElementTree as ET

import pytest

import compare
import mergewise as mw
import report
import svg
from checkpoints import parameters, write_family
from recipes import CASES, inputs, recipe
from support import write_recipe

ABOUT = {
    "date": "2026-01-02", "command": "python benchmarks/compare.py peers", "commit": "abc",
    "machine": {"processor": "P", "processors": 2, "memory": 8 << 30, "filesystem": "ext4", "system": "Linux 6"},
    "versions": {"mergewise": "0.1.0", "mergekit": "0.1.5"},
}  # fmt: skip


def runs(*walls, anonymous=100e6):
    return [{"wall": wall, "cpu": wall, "rss": anonymous * 2, "anonymous": anonymous} for wall in walls]


def row(kind, method="ties", **more):
    return {
        "kind": kind, "method": method, "settings": {"density": 0.2}, "dtype": "bfloat16", "about": ABOUT,
        "size": "320M", "experts": 4, "parameters": 317_000_000, "mergekit_options": ["--quiet"], **more,
    }  # fmt: skip


def verdicts(*rows):
    """What the table of targets says: (measured, met) by what."""
    text, _ = report.page(rows, "benchmarks")
    lines = text.partition("## Targets")[2].partition("##")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]
    return {cell[0]: (cell[2], cell[3]) for cell in cells}


def test_a_speed_up_is_the_median_of_ratios_and_meets_its_target_or_not():
    measured = {"mergewise": runs(1.0, 2.0, 1.0, 1.0, 1.0), "mergekit": runs(29.0, 62.0, 35.0, 30.0, 33.0)}
    what = "ties, 320M: times as fast as mergekit"
    assert verdicts(row("peers", target=30, runs=measured)) == {what: ("31.00 (29.00–35.00)", "yes")}
    assert verdicts(row("peers", target=32, runs=measured)) == {what: ("31.00 (29.00–35.00)", "**no**")}


def test_a_verdict_takes_enough_runs():
    measured = {"mergewise": runs(1.0, 1.0, 1.0, 1.0), "mergekit": runs(40.0, 40.0, 40.0, 40.0)}
    found = verdicts(
        row("peers", target=30, runs=measured), row("kill", kills=9, while_writing=9, identical=9, runs={})
    )
    assert {met for _, met in found.values()} == {"open, as it takes 5 runs", "open, as it takes 50 runs"}


def test_small_models_meet_no_target():
    measured = {"mergewise": runs(1.0), "mergekit": runs(90.0), "floor": runs(1.0)}
    assert verdicts(row("peers", target=30, parameters=80_000_000, runs=measured)) == {}
    assert verdicts(row("floor", target=3, cold=False, runs=measured)) == {}


def test_the_floor_counts_warm_and_cold():
    measured = {"mergewise": runs(*[2.6] * 5), "floor": runs(*[2.0] * 5)}
    rows = [
        row("floor", parameters=2e9, size="3B", cold=cold, target=1.25 if cold else 3, runs=measured) for cold in (0, 1)
    ]
    assert verdicts(*rows) == {
        "ties, 3B: times the floor, warm": ("1.30 (1.30–1.30)", "yes"),
        "ties, 3B: times the floor, cold": ("1.30 (1.30–1.30)", "**no**"),
    }


def test_memory_is_judged_by_its_greatest_peak_and_its_growth():
    measured = {"a": runs(1.0, 1.0, anonymous=700e6), "b": runs(1.0, anonymous=750e6)}
    found = verdicts(row("memory", memory="512MiB", points={"a": {}, "b": {}}, runs=measured))
    assert found["ties: peak anonymous memory at 512MiB, most"] == ("750 MB", "yes")
    assert found["ties: peak anonymous memory at 512MiB, against that of a"] == ("1.071", "**no**")


@pytest.mark.parametrize(
    ("walls", "expected"),
    [
        ((1.0, 2.0, 3.0), ("1.00", "yes")),
        ((1.0, 2.0, 3.3), ("1.15", "yes")),
        ((1.0, 2.0, 3.4), ("1.20", "**no**")),
        ((1.0, 0.9, 3.0), ("too short to tell", "**no**")),
    ],
)
def test_time_per_byte_leaves_out_the_start_up(walls, expected):
    start, *others = walls
    points = {"2 experts": {"bytes": 100, "experts": 2}, "4 experts": {"bytes": 200, "experts": 4}}
    measured = {"start-up": runs(*[start] * 5)} | {
        name: runs(*[wall] * 5) for name, wall in zip(points, others, strict=True)
    }
    measured |= {f"floor, {name}": runs(*[wall / 2] * 5) for name, wall in zip(points, others, strict=True)}
    found = verdicts(row("scaling", axis="experts", points=points, runs=measured))
    assert found == {"ties: seconds per byte over experts, most to least": expected}


def test_one_lost_merge_of_fifty_is_a_broken_promise():
    for identical, met in ((50, "yes"), (49, "**no**")):
        found = verdicts(row("kill", kills=50, while_writing=40, identical=identical, runs={}))
        assert found == {"ties: killed, resumed, byte-identical": (f"{identical} of 50", met)}


def test_plots_are_well_formed_and_hold_every_method():
    peers = svg.bars("A & B", "note", [("linear", {"mergekit": 7.0}, 6.0), ("<ties>", {"mergekit": 40.0}, None)])
    scaling = svg.lines("Time", "experts", "s", {"linear": [(2, 1.0), (4, 2.0)], "ties": [(2, 1.0), (4, 2.1)]})
    for text, expected in ((peers, {"linear", "<ties>", "7×", "40×"}), (scaling, {"linear", "ties"})):
        assert expected <= {element.text for element in ET.fromstring(text).iter() if element.text}


def test_every_measured_recipe_that_there_is_passes_the_plan(tmp_path):
    family = write_family(tmp_path, "tiny", 4)
    planned = [case for case in CASES.values() if case.method in mw.methods()]
    assert {"linear", "task_arithmetic", "ties", "dare_ties", "slerp", "model_stock"} <= {c.method for c in planned}
    for case in planned:
        path = write_recipe(tmp_path / f"{case.method}.yaml", recipe(case, family, "bfloat16"))
        assert mw.plan(path).parameters == parameters("tiny")
        assert len(inputs(case, family)) == (2 if case.pair else 5 if case.base else 4)


@pytest.mark.slow
def test_what_compare_measures_report_shows(tmp_path):
    places = ["--scratch", str(tmp_path / "scratch"), "--results", str(tmp_path / "results")]
    sizes = ["--size", "tiny", "--methods", "linear"]
    compare.main(["floor", *sizes, "--runs", "2", *places])
    compare.main(["kill", *sizes, "--kills", "2", *places])
    found = json.loads((tmp_path / "results" / "floor-tiny-warm-linear.json").read_text())
    assert {name: len(measured) for name, measured in found["runs"].items()} == {"mergewise": 2, "floor": 2}
    assert not (tmp_path / "scratch" / "out").exists()
    report.main(["--results", str(tmp_path / "results"), "--out", str(tmp_path / "docs" / "benchmarks.md")])
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| linear: killed, resumed, byte-identical | all | 2 of 2 | takes 50 runs | 2 |" in text
    assert "python benchmarks/compare.py floor --size tiny --methods linear --runs 2\n" in text
    assert str(tmp_path) not in text
