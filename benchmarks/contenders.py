"""What is measured against each other: mergewise, the peers in environments of their own, and the floor."""

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from checkpoints import write_family
from measure import CommandError, Contender
from recipes import Case, inputs, recipe

__all__ = [
    "MERGEKIT_OPTIONS",
    "OTHER_OPTIONS",
    "Bench",
    "Caches",
    "available_memory",
    "drop_page_cache",
    "parse_command",
    "warm_page_cache",
    "weight_files",
]

MERGEKIT_OPTIONS = ("--no-copy-tokenizer", "--no-write-model-card", "--lazy-unpickle", "--random-seed", "1", "--quiet")
"""A merge and nothing beside it; ``compare.py options`` measures others."""

OTHER_OPTIONS: dict[str, tuple[str, ...]] = {
    "as peers does": MERGEKIT_OPTIONS,
    "its defaults": (),
    "--low-cpu-memory": (*MERGEKIT_OPTIONS, "--low-cpu-memory"),
    "--async-write": (*MERGEKIT_OPTIONS, "--async-write"),
    "--num-threads": (*MERGEKIT_OPTIONS, "--num-threads", str(os.cpu_count())),
    "--clone-tensors": (*MERGEKIT_OPTIONS, "--clone-tensors"),
}

_FLOOR = """
set -e
out="$1"; first="$2"; shift 2
cat "$@" > /dev/null
cat "$first"/*.safetensors > "$out/model.safetensors"
sync "$out/model.safetensors"
"""


@dataclass(frozen=True)
class Caches:
    """Where mergewise keeps digests of inputs, and compiled kernels.

    Attributes:
        digests: ``MERGEWISE_CACHE``.
        kernels: ``MERGEWISE_KERNELS``.
    """

    digests: Path
    kernels: Path

    def environment(self) -> dict[str, str]:
        """Return the variables that say so."""
        return {"MERGEWISE_CACHE": str(self.digests), "MERGEWISE_KERNELS": str(self.kernels)}


@dataclass(frozen=True)
class Bench:
    """Where to measure what.

    Attributes:
        scratch: Folder for checkpoints, recipes and outputs, on the disk that is measured.
        mergewise: The command.
        mergekit: Its ``mergekit-yaml``.
        sd_mecha: The Python of its environment.
        dtype: Of the checkpoints.
    """

    scratch: Path
    mergewise: tuple[str, ...]
    mergekit: Path
    sd_mecha: Path
    dtype: str

    @property
    def caches(self) -> Caches:
        """Caches that are kept between runs."""
        return Caches(self.scratch / "cache", self.scratch / "kernels")

    def family(self, size: str, experts: int) -> list[Path]:
        """Return a base and experts, written if they are not there."""
        name = size if self.dtype == "bfloat16" else f"{size}-{self.dtype}"
        return write_family(self.scratch / name, size, experts, self.dtype)

    def methods(self) -> set[str]:
        """Return the methods that this mergewise has.

        Raises:
            CommandError: It cannot be asked.
        """
        asked = subprocess.run([*self.mergewise, "methods", "--json"], capture_output=True, text=True, check=False)
        if asked.returncode:
            raise CommandError(f"{' '.join(self.mergewise)} methods: expected a list, found: {asked.stderr.strip()}")
        return {method["name"] for method in json.loads(asked.stdout)}

    def run_mergewise(
        self,
        case: Case,
        family: Sequence[Path],
        name: str = "mergewise",
        options: Sequence[str] = (),
        caches: Caches | None = None,
        before: Callable[[], None] = os.sync,
    ) -> Contender:
        """Return a whole merge by mergewise."""
        out = self.out(name)
        command = [*self.mergewise, "merge", self._recipe(case, family), str(out), *options]
        return self._contender(name, command, out, family, before, (caches or self.caches).environment())

    def run_mergekit(
        self, case: Case, family: Sequence[Path], name: str = "mergekit", options: Sequence[str] = MERGEKIT_OPTIONS
    ) -> Contender:
        """Return a whole merge by mergekit."""
        out = self.out(name)
        command = [str(self.mergekit), self._recipe(case, family), str(out), *options]
        # an environment without a network: nothing is to be looked up
        return self._contender(name, command, out, family, os.sync, {"HF_HUB_OFFLINE": "1"})

    def run_sd_mecha(self, case: Case, family: Sequence[Path]) -> Contender:
        """Return a whole merge by sd-mecha's nearest method."""
        out = self.out("sd-mecha")
        script = Path(__file__).with_name("sd_mecha_merge.py")
        command = [str(self.sd_mecha), str(script), self._recipe(case, family), str(out)]
        return self._contender("sd-mecha", command, out, family, os.sync, {})

    def run_floor(
        self, case: Case, family: Sequence[Path], before: Callable[[], None] = os.sync, name: str = "floor"
    ) -> Contender:
        """Return the least that a merge must do: read every input file, write and sync one of their size."""
        out = self.out(name)
        read = inputs(case, family)
        # the bytes that are written come from an input, which the page cache holds by then
        command = ["sh", "-c", _FLOOR, "floor", str(out), str(read[0]), *map(str, weight_files(read))]

        def prepare() -> None:
            out.mkdir()
            before()

        return self._contender(name, command, out, family, prepare, {})

    def out(self, name: str) -> Path:
        """Return where a contender of that name writes."""
        return self.scratch / "out" / name.replace(" ", "-")

    def _recipe(self, case: Case, family: Sequence[Path]) -> str:
        folder = self.scratch / "recipes"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{case.method}-{family[0].parent.name}-{len(family) - 1}.yaml"
        path.write_text(yaml.safe_dump(recipe(case, family, self.dtype), sort_keys=False))
        return str(path)

    def _contender(
        self,
        name: str,
        command: list[str],
        out: Path,
        family: Sequence[Path],
        before: Callable[[], None],
        environment: dict[str, str],
    ) -> Contender:
        expected = sum(path.stat().st_size for path in weight_files(family[:1]))

        def prepare() -> None:
            shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(out.with_name(f".{out.name}.mergewise-partial"), ignore_errors=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            before()

        def check() -> None:
            found = sum(path.stat().st_size for path in weight_files([out]))
            if abs(found - expected) > 0.01 * expected + 100_000:
                raise CommandError(f"{name}: expected an output of about {expected} bytes, found {found}.")
            shutil.rmtree(out)

        return Contender(name, command, environment, prepare, check)


def weight_files(folders: Sequence[Path]) -> list[Path]:
    """Return the files that hold weights."""
    return [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]


def available_memory() -> float:
    """Return bytes that files and processes may take; endless where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def warm_page_cache(folders: Sequence[Path]) -> None:
    """Read files once, so that the next to read them finds them in memory."""
    block = bytearray(1 << 24)
    for path in weight_files(folders):
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(block):
                pass


def drop_page_cache() -> None:
    """Make the system forget all file contents.

    Raises:
        CommandError: Not allowed: it takes root.
    """
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError as error:
        raise CommandError(
            "/proc/sys/vm/drop_caches: cannot be written; cold runs take root, leave out --cold."
        ) from error


def parse_command(text: str | None) -> tuple[str, ...]:
    """Return a command in words; by default mergewise of this Python."""
    return tuple(shlex.split(text)) if text else (sys.executable, "-m", "mergewise")
