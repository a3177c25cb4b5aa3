"""A fixed sample of a tensor's coordinates: what it tells of tails, of merged deltas, and of many experts' claims."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.masks import mask_key
from mergewise.engine.pieces import Piece, Workspace
from mergewise.engine.survey.record import MERGES
from mergewise.kernels import merge_sample, sample_differences, sample_keys
from mergewise.kernels.constants import TILE
from mergewise.method import mask_limit
from mergewise.statistics.claims import DENSE_EXPERTS, Claims
from mergewise.statistics.tails import hill_index, sampled_kurtosis

__all__ = ["SAMPLE_BYTES", "Sample", "sampled_claims", "sampled_tails", "take_sample"]

_RUN = 1024
_RUNS = 16
_KEY_RUN = 1 << 12  # of keys
_MOST = 1 << 22  # elements of a tensor that so many keys are enough for

SAMPLE_BYTES = _RUN * _RUNS * 8 * 8
"""What a sample and its merges take, for each expert."""


@dataclass(frozen=True)
class Sample:
    """What was read of a tensor before all of it.

    Attributes:
        changes: (experts, elements) float64, task vectors at the sampled coordinates.
        keys: (experts, more) uint32, magnitude keys of runs that begin at the same coordinates; as many as bracket the
            thresholds of a tensor that is neither small nor very large, ``None`` for others.
    """

    changes: NDArray[np.float64]
    keys: NDArray[np.uint32] | None


def take_sample(workspace: Workspace, pieces: Sequence[Piece]) -> Sample:
    """Return a sample: all of a small tensor, else runs that are spread evenly.

    Args:
        workspace: Where they are read into.
        pieces: The tensor, in order.
    """
    job = pieces[0].job
    experts = len(job.inputs) - 1
    runs = -(-job.numel // _RUN)
    chosen = [(r * runs) // _RUNS for r in range(_RUNS)] if runs > _RUNS else list(range(runs))
    length = _KEY_RUN if experts <= DENSE_EXPERTS and _RUNS * _KEY_RUN < job.numel <= _MOST else _RUN
    counts = [(min(_RUN, job.numel - run * _RUN), min(length, job.numel - run * _RUN)) for run in chosen]
    changes = np.empty((experts, sum(count for count, _ in counts)))
    keys = np.empty((experts, sum(more for _, more in counts) if length > _RUN else 0), np.uint32)
    at = ranked = 0
    for run, (count, more) in zip(chosen, counts, strict=True):
        start = run * _RUN
        piece, first = (pieces[0], start) if len(pieces) == 1 else (Piece(job, start, more), 0)
        raw, codes = workspace.rows(piece)
        sample_differences(raw, codes, first, count, at, changes)
        at += count
        if length > _RUN:
            sample_keys(raw, codes, first, more, more, ranked, more, keys)
            ranked += more
    return Sample(changes, keys if ranked else None)


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
    merged = _merged(sample, thresholds, density, seed, name)
    subjects = np.concatenate([sample, merged])
    kurtosis, error = np.zeros((2, subjects.shape[0]))
    with np.errstate(all="ignore"):  # what overflows is NaN or infinite in the figures too
        kurtosis[sample.shape[0] :], error[sample.shape[0] :] = sampled_kurtosis(merged)
        hill = hill_index(subjects)
    return np.stack([kurtosis, 0.0 * error if whole else error, *hill, np.mean(subjects != 0.0, axis=1)], axis=1)


def _merged(
    sample: NDArray[np.float64], thresholds: NDArray[np.float32], density: float, seed: int, name: str
) -> NDArray[np.float64]:
    """Return the merged deltas at the sampled coordinates, in the order of ``MERGES``, with equal weights."""
    experts, elements = sample.shape
    keys = np.array([mask_key(seed, i, name) for i in range(experts)], np.uint64)
    merged = np.empty((len(MERGES), elements))
    edges = np.ascontiguousarray(thresholds).view(np.uint32)
    merge_sample(sample, edges, keys, mask_limit(density), density, np.empty((experts, TILE)), merged)
    return merged
