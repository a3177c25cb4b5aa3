"""What an adapter's ``adapter_config.json`` says, as far as it changes what the adapter adds to a weight."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergewise.checkpoint.folder import read_json
from mergewise.checkpoint.place import Place
from mergewise.errors import CheckpointError

__all__ = ["ADAPTER_CONFIG", "LoraConfig", "read_lora_config", "saving"]

ADAPTER_CONFIG = "adapter_config.json"

_REFUSED = {
    "use_dora": "DoRA, which rescales the columns of the merged weight",
    "use_qalora": "QALoRA, which pools its inputs",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA, which works on a part of the prompt only",
    "arrow_config": "Arrow routing, which chooses adapters by the input",
    "monteclora_config": "MonteCLoRA, which samples its weights",
    "kasa_config": "KaSA, which takes singular values out of the base",
    "layer_replication": "replicated layers, which no tensor of the base stands for",
    "target_parameters": "LoRA on parameters that are not layers",
    "trainable_token_indices": "single trained tokens",
}
"""Variants whose weights are not W + s·BA, by the key that turns them on."""

_HARMLESS_STARTS = {"gaussian", "eva", "orthogonal", "default"}  # others change the base that the adapter belongs to


@dataclass(frozen=True)
class LoraConfig:
    """How the factors of an adapter are to be read.

    Attributes:
        path: The file that says so.
        base: The base model that it names, if any.
        rank: Rank of modules without a pattern.
        alpha: Numerator of the scale of modules without a pattern.
        rank_pattern: Ranks by regular expression over the end of a module's name.
        alpha_pattern: Numerators likewise.
        rslora: Whether the scale is α/√r (arXiv 2312.03732) instead of α/r.
        fan_in_fan_out: Whether weights are stored as (in, out), as in the Conv1D of GPT-2.
        bias: Which biases are among its tensors, in PEFT's words.
        targets: Names of the modules that it changes; none where they are not all modules of such a name.
        modules_to_save: Ends of the names of modules that it brings whole.
        ties: Whether a head that the base ties follows an embedding that the adapter brings whole.
        task: What the model is for, in PEFT's words.
    """

    path: Place
    base: str | None
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    fan_in_fan_out: bool
    bias: str
    targets: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    ties: bool
    task: str | None

    def rank_of(self, module: str) -> int:
        """Return the rank that a module should have."""
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """Return s in W + s·BA."""
        alpha = self.alpha_pattern.get(_pattern(self.alpha_pattern, module), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_lora_config(folder: Place) -> LoraConfig:
    """Read the configuration of an adapter.

    Args:
        folder: The adapter.

    Raises:
        CheckpointError: It is damaged, or the adapter is of a kind that is not W + s·BA.
    """
    path = folder / ADAPTER_CONFIG
    content = read_json(path)
    kind = content.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: expected peft_type 'LORA', found {kind!r}; only LoRA adapters can be merged.")
    for key, words in _REFUSED.items():
        if content.get(key):
            raise CheckpointError(
                f"{path}: '{key}' makes this {words}; only adapters of the form W + s·BA can be merged, so merge it "
                "into its base with PEFT and use that as an expert."
            )
    start = content.get("init_lora_weights", True)
    if isinstance(start, str) and start not in _HARMLESS_STARTS:
        raise CheckpointError(
            f"{path}: 'init_lora_weights: {start}' changed the base that this adapter belongs to; save it with PEFT's "
            "'path_initial_model_for_weight_conversion', which turns it into an adapter of the original base."
        )
    base = content.get("base_model_name_or_path")
    return LoraConfig(
        path=path,
        base=base if isinstance(base, str) and base else None,
        rank=_rank(content.get("r", 8), path, "r"),
        alpha=_alpha(content.get("lora_alpha", 8), path, "lora_alpha"),
        rank_pattern={k: _rank(v, path, f"rank_pattern.{k}") for k, v in _mapping(content, "rank_pattern", path)},
        alpha_pattern={k: _alpha(v, path, f"alpha_pattern.{k}") for k, v in _mapping(content, "alpha_pattern", path)},
        rslora=bool(content.get("use_rslora")),
        fan_in_fan_out=bool(content.get("fan_in_fan_out")),
        bias=content["bias"] if content.get("bias") in ("all", "lora_only") else "none",
        targets=() if content.get("layers_to_transform") else _names(content.get("target_modules")),
        modules_to_save=_names(content.get("modules_to_save")),
        ties=content.get("ensure_weight_tying") is True,
        task=content["task_type"] if isinstance(content.get("task_type"), str) else None,
    )


def saving(tensor: str, names: Sequence[str]) -> list[str]:
    """Return those of ``modules_to_save`` for which PEFT saves a tensor: its module, or one around it, ends in them.

    Unlike ``target_modules`` they need not begin at a dot: 'norm' is 'input_layernorm' too.
    """
    parts = tensor.split(".")
    around = [".".join(parts[:stop]) for stop in range(1, len(parts))]
    return [name for name in names if any(module.endswith(name) for module in around)]


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    """Return the first pattern that matches the end of a module's name, at a dot; the name if none does."""
    return next((p for p in patterns if _at_end(p).match(module)), module)


def _at_end(pattern: str) -> re.Pattern[str]:
    """Return a pattern for names whose end, at a dot, matches the given one.

    Raises:
        re.error: That is no regular expression, or has flags, which stand at the start of an expression only.
    """
    return re.compile(rf"(.*\.)?({pattern})$")


def _names(value: Any) -> tuple[str, ...]:
    """Return a list of names; nothing for a regular expression or other forms."""
    return tuple(value) if isinstance(value, list) and all(isinstance(name, str) for name in value) else ()


def _mapping(content: Mapping[str, Any], key: str, path: Place) -> list[tuple[str, Any]]:
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected '{key}' to map patterns to numbers, found {found!r}.")
    for pattern in found:
        try:
            _at_end(pattern)
        except re.error as error:
            raise CheckpointError(f"{path}: '{pattern}' in '{key}' is no regular expression: {error}.") from None
    return list(found.items())


def _rank(value: Any, path: Place, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{path}: expected '{key}' to be a positive integer, found {value!r}.")
    return value


def _alpha(value: Any, path: Place, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"{path}: expected '{key}' to be a finite number, found {value!r}.")
    return float(value)
