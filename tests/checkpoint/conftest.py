"""A disk that is full after 256 KiB."""

import shutil
import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """A mounted file system of 256 KiB, where mounting is permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
