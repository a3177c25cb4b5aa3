"""Which merge methods there are."""

from mergewise.errors import RecipeError, did_you_mean
from mergewise.method import elementwise, fusion, geometric, interference, knots, linear, spectral, voting
from mergewise.method.base import Method

__all__ = ["find_method", "methods"]


def methods() -> dict[str, Method]:
    """Return every registered method by name."""
    families = (linear, voting, elementwise, geometric, fusion, spectral, interference, knots)
    return {method.name: method for family in families for method in family.METHODS}


def find_method(name: str) -> Method:
    """Return the method of that name.

    Raises:
        RecipeError: There is no such method.
    """
    known = methods()
    if name not in known:
        raise RecipeError(f"There is no merge method '{name}'.{did_you_mean(name, known)}")
    return known[name]
