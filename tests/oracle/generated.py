"""Recipes that hypothesis makes up for every method of mergekit 0.1.5: all its parameters in every form and place.

Numbers that are added up are multiples of 1/16, so that sums that vanish do so in float32 too: what rounding leaves of
them, mergekit would divide by.
"""

from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from oracle.families import EXPERTS, FAMILIES, NEAR

PARTS = ["self_attn", "mlp", "norm", "layers.1.", "layers.0.mlp", "lm_head", "embed_tokens", "q_proj", "down_proj", "x"]
BOOLEANS = st.booleans()


def sixteenths(low, high):
    return st.integers(round(low * 16), round(high * 16)).map(lambda k: k / 16)


WEIGHT = sixteenths(-1, 1.5)
SHARE = st.sampled_from([0.0, 1.0]) | st.integers(1, 99).map(lambda k: k / 100) | st.just(0.001)
LAMBDA = sixteenths(-0.5, 2)
GTA = {
    "weight": WEIGHT, "density": SHARE, "lambda": LAMBDA, "normalize": BOOLEANS, "rescale": BOOLEANS,
    "int8_mask": BOOLEANS,
}  # fmt: skip
RANDOM_SHARE = st.sampled_from([0.0, 1.0])
"""Densities at which nothing is left to chance; others are compared by structure, for masks differ by design."""
PARAMETERS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "linear": {"weight": WEIGHT, "normalize": BOOLEANS},
    "slerp": {"t": sixteenths(-0.25, 1.25)},
    "nuslerp": {"weight": WEIGHT, "nuslerp_flatten": BOOLEANS, "nuslerp_row_wise": BOOLEANS},
    "multislerp": {
        "weight": WEIGHT, "normalize_weights": BOOLEANS, "eps": st.sampled_from([1e-8, 1e-6, 1e-3]),
    },
    "karcher": {"max_iter": st.integers(0, 12), "tol": st.sampled_from([1e-5, 1e-4, 1e-7])},
    "passthrough": {"scale": sixteenths(-1, 2)},
    "model_stock": {"filter_wise": BOOLEANS},
    "arcee_fusion": {},
    "nearswap": {"t": st.sampled_from([0.0, 1e-4, 0.01, 0.03, 0.1, 5.0])},
    "sce": {"select_topk": SHARE, "int8_mask": BOOLEANS},
    "ram": {"epsilon": st.sampled_from([0.0, 1e-5, 0.01, 0.03, 0.08])},
    "ramplus_tl": {
        # with none at all, mergekit divides zero by zero where an expert changed nothing alone
        "epsilon": st.sampled_from([1e-6, 1e-5, 0.01, 0.03, 0.08]), "r": sixteenths(-1, 2), "alpha": sixteenths(0, 3),
    },
    "task_arithmetic": GTA,
    "ties": GTA,
    "breadcrumbs": GTA | {"gamma": SHARE},
    "breadcrumbs_ties": GTA | {"gamma": SHARE},
    "dare_linear": GTA | {"density": RANDOM_SHARE},
    "dare_ties": GTA | {"density": RANDOM_SHARE},
    "della_linear": GTA | {"density": RANDOM_SHARE, "epsilon": st.sampled_from([0.0, 0.15, 0.3])},
    "della": GTA | {"density": RANDOM_SHARE, "epsilon": st.sampled_from([0.0, 0.15, 0.3])},
}  # fmt: skip
"""Valid values of every parameter of every method; the oracle suite checks that none is missing."""

SMOOTH = {"linear", "slerp", "multislerp", "karcher", "passthrough", "task_arithmetic", "dare_linear", "della_linear"}
"""Methods whose result changes little if numbers are rounded in between; others rank, elect or extrapolate."""
PER_MODEL = {"weight", "density", "gamma", "scale"} | {f"{name}.epsilon" for name in ("della", "della_linear")}
DISCRETE = {"max_iter"}
EXPERTS_OF = {"slerp": (1, 1), "nearswap": (1, 1), "arcee_fusion": (1, 1), "passthrough": (1, 1), "nuslerp": (2, 2)}
NEEDS_BASE = set(PARAMETERS) - {"linear", "nuslerp", "multislerp", "karcher", "passthrough"}
DROWNED = {"arcee_fusion": {"mixed", "small"}, "karcher": {"small"}}
"""Families whose changes are so small that mergekit's divergences and angles in float32 are mostly noise."""
DIVIDES_BY_WEIGHTS = {"linear", "nuslerp", "multislerp"}


def is_per_model(method, parameter):
    return parameter in PER_MODEL or f"{method}.{parameter}" in PER_MODEL


def is_discrete(name, values):
    """Whether a gradient between values would not be one of them."""
    return name in DISCRETE or values is BOOLEANS or values is RANDOM_SHARE


@dataclass(frozen=True)
class Case:
    """A recipe over the models of a family."""

    family: str
    recipe: dict[str, Any]

    @property
    def method(self):
        return self.recipe["merge_method"]


@st.composite
def settings_of(draw, values, *, discrete=False, total=True):
    """A value in one of the forms that a recipe may have; ``total`` ones have a value for every tensor."""
    kinds = ["scalar", "scalar", "filters"] if discrete else ["scalar", "scalar", "gradient", "filters", "filter"]
    if total and not discrete:
        kinds.remove("filter")
    kind = draw(st.sampled_from(kinds))
    if kind == "scalar":
        return draw(values)
    gradient = st.lists(values, min_size=2, max_size=4)
    if kind == "gradient":
        return draw(gradient)
    one = values if discrete else values | gradient
    if kind == "filter":
        return {"filter": draw(st.sampled_from(PARTS)), "value": draw(one)}
    found = [{"filter": part, "value": draw(one)} for part in draw(st.lists(st.sampled_from(PARTS), max_size=3))]
    if total or draw(st.booleans()) or not found:
        found.append(draw(st.sampled_from([{}, {"filter": "*"}])) | {"value": draw(one)})
    return found


@st.composite
def cases(draw, method):
    """A recipe for a method: whole models or slices, a family, dtypes, parameters in every place."""
    family = draw(st.sampled_from(sorted(FAMILIES.keys() - DROWNED.get(method, set()))))
    low, high = EXPERTS_OF.get(method, (1, 4))
    # changes of nothing have no direction
    known = NEAR if method == "model_stock" else EXPERTS[: 3 if method in {"multislerp", "arcee_fusion"} else 4]
    least = {"model_stock": 2}.get(method, low)
    experts = draw(st.permutations(known))[: draw(st.integers(least, min(high, len(known))))]
    base = "BASE" if method in NEEDS_BASE or (method != "passthrough" and draw(st.booleans())) else None
    recipe = {"merge_method": method}
    if base:
        recipe["base_model"] = base
    shared, own = draw(_parameters(method, experts, base))
    if shared:
        recipe["parameters"] = shared
    if draw(st.booleans()):
        _slices(draw, recipe, method, FAMILIES[family].layers, experts, base, own)
    else:
        models = [{"model": model} | ({"parameters": own[model]} if own.get(model) else {}) for model in experts]
        if base and (method == "linear" or draw(st.booleans())):
            entry = {"model": base} | ({"parameters": own[base]} if own.get(base) else {})
            models.insert(draw(st.integers(0, len(models))), entry)
        recipe["models"] = models
    for key in ("dtype", "out_dtype"):
        if draw(st.booleans()):
            recipe[key] = draw(st.sampled_from(["float32", "bfloat16", "float16"]))
    if family == "mixed" and not recipe.keys() & {"dtype", "out_dtype"}:
        recipe["dtype"] = "float32"  # mergekit takes the widest of all models
    return Case(family, recipe)


def _slices(draw, recipe, method, layers, experts, base, own):
    recipe["slices"] = []
    for _ in range(draw(st.integers(1, 2))):
        count = draw(st.integers(1, layers))
        starts = st.integers(0, layers - count)
        if method == "model_stock":  # models of other layers point away from each other
            starts = st.just(draw(starts))
        sources = [
            {"model": model, "layer_range": [(at := draw(starts)), at + count]}
            | ({"parameters": own[model]} if own.get(model) else {})
            for model in (draw(st.permutations([*experts, base])) if base else experts)
        ]
        one = {"sources": sources}
        places = {k: v for k, v in PARAMETERS[method].items() if k != "weight" and draw(st.integers(0, 3)) == 0}
        if places:
            one["parameters"] = {
                k: draw(settings_of(v, discrete=is_discrete(k, v), total=k == "t")) for k, v in places.items()
            }
        recipe["slices"].append(one)


@st.composite
def _parameters(draw, method, experts, base):
    """Parameters of the recipe, and of each model; every weight and every t has a value somewhere."""
    shared, own = {}, {model: {} for model in experts}
    takers = [*experts, *([base] if base and method in {"linear", "karcher"} else [])]
    own |= {model: {} for model in takers}
    for name, values in PARAMETERS[method].items():
        discrete = is_discrete(name, values)
        if name == "weight" and method in DIVIDES_BY_WEIGHTS:
            # their sum stays positive in every tensor
            for i, model in enumerate(takers):
                one = sixteenths(0.25, 1.5) if i == 0 else sixteenths(-0.0625, 1.5)
                own[model][name] = draw(settings_of(one))
            continue
        if name == "t" or (name == "weight" and draw(st.booleans())):
            shared[name] = draw(settings_of(values))
        elif name == "weight":
            for model in takers:
                own[model][name] = draw(settings_of(values))
            continue
        elif draw(st.booleans()):
            shared[name] = draw(settings_of(values, discrete=discrete, total=False))
        if is_per_model(method, name):
            for model in takers:
                if draw(st.integers(0, 2)) == 0:
                    own[model][name] = draw(settings_of(values, discrete=discrete, total=False))
    return shared, own


def drawn(strategy, count):
    """Return that many examples of a strategy, the same in every run."""
    found = []

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def keep(one):
        found.append(one)

    keep()
    return found
