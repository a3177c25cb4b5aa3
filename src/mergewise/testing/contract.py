"""The contract of merge methods, checked on generated arrays."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from mergewise.engine.masks import random_masks
from mergewise.errors import RecipeError
from mergewise.method import ElementwiseProgram, Method, find_method
from mergewise.testing.cases import (
    DTYPES,
    SHAPES,
    Model,
    assert_close,
    assert_identical,
    by_definition,
    expert_counts,
    identity,
    merged,
    one_family,
    plain_settings,
    python_name,
    resolved,
    settings_of,
    slack_of,
    statistics_of,
    takes,
    wrong_values,
)

__all__ = ["check_method"]

_LARGE = ((300_001,), (513, 300))  # more than a worker takes in hand at once, where a method streams
_DRAWS = 4


def check_method(method: str | Callable[..., Any], *, symmetric: bool = False, idempotent: bool = False) -> None:
    """Check that a registered merge method keeps the contract; takes seconds.

    Its merges must be what its function gives on whole tensors, rounded once, for every storage dtype, for empty, 0-d,
    1-d, 2-d and 3-d tensors, for integers beside them, and for tensors larger than what is in hand at once; the same
    bytes for any number of threads and any memory. Experts that equal the base must give the base, if it merges task
    vectors. Elementwise functions must give the same on parts of a tensor. Parameters must be documented and refuse
    what they do not take, in one sentence. Inputs must be left as they are. Where torch is installed, the function must
    give the same on its tensors.

    Args:
        method: Its name, or the function that ``merge_method`` decorated.
        symmetric: Whether the order of the experts must not matter, but for rounding.
        idempotent: Whether equal models must give that model, with weights 1/n and densities 1 where it takes these.

    Raises:
        AssertionError: It does not; says what was expected and what was found.
        RecipeError: There is no such method.
    """
    found = find_method(method) if isinstance(method, str) else _of_function(method)
    checks = [
        ("its declaration", _declaration),
        ("its function leaves its inputs alone and gives the same again", _pure),
        ("a merge is its function on whole tensors, rounded once", _definition),
        ("an elementwise function gives the same on parts of a tensor", _parts),
        ("models may be stored in different dtypes", _mixed_dtypes),
        ("integers and booleans are copied", _integers),
        ("the same bytes for any threads and memory", _threads_and_memory),
        ("parameters refuse what they do not take", _refusals),
        ("its function gives the same on torch tensors", _torch),
    ]
    if found.space != "weight" and not found.base_is_first:
        checks.append(("experts that equal the base give the base", _no_change))
    if symmetric:
        checks.append(("the order of the experts does not matter", _order))
    if idempotent:
        checks.append(("equal models give that model", _equal_models))
    for what, check in checks:
        with _said(found.name, what):
            check(found)


def _of_function(function: Callable[..., Any]) -> Method:
    from mergewise.method import methods  # noqa: PLC0415 - shadows nothing above

    for method in methods().values():
        if getattr(method.definition, "__wrapped__", None) is function:
            return method
    raise RecipeError(
        f"Expected the name of a merge method, or a function that merge_method decorated, found {function!r}."
    )


@contextmanager
def _said(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as fault:
        raise AssertionError(f"Merge method '{name}' breaks the contract ({what}): {fault}") from fault


def _bases(method: Method, base: Model) -> list[Model | None]:
    return [base, None] if method.space == "either" else [base]


def _declaration(method: Method) -> None:
    names = [p.name for p in method.parameters]
    assert len(set(names)) == len(names), f"expected parameters of different names, found {names}"
    for parameter in method.parameters:
        assert parameter.check(parameter.default, method.name) == parameter.default
        assert parameter.doc, f"expected a line on parameter '{parameter.name}', found none"
        assert "\n" not in parameter.doc, f"expected one line on parameter '{parameter.name}', found several"
    assert method.summary.endswith("."), f"expected a summary that ends with a full stop, found {method.summary!r}"
    assert method.source, "expected a source, found none"


def _pure(method: Method) -> None:
    count = expert_counts(method.name)[1] + method.base_is_first
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=(4, 6)) for _ in range(count)]
    if method.statistics:
        arrays += [statistics_of(method.name, {"t": array})["t"] for array in arrays]
    before = [array.copy() for array in arrays]
    settings = resolved(method.name, plain_settings(method.name, count, density=0.5), count)
    first, again = (
        np.array(method.definition(arrays, settings, lambda i, _: np.arange(24).reshape(4, 6) % 2 == i % 2))
        for _ in range(2)
    )
    for was, now in zip(before, arrays, strict=True):
        assert was.tobytes() == now.tobytes(), "it wrote to an array that it was given"
    assert first.tobytes() == again.tobytes(), "it gave two results for the same arguments"


def _definition(method: Method) -> None:
    rng = np.random.default_rng(0)
    fewest, most = expert_counts(method.name)
    for dtype in DTYPES:
        for draw in range(_DRAWS):
            experts = int(rng.integers(fewest, most, endpoint=True))
            chosen = settings_of(rng, method.name, experts, without=("scope",)) if draw else {}
            base, models = one_family(draw, experts, dtype)
            for start in _bases(method, base):
                found = merged(method.name, start, models, **chosen)
                expected = by_definition(method.name, start, models, chosen)
                with _said(f"{method.name} with {chosen}", f"{experts} experts of {dtype}"):
                    assert_close(found, expected, dtype, slack_of(method.name, chosen, dtype))


def _parts(method: Method) -> None:
    rng = np.random.default_rng(4)
    experts = expert_counts(method.name)[1]
    arrays = [rng.normal(size=5000) for _ in range(experts)]
    for draw in range(_DRAWS):
        chosen = settings_of(rng, method.name, experts) if draw else {}
        settings = resolved(method.name, chosen, experts)
        program = method.program(settings, experts, (5000,))
        if not isinstance(program, ElementwiseProgram) or program.gathers:
            return
        whole = np.asarray(method.definition(arrays, settings, random_masks(settings, "t", (5000,))))
        for start in range(0, 5000, 1024):
            parts = [array[start : start + 1024] for array in arrays]
            masks = random_masks(settings, "t", parts[0].shape, start)
            found = np.asarray(method.definition(parts, settings, masks))
            same = np.allclose(found, whole[start : start + 1024], rtol=1e-12, atol=0.0)
            assert same, f"with {chosen} elements {start} to {start + found.size} alone are not as with the others"


def _mixed_dtypes(method: Method) -> None:
    for base_dtype, dtypes, out in (
        ("bfloat16", ["float32", "bfloat16"], "float16"),
        ("float16", ["float64", "float32"], "bfloat16"),
    ):
        count = max(expert_counts(method.name)[0], min(2, expert_counts(method.name)[1]))
        base, models = one_family(4, count, base_dtype, dtypes=(dtypes * count)[:count])
        found = merged(method.name, base, models, dtype=out)
        assert_close(found, by_definition(method.name, base, models, {}), out, slack_of(method.name, {}, out))


def _integers(method: Method) -> None:
    base, models = one_family(5, expert_counts(method.name)[0])
    extra: Model = {"ids": np.arange(12).reshape(3, 4), "flags": np.array([True, False])}
    found = merged(method.name, {**base, **extra}, [{**m, **extra} for m in models])
    assert_identical({k: found[k] for k in extra}, extra)
    assert_identical({k: v for k, v in found.items() if k not in extra}, merged(method.name, base, models))


def _threads_and_memory(method: Method) -> None:
    count = expert_counts(method.name, most=2)[1]
    shapes = (*SHAPES, (70_001,)) if method.family == "spectral" else (*SHAPES, *_LARGE)
    base, models = one_family(6, count, "bfloat16", shapes)
    chosen = plain_settings(method.name, count, density=0.5)
    one = merged(method.name, base, models, threads=1, memory="2GiB", **chosen)
    assert_identical(merged(method.name, base, models, threads=4, memory="320MiB", **chosen), one)
    assert_identical(merged(method.name, base, models, threads=3, memory="1GiB", **chosen), one)
    expected = by_definition(method.name, base, models, chosen)
    assert_close(one, expected, "bfloat16", max(1e-11, slack_of(method.name, chosen, "bfloat16")))


def _refusals(method: Method) -> None:
    base, models = one_family(0, expert_counts(method.name)[0], shapes=((4,),))
    for parameter in method.parameters:
        if parameter.inert:
            continue
        for value in wrong_values(parameter):
            sentence = _refusal(method.name, base, models, {python_name(parameter.name): value})
            assert sentence is not None, f"'{parameter.name}' must be {parameter.kind}, but took {value!r}"
            assert "\n" not in sentence, f"expected one line for '{parameter.name}' {value!r}, found {sentence!r}"
            assert parameter.name in sentence, f"expected '{parameter.name}' in the message, found {sentence!r}"
    unknown = _refusal(method.name, base, models, {"no_such_parameter": 1.0})
    assert unknown is not None, "expected an unknown parameter to be refused, but it was taken"


def _refusal(name: str, base: Model, models: list[Model], chosen: dict[str, Any]) -> str | None:
    try:
        merged(name, base, models, **chosen)
    except RecipeError as fault:
        return str(fault)
    return None


def _torch(method: Method) -> None:
    if find_spec("torch") is None:
        return
    import torch  # noqa: PLC0415 - an extra

    rng = np.random.default_rng(8)
    experts = expert_counts(method.name)[1]
    for draw in range(_DRAWS):
        chosen = settings_of(rng, method.name, experts, without=("scope",))
        base, models = one_family(draw, experts, "float64", ((5, 3), (11,), (2, 3, 2), ()))
        plain = by_definition(method.name, base, models, chosen)
        for tensor, found in by_definition(method.name, base, models, chosen, torch.as_tensor).items():
            np.testing.assert_allclose(found, plain[tensor], rtol=1e-11, atol=1e-12)


def _no_change(method: Method) -> None:
    rng = np.random.default_rng(2)
    for dtype in DTYPES:
        count = int(rng.integers(*expert_counts(method.name), endpoint=True))
        base, _ = one_family(2, 1, dtype)
        for draw in range(_DRAWS):
            chosen = settings_of(rng, method.name, count) if draw else {}
            with _said(f"{method.name} with {chosen}", dtype):
                assert_identical(merged(method.name, base, [base] * count, **chosen), base)


def _order(method: Method) -> None:
    rng = np.random.default_rng(7)
    fewest, most = expert_counts(method.name)
    if most < 2:
        return
    for draw in range(_DRAWS):
        count = max(3, fewest) if most >= 3 else 2
        without = ("density",) if takes(method.name, "seed") else ()  # masks belong to places in the recipe
        chosen = settings_of(rng, method.name, count, without=without)
        base, models = one_family(draw, count, shapes=((0,), (7,), (5, 3), (2, 3, 4), (1025,)))
        order = rng.permutation(count)
        permuted: dict[str, Any] = {k: [v[i] for i in order] if isinstance(v, list) else v for k, v in chosen.items()}
        for start in _bases(method, base):
            found = merged(method.name, start, models, **chosen)
            again = merged(method.name, start, [models[i] for i in order], **permuted)
            for tensor, values in found.items():
                np.testing.assert_allclose(again[tensor], values, rtol=3e-7, atol=3e-8)


def _equal_models(method: Method) -> None:
    for dtype in DTYPES:
        for count in range(expert_counts(method.name)[0], expert_counts(method.name)[1] + 1):
            base, (expert,) = one_family(1, 1, dtype)
            base = expert if method.base_is_first else base
            for start in _bases(method, base):
                found = merged(method.name, start, [expert] * count, **identity(method.name, count))
                slack = slack_of(method.name, {}, dtype) if method.family != "voting" or dtype == "float64" else 0.0
                assert_close(found, expert, dtype, slack)
