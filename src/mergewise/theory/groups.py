"""Tensors by layer and by kind, from their names alone; and experts by short names."""

import re
from collections.abc import Callable, Iterable, Sequence

from mergewise.engine.survey.record import TensorRecord

__all__ = ["OUTSIDE", "grouped", "kind_of", "layer_of", "short_names"]

OUTSIDE = -1
"""The layer of what stands outside the layers: embeddings, final norms, heads."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def layer_of(name: str) -> int:
    """Return the layer of a tensor, the first number in its name, or ``OUTSIDE``."""
    found = _NUMBER.search(f".{name}")
    return int(found[0]) if found else OUTSIDE


def kind_of(name: str) -> str:
    """Return a tensor's name with a star for every number in it, without what all layers begin with."""
    starred = _NUMBER.sub("*", f".{name}")[1:]
    head, star, tail = starred.partition("*.")
    return tail.removesuffix(".weight") if star else head.removesuffix(".weight")


def grouped(
    records: Iterable[TensorRecord], key: Callable[[str], str | int]
) -> dict[str | int, Sequence[TensorRecord]]:
    """Return tensors by a key of their names, in the order in which keys are first met."""
    found: dict[str | int, list[TensorRecord]] = {}
    for record in records:
        found.setdefault(key(record.name), []).append(record)
    return dict(found)


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the last parts of paths and references, where these differ; else what is given."""
    last = tuple(name.rstrip("/").split("/")[-1] for name in names)
    return last if len(set(last)) == len(names) else tuple(names)
