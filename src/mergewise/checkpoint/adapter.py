"""Low-rank adapters as PEFT saves them: factors by module, and tensors that replace those of the base."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint.adapter_config import ADAPTER_CONFIG, LoraConfig, read_lora_config, saving
from mergewise.checkpoint.dtypes import STORAGE_DTYPES, numpy_dtype
from mergewise.checkpoint.folder import open_checkpoint
from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.place import Place
from mergewise.checkpoint.source import Source
from mergewise.checkpoint.torch_bin import open_torch
from mergewise.errors import CheckpointError

__all__ = ["ADAPTER_BIN", "ADAPTER_PREFIX", "ADAPTER_WEIGHTS", "Adapter", "LowRank", "is_adapter", "open_adapter"]

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_BIN = "adapter_model.bin"

ADAPTER_PREFIX = "base_model.model."
"""Begins the names of tensors in an adapter."""

_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.(?P<leaf>weight|bias)$")
_EMBEDDING = re.compile(r"^(?P<module>.+)\.lora_embedding_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?$")
_SAVED = re.compile(r"\.modules_to_save(\.[^.]+(?=\.[^.]+$))?(?=\.)")
_FOREIGN = re.compile(r"\.(lora_magnitude_vector|trainable_tokens|token_adapter)\b")


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one module: s·BA to its weight, and s·b to its bias where there is one.

    Attributes:
        module: Name of the module in the model.
        a: The factor (rank, inputs); of a convolution (rank, inputs, height, width).
        b: The factor (outputs, rank); of a convolution (outputs, rank, 1, 1).
        bias: The bias of B, or ``None``.
        scale: s.
        embedding: Whether the module looks rows up, so that its weight is (inputs, outputs).
    """

    module: str
    a: TensorInfo
    b: TensorInfo
    bias: TensorInfo | None
    scale: float
    embedding: bool

    @property
    def rank(self) -> int:
        """Columns of B and rows of A."""
        return self.a.shape[0]

    @property
    def outputs(self) -> int:
        """Rows of B."""
        return self.b.shape[0]

    @property
    def inputs(self) -> int:
        """Columns of A, those of a convolution's window together."""
        return self.a.numel // self.rank


class Adapter:
    """An opened adapter: headers are read, factors only when asked for.

    Args:
        path: Its folder.
        config: How its factors are to be read.
        weights: The checkpoint that holds its tensors.

    Attributes:
        low_rank: What it adds, by module.
        saved: Tensors that replace those of the base, by their names there.

    Raises:
        CheckpointError: A tensor has no meaning in an adapter, or a factor lacks its counterpart or does not fit it.
    """

    def __init__(self, path: Place, config: LoraConfig, weights: Source) -> None:
        self.path = path
        self.config = config
        self.weights = weights
        self.saved: dict[str, TensorInfo] = {}
        factors: dict[str, dict[str, TensorInfo]] = {}
        for info in weights.tensors.values():
            name = info.name.removeprefix(ADAPTER_PREFIX)
            match = _FACTOR.match(name) or _EMBEDDING.match(name)
            if _FOREIGN.search(name):
                raise CheckpointError(
                    f"{path}: tensor '{info.name}' belongs to a kind of adapter that is not W + s·BA and cannot be "
                    "merged; merge it into its base with PEFT and use that as an expert."
                )
            if match:
                role = match["side"] + ("" if match.re is _EMBEDDING else match["leaf"])
                place = factors.setdefault(match["module"], {})
                if role in place:
                    raise CheckpointError(
                        f"{path}: '{place[role].name}' and '{info.name}' are factors of one module; expected the "
                        "tensors of one adapter."
                    )
                place[role] = info
            elif ".original_module." not in name:
                self.saved[_SAVED.sub("", name).replace(".base_layer.", ".")] = info
        self.low_rank: Mapping[str, LowRank] = {m: self._low_rank(m, found) for m, found in sorted(factors.items())}
        if not self.low_rank and not self.saved:
            raise CheckpointError(f"{path}: expected factors such as '{ADAPTER_PREFIX}….lora_A.weight', found none.")

    @property
    def files(self) -> tuple[Place, ...]:
        """The files that determine what it adds."""
        return (*self.weights.files, self.config.path)

    def saved_for(self, info: TensorInfo) -> list[str]:
        """Return the ``modules_to_save`` for which PEFT puts the module of a tensor in the place of the base's."""
        return saving(_SAVED.sub("", info.name), self.config.modules_to_save)

    def rows(self, info: TensorInfo, start: int, stop: int) -> NDArray[np.float64]:
        """Return rows of a factor, (stop - start, others) float64.

        Raises:
            CheckpointError: They cannot be read.
        """
        width = info.numel // info.shape[0]
        return self._values(info, start * width, (stop - start) * width).reshape(stop - start, width)

    def columns(self, info: TensorInfo, start: int, stop: int) -> NDArray[np.float64]:
        """Return columns of a factor, all but its first axis taken as one, (rows, stop - start) float64.

        Raises:
            CheckpointError: They cannot be read.
        """
        width = info.numel // info.shape[0]
        if (start, stop) == (0, width):
            return self.rows(info, 0, info.shape[0])
        found = [self._values(info, row * width + start, stop - start) for row in range(info.shape[0])]
        return np.stack(found)

    def _values(self, info: TensorInfo, start: int, count: int) -> NDArray[np.float64]:
        size = STORAGE_DTYPES[info.dtype].bits // 8
        raw = np.empty(count * size, np.uint8)
        self.weights.read_into(info, start * size, raw)
        with np.errstate(invalid="ignore"):  # of signalling NaN, which are reported where they are merged
            return raw.view(numpy_dtype(info.dtype)).astype(np.float64)

    def _low_rank(self, module: str, found: Mapping[str, TensorInfo]) -> LowRank:
        embedding = "A" in found or "B" in found
        a, b = (found.get(side if embedding else f"{side}weight") for side in "AB")
        if a is None or b is None:
            have, lack = ("A", "B") if b is None else ("B", "A")
            raise CheckpointError(f"{self.path}: module '{module}' has a factor {have} but no {lack}; save it again.")
        for info in found.values():
            if STORAGE_DTYPES[info.dtype].kind != "float":
                raise CheckpointError(
                    f"{self.path}: factor '{info.name}' is stored as {info.dtype}, expected F64, F32, F16 or BF16."
                )
        fits = (
            len(a.shape) >= 2 and len(b.shape) >= 2 and a.shape[0] == b.shape[1] and b.numel == b.shape[0] * b.shape[1]
        )
        bias = found.get("Bbias")
        if not fits or not a.numel or not b.numel or "Abias" in found or (bias and bias.shape != (b.shape[0],)):
            raise CheckpointError(
                f"{self.path}: the factors of '{module}' have shapes A {list(a.shape)} and B {list(b.shape)}, expected "
                "A (rank, inputs) and B (outputs, rank) of one rank."
            )
        expected = self.config.rank_of(module)
        if a.shape[0] != expected:
            raise CheckpointError(
                f"{self.path}: module '{module}' has rank {a.shape[0]}, but {ADAPTER_CONFIG} says {expected}; its "
                "scale would be wrong, so mend 'r' or 'rank_pattern'."
            )
        return LowRank(module, a, b, bias, self.config.scale_of(module), embedding)


def is_adapter(path: Place) -> bool:
    """Whether a place is the folder of an adapter rather than a model.

    Raises:
        CheckpointError: It is on a server that does not answer.
    """
    try:
        if not path.is_dir() or not (path / ADAPTER_CONFIG).is_file():
            return False
        return any((path / name).is_file() for name in (ADAPTER_WEIGHTS, ADAPTER_BIN))
    except (OSError, ValueError):
        return False


def open_adapter(path: Place) -> Adapter:
    """Open an adapter's folder.

    Raises:
        CheckpointError: It holds no adapter, a damaged one, or one of a kind that cannot be merged.
    """
    if not is_adapter(path):
        raise CheckpointError(
            f"{path}: expected an adapter, that is {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}, found none; check the path."
        )
    config = read_lora_config(path)
    file = path / ADAPTER_WEIGHTS
    weights = open_checkpoint(file) if file.is_file() else open_torch(path / ADAPTER_BIN, (path / ADAPTER_BIN,))
    return Adapter(path, config, weights)
