"""Merge methods from typed functions: ``@merge_method`` reads the parameters off the signature and registers them."""

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from typing_extensions import TypeAliasType

from mergewise.errors import MergeError, MergewiseError, MethodError
from mergewise.method.base import ElementwiseProgram, Method, Program, Settings, WholeProgram
from mergewise.method.masks import SEED, Masks
from mergewise.method.parameters import Parameter
from mergewise.method.registry import register

__all__ = ["Array", "Choices", "PerModel", "Range", "merge_method"]

Array = Any
"""An array of any library that keeps to the array API: NumPy's, torch tensors."""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

PerModel = TypeAliasType("PerModel", Any, type_params=(T,))
"""``PerModel[float]``: a parameter of which every expert may have its own value; the function gets a tuple."""


@dataclass(frozen=True)
class Range:
    """What numbers a parameter takes, both ends included: ``Annotated[float, Range(0, 1)]``."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, init=False)
class Choices:
    """What words a parameter takes: ``Annotated[str, Choices("mean", "sum")]``, or ``Literal["mean", "sum"]``."""

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)


_TYPES = {float: "a float", int: "an int", bool: "a bool", str: "a word"}
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def merge_method(
    *,
    space: Literal["delta", "weight"] = "delta",
    summary: str | None = None,
    source: str | None = None,
    name: str | None = None,
    min_experts: int = 1,
    max_experts: int | None = None,
    elementwise: bool = False,
) -> Callable[[F], F]:
    """Make a merge method of a typed function, for recipes, the command line and Python.

    The first argument is the list of arrays to merge: task vectors for ``space="delta"``, whose merge is added to the
    base, and weights for ``space="weight"``; all have one shape and are float64 in merges, but may be of any array-API
    library (``array_api_compat.array_namespace`` gives its functions). The result is an array of that shape. Any other
    argument is a parameter of the method, with a type (``float``, ``int``, ``bool``, ``Literal["a", "b"]``) and a
    default; ``PerModel[float]`` lets every expert have its own and hands over a tuple. ``Annotated[float, Range(0, 1),
    "what it means"]`` limits and explains it, as does the ``Args`` section of the docstring. A trailing underscore is
    left out of its name, so that ``lambda_`` is ``lambda`` in a recipe. An argument of the type ``Masks`` gets random
    masks, ``masks(i, density)`` the one of expert i; the method then has the parameter ``seed``.

    The function must not write to its arrays, and must give the same result for the same arguments. It sees whole
    tensors, which plans account for in memory, or blocks of them if it is elementwise.

    Args:
        space: What the function sees.
        summary: One line of what it does; by default the first line of the docstring.
        source: Where it was published; by default the function's own place.
        name: Its name in recipes; by default the function's.
        min_experts: Fewest experts it makes sense for.
        max_experts: Most experts it is defined for; ``None`` for any number.
        elementwise: Whether an element of the result depends on no other elements than those in its own place. The
            function is then given one-dimensional blocks, one after the other, so that memory stays bounded.

    Returns:
        A decorator, which registers the method and returns the function as it is.

    Raises:
        MethodError: The declaration cannot be understood, or the name is taken.
    """

    def declare(function: F) -> F:
        method = _method(function, name, space, summary, source, min_experts, max_experts, elementwise=elementwise)
        register(method, function.__module__)
        return function

    return declare


def _method(
    function: Callable[..., Any],
    name: str | None,
    space: Literal["delta", "weight"],
    summary: str | None,
    source: str | None,
    min_experts: int,
    max_experts: int | None,
    *,
    elementwise: bool,
) -> Method:
    name = name or function.__name__
    where = f"{function.__module__}.{function.__qualname__}"
    if not _NAME.fullmatch(name):
        raise MethodError(
            f"The name of a merge method must be lower-case letters, digits and underscores, found '{name}' "
            f"for {where}; give 'name' to merge_method."
        )
    if space not in ("delta", "weight"):
        raise MethodError(
            f"The space of merge method '{name}' must be 'delta' or 'weight', found {space!r} in {where}."
        )
    words = inspect.getdoc(function) or ""
    summary = summary or words.partition("\n")[0]
    if not summary:
        raise MethodError(
            f"Merge method '{name}' needs a line of what it does; give {where} a docstring or a 'summary'."
        )
    parameters, drawn = _parameters(function, name, words)
    definition = _definition(function, name, parameters, drawn)

    def rule(arrays: Sequence[Any], settings: Settings, totals: Sequence[float], masks: Masks) -> Any:  # noqa: ARG001
        return definition(arrays, settings, masks)

    def lower(settings: Settings, experts: int) -> Program:  # noqa: ARG001 - one signature for all
        if elementwise:
            return ElementwiseProgram(rule, settings, delta=space == "delta")
        return WholeProgram(delta=space == "delta", definition=definition, settings=settings)

    return Method(
        name, "custom", space, summary if summary.endswith(".") else f"{summary}.", source or where,
        (*parameters.values(), *([SEED] if drawn else [])), definition, lower, min_experts, max_experts,
        revision=_revision(function),
    )  # fmt: skip


def _definition(function: Callable[..., Any], name: str, parameters: dict[str, Parameter], drawn: Sequence[str]) -> Any:
    """Return a function as a definition: arrays, settings, masks."""

    def definition(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:
        chosen = {argument: settings[parameter.name] for argument, parameter in parameters.items()}
        chosen |= dict.fromkeys(drawn, masks)
        try:
            merged = function(list(arrays), **chosen)
        except MergewiseError:
            raise
        except Exception as fault:
            raise MergeError(
                f"Merge method '{name}' failed on {len(arrays)} arrays of shape {list(arrays[0].shape)}: "
                f"{type(fault).__name__}: {fault}"
            ) from fault
        found = getattr(merged, "shape", None)
        if found is None or tuple(found) != tuple(arrays[0].shape):
            expected = f"an array of shape {list(arrays[0].shape)}, as its inputs"
            shape = f"{type(merged).__name__} without a shape" if found is None else f"one of shape {list(found)}"
            raise MergeError(f"Merge method '{name}' must return {expected}, found {shape}; correct its function.")
        return merged

    definition.__wrapped__ = function  # type: ignore[attr-defined]  # how checks find the method of a function
    return definition


def _parameters(function: Callable[..., Any], method: str, words: str) -> tuple[dict[str, Parameter], list[str]]:
    """Return the parameters by the function's names for them, in order, and its arguments that get random masks."""
    where = f"merge method '{method}'"
    try:
        hints = get_type_hints(function, include_extras=True)
        arguments = list(inspect.signature(function).parameters.values())
    except (NameError, TypeError, ValueError) as fault:
        raise MethodError(
            f"The types of {where} cannot be read ({fault}); import what they name at run time."
        ) from fault
    if not arguments or arguments[0].kind not in (arguments[0].POSITIONAL_ONLY, arguments[0].POSITIONAL_OR_KEYWORD):
        raise MethodError(f"The function of {where} must take the arrays to merge as its first argument.")
    found: dict[str, Parameter] = {}
    drawn: list[str] = []
    for argument in arguments[1:]:
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD, argument.POSITIONAL_ONLY):
            raise MethodError(f"The parameters of {where} must be named one by one, found '{argument}'.")
        if hints.get(argument.name) is Masks:
            drawn.append(argument.name)
            continue
        if argument.name not in hints or argument.default is argument.empty:
            missing = "a type" if argument.name not in hints else "a default"
            raise MethodError(f"Parameter '{argument.name}' of {where} needs {missing}, as in 'weight: float = 1.0'.")
        found[argument.name] = _parameter(argument.name, hints[argument.name], argument.default, method, words)
    if len({parameter.name for parameter in found.values()}) != len(found):
        raise MethodError(
            f"Two parameters of {where} have one name in a recipe, where trailing underscores are left out."
        )
    if drawn and any(parameter.name == SEED.name for parameter in found.values()):
        raise MethodError(f"Parameter 'seed' of {where} comes with '{drawn[0]}', its random masks; leave it out.")
    return found, drawn


def _parameter(argument: str, hint: Any, default: Any, method: str, words: str) -> Parameter:
    kind, per_model, notes = hint, False, []
    while (origin := get_origin(kind)) in (Annotated, PerModel):
        per_model |= origin is PerModel
        kind, *more = get_args(kind)
        notes += more
    choices: tuple[str, ...] = get_args(kind) if origin is Literal else ()
    low = high = None
    doc = _documented(argument, words)
    for note in notes:
        match note:
            case Range():
                low, high = note.low, note.high
            case Choices():
                choices = note.words
            case str():
                doc = note
    name, where = argument.rstrip("_"), f"Parameter '{argument}' of merge method '{method}'"
    if origin is Literal:
        kind = str if all(isinstance(choice, str) for choice in choices) else None
    if kind not in _TYPES or (kind is str) != bool(choices):
        raise MethodError(
            f'{where} must be a float, an int, a bool or one of some words (Literal["a", "b"]), each also as '
            f"PerModel[…], found {hint!r}."
        )
    if kind is float and type(default) is int:
        default = float(default)
    if type(default) is not kind:
        raise MethodError(f"{where} must have {_TYPES[kind]} as its default, found {default!r}.")
    if kind in (bool, str) and (low, high) != (None, None):
        raise MethodError(f"{where} has a Range, which is for numbers; leave it out.")
    parameter = Parameter(name, default, doc, per_model, low, high, choices)
    try:
        parameter.check(default, method)
    except MergewiseError as fault:
        raise MethodError(f"The default of a parameter must be a value that it takes. {fault}") from None
    return parameter


def _documented(argument: str, words: str) -> str:
    """Return what the docstring says of an argument in its ``Args``, or what its name says."""
    match = re.search(rf"^\s+{re.escape(argument)}(?: \([^)]*\))?: *(\S.*)$", words, re.MULTILINE)
    if match:
        return match[1].rstrip(".")
    return "w_i, the weight of an expert" if argument == "weight" else argument.rstrip("_").replace("_", " ")


def _revision(function: Callable[..., Any]) -> str:
    """Return what changes when the function or its file does, so that no interrupted merge goes on with another one.

    Of a function that is in no file, such as one of a notebook, only its own text is known.
    """
    try:
        text = inspect.getsource(function).encode()
        path = Path(inspect.getsourcefile(inspect.unwrap(function)) or "")
        text += path.read_bytes() if path.is_file() else b""
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        text = (repr((code.co_code, code.co_consts, code.co_names)) if code else repr(function)).encode()
    return hashlib.sha256(text).hexdigest()[:16]
