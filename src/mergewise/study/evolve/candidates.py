"""Candidates: merges of experts and of other candidates, as cells that can be scored and as recipes that can be run.

A candidate is known by what it is merged from, down to the bytes of base and experts. Where one is a parent of another,
its checkpoint has to be there while the other is merged; it is made again whenever it is missing.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

import mergewise
from mergewise.method import find_method
from mergewise.study.cells import CellSpec, Model, Split, TaskItems, digest
from mergewise.study.memory import worker_memory
from mergewise.study.sweep import Parameters, recipe_for

__all__ = ["Candidate", "Nursery"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """An expert as it is, or a merge.

    Attributes:
        method: of the merge; empty for an expert.
        parents: what is merged, experts or other candidates.
        parameters: of the merge; a tuple holds one value per parent.
        expert: name of the expert; empty for a merge.
    """

    method: str = ""
    parents: "tuple[Candidate, ...]" = ()
    parameters: Parameters = field(default_factory=dict)
    expert: str = ""

    @cached_property
    def key(self) -> str:
        """A digest of what it is, by the names of experts."""
        parts = [self.expert, self.method, json.dumps(self.parameters, sort_keys=True)]
        return digest(part.encode() for part in [*parts, *(parent.key for parent in self.parents)])

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self.key == other.key

    @cached_property
    def ancestry(self) -> "tuple[Candidate, ...]":
        """All candidates it is made of that are merges themselves, parents before children, itself last."""
        found = {one: None for parent in self.parents for one in parent.ancestry}
        return (*found, self) if self.parents else ()

    @cached_property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts in it, in the order of their first occurrence."""
        if not self.parents:
            return (self.expert,)
        return tuple(dict.fromkeys(name for parent in self.parents for name in parent.experts))


class Nursery:
    """Where candidates that are parents have their checkpoints.

    Args:
        base: of all merges.
        experts: by name.
        code: digest of the code that merges and scores.
        folder: for the checkpoints; this search's alone.
    """

    def __init__(self, base: Model, experts: Mapping[str, Model], code: str, folder: Path) -> None:
        self._base, self._experts, self._code, self._folder = base, dict(experts), code, folder
        self._used: dict[Path, None] = {}

    def model(self, candidate: Candidate) -> Model:
        """Return a candidate as a model whose checkpoint need not be there; equal digests mean equal bytes."""
        if candidate.expert:
            return self._experts[candidate.expert]
        parents = [self.model(parent) for parent in candidate.parents]
        facts = {
            "base": self._base.digest,
            "method": candidate.method,
            "revision": find_method(candidate.method).revision,
            "parameters": dict(candidate.parameters),
            "parents": [parent.digest for parent in parents],
            "code": self._code,
        }
        found = digest([json.dumps(facts, sort_keys=True).encode()])
        name = "+".join(candidate.experts)
        return Model(name, self._folder / found, found)

    def cell(self, candidate: Candidate, tasks: Sequence[TaskItems], split: Split, limit: int | None) -> CellSpec:
        """Return the cell of a candidate scored on tasks; an expert is the average of itself."""
        if candidate.expert:
            expert = (self._experts[candidate.expert],)
            return CellSpec(self._base, "average", expert, tuple(tasks), split, limit, self._code)
        parents = tuple(self.model(parent) for parent in candidate.parents)
        parameters = dict(candidate.parameters)
        return CellSpec(self._base, candidate.method, parents, tuple(tasks), split, limit, self._code, parameters)

    def prepare(self, candidate: Candidate) -> None:
        """Make the checkpoints of a candidate's parents, as far as they are missing, and of what these take."""
        for parent in candidate.parents:
            if parent.parents:
                self._make(parent)

    def _make(self, candidate: Candidate) -> None:
        folder = self.model(candidate).path
        self._used[folder] = self._used.pop(folder, None)  # the last is the one that was used last
        if not folder.exists():
            self.prepare(candidate)
            parents = [str(self.model(parent).path) for parent in candidate.parents]
            recipe = recipe_for(candidate.method, str(self._base.path), parents, candidate.parameters)
            mergewise.merge(recipe, folder, memory=worker_memory())

    def tidy(self, most: int) -> None:
        """Remove checkpoints until so many are left, those first that were used longest ago."""
        for folder in list(self._used)[: max(0, len(self._used) - most)]:
            shutil.rmtree(folder, ignore_errors=True)
            del self._used[folder]

    def recipe(self, candidate: Candidate) -> str:
        """Return a YAML file that `mergewise merge` carries out: one recipe, or several stages that have names."""
        return "---\n".join(self._documents(candidate))

    def _documents(self, candidate: Candidate) -> Iterator[str]:
        names = {one: f"merge-{number}" for number, one in enumerate(candidate.ancestry, 1)}
        for one in candidate.ancestry or (candidate,):
            sources = one.parents or (one,)
            models = [names[s] if s in names else str(self._experts[s.expert].path) for s in sources]
            recipe = recipe_for(one.method or "average", str(self._base.path), models, one.parameters)
            stage = {"name": names[one]} if len(names) > 1 else {}
            yield yaml.safe_dump({**stage, **recipe.canonical()}, sort_keys=False, allow_unicode=True)
