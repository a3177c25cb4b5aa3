"""Models that are named instead of lying in a folder: from a Hub on this machine."""

import pytest

from mergewise.study.errors import StudyError
from mergewise.study.lm.bases import fetched, is_hub_name

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "model.bin": b"the same again", "README.md": b"of it"}


@pytest.fixture
def online(hub, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub.add("some/expert", FILES, "v1")
    return hub


def test_a_model_of_the_hub_is_fetched_once_and_then_had_without_a_network(online, monkeypatch):
    lines = []
    folder = fetched("some/expert@v1", offline=False, progress=lines.append)
    assert lines == ["looking for some/expert@v1"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }
    online.close()
    assert fetched("some/expert@v1", offline=True, progress=print) == folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetched("some/expert@v1", offline=False, progress=print) == folder


@pytest.mark.parametrize(
    ("name", "offline", "advice"),
    [
        ("some/other", False, "check the name and the network, or name a folder"),
        ("some/expert@v2", False, "check the name and the network, or name a folder"),
        ("some/expert@v1", True, "no other machine is asked, so fetch it once with a network, or name a folder"),
    ],
)
@pytest.mark.usefixtures("online")
def test_a_model_that_cannot_be_had_is_one_sentence(name, offline, advice):
    with pytest.raises(StudyError, match=rf"^The model {name} cannot be had \(.+\); {advice}\.$"):
        fetched(name, offline=offline, progress=print)


@pytest.mark.parametrize("path", ["nowhere", "/no/where", "./some/expert", "~/some/expert", "a/b/c"])
def test_a_path_is_no_name(path):
    assert not is_hub_name(path)
    with pytest.raises(StudyError, match="Found neither"):
        fetched(path, offline=False, progress=print)
