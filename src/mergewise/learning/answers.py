"""Whether a merge answers as its experts do: the definition, on outputs as arrays.

An input has a prediction or several, and the *answer* to a prediction is its likeliest outcome. The **agreement** of a
model y with expert t is the share of expert t's inputs that it answers alike,

    A_t(y) = mean over inputs x of t of [argmax_c y(x)_c = argmax_c y_t(x)_c],

a mean over predictions first where an input has several; that of a merge is the mean of A_t over its experts t. It is 1
for the expert, and for the base e it is whatever base and expert have in common. The **changes kept** are the share of
the answers that an expert changed which the merge gives as the expert does,

    K_t(y) = Σ_x [y(x) = y_t(x) ≠ e(x)] / Σ_x [y_t(x) ≠ e(x)]    (of answers),

0 for the base and 1 for the expert. Nothing need be merged to foresee them for a sum of changes: if outputs add up, a
merge by task arithmetic gives e + λ Σ_j o_j, where o_j = y_j - e is how far expert j moves the output.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answers", "added", "agreement", "answers", "changes_kept", "nearest"]

Answers = NDArray[np.int64]
Floats = NDArray[np.float64]
F = TypeVar("F", np.float32, np.float64)


def answers(outputs: NDArray[F], head: NDArray[F] | None = None) -> Answers:
    """Return the answers, (predictions,) int64; the first among equals.

    Args:
        outputs: (predictions, outcomes), such as logits; with a head, (predictions, width) embeddings.
        head: (choices, width): the choice with the largest product is the answer.
    """
    found: Answers = (outputs if head is None else outputs @ head.T).argmax(axis=1)
    return found


def nearest(outputs: NDArray[F]) -> Answers:
    """Return which other row has the largest cosine with each row, (rows,) int64: the answer of embeddings alone.

    Args:
        outputs: (rows, width), two rows or more.
    """
    lengths = np.linalg.norm(outputs, axis=1, keepdims=True)
    unit = outputs / np.where(lengths > 0.0, lengths, 1.0)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    found: Answers = cosines.argmax(axis=1)
    return found


def added(at_base: NDArray[F], moved: NDArray[F], scale: float) -> NDArray[F]:
    """Return what a sum of changes gives if outputs add up, e + λ Σ_j o_j, in the shape of both.

    Args:
        at_base: e, what the base gives.
        moved: Σ_j o_j.
        scale: λ.
    """
    return at_base + at_base.dtype.type(scale) * moved


def agreement(found: Sequence[Answers], own: Sequence[Answers]) -> Floats:
    """Return the share of answers that are those of the expert, of every input, (inputs,) float64; A_t is their mean.

    Args:
        found: Answers of a model to every input, (predictions,) each.
        own: Those of the expert.
    """
    return np.array([np.mean(one == other) for one, other in zip(found, own, strict=True)])


def changes_kept(found: Sequence[Answers], own: Sequence[Answers], base: Sequence[Answers]) -> float:
    """Return K_t; NaN where the expert answers as the base throughout.

    Args:
        found: Answers of a model to every input, (predictions,) each.
        own: Those of the expert.
        base: Those of the base.
    """
    changed = [o != b for o, b in zip(own, base, strict=True)]
    kept = [np.mean(c & (f == o)) for c, f, o in zip(changed, found, own, strict=True)]
    of = float(np.sum([np.mean(one) for one in changed]))
    return float(np.sum(kept)) / of if of > 0.0 else float("nan")
