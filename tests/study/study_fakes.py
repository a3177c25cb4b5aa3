"""A study without models: merging notes what was asked for, scoring draws answers whose rates follow simple rules."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mergewise.study.cells import CellSpec, Model
from mergewise.study.experiment import Experiment, StudyTask
from mergewise.study.protocol import Method, Protocol

HELD_IN = tuple(f"task_{letter}" for letter in "abcdefgh")
HELD_OUT = ("near_one", "near_two", "far_one")
CATEGORY = {name: name for name in HELD_IN} | {"near_one": "near", "near_two": "near", "far_one": "far"}
METHODS = (
    Method("average", "Averaging"),
    Method("task_arithmetic", "Task Arithmetic", {"weight": 1.0}, {"lambda": (0.2, 0.4, 1.0)}),
    Method("ties", "TIES", {"scope": "model"}, {"density": (0.1, 0.2, 0.4), "lambda": (0.5, 1.0, 1.5)}),
    Method("dare_ties", "DARE-TIES", {"rescale": "expected"}, {"density": (0.3,), "lambda": (0.3, 0.5)}, seeded=True),
    Method("rht", "RHT", {}, {"density": (0.2, 0.7), "lambda": (0.5, 1.0)}),
)
PROTOCOL = Protocol(methods=METHODS, counts=(2, 4, 8), validation_items=120, test_items=60, replicates=200)
BEST_LAMBDA = {"task_arithmetic": 0.4, "ties": 1.0, "dare_ties": 0.5, "rht": 0.5}
STRENGTH = {"average": 0.8, "task_arithmetic": 0.95, "ties": 0.93, "dare_ties": 0.94, "rht": 0.97}


class Misuse(Exception):
    """The protocol asked for something that it must never look at."""


@dataclass(frozen=True)
class FakeBench:
    """Scores by rule; refuses validation items of tasks that the merged experts were not trained for."""

    reversed_on_test: bool = False
    """Whether the setting that is best on validation is worst on test."""

    def merge(self, spec: CellSpec):
        return {"spec": spec}

    def correct(self, tensors: Mapping, tasks: Sequence[str], split: str, limit: int | None):
        spec: CellSpec = tensors["spec"]
        own = {expert.name for expert in spec.experts}
        if split == "validation" and not set(tasks) <= own:
            raise Misuse(f"validation items of {set(tasks) - own} in the tuning of a merge of {own}")
        return {task: self._answers(spec, task, split, limit or 100) for task in tasks}

    def _answers(self, spec: CellSpec, task: str, split: str, size: int):
        seed = hashlib.sha256(f"{spec.key} {task} {split}".encode()).digest()
        ease = np.random.default_rng(list(f"{task} {split}".encode())).random(size)  # items are easy or hard for all
        noise = np.random.default_rng(list(seed)).normal(0, 0.05, size)
        return ease + noise < self._rate(spec, task, split)

    def _rate(self, spec: CellSpec, task: str, split: str) -> float:
        if len(spec.experts) == 1:  # the base or an expert as it is
            return 0.9 if spec.experts[0].name == task else 0.5
        miss = abs(float(spec.parameters.get("lambda", 0)) - BEST_LAMBDA.get(spec.method, 0))
        if self.reversed_on_test and split == "test":
            miss = 1 - miss
        kept = STRENGTH[spec.method] - 0.02 * len(spec.experts) - 0.2 * miss
        return 0.9 * kept if task in {expert.name for expert in spec.experts} else 0.52


def fake_experiment() -> Experiment:
    tasks = {
        name: StudyTask(
            name, CATEGORY[name], name in HELD_IN, name == "far_one", f"validation of {name}", f"test of {name}"
        )
        for name in (*HELD_IN, *HELD_OUT)
    }
    experts = {name: Model(name, Path("/nowhere") / name, f"digest of {name}") for name in HELD_IN}
    return Experiment(Model("base", Path("/nowhere/base"), "digest of base"), experts, tasks, "code")


def fake_details(results: dict) -> dict:
    """Add what the demo itself adds to the results: where tasks come from, and what the run took."""
    for task in results["tasks"]:
        task |= {
            "choices": 2,
            "max_length": 32,
            "source": "package==1.0, data/<file>.csv",
            "licence": "MIT",
            "sizes": {"train": 1000, "validation": 200, "test": 400},
        }
    results["run"] = {
        "finished": "2026-01-02T03:04:05+00:00",
        "seconds": 12.5,
        "jobs": 2,
        "steps": [
            {"what": "tuning", "seconds": 5.0, "cells": 9, "computed": 8, "merge_seconds": 1.0, "score_seconds": 2.0}
        ],
        "versions": {"mergewise": "0.0.0", "numpy": "0"},
        "machine": "a machine",
    }
    return results
