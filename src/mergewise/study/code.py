"""Which code cells depend on: what merges and scores, as the imports of the family's bench tell, and nothing else.

The rest of the package – reports, training, the command line – may change without a cell losing its name. What the
limits of a base are computed by is told in the same way, and apart: merges do not depend on it.
"""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from mergewise.method import find_method
from mergewise.study.cells import digest
from mergewise.study.errors import StudyError

__all__ = ["LIBRARIES", "code_digest", "limits_digest", "method_code", "sources_of"]

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


def method_code(code: str, method: str) -> str:
    """Return the digest of the code that cells of one merge method depend on.

    Args:
        code: what `code_digest` found.
        method: its name. Of a method of one's own, what its module imports of its own package, or of the single files
            beside it, counts too; the module itself counts by the method's revision.
    """
    module = inspect.unwrap(find_method(method).definition).__module__
    if module.partition(".")[0] == "mergewise" or getattr(sys.modules.get(module), "__file__", None) is None:
        return code
    helpers = [path for name, path in sources_of(module).items() if name != module and _ROOT not in path.parents]
    return digest([code.encode(), *map(Path.read_bytes, helpers)]) if helpers else code


def limits_digest() -> str:
    """Return the digest of the code that surveys experts and finds their limits, with the versions of its libraries."""
    return _digest(_ARRAYS, _LIMITS)


def _digest(libraries: Sequence[str], *modules: str) -> str:
    parts = [f"{library} {version(library)}".encode() for library in libraries]
    sources = {_lasting_name(name, path): path for name, path in sources_of(*modules).items()}
    for name in sorted(sources):
        parts += [name.encode(), sources[name].read_bytes()]
    return digest(parts)


def _lasting_name(name: str, path: Path) -> str:
    """Return the name that a module has in every process: that of a script's file, which is `__main__` in one alone."""
    return path.stem if name in ("__main__", "__mp_main__") else name


@lru_cache
def sources_of(*modules: str) -> Mapping[str, Path]:
    """Return the source of modules, and of all that they import directly or indirectly from this package or their own.

    A module's own package is the outermost that it is in; that of a module in none are the single files beside it.
    Imports inside functions count, those for type checkers only do not. A name that a package's `__init__` merely
    re-exports leads to the module that defines it. A module of this package that imports by computed names counts with
    its package.

    Raises:
        StudyError: one of the modules has no source file.
    """
    places = _places(modules)
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _path(name, places)
        if name in found or path is None:
            continue
        found[name] = path
        tree = ast.parse(path.read_bytes())
        waiting += _imported(tree, name if path.name == "__init__.py" else name.rpartition(".")[0], places)
        if any(isinstance(node, ast.Name) and node.id == "import_module" for node in ast.walk(tree)):
            waiting += [_name(one) for one in sorted(path.parent.rglob("*.py"))] if _ROOT in path.parents else []
    for module in modules:
        if module not in found:
            raise StudyError(
                f"Expected the source of '{module}', which cells depend on; found none. Keep it in a file."
            )
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class _Places:
    """Where sources are looked for.

    Attributes:
        packages: folders of outermost packages, by name.
        files: of modules in no package, by name; other single files in their folders count too.
    """

    packages: Mapping[str, Path]
    files: Mapping[str, Path]


def _places(modules: Sequence[str]) -> _Places:
    packages, files = {"mergewise": _ROOT}, {}
    for top in {module.partition(".")[0] for module in modules} - {"mergewise"}:
        loaded = sys.modules.get(top)
        file = getattr(loaded, "__file__", None)
        if folders := list(getattr(loaded, "__path__", ())):
            packages[top] = Path(folders[0])
        elif file:
            files[top] = Path(file)
    return _Places(packages, files)


def _path(name: str, places: _Places) -> Path | None:
    """Return the source of a module that is in one of the places, loaded or not."""
    top, *rest = name.split(".")
    if top in places.packages:
        place = places.packages[top].joinpath(*rest)
        paths = [place.with_suffix(".py"), place / "__init__.py"]
    elif name in places.files:
        paths = [places.files[name]]
    else:
        paths = [] if rest else [file.with_name(f"{name}.py") for file in places.files.values()]
    return next((path for path in paths if path.is_file()), None)


def _name(path: Path) -> str:
    parts = path.relative_to(_ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.AST, package: str, places: _Places) -> Iterator[str]:
    """Yield the modules that code in a package imports when it runs."""
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield _home(_absolute(node, package), alias.name, places)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module that `from module import …` names, in code of a package."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join(filter(None, [*parts[: len(parts) + 1 - node.level], node.module]))


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree but for what stands under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def _home(module: str, name: str, places: _Places) -> str:
    """Return the module that `from module import name` takes the name from, through re-exports."""
    if _path(f"{module}.{name}", places) is not None:
        return f"{module}.{name}"
    path = _path(module, places)
    if path is not None and path.name == "__init__.py":
        imports = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ImportFrom)]
        for node in imports:
            for alias in node.names:
                origin = (_absolute(node, module), alias.name)
                if (alias.asname or alias.name) == name and origin != (module, name):
                    return _home(*origin, places)
    return module
