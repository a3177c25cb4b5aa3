"""What several models give for the same inputs, one model in memory at a time."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mergewise.checkpoint import Source
from mergewise.learning.answers import Answers, answers, nearest
from mergewise.learning.errors import ExamplesError
from mergewise.learning.examples import Example, Examples
from mergewise.learning.network import Network, hide_tokens, log_probabilities, open_network

__all__ = ["Input", "Inputs", "Models", "Piece", "read_inputs"]

Floats = NDArray[np.float32]
Piece = tuple[int, int, int]
"""Some inputs of one file: its number, the first of them, and where they end."""

PURPOSE = "agreement"


@dataclass(frozen=True)
class Input:
    """One input, as all models read it.

    Attributes:
        example: The example.
        read: What is read in place of its tokens, of which some are hidden; ``None`` for its tokens.
        hidden: The hidden tokens, (hidden,) int64; ``None`` without any.
        predictions: How many there are.
    """

    example: Example
    read: tuple[int, ...] | None
    hidden: torch.Tensor | None
    predictions: int


@dataclass(frozen=True)
class Inputs:
    """The inputs of one file.

    Attributes:
        path: The file.
        inputs: They, in its order.
        head: (choices, width) float32, embeddings of what an encoder may answer; ``None`` if it answers otherwise.
    """

    path: Path
    inputs: Sequence[Input]
    head: Floats | None = None

    def __len__(self) -> int:
        return len(self.inputs)


def read_inputs(
    network: Network, path: Path, choices: Path | None, *, limit: int | None, max_length: int, seed: int
) -> Inputs:
    """Read the inputs of a file, and what may be answered to them.

    Args:
        network: The base, whose tokenizer serves all models.
        path: Examples, whose labels are not looked at.
        choices: Examples that are the choices of an encoder.
        limit: How many to read; ``None`` for all.
        max_length: Longer ones are cut to so many tokens.
        seed: Of the tokens that are hidden from masked language models.

    Raises:
        ExamplesError: They are none, or not enough.
    """

    def read(file: Path, most: int | None) -> list[Example]:
        return list(Examples(file, network.folder, network.vocabulary, network.length(max_length), most))

    found = [
        _input(network, example, torch.Generator().manual_seed((seed * 1_000_003 + n) % (1 << 63)))
        for n, example in enumerate(read(path, limit))
    ]
    if min(one.predictions for one in found) < 1:
        raise ExamplesError(f"{path}: an example has one token, from which nothing is predicted; leave it out.")
    if network.kind != "encoder":
        return Inputs(path, found)
    if choices is None:
        if len(found) < 3:
            raise ExamplesError(
                f"{path}: expected three texts or more, as an encoder's answer is which other text is nearest, found "
                f"{len(found)}; add some, or name choices."
            )
        return Inputs(path, found)
    offered = read(choices, None)
    if len(offered) < 2:
        raise ExamplesError(f"{choices}: expected two choices or more, found {len(offered)}.")
    return Inputs(path, found, np.concatenate([_run(network, Input(one, None, None, 1)) for one in offered]))


class Models:
    """Models that are run on the same inputs, each opened when its turn comes.

    Args:
        sources: Their checkpoints by name.
        base: The name of the base.
        network: The base, which is open already.
        files: The inputs.
        report: Told of every run.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        base: str,
        network: Network,
        files: Sequence[Inputs],
        report: Callable[[], None],
    ) -> None:
        self.kind = network.kind
        self.files = files
        self._sources, self._report = sources, report
        self._open: dict[str, Network] = {base: network}
        self._base = network.location
        self.outcomes = _run(network, files[0].inputs[0]).shape[1]

    def run(self, name: str, pieces: Iterable[Piece]) -> Iterator[Floats]:
        """Yield what a model gives for inputs, (predictions, outcomes) float32 each.

        Log probabilities of tokens or classes; of an encoder its embedding, the mean of the last hidden states of all
        tokens at unit length, as its one prediction.

        Raises:
            ExamplesError: It is another kind of model than the base, or gives numbers that are not finite.
        """
        network = self._open.pop(name, None) or open_network(self._sources[name], PURPOSE)
        for file, first, stop in pieces:
            for number in range(first, stop):
                given = self.files[file].inputs[number]
                found = _run(network, given)
                if network.kind != self.kind or found.shape[1] != self.outcomes:
                    raise ExamplesError(
                        f"{network.location}: expected a model like {self._base} ({self.kind}, {self.outcomes} "
                        f"outputs), found {network.kind} with {found.shape[1]}; only models of one kind are compared."
                    )
                if not np.isfinite(found).all():
                    raise ExamplesError(
                        f"{network.location}: its outputs are not finite on example {number + 1} of "
                        f"{self.files[file].path}; look for NaN among its weights."
                    )
                self._report()
                yield found

    def answer(self, file: int, outputs: Iterable[Floats]) -> list[Answers]:
        """Return the answers in outputs for inputs of a file, (predictions,) int64 for each input.

        Outputs are taken one after the other and not kept, but for embeddings.
        """
        if self.kind != "encoder":
            return [answers(one) for one in outputs]
        together, head = np.concatenate(list(outputs)), self.files[file].head
        return list((nearest(together) if head is None else answers(together, head))[:, None])

    def whole(self) -> list[Piece]:
        """Return all inputs as pieces, a file each."""
        return [(n, 0, len(file)) for n, file in enumerate(self.files)]

    def passes(self, budget: int, copies: int) -> Iterator[list[Piece]]:
        """Yield all inputs in groups of pieces, so that copies of a group's outputs fit a budget of bytes.

        Answers of an encoder are about a whole file, which is therefore one piece; what alone is too large is a group.
        """
        group: list[Piece] = []
        filled = 0
        for piece in self._pieces():
            number, first, stop = piece
            predictions = sum(one.predictions for one in self.files[number].inputs[first:stop])
            nbytes = copies * math.prod((predictions, self.outcomes, np.dtype(np.float32).itemsize))
            if group and filled + nbytes > budget:
                yield group
                group, filled = [], 0
            group.append(piece)
            filled += nbytes
        yield group

    def _pieces(self) -> Iterator[Piece]:
        for number, file in enumerate(self.files):
            if self.kind == "encoder":
                yield number, 0, len(file)
            else:
                yield from ((number, n, n + 1) for n in range(len(file)))


def _input(network: Network, example: Example, generator: torch.Generator) -> Input:
    if network.kind == "masked":
        read, hidden = hide_tokens(network, example, PURPOSE, generator)
        return Input(example, read, hidden, len(hidden))
    predictions = len(example.tokens) - max(1, example.start) if network.kind == "causal" else 1
    return Input(example, None, None, predictions)


def _run(network: Network, given: Input) -> Floats:
    """Return what a model gives for one input, (predictions, outcomes) float32."""
    with torch.inference_mode():
        if network.kind == "encoder":
            states = network.run(given.example)  # (length, width)
            found = torch.nn.functional.normalize(states.mean(0), dim=-1)[None]
        elif given.hidden is not None:
            found = torch.log_softmax(network.run(given.example, given.read)[given.hidden], dim=-1)
        else:
            found = log_probabilities(network, given.example)
    output: Floats = found.float().numpy()
    return output
