"""What merging does to tasks: experts, merges and scores, put together into a table and a report."""

from mergewise.study.demo import DemoResult, run_demo
from mergewise.study.errors import StudyError
from mergewise.study.protocol import Method, Protocol

__all__ = ["DemoResult", "Method", "Protocol", "StudyError", "run_demo"]
