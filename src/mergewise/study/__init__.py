"""What merging does to tasks: experts, merges and scores, put together into tables, verdicts and a report."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergewise.study.demo import demo_study
    from mergewise.study.errors import StudyError
    from mergewise.study.run import StudyResult, run_study
    from mergewise.study.spec import Study, load_spec, resolve

__all__ = ["Study", "StudyError", "StudyResult", "demo_study", "load_spec", "resolve", "run_study"]

_HOME = {
    "demo_study": "demo", "StudyError": "errors", "StudyResult": "run", "run_study": "run",
    "Study": "spec", "load_spec": "spec", "resolve": "spec",
}  # fmt: skip


def __getattr__(name: str) -> Any:  # workers need little of what reports need
    if name not in _HOME:
        raise AttributeError(f"module 'mergewise.study' has no attribute '{name}'")
    return getattr(import_module(f"mergewise.study.{_HOME[name]}"), name)
