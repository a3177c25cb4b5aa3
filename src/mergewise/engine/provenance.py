"""Where a merged checkpoint comes from: hashes of its inputs, its recipe, and a model card that says both."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mergewise._version import __version__
from mergewise.cache import cache_folder
from mergewise.checkpoint import ADAPTER_CONFIG, FLOAT_NAMES, Source, file_identity
from mergewise.engine.plan import Plan
from mergewise.errors import CheckpointError

__all__ = [
    "PROVENANCE_NAME",
    "RECIPE_NAME",
    "companion_files",
    "hash_inputs",
    "input_identities",
    "merged_config",
    "provenance_texts",
    "require_unchanged",
]

RECIPE_NAME = "mergewise_recipe.yaml"
PROVENANCE_NAME = "mergewise.json"

_WEIGHTS = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".npz", ".pkl", ".ot",
}  # fmt: skip
_LARGEST_COMPANION = 256 << 20


def input_identities(sources: Sequence[Source]) -> dict[str, tuple[int, ...]]:
    """Return size, inode and times of every file that holds input tensors, by path.

    Raises:
        CheckpointError: A file is gone.
    """
    identities: dict[str, tuple[int, ...]] = {}
    for path in dict.fromkeys(path for source in sources for path in source.files):
        try:
            identities[str(path)] = file_identity(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error
    return identities


def require_unchanged(sources: Sequence[Source], identities: dict[str, tuple[int, ...]]) -> None:
    """Require that no input was touched since its identity was taken.

    Raises:
        CheckpointError: A file is gone, or is not the one that was read.
    """
    for path, identity in input_identities(sources).items():
        if identity != identities[path]:
            raise CheckpointError(f"{path}: it changed while it was being merged; run again when it is at rest.")


def hash_inputs(sources: Sequence[Source]) -> dict[str, str]:
    """Return the SHA-256 of every file that holds input tensors, by path.

    A file is hashed once: its digest is kept in the cache folder, by path and identity.

    Raises:
        CheckpointError: A file cannot be read.
    """
    hashes: dict[str, str] = {}
    for name, identity in input_identities(sources).items():
        key = hashlib.sha256(json.dumps([os.path.realpath(name), identity]).encode()).hexdigest()
        known = cache_folder() / "sha256" / key
        try:
            hashes[name] = known.read_text("ascii")
        except OSError:
            hashes[name] = _hash(Path(name))
            _remember(known, hashes[name])
    return hashes


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error


def _remember(path: Path, digest: str) -> None:
    """Keep a digest for the next merge; a cache that cannot be written is no fault."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(digest, "ascii")
        beside.replace(path)


def companion_files(plan: Plan) -> list[Path]:
    """Return the files that the result takes over beside its weights: configuration, tokenizer and so on."""
    left_out = plan.small_files.left_out
    return [*(path for path in _companions(plan.template) if path.name not in left_out), *plan.small_files.copies]


def _companions(template: Source) -> list[Path]:
    loose_file = Path(template.location).is_file()
    if template.folder is None or (loose_file and not (template.folder / "config.json").is_file()):
        return []
    return sorted(
        path
        for path in template.folder.iterdir()
        if path.is_file()
        and path.suffix not in _WEIGHTS
        and not path.name.startswith(".")
        and not path.name.endswith(".index.json")
        and path.name not in {"README.md", RECIPE_NAME, PROVENANCE_NAME}
        and path.stat().st_size <= _LARGEST_COMPANION
    )


def provenance_texts(plan: Plan, hashes: dict[str, str]) -> dict[str, str]:
    """Return the small files that tell a merged checkpoint's story, by name.

    Args:
        plan: The merge.
        hashes: SHA-256 of every input file, by path.
    """
    recipe = yaml.safe_dump(plan.recipe.canonical(), sort_keys=False, allow_unicode=True)
    record = {
        "mergewise": __version__,
        "recipe": plan.recipe.canonical(),
        "inputs": [{"file": path, "sha256": digest} for path, digest in hashes.items()],
        "tensors": len(plan.outputs),
        "parameters": plan.parameters,
    }
    texts = {
        RECIPE_NAME: recipe,
        PROVENANCE_NAME: json.dumps(record, indent=2, ensure_ascii=False) + "\n",
        "README.md": _card(plan, recipe, hashes),
        **plan.small_files.texts,
    }
    config = merged_config(plan)
    if plan.adapter is not None:
        texts[ADAPTER_CONFIG] = json.dumps(plan.adapter.config, indent=2, ensure_ascii=False) + "\n"
    elif config:
        texts["config.json"] = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    return texts


def merged_config(plan: Plan) -> dict[str, Any]:
    """Return the template's configuration, with the dtype that the result has."""
    config = plan.template.config()
    names = {name: everyday for everyday, name in FLOAT_NAMES.items()}
    dtypes = {job.output.dtype for job in plan.jobs if job.output.dtype in names}
    if config and plan.recipe.result_dtype and len(dtypes) == 1:
        key = "dtype" if "dtype" in config else "torch_dtype"
        config[key] = names[dtypes.pop()]
    return config


def _card(plan: Plan, recipe: str, hashes: dict[str, str]) -> str:
    """Return a model card in the form that model hubs read."""
    models = dict.fromkeys([plan.recipe.base, *plan.recipe.models])
    front = {
        "base_model": [model for model in models if model],
        "library_name": "peft" if plan.adapter else "transformers",
        "tags": ["mergewise", "merge"],
    }
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(), "---", "",
        f"# Merge of {len(plan.recipe.merged_models)} models with {plan.recipe.method}", "",
        f"Made with mergewise {__version__} from this recipe:", "", "```yaml", recipe.rstrip(), "```", "",
        "| input file | SHA-256 |", "|---|---|",
        *(f"| `{_short(path)}` | `{digest}` |" for path, digest in hashes.items()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _short(path: str) -> str:
    """Return folder and file name: enough to tell inputs apart, without the machine they were on."""
    return os.path.join(*Path(path).parts[-2:])  # noqa: PTH118 - parts of a path, not a path to open
