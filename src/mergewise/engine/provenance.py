"""Where a merged checkpoint comes from: hashes of its inputs, its recipe, and a model card that says both."""

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mergewise._version import __version__
from mergewise.cache import cache_folder
from mergewise.checkpoint import (
    ADAPTER_CONFIG,
    FLOAT_NAMES,
    Place,
    Source,
    file_facts,
    file_identity,
    file_size,
    hub_reference,
    sha256_of,
    text_bytes,
)
from mergewise.engine.jobs import Plan
from mergewise.errors import CheckpointError
from mergewise.method import find_method
from mergewise.recipe import Recipe

__all__ = [
    "PROVENANCE_NAME",
    "RECIPE_NAME",
    "InputRecord",
    "companion_digests",
    "companion_files",
    "describe",
    "digest_of",
    "file_digests",
    "input_identities",
    "keep_digests",
    "merged_config",
    "method_revision",
    "provenance_texts",
    "recipe_text",
    "record_inputs",
    "require_unchanged",
    "small_texts",
    "unhashed_bytes",
    "untaken_folders",
]

RECIPE_NAME = "mergewise_recipe.yaml"
PROVENANCE_NAME = "mergewise.json"

_WEIGHTS = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".npz", ".pkl", ".ot",
}  # fmt: skip
_RECORDS = {"README.md", RECIPE_NAME, PROVENANCE_NAME, "mergekit_config.yml", "hf_quant_config.json"}
"""What a model says of the merge, here or by mergekit, or of the quantisation that made it: not true of its merges."""

_LARGEST_COMPANION = 256 << 20
_DIGEST = re.compile(rb"[0-9a-f]{64}")


InputRecord = Mapping[str, int | str]
"""What is recorded of an input file: its SHA-256, or what a server tells of a remote file and its version."""


def input_identities(sources: Sequence[Source]) -> dict[str, tuple[int | str, ...]]:
    """Return what stays equal for as long as nobody touches it of every file that tensors depend on, by its place.

    Raises:
        CheckpointError: A file is gone.
    """
    return {str(place): _identity(place) for place in _input_files(sources)}


def require_unchanged(sources: Sequence[Source], identities: dict[str, tuple[int | str, ...]]) -> None:
    """Require that no input was touched since its identity was taken.

    Raises:
        CheckpointError: A file is gone, or is not the one that was read.
    """
    found = input_identities(sources)
    for path in {**identities, **found}:
        if found.get(path) != identities.get(path):
            raise CheckpointError(f"{path}: it changed while it was being merged; run again when it is at rest.")


def record_inputs(sources: Sequence[Source], stop: threading.Event | None = None) -> dict[str, InputRecord]:
    """Return what is recorded of every file that tensors depend on, by its place.

    A local file is hashed once: its digest is kept in the cache folder, by path and identity. A remote file is not read
    for this: its server's word stands for it.

    Args:
        sources: What is read.
        stop: Once it is set, nobody needs the record any more.

    Raises:
        CheckpointError: A file cannot be read, or the record is not needed any more.
    """
    return {str(place): file_facts(place) or {"sha256": digest_of(place, stop)} for place in _input_files(sources)}


def _input_files(sources: Sequence[Source]) -> list[Place]:
    """Return the files that hold input tensors, and each ``config.json`` beside them, which says how to read these."""
    files = {str(place): place for source in sources for place in source.files}
    configs = {str(config): config for place in files.values() if (config := place.parent / "config.json").is_file()}
    return [*files.values(), *configs.values()]


def _identity(place: Place) -> tuple[int | str, ...]:
    try:
        return file_identity(place)
    except OSError as error:
        raise CheckpointError(f"{place}: cannot be read: {error.strerror}.") from error


def digest_of(place: Place, stop: threading.Event | None = None) -> str:
    """Return the SHA-256 of a local file, which is read only if nobody knows it; arguments as of ``record_inputs``.

    Raises:
        CheckpointError: It cannot be read, or is not needed any more.
    """
    kept = _kept(place)
    known = _recall(kept)
    if known is None:
        known = sha256_of(Path(str(place)), stop)
        _remember(kept, known)
    return known


def unhashed_bytes(sources: Sequence[Source]) -> int:
    """Return the bytes of the input files that a merge will hash, since their digests are not in the cache.

    Raises:
        CheckpointError: A file is gone.
    """
    local = [place for place in _input_files(sources) if isinstance(place, Path)]
    return sum(file_size(place) for place in local if _recall(_kept(place)) is None)


def keep_digests(folder: Path, digests: Mapping[str, str]) -> None:
    """Keep the SHA-256 of files just written, by name, so that they are not hashed again when they are read.

    Raises:
        CheckpointError: A file is gone.
    """
    for name, digest in digests.items():
        _remember(_kept(folder / name), digest)


def _kept(place: Place) -> Path:
    """Return where the digest of a file, as it is now, is kept."""
    key = hashlib.sha256(json.dumps([os.path.realpath(str(place)), _identity(place)]).encode()).hexdigest()
    return cache_folder() / "sha256" / key


def _recall(path: Path) -> str | None:
    """Return a digest that was kept; ``None`` if there is none, or it was damaged."""
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    return kept.decode("ascii") if _DIGEST.fullmatch(kept) else None


def _remember(path: Path, digest: str) -> None:
    """Keep a digest for the next merge; a cache that cannot be written is no fault."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(digest, "ascii")
        beside.replace(path)


def companion_files(plan: Plan) -> list[Place]:
    """Return the files that the result takes over beside its weights: configuration, tokenizer and so on."""
    left_out = plan.small_files.left_out
    return [*(path for path in _companions(plan.template) if path.name not in left_out), *plan.small_files.copies]


def _companions(template: Source) -> list[Place]:
    folder = template.folder
    loose_file = any(str(file) == template.location for file in template.files)
    if folder is None or (loose_file and not (folder / "config.json").is_file()):
        return []
    named = [
        path
        for path in folder.iterdir()
        if path.suffix not in _WEIGHTS
        and not path.name.startswith(".")
        and not path.name.endswith(".index.json")
        and path.name not in _RECORDS
    ]
    found = [path for path in named if path.is_file() and file_size(path) <= _LARGEST_COMPANION]
    return sorted(found, key=lambda path: path.name)


def untaken_folders(template: Source) -> list[str]:
    """Return the folders of modules of sentence-transformers beside a model, as its ``modules.json`` names them."""
    path = None if template.folder is None else template.folder / "modules.json"
    try:
        found = json.loads(path.read_text("utf-8")) if path is not None and path.is_file() else []
    except (OSError, ValueError, RecursionError):
        return []
    modules = [module for module in found if isinstance(module, dict)] if isinstance(found, list) else []
    return [str(module["path"]) for module in modules if module.get("path")]


def provenance_texts(
    plan: Plan,
    records: Mapping[str, InputRecord],
    device: Mapping[str, str] | None = None,
    beside: Mapping[str, str] | None = None,
    stages: Mapping[str, str] | None = None,
    weights: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the small files that tell a merged checkpoint's story, by name.

    Args:
        plan: The merge.
        records: What is recorded of every input file, by its place.
        device: What is recorded of the device that merged; ``None`` for the kernels.
        beside: SHA-256 of the other small files beside the weights, by name.
        stages: Digests of the stages that it builds on, by name.
        weights: SHA-256 of the files of weights, by name, of a stage: the next one will read them.
    """
    texts = small_texts(plan)
    revision = method_revision(plan.recipe)
    record = {
        "mergewise": __version__,
        "recipe": plan.recipe.canonical(),
        **({"method_revision": revision} if revision else {}),
        **({"notes": list(plan.notes)} if plan.notes else {}),
        **({"revisions": dict(plan.revisions)} if plan.revisions else {}),
        "inputs": [{"file": path, **record} for path, record in records.items()],
        **({"stages": dict(stages)} if stages else {}),
        "tensors": len(plan.outputs),
        "parameters": plan.parameters,
        **({"device": dict(device)} if device else {}),
        "files": file_digests(texts, beside or {}),
        **({"weights": dict(weights)} if weights else {}),
    }
    card = _card(plan, texts[RECIPE_NAME], records)  # people edit it, so it is not recorded
    return texts | {PROVENANCE_NAME: json.dumps(record, indent=2, ensure_ascii=False) + "\n", "README.md": card}


def small_texts(plan: Plan) -> dict[str, str]:
    """Return the small files of a result that are written, rather than taken over, by name; without record and card."""
    texts = {RECIPE_NAME: recipe_text(plan.recipe.canonical())}
    texts |= plan.small_files.texts
    config = merged_config(plan)
    if plan.adapter is not None:
        texts[ADAPTER_CONFIG] = json.dumps(plan.adapter.config, indent=2, ensure_ascii=False) + "\n"
    elif config:
        texts["config.json"] = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    return texts


def recipe_text(canonical: Mapping[str, Any]) -> str:
    """Return a recipe as it stands beside a result."""
    return yaml.safe_dump(dict(canonical), sort_keys=False, allow_unicode=True)


def file_digests(texts: Mapping[str, str], copied: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of the small files of a result by name, given what is written and the digests of the rest."""
    written = {name: hashlib.sha256(text_bytes(text)).hexdigest() for name, text in texts.items()}
    return dict(sorted({**copied, **written}.items()))


def companion_digests(plan: Plan) -> dict[str, str]:
    """Return the SHA-256 by name of the files that the result takes over beside its weights, as they are now.

    Raises:
        CheckpointError: One of them cannot be read.
    """
    return {
        file.name: sha256_of(file) if isinstance(file, Path) else hashlib.sha256(file.read_bytes()).hexdigest()
        for file in companion_files(plan)
    }


def method_revision(recipe: Recipe) -> str:
    """Return what tells versions of a method apart that does not come with this package; empty for others."""
    return find_method(recipe.method).revision


def merged_config(plan: Plan) -> dict[str, Any]:
    """Return the template's configuration, with the dtype and the tokens that the result has."""
    config = {**plan.template.config(), **plan.small_files.config}
    names = {name: everyday for everyday, name in FLOAT_NAMES.items()}
    dtypes = {job.output.dtype for job in plan.jobs if job.output.dtype in names}
    if config and plan.recipe.result_dtype and len(dtypes) == 1:
        key = "dtype" if "dtype" in config else "torch_dtype"
        config[key] = names[dtypes.pop()]
    return config


def _card(plan: Plan, recipe: str, records: Mapping[str, InputRecord]) -> str:
    """Return a model card in the form that model hubs read."""
    all_hashed = all(record.keys() == {"sha256"} for record in records.values())
    models = dict.fromkeys([plan.recipe.base, *plan.recipe.models])
    front = {
        "base_model": [_on_the_hub(model) for model in models if model],
        "library_name": "peft" if plan.adapter else "transformers",
        "tags": ["mergewise", "merge"],
    }
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(), "---", "",
        f"# Merge of {len(plan.recipe.merged_models)} models with {plan.recipe.method}", "",
        f"Made with mergewise {__version__} from this recipe:", "", "```yaml", recipe.rstrip(), "```", "",
        *([*plan.notes, ""] if plan.notes else []),
        f"| input file | {'SHA-256' if all_hashed else 'version'} |", "|---|---|",
        *(f"| `{_short(path)}` | `{describe(record)}` |" for path, record in records.items()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _on_the_hub(model: str) -> str:
    """Return what the Hub calls a model, without revision; what is not on the Hub stays as it is."""
    hub = hub_reference(model)
    return hub.repository if hub else model


def describe(record: InputRecord) -> str:
    """Return what tells an input file's version best, as text: its SHA-256, or else all that its server says."""
    return str(record["sha256"]) if "sha256" in record else ", ".join(f"{word} {of}" for word, of in record.items())


def _short(path: str) -> str:
    """Return folder and file name: enough to tell inputs apart, without the machine they were on; URLs are whole."""
    if "://" in path:
        return path
    return os.path.join(*Path(path).parts[-2:])  # noqa: PTH118 - parts of a path, not a path to open
