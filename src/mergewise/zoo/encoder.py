"""Embed texts with a BERT encoder, and score it on the tasks of the zoo.

An encoder answers an item with the choice whose embedding has the largest cosine with that of the item's text.
Choices are embedded once, by the base: a frozen "text head", with which one measures any encoder on any task, also
on tasks it was not trained for, without a classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from safetensors.numpy import load_file

from mergewise.zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mergewise.zoo.tasks import Example, Task

__all__ = ["Encoder", "Scorer", "choice_embeddings", "fast_precision", "padded", "pool"]

BATCH_TOKENS = 1024  # of one padded batch; larger ones are no faster and need more memory
CHOICE_TOKENS = 64


def fast_precision() -> torch.dtype:
    """Return bfloat16 where the CPU itself multiplies bfloat16 matrices (three times as fast), else float32."""
    capabilities = cast("dict[str, Any]", getattr(torch.cpu, "get_capabilities", dict)())
    return torch.bfloat16 if capabilities.get("avx512_bf16") else torch.float32


def pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the token states of each text and scale to unit length.

    Args:
        states: last hidden states, (n, length, width).
        mask: 1 for tokens and 0 for padding, (n, length).

    Returns:
        Embeddings, (n, width) float32.
    """
    weights = mask.unsqueeze(-1).float()
    return torch.nn.functional.normalize((states.float() * weights).sum(1) / weights.sum(1), dim=-1)


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask of rows of unequal length, padded with 0 to the longest: (n, length) int64 each."""
    length = max(map(len, rows))
    ids = np.zeros((len(rows), length), np.int64)
    mask = np.zeros((len(rows), length), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


class Encoder:
    """A BERT model that turns texts into unit vectors: mean of the last hidden states over the tokens.

    Args:
        folder: of the checkpoint.
        precision: what matrices are multiplied in; by default what is fast on this machine.

    Attributes:
        model: the transformers model, in eval mode, with float32 weights.
        precision: what its matrices are multiplied in; sums, norms and the result are float32.
    """

    def __init__(self, folder: Path, precision: torch.dtype | None = None) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - slow imports, needed by nobody who only lists the zoo
        from transformers import AutoConfig, AutoModel  # noqa: PLC0415

        self.precision = precision or fast_precision()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        # Weights are read here, strictly, and not by from_pretrained, which fills in what is missing at random.
        with torch.random.fork_rng(devices=[]):
            model: torch.nn.Module = cast("Any", AutoModel).from_config(config, attn_implementation="eager")
        self.model = model.float().eval()
        self.width = int(config.hidden_size)
        self.load_tensors(load_file(folder / "model.safetensors"))

    def load_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Replace all weights in place.

        Args:
            tensors: every parameter by its name in the checkpoint, in any floating dtype.

        Raises:
            ZooError: a name is missing or unknown, or a shape differs; the model is then unchanged.
        """
        parameters = dict(self.model.named_parameters())
        missing, unknown = parameters.keys() - tensors.keys(), tensors.keys() - parameters.keys()
        if missing or unknown:
            found = f"lacks {len(missing)} of them, such as {min(missing)}" if missing else f"also has {min(unknown)}"
            raise ZooError(
                f"the encoder needs exactly its own {len(parameters)} tensors, but the checkpoint {found}; "
                f"merge checkpoints of the zoo's own base"
            )
        for name, parameter in parameters.items():
            if tensors[name].shape != tuple(parameter.shape):
                raise ZooError(
                    f"the tensor {name} should have the shape {tuple(parameter.shape)}, but has {tensors[name].shape}; "
                    f"merge checkpoints of the zoo's own base"
                )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(tensors[name], dtype=np.float32)))

    def tokenize(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Return the token ids of every text, cut at `max_length`, with the special tokens and no padding."""
        self._tokenizer.enable_truncation(max_length)
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def embed(self, texts: Sequence[str], max_length: int) -> NDArray[np.float32]:
        """Return the embeddings of texts, (n, width), each of unit length."""
        return self.embed_tokens(self.tokenize(texts, max_length))

    def embed_tokens(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return the embeddings of texts that are already token ids, (n, width), each of unit length."""
        result = np.empty((len(rows), self.width), np.float32)
        low = self.precision != torch.float32
        with torch.inference_mode(), torch.autocast("cpu", self.precision if low else torch.bfloat16, enabled=low):
            for members in _batches(rows):
                ids, mask = padded([rows[index] for index in members])
                states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                result[members] = pool(states, mask).numpy()
        return result


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Group rows of like length into batches of at most BATCH_TOKENS tokens, padding included; yield indices."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
        if batch and (len(batch) + 1) * len(rows[index]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def choice_embeddings(encoder: Encoder, task: Task, examples: Sequence[Example]) -> NDArray[np.float32]:
    """Embed what the examples of a task may be answered with.

    Returns:
        (choices, width) if the task has common choices, else (n, choices, width).
    """
    if task.choices:
        return encoder.embed(task.choices, CHOICE_TOKENS)
    flat = encoder.embed([choice for example in examples for choice in example.choices], CHOICE_TOKENS)
    return flat.reshape(len(examples), -1, encoder.width)


@dataclass(frozen=True)
class _Items:
    """The examples of one split, ready to score."""

    tokens: list[list[int]]
    choices: NDArray[np.float32]
    answers: NDArray[np.int64]


class Scorer:
    """Scores encoders on the tasks of the zoo, against choices embedded by one of them, the labeller.

    Tokens and choice embeddings are made on the first use of a task, split and limit, and kept.

    Args:
        labeller: its folder.
        tasks: by name.
        precision: of the labeller, as of any encoder.
    """

    def __init__(self, labeller: Path, tasks: Mapping[str, Task], precision: torch.dtype | None = None) -> None:
        self._labeller = Encoder(labeller, precision)
        self._tasks = dict(tasks)
        self._prepared: dict[tuple[str, str, int | None], _Items] = {}

    def correct(
        self, encoder: Encoder, task: str, split: Literal["validation", "test"], limit: int | None = None
    ) -> NDArray[np.bool_]:
        """Say item by item whether an encoder is right, (n,) bool.

        Args:
            encoder: any encoder with the base's vocabulary and width.
            task: a name among the scorer's tasks.
            split: which examples; they are in random order, so that the first ones are a fair sample.
            limit: score only the first so many.
        """
        items = self._items(task, split, limit)
        texts = encoder.embed_tokens(items.tokens)  # (n, width)
        own = items.choices.ndim == 3  # choices differ per example
        cosines = np.einsum("nw,ncw->nc", texts, items.choices) if own else texts @ items.choices.T
        return np.asarray(cosines.argmax(1) == items.answers)

    def _items(self, name: str, split: Literal["validation", "test"], limit: int | None) -> _Items:
        """Return the first items of a split; own choices of others would take longer to embed than all the texts."""
        key = (name, split, limit)
        if key not in self._prepared:
            if name not in self._tasks:
                raise ZooError(f"the task should be one of {', '.join(self._tasks)}, but is {name!r}")
            task = self._tasks[name]
            examples = (task.test if split == "test" else task.validation)[:limit]
            self._prepared[key] = _Items(
                self._labeller.tokenize([example.text for example in examples], task.max_length),
                choice_embeddings(self._labeller, task, examples),
                np.array([example.answer for example in examples]),
            )
        return self._prepared[key]
