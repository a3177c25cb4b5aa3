"""What the zoo costs and what its models are worth: seconds by layers, items that a score needs, accuracies.

    python benchmarks/zoo.py [--cache FOLDER] [--items 200] [--write docs/zoo.md]
    python benchmarks/zoo.py --study OUT --write docs    # docs/study.md and its figures, from a study's results in OUT

Everything runs on one thread, and seconds are processor seconds, so that other programs disturb them little. Speeds are
measured on bases cut from the whole one, so nothing need be trained for them; accuracies and the number of items are
those of models that the cache has (`mergewise zoo build` makes all). Nothing is trained here.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mergewise.engine.arrays import merge_to_arrays
from mergewise.recipe import Recipe
from mergewise.zoo.bases import BASES, SIZES
from mergewise.zoo.build import default_cache, prepare_family
from mergewise.zoo.encoder import Encoder, Scorer
from mergewise.zoo.experts import expert_recipe
from mergewise.zoo.family import CATEGORIES, HELD_IN, Plans, training_seconds
from mergewise.zoo.healing import cut_layers
from mergewise.zoo.making import Making
from mergewise.zoo.store import is_whole, load_tasks
from mergewise.zoo.tasks import Task
from mergewise.zoo.training import train_expert, write_checkpoint
from study_page import write_study

STEPS = 5
TIMED_TASKS = ("film_review", "newsgroup")  # of sentences and of documents
RESAMPLES = 1000
COUNTS = (2, 4, 6, 8)
POWER_ITEMS = (60, 120, 200, 300)

Answers = dict[str, NDArray[np.bool_]]


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=None, help="where the zoo is kept")
    parser.add_argument("--items", type=int, default=200, help="test items per task for accuracies")
    parser.add_argument("--write", type=Path, default=None, help="write the tables there instead of printing them")
    parser.add_argument("--study", type=Path, default=None, help="write study.md from this folder of results instead")
    options = parser.parse_args()
    if options.study:
        if not options.write:
            parser.error("--study needs --write DOCS, the folder for study.md and study/")
        print(write_study(options.study, options.write))
        return
    torch.set_num_threads(1)
    cache = (options.cache or default_cache()).absolute()
    plans = prepare_family(cache, print)
    tasks = load_tasks(plans.sources.tasks_file)
    mixture = load_tasks(plans.sources.mixture_file)
    text = "\n".join(
        [
            *HEAD,
            *tasks_table(tasks),
            *mixture_table(mixture),
            *speeds(plans, tasks),
            *budget(),
            *worth(cache, plans, tasks, mixture, options.items),
        ]
    )
    if options.write:
        options.write.write_text(text + "\n", "utf-8")
    else:
        print(text)


HEAD = (
    "# The zoo in figures",
    "",
    "Made by `python benchmarks/zoo.py --write docs/zoo.md`, on one thread; seconds are processor seconds.",
    "",
    "One family of encoders: two qualities in four sizes. *pt-6* is all-MiniLM-L6-v2 as published; *pt-1*, *pt-2*",
    "and *pt-4* keep its first layers and were distilled onto its embeddings on unlabelled texts. *it-n* is *pt-n*",
    "trained further, in the label-prompt form of all tasks here, on the instruction mixture below. Every base has",
    "experts for eight held-in categories, and a multitask model, trained on all of these with as many steps on each",
    "as its expert took, so that it costs what the eight experts cost. Word embeddings are frozen throughout. Label",
    "texts are embedded by *pt-6*, whatever model is trained or scored.",
)

TASKS_TEXT = (
    "The categories are those of T0 as far as data that come inside packages allow. A held-in task has an expert, a "
    "held-out one has no training examples; *far* ones are unlike every held-in task in form and content. An encoder "
    "picks the choice whose embedding is nearest to that of the text; *of its own* are choices that every example has "
    "for itself. No text, nor a near copy of one, is in two splits or two tasks. The data are fetched as packages, "
    "verified by their hashes and kept in the cache; none is part of this repository. A licence is that of the data as "
    "far as one is stated, with where they come from: ask for yourself before you publish what you train on them."
)
MIXTURE_TEXT = (
    "Tasks on word fields, word classes, arousal, genres and speakers; none asks for what a task of the study asks "
    "for. What would overlap was kept out: semantic fields of feelings, judgements, morals, politics, religion and "
    "places; ratings of pleasantness (sentiment); the other 44 Reuters topics and the speeches of 2016 (sources of "
    "held-in tasks); the thesaurus, the moral dictionary, the chatbot corpus and the film dialogues (held-out). "
    "Text by text, whatever equals or nearly repeats a text or a choice of any split of any task of the study was "
    "removed, as was what occurs in two tasks or splits of the mixture. The unlabelled texts went through the same "
    "guard."
)
SPEED_TEXT = (
    "Training steps of 32 texts, and scoring. *Items* are the mean over all tasks; a *cell* is one merge of k "
    "experts scored on 200 test items of every task of its experts and of every held-out task."
)
POWER_TEXT = (
    "Half the width of a 95 % interval of the normalised score of one merge of all eight experts (task arithmetic, "
    "λ = 0.5), by the number of test items per task: bootstrap over items, the answers of the experts or the base "
    "on the same items drawn with those of the merge."
)


def tasks_table(tasks: Mapping[str, Task]) -> Iterator[str]:
    """Say what every task of the study asks, from what data, under what licence."""
    yield from ("", "## The tasks of the study", "", TASKS_TEXT, "")
    yield "| task | category | role | choices | train | validation | test | source | licence |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, task in tasks.items():
        role = f"{task.role}, far" if task.far else task.role
        choices = len(task.choices) or f"{len(task.test[0].choices)}, of its own"
        yield (
            f"| {name} | {task.category} | {role} | {choices} | {len(task.train) or ''} | {len(task.validation)} "
            f"| {len(task.test)} | {task.source} | {task.licence} |"
        )


def mixture_table(mixture: Mapping[str, Task]) -> Iterator[str]:
    """Say what instruction-tuned bases were tuned on."""
    yield from ("", "## The instruction mixture", "", MIXTURE_TEXT, "")
    yield from ("| task | choices | train | test | source | licence |", "|---|---|---|---|---|---|")
    for name, task in mixture.items():
        yield (
            f"| {name} | {len(task.choices)} | {len(task.train)} | {len(task.test)} | {task.source} | {task.licence} |"
        )


def speeds(plans: Plans, tasks: Mapping[str, Task]) -> Iterator[str]:
    """Time training steps and scoring, by layers."""
    yield from ("", "## Speed", "", f"{SPEED_TEXT} Matrix products in {plans.sources.precision}.", "")
    cells_head = " | ".join(f"cell, k = {count}" for count in COUNTS)
    yield f"| layers | step, sentences | step, documents | tokens/s scored | ms an item | {cells_head} |"
    yield "|---|---|---|---|---|" + "---|" * len(COUNTS)
    for layers in SIZES:
        with tempfile.TemporaryDirectory() as scratch:
            base = cut_base(plans.sources.base, layers, Path(scratch) / "base")
            steps = [step_seconds(base, tasks[name], plans, Path(scratch)) for name in TIMED_TASKS]
            rate, seconds = scoring_seconds(Encoder(base), tasks)
        held_in = np.mean([seconds[name] for category in HELD_IN for name in CATEGORIES[category]])
        held_out = sum(seconds[task.name] for task in tasks.values() if task.role == "held-out")
        cells = [200 * (count * held_in + held_out) for count in COUNTS]
        yield (
            f"| {layers} | " + " | ".join(f"{step:.3f} s" for step in steps) + f" | {rate:,.0f} | "
            f"{1000 * np.mean(list(seconds.values())):.2f} | " + " | ".join(f"{cell:.1f} s" for cell in cells) + " |"
        )  # fmt: skip


def cut_base(whole: Path, layers: int, folder: Path) -> Path:
    """Write the first layers of the whole base, untrained: what matters here is how long they take."""
    encoder = Encoder(whole)
    if layers < max(SIZES):
        cut_layers(encoder, layers)
    write_checkpoint(encoder, whole, folder, {"num_hidden_layers": layers})
    return folder


def step_seconds(base: Path, task: Task, plans: Plans, scratch: Path) -> float:
    """Return the seconds of one training step: the difference between a longer and a shorter training."""
    recipe = expert_recipe(task.name, plans.sources.precision)
    seconds = []
    for steps in (STEPS, 3 * STEPS):
        started = time.process_time()
        train_expert(base, task, scratch / f"{task.name}-{steps}", replace(recipe, steps=steps))
        seconds.append(time.process_time() - started)
    return (seconds[1] - seconds[0]) / (2 * STEPS)


def scoring_seconds(encoder: Encoder, tasks: Mapping[str, Task]) -> tuple[float, dict[str, float]]:
    """Return tokens per second over all tasks, and the seconds of one item by task."""
    seconds, tokens = {}, 0
    for task in tasks.values():
        rows = encoder.tokenize([example.text for example in task.test[:100]], task.max_length)
        encoder.embed_tokens(rows[:8])
        started = time.process_time()
        encoder.embed_tokens(rows)
        seconds[task.name] = (time.process_time() - started) / len(rows)
        tokens += sum(map(len, rows))
    return tokens / (100 * sum(seconds.values())), seconds


def budget() -> Iterator[str]:
    """Add up what all models take by the family's own estimates."""
    yield from ("", "## What all models take", "", "Estimated minutes of one core with bfloat16 products.", "")
    yield from ("| base | itself | eight experts | multitask | steps of each | sum |", "|---|---|---|---|---|---|")
    steps = sum(expert_recipe(task, "bfloat16").steps for category in HELD_IN for task in CATEGORIES[category])
    total = 0.0
    for base in BASES:
        parts = [
            training_seconds(base, ()),
            sum(training_seconds(base, [category]) for category in HELD_IN),
            training_seconds(base, HELD_IN),
        ]
        total += sum(parts)
        own, experts, multitask = (f"{part / 60:.1f}" for part in parts)
        yield f"| {base} | {own} | {experts} | {multitask} | {steps} | {sum(parts) / 60:.1f} |"
    yield f"| all | | | | | {total / 60:.0f}, on two cores {total / 120:.0f} |"


def worth(
    cache: Path, plans: Plans, tasks: Mapping[str, Task], mixture: Mapping[str, Task], items: int
) -> Iterator[str]:
    """Score what the cache has of every base, and say how many items scores of merges need."""
    held_out = [name for name, task in tasks.items() if task.role == "held-out"]
    scorer = Scorer(plans.sources.base, {**tasks, **mixture})
    rows: list[str] = []
    power: list[str] = []
    for name in BASES:
        base, experts, multitask = cached_models(cache, plans, name)
        if base is None:
            continue
        own = answers(scorer, base, [*tasks, *mixture], items)
        expert = {t: answers(scorer, path, [t], items)[t] for c, path in experts.items() for t in CATEGORIES[c]}
        several = answers(scorer, multitask, list(tasks), items) if multitask else {}
        for task in tasks:
            found = (own.get(task), expert.get(task), several.get(task))
            rows.append(
                f"| {name} | {task} | " + " | ".join("" if a is None else f"{a.mean():.3f}" for a in found) + " |"
            )
        means = [mean_accuracy(right, held_out) for right in (own, several)]
        rows.append(f"| {name} | *mean of held-out* | {means[0]} | | {means[1]} |")
        rows.append(f"| {name} | *mean of the mixture* | {mean_accuracy(own, list(mixture))} | | |")
        if len(experts) == len(HELD_IN):
            power += power_rows(name, scorer, base, list(experts.values()), expert, own, tasks)
    yield from ("", "## What the models are worth", "", f"Accuracy on the first {items} test items.", "",
                "| base | task | base | expert | multitask |", "|---|---|---|---|---|", *rows)  # fmt: skip
    if power:
        yield from ("", "## How many items a score needs", "", POWER_TEXT, "")
        yield "| base | score | value | " + " | ".join(f"n = {n}" for n in POWER_ITEMS) + " |"
        yield "|---|---|---|" + "---|" * len(POWER_ITEMS)
        yield from power


def cached_models(cache: Path, plans: Plans, name: str) -> tuple[Path | None, dict[str, Path], Path | None]:
    """Return the folders of a base, of its experts by category and of its multitask model, those that are cached."""

    def place(model: Making | Path) -> Path | None:
        folder = cache / model.place if isinstance(model, Making) else model
        return folder if is_whole(folder) else None

    experts = {category: place(plans.expert(name, category)) for category in HELD_IN}
    found = {category: folder for category, folder in experts.items() if folder}
    return place(plans.base(name)), found, place(plans.multitask(name, HELD_IN))


def mean_accuracy(right: Answers, tasks: Sequence[str]) -> str:
    """Return the mean accuracy over tasks, or nothing if there are no answers."""
    return f"{np.mean([right[task].mean() for task in tasks]):.3f}" if right else ""


def answers(scorer: Scorer, model: Path, tasks: Sequence[str], items: int) -> Answers:
    """Return right and wrong answers of a model on the first test items of tasks."""
    encoder = Encoder(model)
    return {task: scorer.correct(encoder, task, "test", items) for task in tasks}


def power_rows(
    name: str, scorer: Scorer, base: Path, experts: Sequence[Path], expert: Answers, own: Answers,
    tasks: Mapping[str, Task],
) -> Iterator[str]:  # fmt: skip
    """Merge all experts of a base and tell the widths of its normalised scores."""
    recipe = Recipe(
        method="task_arithmetic", base=str(base), experts=[str(path) for path in experts], dtype="float32",
        parameters={"weight": 1.0, "lambda": 0.5},
    )  # fmt: skip
    encoder = Encoder(base)
    encoder.load_tensors(merge_to_arrays(recipe, threads=1))
    merged = {task: scorer.correct(encoder, task, "test", max(POWER_ITEMS)) for task in tasks}
    for label, over in (("held-in", expert), ("held-out", {t: own[t] for t in tasks if tasks[t].role == "held-out"})):
        pairs = {task: (merged[task], right) for task, right in over.items()}
        value, widths = normalised(pairs, 0, None), []
        for n in POWER_ITEMS:
            stream = np.random.default_rng(n)
            draws = [normalised(pairs, n, stream) for _ in range(RESAMPLES)]
            widths.append((np.quantile(draws, 0.975) - np.quantile(draws, 0.025)) / 2)
        yield f"| {name} | {label} | {value:.3f} | " + " | ".join(f"± {width:.3f}" for width in widths) + " |"


def normalised(
    pairs: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]], n: int, stream: np.random.Generator | None
) -> float:
    """Return the mean over categories of merged over reference accuracy, of n drawn items of every task, if drawn."""
    by_category: dict[str, list[float]] = {}
    for category, names in CATEGORIES.items():
        for task in names:
            if task in pairs:
                merged, reference = pairs[task]
                size = min(len(merged), len(reference))
                chosen = stream.integers(0, size, n) if stream else np.arange(size)
                ratio = merged[chosen].mean() / reference[chosen].mean()
                by_category.setdefault(category, []).append(float(ratio))
    return float(np.mean([np.mean(ratios) for ratios in by_category.values()]))


if __name__ == "__main__":
    main()
