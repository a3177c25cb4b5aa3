"""Families of one's own: where they are imported from, and what is said where their code fails."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mergewise.study.errors import StudyError
from mergewise.study.families import load_family

EXAMPLE = Path(__file__).parents[2] / "examples" / "study_of_ones_own.py"
SOURCES = {
    "needy": "class Family:\n    def __init__(self, options, train):\n        self.depth = options['depth']\n",
    "unfinished": "class Family:\n    def __init__(self, options, train:\n",
    "mistyped": "class Family:\n    def __init__(self, options, train):\n        self.bases = len(3)\n",
    "narrow": "class Family:\n    def __init__(self, options):\n        pass\n",
    "lost": "import no_such_library\n",
    "empty": "class Familie:\n    pass\n\nFamily_ = 3\n",
    "careful": "import mergewise\ndef Family(options, train):\n    raise mergewise.MergewiseError('Take more.')\n",
    "bases_only": "class Family:\n    bases = {}\n    def __init__(self, options, train):\n        pass\n",
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a module into a folder that is not on the path, and return the folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def own(name):
        (tmp_path / f"{name}.py").write_text(SOURCES[name])
        importlib.invalidate_caches()
        return tmp_path

    yield own
    for name in SOURCES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "needy",
            r"^The family 'needy:Family' cannot be .*, since line 3 of needy raised KeyError: 'depth'; give it .*\.$",
        ),
        (
            "unfinished",
            r"since importing module 'unfinished' failed \(SyntaxError: .*unfinished\.py, line 2\)\); mend it\.$",
        ),
        ("mistyped", r"since line 3 of mistyped raised TypeError: object of type 'int' has no len\(\); give it"),
        (
            "narrow",
            r"cannot be made of its options and those of training \(too many .*\); name a class that takes both",
        ),
        (
            "lost",
            r"The family 'lost:Family' cannot be loaded: No module named 'no_such_library'; install what it needs",
        ),
        ("empty", r"expected a class 'Family' in module 'empty', found none\. Did you mean 'Familie'\?"),
        ("careful", r"^Take more\.$"),
        ("bases_only", r"Expected a family of models at 'bases_only:Family', found Family without categories, "),
    ],
)
def test_what_is_wrong_with_a_family_of_ones_own_is_one_sentence(own, name, message):
    with pytest.raises(Exception, match=message) as caught:
        load_family(f"{name}:Family", {}, {}, own(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), [("needy", KeyError), ("unfinished", SyntaxError), ("mistyped", TypeError)])
def test_what_a_family_raised_is_the_cause_of_what_is_reported(own, name, kind):
    with pytest.raises(StudyError) as caught:
        load_family(f"{name}:Family", {}, {}, own(name))
    assert isinstance(caught.value.__cause__, kind)


def test_a_family_that_is_nowhere_is_told_with_where_it_may_be(own):
    with pytest.raises(StudyError, match=r"No module named 'needy'; keep it beside the spec, or name its folder in PY"):
        load_family("needy:Family", {}, {})


def test_the_folder_of_a_spec_takes_the_place_of_no_other_module(own):
    before = list(sys.path)
    with pytest.raises(StudyError, match="depth"):
        load_family("needy:Family", {}, {}, folder := own("needy"))
    assert sys.path == [*before, str(folder)]


def test_families_that_are_there_take_nothing_from_the_folder_of_a_spec(own, tmp_path):
    before = list(sys.path)
    pytest.importorskip("transformers")
    load_family("zoo", {}, {}, tmp_path)
    assert sys.path == before


def test_a_family_beside_its_spec_runs_from_any_folder_in_this_process_and_in_others(tmp_path):
    (tmp_path / "specs").mkdir()
    shutil.copy(EXAMPLE, tmp_path / "specs" / "my_numbers.py")
    spec = {
        "name": "numbers",
        "family": "my_numbers:Numbers",
        "methods": {"average": None, "median": {"parameters": {"lambda": [1.0, 2.0]}}},
        "k": [2],
        "draws": 1,
        "limits": False,
        "scoring": {"validation_items": 100, "test_items": 100, "replicates": 200},
    }
    (tmp_path / "specs" / "numbers.yaml").write_text(yaml.safe_dump(spec))
    source = str(Path(importlib.import_module("mergewise").__file__).parents[1])
    study = [sys.executable, "-P", "-m", "mergewise", "study", "run", "specs/numbers.yaml"]  # -P: as the console script
    done = subprocess.run(
        [*study, "out", "--cache", "cache", "--jobs", "2"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": source}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"zero +median +2 ", done.stdout)
