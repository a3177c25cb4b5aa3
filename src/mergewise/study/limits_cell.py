"""What the weights alone say of a base's experts, as a cell: how many fit, which of them, and in which order.

It is computed before any merge is scored, and depends on the bytes of base and experts and on the code only.
"""

import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mergewise.engine.survey.run import survey
from mergewise.study.cells import Model, Result, digest
from mergewise.study.memory import worker_memory
from mergewise.theory.limits import Limits, limits
from mergewise.theory.summary import plain

__all__ = ["LimitsSpec", "run_limits"]

FORMAT = 1


@dataclass(frozen=True)
class LimitsSpec:
    """A base and all its experts; named like their categories, of which the result does not depend.

    Attributes:
        base: the base.
        experts: two or more.
        code: digest of the code, and of the library versions, that surveys are made with.
    """

    base: Model
    experts: tuple[Model, ...]
    code: str

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """All the cell depends on, free of paths."""
        return {
            "format": FORMAT,
            "limits_of": self.base.digest,
            "experts": [expert.digest for expert in self.experts],
            "code": self.code,
        }

    @cached_property
    def key(self) -> str:
        """SHA-256 of the inputs, in hexadecimal."""
        return digest([json.dumps(self.inputs, sort_keys=True).encode()])


def run_limits(spec: LimitsSpec) -> Result:
    """Survey the experts on one thread, and return what JSON can hold; experts are numbers in the order of the spec."""
    started = time.perf_counter()
    surveyed = survey(spec.base.path, [expert.path for expert in spec.experts], threads=1, memory=worker_memory())
    between = time.perf_counter()
    found = _plain(limits(surveyed))
    return {
        "key": spec.key,
        "inputs": spec.inputs,
        "experts": [expert.name for expert in spec.experts],
        "limits": found,
        "seconds": {"survey": between - started, "limits": time.perf_counter() - between},
    }


def _plain(found: Limits) -> dict[str, Any]:
    recommended = found.recommendation
    content: dict[str, Any] = {
        "k_safe": found.model.room[0],
        "k_star": found.model.room[1],
        "k_full": found.model.room[2],
        "order": recommended.order,
        "left_out": [expert for expert, _ in recommended.left_out],
        "number": recommended.number,
    }
    return {name: plain(value) for name, value in content.items()}
