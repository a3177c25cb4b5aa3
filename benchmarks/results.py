"""Results as JSON: a file for each row of a table, with the machine, the versions and the command that it came from."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contenders import Bench
from measure import Run

__all__ = ["about", "load", "provenance", "save", "table"]

_VERSIONS = (
    "import importlib.metadata as m, json, sys;"
    "print(json.dumps({n: m.version(n) for n in sys.argv[1:]} | {'python': sys.version.split()[0]}))"
)


def about(bench: Bench, arguments: Sequence[str], peers: Sequence[str] = ()) -> dict[str, Any]:
    """Return where figures come from: date, command, machine and versions, without paths of this machine.

    Args:
        bench: What is measured.
        arguments: Of the command, as in ``sys.argv[1:]``.
        peers: Which peers take part: ``mergekit``, ``sd-mecha``.
    """
    own = subprocess.run([*bench.mergewise, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    versions = {"mergewise": own, **_versions(sys.executable, ["numpy", "numba"])}
    if "mergekit" in peers:
        versions |= _of_peer(_versions(str(bench.mergekit.with_name("python")), ["mergekit", "torch"]), "mergekit")
    if "sd-mecha" in peers:
        versions |= _of_peer(_versions(str(bench.sd_mecha), ["sd-mecha", "torch"]), "sd-mecha")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python benchmarks/compare.py " + " ".join(_without_paths(arguments)),
        "commit": _commit(),
        "machine": _machine(bench.scratch),
        "versions": versions,
    }


def provenance(command: str, scratch: Path, packages: Sequence[str]) -> str:
    """Return a sentence about where the figures of one script come from.

    Args:
        command: What was run, without paths of this machine.
        scratch: Where its files were.
        packages: Beside mergewise, whose versions matter.
    """
    machine, versions = _machine(scratch), _versions(sys.executable, ["mergewise", *packages])
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    commit = _commit()
    return (
        f"Measured on {datetime.now(UTC).date().isoformat()} by `{command}`: {machine['processor']}, "
        f"{machine['processors']} processors, {machine['memory'] / 2**30:.0f} GiB of memory, {machine['filesystem']}, "
        f"{machine['system']}; {said}{f', commit {commit}' if commit else ''}.\n"
    )


def save(folder: Path, name: str, row: Mapping[str, Any], runs: Mapping[str, Sequence[Run]]) -> Path:
    """Write a row: its description and its runs by contender."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {**row, "runs": {contender: [run.record() for run in found] for contender, found in runs.items()}}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def load(folder: Path) -> list[dict[str, Any]]:
    """Return every row in a folder, by name of its file."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _of_peer(versions: dict[str, str], peer: str) -> dict[str, str]:
    return {name if name == peer else f"{name} of {peer}": version for name, version in versions.items()}


def _versions(python: str, packages: Sequence[str]) -> dict[str, str]:
    asked = subprocess.run([python, "-c", _VERSIONS, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(asked.stdout)
    return found


def _without_paths(arguments: Sequence[str]) -> list[str]:
    """Leave out options whose values say where things are on one machine."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        name = argument.partition("=")[0]
        if skip:
            skip = False
        elif name in {"--scratch", "--results", "--mergewise", "--mergekit", "--sd-mecha"}:
            skip = "=" not in argument
        else:
            kept.append(argument)
    return kept


def _commit() -> str | None:
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or None


def _machine(scratch: Path) -> dict[str, Any]:
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    mounts = sorted((line.split()[1:3] for line in _lines("/proc/mounts")), key=lambda mount: -len(mount[0]))
    place = str(scratch.resolve())
    return {
        "processor": cpu or platform.processor(),
        "processors": len(os.sched_getaffinity(0)),
        "memory": memory,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "filesystem": next((kind for point, kind in mounts if Path(place).is_relative_to(point)), ""),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
