"""Whether a merge will answer as its experts do, from a few unlabelled inputs and one pass of every expert over them.

What is assumed is that changes of the output add up: a merge gives e + λΣo_j, where e is what the base gives and o_j
how far expert j moves it. Nothing need be merged for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answers"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What base and experts give for a few inputs of every task.

    Attributes:
        at_base: (tasks, inputs, width) float64, outputs of the base.
        moved: (experts, tasks, inputs, width) float64, outputs of the experts less those of the base.
        heads: Of every task, (choices, width) float64: the choice with the largest product is the answer.
    """

    at_base: Floats
    moved: Floats
    heads: Sequence[Floats]

    def agreement(self, chosen: Sequence[int], scale: float, task: int) -> float:
        """Return the share of inputs on which a merge should answer as the task's own expert does.

        Args:
            chosen: The merged experts; none for the base.
            scale: λ.
            task: Whose inputs, and whose expert.
        """
        merged = self.at_base[task] + scale * self.moved[list(chosen), task].sum(axis=0)
        own = self.at_base[task] + self.moved[task, task]
        head = self.heads[task].T
        return float(np.mean((merged @ head).argmax(axis=1) == (own @ head).argmax(axis=1)))
