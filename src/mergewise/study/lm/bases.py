"""Base models: folders, GGUF files, and models of the Hub."""

import hashlib
import math
import os
import shutil
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path

from mergewise.checkpoint import gguf, open_source
from mergewise.errors import CheckpointError
from mergewise.study.cells import digest
from mergewise.study.errors import StudyError
from mergewise.study.family import Base, Progress, Training
from mergewise.study.lm.options import BaseOptions

__all__ = ["catalogued", "conversion_seconds", "fetched", "from_gguf", "is_hub_name", "local_path"]

_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja")
_KEPT = ("config.json", "generation_config.json", "model.safetensors.index.json")


def local_path(path: str) -> Path | None:
    """Return the folder or file that a base names, or None for one of the Hub."""
    found = _place(path)
    return found if found.exists() else None


def _place(path: str) -> Path:
    return Path(path).expanduser().absolute()


def catalogued(name: str, options: BaseOptions, rank: int | None = None) -> Base:
    """Return a base as the catalogue has it, from headers alone.

    Args:
        name: of the base.
        options: where it is, and what the spec calls it.
        rank: of the adapters that its experts are; None for whole models.

    Raises:
        StudyError: it is not on this machine and its size is not given, or it is no checkpoint.
    """
    where = f"family.bases.{name}"
    count = options.parameters
    if count is None:
        path = local_path(options.path)
        if path is None:
            raise StudyError(
                f"{where}: {options.path} is not on this machine, where it would be {_place(options.path)}; give its "
                "number of 'parameters' if it is on the Hub, or an existing path."
            )
        try:
            source = open_source(str(path))
        except CheckpointError as fault:
            raise StudyError(f"{where}: {fault}") from fault
        count = sum(math.prod(tensor.shape) for tensor in source.tensors.values())
    parameters = int(count)
    trained = None if rank is None else min(4 * parameters, 4 * _adapter(parameters, rank))
    return Base(name, options.quality, options.size or _label(parameters), parameters, 4 * parameters, trained)


def _adapter(parameters: int, rank: int) -> int:
    """Estimate the parameters of an adapter of all linear layers.

    A transformer is about as wide as two cube roots of its parameters (3,800 at 7 B, where Llama has 4,096), and an
    adapter of a square matrix of width w has the share 2 rank / w of its parameters.
    """
    width = 2 * math.cbrt(parameters)
    return round(parameters * 2 * rank / width)


def _label(parameters: int) -> str:
    """Return 135M for 134,515,008."""
    for unit, factor in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= factor:
            return f"{parameters / factor:.3g}{unit}"
    return str(parameters)


def fetched(path: str, *, offline: bool, progress: Progress) -> Path:
    """Return the folder of a model, from the Hub or its cache if it is not a path.

    Raises:
        StudyError: it is neither here nor to be had.
    """
    found = local_path(path)
    if found is not None:
        return found
    if not is_hub_name(path):
        raise StudyError(f"Expected a checkpoint at {_place(path)}, or organisation/name of the Hub. Found neither.")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import

    progress(f"looking for {path}")
    repository, _, revision = path.partition("@")
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "0") not in {"", "0"}
    try:
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=list(_FILES), local_files_only=offline
            )
        )
    except Exception as fault:  # whatever networks and the Hub answer
        reason = " ".join(str(fault).split())[:160]
        advice = (
            "no other machine is asked, so fetch it once with a network"
            if offline
            else "check the name and the network"
        )
        raise StudyError(f"The model {path} cannot be had ({reason}); {advice}, or name a folder.") from fault


def is_hub_name(path: str) -> bool:
    """Say whether a text can be organisation/name@revision of the Hub."""
    repository, _, _ = path.partition("@")
    return repository.count("/") == 1 and not repository.startswith((".", "/", "~"))


def from_gguf(name: str, path: Path) -> Training:
    """Return how a GGUF file becomes a checkpoint folder with float32 weights and the tokenizer of its metadata."""
    return Training(
        name=name,
        kind="base",
        inputs={"gguf": _sha256(path, path.stat().st_mtime_ns), "code": _reader_code()},
        needs=(),
        make=partial(_convert, path=path),
        seconds=conversion_seconds(str(path)),
    )


def conversion_seconds(path: str) -> float:
    """Estimate how long a base takes to become a checkpoint, if it is a GGUF file of this machine; else nothing."""
    found = local_path(path)
    return found.stat().st_size / 5e6 if found is not None and found.is_file() else 0.0


@lru_cache(maxsize=1)
def _reader_code() -> str:
    """Return the digest of the code that reads GGUF files, with the versions of the libraries that do."""
    libraries = ("gguf", "tokenizers", "transformers")
    sources = sorted(Path(gguf.__file__).parent.glob("*.py"))
    return digest([*(f"{name} {version(name)}".encode() for name in libraries), *map(Path.read_bytes, sources)])


@lru_cache(maxsize=8)
def _sha256(path: Path, changed: int) -> str:  # noqa: ARG001 - a changed file is read again
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(folder: Path, needs: tuple[Path, ...], *, path: Path) -> None:  # noqa: ARG001 - it needs none
    """Write a GGUF file as a checkpoint of transformers."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    import mergewise  # noqa: PLC0415 - the public functions import this package's parts

    merged = folder / "merged"
    mergewise.merge(mergewise.Recipe(method="passthrough", experts=[str(path)], dtype="float32"), merged)
    for file in sorted(merged.iterdir()):
        if file.suffix == ".safetensors" or file.name in _KEPT:
            file.rename(folder / file.name)
    shutil.rmtree(merged)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
