"""The language model and tasks of examples/lm_small.py, made once."""

import importlib.util
import os
from pathlib import Path

import pytest

from mergewise.study.lm.family import TransformersFamily
from mergewise.study.lm.harness import Harness, HarnessSettings

EXAMPLE = Path(__file__).parents[3] / "examples" / "lm_small.py"


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Folder with `base` and `tasks`; data sets are kept beside them."""
    folder = tmp_path_factory.mktemp("lm-small")
    os.environ.setdefault("HF_DATASETS_CACHE", str(folder / "datasets"))
    loaded = importlib.util.spec_from_file_location("lm_small", EXAMPLE)
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    module.main(folder, steps=40)
    return folder


@pytest.fixture
def options(small, monkeypatch):
    """What a spec says of the family; nothing is asked of other machines."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return {
        "offline": True,
        "task_folders": [str(small / "tasks")],
        "bases": {"small": {"path": str(small / "base"), "size": "tiny"}},
        "categories": {
            "first": {"held_in": True, "tasks": ["letters_first"]},
            "last": {"held_in": True, "tasks": ["letters_last"]},
            "order": {"held_in": False, "tasks": ["letters_smallest"]},
        },
        "tasks": {"letters_first": {"validation": "letters_first_validation"}},
        "batch_size": 32,
    }


@pytest.fixture
def harness(small, options):
    return Harness(HarnessSettings(folders=(str(small / "tasks"),), offline=True))


@pytest.fixture
def opened(options, tmp_path):
    """The workshop, with short trainings."""
    train = {"steps": 3, "batch_size": 4, "max_length": 16}
    return TransformersFamily(options, train).open(tmp_path / "cache", print)
