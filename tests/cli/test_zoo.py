"""The zoo on the command line: what there is, and what is asked for wrongly."""

import json

import pytest

from mergewise.zoo.bases import BASES
from mergewise.zoo.tasks import TASKS


def test_an_empty_cache_has_everything_to_fetch_and_to_train(world, run):
    outcome = run("zoo", "list", "--cache", "empty", "--json")
    assert outcome.code == 0
    content = json.loads(outcome.out)
    assert [base["name"] for base in content["bases"]] == list(BASES)
    assert {len(base["experts"]) for base in content["bases"]} == {8}
    assert not any(here for base in content["bases"] for here in (*base["experts"].values(), base["multitask"]))
    assert [task["task"] for task in content["tasks"]] == list(TASKS)
    assert content["download_bytes"] > 100e6
    assert not (world.folder / "empty").exists()


def test_the_list_shows_bases_and_categories(run):
    outcome = run("zoo", "list", "--cache", "empty")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert any(all(base in line for base in BASES) for line in lines)
    assert any(line.split()[:2] == ["forum", "topic"] for line in lines)


@pytest.mark.parametrize(
    ("option", "value", "code"), [("--size", "3", 1), ("--base", "pt-3", 1), ("--quality", "pretrained", 2)]
)
def test_unknown_bases_are_refused_before_anything_is_fetched(world, run, option, value, code):
    outcome = run("zoo", "build", "--cache", "empty", option, value)
    assert outcome.code == code
    assert value in outcome.err
    assert not (world.folder / "empty").exists()
