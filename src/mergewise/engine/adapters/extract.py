"""Extracting an adapter from a whole expert: the best low-rank approximation of every change, and what it loses."""

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mergewise._version import __version__
from mergewise.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_PREFIX,
    ADAPTER_WEIGHTS,
    FLOAT_NAMES,
    STORAGE_DTYPES,
    Access,
    AlignedCheckpoint,
    FolderTarget,
    OutputTensor,
    Source,
    Spill,
    Target,
    TensorInfo,
    let_go,
    require_free,
    reserved_bytes,
)
from mergewise.checkpoint.adapter_config import saving
from mergewise.checkpoint.tokens import tied_head
from mergewise.engine.adapters.changes import PANEL_ELEMENTS, change_panels
from mergewise.engine.adapters.core_target import encoded
from mergewise.engine.adapters.low_rank import Approximation, approximate, working_bytes
from mergewise.engine.adapters.output import adapter_config, of_experts
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.layout import FIXED_BYTES, in_words, parse_size, workers_wanted
from mergewise.engine.open_files import allow_open_files
from mergewise.engine.plan import plan
from mergewise.errors import BudgetError, MergeError, RecipeError
from mergewise.recipe import Recipe

__all__ = ["ExtractReport", "ExtractedModule", "LeftOut", "extract_lora"]

_COPY_BYTES = 8 << 20
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|embed_positions|embed_in|wte|wpe|shared|(word|position|token_type|tok)_embeddings?)$"
)
_CONV1D = re.compile(r"(^|\.)(c_attn|c_proj|c_fc|q_attn)$")  # of GPT-2, stored as (inputs, outputs)


@dataclass(frozen=True)
class ExtractedModule:
    """What became of the change of one weight.

    Attributes:
        name: The weight.
        rank: Rank of its factors.
        relative_error: Frobenius norm of what is lost over that of the change.
        share: Its part of the squared norm of all changes.
    """

    name: str
    rank: int
    relative_error: float
    share: float


@dataclass(frozen=True)
class LeftOut:
    """A change that the adapter does not hold.

    Attributes:
        name: The tensor.
        share: Its part of the squared norm of all changes.
    """

    name: str
    share: float


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did.

    Attributes:
        out: The folder it wrote.
        modules: Every weight that is approximated.
        saved: Tensors that the adapter holds whole.
        left_out: Tensors that changed, but are neither.
        relative_error: Frobenius norm of all that the adapter does not hold over that of all changes.
        parameters: Elements of the adapter.
        bytes_out: Bytes of its tensors.
        seconds: Wall time.
        remarks: What a user should know, a sentence each.
    """

    out: str
    modules: tuple[ExtractedModule, ...]
    saved: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    relative_error: float
    parameters: int
    bytes_out: int
    seconds: float
    remarks: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


def extract_lora(
    expert: str | os.PathLike[str],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    rank: int | None = None,
    energy: float | None = None,
    save_modules: Sequence[str] = (),
    dtype: str = "float32",
    threads: int | None = None,
    memory: str | int = "2GiB",
    progress: Callable[[int, int], None] | None = None,
    access: Access | None = None,
) -> ExtractReport:
    """Write a LoRA adapter that turns a base into an expert as nearly as its rank allows.

    Every changed matrix is approximated by its leading singular vectors (the best of its rank, Eckart and Young 1936).
    Changes of other tensors (norms, biases) are left out and reported, unless their module is saved whole.

    Args:
        expert: A whole model.
        base: The model that it was fine-tuned from.
        out: The folder to make; it must be new or empty, and appears complete or not at all.
        rank: Largest rank of a module; may be left out if ``energy`` is given.
        energy: Share of the squared norm of every change that its factors must keep, in (0, 1].
        save_modules: Ends of the names of modules that the adapter holds whole (PEFT's ``modules_to_save``, which need
            not begin at a dot). A head that the base ties to an embedding among them is held too.
        dtype: Everyday name of the dtype of the factors.
        threads: Workers; ``None`` for one per available processor. Each has a matrix in hand, so that the memory may
            allow for fewer.
        memory: Budget for the whole process, in bytes or as in ``"2GiB"``.
        progress: Told how many bytes of the expert are done, of how many.
        access: How other machines may be reached; by default as the environment says.

    Raises:
        MergewiseError: The models do not belong together, or the request has no meaning.
    """
    began = time.perf_counter()
    _check(rank, energy, dtype)
    require_free(Path(out))
    difference = Recipe(
        method="task_arithmetic", base=os.fspath(base), experts=[os.fspath(expert)], missing_tensors="base"
    )
    planned = plan(difference, access)
    work = _Extraction(planned, rank, energy, FLOAT_NAMES[dtype], save_modules)
    workers = _workers(work, threads, memory)
    allow_open_files(planned.sources)
    with Spill(Path(out)) as spill, threadpool_limits(1, user_api="blas"):
        findings = _run(work, spill, workers, progress)
        modules = [f for f in findings if f.approximated]
        if not modules and not work.saved:
            raise MergeError(
                f"{expert}: expected changes to {base} that factors can hold, found none; nothing to extract."
            )
        whole = [_stored(name, info) for name, info in work.saved.items()]
        outputs = [*spill.tensors, *whole]
        with FolderTarget(out, outputs, sys.maxsize, os.urandom(16).hex(), single=ADAPTER_WEIGHTS) as folder:
            spill.pour(folder)
            for info, output in zip(work.saved.values(), whole, strict=True):
                _copy(work.expert, info, output.name, folder)
            report = _report(os.fspath(out), findings, work, outputs, began)
            folder.commit(_texts(work, os.fspath(base), os.fspath(expert), report))
    return report


@dataclass(frozen=True)
class _Finding:
    """What came of one tensor: its norm squared, what of it is lost, and the rank of its factors."""

    name: str
    norm: float
    lost: float
    rank: int

    @property
    def approximated(self) -> bool:
        return self.rank > 0


class _Extraction:
    """What is to be done with each tensor, as far as headers tell."""

    def __init__(
        self, planned: Plan, rank: int | None, energy: float | None, dtype: str, save_modules: Sequence[str]
    ) -> None:
        self.base, self.expert = planned.sources
        self.files = [file for source in planned.sources for file in source.files]
        self.rank, self.energy, self.dtype = rank, energy, dtype
        self.save_modules, self.remarks = list(save_modules), list(planned.remarks)
        self.saved = self._saved()
        self.jobs = [j for j in planned.jobs if j.program is not None and j.name not in self.saved and j.numel]
        self.turned = self.base.config().get("model_type") == "gpt2"

    def _saved(self) -> dict[str, TensorInfo]:
        """Return the tensors that are held whole, and where the expert has each.

        PEFT puts modules of their own in the place of those that it saves. A head that the base ties would so stay what
        it was where the embedding is saved alone, and is saved too.
        """
        stored = self.base.own if isinstance(self.base, AlignedCheckpoint) else self.base  # as it is without a head
        head, self.tied = tied_head(stored.config(), stored.tensors) or ("", "")
        tensors, own_head = dict(self.expert.tensors), head in self.expert.tensors
        if head:
            tensors.setdefault(head, tensors[self.tied])
        found = {name: saving(name, self.save_modules) for name in sorted(tensors, key=str.encode)}
        for asked in self.save_modules:
            if not any(asked in names for names in found.values()):
                raise RecipeError(f"Expected modules whose name ends in '{asked}', to save them whole, found none.")
        if head and not found[head] and (own_head or found[self.tied]):
            found[head] = [head.removesuffix(".weight")]
            self.save_modules += found[head]
            self.remarks.append(f"'{head}' is saved whole, since PEFT would leave it at the base's '{self.tied}'.")
        self.tied = "" if head and found[head] else self.tied
        return {name: tensors[name] for name, names in found.items() if names}

    def is_matrix(self, job: TensorJob) -> bool:
        """Whether factors can hold its change."""
        return job.name.endswith(".weight") and len(job.output.shape) in {2, 4} and min(self.sides(job)) > 1

    def sides(self, job: TensorJob) -> tuple[int, int]:
        """Return rows and columns."""
        rows = job.output.shape[0]
        return rows, job.numel // rows

    def working_bytes(self, job: TensorJob) -> int:
        """Return the memory that a worker takes for a tensor."""
        if not self.is_matrix(job):
            return 32 * min(job.numel, PANEL_ELEMENTS)
        long, short = max(self.sides(job)), min(self.sides(job))
        return working_bytes(long, short, self.rank, min(job.numel, max(PANEL_ELEMENTS, short)))


def _check(rank: int | None, energy: float | None, dtype: str) -> None:
    if rank is None and energy is None:
        raise RecipeError("Expected a rank or an energy to choose the ranks by, found neither; give one of them.")
    if rank is not None and rank < 1:
        raise RecipeError(f"The rank must be at least 1, found {rank}.")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise RecipeError(f"The energy is a share of the squared norm and must be in (0, 1], found {energy}.")
    if dtype not in FLOAT_NAMES:
        raise RecipeError(f"The dtype must be one of {', '.join(FLOAT_NAMES)}, found {dtype!r}.")


def _workers(work: _Extraction, threads: int | None, memory: str | int) -> int:
    budget, most = parse_size(memory, "memory budget"), max((work.working_bytes(j) for j in work.jobs), default=1)
    wanted = workers_wanted(threads)
    fixed = FIXED_BYTES + reserved_bytes(work.files)
    if budget - fixed < most:
        raise BudgetError(
            f"--memory is {in_words(budget)}, but factoring the largest matrix needs at least "
            f"{-(-(fixed + most) >> 20)} MiB."
        )
    return min(wanted, (budget - fixed) // most)


def _run(work: _Extraction, spill: Spill, workers: int, progress: Callable[[int, int], None] | None) -> list[_Finding]:
    """Go through all tensors, the largest first; return what came of each, in the order of the names."""
    total, done = sum(job.output.nbytes for job in work.jobs), 0
    by_size = sorted(work.jobs, key=lambda job: (-job.numel, job.name.encode()))
    findings = []
    pool = ThreadPoolExecutor(workers, "mergewise-extract")
    try:
        for job, finding in zip(by_size, pool.map(lambda job: _extract(work, job, spill), by_size), strict=True):
            findings.append(finding)
            done += job.output.nbytes
            if progress is not None:
                progress(done, total)
    except BaseException:
        let_go(work.files)  # else the others would go on trying to fetch what nobody needs
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return sorted(findings, key=lambda finding: finding.name.encode())


def _extract(work: _Extraction, job: TensorJob, spill: Spill) -> _Finding:
    sources = (work.base, work.expert)
    if not work.is_matrix(job):
        norm = math.fsum(
            float(np.sum(panel**2)) for panel in change_panels(sources, job, (job.numel, 1), along_rows=True)
        )
        return _Finding(job.name, norm, norm, 0)
    rows, columns = work.sides(job)
    tall = rows >= columns
    found = approximate(
        lambda: change_panels(sources, job, (rows, columns), along_rows=tall),
        min(rows, columns),
        work.rank,
        work.energy,
    )
    if found.rank:
        for output, factor in _factors(work, job, found, tall=tall):
            spill.add(output, encoded(factor, output))
    return _Finding(job.name, found.norm, found.lost, found.rank)


def _factors(
    work: _Extraction, job: TensorJob, found: Approximation, *, tall: bool
) -> list[tuple[OutputTensor, NDArray[np.float64]]]:
    """Return B and A as PEFT has them."""
    left, right = (found.left, found.right) if tall else (found.right.T, found.left.T)  # change = left @ right
    module, rank = job.name.removesuffix(".weight"), found.rank
    embedding = len(job.output.shape) == 2 and _EMBEDDING.search(module) is not None
    transposed = embedding or (work.turned and _CONV1D.search(module) is not None)
    b, a = (right.T, left.T) if transposed else (left, right)
    window = (1,) * (len(job.output.shape) - 2)
    shape_a = (rank, *job.output.shape[1:]) if window else a.shape
    leaf_b, leaf_a = ("_embedding_B", "_embedding_A") if embedding else ("_B.weight", "_A.weight")
    stem = f"{ADAPTER_PREFIX}{module}.lora"
    return [
        (_output(f"{stem}{leaf_b}", work.dtype, (*b.shape, *window)), b),
        (_output(f"{stem}{leaf_a}", work.dtype, shape_a), a),
    ]


def _stored(name: str, info: TensorInfo) -> OutputTensor:
    return OutputTensor(f"{ADAPTER_PREFIX}{name}", info.dtype, info.shape, info.nbytes)


def _output(name: str, dtype: str, shape: tuple[int, ...]) -> OutputTensor:
    return OutputTensor(name, dtype, shape, math.prod(shape) * STORAGE_DTYPES[dtype].bits // 8)


def _copy(source: Source, info: TensorInfo, name: str, target: Target) -> None:
    for offset in range(0, info.nbytes, _COPY_BYTES):
        raw = np.empty(min(_COPY_BYTES, info.nbytes - offset), np.uint8)
        source.read_into(info, offset, raw)
        target.write(name, offset, raw)
    target.finish(name)


def _report(
    out: str, findings: Sequence[_Finding], work: _Extraction, outputs: Sequence[OutputTensor], began: float
) -> ExtractReport:
    norm = math.fsum(finding.norm for finding in findings) or 1.0
    lost = math.fsum(finding.lost for finding in findings)
    modules = tuple(
        ExtractedModule(f.name, f.rank, math.sqrt(f.lost / f.norm), f.norm / norm) for f in findings if f.approximated
    )
    remarks = work.remarks + of_experts({f.name.removesuffix(".weight"): f.rank for f in modules})
    remarks += [
        f"'{module.name}' is tied to the head, which PEFT has follow its factors only once they are merged into it."
        for module in modules
        if module.name == work.tied
    ]
    left_out = tuple(LeftOut(f.name, f.norm / norm) for f in findings if f.norm and not f.approximated)
    return ExtractReport(
        out=out,
        modules=modules,
        saved=tuple(work.saved),
        left_out=left_out,
        relative_error=math.sqrt(lost / norm),
        parameters=sum(math.prod(output.shape) for output in outputs),
        bytes_out=sum(output.nbytes for output in outputs),
        seconds=time.perf_counter() - began,
        remarks=tuple(remarks),
    )


def _texts(work: _Extraction, base: str, expert: str, report: ExtractReport) -> dict[str, str]:
    ranks = {module.name.removesuffix(".weight"): module.rank for module in report.modules}
    config = adapter_config(
        base=base, ranks=ranks, targets=sorted(ranks), saved=work.save_modules, fan_in_fan_out=work.turned
    )
    card = [
        "---", f"base_model: {json.dumps(base)}", "library_name: peft", "tags: [mergewise, lora]", "---", "",
        f"# A LoRA adapter of {Path(expert).name}", "",
        f"Extracted with mergewise {__version__}: {len(report.modules)} modules of ranks {_span(ranks.values())}.",
        f"It lacks {report.relative_error:.2%} of the norm of the changes.", "",
    ]  # fmt: skip
    return {ADAPTER_CONFIG: json.dumps(config, indent=2, ensure_ascii=False) + "\n", "README.md": "\n".join(card)}


def _span(ranks: Any) -> str:
    low, high = min(ranks, default=0), max(ranks, default=0)
    return f"{low} to {high}" if low != high else str(low)
