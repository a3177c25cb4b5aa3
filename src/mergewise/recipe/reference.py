"""How recipes name models: ``path[@revision][+adapter[@revision]]``, read in this one place."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from mergewise.errors import RecipeError

__all__ = ["ModelReference"]


def _is_local(text: str) -> bool:
    try:
        return os.path.lexists(text)
    except ValueError:  # a null byte
        return False


@dataclass(frozen=True)
class ModelReference:
    """A model that a recipe names.

    Attributes:
        path: A folder, a file, a URL, or the name of a repository on a model hub.
        revision: Branch, tag or commit of the repository.
        lora: A low-rank adapter that is applied to it: as ``path``.
        lora_revision: Branch, tag or commit of the adapter's repository.
    """

    path: str
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None

    @classmethod
    def parse(cls, text: str, *, is_local: Callable[[str], bool] = _is_local) -> Self:
        """Read a reference.

        A file or folder on this machine is taken as it is named, whatever signs its name holds.

        Args:
            text: ``path[@revision][+adapter[@revision]]``.
            is_local: Whether there is a file or folder of that name.

        Raises:
            RecipeError: A part of it is empty, or there are two adapters.
        """
        if is_local(text):
            return cls(text)
        model, plus, adapter = text.partition("+")
        path, revision = _revision(model, text, is_local)
        if not plus:
            return cls(path, revision)
        if "+" in adapter and not is_local(adapter):
            raise RecipeError(f"Expected one adapter after '+', found more in the model reference '{text}'.")
        lora, lora_revision = _revision(adapter, text, is_local)
        return cls(path, revision, lora, lora_revision)

    def __str__(self) -> str:
        """Return the short form, which ``parse`` reads."""
        return f"{self.model}+{self.adapter}" if self.lora else self.model

    @property
    def model(self) -> str:
        """The model without the adapter, in the short form."""
        return self.path + (f"@{self.revision}" if self.revision else "")

    @property
    def adapter(self) -> str | None:
        """The adapter in the short form; ``None`` for a model without one."""
        return self.lora and self.lora + (f"@{self.lora_revision}" if self.lora_revision else "")


def _revision(part: str, text: str, is_local: Callable[[str], bool]) -> tuple[str, str | None]:
    """Cut a path from its revision; an ``@`` in the authority of a URL belongs to the path."""
    if is_local(part):
        return part, None
    scheme, separator, rest = part.partition("://")
    authority, slash, rest = rest.partition("/") if separator else ("", "", part)
    before, at, revision = rest.partition("@")
    path = f"{scheme}{separator}{authority}{slash}{before}" if separator else before
    if not path or (at and not revision):
        raise RecipeError(f"Expected 'path[@revision][+adapter[@revision]]' as model reference, found '{text}'.")
    return path, revision if at else None
