"""Which code cells depend on: what merges and scores, as the imports of the family's bench tell, and nothing else.

The rest of the package – reports, training, the command line – may change without a cell losing its name. What the
limits of a base are computed by is told in the same way, and apart: merges do not depend on it.
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from mergewise.study.cells import digest
from mergewise.study.errors import StudyError

__all__ = ["LIBRARIES", "code_digest", "limits_digest", "sources_of"]

LIBRARIES = ("numpy", "scipy", "numba", "torch", "transformers", "tokenizers")
"""What merging and scoring compute with beside this package."""
_ARRAYS = LIBRARIES[:3]  # of which surveys are made

_ROOT = Path(__file__).parents[1]
_CELLS = ("mergewise.study.cells", "mergewise.study.sweep")  # what runs a bench
_LIMITS = "mergewise.study.limits_cell"


def code_digest(workshop: object) -> str:
    """Return the digest of the code that merges and scores, with the versions of the libraries it computes with.

    Args:
        workshop: of the family; the module that it names as its `bench_module`, or else its own, brings the bench.
    """
    return _digest(LIBRARIES, getattr(workshop, "bench_module", type(workshop).__module__), *_CELLS)


def limits_digest() -> str:
    """Return the digest of the code that surveys experts and finds their limits, with the versions of its libraries."""
    return _digest(_ARRAYS, _LIMITS)


def _digest(libraries: Sequence[str], *modules: str) -> str:
    parts = [f"{library} {version(library)}".encode() for library in libraries]
    for name, path in sources_of(*modules).items():
        parts += [name.encode(), path.read_bytes()]
    return digest(parts)


@lru_cache
def sources_of(*modules: str) -> Mapping[str, Path]:
    """Return the source of modules, and of all modules of this package that they import directly or indirectly.

    Imports inside functions count, those for type checkers only do not. A name that a package's `__init__` merely
    re-exports leads to the module that defines it. A module that imports by computed names counts with its package.

    Raises:
        StudyError: one of the modules has no source file.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if name in found or path is None:
            continue
        found[name] = path
        tree = ast.parse(path.read_bytes())
        waiting += _imported(tree)
        if any(isinstance(node, ast.Name) and node.id == "import_module" for node in ast.walk(tree)):
            waiting += [_name(one) for one in sorted(path.parent.rglob("*.py"))] if _ROOT in path.parents else []
    for module in modules:
        if module not in found:
            raise StudyError(
                f"Expected the source of '{module}', which cells depend on; found none. Keep it in a file."
            )
    return dict(sorted(found.items()))


def _path(name: str) -> Path | None:
    """Return the source of a module of this package, or of any that is loaded as the family's own."""
    top, *rest = name.split(".")
    if top == "mergewise":
        place = _ROOT.joinpath(*rest)
        return next((one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()), None)
    loaded = getattr(sys.modules.get(name), "__file__", None)
    return Path(loaded) if loaded else None


def _name(path: Path) -> str:
    parts = path.relative_to(_ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules of this package that code imports when it runs."""
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("mergewise"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mergewise":
            for alias in node.names:
                yield _home(node.module or "", alias.name)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree but for what stands under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def _home(module: str, name: str) -> str:
    """Return the module that `from module import name` takes the name from, through re-exports."""
    if _path(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    path = _path(module)
    if path is not None and path.name == "__init__.py":
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
                return _home(node.module or "", next(a.name for a in node.names if (a.asname or a.name) == name))
    return module
