"""Servers that several folders of tests read from, and kernels as their sources are now."""

import os
from pathlib import Path

import pytest

import servers
from mergewise.checkpoint import Access

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads of torch wait for each other where cores are busy

QUICK = Access(offline=False, cache=None, attempts=3, pause=0.01, timeout=0.7)
"""Retries without waiting for long."""


@pytest.fixture(autouse=True)
def own_machine_only(monkeypatch):
    """Reach no other machine, but where a test says so."""
    monkeypatch.setenv("MERGEWISE_OFFLINE", "1")


@pytest.fixture
def quick():
    return QUICK


@pytest.fixture
def file_server(tmp_path):
    """Serves the folder ``served`` of the test's own."""
    folder = tmp_path / "served"
    folder.mkdir()
    with servers.FileServer(folder).running() as server:
        yield server


@pytest.fixture
def object_store(monkeypatch):
    """An object store that ``s3://`` leads to."""
    with servers.ObjectStore().running() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield server


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that references lead to, and an empty local cache of it."""
    from huggingface_hub import constants

    with servers.Hub().running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        yield server


def pytest_configure():
    """Keep compiled kernels from one run to the next, whatever cache a test has for everything else."""
    os.environ.setdefault("MERGEWISE_KERNELS", str(Path(__file__).parents[1] / ".pytest_cache" / "kernels"))
