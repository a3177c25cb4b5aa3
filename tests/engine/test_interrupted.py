"""A merge that is killed, stopped or starved goes on where it was, and gives the same bytes."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import mergewise as mw
from mergewise.checkpoint import FolderTarget, place
from mergewise.checkpoint.journal import JOURNAL_NAME, Journal, fingerprint
from mergewise.checkpoint.place import open_ranges, sha256_of
from mergewise.checkpoint.staging import by_visibility
from mergewise.engine import intact, provenance
from mergewise.engine.workers import Crew
from mergewise.method import registry
from support import load_model, save_model

METHODS = [{"method": "ties", "parameters": {"density": 0.3}}, {"method": "task_arithmetic", "parameters": {}}]
METHODS.append({"method": "ties", "parameters": {"density": 0.3, "scope": "model"}})


def family(folder: Path, tensors: int, size: int) -> dict:
    rng = np.random.default_rng(0)
    base = {f"layers.{i}.weight": rng.normal(size=(size, 64)).astype(np.float32) for i in range(tensors)}
    paths = [save_model(folder / "base", base)]
    for number in range(3):
        noise = {n: (v + rng.normal(size=v.shape) * 0.01).astype(np.float32) for n, v in base.items()}
        paths.append(save_model(folder / f"e{number}", noise))
    return {"base": str(folder / "base"), "experts": [str(folder / f"e{n}") for n in range(3)]}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in by_visibility(folder.iterdir())}


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("asked", METHODS, ids=["tensor scope", "linear", "model scope"])
def test_a_merge_stopped_by_ctrl_c_takes_over_what_was_finished(tmp_path, monkeypatch, asked):
    models = family(tmp_path, tensors=12, size=40)
    recipe = mw.Recipe(**models, **asked)
    mw.merge(recipe, tmp_path / "undisturbed", threads=1)
    finish = FolderTarget.finish

    def finish_some(self, name):
        finish(self, name)
        if len(self._journal.finished) == 5:
            raise Stop

    monkeypatch.setattr(FolderTarget, "finish", finish_some)
    with pytest.raises(KeyboardInterrupt):
        mw.merge(recipe, tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(FolderTarget, "finish", finish)
    written = []
    write = FolderTarget.write
    monkeypatch.setattr(
        FolderTarget, "write", lambda self, name, *rest: (written.append(name), write(self, name, *rest))
    )
    report = mw.merge(recipe, tmp_path / "out", threads=2)
    assert any("5 tensors were taken over" in remark for remark in report.remarks)
    assert len(set(written)) == 7
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")


def interrupted(tmp_path, monkeypatch, recipe):
    finish = FolderTarget.finish

    def stop(self, name):
        finish(self, name)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(FolderTarget, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            mw.merge(recipe, tmp_path / "out", threads=1)


def test_integers_that_differ_are_told_of_also_where_they_were_finished_before(tmp_path, monkeypatch):
    models = family(tmp_path, tensors=2, size=10)
    for number in range(3):
        path = tmp_path / f"e{number}"
        save_model(path, load_model(path) | {"ids": np.arange(4) + number})
    recipe = mw.Recipe(method="average", **models)
    finish = FolderTarget.finish

    def stop(self, name):
        finish(self, name)
        if name == "ids":
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(FolderTarget, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            mw.merge(recipe, tmp_path / "out", threads=1)
    remarks = mw.merge(recipe, tmp_path / "out", threads=1).remarks
    assert "2 tensors were taken over from an interrupted merge." in remarks
    assert any("'ids' holds integers or booleans that differ" in remark for remark in remarks)


def test_another_recipe_starts_over(tmp_path, monkeypatch):
    models = family(tmp_path, tensors=4, size=10)
    interrupted(tmp_path, monkeypatch, mw.Recipe(method="average", **models))
    recipe = mw.Recipe(method="task_arithmetic", **models)
    report = mw.merge(recipe, tmp_path / "out")
    assert not any("taken over" in remark for remark in report.remarks)
    mw.merge(recipe, tmp_path / "undisturbed")
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")


def test_a_changed_input_starts_over(tmp_path, monkeypatch):
    models = family(tmp_path, tensors=4, size=10)
    recipe = mw.Recipe(method="average", **models)
    interrupted(tmp_path, monkeypatch, recipe)
    changed = {f"layers.{i}.weight": np.full((10, 64), i, np.float32) for i in range(4)}
    save_model(tmp_path / "e1", changed)
    report = mw.merge(recipe, tmp_path / "out")
    assert not any("taken over" in remark for remark in report.remarks)
    mw.merge(recipe, tmp_path / "undisturbed")
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")


def test_an_input_that_changes_during_the_merge_is_refused(tmp_path, monkeypatch):
    models = family(tmp_path, tensors=4, size=10)
    finish = FolderTarget.finish

    def touch(self, name):
        finish(self, name)
        os.utime(Path(models["experts"][0]) / "model.safetensors")

    monkeypatch.setattr(FolderTarget, "finish", touch)
    with pytest.raises(mw.CheckpointError, match="changed while it was being merged"):
        mw.merge(mw.Recipe(method="average", **models), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_small_file_that_cannot_be_read_is_told_before_the_merge(tmp_path, monkeypatch):
    models = family(tmp_path, tensors=2, size=8)
    notes = tmp_path / "base" / "notes.json"
    notes.write_text("{}")

    def closed(file):
        if file == notes:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return open_ranges(file)

    monkeypatch.setattr(place, "open_ranges", closed)
    advanced = []
    with pytest.raises(mw.CheckpointError, match=r"notes\.json: cannot be read: Permission denied"):
        mw.merge(mw.Recipe(**models, **METHODS[1]), tmp_path / "out", progress=lambda *_: advanced.append(_))
    assert not advanced


def test_a_fault_does_not_wait_until_all_inputs_are_hashed(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    models = family(tmp_path, tensors=2, size=10)
    save_model(tmp_path / "e0", {f"layers.{i}.weight": np.full((10, 64), np.nan, np.float32) for i in range(2)})
    begun, hashed = [], []

    def until_stopped(path, stop):
        begun.append(path)
        assert stop.wait(60)
        hashed.append(path)
        raise mw.CheckpointError("stopped")

    monkeypatch.setattr(provenance, "sha256_of", until_stopped)
    with pytest.raises(mw.MergeError, match="holds nan at"):
        mw.merge(mw.Recipe(method="average", **models), tmp_path / "out")
    assert begun == hashed
    assert len(begun) == 1


def test_a_digest_that_nobody_needs_any_more_is_not_finished(tmp_path):
    (tmp_path / "file").write_bytes(b"weights")
    stop = threading.Event()
    assert sha256_of(tmp_path / "file", stop) == hashlib.sha256(b"weights").hexdigest()
    stop.set()
    with pytest.raises(mw.CheckpointError, match="hashing was stopped"):
        sha256_of(tmp_path / "file", stop)


@pytest.mark.parametrize("way", ["each", "fold"])
def test_a_worker_alone_with_its_tensor_stops_before_another_piece_once_one_has_failed(way):
    begun, both = [], threading.Barrier(2)

    def piece_by_piece(runner):
        if way == "each":
            runner.each(lambda *_: begun.append(time.sleep(0.01)), range(1000))
        else:
            runner.fold(list, lambda *_: begun.append(time.sleep(0.01)), range(1000))

    def work(workspace, index, _):
        both.wait(60)
        if index == 0:
            raise mw.CheckpointError("a fault")
        piece_by_piece(crew.alone(workspace))

    with Crew((), 2) as crew, pytest.raises(mw.CheckpointError, match="a fault"):
        crew.each(work, ["one", "other"])
    assert len(begun) < 1000


def test_a_torn_or_damaged_journal_record_ends_the_journal(tmp_path):
    work = fingerprint("some merge")
    journal = Journal(tmp_path, work)
    journal.open()
    for number in range(5):
        journal.add(number)
    journal.close()
    path = tmp_path / JOURNAL_NAME
    whole = path.read_bytes()
    for cut in range(len(whole) - 40, len(whole) + 1):
        path.write_bytes(whole[:cut])
        assert Journal(tmp_path, work).finished == set(range((cut - (len(whole) - 40)) // 8))
    damaged = bytearray(whole)
    damaged[-12] ^= 1
    path.write_bytes(damaged)
    assert Journal(tmp_path, work).finished == {0, 1, 2}
    assert not Journal(tmp_path, fingerprint("another merge")).continues


def wait_for_tensors(process, out, count):
    """Wait until the journal of a merge has so many tensors, or the merge is over."""
    journal = out.parent / f".{out.name}.mergewise-partial" / JOURNAL_NAME
    least = len(fingerprint(None)) + 1 + 8 * count
    while process.poll() is None:
        try:
            if journal.stat().st_size >= least:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("asked", METHODS, ids=["tensor scope", "linear", "model scope"])
def test_kill_9_at_random_moments_loses_nothing(tmp_path, asked):
    models = family(tmp_path, tensors=150, size=4000)
    parameters = [part for item in asked["parameters"].items() for part in ("-p", "{}={}".format(*item))]
    experts = [part for expert in models["experts"] for part in ("--expert", expert)]
    command = [sys.executable, "-m", "mergewise", "merge", "--method", asked["method"], "--base", models["base"]]
    command += [*experts, *parameters]
    subprocess.run([*command, str(tmp_path / "first")], check=True, capture_output=True)  # compiles kernels
    began = time.monotonic()
    subprocess.run([*command, str(tmp_path / "undisturbed")], check=True, capture_output=True)
    took = time.monotonic() - began
    expected = digests(tmp_path / "undisturbed")
    moments = random.Random(0)
    resumed = 0
    for number in range(17):
        out = tmp_path / f"out-{number}"
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if number % 2:
            time.sleep(moments.uniform(0.3, 1.0) * took)
        else:  # the speed of a machine does not decide how far it gets
            wait_for_tensors(process, out, moments.randrange(1, 100))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not out.exists():
            again = subprocess.run([*command, str(out)], check=True, capture_output=True, text=True)
            resumed += "taken over" in again.stderr
        assert digests(out) == expected
        for path in out.iterdir():
            path.unlink()
    assert resumed > 0


class TestTheSameCommandOnceMore:
    """As after a kill between the appearance of the output and the exit."""

    @pytest.fixture
    def models(self, tmp_path):
        return family(tmp_path, tensors=3, size=8)

    def test_leaves_the_output_as_it_is_and_says_so(self, tmp_path, models):
        recipe, out = mw.Recipe(**models, method="task_arithmetic"), tmp_path / "out"
        mw.merge(recipe, out)
        before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.iterdir()}
        report = mw.merge(recipe, out)
        assert report.remarks[-1] == f"{out} holds this merge already; nothing was done."
        assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.iterdir()} == before

    def test_looks_at_no_marks_that_a_kill_left_in_it(self, tmp_path, models, monkeypatch):
        recipe, out = mw.Recipe(**models, method="task_arithmetic"), tmp_path / "out"

        def killed(path, **_):
            if path.name in {".lock", ".journal"}:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                mw.merge(recipe, out)
        assert {".lock", ".journal"} <= {path.name for path in out.iterdir()}
        assert mw.merge(recipe, out).remarks[-1] == f"{out} holds this merge already; nothing was done."
        assert mw.verify(out).faults == ()
        assert not {".lock", ".journal"} & {path.name for path in by_visibility(out.iterdir())}  # as they are sent

    def test_is_refused_where_anything_differs(self, tmp_path, models):
        out = tmp_path / "out"
        mw.merge(mw.Recipe(**models, method="task_arithmetic"), out)
        with pytest.raises(mw.CheckpointError, match="new or empty"):
            mw.merge(mw.Recipe(**models, method="ties"), out)
        touched = tmp_path / "e1" / "model.safetensors"
        content = bytearray(touched.read_bytes())
        content[-1] ^= 1
        touched.write_bytes(content)
        with pytest.raises(mw.CheckpointError, match="new or empty"):
            mw.merge(mw.Recipe(**models, method="task_arithmetic"), out)

    def test_is_refused_where_experts_have_changed_places(self, tmp_path, models):
        recipe, out = mw.Recipe(**models, method="task_arithmetic"), tmp_path / "out"
        mw.merge(recipe, out)
        one, other = tmp_path / "e0", tmp_path / "e1"
        one.rename(tmp_path / "aside")
        other.rename(one)
        (tmp_path / "aside").rename(other)
        with pytest.raises(mw.CheckpointError, match="new or empty"):
            mw.merge(recipe, out)

    def test_is_refused_where_small_files_of_the_base_or_the_sizes_of_files_differ(self, tmp_path, models):
        recipe, out = mw.Recipe(**models, method="task_arithmetic"), tmp_path / "out"
        mw.merge(recipe, out)
        with pytest.raises(mw.CheckpointError, match="new or empty"):
            mw.merge(recipe, out, shard_size=3000)
        mw.merge(recipe, out, shard_size="1GB")  # which makes one file, too
        for name in ("config.json", "tokenizer.json"):
            path = tmp_path / "base" / name
            text = path.read_text()
            path.write_text('{"eos_token_id": 7}')
            with pytest.raises(mw.CheckpointError, match="new or empty"):
                mw.merge(recipe, out)
            path.write_text(text)
        mw.merge(recipe, out)

    def test_is_refused_where_a_method_that_the_user_declares_was_changed(self, tmp_path, models, monkeypatch):
        monkeypatch.setattr(registry, "_declared", {})

        @mw.merge_method(space="delta", name="scaled_sum", summary="A sum.")
        def first(taus: Sequence[mw.Array]) -> mw.Array:
            return sum(taus)

        recipe, out = mw.Recipe(**models, method="scaled_sum"), tmp_path / "out"
        mw.merge(recipe, out)
        assert mw.merge(recipe, out).remarks[-1].endswith("nothing was done.")

        @mw.merge_method(space="delta", name="scaled_sum", summary="A sum.")
        def second(taus: Sequence[mw.Array]) -> mw.Array:
            return sum(taus) * 2

        with pytest.raises(mw.CheckpointError, match="new or empty"):
            mw.merge(recipe, out)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "mergewise_recipe.yaml"])
    def test_puts_back_a_small_file_that_has_gone(self, tmp_path, models, name):
        recipe, out = mw.Recipe(**models, method="task_arithmetic"), tmp_path / "out"
        mw.merge(recipe, out)
        before = digests(out)
        weights = (out / "model.safetensors").stat().st_mtime_ns
        (out / name).unlink()
        report = mw.merge(recipe, out)
        assert report.remarks[-1] == f"{out} holds this merge already; {name} had gone and was put back."
        assert digests(out) == before
        assert (out / "model.safetensors").stat().st_mtime_ns == weights
        assert mw.verify(out).faults == ()

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "mergewise_recipe.yaml"])
    def test_is_refused_where_a_small_file_was_altered_and_puts_it_back_once_it_is_removed(
        self, tmp_path, models, name
    ):
        recipe, out = mw.Recipe(**models, method="task_arithmetic"), tmp_path / "out"
        mw.merge(recipe, out)
        before = digests(out)
        (out / name).write_text('{"model_type": "other"}')
        with pytest.raises(
            mw.CheckpointError, match=f"{name}: expected SHA-256 .* undo the change, or remove the file"
        ):
            mw.merge(recipe, out)
        assert (out / name).read_text() == '{"model_type": "other"}'
        (out / name).unlink()
        mw.merge(recipe, out)
        assert digests(out) == before

    def test_is_refused_where_the_index_has_gone_or_was_altered(self, tmp_path, models):
        recipe, out = mw.Recipe(**models, method="task_arithmetic"), tmp_path / "out"
        mw.merge(recipe, out, shard_size=3000)
        index = out / "model.safetensors.index.json"
        index.write_text(index.read_text() + " ")
        with pytest.raises(mw.CheckpointError, match=r"index\.json: expected SHA-256"):
            mw.merge(recipe, out, shard_size=3000)
        index.unlink()
        with pytest.raises(mw.CheckpointError, match=r"index\.json is missing; put it back, or remove the folder"):
            mw.merge(recipe, out, shard_size=3000)

    def test_is_refused_where_a_file_cannot_be_made_as_it_was(self, tmp_path, models, monkeypatch):
        recipe, out = mw.Recipe(**models, method="task_arithmetic"), tmp_path / "out"
        mw.merge(recipe, out)
        (out / "mergewise_recipe.yaml").unlink()
        monkeypatch.setattr(intact, "recipe_text", json.dumps)  # as another version might write it
        with pytest.raises(mw.CheckpointError, match=r"mergewise_recipe\.yaml is missing and cannot be made as it was"):
            mw.merge(recipe, out)

    def test_is_refused_where_weights_have_gone_or_the_record_is_no_record(self, tmp_path, models):
        recipe, out = mw.Recipe(**models, method="task_arithmetic"), tmp_path / "out"
        mw.merge(recipe, out)
        weights = out / "model.safetensors"
        kept = weights.read_bytes()
        weights.unlink()
        with pytest.raises(mw.CheckpointError, match="new or empty"):
            mw.merge(recipe, out)
        weights.write_bytes(kept)
        (out / "mergewise.json").write_text("{}")
        with pytest.raises(mw.CheckpointError, match="expected the record of a merge"):
            mw.merge(recipe, out)


KILLED_WHILE_MOVING = """
import os, sys
from pathlib import Path
import mergewise as mw
rename, left = Path.rename, [int(sys.argv[1])]

def counted(self, target):
    if Path(target).parent.name == "out":
        if not left[0]:
            os._exit(9)
        left[0] -= 1
    return rename(self, target)

Path.rename = counted
mw.merge("recipe.json", "out", threads=1)
"""


@pytest.mark.parametrize("moved", [0, 3, 4])
def test_a_merge_killed_while_its_files_are_moved_into_an_existing_folder(tmp_path, monkeypatch, moved):
    monkeypatch.chdir(tmp_path)
    models = family(tmp_path, tensors=4, size=10)
    recipe = {"merge_method": "linear", "models": [{"model": expert} for expert in models["experts"]]}
    Path("recipe.json").write_text(json.dumps(recipe))
    for model in ("base", "e0", "e1", "e2"):
        Path(model, "config.json").write_text('{"model_type": "llama"}')
    Path("out").mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_MOVING, str(moved)], check=False)
    assert done.returncode == 9
    assert len(list(Path("out").iterdir())) == moved
    report = mw.merge("recipe.json", "out")
    assert "4 tensors were taken over from an interrupted merge." in report.remarks
    mw.merge("recipe.json", "undisturbed")
    assert digests(Path("out")) == digests(Path("undisturbed"))
    assert not list(Path().glob(".*"))


@pytest.fixture
def killed_while_moving(tmp_path, monkeypatch):
    """Two merges: ``other``, and one that was killed when all its files but the last were moved into ``out``."""
    monkeypatch.chdir(tmp_path)
    models = family(tmp_path, tensors=4, size=10)
    recipe = {"merge_method": "linear", "models": [{"model": expert} for expert in models["experts"]]}
    Path("recipe.json").write_text(json.dumps(recipe))
    Path("out").mkdir()
    assert subprocess.run([sys.executable, "-c", KILLED_WHILE_MOVING, "3"], check=False).returncode == 9
    assert len(list(Path("out").iterdir())) == 3
    mw.merge(mw.Recipe(method="linear", experts=models["experts"][:2]), "other")
    return Path("out")


def test_files_that_took_the_place_of_those_that_a_killed_merge_moved_are_not_taken_for_them(killed_while_moving):
    for path in killed_while_moving.iterdir():
        path.unlink()
    shutil.copytree("other", "out", dirs_exist_ok=True)
    before = digests(killed_while_moving)
    with pytest.raises(mw.CheckpointError, match="out: expected an output folder that is new or empty"):
        mw.merge("recipe.json", "out")
    assert digests(killed_while_moving) == before
    shutil.rmtree("out")
    Path("out").mkdir()
    mw.merge("recipe.json", "out")
    mw.merge("recipe.json", "undisturbed")
    assert digests(Path("out")) == digests(Path("undisturbed"))
    assert not list(Path().glob(".*"))


def test_nothing_is_moved_out_of_a_folder_that_holds_something_else_too(killed_while_moving):
    (killed_while_moving / "notes.txt").write_text("mine")
    before = digests(killed_while_moving)
    with pytest.raises(mw.CheckpointError, match="out: expected an output folder that is new or empty"):
        mw.merge("recipe.json", "out")
    assert digests(killed_while_moving) == before
    (killed_while_moving / "notes.txt").unlink()
    assert "4 tensors were taken over from an interrupted merge." in mw.merge("recipe.json", "out").remarks


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".journal"]], ids=str)
def test_what_a_merge_left_that_was_killed_when_all_was_moved_is_removed_by_the_next(tmp_path, left):
    models = family(tmp_path, tensors=2, size=10)
    recipe = mw.Recipe(**models, method="task_arithmetic")
    mw.merge(recipe, tmp_path / "out")
    hidden = tmp_path / ".out.mergewise-partial"
    hidden.mkdir()
    for name in left:
        (hidden / name).touch()
    mw.merge(recipe, tmp_path / "out")
    assert not hidden.exists()
