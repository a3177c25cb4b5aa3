"""Results of a run on fakes, for all that is written from results."""

import json
import sys
from pathlib import Path

import pytest

from mergewise.study.experiment import run_experiment
from mergewise.study.results import results_document
from mergewise.study.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))  # for study_fakes: worker processes inherit the path


@pytest.fixture(scope="session")
def results():
    """The results document of a run on fakes, as read back from its file."""
    from study_fakes import PROTOCOL, FakeBench, fake_details, fake_experiment

    with Runner(FakeBench, None, 1, lambda line: None) as runner:
        measured = run_experiment(fake_experiment(), PROTOCOL, runner)
    return json.loads(json.dumps(fake_details(results_document(fake_experiment(), PROTOCOL, measured))))
