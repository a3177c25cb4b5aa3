"""Candidates: merges of experts and of other candidates, as cells that can be scored and as recipes that can be run.

A candidate is known by what it is merged from, down to the bytes of base and experts. Where one is a parent of another,
its checkpoint has to be there while the other is merged; it is made again whenever it is missing.
"""

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

import mergewise
from mergewise.method import find_method
from mergewise.recipe import check_parameters, tensor_settings
from mergewise.study.cells import CellSpec, Model, Split, TaskItems, digest
from mergewise.study.code import method_code
from mergewise.study.errors import StudyError
from mergewise.study.memory import worker_memory
from mergewise.study.protocol import Value
from mergewise.study.sweep import Parameters, recipe_for

__all__ = ["Candidate", "Nursery", "check_merge"]


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


def check_merge(method: str, parameters: Parameters, experts: int) -> None:
    """Carry out the engine's own checks of a merge, which need no models.

    Raises:
        MergewiseError: the method does not take these parameters.
    """
    recipe = recipe_for(method, "base", [f"expert {number}" for number in range(experts)], parameters)
    check_parameters(recipe)
    try:
        find_method(method).program(tensor_settings(recipe, "layer.0.weight", 0.0).values, experts, (4, 4))
    except ValueError as fault:
        found = ", ".join(f"{name} {_shown(value)}" for name, value in parameters.items())
        raise StudyError(f"{method} needs {fault}; found {found or 'its defaults'}: choose other values.") from fault


def _shown(value: Value | tuple[Value, ...]) -> str:
    """Show what experts have in common once."""
    values = value if isinstance(value, tuple) else (value,)
    return " and ".join(str(one) for one in dict.fromkeys(values))


class Nursery:
    """Where candidates that are parents have their checkpoints.

    Args:
        base: of all merges.
        experts: by name.
        code: digest of the code that merges and scores.
        folder: for the checkpoints; this search's alone.
        most: checkpoints that stay there for later generations.
    """

    def __init__(self, base: Model, experts: Mapping[str, Model], code: str, folder: Path, most: int) -> None:
        self._base, self._experts, self._code, self._folder, self._most = base, dict(experts), code, folder, most
        self._models: dict[Candidate, Model] = {}
        self._used: dict[Candidate, None] = {}

    def model(self, candidate: Candidate) -> Model:
        """Return a candidate as a model whose checkpoint need not be there; equal digests mean equal bytes."""
        if candidate.expert:
            return self._experts[candidate.expert]
        if candidate not in self._models:  # a forebear of many is asked for along every line
            self._models[candidate] = self._model(candidate)
        return self._models[candidate]

    def _model(self, candidate: Candidate) -> Model:
        parents = [self.model(parent) for parent in candidate.parents]
        facts = {
            "base": self._base.digest,
            "method": candidate.method,
            "revision": find_method(candidate.method).revision,
            "parameters": dict(candidate.parameters),
            "parents": [parent.digest for parent in parents],
            "code": method_code(self._code, candidate.method),
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
        code, parameters = method_code(self._code, candidate.method), dict(candidate.parameters)
        return CellSpec(self._base, candidate.method, parents, tuple(tasks), split, limit, code, parameters)

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Make the checkpoints of the candidates' parents, as far as they are missing, and of what these take.

        What these take stays while something that is still to be made takes it; beyond that, as many stay as may.
        """
        wanted = dict.fromkeys(parent for one in candidates for parent in one.parents if parent.parents)
        missing = self._missing(wanted)
        for one in wanted:
            if one not in missing:
                self._used[one] = self._used.pop(one, None)  # the last is the one that was used last
        for place, one in enumerate(missing):
            self._make(one)
            self._tidy({*wanted, *(parent for later in missing[place + 1 :] for parent in later.parents)})

    def _missing(self, wanted: Iterable[Candidate]) -> list[Candidate]:
        """Return what has to be made for some candidates to be there, parents before children."""
        lines = dict.fromkeys(one for candidate in wanted for one in candidate.ancestry)
        needed = set(wanted)
        missing: list[Candidate] = []
        for one in reversed(lines):
            if one in needed and not self.model(one).path.exists():
                missing.append(one)
                needed.update(one.parents)
        return missing[::-1]

    def _make(self, candidate: Candidate) -> None:
        parents = [str(self.model(parent).path) for parent in candidate.parents]
        recipe = recipe_for(candidate.method, str(self._base.path), parents, candidate.parameters)
        mergewise.merge(recipe, self.model(candidate).path, memory=worker_memory())
        self._used[candidate] = None

    def tidy(self) -> None:
        """Remove checkpoints until as many are left as may stay, those first that were used longest ago."""
        self._tidy(())

    def _tidy(self, needed: Collection[Candidate]) -> None:
        spare = [one for one in self._used if one not in needed]
        for one in spare[: max(0, len(self._used) - self._most)]:
            shutil.rmtree(self.model(one).path, ignore_errors=True)
            del self._used[one]

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
