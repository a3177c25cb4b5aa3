"""Merging and scoring encoders of the zoo, in a worker."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mergewise.study.cells import CellSpec, Scores, Split, Tensors
from mergewise.study.sweep import merge_sweep
from mergewise.zoo.store import load_tasks

if TYPE_CHECKING:
    from mergewise.zoo.encoder import Scorer
    from mergewise.zoo.experts import Precision

__all__ = ["ZooBench"]


class ZooBench:
    """Merges and scores encoders.

    Args:
        base: the folder of any model of the base's size.
        labeller: folder of the encoder whose embeddings of the label texts are the heads of every task.
        tasks_file: the tasks that can be scored.
        precision: of the matrix products, whatever is fast on this machine: scores depend on it.
    """

    def __init__(self, base: Path, labeller: Path, tasks_file: Path, precision: "Precision") -> None:
        import torch  # noqa: PLC0415 - which no dry run needs

        from mergewise.zoo.encoder import Encoder  # noqa: PLC0415 - as above

        self._encoder = Encoder(base, getattr(torch, precision))
        self._scorer = _scorer(labeller, tasks_file, precision)

    def merge(self, specs: Sequence[CellSpec]) -> Iterator[Tensors]:
        """Yield the merged models in float32."""
        return merge_sweep(specs, dtype="float32")

    def score(self, tensors: Tensors, tasks: Sequence[str], split: Split, limit: int | None) -> Scores:
        """Say for every item of every task whether the merged encoder answers it rightly."""
        self._encoder.load_tensors(tensors)
        return {task: self._scorer.correct(self._encoder, task, split, limit=limit) for task in tasks}


@lru_cache(maxsize=1)
def _scorer(labeller: Path, tasks_file: Path, precision: "Precision") -> "Scorer":
    """Return the scorer of this process, which keeps tokens and label embeddings for the benches of all bases."""
    import torch  # noqa: PLC0415 - as above

    from mergewise.zoo.encoder import Scorer  # noqa: PLC0415 - as above

    tasks = {name: replace(task, train=()) for name, task in load_tasks(tasks_file).items()}
    return Scorer(labeller, tasks, getattr(torch, precision))
