"""A fixed sample of a tensor's coordinates: what it tells of tails, of merged deltas, and of many experts' claims."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.masks import mask_key
from mergewise.engine.pieces import Piece, Workspace, stored_values
from mergewise.engine.survey.record import MERGES
from mergewise.kernels import words_of
from mergewise.method import mask_limit
from mergewise.statistics.claims import Claims
from mergewise.statistics.tails import hill_index, sampled_kurtosis

__all__ = ["SAMPLE_BYTES", "sampled_claims", "sampled_tails", "take_sample"]

_RUN = 1024
_RUNS = 16

SAMPLE_BYTES = _RUN * _RUNS * 8 * 8
"""What a sample and its merges take, for each expert."""


def take_sample(workspace: Workspace, pieces: Sequence[Piece]) -> NDArray[np.float64]:
    """Return task vectors at sampled coordinates: all of a small tensor, else runs that are spread evenly.

    Args:
        workspace: Where they are read into.
        pieces: The tensor, in order.

    Returns:
        (experts, elements) float64.
    """
    job = pieces[0].job
    runs = -(-job.numel // _RUN)
    chosen = [(r * runs) // _RUNS for r in range(_RUNS)] if runs > _RUNS else list(range(runs))
    parts = []
    for run in chosen:
        start = run * _RUN
        count = min(_RUN, job.numel - start)
        piece, first = (pieces[0], start) if len(pieces) == 1 else (Piece(job, start, count), 0)
        raw, _ = workspace.rows(piece)
        rows = [stored_values(row, info, count, first) for row, info in zip(raw, job.inputs, strict=True)]
        with np.errstate(all="ignore"):  # what is not finite is found, and named, by the pass
            parts.append(np.stack(rows[1:]) - rows[0])
    return np.concatenate(parts, axis=1)


def _claimed(sample: NDArray[np.float64], thresholds: NDArray[np.float32]) -> NDArray[np.bool_]:
    magnitudes = np.abs(sample).astype(np.float32)
    claimed: NDArray[np.bool_] = (magnitudes >= thresholds[:, None]) & (sample != 0.0)
    return claimed


def sampled_claims(sample: NDArray[np.float64], thresholds: NDArray[np.float32]) -> Claims:
    """Return the joint claims at the sampled coordinates, for up to 64 experts."""
    claimed = _claimed(sample, thresholds)
    bits = np.uint64(1) << np.arange(sample.shape[0], dtype=np.uint64)[:, None]
    sides = [np.where(claimed & side, bits, np.uint64(0)) for side in (sample > 0.0, sample < 0.0)]
    positive, negative = (np.bitwise_or.reduce(side, axis=0) for side in sides)
    return Claims.of_masks(positive, negative)


def sampled_tails(
    sample: NDArray[np.float64], thresholds: NDArray[np.float32], density: float, seed: int, name: str, *, whole: bool
) -> NDArray[np.float64]:
    """Return the tail figures of every task vector and of every merge, (experts + merges, 5) float64.

    The kurtosis of task vectors is left at nought: it is known of all elements.

    Args:
        sample: (experts, elements) float64.
        thresholds: (experts,) float32, magnitudes from which on elements are among the largest of the whole tensor.
        density: ρ of every sparse method.
        seed: Of DARE's masks.
        name: The tensor's name, for these.
        whole: Whether the sample is the whole tensor, so that its kurtosis has no sampling error.
    """
    merged = _merged(sample, _claimed(sample, thresholds), density, seed, name)
    subjects = np.concatenate([sample, merged])
    kurtosis, error = np.zeros((2, subjects.shape[0]))
    with np.errstate(all="ignore"):  # what overflows is NaN or infinite in the figures too
        kurtosis[sample.shape[0] :], error[sample.shape[0] :] = sampled_kurtosis(merged)
        hill = hill_index(subjects)
    return np.stack([kurtosis, 0.0 * error if whole else error, *hill, np.mean(subjects != 0.0, axis=1)], axis=1)


def _merged(
    sample: NDArray[np.float64], claimed: NDArray[np.bool_], density: float, seed: int, name: str
) -> NDArray[np.float64]:
    """Return the merged deltas at the sampled coordinates, in the order of ``MERGES``, with equal weights."""
    keys = [mask_key(seed, i, name) for i in range(sample.shape[0])]
    drawn = np.stack([words_of(key, sample.shape[1]) for key in keys]) < mask_limit(density)
    trimmed, dropped = np.where(claimed, sample, 0.0), np.where(drawn, sample, 0.0)
    ties = _agreeing(trimmed)
    merges = {
        "task_arithmetic": sample.mean(axis=0),
        "ties": ties,
        "dare_ties": _agreeing(dropped / density),
        "rht": ties / density,  # an election without weights is one with equal weights
    }
    return np.stack([merges[method] for method in MERGES])


def _agreeing(kept: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of what agrees with the sign of the sum; a sum of nought elects +, a zero never agrees."""
    side = np.where(kept.sum(axis=0) >= 0.0, 1.0, -1.0)
    agrees = kept * side > 0.0
    found: NDArray[np.float64] = np.where(agrees, kept, 0.0).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1)
    return found
