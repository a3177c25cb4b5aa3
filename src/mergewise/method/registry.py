"""Which merge methods there are: those of this package, those of others, and those that a program declares."""

import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from mergewise.errors import MergewiseError, MethodError, RecipeError, did_you_mean
from mergewise.method import elementwise, fusion, geometric, interference, knots, linear, measured, spectral, voting
from mergewise.method.base import Method

__all__ = ["ENTRY_POINTS", "find_method", "methods", "register"]

ENTRY_POINTS = "mergewise.methods"
"""The group of entry points by which packages bring methods: ``capped = "package.module"``, where it is declared."""

_declared: dict[str, tuple[Method, str]] = {}  # by name: the method, and the module that declares it


@cache
def _own() -> Mapping[str, Method]:
    families = (linear, voting, elementwise, geometric, fusion, spectral, interference, knots, measured)
    return MappingProxyType({method.name: method for family in families for method in family.METHODS})


def methods() -> dict[str, Method]:
    """Return every registered method by name, those of installed packages included.

    Raises:
        MethodError: A package's methods cannot be loaded.
    """
    for name in _packaged():
        if name not in _declared:
            _load(name)
    return {**_own(), **{name: method for name, (method, _) in sorted(_declared.items())}}


def find_method(name: str) -> Method:
    """Return the method of that name; a package that brings it is loaded now.

    Raises:
        RecipeError: There is no such method.
        MethodError: The package that brings it cannot be loaded.
    """
    if name in _own():
        return _own()[name]
    if name not in _declared:
        if name not in _packaged():
            known = {*_own(), *_declared, *_packaged()}
            raise RecipeError(f"There is no merge method '{name}'.{did_you_mean(name, known)}")
        _load(name)
    return _declared[name][0]


def register(method: Method, module: str) -> None:
    """Add a method that a module declares; a module that is run again takes the place of its former self.

    Raises:
        MethodError: The name is taken.
    """
    owner = None
    if method.name in _own():
        owner = "mergewise itself"
    elif method.name in _declared and _declared[method.name][1] != module:
        owner = f"module '{_declared[method.name][1]}'"
    elif any(module.partition(".")[0] != point.module.partition(".")[0] for point in _packaged().get(method.name, ())):
        owner = f"package '{_package(_packaged()[method.name][0])}'"
    if owner:
        raise MethodError(
            f"There is a merge method '{method.name}' already, from {owner}; choose another name in module '{module}'."
        )
    _declared[method.name] = (method, module)


def _packaged() -> Mapping[str, tuple[EntryPoint, ...]]:
    return _scan(tuple(sys.path))


@lru_cache(maxsize=4)
def _scan(path: tuple[str, ...]) -> Mapping[str, tuple[EntryPoint, ...]]:  # noqa: ARG001 - what is found hangs on it
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        if point not in found.get(point.name, ()):  # a package may be on the path twice
            found[point.name] = (*found.get(point.name, ()), point)
    return MappingProxyType(found)


def _load(name: str) -> None:
    """Import what declares a package's method.

    Raises:
        MethodError: That fails, or does not declare it.
    """
    first, *others = _packaged()[name]
    package = _package(first)
    if others:
        raise MethodError(
            f"Merge method '{name}' comes from two packages, '{package}' and '{_package(others[0])}'; uninstall one."
        )
    if name in _own():
        raise MethodError(
            f"Package '{package}' brings a merge method '{name}', which mergewise has itself; update or uninstall it."
        )
    try:
        first.load()
    except MergewiseError as fault:
        raise MethodError(f"Package '{package}' cannot bring its merge method '{name}': {fault}") from fault
    except Exception as fault:
        raise MethodError(
            f"Package '{package}' cannot bring its merge method '{name}', since loading '{first.value}' failed "
            f"({type(fault).__name__}: {fault}); update or uninstall it."
        ) from fault
    if name not in _declared:
        raise MethodError(
            f"Package '{package}' says that '{first.value}' declares merge method '{name}', but it does not; update or "
            "uninstall it."
        )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
