"""References to the Hub lead to one commit, from its local cache where that has it, and nowhere while offline."""

from dataclasses import replace

import numpy as np
import pytest

import support
from mergewise.checkpoint import Access, Connections, open_source
from mergewise.checkpoint.remote.hub import HubReference, hub_reference
from mergewise.errors import CheckpointError


@pytest.fixture
def files(tmp_path):
    """The files of two versions of a model."""

    def of(seed):
        folder = support.save_model(tmp_path / f"version {seed}", support.model_arrays(seed), shards=2)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return of


def head(source):
    found = np.empty(source.tensors["lm_head.weight"].nbytes, np.uint8)
    source.read_into(source.tensors["lm_head.weight"], 0, found)
    return found.tobytes()


def expected(seed):
    return support.model_arrays(seed)["lm_head.weight"].tobytes()


def put_in_cache(tmp_path, repository, commit, files, ref="main"):
    folder = tmp_path / "hub-cache" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / ref).write_text(commit)


def refusal(reference, access):
    with pytest.raises(CheckpointError) as caught:
        open_source(reference, Connections(access))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, files, quick):
    first = hub.add("org/model", files(0))
    hub.add("org/model", files(1), "v2")
    for reference, seed in {
        "org/model": 0, "org/model@main": 0, "org/model@v2": 1, f"org/model@{first}": 0, "hf://org/model@v2": 1,
    }.items():  # fmt: skip
        source = open_source(reference, Connections(quick))
        assert head(source) == expected(seed), reference
        assert source.location == reference


def test_a_file_or_folder_inside_a_repository(hub, files, quick):
    hub.add("org/model", {"config.json": b"{}", **{f"inside/{k}": v for k, v in files(0).items()}})
    assert head(open_source("hf://org/model/inside", Connections(quick))) == expected(0)
    one = open_source("hf://org/model@main/inside/model-00001-of-00002.safetensors", Connections(quick))
    assert len(one.files) == 1
    assert "expected model.safetensors" in refusal("org/model", quick)


def test_the_record_names_commit_and_sha256(hub, files, quick):
    commit = hub.add("org/model", files(0))
    source = open_source("org/model", Connections(quick))
    facts = source.files[0].facts()
    assert str(source.files[0]) == f"hf://org/model@{commit}/model-00001-of-00002.safetensors"
    assert facts.version == {"commit": commit}
    assert len(facts.sha256) == 64


def test_a_branch_that_moves_is_followed_once_per_merge(hub, files, quick):
    hub.add("org/model", files(0))
    connections = Connections(quick)
    assert head(open_source("org/model", connections)) == expected(0)
    hub.add("org/model", files(1))
    assert head(open_source("org/model", connections)) == expected(0)
    assert head(open_source("org/model", Connections(quick))) == expected(1)


def test_a_path_that_exists_goes_first(hub, tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    support.save_model(tmp_path / "org" / "model", support.model_arrays(3))
    assert head(open_source("org/model", Connections(quick))) == expected(3)
    assert not hub.requests


def test_what_the_local_cache_has_is_not_fetched(hub, files, tmp_path, quick):
    commit = hub.add("org/model", files(0))
    put_in_cache(tmp_path, "org/model", commit, files(0))
    assert head(open_source("org/model", Connections(quick))) == expected(0)
    assert not [path for _, path, _ in hub.requests if "resolve" in path]


def test_what_the_local_cache_lacks_is_fetched(hub, files, tmp_path, quick):
    commit = hub.add("org/model", files(0))
    some = {name: content for name, content in files(0).items() if "00002-of" not in name}
    put_in_cache(tmp_path, "org/model", commit, some)
    source = open_source("org/model", Connections(quick))
    assert head(source) == expected(0)
    assert {path.rpartition("/")[2] for _, path, _ in hub.requests if "resolve" in path} == {
        "model-00002-of-00002.safetensors"
    }


class TestOffline:
    @pytest.fixture
    def offline(self, quick):
        return replace(quick, offline=True)

    @pytest.mark.parametrize("reference", ["org/model", "org/model@main", "org/model@" + "a" * 40, "hf://org/model"])
    def test_the_local_cache_is_read(self, reference, hub, files, tmp_path, offline):
        put_in_cache(tmp_path, "org/model", "a" * 40, files(0))
        assert head(open_source(reference, Connections(offline))) == expected(0)
        assert not hub.requests

    def test_what_is_not_in_the_local_cache_is_refused(self, hub, files, tmp_path, offline):
        hub.add("org/model", files(0))
        assert "expected it in the local cache of the Hub, since this is offline" in refusal("org/model", offline)
        put_in_cache(tmp_path, "org/model", "a" * 40, files(0))
        assert "since this is offline" in refusal("org/model@other", offline)
        assert "since this is offline" in refusal("org/model@../refs/main", offline)
        assert not hub.requests

    def test_a_shard_that_is_not_in_the_local_cache_is_named(self, hub, files, tmp_path, offline):
        some = {name: content for name, content in files(0).items() if "00002-of" not in name}
        put_in_cache(tmp_path, "org/model", "a" * 40, some)
        assert "model-00002-of-00002.safetensors, which is missing" in refusal("org/model", offline)

    @pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "MERGEWISE_OFFLINE"])
    def test_the_environment_says_so(self, name, monkeypatch):
        monkeypatch.delenv("MERGEWISE_OFFLINE")
        assert not Access().offline
        monkeypatch.setenv(name, "1")
        assert Access().offline


class TestWhatGoesWrong:
    def test_no_such_repository(self, hub, quick):
        text = refusal("org/nothing", quick)
        assert "there is no folder or file of that name" in text
        assert "there is no such repository, or it is private; log in" in text

    def test_no_such_revision(self, hub, files, quick):
        hub.add("org/model", files(0))
        assert "nor a model or revision on the Hub" in refusal("org/model@nope", quick)
        assert "no such model or revision" in refusal("hf://org/model@nope", quick)

    def test_a_gated_repository(self, hub, files, quick):
        hub.add("org/model", files(0))
        hub.gated.add("org/model")
        assert "the repository is gated; ask for access on its page and log in" in refusal("org/model", quick)

    def test_no_hub(self, hub, quick):
        hub.close()
        assert "no connection" in refusal("org/model", quick)

    def test_trouble_that_passes(self, hub, files, quick):
        hub.add("org/model", files(0))
        source = open_source("org/model", Connections(quick))
        left = [503, "cut"]
        hub.trouble = lambda method, path: left.pop() if left and "resolve" in path else None
        assert head(source) == expected(0)
        assert not left

    def test_trouble_that_stays(self, hub, files, quick):
        hub.add("org/model", files(0))
        source = open_source("org/model", Connections(quick))
        hub.trouble = lambda method, path: 503
        with pytest.raises(CheckpointError, match="after 3 attempts: the server answered with status 503"):
            head(source)


@pytest.mark.parametrize(
    ("text", "revision", "inside"),
    [
        ("a/b", None, ""),
        ("a/b@refs/pr/3", "refs/pr/3", ""),
        ("hf://a/b@refs/pr/3", "refs/pr/3", ""),
        ("hf://a/b@refs/pr/3/sub/model.safetensors", "refs/pr/3", "sub/model.safetensors"),
        ("hf://a/b@refs/convert/safetensors/x", "refs/convert/safetensors", "x"),
        ("hf://a/b@main/refs/pr/3", "main", "refs/pr/3"),
        ("hf://a/b/sub/", None, "sub"),
    ],
)
def test_a_reference_to_the_hub_has_a_revision_and_a_path_in_it(text, revision, inside):
    assert hub_reference(text) == HubReference("a/b", revision, inside)


@pytest.mark.parametrize(
    "text",
    [
        "model",
        "a/b/c",
        "/a/b",
        "./a",
        "../b",
        "a/b@",
        "a/..",
        "a/b.git",
        "a--b/c",
        "a b/c",
        "hf://a",
        "a/-b",
        "hf://a/b/../c",
    ],
)
def test_what_is_no_reference_to_the_hub(text):
    assert hub_reference(text) is None
