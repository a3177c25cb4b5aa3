"""Commands of launchers: why they failed, and that they do not outlive who started them."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mergewise.study.errors import StudyError
from mergewise.study.lm.launch import run_launched
from mergewise.study.work import describe_fault

TORCHRUN = """
Traceback (most recent call last):
  File "training.py", line 3, in train
[rank1]: mergewise.study.errors.StudyError: nothing is left of an answer.
E0101 10:00:00 1 api.py:869] failed (exitcode: 1) local_rank: 1 (pid: 7) of binary: python
Traceback (most recent call last):
  File "torchrun", line 8, in <module>
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
training FAILED
------------------------------------------------------------
  traceback : To enable traceback see: elastic/errors.html
============================================================
"""


def python(code):
    return shlex.join([sys.executable, "-c", code])


def test_the_sentence_is_the_error_of_the_training_and_all_that_was_said_is_kept():
    with pytest.raises(StudyError) as caught:
        run_launched(python(f"import sys; sys.exit({TORCHRUN!r})"), [])
    sentence, trace = describe_fault(caught.value)
    assert sentence.endswith("failed: StudyError: nothing is left of an answer.")
    assert trace.strip() == TORCHRUN.strip()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import sys; sys.exit('no such option\\n=====')", "no such option"),
    ],
)
def test_without_an_error_the_last_words_tell_or_the_exit_code(code, reason):
    with pytest.raises(StudyError, match=rf"(?m)failed: {reason}\.$"):
        run_launched(python(code), [])


def test_a_command_that_is_not_there_is_one_sentence():
    with pytest.raises(StudyError, match=r"started by 'torchrunn --x' failed: FileNotFoundError: .*No such file"):
        run_launched("torchrunn --x", [])


def test_what_was_launched_ends_with_who_started_it(tmp_path):
    note = tmp_path / "pid"
    launched = python(f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(300)")
    code = f"from mergewise.study.lm.launch import run_launched; run_launched({launched!r}, [])"
    starter = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int(note.read_text())
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
