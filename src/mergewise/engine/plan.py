"""From checkpoint headers alone to a list of jobs: what is read, how it is merged, what is written."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mergewise.checkpoint import (
    FLOAT_NAMES,
    STORAGE_DTYPES,
    Access,
    AdaptedCheckpoint,
    AlignedCheckpoint,
    Connections,
    GatheredCheckpoint,
    OutputTensor,
    Source,
    StatisticsFile,
    natural_dtype,
)
from mergewise.engine.adapters.core_checkpoints import changes
from mergewise.engine.adapters.output import open_adapters
from mergewise.engine.align import align, with_own_head
from mergewise.engine.compose import Member, compose
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.measured import NO_ENTRIES, Entries, entries_of, open_statistics, require_measured
from mergewise.engine.provenance import untaken_folders
from mergewise.engine.references import open_models
from mergewise.engine.vocabulary import gathered, other_tokens, tokenizer_files, tokenizer_models
from mergewise.errors import CheckpointError, RecipeError
from mergewise.method import (
    ElementwiseProgram,
    GeometricProgram,
    LinearProgram,
    Masks,
    MatrixProgram,
    Settings,
    VotingProgram,
    WholeProgram,
    find_method,
    find_post_step,
    with_post_steps,
)
from mergewise.recipe import (
    LayerPositions,
    Recipe,
    TensorSettings,
    check_parameters,
    load_recipe,
    tensor_settings,
    unmatched_filters,
)

__all__ = ["as_recipe", "build_plan", "plan", "plan_models", "plan_over", "wanted_models"]


def as_recipe(recipe: Recipe | str | os.PathLike[str]) -> Recipe:
    """Return a recipe, read from its file if need be."""
    return recipe if isinstance(recipe, Recipe) else load_recipe(recipe)


def wanted_models(recipe: Recipe) -> list[str]:
    """Return every model that a recipe needs opened: what it merges, and what its tokenizer comes from."""
    if recipe.whole and recipe.tokenizer is None and recipe.chat_template is None:
        return _source_names(recipe)
    return list(dict.fromkeys([*recipe.models, *tokenizer_models(recipe)]))


def _source_names(recipe: Recipe) -> list[str]:
    """Return the models of a recipe of whole models in the order in which the engine reads them."""
    base = [recipe.base] if recipe.in_delta_space and recipe.base is not None else []
    return [*base, *(expert.model for expert in recipe.merged)]


def plan(
    recipe: Recipe | str | os.PathLike[str],
    access: Access | None = None,
    revisions: Mapping[str, str] | None = None,
) -> Plan:
    """Plan a merge; only headers and configurations are read.

    Args:
        recipe: A recipe, or the file that holds one.
        access: How other machines may be reached; by default as the environment says.
        revisions: Commits that references to the Hub stand for; others are looked up.

    Raises:
        MergewiseError: Anything that would keep the merge from succeeding, as far as headers can tell.
    """
    recipe = as_recipe(recipe)
    check_parameters(recipe)
    return plan_over(recipe, Connections(access, revisions))


def plan_over(recipe: Recipe, connections: Connections, made: Mapping[str, Source] | None = None) -> Plan:
    """Plan a merge of models that are read over given connections.

    Args:
        recipe: What to do.
        connections: What the models share.
        made: Models that are open already, or still to be made by an earlier stage.

    Raises:
        MergewiseError: As ``plan``.
    """
    statistics = open_statistics(recipe, connections)
    if recipe.adapter:
        planned = _plan_adapter(recipe, connections)
    else:
        models = open_models(wanted_models(recipe), recipe.base, connections, made)
        require_measured(recipe, models, statistics)
        planned = plan_models(recipe, models, statistics)
    remarks = (*planned.remarks, *connections.remarks)
    return replace(planned, remarks=remarks, revisions=dict(connections.commits))


def plan_models(recipe: Recipe, models: Mapping[str, Source], statistics: Sequence[StatisticsFile] = ()) -> Plan:
    """Plan a merge of any form.

    Args:
        recipe: What to do.
        models: Every model that it names, opened, also those of its tokenizer.
        statistics: Those of every expert, if the method needs some.

    Raises:
        MergewiseError: As ``plan``.
    """
    remarks: list[str] = []
    opened, vocabulary = dict(models), None
    if recipe.tokenizer is not None:
        opened, vocabulary = gathered(recipe, recipe.tokenizer, models, remarks)
    else:
        remarks += other_tokens([models[name] for name in recipe.models if name in models])
    if recipe.whole:
        planned = build_plan(recipe, [opened[name] for name in _source_names(recipe)], statistics)
    else:
        composed = compose(recipe, {name: opened[name] for name in recipe.models})
        notes = (*check_parameters(recipe), *composed.remarks)
        planned = _plan(recipe, composed.sources, composed.members, notes)
    sources = [models[name] for name in recipe.models if name in models]
    small_files = tokenizer_files(recipe, planned.template, sources, vocabulary, remarks)
    folders = untaken_folders(planned.template)
    if folders:
        remarks.append(
            f"modules.json of {planned.template.location} names folders, which are not taken over; copy "
            f"{', '.join(folders)} into the result if it is for sentence-transformers."
        )
    return replace(planned, remarks=(*planned.remarks, *remarks), small_files=small_files)


def build_plan(
    recipe: Recipe,
    sources: Sequence[Source],
    statistics: Sequence[StatisticsFile] = (),
    positions: LayerPositions | None = None,
) -> Plan:
    """Plan a merge of opened checkpoints.

    Args:
        recipe: What to do.
        sources: The base first, if the method works in delta space; then the experts in the order of the recipe.
        statistics: Those of every expert, if the method needs some.
        positions: Where tensors stand among the layers of the model; ``None`` if the sources hold all of them.

    Raises:
        MergewiseError: As ``plan``.
    """
    remarks = check_parameters(recipe)
    used = {s.location for s in sources} | {s.own.location for s in sources if isinstance(s, AdaptedCheckpoint)}
    if recipe.base is not None and recipe.base not in used:
        remarks.append(f"{recipe.method} averages weights, so the base '{recipe.base}' takes no part in it.")
    if find_method(recipe.method).base_joins and recipe.whole and len(recipe.merged) > len(recipe.experts):
        remarks.append(f"The base '{recipe.base}' is merged too, as the last of the models.")
    twice = [name for name, count in Counter(expert.model for expert in recipe.merged).items() if count > 1]
    remarks += [f"'{name}' is listed more than once, and counts as often." for name in twice]
    names = _source_names(recipe)
    template = names.index(recipe.base) if recipe.base in names else 0
    aligned, done = align(sources, recipe, template)
    measured = entries_of(aligned, statistics, done)
    others = [*aligned[:template], *aligned[template + 1 :]]
    aligned[template] = with_own_head(aligned[template], others, done)
    return _plan(recipe, aligned, None, (*remarks, *done), measured, template, positions)


def _plan(
    recipe: Recipe,
    sources: Sequence[Source],
    members: Mapping[str, Member] | None,
    remarks: tuple[str, ...],
    measured: Entries = NO_ENTRIES,
    template: int = 0,
    positions: LayerPositions | None = None,
) -> Plan:
    _check_dtypes(sources)
    sources[template].config()  # a damaged configuration is better known now than after the merge
    positions = positions or LayerPositions(sources[0].tensors)
    members = members or _whole_members(recipe, sources[0], positions)
    names = sorted(sources[0].tensors, key=str.encode)
    jobs = [_job(recipe, sources, name, members[name], measured, positions(name), sources[template]) for name in names]
    _check_model_scope(jobs)
    told = {own for name, member in members.items() for own in (name, *member.names)}
    remarks = (*remarks, *unmatched_filters(recipe, told))
    copied = sum(job.program is None for job in jobs)
    if copied:
        remarks = (*remarks, f"{copied} integer or boolean tensors are copied from {sources[0].location}.")
    return Plan(recipe, (*sources, *measured.views), tuple(jobs), remarks, members, template_number=template)


def _whole_members(recipe: Recipe, reference: Source, positions: LayerPositions) -> dict[str, Member]:
    """Return where the tensors of whole models come from."""
    section = recipe.sections[0]
    return {name: Member(section, positions(name), (name,) * len(section.merged)) for name in reference.tensors}


def _plan_adapter(recipe: Recipe, connections: Connections) -> Plan:
    """Plan a merge of adapters into one: the recipe is carried out on their cores."""
    merge = open_adapters(recipe, connections)
    in_core: dict[str, Any] = {"dtype": None, "out_dtype": None}  # "adapter" stays: its base is never merged too
    planned = build_plan(recipe.model_copy(update=in_core), merge.sources, positions=merge.positions)
    changed = changes(merge.space)
    jobs = []
    for job in planned.jobs:
        program = job.program
        if isinstance(program, LinearProgram) and not program.delta:
            share = sum(program.weights) * program.scale / program.divisor
            if abs(share - 1.0) > 1e-9:
                raise RecipeError(
                    f"{recipe.method} merges weights, and those of '{job.name}' sum to {share:g}, so that the result "
                    "is not the base plus an adapter; take 'normalize: true' or task_arithmetic."
                )
        by_slices = isinstance(program, WholeProgram) or (isinstance(program, GeometricProgram) and program.row)
        by_slices = by_slices or (isinstance(program, MatrixProgram) and not program.decomposes)
        if by_slices and job.name in merge.space.modules:
            raise RecipeError(
                f"{recipe.method} is asked to treat rows or columns of the weights apart, which an adapter does not "
                "have; let it take whole tensors, or leave out 'adapter'."
            )
        (output, *_) = merge.written[job.name]
        replaces = job.name not in changed
        jobs.append(replace(job, output=replace(output, name=job.name)) if replaces else job)
    return replace(planned, recipe=recipe, jobs=tuple(jobs), remarks=(*planned.remarks, *merge.remarks), adapter=merge)


def _job(
    recipe: Recipe,
    sources: Sequence[Source],
    name: str,
    member: Member,
    measured: Entries,
    depth: float,
    template: Source,
) -> TensorJob:
    """Return the job of a tensor; its depth is its place among the layers of the result, from 0 to 1."""
    inputs = [source.tensors[name] for source in sources if name in source.tensors]
    first = inputs[0]
    if STORAGE_DTYPES[first.dtype].kind == "exact":
        return TensorJob(name, tuple(inputs), None, OutputTensor(name, first.dtype, first.shape, first.nbytes))
    method = find_method(recipe.method)
    settings = tensor_settings(recipe, name, member.position, member.section, member.names)
    if method.statistics:
        inputs += [view.tensors[name] for view in measured.views if name in view.tensors]
        settings = TensorSettings({**settings.values, "statistics": measured.of(name)})
    try:
        program = method.program(settings.values, len(member.section.merged), first.shape)
        if recipe.post:
            steps = [(n, find_post_step(n).resolve(given, "post")) for step in recipe.post for n, given in step.items()]
            masks = _masks(settings.values, name, first.shape)
            program = with_post_steps(
                program, method, settings.values, len(member.section.merged), steps, depth, first.shape, masks
            )
    except ValueError as error:
        raise RecipeError(f"{recipe.method} needs {error}; found otherwise for tensor '{name}'.") from None
    if isinstance(program, ElementwiseProgram | GeometricProgram | WholeProgram | MatrixProgram):
        program = replace(program, delta=method.merges_deltas(member.section.base))
    dtype = FLOAT_NAMES[recipe.result_dtype] if recipe.result_dtype else _own_dtype(template, name)
    nbytes = first.numel * STORAGE_DTYPES[dtype].bits // 8
    return TensorJob(name, tuple(inputs), program, OutputTensor(name, dtype, first.shape, nbytes))


def _masks(settings: Settings, name: str, shape: tuple[int, ...]) -> Masks:
    """Return the masks that kernels would draw for a tensor."""

    def mask(number: int, density: Any, /) -> Any:
        from mergewise.engine.masks import random_masks  # noqa: PLC0415 - brings in the compiled kernels

        return random_masks(settings, name, shape)(number, density)

    return mask


def _own_dtype(source: Source, name: str) -> str:
    """Return the dtype in which a result is written that keeps its own."""
    while True:
        match source:
            case AlignedCheckpoint():
                source, info = source.place(name)
            case GatheredCheckpoint():  # where rows are computed, it shows them in float64
                info = source.own.tensors[name]
                source = source.own
            case _:
                break
        name = info.name
    return natural_dtype(source, name)


def _check_dtypes(sources: Sequence[Source]) -> None:
    for source in sources:
        for name, info in source.tensors.items():
            kind = STORAGE_DTYPES[info.dtype].kind
            if kind == "other":
                raise CheckpointError(
                    f"Tensor '{name}' in {source.location} is stored as {info.dtype}, which cannot be merged in this "
                    "version; convert it to BF16 or F32 first."
                )
            expected = STORAGE_DTYPES[sources[0].tensors[name].dtype].kind
            if kind != expected:
                raise CheckpointError(
                    f"Tensor '{name}' is stored as {info.dtype} in {source.location}, but as "
                    f"{sources[0].tensors[name].dtype} in {sources[0].location}; expected both floating or both not."
                )


def _check_model_scope(jobs: Sequence[TensorJob]) -> None:
    """Require one density and one γ per expert where magnitudes are ranked over the whole model."""
    voting = {job.name: job.program for job in jobs if isinstance(job.program, VotingProgram)}
    if all(program.scope == "tensor" for program in voting.values()):
        return
    (first, program), *others = voting.items()
    for name, other in others:
        for parameter, value in _ranking(other).items():
            if value != _ranking(program)[parameter]:
                raise RecipeError(
                    "With 'scope: model' magnitudes are ranked over the whole model, so "
                    f"'{parameter}' cannot differ between tensors; found otherwise for '{first}' and '{name}'."
                )


def _ranking(program: VotingProgram) -> dict[str, Any]:
    """Return the parameters that say what is kept where magnitudes are ranked; a density of one leaves γ no room."""
    outliers = program.outliers if program.sparse else ()
    return {"scope": program.scope, "density": program.densities, "gamma": outliers}
