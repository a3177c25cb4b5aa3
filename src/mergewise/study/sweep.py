"""Merging for cells: through the engine, in memory, on one thread, the settings of a sweep together."""

from collections.abc import Iterator, Sequence

from mergewise.engine.sweep import merge_sweep_to_arrays
from mergewise.recipe import Recipe
from mergewise.study.cells import CellSpec, Tensors

__all__ = ["merge_sweep"]


def merge_sweep(specs: Sequence[CellSpec], dtype: str | None = None) -> Iterator[Tensors]:
    """Yield the merged model of each spec, in order; the tensors are those of separate merges, bit by bit.

    Args:
        specs: what differs in parameters only.
        dtype: everyday name of the dtype of the result; None keeps each tensor's own.
    """
    recipes = [
        Recipe(
            method=spec.method,
            base=str(spec.base.path),
            experts=[str(expert.path) for expert in spec.experts],
            parameters=dict(spec.parameters),
            dtype=dtype,
        )
        for spec in specs
    ]
    yield from merge_sweep_to_arrays(recipes, threads=1)
