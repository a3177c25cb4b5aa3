"""Models whose every element tells where it is from, so that a merge of slices can be read off its values."""

import numpy as np

import support

NUMBER = {"A": 1, "B": 2, "C": 3}
OUTSIDE = {"model.embed_tokens.weight": 0.125, "model.norm.weight": 0.25, "lm_head.weight": 0.5}


def value(model, layer=None, outside=None):
    """The value of all elements of a tensor: 100 per model, and its layer or what stands for it outside."""
    return 100.0 * NUMBER[model] + (layer if outside is None else OUTSIDE[outside])


def arrays(model, layers, width=4, vocabulary=6):
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    shapes["lm_head.weight"] = (vocabulary, width)
    found = {n: np.full(s, value(model, outside=n), np.float32) for n, s in shapes.items()}
    for i in range(layers):
        for part, shape in {"self_attn.q_proj.weight": (width, width), "mlp.up_proj.weight": (8, width)}.items():
            found[f"model.layers.{i}.{part}"] = np.full(shape, value(model, i), np.float32)
    return found


def config(layers, **more):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4, "vocab_size": 6,
        "num_hidden_layers": layers, "tie_word_embeddings": False, **more,
    }  # fmt: skip


def save(folder, layers=None, **more):
    """Save A with four layers, B with six and C with four."""
    for name, count in (layers or {"A": 4, "B": 6, "C": 4}).items():
        support.save_model(folder / name, arrays(name, count), config=config(count, **more))
    return folder


def source(model, first, end, **parameters):
    found = {"model": model, "layer_range": [first, end]}
    return found | ({"parameters": parameters} if parameters else {})
