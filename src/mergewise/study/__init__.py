"""What merging does to tasks: experts, merges and scores, put together into tables, verdicts and a report."""

from mergewise.study.demo import DemoResult, run_demo
from mergewise.study.errors import StudyError
from mergewise.study.protocol import Method, Protocol
from mergewise.study.run import StudyResult, run_study
from mergewise.study.spec import Study, load_spec, resolve

__all__ = [
    "DemoResult",
    "Method",
    "Protocol",
    "Study",
    "StudyError",
    "StudyResult",
    "load_spec",
    "resolve",
    "run_demo",
    "run_study",
]
