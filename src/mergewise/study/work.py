"""What workers do: train a model, merge and score the cells of a sweep, or survey experts; they keep the cells.

A worker writes its cells itself and sends back what JSON can hold, so that nothing is lost with the driver, and no
tensor ever travels.
"""

import shutil
import time
import traceback
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from mergewise.errors import BudgetError, MergewiseError
from mergewise.method import find_method
from mergewise.study.cells import Bench, CellSpec, Model, Result, digest_of_files, run_sweep
from mergewise.study.code import code_digest, limits_digest, method_code
from mergewise.study.devices import on_devices
from mergewise.study.errors import StudyError
from mergewise.study.family import Training, Workshop
from mergewise.study.limits_cell import LimitsSpec, run_limits
from mergewise.study.store import CellStore, Failure
from mergewise.zoo.store import is_whole, make_entry, manifest_of

__all__ = [
    "LimitsWork",
    "Lost",
    "Outcome",
    "Site",
    "SweepWork",
    "TrainWork",
    "Work",
    "describe_fault",
    "ready_model",
    "run_work",
]

_BENCHES: OrderedDict[tuple[str, str], tuple[str, Bench]] = OrderedDict()  # with their code, by site and base
_MOST_BENCHES = 2  # in memory; one where that is of an accelerator


@dataclass(frozen=True)
class Site:
    """Where a study's cells and models are, and what makes them; the same for all its workers.

    Attributes:
        workshop: of the family.
        cells: folder of the cells.
        cache: folder of models and data.
        modules: folder that the family's module may be imported from, if it is one's own.
        token: tells sites of one process apart.
    """

    workshop: Workshop
    cells: Path
    cache: Path
    modules: Path | None = None
    token: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True)
class TrainWork:
    """A model to train, with the models that it needs; named as its node is."""

    name: str
    training: Training
    needs: tuple[Model, ...]


@dataclass(frozen=True)
class SweepWork:
    """Cells of one sweep to compute, which differ in their parameters only."""

    name: str
    specs: tuple[CellSpec, ...]


@dataclass(frozen=True)
class LimitsWork:
    """The limits of one base's experts to find."""

    name: str
    spec: LimitsSpec


Work = TrainWork | SweepWork | LimitsWork


@dataclass(frozen=True)
class Outcome:
    """What came of a piece of work: a result or a failure for each of its cells."""

    results: tuple[Result, ...] = ()
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Lost:
    """What came of a piece of work whose worker was lost: nothing.

    Attributes:
        reason: as far as it is known, in half a sentence.
        trace: all that is known.
    """

    reason: str = "it may need more memory than there is, so lower --jobs"
    trace: str = ""


def run_work(site: Site, work: Work) -> Outcome:
    """Do a piece of work and keep its cells; faults become failures."""
    store = CellStore(site.cells)
    if isinstance(work, SweepWork):
        return _sweep(site, store, work)
    key = work.training.key if isinstance(work, TrainWork) else work.spec.key
    try:
        result = _train(site, work) if isinstance(work, TrainWork) else _limits(work.spec)
    except Exception as fault:  # whatever it is, it must not stop the other cells
        failure = Failure(key, work.name, *describe_fault(fault))
        store.fail(failure)
        return Outcome((), (failure,))
    store.save(result)
    return Outcome((result,))


def _sweep(site: Site, store: CellStore, work: SweepWork) -> Outcome:
    found = [store.load(spec.key) for spec in work.specs]  # by a worker that was lost, or another driver's
    results = [result for result in found if result is not None]
    failures: list[Failure] = []
    left: Sequence[CellSpec] = [spec for spec, result in zip(work.specs, found, strict=True) if result is None]
    while left:
        done = 0
        try:
            for result in run_sweep(left, _bench(site, left[0])):
                store.save(result)
                results.append(result)
                done += 1
            left = ()
        except Exception as fault:  # as above; the other settings may do
            failure = Failure(left[done].key, work.name, *describe_fault(fault))
            store.fail(failure)
            failures.append(failure)
            left = left[done + 1 :]
    return Outcome(tuple(results), tuple(failures))


def describe_fault(fault: BaseException) -> tuple[str, str]:
    """Return a fault as a sentence, and where it happened; of one that is meant for users, what it has as notes."""
    if isinstance(fault, BudgetError):
        return f"{fault} In a study that is a worker's share of the machine; lower --jobs.", ""
    if isinstance(fault, MergewiseError):
        return str(fault), "\n".join(getattr(fault, "__notes__", ()))
    text = str(fault) or "no message"
    return f"{type(fault).__name__}: {text}", "".join(traceback.format_exception(fault))


def _bench(site: Site, spec: CellSpec) -> Bench:
    """Return the bench of a cell's base, the last few being kept.

    Raises:
        StudyError: the code here, or the method, is not that which the cell is named by.
    """
    base = spec.base
    key = (site.token, base.digest)
    code = _BENCHES[key][0] if key in _BENCHES else code_digest(site.workshop)
    _require(method_code(code, spec.method), spec.code)
    _require(find_method(spec.method).revision, spec.inputs["revision"])
    if key not in _BENCHES:
        while len(_BENCHES) >= (1 if on_devices(site.workshop) else _MOST_BENCHES):
            _BENCHES.popitem(last=False)
        _BENCHES[key] = code, site.workshop.bench(base)
    _BENCHES.move_to_end(key)
    return _BENCHES[key][1]


def _limits(spec: LimitsSpec) -> Result:
    _require(limits_digest(), spec.code)
    return run_limits(spec)


def _require(own: str, wanted: str) -> None:
    """Raise a `StudyError` unless the code here is that which a cell is named by."""
    if own != wanted:
        raise StudyError(
            "This worker runs other code, or other versions of libraries, than the study began with; run it again, "
            "with the same versions on all machines."
        )


def _train(site: Site, work: TrainWork) -> Result:
    """Fill the model's folder, unless it is there and whole, and return its cell."""
    training, needs = work.training, [need.digest for need in work.needs]
    entry = site.cache / training.place
    started = time.perf_counter()
    if is_whole(entry) and manifest_of(entry).get("needs", needs) != needs:
        shutil.rmtree(entry)  # made from other bytes, say on another kind of processor
    if not is_whole(entry):
        folders = tuple(need.path for need in work.needs)
        facts = {"name": training.name, "kind": training.kind, "key": training.key, "needs": needs}
        make_entry(entry, lambda folder: training.make(folder, folders), facts)
    digest = _digest_of_entry(entry)
    return {
        "key": training.key,
        "name": training.name,
        "kind": training.kind,
        "inputs": dict(training.inputs),
        "needs": needs,
        "digest": digest,
        "place": training.place,
        "seconds": {"train": time.perf_counter() - started},
    }


def _digest_of_entry(entry: Path) -> str:
    files = {name: file["sha256"] for name, file in manifest_of(entry)["files"].items()}
    if not any(name.endswith(".safetensors") for name in files):
        raise StudyError(f"A training must leave a checkpoint with *.safetensors. {entry} has {', '.join(files)}.")
    return digest_of_files(files)


def ready_model(site: Site, store: CellStore, training: Training, needs: Sequence[Model]) -> Model | None:
    """Return a trained model, or None if it has to be made: there is no cell, or its files are not what they were."""
    record = store.load(training.key)
    if record is None or record["needs"] != [need.digest for need in needs]:
        return None
    entry = site.cache / training.place
    if not is_whole(entry) or _digest_of_entry(entry) != record["digest"]:
        return None
    return Model(training.name, entry, record["digest"])
