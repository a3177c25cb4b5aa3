"""Experts of language models: `transformers.Trainer` on prompts and answers, all weights or an adapter."""

import json
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mergewise.study.errors import StudyError
from mergewise.study.lm.launch import end_with_parent, run_launched
from mergewise.study.lm.options import TrainOptions

__all__ = ["main", "make_expert", "train"]

IGNORED = -100  # label of tokens that are not learned


def make_expert(folder: Path, needs: tuple[Path, ...], *, examples: Path, options: str, chat: bool) -> None:
    """Train a model and leave it in a folder.

    Args:
        folder: empty, for the checkpoint.
        needs: the folder of the base.
        examples: JSON, a list of [prompt, target] for every task.
        options: `TrainOptions` as JSON.
        chat: whether prompts go through the tokenizer's chat template.
    """
    (base,) = needs
    chosen = TrainOptions.model_validate_json(options)
    if not chosen.launch:
        train(folder, base, examples, chosen, chat=chat)
        return
    job = [str(folder), str(base), str(examples), options, "chat" if chat else ""]
    run_launched(chosen.launch, ["-m", __name__, *job])


def train(folder: Path, base: Path, examples: Path, options: TrainOptions, *, chat: bool = False) -> None:
    """Fine-tune a base with the Trainer; weights are trained and kept in float32.

    Args:
        folder: where the checkpoint, or the adapter, is written with the tokenizer.
        base: folder of the base.
        examples: JSON, a list of [prompt, target] for every task; tasks get equally many steps.
        options: how.
        chat: whether prompts go through the tokenizer's chat template.

    Raises:
        StudyError: an example has nothing to learn, or arguments are not known.
    """
    import torch  # noqa: PLC0415 - slow to import, and not needed to plan
    import transformers  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed  # noqa: PLC0415

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    set_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    if options.kind == "lora":
        model = _with_adapter(model, options)
    tasks = json.loads(examples.read_text("utf-8"))
    rows = [[_row(tokenizer, pair, options, chat=chat) for pair in task] for task in tasks]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            arguments = TrainingArguments(
                **{
                    "output_dir": scratch,
                    "max_steps": options.steps,
                    "per_device_train_batch_size": _batch_size_here(options),
                    "learning_rate": options.learning_rate,
                    "lr_scheduler_type": "linear",
                    "warmup_steps": min(options.warmup, options.steps),
                    "weight_decay": options.weight_decay,
                    "seed": options.seed,
                    "bf16": options.dtype == "bfloat16",
                    "use_cpu": not torch.accelerator.is_available(),  # which bfloat16 on processors asks for
                    "save_strategy": "no",
                    "logging_strategy": "no",
                    "report_to": "none",
                    "disable_tqdm": True,
                    "dataloader_pin_memory": False,
                    "remove_unused_columns": False,
                    **options.arguments,
                }
            )
        except TypeError as fault:
            raise StudyError(f"experts.train.arguments: TrainingArguments {str(fault).split('() ')[-1]}.") from fault
        _keep_to_one_device(arguments)
        drawn: Any = list(_drawn(rows, options))  # anything with a length and items
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=drawn,
            data_collator=lambda batch: _padded(batch, tokenizer.pad_token_id or tokenizer.eos_token_id or 0),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        trainer.save_model(str(folder))
        if trainer.is_world_process_zero():
            tokenizer.save_pretrained(folder)
            _tidy(folder)


def _with_adapter(model: Any, options: TrainOptions) -> Any:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - an extra

    targets = options.lora.targets
    make: Any = LoraConfig  # which takes fractions for alpha, too
    config = make(
        r=options.lora.rank,
        lora_alpha=options.lora.alpha,
        lora_dropout=options.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers in a way that will be dropped
        return get_peft_model(model, config)


def _keep_to_one_device(arguments: Any) -> None:
    """Let the Trainer use one device in this process: it would multiply the examples of a step by all that it sees."""
    arguments._n_gpu = min(1, arguments.n_gpu)


def _batch_size_here(options: TrainOptions) -> int:
    """Return the examples of a step that this process takes, of all that the launcher started.

    Raises:
        StudyError: they cannot be shared equally.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1")) if options.launch else 1  # else a scheduler's
    if options.batch_size % processes:
        raise StudyError(
            f"experts.train.batch_size: expected a multiple of the {processes} processes that '{options.launch}' "
            f"started, found {options.batch_size}; change one of them."
        )
    return options.batch_size // processes


def _row(tokenizer: Any, pair: Sequence[str], options: TrainOptions, *, chat: bool) -> dict[str, list[int]]:
    """Return an example as tokens, of which those of the answer are learned, and the end after them.

    Where it is too long, the prompt loses its beginning, but for one token; then the answer loses its end, and the
    end-of-text token with it, so that no model learns to stop in the middle.

    Raises:
        StudyError: there is nothing to learn.
    """
    prompt, target = pair
    if chat:
        turns = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    before = tokenizer(prompt, add_special_tokens=not chat)["input_ids"]
    if tokenizer.eos_token_id is not None and before[-1:] == [tokenizer.eos_token_id] and not chat:
        before = before[:-1]  # tokenizers that end every text
    after = tokenizer(target, add_special_tokens=False)["input_ids"]
    after += [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if len(after) >= options.max_length:
        after = after[: options.max_length - 1]
    before = before[max(0, len(before) + len(after) - options.max_length) :]
    if not after or len(before + after) < 2:  # the first token of all follows nothing, and is never learned
        raise StudyError(
            "An example to train on: expected a prompt and an answer with a token to learn after it, found "
            f"{pair[0][:60]!r} and {target[:60]!r}, of {len(before)} and {len(after)} tokens; correct it, or leave it "
            "out."
        )
    return {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}


def _drawn(rows: Sequence[Sequence[Any]], options: TrainOptions) -> Iterator[Any]:
    """Draw as many examples as the steps take: equally many of every task, each gone through in random order."""
    wanted = options.steps * options.batch_size
    for number, task in enumerate(rows):
        share = wanted * (number + 1) // len(rows) - wanted * number // len(rows)
        order = random.Random(f"{options.seed} {number}")  # noqa: S311 - an order, not a secret
        while share > 0:
            part = order.sample(task, min(share, len(task)))
            yield from part
            share -= len(part)


def _padded(batch: Sequence[dict[str, list[int]]], pad: int) -> dict[str, Any]:
    import torch  # noqa: PLC0415 - as above

    longest = max(len(row["input_ids"]) for row in batch)

    def filled(key: str, value: int) -> Any:
        return torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in batch])

    lengths = torch.tensor([len(row["input_ids"]) for row in batch])
    return {
        "input_ids": filled("input_ids", pad),
        "labels": filled("labels", IGNORED),
        "attention_mask": (torch.arange(longest)[None] < lengths[:, None]).long(),
    }


def _tidy(folder: Path) -> None:
    """Leave what the model is, and nothing that names this machine."""
    for name in ("training_args.bin", "README.md"):
        (folder / name).unlink(missing_ok=True)
    settings = folder / "adapter_config.json"
    if settings.is_file():
        content = json.loads(settings.read_text("utf-8")) | {"base_model_name_or_path": None}
        settings.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def main(arguments: Sequence[str]) -> None:
    """Train in a process that a launcher started: folder, base, examples, options, and "chat" or nothing."""
    end_with_parent()
    folder, base, examples, options, chat = arguments
    train(Path(folder), Path(base), Path(examples), TrainOptions.model_validate_json(options), chat=bool(chat))


if __name__ == "__main__":
    main(sys.argv[1:])
