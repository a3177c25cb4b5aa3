"""Compiled kernels as files: kept, found again, and never run when they are old or damaged."""

import inspect
import os
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

from mergewise import kernels
from mergewise.kernels import native
from mergewise.kernels.native import Array, Kernel, compile_beside, kernel_folder

TABLE = [value for value in vars(kernels).values() if isinstance(value, Kernel)]
WORDS = "random.fill_words"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of the test's own for kernels of these sources."""
    monkeypatch.setenv("MERGEWISE_KERNELS", str(tmp_path))
    kernel_folder.cache_clear()
    yield kernel_folder()
    kernel_folder.cache_clear()


def words(kernel, count=5):
    found = np.zeros(count, np.uint32)
    kernel(7, found, 0)
    return found.tolist()


def fill_words():
    return Kernel(WORDS, [int, Array("uint32", 1), int])


@pytest.mark.parametrize("kernel", TABLE, ids=lambda kernel: kernel.source)
def test_every_kernel_takes_as_many_arguments_as_its_source(kernel):
    module, _, name = kernel.source.partition(".")
    loop = getattr(import_module(f"mergewise.kernels.{module}"), name)
    assert len(inspect.signature(loop.py_func).parameters) == len(kernel.arguments)


def test_a_kernel_is_compiled_once_and_then_found(folder, monkeypatch):
    expected = kernels.words_of(7, 5).tolist()
    assert words(fill_words()) == expected
    assert [path.name for path in folder.iterdir()] == [f"{WORDS}.o"]
    monkeypatch.setattr("mergewise.kernels.compilation.compiled", None)  # whoever compiles fails
    assert words(fill_words()) == expected


@pytest.mark.parametrize("harm", ["cut short", "one bit", "empty", "a folder"])
def test_a_damaged_file_is_not_run_but_made_again(harm, folder):
    expected = words(fill_words())
    path = folder / f"{WORDS}.o"
    whole = path.read_bytes()
    path.unlink()
    if harm == "a folder":
        path.mkdir()
    else:
        flipped = bytes([whole[0] ^ 1]) + whole[1:]
        path.write_bytes({"cut short": whole[:-1], "one bit": flipped, "empty": b""}[harm])
    assert words(fill_words()) == expected
    assert path.is_dir() or path.read_bytes() == whole
    assert [found.name for found in folder.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MERGEWISE_KERNELS", str(tmp_path / "file"))
    kernel_folder.cache_clear()
    try:
        assert words(fill_words()) == kernels.words_of(7, 5).tolist()
    finally:
        kernel_folder.cache_clear()


def test_other_sources_and_other_processors_have_other_folders(folder, monkeypatch, tmp_path):
    import llvmlite.binding as llvm

    kernel_folder.cache_clear()
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "another")
    other = kernel_folder()
    assert other != folder
    kernel_folder.cache_clear()
    copy = tmp_path / "sources" / "native.py"
    copy.parent.mkdir()
    copy.write_text("# other loops")
    monkeypatch.setattr(native, "__file__", str(copy))
    assert kernel_folder() not in (folder, other)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros(5, np.int32), np.zeros((5, 1), np.uint32), np.zeros(10, np.uint32)[::2]],
    ids=["dtype", "dimensions", "steps"],
)
def test_arrays_of_another_kind_are_refused(wrong):
    with pytest.raises(TypeError, match=rf"Argument 1 of {WORDS} must be a contiguous array of uint32"):
        fill_words()(7, wrong, 0)


def test_what_needs_an_allocator_is_refused(folder, monkeypatch):
    from numba import njit

    from mergewise.kernels import random

    @njit
    def allocates(key, out, first):
        out[:] = np.full(out.size, key).astype(np.uint32)

    monkeypatch.setattr(random, "fill_words", allocates)
    with pytest.raises(RuntimeError, match=r"needs NRT_.* which only numba has"):
        words(fill_words())


def test_kernels_that_are_there_need_no_numba():
    script = "import sys; from mergewise import kernels; kernels.words_of(3, 8); print('numba' in sys.modules)"
    kernels.words_of(3, 8)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert ran.stdout.strip() == "False"


def test_kernels_are_compiled_by_another_process(folder, monkeypatch):
    kernel = fill_words()
    compile_beside([kernel])
    monkeypatch.setattr("mergewise.kernels.compilation.compiled", None)  # whoever compiles here fails
    assert words(kernel) == kernels.words_of(7, 5).tolist()
    assert [path.name for path in folder.iterdir()] == [f"{WORDS}.o"]


def test_what_is_compiled_starts_no_process(folder, monkeypatch):
    words(fill_words())
    monkeypatch.setattr(subprocess, "Popen", None)
    compile_beside([fill_words()])


def test_a_process_is_started_once(folder):
    kernel, started = fill_words(), []
    compile_beside([kernel])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", started.append)
        compile_beside([kernel])
    words(kernel)
    assert not started


@pytest.mark.parametrize(
    ("has", "asked", "used"),
    [
        ("avx512vbmi2", None, "+avx512vbmi2,-prefer-256-bit"),
        ("avx512vbmi2", "+avx2", "+avx2"),
        ("avx512f", None, None),
    ],
)
def test_wide_vectors_are_used_where_they_slow_nothing_down(has, asked, used, monkeypatch):
    from llvmlite.binding import FeatureMap
    from numba.core import config

    from mergewise.kernels import compilation

    monkeypatch.setattr(compilation.llvm, "get_host_cpu_features", lambda: FeatureMap({has: True}))
    monkeypatch.setattr(config, "CPU_NAME", None)
    monkeypatch.setattr(config, "CPU_FEATURES", asked)
    compilation._prefer_wide_vectors.__wrapped__()
    assert used == config.CPU_FEATURES
    assert (config.CPU_NAME is None) == (asked == used)


@pytest.mark.parametrize("interpreter", ["", None])
def test_a_program_without_an_interpreter_compiles_by_itself(interpreter, folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", interpreter)
    kernel = fill_words()
    compile_beside([kernel])
    assert words(kernel) == kernels.words_of(7, 5).tolist()


@pytest.mark.parametrize("fault", ["no such program", "killed", "cannot write"])
def test_if_the_other_process_fails_it_is_compiled_here(fault, folder, monkeypatch):
    command = {
        "no such program": [str(folder / "python")],
        "killed": ["sh", "-c", "kill -9 $$"],
        "cannot write": ["true"],
    }
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **streams: start(command[fault], **streams))
    kernel = fill_words()
    compile_beside([kernel])
    assert words(kernel) == kernels.words_of(7, 5).tolist()
