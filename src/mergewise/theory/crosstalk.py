"""Where experts collide: what the changes of others do to the inputs that an expert's own change answers to.

The rows of τ_i tell of the inputs that task i has (arXiv 2503.08099), so ‖τ_j τ_iᵀ‖²/‖τ_i‖² measures what expert j
does to them. With M_i = τ_iᵀτ_i/‖τ_i‖² it is a_ij = ‖τ_j‖² tr(M_i M_j), which a survey knows of every pair. Where
experts keep to inputs of their own it is nought, and their sum serves all of them; where all have the same inputs only
their mean does. Between the two, Σ_i ‖(λ Σ_j τ_j - τ_i) τ_iᵀ‖²/‖τ_i‖² is least at λ = Σ a_ii / Σ a_ij, if products of
different experts average out, as they do where cosines are near nought.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint.tokens import is_embedding
from mergewise.engine.survey.record import TensorRecord
from mergewise.theory.groups import kind_of, layer_of

__all__ = ["Collision", "collisions", "concentration", "crosstalk", "scale_of"]

INPUTS, OUTPUTS = 1, 0

_OTHER_EMBEDDING = re.compile(r"(^|\.)((\w+_)?embed(ding)?s?|embed_positions|wpe|relative_attention_bias)\.weight$")
"""Of positions, segments, and tokens under names that ``is_embedding`` does not know."""


@dataclass(frozen=True)
class Collision:
    """Crosstalk in one matrix.

    Attributes:
        name: Its name.
        kind: Its kind.
        layer: Its layer.
        crosstalk: What others do to an expert's inputs, times what it does itself, on average over the experts.
        share: Its share of the crosstalk of all matrices.
        own: Its share of what experts do to their own inputs in all matrices.
        scale: The λ of a sum that suits it best, in (0, 1].
    """

    name: str
    kind: str
    layer: int
    crosstalk: float
    share: float
    own: float
    scale: float


def crosstalk(record: TensorRecord) -> NDArray[np.float64]:
    """Return a_ij of one matrix with spectra, (experts, experts) float64: what j does to the inputs of i.

    The inputs of a matrix are its columns; those of an embedding, which is looked up, are its rows. That is how they
    are stored but for Conv1D of GPT-2, whose rows are the inputs, and which no name tells.
    """
    spectra = record.spectra
    assert spectra is not None
    looked_up = is_embedding(record.name) or _OTHER_EMBEDDING.search(record.name) is not None
    side = OUTPUTS if looked_up else INPUTS
    found: NDArray[np.float64] = np.maximum(spectra.overlaps[side], 0.0) * np.diagonal(record.gram)
    return found


def collisions(
    matrices: Iterable[tuple[str, NDArray[np.float64]]], experts: Sequence[int] | None = None
) -> tuple[Collision, ...]:
    """Return the crosstalk of every matrix among some of the experts, the largest share first.

    Experts count alike, however far they moved: a_ij is divided by Σ a_ii over all matrices.

    Args:
        matrices: Names, and (experts, experts) float64 as from ``crosstalk``.
        experts: Which experts, as numbers from zero; ``None`` for all.
    """
    of = {name: found if experts is None else found[np.ix_(list(experts), list(experts))] for name, found in matrices}
    if not of:
        return ()
    totals = np.sum([np.diagonal(found) for found in of.values()], axis=0)
    weights = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0.0)
    own = {name: float(weights @ np.diagonal(found)) for name, found in of.items()}
    cross = {name: float(weights @ (found.sum(axis=1) - np.diagonal(found))) for name, found in of.items()}
    all_own, all_cross = sum(own.values()) or 1.0, sum(cross.values()) or 1.0
    found = [
        Collision(
            name, str(kind_of(name)), int(layer_of(name)), cross[name] / own[name], cross[name] / all_cross,
            own[name] / all_own, own[name] / (own[name] + cross[name]),
        )
        for name in of if own[name] > 0.0
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda one: (-one.share, one.name.encode())))


def scale_of(found: Sequence[Collision]) -> float:
    """Return the λ of a sum that suits all matrices together best; 1 without any."""
    own = sum(one.own for one in found)
    cross = sum(one.own * one.crosstalk for one in found)
    return own / (own + cross) if own > 0.0 else 1.0


def concentration(found: Sequence[Collision], names: int = 4) -> str:
    """Say in one sentence where half of the crosstalk lies."""
    reached, half = 0.0, []
    for one in found:
        if reached >= 0.5:
            break
        reached += one.share
        half.append(one)
    if len(half) == len(found):
        return ""
    listed = ", ".join(one.name for one in half[:names]) + (" and others" if len(half) > names else "")
    return (
        f"{reached:.0%} of the collisions lie in {len(half)} of {len(found)} matrices, which hold "
        f"{sum(one.own for one in half):.0%} of what the experts do: {listed}."
    )
