"""``mergewise evolve`` as people run it."""

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))  # for the models of a few numbers


@pytest.fixture
def spec(tmp_path, monkeypatch):
    from evolve_fakes import SPEC

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")
    Path("spec.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    return "spec.yaml"


def test_a_dry_run_says_what_the_search_takes_and_leaves_nothing(spec, run, tmp_path):
    found = run("evolve", spec, "--dry-run", "--jobs", 1)
    assert found.code == 0, found.err
    assert "pairs (task_arithmetic), cma_es (task_arithmetic)" in found.out
    assert "30 evaluations each" in found.out
    assert run("evolve", spec, "--dry-run", "--json").json["cells"]["evaluations"] == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec.yaml"]


def test_the_best_recipe_can_be_merged_and_scores_are_told_apart(spec, run, tmp_path):
    found = run("evolve", spec, "out", "--jobs", 1)
    assert found.code == 0, found.err
    assert "pairs: 30 of 30 evaluations, best" in found.err
    rows = [line.split() for line in found.out.splitlines()]
    assert [row[:2] for row in rows[1:6]] == [
        ["–", "base"], ["pairs", "start"], ["pairs", "best"], ["cma_es", "start"], ["cma_es", "best"]
    ]  # fmt: skip
    merged = run("merge", "out/best.yaml", "merged")
    assert merged.code == 0, merged.err
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    again = run("evolve", spec, "again", "--jobs", 1, "--json").json
    assert again["best"] in {"pairs", "cma_es"}
    assert (tmp_path / "again" / "best.yaml").read_text() == (tmp_path / "out" / "best.yaml").read_text()


def test_scores_that_have_no_value_are_dashes(spec, run):
    content = yaml.safe_load(Path(spec).read_text())
    family = {"name": content["family"], "unsolved": "elsewhere"}
    Path(spec).write_text(yaml.safe_dump({**content, "family": family, "budget": 5}))
    found = run("evolve", spec, "out", "--jobs", 1)
    assert found.code == 0, found.err
    assert [line.split()[-2] for line in found.out.splitlines()[1:6]] == ["–"] * 5


def test_a_fault_in_the_spec_is_one_sentence(spec, run):
    content = yaml.safe_load(Path(spec).read_text())
    Path(spec).write_text(yaml.safe_dump({**content, "bugdet": 10}))
    found = run("evolve", spec)
    assert found.code == 1
    assert found.err == "mergewise: spec.yaml: unknown key 'bugdet' at bugdet. Did you mean 'budget'?\n"
