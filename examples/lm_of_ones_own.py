"""A study of language models with a task, a base and a merge method of one's own: a few lines each.

    python examples/lm_of_ones_own.py OUT

A task is a YAML file in a folder, as lm-evaluation-harness reads it; a base is a line that names its folder; a method
is a function. The models are those of examples/lm_small.py.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import array_api_compat
from lm_small import LETTERS, write_base, write_tasks

import mergewise as mw
from mergewise.study import StudyResult, resolve, run_study
from mergewise.study.run import local_engine
from mergewise.study.spec import Spec, check_fields


@mw.merge_method(space="delta", summary="The largest change of each weight, times λ.")
def loudest(taus: Sequence[mw.Array], lambda_: float = 1.0) -> mw.Array:
    """Return, weight by weight, the change of the largest magnitude."""
    xp = array_api_compat.array_namespace(*taus)
    stacked = xp.stack(taus)
    at = xp.argmax(xp.abs(stacked), axis=0)
    return xp.take_along_axis(stacked, at[None], axis=0)[0] * lambda_


def write_task(folder: Path) -> None:
    """Write a task: which of two letters comes first in the alphabet."""
    pairs = [(first, second) for first in LETTERS for second in LETTERS if first != second]
    rows = [{"prompt": f"smallest : {a} {b} =", "choices": [a, b], "answer": int(b < a)} for a, b in pairs]
    data = (folder / "order.jsonl").absolute()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "order.yaml").write_text(
        f"""
task: order_of_two
dataset_path: json
dataset_kwargs: {{data_files: {{test: {json.dumps(str(data))}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: prompt
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
""",
        "utf-8",
    )


def spec_of(folder: Path) -> dict[str, Any]:
    """Return the spec, which could as well be a YAML file."""
    return {
        "name": "lm-of-ones-own",
        "family": {
            "name": "transformers",
            "offline": True,
            "task_folders": [str(folder / "tasks")],
            "bases": {
                "little": {"path": str(folder / "little"), "size": "20 steps"},
                "more": {"path": str(folder / "more"), "size": "60 steps"},
            },
            "categories": {
                "first": {"held_in": True, "tasks": ["letters_first"]},
                "last": {"held_in": True, "tasks": ["letters_last"]},
                "order": {"held_in": False, "tasks": ["order_of_two"]},
            },
            "batch_size": 64,
        },
        "experts": {"train": {"steps": 60, "batch_size": 16, "learning_rate": 1e-3, "max_length": 16}},
        "methods": {"average": None, "loudest": {"parameters": {"lambda": [0.5, 1.0]}}},
        "k": [2],
        "draws": 1,
        "scoring": {"validation_items": 20, "test_items": 60, "replicates": 200},
    }


def main(out: Path) -> StudyResult:
    """Make bases and tasks, and run the study in this process."""
    if not (out / "more").is_dir():
        write_tasks(out / "tasks")
        write_task(out / "tasks")
        write_base(out / "little", steps=20)
        write_base(out / "more", steps=60)
    study = resolve(check_fields(Spec, spec_of(out), "the spec"))
    return run_study(study, out / "results", out / "cache", local_engine(1), print)


if __name__ == "__main__":
    done = main(Path(sys.argv[1]))
    for row in done.document["tables"]["scores"]:
        print(f"{row['base']}, {row['label']}: held-in {row['held_in_raw']:.2f}, held-out {row['held_out_raw']:.2f}")
