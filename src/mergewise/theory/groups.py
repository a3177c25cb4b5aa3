"""Tensors by layer and by kind, from their names alone; and experts by short names."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from mergewise.engine.survey.record import TensorRecord

__all__ = ["OUTSIDE", "Place", "grouped", "kind_of", "layer_of", "place_names", "place_of", "short_names"]

OUTSIDE = -1
"""The layer of what stands outside the layers: embeddings, final norms, heads."""

Place = tuple[str, int]
"""A stack of layers, by what its names begin with, and a layer of it; ``OUTSIDE`` is of no stack."""

_Key = TypeVar("_Key", str, Place)
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def layer_of(name: str) -> int:
    """Return the layer of a tensor, the first number in its name, or ``OUTSIDE``."""
    found = _NUMBER.search(f".{name}")
    return int(found[0]) if found else OUTSIDE


def place_of(name: str) -> Place:
    """Return the stack and the layer of a tensor: models with a text and a vision part have two layers 3."""
    stack, number, _ = _NUMBER.sub("*", f".{name}").partition("*")
    return (stack.strip("."), layer_of(name)) if number else ("", OUTSIDE)


def place_names(places: Iterable[Place]) -> dict[Place, str]:
    """Return how places are called, in order: what stands outside first, and the stack only where there are several."""
    ordered = sorted(set(places), key=lambda place: (place[1] != OUTSIDE, place))
    stacks = {stack for stack, layer in ordered if layer != OUTSIDE}
    return {
        (stack, layer): "outside" if layer == OUTSIDE else f"{stack if len(stacks) > 1 else 'layer'} {layer}"
        for stack, layer in ordered
    }


def kind_of(name: str) -> str:
    """Return a tensor's name with a star for every number in it, without what all layers begin with."""
    starred = _NUMBER.sub("*", f".{name}")[1:]
    head, star, tail = starred.partition("*.")
    return tail.removesuffix(".weight") if star else head.removesuffix(".weight")


def grouped(records: Iterable[TensorRecord], key: Callable[[str], _Key]) -> dict[_Key, Sequence[TensorRecord]]:
    """Return tensors by a key of their names, in the order in which keys are first met."""
    found: dict[_Key, list[TensorRecord]] = {}
    for record in records:
        found.setdefault(key(record.name), []).append(record)
    return dict(found)


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the last parts of paths and references, where these differ; else what is given."""
    last = tuple(name.rstrip("/").split("/")[-1] for name in names)
    return last if len(set(last)) == len(names) else tuple(names)
