"""A command is measured as a whole process, and contenders take turns."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import measure
from measure import CommandError, Contender, alternating, ratio, run

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc of Linux")
HOLD = "import time; held = bytearray(b'x') * {}; time.sleep(0.15)"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-E", "-c", code]


def test_wall_time_counts_waiting_and_processor_time_does_not():
    measured = run(python("import time; time.sleep(0.3)"))
    assert measured.wall >= 0.3
    assert measured.cpu < measured.wall


def test_processor_time_counts_children_that_were_waited_for():
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    measured = run(python(f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-E', '-c', {burn!r}])"))
    assert measured.cpu >= 0.3


@linux
def test_memory_is_that_of_the_process_not_of_the_one_that_measures():
    held = np.ones(200 << 20, np.uint8)
    measured = run(python(HOLD.format(60 << 20)))
    assert 60 << 20 <= measured.anonymous <= 100 << 20
    assert measured.anonymous <= measured.rss <= 120 << 20
    assert held.all()


@linux
def test_memory_of_children_is_added():
    child = HOLD.format(40 << 20)
    parent = "import subprocess, sys; held = bytearray(b'x') * (30 << 20); "
    measured = run(python(parent + f"subprocess.run([sys.executable, '-S', '-E', '-c', {child!r}])"))
    assert 70 << 20 <= measured.anonymous <= 130 << 20


@linux
def test_pages_of_mapped_files_are_resident_but_not_anonymous(tmp_path):
    (tmp_path / "file").write_bytes(bytes(50 << 20))
    code = (
        f"import mmap, time; f = open({str(tmp_path / 'file')!r}, 'rb'); "
        "m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); sum(m[i] for i in range(0, len(m), 4096)); time.sleep(0.1)"
    )
    measured = run(python(code))
    assert measured.rss >= 50 << 20
    assert measured.anonymous < 40 << 20


def test_a_command_that_fails_is_a_fault_with_what_it_said():
    with pytest.raises(CommandError, match=r"ended with code 3: no such merge"):
        run(python("import sys; print('no such merge', file=sys.stderr); sys.exit(3)"))


def test_a_command_that_does_not_exist_is_a_fault(tmp_path):
    with pytest.raises(CommandError, match="cannot be started: No such file"):
        run([str(tmp_path / "nothing")])


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path):
    child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    started = tmp_path / "pid"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-E', '-c', {child!r}, {str(started)!r}])"
    with pytest.raises(CommandError, match="was killed after 1 s"):
        run(python(code), timeout=1.0)
    for _ in range(100):
        if not Path(f"/proc/{started.read_text()}/exe").exists():
            return
        time.sleep(0.02)
    pytest.fail("the child still runs")


def test_variables_are_added_to_those_of_this_process(monkeypatch):
    monkeypatch.setenv("KEPT", "1")
    code = "import os, sys; sys.exit(0 if (os.environ['KEPT'], os.environ['ADDED']) == ('1', '2') else 1)"
    assert run(python(code), {"ADDED": "2"}).wall > 0
    assert "ADDED" not in os.environ


def test_contenders_take_turns_and_are_prepared_outside_of_the_measured_time(monkeypatch):
    said = []

    def pretend(command, environment):
        said.append((command[0], environment))
        return measure.Run(float(len(said)), 0.0, 0, 0)

    monkeypatch.setattr(measure, "run", pretend)
    contenders = [
        Contender(
            name, [name], {"AS": name}, lambda name=name: said.append(f"before {name}"),
            lambda name=name: said.append(f"after {name}"),
        )
        for name in "AB"
    ]  # fmt: skip
    seen = []
    found = alternating(contenders, 2, lambda name, run: seen.append((name, run.wall)))
    turns = [part for name in "AB" for part in (f"before {name}", (name, {"AS": name}), f"after {name}")]
    assert said == turns * 2
    assert {name: [run.wall for run in runs] for name, runs in found.items()} == {"A": [2.0, 8.0], "B": [5.0, 11.0]}
    assert seen == [("A", 2.0), ("B", 5.0), ("A", 8.0), ("B", 11.0)]


def test_ratios_are_taken_pair_by_pair():
    # the machine became ten times slower in the middle: quotients of medians would not see that both did
    found = ratio([2.0, 20.0, 30.0, 4.0], [1.0, 10.0, 10.0, 1.0])
    assert (found.median, found.least, found.greatest, found.pairs) == (2.5, 2.0, 4.0, 4)


@pytest.mark.parametrize(("above", "below"), [([], []), ([1.0], [1.0, 2.0])])
def test_ratios_take_as_many_figures_on_either_side(above, below):
    with pytest.raises(ValueError, match=r"pair|argument"):
        ratio(above, below)
