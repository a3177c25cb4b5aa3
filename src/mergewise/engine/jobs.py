"""What a merge is made of: a job per tensor, and all that is known of a merge before a weight is read."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mergewise.checkpoint import OutputTensor, Source, TensorInfo, stored_bytes
from mergewise.engine.adapters.core_checkpoints import CoreCheckpoint
from mergewise.engine.adapters.output import AdapterMerge
from mergewise.engine.compose import Member
from mergewise.engine.vocabulary import SmallFiles
from mergewise.method import ElementwiseProgram, GeometricProgram, Program, VotingProgram, row_elements
from mergewise.recipe import Recipe

__all__ = ["Plan", "TensorJob"]


@dataclass(frozen=True, slots=True)
class TensorJob:
    """One tensor of the result.

    Attributes:
        name: Its name.
        inputs: The tensor in every source of the plan, in their order.
        program: How it is merged; ``None`` if it is copied from the first source (integers and booleans).
        output: What is written.
        change_only: Whether the merged change itself is written, in float64, rather than the base with it.
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    program: Program | None
    output: OutputTensor
    change_only: bool = False

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.inputs[0].numel

    @property
    def row(self) -> int:
        """Elements of a row, for programs that see rows one by one; all of them for others."""
        kind = self.program.row if isinstance(self.program, VotingProgram | GeometricProgram) else None
        return row_elements(self.output.shape, kind)

    @property
    def input_bytes(self) -> int:
        """Stored bytes of all its inputs."""
        return sum(info.nbytes for info in self.inputs)

    @property
    def sparse(self) -> bool:
        """Whether only part of its task vectors is kept."""
        return isinstance(self.program, VotingProgram) and self.program.sparse

    @property
    def mark_bytes(self) -> int:
        """Bytes that say of one element whether an expert keeps it: a mark, a probability, or none if all is kept."""
        if not self.sparse:
            return 0
        return 8 if isinstance(self.program, VotingProgram) and self.program.by_chance else 1

    @property
    def ranked_over_model(self) -> bool:
        """Whether its magnitudes are ranked together with those of other tensors."""
        program = self.program
        return isinstance(program, VotingProgram) and program.sparsify == "magnitude" and program.scope == "model"

    @property
    def stages(self) -> int:
        """How often its elements are gone through: to gather what its program must know, and to combine them."""
        match self.program:
            case VotingProgram() as program:
                return 1 + (program.sparsify == "magnitude") + program.by_norm
            case ElementwiseProgram() as program:  # ranks are counted and, as a rule, collected then
                return 1 + (program.sums is not None) + 2 * (program.rank is not None)
            case GeometricProgram():
                return 2
            case _:
                return 1


@dataclass(frozen=True)
class Plan:
    """Everything about a merge that headers and the recipe determine.

    Attributes:
        recipe: What was asked for.
        sources: The checkpoints, in the order of ``TensorJob.inputs``: the base first, if the method has one.
        jobs: One per tensor of the result, in byte order of their names.
        remarks: What a user should know, a sentence each.
        members: Where each tensor comes from.
        small_files: What tells of its tokens, where that is not as in the template.
        adapter: What is written, if the result is an adapter; the jobs are then those of core space.
        revisions: The commit that stood for each reference to the Hub, by reference.
        notes: How the recipe came about, a sentence each; among the remarks too, and recorded with the result.
        template_number: Which of the sources the template is: a base that is merged need not come first.
    """

    recipe: Recipe
    sources: tuple[Source, ...]
    jobs: tuple[TensorJob, ...]
    remarks: tuple[str, ...]
    members: Mapping[str, Member]
    small_files: SmallFiles = field(default_factory=SmallFiles)
    adapter: AdapterMerge | None = None
    revisions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    template_number: int = 0

    @property
    def template(self) -> Source:
        """The checkpoint whose configuration and tokenizer the result takes: the base, or else the first model."""
        return self.sources[self.template_number]

    @property
    def parameters(self) -> int:
        """Elements of the result."""
        return sum(math.prod(output.shape) for output in self.outputs)

    @property
    def outputs(self) -> tuple[OutputTensor, ...]:
        """What is written, in the order of the jobs."""
        return tuple(output for job in self.jobs for output in self.written_for(job))

    def written_for(self, job: TensorJob) -> tuple[OutputTensor, ...]:
        """Return what is written for a job: its output, or the factors of a module."""
        return (job.output,) if self.adapter is None else self.adapter.written[job.name]

    def disagreement(self, name: str) -> str:
        """Return what a user should know of a tensor that is copied, though the models differ in it."""
        taken = f"taken from {self.sources[0].location}"
        return f"'{name}' holds integers or booleans that differ between the models; {taken}."

    @property
    def bytes_in(self) -> int:
        """Bytes of all inputs as they are stored, each once."""
        return sum(map(self.input_bytes, self.jobs))

    def input_bytes(self, job: TensorJob) -> int:
        """Return the bytes of a job's inputs as they are stored."""
        return sum(
            source.read_bytes(info.name) if isinstance(source, CoreCheckpoint) else stored_bytes(source, info.name)
            for source, info in zip(self.sources, job.inputs, strict=False)  # slices may have fewer inputs
        )

    @property
    def bytes_out(self) -> int:
        """Bytes of the merged tensors."""
        return sum(output.nbytes for output in self.outputs)

    @property
    def passes(self) -> tuple[str, ...]:
        """What is done to the data, in order."""
        programs = [job.program for job in self.jobs if job.program is not None]
        voting = [p for p in programs if isinstance(p, VotingProgram)]
        ranked = [p for p in voting if p.sparsify == "magnitude"]
        steps = []
        if any(isinstance(p, GeometricProgram) for p in programs):
            steps.append("gather inner products")
        if ranked:
            scope = "the whole model" if ranked[0].scope == "model" else "each tensor"
            steps.append(f"gather magnitude thresholds over {scope}")
        if any(p.by_norm for p in voting):
            steps.append("gather L1 norms")
        elementwise = [p for p in programs if isinstance(p, ElementwiseProgram)]
        if any(p.rank is not None for p in elementwise):
            steps.append("gather ranks over each tensor")
        if any(p.sums is not None for p in elementwise):
            steps.append("gather sums over each tensor")
        return (*steps, "combine") if self.adapter is None else (*steps, "combine in core space", "factor")

    def summary(self) -> dict[str, Any]:
        """Return the plan's figures as plain data."""
        outputs = self.outputs
        dtypes = Counter(output.dtype for output in outputs)
        return {
            "method": self.recipe.method,
            "base": self.recipe.base,
            "experts": list(self.recipe.merged_models),
            "tensors": len(outputs),
            "copied_tensors": sum(job.program is None for job in self.jobs),
            "parameters": self.parameters,
            "dtypes": dict(dtypes),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "passes": list(self.passes),
            "remarks": list(self.remarks),
        }
