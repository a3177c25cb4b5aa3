"""What a spec says of a family of language models, and of how its experts are trained.

family:
  name: transformers
  preset: t0                                   # categories with their tasks; or `categories`, or both
  task_folders: [tasks]                        # YAML tasks of lm-evaluation-harness of one's own
  offline: true
  bases: {small: {path: models/small, quality: pt, size: 1B}}
  categories: {sums: {held_in: true, tasks: [sums]}}
  tasks: {sums: {validation: sums_validation, train: sums.jsonl}}
experts:
  train: {kind: lora, steps: 200, lora: {rank: 16}}
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mergewise.study.fields import Part

__all__ = ["BaseOptions", "CategoryOptions", "FamilyOptions", "LoraOptions", "TaskOptions", "TrainOptions"]

Dtype = Literal["float32", "bfloat16", "float16"]


class BaseOptions(Part):
    """A base model.

    Attributes:
        path: a checkpoint folder, a GGUF file, or `organisation/name[@revision]` on the Hub.
        quality: "pt" for pretrained, "it" for instruction-tuned, or a word of one's own.
        size: a label; by default the number of parameters.
        parameters: how many; counted from the headers of what is on this machine, needed for a base on the Hub.
    """

    path: Annotated[str, Field(min_length=1)]
    quality: str = "pt"
    size: str = ""
    parameters: Annotated[float, Field(gt=0)] | None = None


class CategoryOptions(Part):
    """A category with its tasks: names of tasks, groups or tags that the harness knows."""

    held_in: bool
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    far: bool = False


class TaskOptions(Part):
    """How a task is scored and trained on, where that is not as the harness has it.

    Attributes:
        task: its name in the harness, if another than here.
        metric: the sample metric that is an item's score; by default the first that an item has.
        filter: the answer filter whose result counts; by default the first.
        scale: what scores are multiplied with, 0.01 for percentages.
        num_fewshot: how many solved examples a prompt begins with; None as the task has it.
        validation: another task of the harness whose items are for validation, but for those with a prompt of the test;
            without one, a share of the task's own.
        validation_share: that share, of the hashes of prompts, so that items with one prompt are on one side.
        train: JSON lines of `prompt` and `target` to train on; without them, the task's own training split.
    """

    task: str = ""
    metric: str = ""
    filter: str = ""
    scale: Annotated[float, Field(gt=0)] = 1.0
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    validation: str = ""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    train: str = ""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class FamilyOptions(Part):
    """What stands under `family`, but for its name.

    Attributes:
        bases: by name.
        preset: `t0`, `knowledge`, `mergebench`, or a YAML file of `categories` and `tasks`.
        without: categories of the preset that are left out.
        categories: more categories, or others under the names of the preset's.
        tasks: by the names that categories use.
        task_folders: folders of YAML tasks, which go before the harness's own of the same name.
        offline: ask no other machine, for as long as the process lives: bases and data sets come from this one's
            folders and caches.
        dtype: of the model that is scored.
        device: type of device that scores, as torch has it (cpu, cuda, …), the same for all workers; by default that of
            the accelerator of the machine that starts the study, or cpu if it has none.
        batch_size: items at a time in scoring; results of different sizes may differ in the last bits.
        max_length: longest prompt with its answer, in tokens; None as the model has it.
        chat_template: whether prompts of tasks go through the chat template, in training and in scoring.
        run_generated_code: whether tasks may run programs that models wrote; they can do anything that you can.
    """

    bases: Annotated[dict[str, BaseOptions], Field(min_length=1)]
    preset: str = ""
    without: tuple[str, ...] = ()
    categories: dict[str, CategoryOptions] = Field(default_factory=dict)
    tasks: dict[str, TaskOptions] = Field(default_factory=dict)
    task_folders: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    offline: bool = False
    dtype: Dtype = "float32"
    device: str = ""
    batch_size: Annotated[int, Field(ge=1)] = 8
    max_length: Annotated[int, Field(ge=8)] | None = None
    chat_template: bool = False
    run_generated_code: bool = False


class LoraOptions(Part):
    """An adapter's shape, as PEFT has it."""

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class TrainOptions(Part):
    """What stands under `experts.train`.

    Attributes:
        kind: all weights, or an adapter of low rank; multitask models are trained the same way.
        steps: of the optimizer, per category; a multitask model gets as many for each of its categories.
        batch_size: examples per step.
        learning_rate: at its highest, after `warmup` steps; it then falls linearly to nought.
        warmup: steps.
        weight_decay: as AdamW has it.
        max_length: longest example in tokens. Where it is longer, its prompt loses its beginning, but for one token;
            then the answer loses its end, and the end-of-text token with it.
        examples: the most that are taken of a task.
        seed: of the order of examples, of adapters and of dropout.
        dtype: float32, or bfloat16 by autocast over float32 weights.
        lora: the adapter's shape.
        arguments: further fields of `transformers.TrainingArguments`, such as `fsdp` or `deepspeed`.
        launch: a command that starts the training in its place, such as `torchrun --nproc-per-node 4`.
    """

    kind: Literal["full", "lora"] = "full"
    steps: Annotated[int, Field(ge=1)] = 200
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 10
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_length: Annotated[int, Field(ge=8)] = 512
    examples: Annotated[int, Field(ge=1)] = 100_000
    seed: Annotated[int, Field(ge=0)] = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LoraOptions = LoraOptions()
    arguments: Mapping[str, Any] = {}
    launch: str = ""
