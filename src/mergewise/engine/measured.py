"""Statistics that a merge needs of its models: opened, matched with their tensors, refused where they are others'."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import (
    STORAGE_DTYPES,
    AlignedCheckpoint,
    ArrayCheckpoint,
    Connections,
    Source,
    StatisticsFile,
    TensorInfo,
    model_digest,
    open_statistics_file,
)
from mergewise.errors import CheckpointError, RecipeError
from mergewise.method import Measured, find_method
from mergewise.recipe import Recipe, tensor_settings

__all__ = ["NO_ENTRIES", "Entries", "entries_of", "in_memory", "open_statistics", "require_measured"]


@dataclass(frozen=True)
class Entries:
    """The statistics of all models, under the names that tensors have in the result.

    Attributes:
        views: One per model; tensors without statistics are in none.
        files: The files that they show.
    """

    views: tuple[AlignedCheckpoint, ...]
    files: tuple[StatisticsFile, ...]

    def of(self, name: str) -> tuple[Measured, ...]:
        """Return what the files say about one tensor; nothing if it has no statistics."""
        return tuple(
            Measured(file.norm, view.place(name)[1].name in file.inputs_first)
            for view, file in zip(self.views, self.files, strict=True)
            if name in view.tensors
        )


NO_ENTRIES = Entries((), ())


def open_statistics(recipe: Recipe, connections: Connections) -> tuple[StatisticsFile, ...]:
    """Open the statistics of every model of a recipe, if its method needs some.

    Raises:
        RecipeError: A model has none, or the recipe is one that statistics cannot be matched with.
        CheckpointError: A file is missing, damaged, or holds something else.
    """
    method = find_method(recipe.method)
    if not method.statistics:
        return ()
    for found, what in ((not recipe.whole, "slices or modules"), (recipe.tokenizer, "a 'tokenizer'")):
        if found:
            raise RecipeError(
                f"{method.name} merges whole models, which its statistics were made of, found {what} in the recipe."
            )
    if recipe.adapter:
        raise RecipeError(f"{method.name} merges weights, so the result is no adapter; leave out 'adapter'.")
    paths: Sequence[str] = tensor_settings(recipe, "", 0.0).values["statistics"]
    files = []
    for expert, place, path in zip(recipe.merged, recipe.sections[0].places, paths, strict=True):
        command = f"mergewise statistics {expert.model} --kind {method.statistics} --examples FILE -o FILE"
        if not path:
            raise RecipeError(
                f"{method.name} needs 'statistics' of every model, found none for {expert.model} at {place}; "
                f"'{command}' makes them."
            )
        file = open_statistics_file(connections.place(path), path)
        if file.kind != method.statistics:
            raise CheckpointError(
                f"{path}: {method.name} needs statistics of the kind '{method.statistics}', found '{file.kind}'; "
                f"'{command}' makes them."
            )
        files.append(file)
    return tuple(files)


def in_memory(arrays: Mapping[str, NDArray], kind: str, location: str) -> StatisticsFile:  # type: ignore[type-arg]
    """Return arrays as statistics, which are taken at their word.

    Args:
        arrays: By name of the tensor.
        kind: ``fisher`` or ``gram``.
        location: What messages call them.
    """
    wide = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    norm = math.sqrt(math.fsum(float(np.sum(array * array)) for array in wide.values()))
    return StatisticsFile(ArrayCheckpoint(wide, location), kind, norm=norm)


def require_measured(recipe: Recipe, models: Mapping[str, Source], statistics: Sequence[StatisticsFile]) -> None:
    """Require that statistics are those of the models that they stand beside.

    Raises:
        CheckpointError: They are not.
    """
    if not statistics:
        return
    for expert, file in zip(recipe.merged, statistics, strict=True):
        if file.model is not None and file.model != model_digest(models[expert.model]):
            raise CheckpointError(
                f"{file.source.location}: expected statistics of {expert.model}, found those of another model, or of "
                "what this one was before; make them anew with 'mergewise statistics'."
            )


def entries_of(sources: Sequence[Source], statistics: Sequence[StatisticsFile], remarks: list[str]) -> Entries:
    """Match statistics with the tensors of their models.

    Args:
        sources: The models, aligned with the first.
        statistics: One for each, or none at all.
        remarks: Takes what a user should know.

    Raises:
        CheckpointError: Only some models have statistics of a tensor, or they have another shape than it needs.
    """
    if not statistics:
        return NO_ENTRIES
    found: list[dict[str, tuple[Source, TensorInfo]]] = [{} for _ in statistics]
    floating = [n for n, info in sources[0].tensors.items() if STORAGE_DTYPES[info.dtype].kind != "exact"]
    for name in floating:
        entries = [_entry(source, file, name) for source, file in zip(sources, statistics, strict=True)]
        lacking = [file for entry, file in zip(entries, statistics, strict=True) if entry is None]
        if lacking and len(lacking) < len(entries):
            raise CheckpointError(
                f"{lacking[0].source.location}: expected statistics of '{name}', which those of other models have; "
                "make all of them with one version of 'mergewise statistics'."
            )
        pairs = zip(entries, statistics, strict=True)
        if len({entry.name in file.inputs_first for entry, file in pairs if entry is not None}) > 1:
            raise CheckpointError(f"Statistics disagree on which axis of '{name}' its inputs are; make them anew.")
        for places, entry, file in zip(found, entries, statistics, strict=True):
            if entry is not None:
                places[name] = (file.source, entry)
    plain = [name for name in floating if name not in found[0]]
    if plain:
        remarks.append(
            f"{len(plain)} of {len(floating)} tensors have no statistics and are averaged by weight, such as "
            f"'{min(plain)}'."
        )
    views = tuple(AlignedCheckpoint(file.source, places) for file, places in zip(statistics, found, strict=True))
    return Entries(views, tuple(statistics))


def _entry(source: Source, file: StatisticsFile, name: str) -> TensorInfo | None:
    """Return the statistics of one tensor of one model; ``None`` if there are none."""
    own = source.place(name)[1] if isinstance(source, AlignedCheckpoint) else source.tensors[name]
    entry = file.source.tensors.get(own.name)
    if entry is None:
        return None
    expected = own.shape
    if file.kind == "gram":
        side = own.shape[:1] if own.name in file.inputs_first else own.shape[-1:]
        expected = (*side, *side) if len(own.shape) == 2 else ()
    if entry.shape != expected:
        raise CheckpointError(
            f"{file.source.location}: expected shape {list(expected)} for the statistics of '{name}', found "
            f"{list(entry.shape)}; make them anew with 'mergewise statistics'."
        )
    return entry
