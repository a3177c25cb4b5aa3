"""Results of a run on fakes, for all that is written from results."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for study_fakes: worker processes inherit the path


@pytest.fixture
def run(tmp_path):
    """Run a study on fakes; every call writes to a folder of its own, with one cache unless told otherwise."""
    from mergewise.study.run import local_engine, run_study

    def run(study, name="out", cache="cache", jobs=1, engine=None, progress=None):
        return run_study(study, tmp_path / name, tmp_path / cache, engine or local_engine(jobs), progress)

    return run


@pytest.fixture(scope="session")
def grids(tmp_path_factory):
    """Documents of two studies of four bases on fakes: a whole one, and one whose merges by TIES failed."""
    from study_fakes import FakeFamily, study

    from mergewise.study.run import local_engine, run_study

    family = f"study_fakes:{FakeFamily.__name__}"
    found = {}
    for name, options in (("whole", None), ("broken", {"broken": "ties"})):
        folder = tmp_path_factory.mktemp(name)
        one = study(bases="all", multitask=True, name=name, family=family, options=options)
        found[name] = run_study(one, folder / "out", folder / "cache", local_engine(1)).document
    return found


@pytest.fixture
def zoo_apart(tmp_path):
    """Return caches with the models and data of the user's, which are made there if missing, but cells of their own."""
    from mergewise.cache import cache_folder

    def zoo_apart(name):
        cache = tmp_path / name
        cache.mkdir()
        for kind in ("base", "corpus", "experts", "tasks", "wheels"):
            (cache_folder() / kind).mkdir(parents=True, exist_ok=True)
            (cache / kind).symlink_to(cache_folder() / kind)
        return cache

    return zoo_apart
