"""Gram matrices of what goes into linear layers: XᵀX over the rows of X, a row per token (arXiv 2212.09849)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mergewise.learning.network import Network

__all__ = ["add_grams", "linear_layers"]


def linear_layers(network: Network) -> dict[str, tuple[torch.nn.Module, int, bool]]:
    """Return the linear layers of a model by their tensor: module, number of inputs, whether these come first.

    ``Conv1D`` of GPT-2 is one that stores its weight the other way round. A head that is tied to an embedding is none:
    its weight is the embedding's too.
    """
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415 - slow to import

    tables = {
        id(parameter)
        for module in network.model.modules()
        if isinstance(module, torch.nn.Embedding)
        for parameter in module.parameters()
    }
    found: dict[str, tuple[torch.nn.Module, int, bool]] = {}
    for name, module in network.model.named_modules():
        if not isinstance(module, torch.nn.Linear | Conv1D) or id(module.weight) in tables:
            continue
        tensor = network.names.get(f"{name}.weight")
        if tensor is not None:
            first = isinstance(module, Conv1D)
            found[tensor] = (module, int(module.weight.shape[0 if first else 1]), first)
    return found


@contextmanager
def add_grams(
    layers: dict[str, tuple[torch.nn.Module, int, bool]], sums: dict[str, torch.Tensor]
) -> Iterator[dict[str, int]]:
    """While it is open, add XᵀX of whatever goes into layers to sums, float64, and count rows.

    Args:
        layers: The layers, as ``linear_layers`` has them.
        sums: Where the products go, by tensor.
    """
    rows = dict.fromkeys(sums, 0)

    def watch(name: str) -> Any:
        def add(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach().reshape(-1, sums[name].shape[0]).double()
            sums[name] += x.T @ x
            rows[name] += x.shape[0]

        return add

    hooks = [layers[name][0].register_forward_pre_hook(watch(name)) for name in sums]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()
