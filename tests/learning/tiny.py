"""Tiny models of transformers and examples for them."""

import warnings

import numpy as np

SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 16,
}  # fmt: skip
VISION = {
    "image_size": 4, "patch_size": 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2,
}  # fmt: skip


def build(kind):
    """A model of a kind, in eval mode, as its library starts it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers as t

        match kind:
            case "llama" | "tied llama":
                tied = kind.startswith("tied")
                return t.LlamaForCausalLM(
                    t.LlamaConfig(**SIZES, num_key_value_heads=1, tie_word_embeddings=tied)
                ).eval()
            case "gpt2":
                return t.GPT2LMHeadModel(
                    t.GPT2Config(
                        vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
                    )
                ).eval()
            case "classifier":
                return t.BertForSequenceClassification(t.BertConfig(**SIZES, num_labels=3)).eval()
            case "roberta":
                return t.RobertaForSequenceClassification(t.RobertaConfig(**SIZES, num_labels=3)).eval()
            case "vision":
                return t.ViTForImageClassification(t.ViTConfig(**VISION)).eval()
            case "text and vision":
                return t.CLIPModel(t.CLIPConfig(text_config=SIZES, vision_config=VISION)).eval()
            case "masked":
                return t.BertForMaskedLM(t.BertConfig(**SIZES)).eval()
            case "encoder":
                return t.BertModel(t.BertConfig(**SIZES)).eval()
            case _:
                raise ValueError(kind)


def save(folder, kind, seed=0, around=None, scale=0.3):
    """Save a model of random weights, or of weights around those of another folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(kind)
            if around is not None:
                model = type(model).from_pretrained(around)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * scale)
            model.save_pretrained(folder)
    return folder


def load(folder, kind):
    """The model of a folder, as its own library loads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return type(build(kind)).from_pretrained(folder).eval()


def tokens(count, seed=0, length=9):
    """Examples of token ids, with a label each."""
    rng = np.random.default_rng(seed)
    return [{"tokens": rng.integers(0, 32, length).tolist(), "label": i % 3} for i in range(count)]
