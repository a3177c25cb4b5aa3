"""A base with an adapter, shown as the model that they make together; the merged weights are never stored."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint.adapter import Adapter, LowRank
from mergewise.checkpoint.aligned import AlignedCheckpoint
from mergewise.checkpoint.dtypes import STORAGE_DTYPES
from mergewise.checkpoint.fp8 import DequantisedCheckpoint
from mergewise.checkpoint.gathered import GatheredCheckpoint
from mergewise.checkpoint.gguf import GgufCheckpoint
from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.place import Place
from mergewise.checkpoint.source import Source, Writable
from mergewise.checkpoint.tokens import is_head, tied_head, untied, with_tensors
from mergewise.checkpoint.torch_bin import TORCH_BYTES, TorchCheckpoint
from mergewise.checkpoint.wrapped import WrappedCheckpoint
from mergewise.errors import CheckpointError, did_you_mean

__all__ = [
    "SCRATCH_BYTES",
    "AdaptedCheckpoint",
    "natural_dtype",
    "places",
    "resident_bytes",
    "scratch_bytes",
    "stored_bytes",
    "tokenizer_folder",
]

SCRATCH_BYTES = 16 << 20
"""Working memory of one read: a run of the base, and as much of either factor as it needs, in float64; or a run of
codes, what decoding makes of it, and where its scales are."""

_RUN_ELEMENTS = 1 << 18


class AdaptedCheckpoint(WrappedCheckpoint):
    """A source over a base and an adapter: W + s·BA, computed for the bytes that are asked for.

    Weights that the adapter changes are shown in a wider dtype than the base's – float32 over half precision, float64
    over float32 – so that s·BA, which is small, is not rounded away against W. Each element is summed over the rank in
    order, in float64, so that the bytes do not depend on where a read begins or ends. All other tensors are the base's
    own bytes, or the adapter's where it brings whole tensors (``modules_to_save``).

    Args:
        own: The base.
        adapter: The adapter.
        location: What messages call the two.

    Attributes:
        weights: For every module of the adapter, the weight that it changes.
        saved: Tensors that the adapter brings whole, by their names in the base.
        kept_heads: The head that stays the base's embedding where the adapter brings another: PEFT replaces the module
            of the embedding alone, so that a tied head does not follow.

    Raises:
        CheckpointError: The adapter does not fit the base.
    """

    def __init__(self, own: Source, adapter: Adapter, location: str) -> None:
        super().__init__(own)
        self.costly = True
        self._location = location
        self.adapter = adapter
        self._changed: dict[str, tuple[LowRank, bool]] = {}
        self._biases: dict[str, LowRank] = {}
        found = places([*adapter.low_rank, *_modules(adapter.saved)], own.tensors)
        self.saved: dict[str, TensorInfo] = {}
        for name, info in adapter.saved.items():
            module, _, leaf = name.rpartition(".")
            self.saved[f"{found[module]}.{leaf}" if module else name] = info
        under = {name: (own, info) for name, info in own.tensors.items()}
        under |= {name: (adapter.weights, info) for name, info in self.saved.items()}
        self.weights = {module: f"{found[module]}.weight" for module in adapter.low_rank}
        self.kept_heads = self._kept_heads()
        under |= {head: (own, own.tensors[embedding]) for head, embedding in self.kept_heads.items()}
        self._under = AlignedCheckpoint(own, under)  # what the factors are added to
        self.tensors = dict(self._under.tensors)
        for module, low_rank in adapter.low_rank.items():
            info = self._target(self.weights[module], low_rank)
            self._changed[info.name] = (low_rank, low_rank.embedding)
            self.tensors[info.name] = _widened(info)
            if low_rank.bias is not None:
                info = self._target(f"{found[module]}.bias", low_rank)
                if info.shape != low_rank.bias.shape:
                    raise self._misfit(info, low_rank.bias.shape, low_rank)
                self._biases[info.name] = low_rank
                self.tensors[info.name] = _widened(info)
        self._orient()

    @property
    def location(self) -> str:
        """Where the adapter is."""
        return self._location

    @property
    def files(self) -> tuple[Place, ...]:
        """The files of the base, and those of the adapter."""
        return (*self.own.files, *self.adapter.files)

    def config(self) -> dict[str, Any]:
        """Return the base's configuration, with the vocabulary of an embedding and the head that the adapter brings."""
        config = with_tensors(self.own.config(), self.own.tensors, self.saved, [*self.saved, *self._changed])
        return untied(config) if self.kept_heads else config

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on, a multiple of an element's.

        Raises:
            CheckpointError: The base or the adapter cannot be read.
        """
        if tensor.name in self._changed or tensor.name in self._biases:
            info = self.tensors[tensor.name]
            out = np.frombuffer(buffer, np.uint8)
            width = STORAGE_DTYPES[info.dtype].bits // 8
            for start in range(0, out.size, _RUN_ELEMENTS * width):
                self._read_run(info.name, (offset + start) // width, out[start : start + _RUN_ELEMENTS * width])
        else:
            self._under.read_into(tensor, offset, buffer)

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Announce a read of the base, as it is stored; the factors are small."""
        stored = self._under.tensors[tensor.name]
        shown, own = (STORAGE_DTYPES[info.dtype].bits for info in (self.tensors[tensor.name], stored))
        self._under.will_read(stored, offset * own // shown, nbytes * own // shown)

    @property
    def products(self) -> int:
        """Multiplications that reading it whole takes."""
        return sum(self.tensors[name].numel * low_rank.rank for name, (low_rank, _) in self._changed.items())

    def read_bytes(self, name: str) -> int:
        """Return the bytes that reading a tensor takes from the files of the base and of the adapter."""
        factors = self._changed[name][0] if name in self._changed else None
        return stored_bytes(self._under, name) + (factors.a.nbytes + factors.b.nbytes if factors else 0)

    def _kept_heads(self) -> dict[str, str]:
        """Return the head that an embedding, which the adapter brings whole, leaves as it is, and its name there."""
        tied = tied_head(self.own.config(), self.own.tensors)
        if tied is None or self.adapter.config.ties or any(map(is_head, self.saved)):
            return {}
        _, embedding = tied
        brought = self.saved.get(embedding)
        if brought is None or brought.shape != self.own.tensors[embedding].shape:  # of another vocabulary, no head is
            return {}
        trained = embedding in self.weights.values()  # then what is brought is PEFT's copy of the base's
        return {} if trained or not self.adapter.saved_for(brought) else dict([tied])

    def _read_run(self, name: str, first: int, out: NDArray[np.uint8]) -> None:
        """Fill a buffer with the elements of a changed tensor from one on."""
        from mergewise.kernels import add_low_rank  # noqa: PLC0415
        from mergewise.kernels.constants import CODES  # noqa: PLC0415

        stored, shown = self._under.tensors[name], self.tensors[name]
        width = STORAGE_DTYPES[stored.dtype].bits // 8
        count = out.size * 8 // STORAGE_DTYPES[shown.dtype].bits
        raw = np.empty(-(-count * width // 8) * 8, np.uint8)
        self._under.read_into(stored, first * width, raw[: count * width])
        whole = np.empty(-(-out.size // 8) * 8, np.uint8) if out.size % 8 or not out.flags.c_contiguous else out
        if name in self._biases:
            low_rank, transposed, columns = self._biases[name], False, max(1, stored.numel)
            rows, rank = (0, 1), 1
        else:
            (low_rank, transposed), columns = self._changed[name], stored.numel // stored.shape[0]
            rows, rank = (first // columns, -(-(first + count) // columns)), low_rank.rank
        left = self._left(name, low_rank, *rows, transposed=transposed)
        step = max(1, _RUN_ELEMENTS // rank)
        for strip in range(0, columns, step):
            right = self._right(name, low_rank, strip, min(strip + step, columns), transposed=transposed)
            add_low_rank(
                raw, CODES[stored.dtype], left, right, strip, columns, first % columns, count, whole, CODES[shown.dtype]
            )
        if whole is not out:
            out[:] = whole[: out.size]

    def _left(self, name: str, low_rank: LowRank, start: int, stop: int, *, transposed: bool) -> NDArray[np.float64]:
        """Return rows of the factor that is multiplied from the left, scaled, (rows, rank)."""
        if name in self._biases:
            return np.full((1, 1), low_rank.scale)
        read = self.adapter
        left = read.columns(low_rank.a, start, stop).T if transposed else read.rows(low_rank.b, start, stop)
        return np.ascontiguousarray(left * low_rank.scale)

    def _right(self, name: str, low_rank: LowRank, start: int, stop: int, *, transposed: bool) -> NDArray[np.float64]:
        """Return columns of the factor that is multiplied from the right, (rank, columns)."""
        read = self.adapter
        if name in self._biases:
            assert low_rank.bias is not None
            return np.ascontiguousarray(read.rows(low_rank.bias, start, stop).T)
        right = read.rows(low_rank.b, start, stop).T if transposed else read.columns(low_rank.a, start, stop)
        return np.ascontiguousarray(right)

    def _target(self, name: str, low_rank: LowRank) -> TensorInfo:
        info = self._under.tensors.get(name)
        if info is None:
            raise CheckpointError(
                f"{self.location}: expected tensor '{name}' of the base, which module '{low_rank.module}' of the "
                f"adapter changes, but {self.own.location} has none.{did_you_mean(name, self._under.tensors)}"
            )
        if STORAGE_DTYPES[info.dtype].kind != "float":
            raise CheckpointError(
                f"{self.location}: the adapter changes '{name}', which {self.own.location} stores as {info.dtype}; "
                "expected floating weights, so take a base that is not quantised."
            )
        return info

    def _orient(self) -> None:
        """Find out which weights are stored as (inputs, outputs): the shape says so, or else the configuration."""
        stated = self.adapter.config.fan_in_fan_out
        square, contradicted = "", False
        for name, (low_rank, embedding) in self._changed.items():
            info = self._under.tensors[name]
            straight = info.shape == (low_rank.outputs, *low_rank.a.shape[1:])
            turned = info.shape == (low_rank.inputs, low_rank.outputs) and len(low_rank.a.shape) == 2
            if embedding and turned:
                continue
            if embedding or not (straight or turned):
                expected = (low_rank.outputs, *low_rank.a.shape[1:])
                raise self._misfit(info, expected[::-1] if embedding or stated else expected, low_rank)
            square = name if straight and turned else square
            contradicted |= turned not in {straight, stated}
            self._changed[name] = (low_rank, turned and (stated or not straight))
        if square and contradicted:
            raise CheckpointError(
                f"{self.location}: 'fan_in_fan_out' is {str(stated).lower()} in {self.adapter.config.path.name}, which "
                f"is not so for all weights, so it cannot be told how the square '{square}' is stored; merge the "
                "adapter into its base with PEFT and use that as an expert."
            )

    def _misfit(self, info: TensorInfo, expected: tuple[int, ...], low_rank: LowRank) -> CheckpointError:
        return CheckpointError(
            f"{self.location}: module '{low_rank.module}' of the adapter changes a tensor of shape {list(expected)}, "
            f"but '{info.name}' of {self.own.location} has shape {list(info.shape)}; expected the base that the "
            "adapter was trained on."
        )


def natural_dtype(source: Source, name: str) -> str:
    """Return the dtype that a copy of a tensor should be stored in: what it was before it was shown wider."""
    if isinstance(source, DequantisedCheckpoint | GgufCheckpoint) and name in source.dequantised:
        return "BF16"
    if isinstance(source, AdaptedCheckpoint) and (name in source.own.tensors or name in source.kept_heads):
        return natural_dtype(source.own, source.kept_heads.get(name, name))
    return source.tensors[name].dtype


def tokenizer_folder(source: Source) -> Place | None:
    """Return the folder of the tokenizer that a source goes with: that of its adapter, if it has one of its own."""
    if isinstance(source, AdaptedCheckpoint) and (source.adapter.path / "tokenizer.json").is_file():
        return source.adapter.path
    return tokenizer_folder(source.own) if isinstance(source, WrappedCheckpoint) else source.folder


def stored_bytes(source: Source, name: str) -> int:
    """Return the bytes that reading a tensor takes from the files of a source, however wide it is shown."""
    match source:
        case AlignedCheckpoint():
            own, info = source.place(name)
            return stored_bytes(own, info.name)
        case AdaptedCheckpoint():
            return source.read_bytes(name)
        case DequantisedCheckpoint() | GgufCheckpoint():
            return source.stored_bytes(name)
        case GatheredCheckpoint() if not source.gathers(name):
            return stored_bytes(source.own, name)
        case _:
            return source.tensors[name].nbytes


def scratch_bytes(source: Source) -> int:
    """Return the working memory of one read of a source: to add an adapter, or to decode what is quantised."""
    own = SCRATCH_BYTES if isinstance(source, AdaptedCheckpoint | DequantisedCheckpoint | GgufCheckpoint) else 0
    return own + max(map(scratch_bytes, source.parts if isinstance(source, WrappedCheckpoint) else ()), default=0)


def resident_bytes(sources: Iterable[Source]) -> int:
    """Return the memory that sources take for as long as they are open: torch, and what it could not map."""
    found: dict[int, TorchCheckpoint] = {}
    pending = list(sources)
    while pending:
        source = pending.pop()
        if isinstance(source, TorchCheckpoint):
            found[id(source)] = source
        pending += source.parts if isinstance(source, WrappedCheckpoint) else ()
    return sum(source.held_bytes for source in found.values()) + (TORCH_BYTES if found else 0)


def places(modules: Iterable[str], names: Iterable[str]) -> Mapping[str, str]:
    """Find the modules of an adapter in a base whose names may begin otherwise.

    Args:
        modules: Names of modules in the adapter.
        names: Names of the tensors of the base.

    Returns:
        For every module its name in the base: the same, or without a first part, or with one before it, whichever
        finds most of them. Modules that are not in the base keep their names.
    """
    modules = list(dict.fromkeys(modules))
    known = _modules(names)
    ways = {"": {m: m for m in modules}}
    for head in sorted({m.split(".")[0] + "." for m in modules}):
        ways[f"-{head}"] = {m: m.removeprefix(head) for m in modules}
    for head in sorted({name.split(".")[0] + "." for name in known}):
        ways[f"+{head}"] = {m: head + m for m in modules}
    best = max(ways.values(), key=lambda way: sum(place in known for place in way.values()))
    return {m: best[m] if best[m] in known and m not in known else m for m in modules}


def _modules(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.rpartition(".")[0] for name in names) - {""}


def _widened(info: TensorInfo) -> TensorInfo:
    dtype = "F64" if info.dtype in {"F32", "F64"} else "F32"
    return TensorInfo(info.name, dtype, info.shape, 0, info.numel * STORAGE_DTYPES[dtype].bits // 8)
