"""Merging for cells: through the engine, in memory, on one thread, the settings of a sweep together."""

from collections.abc import Iterator, Mapping, Sequence

from mergewise.engine.sweep import merge_sweep_to_arrays
from mergewise.recipe import Recipe
from mergewise.study.cells import CellSpec, Tensors
from mergewise.study.memory import worker_memory
from mergewise.study.protocol import Value

__all__ = ["Parameters", "merge_sweep", "recipe_for"]

Parameters = Mapping[str, Value | tuple[Value, ...]]
"""Of a merge: one value for all, or a tuple with one per expert."""


def recipe_for(
    method: str, base: str, experts: Sequence[str], parameters: Parameters, dtype: str | None = None
) -> Recipe:
    """Return the recipe of a merge.

    Args:
        method: a method's name in the recipe language.
        base: path of the base.
        experts: paths of the experts.
        parameters: of the method.
        dtype: everyday name of the dtype of the result; None keeps each tensor's own.
    """
    own = {name: value for name, value in parameters.items() if isinstance(value, tuple)}
    entries = [
        {"model": expert, "parameters": {name: value[number] for name, value in own.items()}}
        for number, expert in enumerate(experts)
    ]
    shared = {name: value for name, value in parameters.items() if name not in own}
    return Recipe(method=method, base=base, experts=entries, parameters=shared, dtype=dtype)


def merge_sweep(specs: Sequence[CellSpec], dtype: str | None = None) -> Iterator[Tensors]:
    """Yield the merged model of each spec, in order; the tensors are those of separate merges, bit by bit.

    Args:
        specs: what differs in parameters only.
        dtype: everyday name of the dtype of the result; None keeps each tensor's own.
    """
    recipes = [
        recipe_for(spec.method, str(spec.base.path), [str(one.path) for one in spec.experts], spec.parameters, dtype)
        for spec in specs
    ]
    yield from merge_sweep_to_arrays(recipes, threads=1, memory=worker_memory())
