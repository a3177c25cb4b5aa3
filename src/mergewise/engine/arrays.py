"""Merging into memory: of checkpoints, or from arrays to arrays."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import Access, ArrayCheckpoint, ArrayTarget, Connections, StatisticsFile
from mergewise.engine.adapters.core_target import merge_target
from mergewise.engine.carry_out import lay_out_for, run
from mergewise.engine.devices.device import open_device
from mergewise.engine.jobs import Plan
from mergewise.engine.measured import in_memory, open_statistics, require_measured
from mergewise.engine.open_files import allow_open_files
from mergewise.engine.plan import build_plan, plan
from mergewise.engine.quantised import require_unquantised
from mergewise.errors import RecipeError
from mergewise.method import find_method
from mergewise.recipe import Expert, Recipe, check_parameters, unmatched_filters

__all__ = ["into_arrays", "merge_arrays", "merge_to_arrays"]


def merge_to_arrays(
    recipe: Recipe | str | os.PathLike[str],
    *,
    threads: int | None = None,
    memory: str | int = "1GiB",
    access: Access | None = None,
    device: str | None = None,
) -> dict[str, NDArray[Any]]:
    """Merge checkpoints into memory: the same tensors that ``merge`` would write.

    A ``UserWarning`` tells of integers and booleans that are copied, though the models differ in them, and of filters
    that match no tensor.

    Args:
        recipe: A recipe, or the file that holds one.
        threads: Workers; ``None`` for one per available processor.
        memory: Budget for the process without the result, in bytes or as in ``"1GiB"``.
        access: How other machines may be reached; by default as the environment says.
        device: As for ``merge``.

    Returns:
        Merged tensors by name; bfloat16 as ml_dtypes has it.

    Raises:
        MergewiseError: As ``merge``.
    """
    return _warned(plan(recipe, access), threads, memory, device)


def merge_arrays(
    method: str,
    base: Mapping[str, NDArray[Any]] | None,
    experts: Iterable[Mapping[str, NDArray[Any]]],
    *,
    dtype: str | None = None,
    threads: int | None = None,
    memory: str | int = "1GiB",
    device: str | None = None,
    **parameters: Any,
) -> dict[str, NDArray[Any]]:
    """Merge dictionaries of arrays: ``merge_arrays("ties", base, [e1, e2], weight=[0.5, 0.5], density=0.2)``.

    A ``UserWarning`` tells of integers and booleans that are copied, though the experts differ in them, and of filters
    that match no array.

    Args:
        method: Name of a registered merge method.
        base: Arrays of the base by name; ``None`` for methods that need none.
        experts: Arrays of every expert by name, as in the base.
        dtype: Everyday name of the dtype of the result; ``None`` keeps each array's own.
        threads: Workers; ``None`` for one per available processor.
        memory: Budget for the process without inputs and result.
        device: As for ``merge``.
        parameters: Of the method. A list or an array of values gives one per expert, a list of ``{filter, value}``
            chooses by the tensor's name; ``lambda_`` stands for ``lambda``. ``statistics``, of methods that need some,
            is a list of files, or of dictionaries of arrays by name.

    Returns:
        Merged arrays by name.

    Raises:
        MergewiseError: The arrays or the parameters do not fit the method.
    """
    experts = list(experts)
    measured = _in_memory(method, parameters)
    shared: dict[str, Any] = {}
    own: list[dict[str, Any]] = [{} for _ in experts]
    for given, value in parameters.items():
        name = given.rstrip("_")
        value = value.tolist() if isinstance(value, np.ndarray) else value  # noqa: PLW2901 - the same, as a list
        if isinstance(value, list | tuple) and not any(isinstance(one, dict | list) for one in value):
            if len(value) != len(own):
                raise RecipeError(f"'{name}' has {len(value)} values for {len(own)} experts; expected one for each.")
            for mine, one in zip(own, value, strict=True):
                mine[name] = one
        else:
            shared[name] = value
    recipe = Recipe(
        method=method,
        base=None if base is None or find_method(method).base_joins else "base",
        experts=[Expert(model=f"expert {i}", parameters=mine) for i, mine in enumerate(own, 1)],
        parameters=shared,
        dtype=dtype,
    )
    labelled = {expert.model: arrays for expert, arrays in zip(recipe.experts, experts, strict=True)}
    labelled |= {} if base is None else {"base": base}
    sources = [ArrayCheckpoint(labelled[expert.model], expert.model) for expert in recipe.merged]
    if recipe.in_delta_space and base is not None:
        sources.insert(0, ArrayCheckpoint(base, "base"))
    for source in sources:
        require_unquantised(source)
    if find_method(method).statistics and not measured:
        check_parameters(recipe)
        measured = open_statistics(recipe, Connections())
        require_measured(recipe, {source.location: source for source in sources}, measured)
    return _warned(build_plan(recipe, sources, measured), threads, memory, device)


def _in_memory(method: str, parameters: dict[str, Any]) -> Sequence[StatisticsFile]:
    """Return the statistics that are given as arrays, and put words in their place among the parameters."""
    kind, given = find_method(method).statistics, parameters.get("statistics")
    if not kind or not isinstance(given, list | tuple) or not all(isinstance(one, Mapping) for one in given):
        return ()
    parameters["statistics"] = [f"statistics {i}" for i in range(1, len(given) + 1)]
    return [in_memory(one, kind, word) for one, word in zip(given, parameters["statistics"], strict=True)]


def into_arrays(
    planned: Plan, threads: int | None, memory: str | int, device: str | None = None
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return the merged arrays of a plan, and a sentence for each that is copied, though the models differ in it."""
    layout = lay_out_for(planned, None if device is None else open_device(device), threads, memory)
    allow_open_files(planned.sources)
    arrays = ArrayTarget((output.name, output.dtype, output.shape) for output in planned.outputs)
    disagreeing = run(planned, layout, merge_target(planned, arrays))
    return arrays.arrays, [planned.disagreement(name) for name in disagreeing]


def _warned(planned: Plan, threads: int | None, memory: str | int, device: str | None) -> dict[str, NDArray[Any]]:
    """Return the merged arrays of a plan, once whoever called the function that calls this one is warned."""
    arrays, disagreements = into_arrays(planned, threads, memory, device)
    names = {own for name, member in planned.members.items() for own in (name, *member.names)}
    for sentence in (*unmatched_filters(planned.recipe, names), *disagreements):
        warnings.warn(sentence, stacklevel=3)
    return arrays
