"""A language model small enough to study in minutes: Llama's architecture, its tokenizer, and its tasks, all made here.

    python examples/lm_small.py lm-small            # a base of 230,000 parameters, and tasks as files
    mergewise study run examples/lm-small.yaml OUT  # experts, merges, scores

An item is a row of letters and the name of what is wanted of it, such as `first : k b a m d h =`; the answer is one of
the letters. The base has seen a little of every kind of item, each expert much of one kind.
"""

import json
import random
import sys
from pathlib import Path

LETTERS = "abcdefghijklmnop"
RULES = {
    "first": lambda row: row[0],
    "last": lambda row: row[-1],
    "largest": max,
    "second": lambda row: row[1],
    "smallest": min,
}
SIZES = {"train": 2000, "validation": 120, "test": 240}
LENGTH = 6


def items(rule: str, split: str) -> list[dict[str, object]]:
    """Return items; a row of letters is in one split only."""
    draw = random.Random(f"{rule} {split}")
    found = {}
    while len(found) < SIZES[split]:
        row = draw.sample(LETTERS, LENGTH)
        if place(row) == split:
            found[tuple(row)] = {
                "prompt": f"{rule} : {' '.join(row)} =",
                "choices": row,
                "answer": row.index(RULES[rule](row)),
            }
    return list(found.values())


def place(row: list[str]) -> str:
    """Say which split a row belongs to."""
    share = random.Random(" ".join(row)).random()
    return "train" if share < 0.6 else "validation" if share < 0.75 else "test"


def write_tasks(folder: Path) -> None:
    """Write every task as files that lm-evaluation-harness reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for rule in RULES:
        files = {}
        for split in SIZES:
            path = (folder / f"{rule}-{split}.jsonl").absolute()
            path.write_text("".join(json.dumps(item) + "\n" for item in items(rule, split)), "utf-8")
            files[split] = str(path)
        task = {
            "task": f"letters_{rule}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "output_type": "multiple_choice",
            "training_split": "train",
            "validation_split": "validation",
            "test_split": "test",
            "doc_to_text": "prompt",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }
        (folder / f"letters_{rule}.yaml").write_text(json.dumps(task, indent=1), "utf-8")  # JSON is YAML
        # the same task on the other split, which settings are tuned on
        validation = task | {"task": f"letters_{rule}_validation", "test_split": "validation"}
        (folder / f"letters_{rule}_validation.yaml").write_text(json.dumps(validation, indent=1), "utf-8")


def write_tokenizer(folder: Path) -> int:
    """Write a tokenizer of whole words; return how many it knows."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", ":", "=", *RULES, *LETTERS]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return len(words)


def write_base(folder: Path, steps: int) -> None:
    """Make a model with random weights, train it a little on everything, and write it."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    words = write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    examples = [(item["prompt"], item["choices"][item["answer"]]) for rule in RULES for item in items(rule, "train")]
    rows = torch.tensor([tokenizer(f"{prompt} {answer}")["input_ids"] for prompt, answer in examples])
    labels = rows.clone()
    labels[:, :-1] = -100  # only answers are learned
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        chosen = torch.randint(len(rows), (64,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(input_ids=rows[chosen], labels=labels[chosen]).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def main(folder: Path, steps: int = 40) -> None:
    """Make everything that examples/lm-small.yaml names."""
    write_tasks(folder / "tasks")
    write_base(folder / "base", steps)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
