"""Adapters merged into an adapter: which modules there are, what is written for each, and its configuration."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergewise.checkpoint import (
    ADAPTER_PREFIX,
    FLOAT_NAMES,
    STORAGE_DTYPES,
    AdaptedCheckpoint,
    Adapter,
    Connections,
    OutputTensor,
    Source,
    TensorInfo,
    hub_reference,
    is_adapter,
    is_here,
    is_url,
    open_adapter,
    open_source,
)
from mergewise.checkpoint.tokens import is_embedding
from mergewise.engine.adapters.core_checkpoints import CoreCheckpoint, bias_name, changes
from mergewise.engine.adapters.core_space import CoreModule, CoreSpace
from mergewise.errors import CheckpointError, RecipeError
from mergewise.method import find_method
from mergewise.recipe import LayerPositions, ModelReference, Recipe

__all__ = ["AdapterMerge", "adapter_config", "of_experts", "open_adapters"]


@dataclass(frozen=True)
class AdapterMerge:
    """Adapters of one base, ready to be merged into one.

    Attributes:
        space: Their core space.
        sources: What the engine merges: the base first where changes to it are merged, then the adapters.
        written: What is written for every merged tensor: B and A of a module, or a tensor.
        config: The ``adapter_config.json`` of the result.
        positions: Where tensors stand among the layers of the base; of the adapters, if it is not here.
        remarks: What a user should know, a sentence each.
    """

    space: CoreSpace
    sources: tuple[Source, ...]
    written: Mapping[str, tuple[OutputTensor, ...]]
    config: Mapping[str, Any]
    positions: LayerPositions
    remarks: tuple[str, ...]


def open_adapters(recipe: Recipe, connections: Connections) -> AdapterMerge:
    """Open the adapters of a recipe whose result is an adapter; only headers and configurations are read.

    The base is opened to check that the adapters fit it, if it is on this machine or the recipe gives its URL; its
    weights are not needed unless an adapter brings whole tensors.

    Args:
        recipe: The recipe.
        connections: What the adapters and the base share.

    Raises:
        MergewiseError: An expert is not an adapter, the adapters do not belong together, or the method has no meaning
            for adapters.
    """
    assert recipe.adapter is not None
    _require_changes(recipe)
    names, adapters, named = _open(recipe, connections)
    base_path = named or next((a.config.base for a in adapters if a.config.base), None)
    here = base_path is not None and (is_here(base_path) or (named is not None and is_url(named)))
    base = open_source(base_path, connections) if base_path is not None and here else None
    adapted = [None if base is None else AdaptedCheckpoint(base, a, n) for a, n in zip(adapters, names, strict=True)]
    remarks = []
    if base is None:
        what = f"the base '{base_path}' is" if base_path else "no base is"
        remarks.append(
            f"Adapters are compared with each other only, since {what} not here to check them against; gradients go "
            "over the layers that the adapters change."
        )
    modules = _modules(adapters, adapted, names)
    wholes, raw_names, saved = _whole_tensors(adapters, adapted, names)
    mixed = [modules.pop(name) for name in sorted(modules.keys() & raw_names.keys(), key=str.encode)]
    remarks += [_hold_whole(module, adapted, names, wholes, raw_names) for module in mixed]
    space = CoreSpace(adapters, modules)
    if find_method(recipe.method).family == "voting":
        remarks.append(
            f"{recipe.method} ranks and elects entries of the adapters' cores (arXiv 2509.17786), not of the weights; "
            "without 'adapter' the full weights are merged."
        )
    for name in raw_names.keys() & changes(space).keys():
        raise CheckpointError(
            f"{names[0]}: '{name}' is brought whole and has changes of 'lora_bias' too; such adapters cannot be merged "
            "into one, so leave out 'adapter'."
        )
    base_whole = {name: (base, base.tensors[name]) for name in raw_names if base is not None}
    sources: list[Source] = []
    if recipe.in_delta_space:
        sources.append(CoreCheckpoint(space, None, base_path or "the base", base_whole))
    for i, name in enumerate(names):
        sources.append(CoreCheckpoint(space, i, name, base_whole | wholes[i]))
    written = _written(recipe, space, raw_names, base_whole)
    ranks = {module.module: written[name][0].shape[1] for name, module in space.modules.items()}
    remarks += of_experts(ranks)
    config = adapter_config(
        base=recipe.base or base_path, ranks=ranks, tasks=[a.config.task for a in adapters],
        targets=_targets(space, adapters), saved=saved, ties=_ties(adapters),
        bias=_one([a.config.bias for a in adapters], "bias", adapters),
        lora_bias=any(part and part.bias for m in space.modules.values() for part in m.parts),
        fan_in_fan_out=_one([a.config.fan_in_fan_out for a in adapters], "fan_in_fan_out", adapters),
    )  # fmt: skip
    lacking = [sum(m.parts[i] is None for m in space.modules.values()) for i in range(len(names))]
    remarks += [
        f"{count} modules that {name} leaves alone count as unchanged."
        for name, count in zip(names, lacking, strict=True)
        if count
    ]
    positions = LayerPositions(changes(space) if base is None else base.tensors)
    return AdapterMerge(space, tuple(sources), written, config, positions, tuple(remarks))


def adapter_config(
    *,
    base: str | None,
    ranks: Mapping[str, int],
    targets: Sequence[str],
    tasks: Sequence[str | None] = (),
    saved: Sequence[str] = (),
    ties: bool = False,
    bias: str = "none",
    lora_bias: bool = False,
    fan_in_fan_out: bool = False,
) -> dict[str, Any]:
    """Return an ``adapter_config.json`` under which every module is W + BA: the scale α/r is one.

    Args:
        base: The base model.
        ranks: Rank of every module.
        targets: ``target_modules``.
        tasks: ``task_type`` of the adapters that it is made of; kept if they agree.
        saved: ``modules_to_save``.
        ties: Whether a tied head follows an embedding among these.
        bias: Which biases are among its tensors, in PEFT's words.
        lora_bias: Whether B has a bias.
        fan_in_fan_out: Whether weights are stored as (inputs, outputs).
    """
    usual = _usual(ranks)
    # PEFT takes the first pattern that matches the end of a name, so a name comes before those that it ends with
    pattern = {m: ranks[m] for m in sorted(ranks, key=lambda m: (-len(m), m)) if ranks[m] != usual}
    hub = hub_reference(base) if base and not is_here(base) else None
    hub = None if hub and hub.inside else hub
    return {
        "peft_type": "LORA",
        "task_type": tasks[0] if tasks and len(set(tasks)) == 1 else None,
        "base_model_name_or_path": hub.repository if hub else base,
        **({"revision": hub.revision} if hub and hub.revision else {}),
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": list(targets) or "dummy-target-modules",  # PEFT's word for none
        "modules_to_save": list(saved) or None,
        **({"ensure_weight_tying": True} if ties else {}),
        "bias": bias,
        "lora_bias": lora_bias,
        "fan_in_fan_out": fan_in_fan_out,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def of_experts(ranks: Mapping[str, int]) -> list[str]:
    """Return a remark if PEFT cannot load the ranks of a mixture of experts.

    transformers 5 stacks experts under other names, which no ``rank_pattern`` of PEFT's finds.
    """
    blocks = tuple({f"{module.partition('.experts.')[0]}." for module in ranks if ".experts." in module})
    found = {rank for module, rank in ranks.items() if module.startswith(blocks)}
    if found <= {_usual(ranks)}:
        return []
    remark = (
        f"Experts and their gates have ranks {min(found)} to {max(found)}; where transformers 5 stacks experts, PEFT "
        f"loads only one rank for all of them, so ask for rank {min(found)} if it is to load the adapter there."
    )
    return [remark]


def _usual(ranks: Mapping[str, int]) -> int:
    return Counter(ranks.values()).most_common(1)[0][0] if ranks else 1


def _require_changes(recipe: Recipe) -> None:
    """Require a method of which the result of changes is a change."""
    method = find_method(recipe.method)
    if not recipe.in_delta_space and method.family != "linear":
        raise RecipeError(
            f"{recipe.method} merges weights, so its result is not the base plus an adapter; take a method that merges "
            "changes, such as task_arithmetic, or leave out 'adapter'."
        )


def _open(recipe: Recipe, connections: Connections) -> tuple[list[str], list[Adapter], str | None]:
    """Return the adapters by the names that the recipe gives them, and the base that it names, if it does."""
    names, adapters, bases = [], [], [recipe.base] if recipe.base else []
    for expert in recipe.merged:
        reference = ModelReference.parse(expert.model)
        folder = reference.adapter or reference.model
        place = connections.place(folder)
        if not is_adapter(place):
            raise CheckpointError(
                f"{folder}: expected an adapter, since the result is to be one, found none; extract one from a whole "
                "model with 'mergewise extract-lora', or leave out 'adapter'."
            )
        if reference.lora:
            bases.append(reference.model)
        names.append(expert.model)
        adapters.append(open_adapter(place))
    if len(set(bases)) > 1:
        raise RecipeError(f"Expected adapters of one base, found '{bases[0]}' and '{bases[1]}'.")
    return names, adapters, bases[0] if bases else None


def _modules(
    adapters: Sequence[Adapter], adapted: Sequence[AdaptedCheckpoint | None], names: Sequence[str]
) -> dict[str, CoreModule]:
    """Bring the modules of all adapters together under the names of the weights that they change."""
    found: dict[str, CoreModule] = {}
    for i, (adapter, on_base) in enumerate(zip(adapters, adapted, strict=True)):
        places = {m: f"{m}.weight" for m in adapter.low_rank} if on_base is None else on_base.weights
        for module, name in places.items():
            part = adapter.low_rank[module]
            before = found.get(name)
            if before is None:
                before = CoreModule(name, module, part.outputs, part.inputs, (None,) * len(adapters))
            parts = [part if j == i else other for j, other in enumerate(before.parts)]
            shapes = {(p.outputs, p.a.shape[1:], p.embedding) for p in parts if p is not None}
            if len(shapes) > 1:
                raise CheckpointError(
                    f"{names[i]}: module '{module}' has other inputs and outputs ({part.inputs}, {part.outputs}) than "
                    f"in the adapters before it ({before.inputs}, {before.outputs}); expected adapters of one base."
                )
            found[name] = replace(before, parts=tuple(parts))
    return dict(sorted(found.items(), key=lambda item: item[0].encode()))


def _whole_tensors(
    adapters: Sequence[Adapter],
    adapted: Sequence[AdaptedCheckpoint | None],
    names: Sequence[str],
) -> tuple[list[dict[str, tuple[Source, TensorInfo]]], dict[str, str], list[str]]:
    """Return the tensors that each adapter brings whole, how each is called in an adapter, and ``modules_to_save``."""
    wholes: list[dict[str, tuple[Source, TensorInfo]]] = []
    raw_names: dict[str, str] = {}
    saved: set[str] = set()
    for adapter, on_base, name in zip(adapters, adapted, names, strict=True):
        wholes.append({})
        if on_base is None and adapter.saved:
            raise CheckpointError(
                f"{name}: it brings whole tensors such as '{next(iter(adapter.saved))}', whose changes can only be "
                "told from the base; give the recipe a 'base_model' that is on this machine, or a URL such as "
                "hf://organisation/name."
            )
        if on_base is None:
            continue
        for place, info in on_base.saved.items():
            known = on_base.own.tensors.get(place)
            if known is None or known.shape != info.shape:
                raise CheckpointError(
                    f"{name}: '{place}' is not in the base, or of another shape there, so adapters that bring it "
                    "cannot be merged into one."
                )
            if place in on_base.weights.values():
                continue  # PEFT saves the embedding below a trained one, which itself is not trained
            wholes[-1][place] = (adapter.weights, info)
            raw_names.setdefault(place, info.name)
            saved.update(adapter.saved_for(info))
    return wholes, raw_names, sorted(saved)


def _hold_whole(
    module: CoreModule,
    adapted: Sequence[AdaptedCheckpoint | None],
    names: Sequence[str],
    wholes: Sequence[dict[str, tuple[Source, TensorInfo]]],
    raw_names: dict[str, str],
) -> str:
    """Have a module that one adapter brings whole brought whole by all that change it; return a remark on it."""
    bias = bias_name(module.name)
    if any(part and part.bias for part in module.parts):
        raw_names.setdefault(bias, bias_name(raw_names[module.name]))
    whole = next(name for name, tensors in zip(names, wholes, strict=True) if module.name in tensors)
    low_rank = next(name for name, part in zip(names, module.parts, strict=True) if part is not None)
    for part, on_base, tensors in zip(module.parts, adapted, wholes, strict=True):
        assert on_base is not None
        if on_base.kept_heads and module.name in on_base.kept_heads.values():
            raise CheckpointError(
                f"{whole} brings '{module.name}' whole, which leaves the head that the base ties to it as it is, and "
                f"{low_rank} adds factors to it, which the head follows; no adapter of the base holds both, so leave "
                "out 'adapter'."
            )
        if part is not None:
            tensors |= {name: (on_base, on_base.tensors[name]) for name in {module.name, bias} & raw_names.keys()}
    return (
        f"'{module.name}' is brought whole by {whole}, so the result holds it whole, with what the factors of "
        f"{low_rank} add to it."
    )


def _ties(adapters: Sequence[Adapter]) -> bool:
    """Return whether a tied head follows the embedding, if adapters bring one whole."""
    bringing = [adapter for adapter in adapters if any(map(is_embedding, adapter.saved))]
    ties: bool = _one([a.config.ties for a in bringing], "ensure_weight_tying", bringing) if bringing else False
    return ties


def _written(
    recipe: Recipe, space: CoreSpace, raw_names: Mapping[str, str], base_whole: Mapping[str, tuple[Source, TensorInfo]]
) -> dict[str, tuple[OutputTensor, ...]]:
    assert recipe.adapter is not None
    asked = FLOAT_NAMES[recipe.result_dtype] if recipe.result_dtype else None
    written: dict[str, tuple[OutputTensor, ...]] = {}
    for name, module in space.modules.items():
        rank = min(*module.shape, recipe.adapter.rank or module.vectors)
        own = {info.dtype for part in module.parts if part is not None for info in (part.a, part.b)}
        dtype = asked or (own.pop() if len(own) == 1 else "F64" if "F64" in own else "F32")
        b = (module.outputs, rank, *(1 for _ in module.window[1:]))
        stem = f"{ADAPTER_PREFIX}{module.module}"
        leaf_b, leaf_a = ("_embedding_B", "_embedding_A") if module.embedding else ("_B.weight", "_A.weight")
        written[name] = (
            _output(f"{stem}.lora{leaf_b}", dtype, b),
            _output(f"{stem}.lora{leaf_a}", dtype, (rank, *module.window)),
        )
        if any(part and part.bias for part in module.parts):
            written[bias_name(name)] = (_output(f"{stem}.lora_B.bias", dtype, (module.outputs,)),)
    for place, raw in raw_names.items():
        info = base_whole[place][1]
        written[place] = (_output(raw, asked or info.dtype, info.shape),)
    return written


def _output(name: str, dtype: str, shape: tuple[int, ...]) -> OutputTensor:
    return OutputTensor(name, dtype, shape, math.prod(shape) * STORAGE_DTYPES[dtype].bits // 8)


def _targets(space: CoreSpace, adapters: Sequence[Adapter]) -> list[str]:
    """Return the short names that the adapters target, if they all do so by name; else the modules in full."""
    modules = [module.module for module in space.modules.values()]
    short = {name for adapter in adapters for name in adapter.config.targets}
    found = {module: {name for name in short if module == name or module.endswith(f".{name}")} for module in modules}
    if all(adapter.config.targets for adapter in adapters) and all(found.values()):
        return sorted(set().union(*found.values()))  # others are of modules that are held whole
    return modules


def _one(values: Sequence[Any], key: str, adapters: Sequence[Adapter]) -> Any:
    """Return the value that all adapters have."""
    for value, adapter in zip(values, adapters, strict=True):
        if value != values[0]:
            raise CheckpointError(
                f"{adapter.config.path}: '{key}' is {json.dumps(value)}, but {json.dumps(values[0])} in "
                f"{adapters[0].config.path}; expected adapters that agree on it."
            )
    return values[0]
