"""Merges of checkpoints on other machines, and to them: the same bytes, a record that can be verified, nothing half."""

import json
import shutil
import threading
import time
from dataclasses import replace

import pytest

import mergewise as mw
import support
from mergewise.engine.layout import FIXED_BYTES, lay_out
from mergewise.engine.plan import plan
from mergewise.errors import CheckpointError, RecipeError

MODELS = ("base", "e1", "e2")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def family(tmp_path):
    base = support.model_arrays(0, width=32, exact=True)
    models = {"base": base, "e1": support.expert_of(base, 1), "e2": support.expert_of(base, 2)}
    return {name: support.save_model(tmp_path / name, arrays, shards=2) for name, arrays in models.items()}


@pytest.fixture
def local(family, tmp_path, quick):
    mw.merge(recipe(tmp_path), tmp_path / "local", access=quick)
    return weights(tmp_path / "local")


def recipe(root, method="ties", **parameters):
    base, e1, e2 = (f"{root}/{name}" for name in MODELS)
    return mw.Recipe(method=method, base=base, experts=[e1, e2], parameters=parameters or {"density": 0.5})


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}


def stored(store, prefix):
    return {name.removeprefix(prefix): content for name, content in store.objects.items() if name.startswith(prefix)}


@pytest.fixture
def on_the_web(file_server, family):
    for name, folder in family.items():
        shutil.copytree(folder, file_server.folder / name)
    return file_server.url


@pytest.fixture
def in_the_store(object_store, family):
    for name, folder in family.items():
        for path in folder.iterdir():
            object_store.objects[f"bucket/{name}/{path.name}"] = path.read_bytes()
    return object_store


@pytest.fixture
def on_the_hub(hub, family):
    return {n: hub.add(f"org/{n}", {p.name: p.read_bytes() for p in f.iterdir()}) for n, f in family.items()}


class TestInputs:
    @pytest.mark.parametrize("threads", [1, 4])
    def test_from_the_web(self, threads, on_the_web, local, tmp_path, quick):
        report = mw.merge(recipe(on_the_web), tmp_path / "out", access=quick, threads=threads)
        assert weights(tmp_path / "out") == local
        assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"version": "1.0"}'
        assert all("etag" in version for version in report.inputs.values())
        assert mw.verify(tmp_path / "out", access=quick, sample=None).faults == ()

    def test_from_an_object_store(self, in_the_store, local, tmp_path, quick):
        mw.merge(recipe("s3://bucket"), tmp_path / "out", access=quick)
        assert weights(tmp_path / "out") == local
        assert (tmp_path / "out" / "tokenizer.json").exists()
        assert mw.verify(tmp_path / "out", access=quick).faults == ()

    def test_from_the_hub(self, on_the_hub, hub, local, tmp_path, quick):
        mw.merge(recipe("org"), tmp_path / "out", access=quick)
        assert weights(tmp_path / "out") == local
        record = json.loads((tmp_path / "out" / "mergewise.json").read_text())
        assert record["revisions"] == {f"org/{name}": commit for name, commit in on_the_hub.items()}
        assert {entry["commit"] for entry in record["inputs"]} == set(on_the_hub.values())

    def test_what_comes_into_the_local_cache_of_the_hub_changes_nothing(self, on_the_hub, family, tmp_path, quick):
        come = set()

        def cache(name):  # as transformers does when it loads the model
            snapshot = tmp_path / "hub-cache" / f"models--org--{name}" / "snapshots" / on_the_hub[name]
            if name not in come:  # once, and whole at once: a file that is written anew may be read half
                come.add(name)
                snapshot.parent.mkdir(parents=True)
                shutil.copytree(family[name], snapshot.with_name("incoming")).rename(snapshot)

        mw.merge(recipe("org"), tmp_path / "out", access=quick, progress=lambda *_: cache("e1"))
        cache("base")
        again = mw.merge(recipe("org"), tmp_path / "out", access=quick)
        assert again.remarks[-1].endswith("holds this merge already; nothing was done.")
        assert mw.verify(tmp_path / "out", access=quick).faults == ()

    def test_a_merge_of_a_branch_is_verified_against_the_commit_it_was_made_of(self, on_the_hub, hub, tmp_path, quick):
        mw.merge(recipe("org"), tmp_path / "out", access=quick)
        other = support.save_model(tmp_path / "other", support.model_arrays(9, width=32, exact=True))
        hub.add("org/e1", {path.name: path.read_bytes() for path in other.iterdir()})
        assert mw.verify(tmp_path / "out", access=quick, sample=None).faults == ()

    def test_from_everywhere_at_once_in_little_memory(
        self, on_the_web, in_the_store, on_the_hub, family, local, tmp_path, quick
    ):
        mixed = mw.Recipe(
            method="ties", base=str(family["base"]), experts=["org/e1", "s3://bucket/e2"], parameters={"density": 0.5}
        )
        mw.merge(mixed, tmp_path / "out", access=quick, memory="400MiB", threads=2)
        assert weights(tmp_path / "out") == local

    def test_prefixes_ties_and_eight_bits_are_seen_through(self, family, file_server, tmp_path, quick):
        import numpy as np

        base = support.load_model(family["base"])
        small = {name: a.astype("float8_e4m3fn") if a.dtype == np.float32 else a for name, a in base.items()}
        support.save_model(file_server.folder / "base", {f"wrapped.{n}": a for n, a in small.items()})
        support.save_model(tmp_path / "near", {f"wrapped.{n}": a for n, a in small.items()})
        for name in ("e1", "e2"):
            shutil.copytree(family[name], file_server.folder / name)
        far = mw.Recipe(method="linear", experts=[f"{file_server.url}/{n}" for n in ("e1", "base")])
        near = mw.Recipe(method="linear", experts=[str(family["e1"]), str(tmp_path / "near")])
        one, other = mw.merge_to_arrays(far, access=quick), mw.merge_to_arrays(near)
        assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in other.items()}

    def test_an_input_that_changes_meanwhile_is_noticed(self, on_the_web, file_server, tmp_path, quick):
        path = file_server.folder / "e1" / "model-00001-of-00002.safetensors"

        content = bytearray(path.read_bytes())
        content[-1] ^= 1

        def change(done, total):
            beside = path.with_suffix(".new")
            beside.write_bytes(content)
            beside.replace(path)  # at once, so that no answer is half of it

        with pytest.raises(CheckpointError, match="it changed while it was being merged"):
            mw.merge(recipe(on_the_web), tmp_path / "out", access=quick, progress=change)
        assert not (tmp_path / "out").exists()

    def test_an_input_that_changed_since_fails_verification(self, on_the_web, file_server, tmp_path, quick):
        mw.merge(recipe(on_the_web), tmp_path / "out", access=quick)
        support.save_model(file_server.folder / "e1", support.model_arrays(9, width=32, exact=True), shards=2)
        faults = mw.verify(tmp_path / "out", access=quick).faults
        assert any("e1/model-00001-of-00002.safetensors: expected size" in fault for fault in faults)

    def test_a_server_that_tells_no_version_is_remarked_on(self, on_the_web, file_server, quick):
        assert not any("no version" in remark for remark in plan(recipe(on_the_web), quick).remarks)
        file_server.versioned = False
        (remark,) = (remark for remark in plan(recipe(on_the_web), quick).remarks if "no version" in remark)
        assert remark.startswith(f"{on_the_web}/base/")
        assert "a change that keeps the size goes unnoticed" in remark

    def test_an_interrupted_merge_goes_on(self, on_the_web, local, file_server, tmp_path, quick):
        def stop(done, total):
            if done > total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            mw.merge(recipe(on_the_web), tmp_path / "out", access=quick, progress=stop, threads=1)
        report = mw.merge(recipe(on_the_web), tmp_path / "out", access=quick)
        assert any("taken over" in remark for remark in report.remarks)
        assert weights(tmp_path / "out") == local

    def test_the_memory_for_what_is_fetched_is_counted(self, on_the_web, family, tmp_path, quick):
        near, far = plan(recipe(tmp_path)), plan(recipe(on_the_web), quick)
        assert lay_out(far, 1, "1GiB").peak_bytes(far) > lay_out(near, 1, "1GiB").peak_bytes(near) + (100 << 20)
        with pytest.raises(RecipeError, match="needs at least"):
            lay_out(far, 1, FIXED_BYTES + (64 << 20))


class TestOutputs:
    def test_to_an_object_store(self, family, local, object_store, own_cache, tmp_path, quick):
        report = mw.merge(recipe(tmp_path), "s3://bucket/out/model", access=quick)
        found = stored(object_store, "bucket/out/model/")
        assert {name: content for name, content in found.items() if name.endswith(".safetensors")} == local
        assert {"config.json", "tokenizer.json", "mergewise.json", "README.md"} <= found.keys()
        assert report.out == "s3://bucket/out/model"
        assert mw.verify("s3://bucket/out/model", access=quick).faults == ()
        assert not any((own_cache / "outputs").iterdir())

    def test_what_loaders_look_for_comes_last(self, family, object_store, tmp_path, quick):
        mw.merge(recipe(tmp_path), "s3://bucket/out", access=quick, shard_size=20_000)
        order = [name.removeprefix("bucket/out/") for name in object_store.order]
        assert set(order[-2:]) == {"config.json", "model.safetensors.index.json"}
        assert len(order) > 8

    def test_large_files_are_sent_in_parts(self, object_store, tmp_path, quick, monkeypatch):
        from mergewise.checkpoint.remote import destination

        monkeypatch.setattr(destination, "_PART_BYTES", 5 << 20)
        base = support.model_arrays(0, width=8) | {"model.big": support.np.zeros(3 << 20, "float32")}
        for name in MODELS:
            support.save_model(tmp_path / name, base)
        mw.merge(recipe(tmp_path, "linear", weight=0.5), "s3://bucket/out", access=quick)
        assert sum("partNumber" in path for _, path, _ in object_store.requests) == 3
        assert mw.verify("s3://bucket/out", access=quick, sample=None).faults == ()

    def test_to_the_hub_in_one_commit(self, hub, family, local, tmp_path, quick):
        hub.add("org/out", {".gitattributes": b"", "README.md": b""})
        mw.merge(recipe(tmp_path), "hf://org/out", access=quick)
        files = hub.models["org/out"][hub.refs["org/out"]["main"]]
        assert {name: content for name, content in files.items() if name.endswith(".safetensors")} == local
        assert len(hub.models["org/out"]) == 2
        assert mw.verify("hf://org/out", access=quick).faults == ()

    def test_a_place_that_is_taken_is_refused_before_anything_is_done(self, family, object_store, tmp_path, quick):
        object_store.objects["bucket/out/precious"] = b"mine"
        with pytest.raises(CheckpointError, match="found 'precious' there"):
            mw.merge(recipe(tmp_path), "s3://bucket/out", access=quick)
        assert object_store.objects == {"bucket/out/precious": b"mine"}

    def test_web_servers_take_no_files(self, family, file_server, tmp_path, quick):
        with pytest.raises(CheckpointError, match="web servers take no files"):
            mw.merge(recipe(tmp_path), f"{file_server.url}/out", access=quick)

    def test_offline_nothing_is_sent(self, family, object_store, tmp_path, quick):
        with pytest.raises(CheckpointError, match="this is offline"):
            mw.merge(recipe(tmp_path), "s3://bucket/out", access=replace(quick, offline=True))
        assert not object_store.requests

    def test_what_could_not_be_sent_is_sent_when_run_again_without_merging_again(
        self, family, local, object_store, own_cache, tmp_path, quick
    ):
        object_store.trouble = lambda method, path: 403 if method == "PUT" and "00002-of" in path else None
        with pytest.raises(CheckpointError, match=r"access is denied.*the merge is kept in"):
            mw.merge(recipe(tmp_path), "s3://bucket/out", access=quick, shard_size=20_000)
        left = stored(object_store, "bucket/out/")
        assert left
        assert not left.keys() & {"config.json", "model.safetensors.index.json"}
        object_store.trouble = lambda method, path: None
        read = []
        report = mw.merge(
            recipe(tmp_path), "s3://bucket/out", access=quick, shard_size=20_000, progress=lambda *d: read.append(d)
        )
        assert not read
        assert "has now been sent" in report.remarks[-1]
        assert mw.verify("s3://bucket/out", access=quick, sample=None).faults == ()
        assert not any((own_cache / "outputs").iterdir())

    def test_what_another_merge_had_begun_to_send_is_removed(self, family, object_store, tmp_path, quick):
        (tmp_path / "base" / "added_tokens.json").write_text("{}")
        object_store.trouble = lambda method, path: 403 if method == "PUT" and "00002-of" in path else None
        with pytest.raises(CheckpointError, match="access is denied"):
            mw.merge(recipe(tmp_path), "s3://bucket/out", access=quick, shard_size=20_000)
        assert {"README.md", "added_tokens.json"} <= stored(object_store, "bucket/out/").keys()
        (tmp_path / "base" / "added_tokens.json").unlink()
        object_store.trouble = lambda method, path: 403 if method == "PUT" and "tokenizer" in path else None
        other = recipe(tmp_path, density=0.25)
        with pytest.raises(CheckpointError, match="access is denied"):
            mw.merge(other, "s3://bucket/out", access=quick)
        object_store.trouble = lambda method, path: None
        mw.merge(other, "s3://bucket/out", access=quick)
        mw.merge(other, tmp_path / "here", access=quick)
        assert stored(object_store, "bucket/out/").keys() == {path.name for path in (tmp_path / "here").iterdir()}
        assert mw.verify("s3://bucket/out", access=quick, sample=None).faults == ()

    def test_what_was_finished_is_sent_after_another_boot_and_not_with_other_small_files(
        self, family, object_store, tmp_path, quick, monkeypatch
    ):
        from mergewise.checkpoint import journal

        def attempted(trouble=None):
            object_store.trouble = lambda method, path: trouble if method == "PUT" else None
            read = []
            try:
                mw.merge(recipe(tmp_path), "s3://bucket/out", access=quick, progress=lambda *d: read.append(d))
            except CheckpointError:
                assert trouble
            return bool(read)

        assert attempted(403)
        (tmp_path / "boot").write_text("another")
        monkeypatch.setattr(journal, "_BOOT_ID", tmp_path / "boot")
        assert not attempted(403)
        (tmp_path / "base" / "tokenizer.json").write_text('{"version": "2.0"}')
        assert attempted()
        assert object_store.objects["bucket/out/tokenizer.json"] == b'{"version": "2.0"}'

    def test_a_file_url_is_a_folder_of_this_machine(self, family, local, tmp_path, quick):
        mw.merge(recipe(f"file://{tmp_path}"), f"file://{tmp_path}/out", access=quick)
        assert weights(tmp_path / "out") == local


def test_two_checkpoints_anywhere_are_compared(on_the_web, on_the_hub, quick):
    found = list(mw.diff(f"{on_the_web}/e1", "org/e1", access=quick))
    assert {difference.kind for difference in found} == {"equal"}


def test_a_stopped_merge_does_not_wait_for_what_it_was_fetching(on_the_web, file_server, tmp_path, quick):
    patient = replace(quick, attempts=50, pause=1.0)

    def stop(done, total):
        file_server.trouble = lambda method, path: 503
        raise KeyboardInterrupt

    began, before = time.monotonic(), set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        mw.merge(recipe(on_the_web), tmp_path / "out", access=patient, progress=stop, threads=1)
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("mergewise-fetch"):
            thread.join(20)
            assert not thread.is_alive()
    assert time.monotonic() - began < 30


def test_the_fault_that_is_told_is_the_one_that_came_first(on_the_web, file_server, tmp_path, quick):
    def stop(done, total):
        # whoever reads the one shard goes on trying; whoever reads the other cannot
        answers = {"e1/model-00001": 403, "e1/model-00002": 503}
        file_server.trouble = lambda method, path: next((n for part, n in answers.items() if part in path), None)

    patient = replace(quick, attempts=6, pause=1.0)
    with pytest.raises(CheckpointError, match=r"access is denied \(status 403\)"):
        mw.merge(recipe(on_the_web, "linear", weight=0.5), tmp_path / "out", access=patient, progress=stop, threads=4)
