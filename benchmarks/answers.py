"""Whether a merge will answer as its experts do, from a few unlabelled inputs and one pass of every expert over them.

The definitions are those of `mergewise.learning.answers`. Nothing need be merged if changes of the output add up: a
merge then gives e + λΣo_j, where e is what the base gives and o_j how far expert j moves it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.learning.answers import added, agreement, answers, changes_kept, nearest

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

    def foreseen(self, chosen: Sequence[int], scale: float, task: int) -> Floats:
        """Return what a sum should give for a task's inputs, (inputs, width) float64.

        Args:
            chosen: The merged experts; none for the base.
            scale: λ.
            task: Whose inputs.
        """
        return added(self.at_base[task], self.moved[list(chosen), task].sum(axis=0), scale)

    def agreement(self, outputs: Floats, task: int) -> float:
        """Return the share of a task's inputs that are answered as the task's own expert does.

        Args:
            outputs: (inputs, width) float64, what a merge gives for them.
            task: Whose inputs, and whose expert.
        """
        own = answers(self.foreseen([task], 1.0, task), self.heads[task])
        return float(agreement([answers(outputs, self.heads[task])], [own])[0])

    def nearest(self, outputs: Floats, task: int) -> float:
        """Return the same if the answer is which other input is nearest, for which no choices are needed."""
        return float(agreement([nearest(outputs)], [nearest(self.foreseen([task], 1.0, task))])[0])

    def kept(self, outputs: Floats, task: int) -> float:
        """Return which share of the answers that the expert changed are kept; NaN without any."""
        three = (outputs, self.foreseen([task], 1.0, task), self.at_base[task])
        return changes_kept(*(list(answers(one, self.heads[task])[:, None]) for one in three))
