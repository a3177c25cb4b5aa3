"""Recipes that mergekit and mergewise both run: a table of what people write, and random mixtures of it.

``BASE``, ``E1`` … ``E4``, ``NEAR1`` … ``NEAR3`` and ``FAR`` stand for model folders.
"""

import copy
import random

EXPERTS = ["E1", "E2", "E3", "E4"]


def recipe(method, models, parameters=None, base="BASE", **more):
    """A recipe of plain data; models as names, or as pairs of a name and parameters."""
    rows = [{"model": m} if isinstance(m, str) else {"model": m[0], "parameters": m[1]} for m in models]
    found = {"merge_method": method, "models": rows, "dtype": "float32", **more}
    if base:
        found["base_model"] = base
    if parameters:
        found["parameters"] = parameters
    return found


def weighted(*weights, **others):
    return [
        (name, {"weight": w, **{k: v[i] for k, v in others.items()}})
        for i, (name, w) in enumerate(zip(EXPERTS, weights, strict=False))
    ]


HALF = {"density": 0.5}
TABLE = {
    "linear": recipe("linear", weighted(1.0, 2.0, 0.5), base=None),
    "linear without normalisation": recipe("linear", weighted(0.3, -0.2, 0.7), {"normalize": False}, base=None),
    "linear with a negative weight": recipe("linear", weighted(1.0, -0.25, 0.5), base=None),
    "linear, the base among the models": recipe("linear", [("BASE", {"weight": 0.4}), *weighted(0.3, 0.3)]),
    "linear with gradients": recipe("linear", weighted([0.0, 1.0], [1.0, 0.5, 0.25], 0.5), base=None),
    "linear with filters": recipe(
        "linear",
        weighted([{"filter": "mlp", "value": 0.9}, {"filter": "q_proj", "value": [0.1, 0.7]}, {"value": 0.5}], 1.0),
        base=None,
    ),
    "task arithmetic": recipe("task_arithmetic", weighted(0.5, 0.8, -0.3)),
    "task arithmetic with lambda": recipe("task_arithmetic", weighted(0.5, 0.8, 0.3), {"lambda": 0.7}),
    "task arithmetic, normalised": recipe("task_arithmetic", weighted(0.5, 0.8, -0.3), {"normalize": True}),
    "task arithmetic, weights that cancel": recipe("task_arithmetic", weighted(0.1, 0.2, -0.3), {"normalize": True}),
    "task arithmetic, the base listed": recipe("task_arithmetic", ["BASE", *weighted(0.5, 0.8)]),
    "task arithmetic, the base listed with parameters": recipe(
        "task_arithmetic", [("BASE", {"weight": 3.0}), *weighted(0.5, 0.8)]
    ),
    "ties": recipe("ties", weighted(1.0, 1.0, 1.0), HALF),
    "ties untrimmed": recipe("ties", weighted(1.0, 0.6, 0.3)),
    "ties, densities of their own": recipe("ties", weighted(1.0, 0.6, 0.3, density=[0.2, 0.9, 1.0])),
    "ties, a tiny density": recipe("ties", weighted(1.0, 0.6), {"density": 0.001}),
    "ties without normalisation": recipe("ties", weighted(1.0, 0.6, 0.3), {"density": 0.4, "normalize": False}),
    "ties with lambda": recipe("ties", weighted(1.0, 0.6, 0.3), {"density": 0.4, "lambda": 1.7}),
    "ties with negative weights": recipe("ties", weighted(1.0, -0.7, 0.4), {"density": 0.6}),
    "ties with a weight of zero": recipe("ties", weighted(1.0, 0.0, 0.4), {"density": 0.6}),
    "ties, weights that cancel as written": recipe("ties", weighted(0.1, 0.2, -0.3), {"density": 1.0}),
    "ties with L1 rescaling": recipe("ties", weighted(1.0, 0.6, 0.3), {"density": 0.3, "rescale": True}),
    "ties with gradients": recipe("ties", weighted([1.0, 0.2], 0.6, 0.3, density=[[0.3, 0.9, 0.5], 0.5, [1.0, 0.1]])),
    "ties with filters": recipe(
        "ties",
        weighted(
            [{"filter": "self_attn", "value": 0.2}, {"filter": "mlp", "value": [0.9, 0.1]}, {"value": 1.0}], 0.5,
            density=[0.5, [{"filter": "layers.1", "value": 0.25}, {"value": 0.75}]],
        ),
    ),
    "ties, the base listed": recipe("ties", ["BASE", *weighted(1.0, 0.6)], HALF),
    "ties, eight-bit masks": recipe("ties", weighted(1.0, 0.6, 0.3), {"density": 0.5, "int8_mask": True}),
    "ties of one expert": recipe("ties", weighted(1.0), {"density": 0.3}),
    "ties of four experts": recipe("ties", weighted(0.4, 0.3, 0.2, 0.1), {"density": 0.3}),
    "ties, parameters of the recipe alone": recipe("ties", ["E1", "E2"], {"density": 0.5, "weight": 0.4}),
    "ties, parameters of a model first": recipe("ties", [("E1", {"weight": 0.9}), "E2"], {"weight": 0.2}),
    "dare_linear, nothing dropped": recipe("dare_linear", weighted(0.5, 0.8, -0.3), {"density": 1.0}),
    "dare_linear, normalised": recipe("dare_linear", weighted(0.5, 0.8, -0.3), {"normalize": True, "lambda": 0.5}),
    "dare_ties, nothing dropped": recipe("dare_ties", weighted(0.5, 0.8, -0.3), {"density": 1.0}),
    "dare_ties, normalised": recipe("dare_ties", weighted(0.5, 0.8, 0.3), {"density": 1.0, "normalize": True}),
    "breadcrumbs": recipe("breadcrumbs", weighted(0.5, 0.8, -0.3), {"density": 0.6, "gamma": 0.05}),
    "breadcrumbs, by the defaults": recipe("breadcrumbs", weighted(0.5, 0.8)),
    "breadcrumbs, little room for outliers": recipe(
        "breadcrumbs", weighted(0.5, 0.8, 0.3, density=[0.9, 0.5, 0.97], gamma=[0.2, 0.01, 0.05])
    ),
    "breadcrumbs, no outliers": recipe("breadcrumbs", weighted(1.0), {"density": 0.4, "gamma": 0.0}),
    "breadcrumbs, normalised": recipe(
        "breadcrumbs", weighted(0.5, 0.8, 0.3), {"density": 0.4, "gamma": 0.02, "normalize": True, "lambda": 0.7}
    ),
    "breadcrumbs_ties": recipe("breadcrumbs_ties", weighted(1.0, 0.6, 0.3), {"density": 0.6, "gamma": 0.05}),
    "breadcrumbs_ties, normalised": recipe(
        "breadcrumbs_ties", weighted(1.0, -0.6, 0.3), {"density": 0.3, "gamma": 0.1, "normalize": True}
    ),
    "breadcrumbs_ties, rescaled": recipe(
        "breadcrumbs_ties", weighted(1.0, 0.6), {"density": 0.3, "gamma": 0.1, "rescale": True}
    ),
    "breadcrumbs of one expert": recipe("breadcrumbs", weighted(1.0), {"density": 0.3, "gamma": 0.1}),
    "della_linear, nothing dropped": recipe("della_linear", weighted(0.5, 0.8, -0.3), {"density": 1.0}),
    "della, nothing dropped": recipe("della", weighted(0.5, 0.8, 0.3), {"density": 1.0}),
    "slerp": recipe("slerp", ["BASE", "E1"], {"t": 0.4}),
    "slerp, the base last": recipe("slerp", ["E1", "BASE"], {"t": 0.4}),
    "slerp by layers and parts": recipe(
        "slerp", ["BASE", "E2"],
        {"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": [1, 0.5, 0]}, {"value": 0.5}]},
    ),
    "slerp of unrelated models": recipe("slerp", ["BASE", "FAR"], {"t": [0.2, 0.9]}),
    "nuslerp": recipe("nuslerp", weighted(0.3, 0.7), base=None),
    "nuslerp of unrelated models": recipe("nuslerp", [("E1", {"weight": 0.3}), ("FAR", {"weight": 0.7})], base=None),
    "nuslerp with a base": recipe("nuslerp", weighted(0.3, 0.7)),
    "nuslerp by slices": recipe("nuslerp", weighted(0.3, 0.7), {"nuslerp_flatten": False}),
    "nuslerp across slices": recipe(
        "nuslerp", weighted(0.3, 0.7), {"nuslerp_flatten": False, "nuslerp_row_wise": True}
    ),
    "multislerp": recipe("multislerp", weighted(0.5, 0.2, 0.3), base=None),
    "multislerp with a base": recipe("multislerp", weighted(0.5, 0.2, 0.3)),
    "multislerp, weights as they are": recipe("multislerp", weighted(0.5, 0.2, 0.9), {"normalize_weights": False}),
    "karcher": recipe("karcher", ["E1", "E2", "E3"], base=None),
    "karcher of unrelated models": recipe("karcher", ["E1", "FAR", "E3"], base=None),
    "karcher, few steps": recipe("karcher", ["E1", "FAR"], {"max_iter": 2, "tol": 1e-9}, base=None),
    "model stock": recipe("model_stock", ["E1", "E2", "E3"]),
    "sce": recipe("sce", ["E1", "E2", "E3"]),
    "sce, few elements": recipe("sce", ["BASE", "E1", "E2", "E3"], {"select_topk": 0.3, "int8_mask": True}),
    "sce of two experts": recipe("sce", ["E1", "E2"], {"select_topk": [0.2, 0.8]}),
    "nearswap": recipe("nearswap", ["BASE", "E1"], {"t": 0.01}),
    "nearswap, the expert alone": recipe(
        "nearswap", ["E2"], {"t": [{"filter": "mlp", "value": 0.02}, {"value": 0.005}]}
    ),
    "ram": recipe("ram", ["E1", "E2", "E3"]),
    "ram, few changes": recipe("ram", ["E1", "E2", "E3"], {"epsilon": 0.03}),
    "ramplus_tl": recipe("ramplus_tl", ["E1", "E2", "E3"], {"epsilon": 0.03}),
    "ramplus_tl, its own changes much larger": recipe(
        "ramplus_tl", ["E1", "E2"], {"epsilon": 0.02, "r": 0.5, "alpha": 3.0}
    ),
    "arcee_fusion": recipe("arcee_fusion", ["BASE", "E1"]),
    "arcee_fusion of unrelated models": recipe("arcee_fusion", ["FAR"]),
    # of experts that agree: mergekit extrapolates past the base where they do not, and mergewise stops there
    "model stock by filters": recipe("model_stock", ["BASE", "NEAR1", "NEAR2", "NEAR3"], {"filter_wise": True}),
}  # fmt: skip


def _value(dice, low, high):
    """A scalar, a gradient, or filters, as a recipe may have it."""

    def number():
        return round(dice.uniform(low, high), 2)

    def gradient():
        return [number() for _ in range(dice.randint(2, 4))]

    kind = dice.choice(["scalar", "scalar", "gradient", "filters"])
    if kind == "scalar":
        return number()
    if kind == "gradient":
        return gradient()
    parts = dice.sample(["self_attn", "mlp", "norm", "layers.1", "lm_head", "embed_tokens", "q_proj", "down_proj"], 2)
    return [*({"filter": p, "value": dice.choice([number, gradient])()} for p in parts), {"value": number()}]


def random_recipe(seed):
    """A random mixture; the same for a seed on every machine."""
    dice = random.Random(seed)
    method = dice.choice(["linear", "task_arithmetic", "ties", "ties", "ties", "dare_linear", "dare_ties"])
    count = dice.randint(1, 4)
    models = []
    for name in EXPERTS[:count]:
        # linear divides by the sum of all weights, so there they stay positive
        own = {"weight": _value(dice, 0.1 if method == "linear" else -0.6, 1.5)}
        if method == "ties" and dice.random() < 0.6:
            own["density"] = _value(dice, 0.05, 1.0)
        models.append((name, own))
    shared = {}
    if method != "linear":
        shared["lambda"] = round(dice.uniform(0.3, 1.5), 2)
    if dice.random() < 0.5:
        shared["normalize"] = dice.random() < 0.5
    if method == "ties" and dice.random() < 0.5:
        shared["density"] = _value(dice, 0.05, 1.0)
    if method == "ties" and dice.random() < 0.3:
        shared["rescale"] = True
    if method != "linear" and dice.random() < 0.3:
        models.insert(dice.randint(0, count), "BASE")
    return recipe(method, models, shared, base=None if method == "linear" else "BASE")


TABLE |= {f"random {seed}": random_recipe(seed) for seed in range(24)}

# The masks of DARE differ by design; these are compared by what must hold for any mask.
DROPPING = {
    f"{method} {density} rescale {rescale}": recipe(method, weighted(1.0), {"density": density, "rescale": rescale})
    for method in ("dare_linear", "dare_ties")
    for density in (0.3, 0.8)
    for rescale in (True, False)
}


# DELLA as well, and the share that is kept depends on the rank in the row.
RANKED = {
    f"{method} {density} epsilon {epsilon} rescale {rescale}": recipe(
        method, weighted(1.0), {"density": density, "epsilon": epsilon, "rescale": rescale}
    )
    for method in ("della_linear", "della")
    for density, epsilon in ((0.5, 0.45), (0.3, 0.15))
    for rescale in (True, False)
}  # fmt: skip


def placed(content, folders):
    """The recipe with folders in place of the names of models."""
    content = copy.deepcopy(content)
    for row in content["models"]:
        row["model"] = str(folders[row["model"]])
    if "base_model" in content:
        content["base_model"] = str(folders[content["base_model"]])
    return content
