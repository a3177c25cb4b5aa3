"""Whatever is wrong: one sentence that says what and where, the right exit code, and nothing left behind."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import support

WEIGHT = "model.layers.1.mlp.up_proj.weight"
QUICK = ["merge", "--method", "task_arithmetic", "--base", "base", "--expert", "e1", "--expert", "e2"]


@dataclass(frozen=True)
class Case:
    """A kind of bad input.

    Attributes:
        prepare: Puts the bad input into a world, and returns the command.
        code: Exit code.
        words: Words of the sentence.
        seen: When the fault can be seen: before the plan, in the plan, or only in the weights or on the disk.
    """

    prepare: Callable
    code: int
    words: tuple[str, ...]
    seen: str


CASES: dict[str, Case] = {}


def case(name: str, *words: str, code: int = 1, seen: str = "plan"):
    def register(prepare):
        assert name not in CASES
        CASES[name] = Case(prepare, code, words, seen)
        return prepare

    return register


def recipe_case(name: str, content: str | bytes, *words: str) -> None:
    case(name, *words)(lambda w: ["merge", w.text(content), "out"])


def parameter_case(name: str, parameters: dict, *words: str, method: str = "ties") -> None:
    case(name, *words)(lambda w: ["merge", w.recipe(merge_method=method, parameters=parameters), "out"])


def quick_case(name: str, options: list[str], *words: str, code: int = 1, seen: str = "plan") -> None:
    case(name, *words, code=code, seen=seen)(lambda _: [*QUICK, *options])


# --- recipes ---
case("a recipe that is missing", "missing.yaml", "cannot be read", "No such file")(
    lambda _: ["merge", "missing.yaml", "out"]
)
case("a recipe that is a folder", "base", "cannot be read", "Is a directory")(lambda _: ["merge", "base", "out"])
recipe_case("an empty recipe", "", "recipe.yaml", "expected one recipe, found nothing")
recipe_case("a recipe that is not YAML", "{a: [", "recipe.yaml", "not valid YAML")
recipe_case("a recipe that is not text", b"\xff\xfe\x00", "recipe.yaml", "not UTF-8")
recipe_case("a recipe that is a list", "- a", "recipe.yaml", "expected keys")
recipe_case("a recipe of two documents", "a: 1\n---\nb: 1", "recipe.yaml: document 1", "unknown key 'a'")
recipe_case("a recipe with a key twice", "dtype: float32\ndtype: float16", "recipe.yaml", "'dtype' stands twice")
recipe_case("a recipe with a list for a key", "? [a]\n: 1", "recipe.yaml")
recipe_case("a recipe with a date that does not exist", "dtype: 2001-02-30", "recipe.yaml")
recipe_case("a recipe nested too deep", "[" * 5_000, "recipe.yaml")
case("a misspelt key", "recipe.yaml", "unknown key 'paramters'", "Did you mean 'parameters'?")(
    lambda w: ["merge", w.recipe(paramters={}), "out"]
)
case("an unknown method", "no merge method 'tise'", "Did you mean 'ties'?")(
    lambda w: ["merge", w.recipe(merge_method="tise"), "out"]
)
case("no models", "recipe.yaml", "'models' is required")(lambda w: ["merge", w.recipe(models=None), "out"])
case("an empty list of models", "recipe.yaml", "at least 1 expert", "found 0")(
    lambda w: ["merge", w.recipe(models=[]), "out"]
)
case("task arithmetic without a base", "recipe.yaml", "task_arithmetic", "'base_model'")(
    lambda w: ["merge", w.recipe(base_model=None), "out"]
)
case("an unknown dtype", "recipe.yaml", "'dtype'", "'fp8'")(lambda w: ["merge", w.recipe(dtype="fp8"), "out"])
case("slices beside models", "recipe.yaml", "one of 'models', 'slices' and 'modules'")(
    lambda w: ["merge", w.recipe(slices=[]), "out"]
)
parameter_case("a density of 1.7", {"density": 1.7}, "'density'", "ties", "[0, 1]", "Got 1.7", "parameters.density")
parameter_case("a weight that is NaN", {"weight": float("nan")}, "'weight'", "finite", "Got nan", "parameters.weight")
parameter_case("a weight that is infinite", {"weight": [1, float("inf")]}, "Got inf", "parameters.weight.1")
parameter_case("a weight beyond all floats", {"weight": 10**400}, "'weight'", "parameters.weight")
parameter_case("a weight that is a word", {"weight": "heavy"}, "Got 'heavy'", "parameters.weight")
parameter_case("a misspelt parameter", {"denstiy": 0.2}, "'denstiy'", "parameters.denstiy", "Did you mean 'density'?")
parameter_case(
    "weights that sum to zero",
    {"weight": [{"filter": "*", "value": 0}]},
    "linear",
    "sum to zero",
    "tensor",
    method="linear",
)
parameter_case(
    "densities that differ within a model that is ranked as a whole",
    {"density": [0.1, 0.9], "scope": "model"},
    "'scope: model'",
    "'density'",
)

# --- checkpoints ---


@case("a model that is missing", "nowhere", "found nothing there")
def _(w):
    return ["merge", w.recipe(models=[{"model": "e1"}, {"model": "nowhere"}]), "out"]


@case("a model with a name that no file can have", "x" * 300)
def _(w):
    return ["merge", w.recipe(models=[{"model": "x" * 300}]), "out"]


@case("a base that is missing", "nowhere", "found nothing there")
def _(w):
    return ["merge", w.recipe(base_model="nowhere"), "out"]


@case("an empty checkpoint folder", "e2", "model.safetensors", "found neither")
def _(w):
    w.weights.unlink()
    return ["merge", w.recipe(), "out"]


@case("an adapter's folder without its weights", "e2", "adapter_model.safetensors", "adapter again")
def _(w):
    w.weights.unlink()
    w.weights.with_name("adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    return ["merge", w.recipe(), "out"]


@case("a checkpoint of pickles that are no tensors", "e2", "safetensors")
def _(w):
    w.weights.rename(w.weights.with_name("pytorch_model.bin"))
    return ["merge", w.recipe(), "out"]


@case("a truncated file", "e2", "model.safetensors", "cut short")
def _(w):
    os.truncate(w.weights, w.weights.stat().st_size - 10)
    return ["merge", w.recipe(), "out"]


@case("a truncated shard", "e2", "model-00002-of-00003.safetensors", "cut short")
def _(w):
    w.weights.unlink()
    support.save_model(w.folder / "e2", w.experts[1], shards=3)
    os.truncate(w.weights.with_name("model-00002-of-00003.safetensors"), 1000)
    return ["merge", w.recipe(), "out"]


@case("an index that names a missing shard", "e2", "model-00002-of-00003.safetensors", "missing")
def _(w):
    w.weights.unlink()
    support.save_model(w.folder / "e2", w.experts[1], shards=3)
    w.weights.with_name("model-00002-of-00003.safetensors").unlink()
    return ["merge", w.recipe(), "out"]


@case("an index that leads out of its folder", "e2", "'../e1/model.safetensors'", "beside the index")
def _(w):
    support.save_index(w.folder / "e2", dict.fromkeys(w.base, "../e1/model.safetensors"))
    return ["merge", w.recipe(), "out"]


@case("an extra tensor with a name like that of a head, in a model with a tied head", "lacks 1", "output.weight", "e2")
def _(w):
    # as in every layer of a BERT; a copy of the embedding may be left out, but this is none
    arrays = w.experts[1] | {"model.layers.0.attention.output.weight": np.ones((4, 4), "f4")}
    support.save_model(w.folder / "e2", arrays, config=support.CONFIG | {"tie_word_embeddings": True})
    return ["merge", w.recipe(), "out"]


@case("an index that is not JSON", "e2", "model.safetensors.index.json", "JSON")
def _(w):
    w.weights.with_name("model.safetensors.index.json").write_text("{")
    return ["merge", w.recipe(), "out"]


@case("a file of zeros", "e2", "model.safetensors", "header")
def _(w):
    w.weights.write_bytes(bytes(1000))
    return ["merge", w.recipe(), "out"]


@case("a corrupt header", "e2", "model.safetensors", "header", "JSON")
def _(w):
    content = bytearray(w.weights.read_bytes())
    content[20] = 0xFF
    w.weights.write_bytes(content)
    return ["merge", w.recipe(), "out"]


@case("a web page instead of a file", "e2", "model.safetensors", "Download it again")
def _(w):
    w.weights.write_text("<!DOCTYPE html><html><head><title>404</title></head></html>")
    return ["merge", w.recipe(), "out"]


@case("a tensor of another shape in one expert", "'lm_head.weight'", "e2", "base", "[17, 8]", "[16, 8]")
def _(w):
    w.expert(**{"lm_head.weight": np.zeros((17, 8), "f4")})
    return ["merge", w.recipe(), "out"]


@case("a tensor that one expert lacks", "e2", "lacks 1", "'lm_head.weight'")
def _(w):
    w.expert(**{"lm_head.weight": None})
    return ["merge", w.recipe(), "out"]


@case("a tensor that only one expert has", "base", "lacks 1", "'extra.bias'", "e2")
def _(w):
    w.expert(**{"extra.bias": np.zeros(3, "f4")})
    return ["merge", w.recipe(), "out"]


@case("two experts with other tensors", "e2", "lacks 12", "e1")
def _(w):
    w.expert(**dict.fromkeys(w.base), **{"other.weight": np.zeros(3, "f4")})
    return ["merge", w.recipe(merge_method="linear", base_model=None), "out"]


@case("a tensor of integers in one expert", f"'{WEIGHT}'", "I64", "F32", "e2")
def _(w):
    w.expert(**{WEIGHT: w.base[WEIGHT].astype("i8")})
    return ["merge", w.recipe(), "out"]


@case("a complex tensor", f"'{WEIGHT}'", "C64", "e2")
def _(w):
    w.expert(**{WEIGHT: w.base[WEIGHT].astype("c8")})
    return ["merge", w.recipe(), "out"]


@case("a tensor of eight-bit powers of two", f"'{WEIGHT}'", "F8_E8M0", "e2", "convert")
def _(w):
    w.expert(**{WEIGHT: np.ones_like(w.base[WEIGHT]).astype("float8_e8m0fnu")})
    return ["merge", w.recipe(), "out"]


@case("scales of eight-bit weights that do not fit them", f"'{WEIGHT}_scale'", "e2", "[3, 5]")
def _(w):
    w.expert(**{WEIGHT: w.base[WEIGHT].astype("float8_e4m3fn"), f"{WEIGHT}_scale": np.ones((3, 5), "f4")})
    return ["merge", w.recipe(), "out"]


@case("a missing tensor that a method on weights is to count as unchanged", "recipe.yaml", "'missing_tensors: base'")
def _(w):
    return ["merge", w.recipe(merge_method="linear", missing_tensors="base"), "out"]


@case("an unknown policy for extra tensors", "recipe.yaml", "'extra_tensors'", "'keep'")
def _(w):
    return ["merge", w.recipe(extra_tensors="keep"), "out"]


@case("a tensor name with line breaks", "base lacks 1", "line", "break")
def _(w):
    w.expert(**{"line\nbreak\r\x1b[31m": np.zeros(1, "f4")})
    return ["merge", w.recipe(), "out"]


@case("a tensor name that is half a character", "e2")
def _(w):
    entry = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    w.weights.write_bytes(support.file_bytes(b'{"half\\ud800":' + entry + b"}", bytes(4)))
    return ["merge", w.recipe(merge_method="average", base_model=None, models=[{"model": "e2"}], parameters={}), "out"]


@case("a configuration that is not JSON", "base", "config.json", "JSON")
def _(w):
    (w.folder / "base" / "config.json").write_text("{")
    return ["merge", w.recipe(), "out"]


@case("a configuration nested too deep", "base", "config.json")
def _(w):
    (w.folder / "base" / "config.json").write_text("[" * 100_000)
    return ["merge", w.recipe(), "out"]


@case("NaN in a tensor", f"'{WEIGHT}'", "e2", "nan", "[3, 2]", seen="weights")
def _(w):
    w.experts[1][WEIGHT][3, 2] = np.nan
    w.expert()
    return ["merge", w.recipe(), "out"]


@case("infinity in a tensor", f"'{WEIGHT}'", "e1", "-inf", "[0, 7]", seen="weights")
def _(w):
    w.experts[0][WEIGHT][0, 7] = -np.inf
    support.save_model(w.folder / "e1", w.experts[0])
    return ["merge", w.recipe(), "out"]


@case("NaN in the base, by a method that ranks", f"'{WEIGHT}'", "base", "nan", seen="weights")
def _(w):
    w.base[WEIGHT][0, 0] = np.nan
    support.save_model(w.folder / "base", w.base)
    return ["merge", w.recipe(merge_method="ties", parameters={"density": 0.5}), "out"]


@case("NaN in a scalar", "'scalar'", "e2", "nan", seen="weights")
def _(w):
    for folder, arrays in (("base", w.base), ("e1", w.experts[0])):
        support.save_model(w.folder / folder, arrays | {"scalar": np.array(1, "f4")})
    w.expert(scalar=np.array(np.nan, "f4"))
    return ["merge", w.recipe(), "out"]


@case("weights that overflow in float16", f"'{WEIGHT}'", "F16", "out_dtype", seen="weights")
def _(w):
    w.experts[1][WEIGHT][1, 1] = 1e6
    w.expert()
    return ["merge", w.recipe(out_dtype="float16"), "out"]


@case("weights that overflow in float32", "F32", seen="weights")
def _(w):
    return ["merge", w.recipe(parameters={"lambda": 1e300}), "out"]


# --- outputs ---


@case("an output folder that is not empty", "out", "new or empty")
def _(w):
    (w.folder / "out").mkdir()
    (w.folder / "out" / "precious").write_text("mine")
    return ["merge", w.recipe(), "out"]


@case("an output without a name", "path of a folder", "found an empty one")
def _(w):
    return ["merge", w.recipe(), ""]


@case("an output that is a file", "out", "new or empty")
def _(w):
    (w.folder / "out").write_text("mine")
    return ["merge", w.recipe(), "out"]


@case("an output that is a link to nothing", "out", "new or empty")
def _(w):
    (w.folder / "out").symlink_to("nothing")
    return ["merge", w.recipe(), "out"]


@case("an output that is the base", "base", "new or empty")
def _(w):
    return ["merge", w.recipe(), "base"]


@case("an output below a file", "file", "Not a directory", seen="disk")
def _(w):
    (w.folder / "file").write_text("mine")
    return ["merge", w.recipe(), "file/out"]


@case("an output where nothing can be made", "/proc/", "cannot be written", seen="disk")
def _(w):
    return ["merge", w.recipe(), "/proc/self/out"]


@case("an output with a name that no folder can have", "too long")
def _(w):
    return ["merge", w.recipe(), "x" * 300]


# --- options ---
quick_case("no thread", ["--threads", "0", "out"], "--threads", "at least 1", "found 0")
quick_case("fewer threads than none", ["--threads", "-3", "out"], "--threads", "-3")
quick_case("threads that are a word", ["--threads", "many", "out"], "--threads", code=2)
quick_case("too little memory", ["--memory", "10MB", "out"], "--memory", "9 MiB", "at least")
quick_case("memory that is a word", ["--memory", "much", "out"], "'much'", "'1GiB'")
quick_case("memory below zero", ["--memory=-1GiB", "out"], "'-1GiB'")
quick_case("memory beyond all floats", ["--memory", "1" + "0" * 400, "out"], "memory")
quick_case("a shard size that is a word", ["--shard-size", "big", "out"], "'big'")
quick_case("a shard size below zero", ["--shard-size=-5", "out"], "'-5'")
quick_case("a parameter without a value", ["-p", "density", "out"], "NAME=VALUE", "'density'")
quick_case("a parameter with nothing after the sign", ["-p", "lambda=", "out"], "'lambda'", "None")
quick_case("a parameter without a name", ["-p", "=1", "out"], "''")
quick_case("a parameter that is not YAML", ["-p", "lambda=[1", "out"], "lambda=[1", "YAML")
quick_case("a parameter that is no date", ["-p", "lambda=2001-02-30", "out"], "lambda")
quick_case("a parameter with a number of five thousand digits", ["-p", f"lambda={'1' * 5000}", "out"], "lambda")
quick_case("three weights for two experts", ["-p", "weight=1,2,3", "out"], "weight=1,2,3", "3 values for 2 experts")
quick_case("two values for one parameter of the merge", ["-p", "lambda=1,2", "out"], "'lambda'", "'1,2'")
quick_case("a parameter that stands twice", ["-p", "lambda=1", "-p", "lambda=2", "out"], "lambda", "twice")
quick_case("a parameter of another method", ["-p", "scope=model", "out"], "no parameter 'scope'")
quick_case("an unknown dtype in the quick form", ["--dtype", "fp8", "out"], "'fp8'")
quick_case("a recipe and a method", ["recipe.yaml", "out"], "only OUT", "--method", code=2)
quick_case("no output", [], "Missing argument", "OUT", code=2)
quick_case("an unknown option", ["--treads", "1", "out"], "--treads", code=2)
case("no recipe", "RECIPE and OUT", "found 1", code=2)(lambda _: ["merge", "out"])
case("three paths", "RECIPE and OUT", "found 3", code=2)(lambda w: ["merge", w.recipe(), "out", "more"])
case("a base beside a recipe", "--base", "--method", code=2)(lambda w: ["merge", w.recipe(), "out", "--base", "base"])
case("a parameter beside a recipe", "--parameter", "--method", code=2)(
    lambda w: ["merge", w.recipe(), "out", "-p", "weight=1"]
)
case("no expert", "at least 1", "found 0")(lambda _: ["merge", "--method", "linear", "out"])
case("no base in the quick form", "task_arithmetic", "base")(
    lambda _: ["merge", "--method", "task_arithmetic", "--expert", "e1", "out"]
)
case("an unknown method in the quick form", "'tise'", "Did you mean 'ties'?")(
    lambda _: ["merge", "--method", "tise", "--expert", "e1", "out"]
)
case("an unknown command", "No such command 'merg'", code=2)(lambda _: ["merg"])

# --- other commands ---


@case("a verification of what was not merged", "base/mergewise.json", "record of a merge", seen="other")
def _(_):
    return ["verify", "base"]


@case("a verification of nothing", "nowhere", "found nothing there", seen="other")
def _(_):
    return ["verify", "nowhere"]


@case("a verification of a record with strange inputs", "base/mergewise.json", "record of a merge", seen="other")
def _(w):
    record = {"recipe": {"merge_method": "average", "models": [{"model": "e1"}]}, "inputs": [1]}
    (w.folder / "base" / "mergewise.json").write_text(json.dumps(record))
    return ["verify", "base"]


@case("a verification of a record with a recipe that is none", "mergewise.json", "expected keys", seen="other")
def _(w):
    (w.folder / "base" / "mergewise.json").write_text('{"recipe": 3, "inputs": []}')
    return ["verify", "base"]


@case("a verification of a record nested too deep", "base/mergewise.json", seen="other")
def _(w):
    (w.folder / "base" / "mergewise.json").write_text("[" * 100_000)
    return ["verify", "base"]


case("a comparison with nothing", "nowhere", "found nothing there", seen="other")(lambda _: ["diff", "base", "nowhere"])
case("a plan of a recipe that is missing", "missing.yaml", "cannot be read", seen="other")(
    lambda _: ["plan", "missing.yaml"]
)
case("a plan with too little memory", "--memory", seen="other")(lambda w: ["plan", w.recipe(), "--memory", "1MB"])
case("an inspection of nothing", "nowhere", "found nothing there", seen="other")(lambda _: ["inspect", "nowhere"])
case("an inspection of a recipe", "recipe.yaml", "'.yaml'", seen="other")(lambda w: ["inspect", w.recipe()])
case("an explanation of an unknown method", "'tise'", "Did you mean 'ties'?", seen="other")(
    lambda _: ["methods", "tise"]
)


def sentence(outcome) -> str:
    """Return the one sentence on the error stream."""
    assert "Traceback" not in outcome.err
    if outcome.code == 2:  # the words of wrong usage stand in a frame below the usage
        return " ".join(re.sub(r"[│╭╮╰╯─]", " ", outcome.err).split())
    (line,) = outcome.err.splitlines()
    assert outcome.err == f"{line}\n"
    assert line.startswith("mergewise: ")
    assert line.isprintable()
    assert line.endswith((".", "?"))
    return line.removeprefix("mergewise: ")


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_nothing_left_behind_for(name, world, run):
    case = CASES[name]
    command = case.prepare(world)
    before = support.tree(world.folder)
    outcome = run(*command)
    said = sentence(outcome)
    assert outcome.code == case.code
    assert outcome.out == ""
    for word in case.words:
        assert word in said
    assert support.tree(world.folder) == before


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.code == 1])
def test_with_json_the_output_is_json_that_holds_the_sentence_for(name, world, run):
    outcome = run(*CASES[name].prepare(world), "--json")
    assert outcome.code == 1
    assert outcome.json == {"error": sentence(outcome)}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.code == 1 and case.seen == "plan"])
def test_a_dry_run_sees_what_headers_configurations_and_the_recipe_can_tell_for(name, world, run):
    command = CASES[name].prepare(world)
    before = support.tree(world.folder)
    outcome = run(*command, "--dry-run")
    assert outcome.code == 1
    for word in CASES[name].words:
        assert word in sentence(outcome)
    assert support.tree(world.folder) == before


@pytest.mark.parametrize(
    "name",
    ["a recipe that is missing", "a truncated file", "NaN in a tensor", "an output below a file", "an unknown option"],
)
def test_a_process_of_its_own_says_the_same(name, world, run):
    case = CASES[name]
    command = case.prepare(world)
    before = support.tree(world.folder)
    ran = subprocess.run([sys.executable, "-m", "mergewise", *command], capture_output=True, text=True, check=False)
    assert ran.returncode == case.code
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    if case.code == 1:
        assert support.without_progress(ran.stderr) == run(*command).err
    assert support.tree(world.folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_in_a_folder_that_may_not_be_written_gives_one_sentence(world, run):
    (world.folder / "locked").mkdir(mode=0o500)
    outcome = run("merge", world.recipe(), "locked/out")
    assert outcome.code == 1
    assert "locked" in sentence(outcome)
    assert "Permission denied" in sentence(outcome)
    assert not any((world.folder / "locked").iterdir())


def test_an_output_on_a_read_only_disk_gives_one_sentence(world, run):
    disk = world.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted")
    try:
        outcome = run("merge", world.recipe(), "disk/out")
        assert outcome.code == 1
        assert "Read-only file system" in sentence(outcome)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_an_output_on_a_disk_that_is_too_small_gives_one_sentence_and_leaves_nothing(world, run):
    disk = world.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted")
    try:
        outcome = run("merge", world.recipe(), "disk/out")
        assert outcome.code == 1
        assert "No space left on device" in sentence(outcome)
        assert not any(disk.iterdir())
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("place", ["expert", "out", "recipe"])
def test_a_path_that_is_not_unicode_works_or_gives_one_sentence(place, world):
    strange = os.fsencode(world.folder) + b"/strange\xff"
    recipe = os.fsencode(world.folder / world.recipe())
    command = [*QUICK, "out"]
    if place == "expert":
        (world.folder / "e2").rename(os.fsdecode(strange))
        command[-2] = strange
    elif place == "out":
        command[-1] = strange
    else:
        os.rename(recipe, strange)  # noqa: PTH104 - a path of bytes
        command = ["merge", strange, "out"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}  # as in a usual locale: strict
    ran = subprocess.run(
        [sys.executable, "-m", "mergewise", *command], capture_output=True, check=False, env=environment
    )
    assert b"Traceback" not in ran.stderr
    if ran.returncode:
        assert ran.returncode == 1
        assert support.without_progress(os.fsdecode(ran.stderr)).count("\n") == 1
        assert not (world.folder / "out").exists()
    assert not list(world.folder.glob(".*"))


def test_faults_that_are_no_fault_of_the_user_are_not_hidden(world, run, monkeypatch):
    def broken(*_, **__):
        raise AssertionError("a bug")

    monkeypatch.setattr("mergewise.engine.merge.merge", broken)
    with pytest.raises(AssertionError, match="a bug"):
        run("merge", world.recipe(), "out")


@pytest.mark.parametrize(("fault", "code"), [(MemoryError(), 1), (KeyboardInterrupt(), 130)], ids=repr)
def test_too_little_memory_and_an_interruption_give_one_sentence(fault, code, world, run, monkeypatch):
    def stop(*_, **__):
        raise fault

    monkeypatch.setattr("mergewise.engine.merge.merge", stop)
    outcome = run("merge", world.recipe(), "out")
    assert outcome.code == code
    assert sentence(outcome)


def test_an_interrupted_merge_shows_nothing_and_goes_on_when_it_is_run_again(world, run):
    """The process interrupts itself when its third tensor is finished."""
    script = (
        "import os, signal\n"
        "from mergewise.checkpoint import FolderTarget\n"
        "from mergewise.cli import main\n"
        "finish, count = FolderTarget.finish, 0\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs in the background ignores it
        "def finish_and_stop(self, name):\n"
        "    global count\n"
        "    finish(self, name)\n"
        "    count += 1\n"
        "    if count == 3: os.kill(os.getpid(), signal.SIGINT)\n"
        "FolderTarget.finish = finish_and_stop\n"
        "main()\n"
    )
    command = ["merge", world.recipe(merge_method="ties", parameters={"density": 0.5}), "out", "--threads", "1"]
    ran = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=False)
    assert ran.returncode == 130
    assert "Traceback" not in ran.stderr
    assert len(support.without_progress(ran.stderr).splitlines()) == 1
    assert not (world.folder / "out").exists()
    assert run(*command).code == 0
    assert run(*command[:2], "fresh").code == 0
    assert support.tree(world.folder / "out") == support.tree(world.folder / "fresh")
    assert not list(world.folder.glob(".*"))


INTERRUPTED = """
import atexit, os, signal, sys, threading

def interrupt():
    # a library may evaluate text as it is imported, which the interpreter remembers of a KeyboardInterrupt
    eval("os.kill(os.getpid(), signal.SIGINT)")

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            interrupt()

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
moment = sys.argv.pop(1)
sys.meta_path.insert(0, Finder())
if moment == "the very end":
    atexit.register(interrupt)
from mergewise.cli import main
if moment == "parsing":
    import typer.main
    typer.main.get_command = lambda _: interrupt()
elif moment == "waiting for threads":
    threading._register_atexit(interrupt)
try:
    main()
finally:
    if moment == "the end":
        atexit.register(interrupt)
"""
EARLY = ["mergewise.cli.app", "typer", "mergewise.cli.verify", "parsing", "mergewise.checkpoint", "numpy"]


@pytest.mark.parametrize("moment", [*EARLY, "mergewise.engine.merge", "waiting for threads", "the end"])
@pytest.mark.parametrize("json_asked", [False, True], ids=["text", "json"])
def test_an_interruption_at_any_moment_gives_one_sentence(moment, json_asked, world):
    command = [*QUICK, "out", *(["--json"] if json_asked else [])]
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, moment, *command], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 130
    (told,) = support.without_progress(ran.stderr).splitlines()
    assert told.startswith("mergewise: Interrupted; a merge or study goes on where it was")
    if json_asked:
        assert json.loads(ran.stdout.splitlines()[-1])["error"] == told.removeprefix("mergewise: ")
    assert (world.folder / "out").exists() == (moment in ("waiting for threads", "the end"))


def test_an_interruption_once_all_is_done_comes_too_late(world):
    command = [sys.executable, "-c", INTERRUPTED, "the very end", *QUICK, "out"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, support.without_progress(ran.stderr)) == (0, "")
    assert (world.folder / "out").exists()


def test_an_interruption_of_a_command_of_a_group_gives_one_sentence(run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mergewise.study.spec.load_spec", stop)
    outcome = run("study", "status", "spec.yaml")
    assert outcome.code == 130
    assert sentence(outcome)


def test_a_reader_that_goes_away_is_no_fault_to_speak_of(world):
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        [sys.executable, "-m", "mergewise", "inspect", "base", "--tensors"],
        stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert ran.returncode in (0, 1)
    assert ran.stderr == ""


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("command", [["inspect", "base"], ["inspect", "base", "--json"], ["inspect", "none", "--json"]])
def test_an_output_that_is_full_is_told_in_one_sentence(world, command, buffered):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    environment |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "mergewise", *command],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment,
        )  # fmt: skip
        assert ran.returncode == 1
        (told,) = ran.stderr.splitlines()
        assert told == "mergewise: The output cannot be written: No space left on device." or "none" in command
        again = subprocess.run([sys.executable, "-m", "mergewise", "inspect", "none"], stderr=full, check=False)
    assert again.returncode == 1


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&- <&-"])
def test_a_merge_is_the_same_where_streams_are_closed(world, run, closed):
    command = [sys.executable, "-m", "mergewise", *QUICK, "out"]
    ran = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert run(*QUICK, "fresh").code == 0
    assert support.tree(world.folder / "out") == support.tree(world.folder / "fresh")


def test_the_sentence_of_json_is_json_whatever_it_holds(world, run):
    outcome = run("merge", world.recipe(models=[{"model": 'quo"te\\θ'}]), "out", "--json")
    assert 'quo"te\\θ' in json.loads(outcome.out)["error"]
