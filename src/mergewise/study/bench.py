"""The bench of the embedded zoo: merges through the engine, in memory, and scores with the zoo's encoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mergewise.engine.merge import merge_to_arrays
from mergewise.recipe import Recipe
from mergewise.study.cells import CellSpec, Split, Tensors
from mergewise.zoo.encoder import Encoder, Scorer
from mergewise.zoo.tasks import Task

__all__ = ["ZooBench", "merge_cell"]


class ZooBench:
    """Merges and scores encoders, on one thread each, so that numbers do not depend on the machine's cores.

    Args:
        base: the base's folder; its frozen embeddings of the label texts are the heads of every task.
        tasks: the tasks that can be scored.
    """

    def __init__(self, base: Path, tasks: Mapping[str, Task]) -> None:
        self._encoder = Encoder(base)
        self._scorer = Scorer(base, tasks)

    def merge(self, spec: CellSpec) -> Tensors:
        """Return the merged model."""
        return merge_cell(spec)

    def correct(
        self, tensors: Tensors, tasks: Sequence[str], split: Split, limit: int | None
    ) -> Mapping[str, NDArray[np.bool_]]:
        """Say for every scored item of every task whether the merged encoder answers it rightly."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self._encoder.load_tensors(tensors)
            return {task: self._scorer.correct(self._encoder, task, split, limit=limit) for task in tasks}
        finally:
            torch.set_num_threads(threads)


def merge_cell(spec: CellSpec) -> Tensors:
    """Return the merged model of a cell in float32, by the engine, on one thread."""
    recipe = Recipe(
        method=spec.method,
        base=spec.base.path,
        experts=[expert.path for expert in spec.experts],
        parameters=dict(spec.parameters),
        dtype="float32",
    )
    return merge_to_arrays(recipe, threads=1)
