"""What stops a merge while it runs, in words that are the same wherever it runs."""

import numpy as np

from mergewise.checkpoint import Source, TensorInfo, location_of
from mergewise.engine.jobs import TensorJob
from mergewise.errors import MergeError

__all__ = ["beyond_dtype", "does_not_fit", "not_finite"]


def not_finite(
    source: Source,
    info: TensorInfo,
    name: str,
    element: int,
    value: float,
    expected: str = "finite weights",
    stopped: str = "merge",
) -> MergeError:
    """Return the fault of an input that holds NaN, infinity, or what its kind cannot be.

    Args:
        source: The checkpoint.
        info: The tensor there.
        name: The tensor in the result.
        element: Index of the first such element.
        value: What it is.
        expected: What should have been there.
        stopped: What it stops.
    """
    at = [int(i) for i in np.unravel_index(element, info.shape)] if info.shape else []
    return MergeError(
        f"Tensor '{name}' of {location_of(source, name)} holds {value} at {at}; expected {expected}, so the "
        f"{stopped} stopped."
    )


def does_not_fit(job: TensorJob) -> MergeError:
    """Return the fault of a result beyond the output dtype."""
    return beyond_dtype(job.name, job.output.dtype)


def beyond_dtype(name: str, dtype: str) -> MergeError:
    """Return the same of a tensor by its name in the result."""
    return MergeError(
        f"Tensor '{name}' merges to values that do not fit {dtype}, being too large or no numbers; choose a wider "
        "'out_dtype', smaller weights or another method."
    )
