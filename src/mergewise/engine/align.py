"""Bringing checkpoints of one model to the same tensors, by stated policies: prefixes, ties, missing and extra tensors.

One source is the reference: its tensors are those of the result. Everything that is done is reported.
"""

from collections.abc import Iterable, Iterator, Sequence

from mergewise.checkpoint import (
    SINGLE_NAME,
    AdaptedCheckpoint,
    AlignedCheckpoint,
    Checkpoint,
    DequantisedCheckpoint,
    GatheredCheckpoint,
    GgufCheckpoint,
    Source,
    TensorInfo,
)
from mergewise.checkpoint.folder import INDEX_NAME
from mergewise.checkpoint.tokens import is_embedding, is_head, tied_head, ties_head, untied
from mergewise.checkpoint.wrapped import WrappedCheckpoint
from mergewise.engine.configuration import UNTIED
from mergewise.errors import CheckpointError
from mergewise.recipe import Recipe

__all__ = ["Places", "align", "align_slice", "remarks_on", "renamed", "showing_head", "with_own_head"]

Places = dict[str, tuple[Source, TensorInfo]]


def align(sources: Sequence[Source], recipe: Recipe, chosen: int) -> tuple[list[Source], list[str]]:
    """Give every source the tensors of one of them.

    Args:
        sources: The base first, if the method works in delta space; then the models.
        recipe: Its ``missing_tensors`` and ``extra_tensors`` say what to do where no rule finds a tensor's place.
        chosen: Which of them.

    Returns:
        The sources as they are to be read, and remarks on what was done.

    Raises:
        CheckpointError: A tensor is missing, extra or of another shape, and the recipe does not say what to do.
    """
    reference = sources[chosen]
    remarks = remarks_on(sources)
    if isinstance(reference, GgufCheckpoint) and not (reference.folder / "tokenizer.json").is_file():
        remarks.append(f"The result has no tokenizer, since {reference.location} has it only in its GGUF form.")
    reference = showing_head(reference, [*sources[:chosen], *sources[chosen + 1 :]], remarks)
    aligned: list[Source] = []
    for number, source in enumerate(sources):
        if number == chosen:
            aligned.append(reference)
            continue
        places: Places = {name: (source, info) for name, info in source.tensors.items()}
        if places.keys() != reference.tensors.keys():
            places = _without_prefix(places, source, reference, remarks)
            places = _with_tied_head(places, source, reference, remarks)
            places = _with_missing(places, source, reference, recipe, remarks)
            places = _without_extra(places, reference, recipe, remarks)
        _check_shapes(places, reference)
        same_names = all(name == info.name and own is source for name, (own, info) in places.items())
        untouched = same_names and places.keys() == source.tensors.keys()
        aligned.append(source if untouched else AlignedCheckpoint(source, places))
    return aligned, list(dict.fromkeys(remarks))


def showing_head(reference: Source, others: Iterable[Source], remarks: list[str]) -> Source:
    """Return the reference; with its embedding as its head, too, if it ties the two and another has a head of its own.

    A head that a model stores is its own unless its configuration says otherwise. Where that of the reference says
    nothing, which some architectures take for tied, the other's has to say that it is not.
    """
    config = reference.config()
    tied = tied_head(config, reference.tensors)
    if tied is None:
        return reference
    _, embedding = tied
    columns = reference.tensors[embedding].shape[1:]
    heads = [
        info
        for source in others
        if _has_own_head(source) and (ties_head(config) or source.config().get("tie_word_embeddings") is False)
        for info in source.tensors.values()
    ]
    head = next((info.name for info in heads if is_head(info.name) and info.shape[1:] == columns), None)
    if head is None:
        return reference
    remarks += [_read_from(reference, head, embedding), UNTIED]
    places = {name: (reference, info) for name, info in reference.tensors.items()}
    return AlignedCheckpoint(reference, places | {head: places[embedding]}, untied(config))


def with_own_head(reference: Source, others: Iterable[Source], remarks: list[str]) -> Source:
    """Return the reference; untied if its head, a copy of its embedding, is merged with one that is none."""
    config = reference.config()
    if not ties_head(config) or not any(map(_has_own_head, others)):
        return reference
    remarks.append(UNTIED)
    places = {name: (reference, info) for name, info in reference.tensors.items()}
    return AlignedCheckpoint(reference, places, untied(config))


def _has_own_head(source: Source) -> bool:
    """Whether a model stores a head that its configuration does not say to be its embedding."""
    return any(map(is_head, source.tensors)) and not ties_head(source.config())


def remarks_on(sources: Iterable[Source]) -> list[str]:
    """Return remarks on sources.

    They are on those that are stored in eight bits, or as GGUF, those whose adapter unties the head or lies beside a
    whole model, and those beside which lies an index of other files.
    """
    found = [source.own if isinstance(source, GatheredCheckpoint) else source for source in sources]
    remarks = [_eight_bit(source) for source in found if isinstance(source, DequantisedCheckpoint)] + [
        f"{source.location} is a GGUF: {len(source.dequantised)} of its {len(source.tensors)} tensors are dequantised."
        for source in found
        if isinstance(source, GgufCheckpoint)
    ]
    remarks += [
        f"{source.location} holds {SINGLE_NAME}, which is read as in transformers, and {source.left_out.name}, which "
        "names other files and is left out."
        for source in _all_parts(found)
        if isinstance(source, Checkpoint) and source.left_out is not None
    ]
    remarks += [
        f"{source.adapter.path} holds an adapter and a whole model, {name}; it is read as the adapter, as in PEFT, so "
        "move that elsewhere if the model is meant."
        for source in found
        if isinstance(source, AdaptedCheckpoint)
        for name in _whole_models_beside(source)
    ]
    return remarks + [
        f"The adapter of {source.location} brings '{embedding}' without the head that its base ties to it; as in PEFT, "
        f"'{head}' stays the base's embedding, and 'tie_word_embeddings' is false."
        for source in found
        if isinstance(source, AdaptedCheckpoint)
        for head, embedding in source.kept_heads.items()
    ]


def _whole_models_beside(source: AdaptedCheckpoint) -> list[str]:
    """Return the names of files of a whole model that lie in the folder of an adapter."""
    try:
        return [file.name for file in source.adapter.path.iterdir() if file.name in {SINGLE_NAME, INDEX_NAME}]
    except (OSError, CheckpointError):
        return []  # a folder that gives files, but no lists


def _all_parts(sources: Iterable[Source]) -> Iterator[Source]:
    for source in sources:
        yield source
        yield from _all_parts(source.parts if isinstance(source, WrappedCheckpoint) else ())


def _eight_bit(source: DequantisedCheckpoint) -> str:
    without = sorted(source.unscaled)
    how = f"; {len(without)} of them have none, such as '{without[0]}', and are read as they are" if without else ""
    left_out = sorted(source.activations)
    how += f"; {len(left_out)} scales of activations, such as '{left_out[0]}', are left out" if left_out else ""
    count, where = len(source.dequantised), source.location
    return f"{count} tensors of {where} are stored in eight bits and read with their scales{how}."


def renamed(source: Source, reference: Source, remarks: list[str]) -> Places:
    """Return a source's tensors under the names that the reference gives them, whatever layers each has."""
    places: Places = {name: (source, info) for name, info in source.tensors.items()}
    if places.keys() == reference.tensors.keys():
        return places
    places = _without_prefix(places, source, reference, remarks)
    return _with_tied_head(places, source, reference, remarks)


def align_slice(places: Places, source: Source, reference: Source, recipe: Recipe, remarks: list[str]) -> Places:
    """Give the layers or the module of one model, which may be none, the tensors of the reference; as ``align``."""
    places = _with_tied_head(places, source, reference, remarks)
    places = _with_missing(places, source, reference, recipe, remarks)
    places = _without_extra(places, reference, recipe, remarks)
    _check_shapes(places, reference)
    return places


def _without_prefix(places: Places, source: Source, reference: Source, remarks: list[str]) -> Places:
    """Add or take away the prefix by which most names differ, as ``bert.`` of a model without its head."""
    names = reference.tensors.keys()
    shared = len(names & places.keys())
    half = min(len(names), len(places)) // 2
    best, change = places, ""
    for prefix in sorted({name.split(".")[0] + "." for name in places}):
        stripped = {name.removeprefix(prefix): place for name, place in places.items()}
        if len(stripped) == len(places) and len(names & stripped.keys()) > max(shared, half):
            best, change, shared = stripped, f"without their prefix '{prefix}'", len(names & stripped.keys())
    for prefix in sorted({name.split(".")[0] + "." for name in names}):
        extended = {name if name in names else prefix + name: place for name, place in places.items()}
        if len(extended) == len(places) and len(names & extended.keys()) > max(shared, half):
            best, change, shared = extended, f"with the prefix '{prefix}'", len(names & extended.keys())
    if change:
        remarks.append(f"Tensors of {source.location} are matched {change} to those of {reference.location}.")
    return best


def _with_tied_head(places: Places, source: Source, reference: Source, remarks: list[str]) -> Places:
    """Read a head that a model ties to its embedding from there, and drop one that the reference ties."""
    embedding = next((place for name, place in places.items() if is_embedding(name)), None)
    config = source.config()
    tied = ties_head(config)
    # what a configuration does not say is taken for a tie where the result says that its head is its own
    own = reference.config().get("tie_word_embeddings") is False
    without = tied or (own and tied_head(config, source.tensors) is not None)
    found = dict(places)
    for name, info in reference.tensors.items():
        if is_head(name) and name not in places and without and embedding and embedding[1].shape == info.shape:
            found[name] = embedding
            remarks.append(_read_from(source, name, embedding[1].name))
    for name in places.keys() - reference.tensors.keys():
        if is_head(name) and tied and embedding and places[name][1].shape == embedding[1].shape:
            del found[name]
            remarks.append(f"'{name}' of {source.location} is its embedding by its configuration, and is left out.")
    return found


def _read_from(source: Source, head: str, embedding: str) -> str:
    return f"{source.location} ties '{head}' to '{embedding}', which is read in its place."


def _with_missing(places: Places, source: Source, reference: Source, recipe: Recipe, remarks: list[str]) -> Places:
    missing = sorted(reference.tensors.keys() - places.keys())
    if not missing:
        return places
    if recipe.missing_tensors == "refuse":
        hint = (
            ", or say 'missing_tensors: base' in a recipe to count them as unchanged" if recipe.in_delta_space else ""
        )
        raise CheckpointError(
            f"{source.location} lacks {len(missing)} of the tensors of {reference.location}, such as '{missing[0]}'; "
            f"merge models of one architecture{hint}{_tie_hint(missing, source)}."
        )
    remarks.append(f"{len(missing)} tensors that {source.location} lacks count as unchanged, such as '{missing[0]}'.")
    return places | {name: (reference, reference.tensors[name]) for name in missing}


def _without_extra(places: Places, reference: Source, recipe: Recipe, remarks: list[str]) -> Places:
    extra = sorted(places.keys() - reference.tensors.keys())
    if not extra:
        return places
    source = places[extra[0]][0]
    if recipe.extra_tensors == "refuse":
        raise CheckpointError(
            f"{reference.location} lacks {len(extra)} of the tensors of {source.location}, such as '{extra[0]}'; merge "
            "models of one architecture, or say 'extra_tensors: drop' in a recipe to leave them out"
            f"{_tie_hint(extra, reference)}."
        )
    remarks.append(f"{len(extra)} tensors that only {source.location} has are left out, such as '{extra[0]}'.")
    return {name: place for name, place in places.items() if name in reference.tensors}


def _tie_hint(names: Sequence[str], source: Source) -> str:
    """Return what to do where nothing but a head is lacking."""
    if not all(map(is_head, names)) or not any(map(is_embedding, source.tensors)):
        return ""
    statement = "'\"tie_word_embeddings\": true'"
    return f", or write {statement} into the config.json of {source.location} if its head is its embedding"


def _check_shapes(places: Places, reference: Source) -> None:
    for name, info in reference.tensors.items():
        source, other = places[name]
        if other.shape != info.shape:
            raise CheckpointError(
                f"Tensor '{name}' has shape {list(other.shape)} in {source.location}, expected {list(info.shape)} as "
                f"in {reference.location}; only tensors of one shape can be merged."
            )
