"""Merging with examples: fisher, regmean and AdaMerging on two experts of a tiny classifier, all in seconds.

Each expert knows which of two tokens came more often, on tokens of its own; the merge should know both.
On the command line the same is:

    mergewise statistics EXPERT --examples examples.jsonl --kind fisher -o expert.fisher.safetensors
    mergewise adamerging recipe.yaml --examples examples.jsonl -o learned.yaml
"""

import json
import tempfile
from collections import Counter
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import mergewise as mw

CONFIG = BertConfig(
    vocab_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=16, num_labels=2,
)  # fmt: skip


def task(first: int, second: int, seed: int, count: int = 96) -> list[dict[str, object]]:
    """Texts of two tokens each, labelled by the one that comes more often."""
    random = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, 2, (count, 9), generator=random)
    return [
        {"tokens": [second if one else first for one in row], "label": Counter(row).most_common()[0][0]}
        for row in draws.tolist()
    ]


def logits_and_labels(model: torch.nn.Module, examples: list[dict[str, object]]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.tensor([example["tokens"] for example in examples])
    return model(input_ids=tokens).logits, torch.tensor([example["label"] for example in examples])


def train(base: Path, examples: list[dict[str, object]], folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(*logits_and_labels(model, examples)).backward()
        optimiser.step()
    model.save_pretrained(folder)


def accuracy(folder: Path, examples: list[dict[str, object]]) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        logits, labels = logits_and_labels(model, examples)
    return float((logits.argmax(-1) == labels).float().mean())


def main(folder: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the model is tiny: two threads would mostly wait for each other
    base, experts = folder / "base", [folder / "low", folder / "high"]
    BertForSequenceClassification(CONFIG).save_pretrained(base)
    tasks, files = [task(2, 3, 0), task(10, 11, 1)], [folder / "low.jsonl", folder / "high.jsonl"]
    for expert, examples, file in zip(experts, tasks, files, strict=True):
        train(base, examples, expert)
        file.write_text("".join(json.dumps(example) + "\n" for example in examples))

    mw.merge(mw.Recipe(method="average", experts=experts), folder / "average")
    for method, kind in (("fisher", "fisher"), ("regmean", "gram")):
        models = []
        for expert, file in zip(experts, files, strict=True):
            statistics = expert.with_suffix(f".{kind}.safetensors")
            mw.collect_statistics(str(expert), file, statistics, kind=kind)
            models.append(mw.Expert(model=expert, parameters={"statistics": str(statistics)}))
        mw.merge(mw.Recipe(method=method, experts=models), folder / method)

    recipe = mw.Recipe(method="task_arithmetic", base=base, experts=experts)
    learned = mw.adamerging(recipe, files, folder / "learned.yaml", steps=40, batch=8, rate=0.01, coefficients="task")
    mw.merge(folder / "learned.yaml", folder / "adamerging")

    unseen = [task(2, 3, 2), task(10, 11, 3)]
    for method in ("average", "fisher", "regmean", "adamerging"):
        scores = [accuracy(folder / method, examples) for examples in unseen]
        print(f"{method:<11} accuracy on both tasks {scores[0]:.2f} {scores[1]:.2f}")
    print(f"entropy of predictions: {learned.entropy_before:.2f} before AdaMerging, {learned.entropy_after:.2f} after")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
