"""Scores of the zoo from formulas and transformers alone."""

from pathlib import Path

import pytest

from mergewise.cache import cache_folder

pytestmark = [pytest.mark.zoo, pytest.mark.slow]


def test_formulas_and_transformers_alone_give_the_same_answers_item_by_item(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from same_scores import METHODS, compare_zoo

    found = compare_zoo(cache_folder(), limit=40)
    assert {one.method for one in found} == set(METHODS)
    for one in found:
        assert one.differing == 0, one
