"""Merged models of transformers in memory, scored by lm-evaluation-harness item by item."""

import contextlib
import io
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lm_eval
import numpy as np
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from mergewise.study.cells import CellSpec, Model, Scores, Split, Tensors
from mergewise.study.devices import accelerator_here
from mergewise.study.errors import StudyError
from mergewise.study.lm.harness import Harness, HarnessSettings, open_harness, require_known
from mergewise.study.lm.options import TaskOptions
from mergewise.study.sweep import merge_sweep

__all__ = ["LmBench", "item_score", "load_tensors", "score_items"]

SEED = 1234  # which the harness itself has by default


class LmBench:
    """One model of a base's architecture, which every merged model's weights are put into.

    Args:
        base: the base.
        settings: of the harness.
        tasks: options of the study's tasks.

    Raises:
        StudyError: there is no such device here as items are scored on.
    """

    def __init__(self, base: Model, settings: HarnessSettings, tasks: Mapping[str, TaskOptions]) -> None:
        self._dtype = settings.dtype
        self._tasks = tasks
        self._harness: Harness = open_harness(settings)
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if settings.device not in {"cpu", here := accelerator_here()}:
            raise StudyError(
                f"Expected a device of type '{settings.device}', which the study's cells are scored on, found {here}; "
                "run on machines that have one, or set 'device' under family."
            )
        model: Any = AutoModelForCausalLM.from_pretrained(
            base.path, dtype=getattr(torch, settings.dtype), local_files_only=True
        )
        self._model = model.to(settings.device).eval()
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self._lm = HFLM(
            pretrained=self._model,
            tokenizer=AutoTokenizer.from_pretrained(base.path, local_files_only=True),
            batch_size=settings.batch_size,
            max_length=settings.max_length,
        )

    def merge(self, specs: Sequence[CellSpec]) -> Iterator[Tensors]:
        """Yield the merged models."""
        return merge_sweep(specs, dtype=self._dtype)

    def score(self, tensors: Tensors, tasks: Sequence[str], split: Split, limit: int | None) -> Scores:
        """Score a merged model on items."""
        load_tensors(self._model, tensors)
        return {
            task: score_items(self._lm, self._harness, task, self._tasks.get(task, TaskOptions()), split, limit)
            for task in tasks
        }


def load_tensors(model: torch.nn.Module, tensors: Tensors) -> None:
    """Put weights into a model, as they are named in its checkpoints.

    Raises:
        StudyError: a weight is missing or of another shape.
    """
    given = {name: _torch(array) for name, array in tensors.items()}
    left = _put(model, given)
    if left and isinstance(model, PreTrainedModel):  # which renames when it loads, or puts experts together
        left = _put(model, _as_loaded(model, given))
    for name, shape in left.items():
        found = "none" if name not in given else f"one of shape {tuple(given[name].shape)}"
        raise StudyError(
            f"The model needs a weight '{name}' of shape {shape}. The merged model has {found}; base and experts must "
            "be checkpoints that transformers can load."
        )


def _put(model: torch.nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Copy weights into a model, and return the names and shapes of those that it still needs."""
    loaded: set[int] = set()
    left: dict[str, tuple[int, tuple[int, ...]]] = {}
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.data_ptr() in loaded:
                continue  # tied to one that is loaded
            new = given.get(name)
            if new is None or new.shape != tensor.shape:
                left[name] = tensor.data_ptr(), tuple(tensor.shape)
                continue
            tensor.copy_(new)
            loaded.add(tensor.data_ptr())
    return {name: shape for name, (place, shape) in left.items() if place not in loaded}


def _as_loaded(model: PreTrainedModel, given: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Return weights under the names that transformers gives them when it loads a checkpoint."""
    load: Any = type(model).from_pretrained  # whose annotations leave out what it returns when asked for more
    try:
        loaded, about = load(
            None, config=model.config, state_dict=dict(given), dtype=model.dtype, output_loading_info=True
        )
    except (RuntimeError, ValueError):
        return given
    renamed: Mapping[str, torch.Tensor] = loaded.state_dict()
    return given if about["missing_keys"] or about["mismatched_keys"] else renamed


def _torch(array: NDArray[Any]) -> torch.Tensor:
    if array.dtype.kind in "fiu?" and array.dtype.itemsize > 1 and array.dtype.name != "bfloat16":
        return torch.from_numpy(np.ascontiguousarray(array))
    bits = torch.from_numpy(np.ascontiguousarray(array).view(f"i{array.dtype.itemsize}"))
    return bits.view(getattr(torch, array.dtype.name))


def score_items(
    lm: HFLM, harness: Harness, name: str, options: TaskOptions, split: Split, limit: int | None
) -> NDArray[np.bool_] | NDArray[np.float64]:
    """Return the scores of the first items of a split of a study's task.

    Raises:
        StudyError: an item has no score by the metric that is asked for.
    """
    items = harness.items(name, options, split)
    order = items.order[:limit]
    numbers: dict[str, list[int]] = {}
    for leaf, number in order:
        numbers.setdefault(leaf, []).append(number)
    leaves = {leaf: items.leaves[leaf] for leaf in numbers}
    for leaf, task in leaves.items():
        shots = items.shots[leaf] if options.num_fewshot is None else options.num_fewshot
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=SEED)
    random.seed(0)  # tasks may draw in Python, NumPy or torch
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    # simple_evaluate sets the same and then describes machine and repository, which takes seconds for every task
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar for every task of every cell
        found: Any = lm_eval.evaluate(
            lm=lm,
            task_dict={"tasks": leaves},
            samples={leaf: sorted(chosen) for leaf, chosen in numbers.items()},
            apply_chat_template=harness.settings.chat_template,
            fewshot_as_multiturn=harness.settings.chat_template,
            confirm_run_unsafe_code=harness.settings.run_generated_code,
            bootstrap_iters=0,
        )
    by_item: dict[tuple[str, int], float] = {}
    for leaf in numbers:
        for sample in found["samples"][leaf]:
            if options.filter in {"", sample["filter"]}:
                by_item.setdefault((leaf, sample["doc_id"]), item_score(sample, options, name))
    scores = np.array([by_item[pair] for pair in order])
    return scores.astype(np.bool_) if np.isin(scores, (0.0, 1.0)).all() else scores


def item_score(sample: Mapping[str, Any], options: TaskOptions, name: str) -> float:
    """Return an item's score by the metric that is asked for, or else by its first.

    What is no number by item, as the answers of which F1 and Matthews' correlation are made, counts as right or wrong;
    the texts of which BLEU, chrF and TER are made are scored by chrF of the one sentence.

    Raises:
        StudyError: there is no such metric, or its values are not scores.
    """
    metric = options.metric or sample["metrics"][0]
    require_known(metric, sample["metrics"], "metric", name)
    value = sample[metric]
    if isinstance(value, tuple | list) and len(value) == 2:
        gold, given = value
        if metric in {"bleu", "chrf", "ter"}:
            import sacrebleu  # noqa: PLC0415 - comes with the harness

            return float(sacrebleu.sentence_chrf(given, [gold] if isinstance(gold, str) else gold).score) / 100
        if metric in {"f1", "mcc"}:
            return float(gold == given)
    if not isinstance(value, bool | int | float | np.number):
        raise StudyError(
            f"tasks.{name}: expected a number for '{metric}' of an item, found {str(value)[:60]!r}; choose another of "
            f"{', '.join(sample['metrics'])}."
        )
    score = float(value) * options.scale
    if not 0 <= score <= 1:
        raise StudyError(
            f"tasks.{name}: expected '{metric}' of an item in [0, 1], found {score}; set 'scale' (0.01 for "
            "percentages) or choose another metric."
        )
    return score
