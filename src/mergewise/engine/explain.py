"""What happens to one tensor of a merge, and with which numbers."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from mergewise.checkpoint import Access, AlignedCheckpoint, GatheredCheckpoint, Source
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.stages import as_stages, plan_stages, stage_folders
from mergewise.errors import RecipeError, did_you_mean
from mergewise.method import find_method
from mergewise.recipe import Origin, Recipe, Stage, setting_origins

if TYPE_CHECKING:
    from mergewise.method import Program

__all__ = ["Explanation", "TensorInput", "explain"]


@dataclass(frozen=True)
class TensorInput:
    """One input of a tensor.

    Attributes:
        role: ``base``, or ``model`` or ``statistics`` with its number from 1 on.
        model: The checkpoint.
        tensor: Its name there.
        file: The file that holds it; ``None`` for one in memory or one whose rows come from several.
        dtype: Storage dtype as it is read.
        shape: Shape as it is read.
        rows: Whether its rows are gathered by token.
    """

    role: str
    model: str
    tensor: str
    file: str | None
    dtype: str
    shape: tuple[int, ...]
    rows: bool


@dataclass(frozen=True)
class Explanation:
    """What happens to one tensor.

    Attributes:
        tensor: Its name in the result.
        method: The merge method.
        section: Where in the recipe its slice or module stands; empty for whole models.
        position: Its place on gradients, in [0, 1].
        inputs: What it is merged from.
        parameters: For every parameter its value and where that came from; of per-model parameters, one per model.
        program: The kernel's program with its numbers; ``None`` if it is copied.
        passes: What is done to the data, in order.
        dtype: Storage dtype of the result.
        shape: Shape of the result.
    """

    tensor: str
    method: str
    section: str
    position: float
    inputs: tuple[TensorInput, ...]
    parameters: Mapping[str, Origin | tuple[Origin, ...]]
    program: Mapping[str, Any] | None
    passes: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]

    def summary(self) -> dict[str, Any]:
        """Return it as plain data."""
        found = asdict(self)
        found["parameters"] = {
            name: [asdict(one) for one in of] if isinstance(of, tuple) else asdict(of)
            for name, of in self.parameters.items()
        }
        return found


def explain(
    recipe: Recipe | str | os.PathLike[str] | Sequence[Stage], tensor: str, *, access: Access | None = None
) -> Explanation:
    """Say what a merge does to one tensor; only headers are read.

    Args:
        recipe: A recipe, or the file that holds one or several, of which the last to be merged is explained; or stages.
        tensor: Name of a tensor of the result.
        access: How other machines may be reached; by default as the environment says.

    Raises:
        MergewiseError: The merge cannot be planned, or has no such tensor.
    """
    stages = as_stages(recipe)
    plans = plan_stages(stages, stage_folders(stages, ""), access)
    if len(plans) < len(stages):
        raise RecipeError(
            "The last stage takes its tokenizer from another, so it can be explained once that is merged."
        )
    return explain_job(plans[-1], tensor)


def explain_job(planned: Plan, tensor: str) -> Explanation:
    """Say what a plan does to one tensor; faults as ``explain``."""
    job = next((job for job in planned.jobs if job.name == tensor), None)
    if job is None:
        hint = did_you_mean(tensor, [job.name for job in planned.jobs]) if len(planned.jobs) < 100_000 else ""
        raise RecipeError(f"There is no tensor '{tensor}' in the result.{hint[:300]}")
    member = planned.members[tensor]
    models = len(member.section.merged)
    bases = 0 if find_method(planned.recipe.method).statistics else len(job.inputs) - models
    inputs = tuple(
        _input(source, tensor, _role(index - bases, models))
        for index, source in enumerate(planned.sources[: len(job.inputs)])
    )
    origins = setting_origins(planned.recipe, tensor, member.position, member.section, member.names)
    return Explanation(
        tensor=tensor,
        method=planned.recipe.method,
        section=member.section.place,
        position=member.position,
        inputs=inputs,
        parameters={} if job.program is None else origins,
        program=_program(job),
        passes=("copy",) if job.program is None else replace(planned, jobs=(job,)).passes,
        dtype=job.output.dtype,
        shape=job.output.shape,
    )


def _role(number: int, models: int) -> str:
    """Return what an input is, counted from the first model on."""
    if number < 0:
        return "base"
    return f"model {number + 1}" if number < models else f"statistics {number + 1 - models}"


def _input(source: Source, name: str, role: str) -> TensorInput:
    seen = source.tensors[name]
    rows = False
    while True:
        match source:
            case AlignedCheckpoint():
                source, info = source.place(name)
                name = info.name
            case GatheredCheckpoint():
                rows = rows or source.gathers(name)
                source = source.own
            case _:
                break
    own = source.tensors[name]
    file = str(source.files[own.file]) if own.file < len(source.files) and not rows else None
    return TensorInput(role, source.location, name, file, seen.dtype, seen.shape, rows)


def _program(job: TensorJob) -> dict[str, Any] | None:
    program: Program | None = job.program
    if program is None:
        return None
    numbers = {field.name: getattr(program, field.name) for field in fields(program)}
    shown = {name: dict(v) if isinstance(v, Mapping) else v for name, v in numbers.items() if not callable(v)}
    return {"kind": type(program).__name__, **shown}
