"""Every method has a row in docs/methods.md, and every row is of a method."""

import re
from pathlib import Path

import mergewise as mw

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_table_of_methods_names_every_method_once_and_nothing_else():
    section = PAGE.read_text("utf-8").split("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    named = [name for cell in first for name in re.findall(r"`([a-z0-9_]+)`", cell)]
    # what tests or installed packages declare is described by them
    own = {name for name, method in mw.methods().items() if method.family != "custom"}
    assert sorted(named) == sorted(own)
