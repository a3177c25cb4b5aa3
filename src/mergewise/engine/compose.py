"""Slices and modules become checkpoints: views whose tensors have the names of the result.

The n-th view holds what is the n-th input of every tensor of the result, from whatever model and layer it comes, so the
engine merges a recipe of slices as it merges whole models. The conventions are mergekit's: a gradient runs from the
first layer of a slice to its last, in a slice of one layer it is at its end; embeddings come from the first slice, the
final norm and the head from the last, both at the start of a gradient; the filters of one model's parameters see its
own tensor names, those of shared parameters the names of the result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergewise.checkpoint import AlignedCheckpoint, Source
from mergewise.checkpoint.tokens import is_head
from mergewise.engine.align import Places, align_slice, remarks_on, renamed, showing_head
from mergewise.engine.configuration import LayerOrigin, layer_count, with_layers
from mergewise.engine.modules import module_tensors
from mergewise.errors import CheckpointError, RecipeError
from mergewise.recipe import LayerPositions, Recipe, Section, layer_of

__all__ = ["Composition", "Member", "compose"]

_FIRST = ("embed", "wte", "wpe", "shared")  # parts of names of what stands before the layers


@dataclass(frozen=True, slots=True)
class Member:
    """Where a tensor of the result comes from.

    Attributes:
        section: The section whose models are merged into it.
        position: Its place on gradients, in [0, 1].
        names: Its name in every model that is merged.
    """

    section: Section
    position: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class Composition:
    """A recipe of slices or modules, as the engine merges it.

    Attributes:
        sources: The n-th input of every tensor; the base first, if the method works on changes to one.
        members: Where each tensor of the result comes from.
        remarks: What a user should know, a sentence each.
    """

    sources: tuple[Source, ...]
    members: Mapping[str, Member]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Input:
    """One input of a section: a model, and the layers that it contributes."""

    places: Places
    source: Source
    layers: tuple[int, int] | None
    place: str


def compose(recipe: Recipe, models: Mapping[str, Source]) -> Composition:
    """Bring the slices or modules of a recipe into the form of whole models.

    Args:
        recipe: A recipe of slices or modules.
        models: Every model that it names, opened.

    Raises:
        MergewiseError: The models have not the layers or the tensors that the recipe needs.
    """
    remarks = remarks_on(models.values())
    template = showing_head(models[recipe.models[0]], _behind_heads(recipe, models), remarks)
    models = {**models, recipe.models[0]: template}
    named = {name: renamed(source, template, remarks) for name, source in models.items()}
    for name, source in models.items():
        _check_widths(source, template, name)
    parts = _parts(recipe, named, template, remarks)
    columns: list[Places] = []
    members: dict[str, Member] = {}
    origins: list[tuple[str, list[LayerOrigin]]] = []
    for part, sections in parts:
        layers: list[LayerOrigin] = []
        for number, section in enumerate(sections):
            inputs = _inputs(recipe, section, named, models, part)
            ends = (number == 0, number == len(sections) - 1)
            views, positions = _views(recipe, section, inputs, len(layers), ends, template, remarks)
            merged = views[len(views) - len(section.merged) :]
            for name, position in positions.items():
                members[name] = Member(section, position, tuple(view[name][1].name for view in merged))
            for column, view in enumerate(views):
                columns += [{}] * (column == len(columns))
                columns[column] = columns[column] | view
            first, last = inputs[0].layers or (0, 0)
            layers += [LayerOrigin(inputs[0].source, i) for i in range(first, last)]
        if layers:
            origins.append((part[0] if part else "", layers))
    _check_shapes(columns[0], template)
    remarks += [_uneven(sections) for _, sections in parts if len(sections[-1].merged) > len(sections[0].merged)]
    config = with_layers(template, origins, keeps_head=any(map(is_head, members)), remarks=remarks)
    firsts = [AlignedCheckpoint(template, columns[0], config)]
    others = [AlignedCheckpoint(_any_source(column, template), column) for column in columns[1:]]
    return Composition((*firsts, *others), members, tuple(dict.fromkeys(remarks)))


def _uneven(sections: Sequence[Section]) -> str:
    first, last = len(sections[0].merged), len(sections[-1].merged)
    return (
        f"Final norm and head are merged from all {last} models of the last slice; mergekit takes no more of them than "
        f"the first slice has ({first})."
    )


_Part = frozenset[str] | None


def _behind_heads(recipe: Recipe, models: Mapping[str, Source]) -> list[Source]:
    """Return the models that a head comes from: those of the last slice, of every module."""
    ends = {section.module: section for section in recipe.sections}.values()
    names = [name for section in ends for name in (*(expert.model for expert in section.merged), section.base)]
    return [models[name] for name in names if name is not None and name in models]


def _parts(
    recipe: Recipe, named: Mapping[str, Places], template: Source, remarks: list[str]
) -> list[tuple[tuple[str, _Part] | None, list[Section]]]:
    """Return the parts of the model, each with the names of its tensors, and the sections that make it."""
    if not recipe.modules:
        return [(None, list(recipe.sections))]
    names = frozenset(name for places in named.values() for name in places)
    tensors = module_tensors(recipe.modules, names, template, remarks)
    return [
        ((module, tensors[module]), [section for section in recipe.sections if section.module == module])
        for module in recipe.modules
    ]


def _inputs(
    recipe: Recipe,
    section: Section,
    named: Mapping[str, Places],
    models: Mapping[str, Source],
    part: tuple[str, _Part] | None,
) -> list[_Input]:
    """Return the inputs of a section in the order of the engine: the base first where changes to it are merged."""
    wanted: list[tuple[str, tuple[int, int] | None, str]] = []
    ranges = {section.layer_range(i) for i in range(len(section.merged))} - {None}
    shared = next(iter(ranges)) if len(ranges) == 1 else None
    if recipe.in_delta_space and section.base is not None:
        wanted.append((section.base, section.base_layers or shared, f"{section.place}.base_model"))
    for i, (expert, place) in enumerate(zip(section.merged, section.places, strict=True)):
        wanted.append((expert.model, section.layer_range(i) or shared, place.removesuffix(".parameters")))
    found = []
    for model, layers, place in wanted:
        if section.layers is not None and layers is None:
            raise RecipeError(
                f"The sources at {section.place} have different layer ranges, so those of the base '{model}' are not "
                "clear; list it among the sources."
            )
        places = named[model]
        if part is not None:
            places = {name: at for name, at in places.items() if part[1] is None or name in part[1]}
        found.append(_Input(places, models[model], layers, place))
    return found


def _views(
    recipe: Recipe,
    section: Section,
    inputs: Sequence[_Input],
    offset: int,
    ends: tuple[bool, bool],
    template: Source,
    remarks: list[str],
) -> tuple[list[Places], dict[str, float]]:
    """Return the tensors of every input under the names of the result, and their places on gradients."""
    if section.layers is None:
        views = [dict(one.places) for one in inputs]
        position = LayerPositions(views[0])
        positions = {name: position(name) for name in views[0]}
    else:
        stack = _stack(inputs[0], template, section)
        views = [_sliced(one, stack, offset, ends) for one in inputs]
        last = section.layers - 1
        positions = {}
        for name in views[0]:
            layer = layer_of(name)
            if layer is None or layer[0] != stack:
                positions[name] = 0.0
            else:
                positions[name] = (layer[1] - offset) / last if last else 1.0
    reference = AlignedCheckpoint(inputs[0].source, views[0])
    others = zip(views[1:], inputs[1:], strict=True)
    aligned = [align_slice(view, one.source, reference, recipe, remarks) for view, one in others]
    return [views[0], *aligned], positions


def _stack(one: _Input, template: Source, section: Section) -> str:
    """Return the stack whose layers are sliced: the only one, or the one that the configuration counts."""
    stacks = LayerPositions(one.places).stacks
    if len(stacks) == 1:
        return next(iter(stacks))
    if not stacks:
        raise CheckpointError(f"{one.source.location} has no layers in its tensor names, so nothing can be sliced.")
    listed = ", ".join(f"'{stack}' ({count} layers)" for stack, count in sorted(stacks.items()))
    count = layer_count(template.config())
    counted = [stack for stack, layers in stacks.items() if layers == count]
    if section.module is not None and len(counted) == 1:
        return counted[0]
    raise RecipeError(
        f"{one.source.location} has several stacks of layers, {listed}; say with 'modules' which of them "
        f"{section.place} is about."
    )


def _sliced(one: _Input, stack: str, offset: int, ends: tuple[bool, bool]) -> Places:
    """Return the layers of an input, counted from an offset on, and what stands before or after all layers."""
    first, end = one.layers or (0, 0)
    count = LayerPositions(one.places).stacks.get(stack, 0)
    if end > count:
        raise RecipeError(
            f"The layer_range [{first}, {end}] at {one.place} reaches beyond {one.source.location}, which has {count} "
            f"layers in '{stack}'."
        )
    found: Places = {}
    for name, place in one.places.items():
        layer = layer_of(name)
        if layer is None or layer[0] != stack:
            if ends[0] if _stands_before(name) else ends[1]:
                found[name] = place
        elif first <= layer[1] < end:
            rest = name[len(f"{stack}.{layer[1]}") :]
            found[f"{stack}.{layer[1] - first + offset}{rest}"] = place
    return found


def _stands_before(name: str) -> bool:
    """Whether a tensor outside the layers is an embedding, rather than a final norm or a head."""
    parts = name.lower().split(".")
    return not is_head(name) and any(part.startswith(_FIRST) or "embed" in part for part in parts)


def _check_widths(source: Source, template: Source, name: str) -> None:
    """Require one hidden size: layers of different models need not have a tensor in common that would show it."""
    widths = [one.config().get("hidden_size") for one in (source, template)]
    if None not in widths and widths[0] != widths[1]:
        raise CheckpointError(
            f"{source.location} has hidden size {widths[0]}, expected {widths[1]} as in {template.location}; only "
            f"layers of one width can stand upon each other (model '{name}')."
        )


def _check_shapes(result: Places, template: Source) -> None:
    """Require that every tensor has a shape that the template's configuration tells of: that of one of its layers."""
    known: dict[tuple[str, str], set[tuple[int, ...]]] = {}
    for name, info in template.tensors.items():
        known.setdefault(_kind(name), set()).add(info.shape)
    for name, (source, info) in result.items():
        shapes = known.get(_kind(name), {info.shape})
        if info.shape in shapes:
            continue
        layer = layer_of(name)
        expected = f"{list(min(shapes))} as in {'the layers of ' if layer else ''}{template.location}"
        hint = (
            "only layers of one shape can stand upon each other"
            if layer
            else "bring different vocabularies together with 'tokenizer', as in 'tokenizer: {source: union}'"
        )
        raise CheckpointError(
            f"Tensor '{info.name}' has shape {list(info.shape)} in {source.location}, expected {expected}; {hint}."
        )


def _kind(name: str) -> tuple[str, str]:
    """Return what a tensor is whatever its layer: its stack, and its name below the layer's number."""
    layer = layer_of(name)
    return (layer[0], name[len(f"{layer[0]}.{layer[1]}") :]) if layer else ("", name)


def _any_source(column: Places, template: Source) -> Source:
    return next((source for source, _ in column.values()), template)
