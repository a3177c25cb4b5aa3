"""Everything that mergekit 0.1.5 has by name has a row in docs/compatibility.md, and defaults are its own."""

import json
import re
import subprocess
from pathlib import Path

import pytest

import mergewise as mw
from oracle.generated import PARAMETERS

pytestmark = pytest.mark.oracle
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


@pytest.fixture(scope="module")
def names(mergekit):
    """Names of methods, parameters, keys, commands and options, as mergekit itself tells them."""
    script = Path(__file__).with_name("run_mergekit.py")
    command = [mergekit.with_name("python"), "-P", script, "names"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def rows():
    """Cells of every row of the page, by heading."""
    found, heading = {}, ""
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line.startswith("|") and not line.startswith("|---"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(heading, []).append(cells)
    return {heading: cells[1:] for heading, cells in found.items()}


def quoted(cell):
    """The words in code style of a cell."""
    return {word for code in re.findall(r"`([^`]+)`", cell) for word in re.findall(r"-*[\w-]+", code)}


def test_every_row_says_what_becomes_of_it(rows):
    for heading in ("Recipes", "Options of commands", "Methods", "Parameters", "Commands"):
        for cells in (cells for cells in rows[heading] if cells[0] != "–"):
            status = cells[2 if heading in {"Commands", "Parameters"} else 1]
            assert re.match(r"(same|better|refused|new)\b", status), cells
            if status == "refused":
                assert cells[-1] not in {"", "refused"}, cells


def test_every_method_has_a_row(names, rows):
    known = {word for cells in rows["Methods"] for word in quoted(cells[0])}
    assert names["methods"].keys() <= known
    assert names["methods"].keys() <= mw.methods().keys()


def test_every_parameter_of_every_method_has_a_row_and_is_compared(names, rows):
    known = {
        (parameter, method)
        for cells in rows["Parameters"]
        for parameter in quoted(cells[0])
        for method in (quoted(cells[1]) or names["methods"])
    }
    wanted = {(parameter, method) for method, found in names["methods"].items() for parameter in found}
    assert wanted <= known
    compared = {(parameter, method) for method, found in PARAMETERS.items() for parameter in found}
    assert compared == wanted


def test_defaults_are_those_of_mergekit(names):
    for method, parameters in names["methods"].items():
        for name, default in parameters.items():
            parameter = mw.methods()[method].parameter(name)
            assert parameter is not None, (method, name)
            if default is not None:
                assert parameter.default == parameter.check(default, method), (method, name)


def test_every_key_of_a_recipe_has_a_row(names, rows):
    known = {word for cells in rows["Recipes"] for word in quoted(cells[0])}
    wanted = {key for keys in names["keys"].values() for key in keys}
    assert wanted <= known


def test_every_command_and_every_option_has_a_row(names, rows):
    commands = {word for cells in rows["Commands"] for word in quoted(cells[0])}
    assert set(names["commands"]) <= commands
    shared = {word for cells in rows["Options of commands"] for word in quoted(cells[0])}
    for command, options in names["options"].items():
        assert set(options) <= shared | commands, command
