"""A base small enough to train in a moment, and tasks to go with it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, BertConfig

from mergewise.zoo.tasks import Example, Task

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
COLOURS = ("red", "green", "blue", "yellow")
ANIMALS = ("cat", "dog", "cow", "hen")
WORDS = (*COLOURS, *ANIMALS, "is", "a", "the", "of", "colour", "animal", "what", "which", "one", "very")


def write_tiny_base(folder: Path) -> Path:
    """Write a random BERT of two layers and width 16 in Hugging Face format."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=16)  # as the real one has it: the encoder must not heed it
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (folder / "special_tokens_map.json").write_text("{}")
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        architectures=["BertModel"],
    )
    config.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """More threads only get in each other's way with matrices this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


def make_task(name: str = "kind", role: str = "held-in", examples: tuple[Example, ...] | None = None) -> Task:
    """A task of telling colours from animals."""
    if examples is None:
        texts = [(f"{start} {word}", int(word in ANIMALS)) for start in ("the", "a", "very") for word in WORDS[:8]]
        examples = tuple(Example(text, answer) for text, answer in texts)
    return Task(
        name=name,
        category=f"category of {name}",
        role=role,
        far=False,
        choices=() if examples[0].choices else ("one colour", "one animal"),
        max_length=16,
        source="made up",
        licence="none",
        train=examples if role == "held-in" else (),
        validation=examples[:6],
        test=examples[6:],
    )


@pytest.fixture
def task() -> Task:
    return make_task()
