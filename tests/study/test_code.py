"""What names cells: the code that merges and scores, whole, and no other."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mergewise.method import registry
from mergewise.study import code
from mergewise.study.code import code_digest, method_code, sources_of
from mergewise.study.errors import StudyError

RUN = """
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mergewise.study.cells import CellSpec, Model
from mergewise.study.code import sources_of
from mergewise.study.sweep import merge_sweep

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
models = []
for name in ("base", "one", "two"):
    (folder / name).mkdir()
    weights = {"layer.weight": rng.normal(size=(12, 8)), "layer.bias": rng.normal(size=12)}
    save_file({key: one.astype(np.float32) for key, one in weights.items()}, folder / name / "model.safetensors")
    models.append(Model(name, folder / name, name))
called = set()
sys.setprofile(lambda frame, event, argument: called.add((frame.f_globals.get("__name__", ""), frame.f_code.co_name)))
for method in ("average", "ties", "dare_ties", "rht", "tsv_m", "iso_c", "wudi", "wudi_ridge"):
    settings = [{}] if method == "average" else [{"lambda": 0.5}, {"lambda": 1.0}]
    specs = [CellSpec(models[0], method, tuple(models[1:]), (), "test", None, "", one) for one in settings]
    for _ in merge_sweep(specs, "float32"):
        pass
sys.setprofile(None)
ran = {name for name, function in called if name.startswith("mergewise.") and function != "<module>"}
assert {"mergewise.engine.sweep", "mergewise.engine.local"} <= ran
lost = {name for name in ran if name not in sources_of("mergewise.study.zoo_bench")}
lost = {name for name in lost if not Path(sys.modules[name].__file__).name == "__init__.py"} - {"mergewise.study.code"}
assert not lost, lost
"""


def test_what_merges_and_scores_counts_and_the_rest_does_not():
    found = sources_of("mergewise.study.zoo_bench")
    for name in (
        "study.cells", "study.sweep", "study.zoo_bench", "engine.sweep", "engine.local", "engine.matrices",
        "method.registry", "method.voting", "method.spectral", "method.interference", "kernels.voting",
        "kernels.products", "recipe.resolve", "checkpoint.source", "zoo.encoder", "zoo.tasks",
    ):  # fmt: skip
        assert f"mergewise.{name}" in found, name
    for name in found:
        part, _, module = name.removeprefix("mergewise.").partition(".")
        assert part not in {"mergewise", "cli", "theory", "learning", "testing"}, name
        assert (part, module.partition(".")[0]) not in {
            ("study", "study_report"), ("study", "task_tables"), ("study", "page_tables"), ("study", "paper_figures"),
            ("study", "svg"), ("study", "summary"), ("study", "verdicts"), ("study", "grid"), ("zoo", "training"),
            ("zoo", "making"), ("zoo", "build"), ("engine", "survey"), ("engine", "explain"), ("engine", "verify"),
        }, name  # fmt: skip


def test_every_source_of_the_kernels_counts_as_they_are_imported_by_computed_names():
    kernels = Path(code.__file__).parents[1] / "kernels"
    found = sources_of("mergewise.study.zoo_bench")
    assert {path for path in found.values() if path.parent == kernels} == set(kernels.glob("*.py"))


def test_an_edit_of_what_merges_changes_the_digest_and_another_does_not(tmp_path, monkeypatch):
    package = tmp_path / "mergewise"
    for name, text in {
        "engine/__init__.py": "from mergewise.engine.run import run\nfrom mergewise.engine.other import other\n",
        "engine/run.py": "def run():\n    from mergewise.kernel import loop\n",
        "engine/other.py": "",
        "kernel.py": "",
        "bench.py": "from typing import TYPE_CHECKING\nfrom mergewise.engine import run\n"
        "if TYPE_CHECKING:\n    from mergewise.report import Report\n",
        "report.py": "",
        "study/cells.py": "",
        "study/sweep.py": "",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.setattr(code, "_ROOT", package)

    class Workshop:
        bench_module = "mergewise.bench"

    def now() -> str:
        sources_of.cache_clear()
        return code_digest(Workshop())

    try:
        before = now()
        for unrelated in ("engine/other.py", "report.py"):
            (package / unrelated).write_text("changed = 1\n")
            assert now() == before, unrelated
        for related in ("kernel.py", "engine/run.py", "study/sweep.py"):
            with (package / related).open("a") as file:
                file.write("\nchanged = 1\n")
            after = now()
            assert after != before, related
            before = after
    finally:
        sources_of.cache_clear()


def test_a_family_of_ones_own_counts_with_its_module(tmp_path, monkeypatch):
    (tmp_path / "own_family.py").write_text("from mergewise.study.sweep import merge_sweep\nclass Workshop: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_module("own_family")

    assert sources_of("own_family")["own_family"] == tmp_path / "own_family.py"
    assert "mergewise.engine.sweep" in sources_of("own_family")


def test_a_package_of_ones_own_counts_as_far_as_it_is_imported(tmp_path, monkeypatch):
    for name, text in {
        "__init__.py": "from .scoring import score\ntry:\n    from . import compiled\nexcept ImportError:\n    pass\n",
        "scoring.py": "from mergewise.study.sweep import merge_sweep\ndef score(): pass\n",
        "deep/__init__.py": "",
        "deep/shop.py": "class Workshop:\n    def bench(self):\n        from own_package import compiled, score\n"
        "        from .. import parts\n",
        "parts.py": "import own_package.more\nfrom json import loads\n",
        "more.py": "",
        "unused.py": "",
    }.items():
        (tmp_path / "own_package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own_package" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import_module("own_package.deep.shop")

    found = sources_of("own_package.deep.shop")
    own = {name for name in found if not name.startswith("mergewise")}
    assert own == {f"own_package{part}" for part in ("", ".deep.shop", ".scoring", ".parts", ".more")}
    assert "mergewise.engine.sweep" in found


def test_single_files_beside_a_family_of_ones_own_count_as_far_as_they_are_imported(tmp_path, monkeypatch):
    (tmp_path / "own_shop.py").write_text("import json\nimport own_scoring\nclass Workshop: pass\n")
    (tmp_path / "own_scoring.py").write_text("")
    (tmp_path / "own_other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    import_module("own_shop")

    assert set(sources_of("own_shop")) == {"own_shop", "own_scoring"}


METHOD = """
from own_halves import half
from mergewise.method import merge_method

@merge_method(summary="Half of the first.")
def first_half(taus):
    return half(taus[0])
"""


def test_what_a_method_of_ones_own_imports_beside_it_counts_for_its_cells_and_for_no_others(tmp_path, monkeypatch):
    (tmp_path / "own_method.py").write_text(METHOD)
    (tmp_path / "own_halves.py").write_text("def half(tau): return tau / 2\n")
    (tmp_path / "own_unused.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_declared", dict(registry._declared))
    import_module("own_method")

    first = method_code("code", "first_half")
    assert first not in ("code", method_code("other code", "first_half"))
    (tmp_path / "own_unused.py").write_text("changed = 1")
    assert method_code("code", "first_half") == first
    (tmp_path / "own_halves.py").write_text("def half(tau): return tau * 0.5\n")
    assert method_code("code", "first_half") != first
    assert method_code("code", "ties") == "code"


def test_a_bench_without_a_source_is_refused():
    with pytest.raises(StudyError, match="Expected the source of 'no_such_module'"):
        sources_of("no_such_module")


def test_whatever_runs_in_a_merge_counts(tmp_path):
    script = tmp_path / "merge.py"
    script.write_text(RUN)
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
