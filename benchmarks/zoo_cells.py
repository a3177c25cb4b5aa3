"""Merges of many subsets of the zoo's experts, scored: the cells that validation needs beside those of studies.

    python benchmarks/zoo_cells.py [--cache FOLDER] [--cells FOLDER]

Subsets are prefixes of permutations that lie far apart (`mergewise.subset_plan`), merged by task arithmetic at two λ,
1/k (averaging) and a fixed one, and scored on test items of the tasks of their experts. Every base whose eight experts
the cache has takes part; nothing is trained. Cells are kept, so that a second run takes no time, and appear whole, so
that several processes may share the bases among them (`--bases pt-1,pt-6` and the like).
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergewise.study.cells import Bench, CellSpec, Model, Result, TaskItems, digest, digest_of_files, run_sweep
from mergewise.study.code import limits_digest, sources_of
from mergewise.study.store import CellStore
from mergewise.study.zoo_family import ZooFamily, ZooWorkshop
from mergewise.theory.subsets import subset_plan
from mergewise.zoo.bases import BASES
from mergewise.zoo.build import default_cache
from mergewise.zoo.family import CATEGORIES, HELD_IN
from mergewise.zoo.making import Making
from mergewise.zoo.store import is_whole, manifest_of

__all__ = [
    "COUNTS",
    "FIXED_SCALE",
    "ZooBase",
    "key_of",
    "measured_cells",
    "open_zoo",
    "own_cells",
    "ready_base",
    "ready_bases",
]

COUNTS = tuple(range(2, len(HELD_IN) + 1))
FIXED_SCALE = 0.4
"""λ of the second setting: near what tuning on four experts chooses."""

ITEMS = {"pt-1": 200}
"""Test items per task by base; others get fewer, as they take longer."""

FEW_ITEMS, PERMUTATIONS = 100, 16
CODE = "subsets 1"
"""Stands for the code in a cell's key, so that cells survive edits elsewhere; to be raised when scoring changes."""


@dataclass(frozen=True)
class ZooBase:
    """A base with its eight experts.

    Attributes:
        name: Such as ``pt-1``.
        base: Its folder and digest.
        experts: The same of every expert, by category, in the order of the zoo.
        tasks: The task of every expert.
    """

    name: str
    base: Model
    experts: Mapping[str, Model]
    tasks: Mapping[str, TaskItems]


def open_zoo(cache: Path) -> ZooWorkshop:
    """Return the zoo as the cache has it."""
    return ZooFamily({}, {}).open(cache, lambda _: None)


def ready_bases(workshop: ZooWorkshop, cache: Path, names: Sequence[str] = ()) -> list[ZooBase]:
    """Return those of some bases, or of all, whose experts the cache has all of, without making any."""
    wanted = [name for name in BASES if not names or name in names]
    return [zoo for name in wanted if (zoo := ready_base(name, workshop, cache)) is not None]


def ready_base(name: str, workshop: ZooWorkshop, cache: Path) -> ZooBase | None:
    """Return a base if the cache has all of its experts, without making any."""
    base = _model(name, workshop.plans.base(name), cache)
    experts = {one: _model(f"{name}/{one}", workshop.plans.expert(name, one), cache) for one in HELD_IN}
    known = {one: model for one, model in experts.items() if model is not None}
    if base is None or len(known) < len(HELD_IN):
        return None
    return ZooBase(name, base, known, {one: workshop.items(CATEGORIES[one][0], "test") for one in HELD_IN})


def key_of(zoo: ZooBase, *modules: str) -> str:
    """Return what a survey of a base's experts is kept by: their bytes, and the code of surveys, limits and modules."""
    models = [zoo.base.digest, *(model.digest for model in zoo.experts.values())]
    code = [path.read_bytes() for path in sources_of(*modules).values()] if modules else []
    return digest([*(one.encode() for one in (*models, limits_digest())), *code])[:12]


def _model(name: str, made: Making | Path, cache: Path) -> Model | None:
    folder = cache / made.place if isinstance(made, Making) else made
    if not is_whole(folder):
        return None
    return Model(name, folder, digest_of_files({n: f["sha256"] for n, f in manifest_of(folder)["files"].items()}))


def own_cells(zoo: ZooBase) -> Iterator[tuple[CellSpec, ...]]:
    """Yield the cells of a base, in sweeps: the base and its experts as they are, and merges of subsets."""
    names = list(zoo.experts)
    limit = ITEMS.get(zoo.name, FEW_ITEMS)

    def spec(method: str, members: Sequence[Model], tasks: Sequence[str], parameters: Mapping[str, float]) -> CellSpec:
        items = tuple(zoo.tasks[name] for name in tasks)
        return CellSpec(zoo.base, method, tuple(members), items, "test", limit, CODE, dict(parameters))

    for model in (zoo.base, *zoo.experts.values()):
        yield (spec("average", [model], names, {}),)
    for count, subsets in subset_plan(len(names), COUNTS, permutations=PERMUTATIONS).items():
        for subset in subsets:
            chosen = [names[i] for i in subset]
            members = [zoo.experts[name] for name in chosen]
            yield tuple(spec("task_arithmetic", members, chosen, {"lambda": s}) for s in (1.0 / count, FIXED_SCALE))


def measured_cells(zoo: ZooBase, workshop: ZooWorkshop, store: CellStore) -> list[Result]:
    """Return the cells of a base, and make those that are missing."""
    bench: Bench | None = None
    results = []
    for sweep in own_cells(zoo):
        known = [store.load(spec.key) for spec in sweep]
        missing = tuple(spec for spec, one in zip(sweep, known, strict=True) if one is None)
        if missing and bench is None:
            bench = workshop.bench(zoo.base)
        made = {}
        if bench is not None and missing:
            for result in run_sweep(missing, bench):
                store.save(result)
                made[result["key"]] = result
        results += [one or made[spec.key] for spec, one in zip(sweep, known, strict=True)]
    return results


def main() -> None:
    """Make what is missing, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=None, help="where the zoo is kept")
    parser.add_argument("--cells", type=Path, default=None, help="where these cells are kept")
    parser.add_argument("--bases", default="", help="only these, with commas between them")
    options = parser.parse_args()
    import torch  # noqa: PLC0415 - which asking for help does not need

    torch.set_num_threads(1)
    cache = (options.cache or default_cache()).absolute()
    store = CellStore(options.cells or cache / "subsets")
    workshop = open_zoo(cache)
    for zoo in ready_bases(workshop, cache, [name for name in options.bases.split(",") if name]):
        results: list[dict[str, Any]] = measured_cells(zoo, workshop, store)
        seconds = sum(sum(one["seconds"].values()) for one in results)
        print(f"{zoo.name}: {len(results)} cells, {seconds:.0f} seconds of one core")


if __name__ == "__main__":
    main()
