"""The commands do what they say."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

import mergewise as mw
import support
from mergewise.checkpoint import Checkpoint, open_source
from mergewise.testing.cases import save_statistics

QUICK = ["merge", "--method", "task_arithmetic", "--base", "base", "--expert", "e1", "--expert", "e2"]
WEIGHTS = {"model.safetensors", "model.safetensors.index.json"}
METHODS = sorted(mw.methods())
COMMANDS = (
    "merge", "plan", "verify", "inspect", "diff", "forecast", "agreement", "statistics", "adamerging", "methods",
    "demo", "zoo", "zoo list", "zoo build",
)  # fmt: skip


def weights(folder) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in support.load_model(folder).items()}


class TestMerge:
    def test_a_recipe_gives_the_weights_of_the_formula(self, world, run):
        outcome = run("merge", world.recipe(parameters={"weight": 0.5, "lambda": 0.75}), "out")
        assert outcome.code == 0
        merged = support.load_model(world.folder / "out")
        assert merged.keys() == world.base.keys()
        for name, base in world.base.items():
            base, e1, e2 = (a[name].astype(np.float64) for a in (world.base, *world.experts))
            expected = base + 0.75 * (0.5 * (e1 - base) + 0.5 * (e2 - base))
            assert merged[name].dtype == np.float32
            np.testing.assert_allclose(merged[name], expected, rtol=2**-23, atol=1e-12)

    def test_the_quick_form_gives_the_same_bytes_as_the_recipe(self, world, run):
        world.recipe(merge_method="ties", models=[
            {"model": "e1", "parameters": {"weight": 0.3}}, {"model": "e2", "parameters": {"weight": 0.7}},
        ], parameters={"density": 0.5, "normalize": False, "scope": "model"}, dtype="bfloat16")  # fmt: skip
        quick = [
            "merge", "--method", "ties", "--base", "base", "--expert", "e1", "--expert", "e2", "-p", "weight=0.3,0.7",
            "--parameter", "density=0.5", "-p", "normalize=false", "-p", "scope=model", "--dtype", "bfloat16",
        ]  # fmt: skip
        assert run("merge", "recipe.yaml", "one").code == 0
        assert run(*quick, "other").code == 0
        assert support.tree(world.folder / "one") == support.tree(world.folder / "other")

    def test_a_list_in_the_quick_form_is_a_gradient(self, world, run):
        assert run("merge", world.recipe(parameters={"weight": [0, 1]}), "one").code == 0
        assert run(*QUICK, "-p", "weight=[0, 1]", "other").code == 0
        assert weights(world.folder / "one") == weights(world.folder / "other")

    @pytest.mark.parametrize("value", ["1e-3", "1.0e-3", ".001", "0.001"])
    def test_a_number_may_be_written_in_any_usual_way(self, value, world, run):
        assert run(*QUICK, "-p", f"lambda={value}", "out").code == 0
        assert run("merge", world.recipe(parameters={"lambda": 0.001}), "other").code == 0
        assert weights(world.folder / "out") == weights(world.folder / "other")

    @pytest.mark.parametrize("options", [["--threads", "1"], ["--threads", "2", "--memory", "300MiB"], ["--threads=7"]])
    def test_threads_and_memory_do_not_change_a_byte(self, options, world, run):
        recipe = world.recipe(merge_method="dare_ties", parameters={"density": 0.5, "seed": 3})
        assert run("merge", recipe, "one").code == 0
        assert run("merge", recipe, "other", *options).code == 0
        assert support.tree(world.folder / "one") == support.tree(world.folder / "other")

    def test_the_recipe_beside_the_result_gives_the_result_again(self, world, run):
        world.recipe(merge_method="ties", models=[
            {"model": "base"}, {"model": "e1", "parameters": {"weight": [0.5, 1]}}, {"model": {"path": "e2"}},
        ], parameters={"density": [{"filter": "mlp", "value": 0.5}, {"value": 0.8}]}, out_dtype="float16")  # fmt: skip
        assert run("merge", "recipe.yaml", "one").code == 0
        assert run("merge", "one/mergewise_recipe.yaml", "other").code == 0
        assert support.tree(world.folder / "one") == support.tree(world.folder / "other")

    def test_the_recipe_of_a_quick_form_with_the_base_among_the_experts_gives_the_result_again(self, world, run):
        quick = ["merge", "--method", "rht", "--base", "base", "--expert", "base", "--expert", "e1"]
        assert run(*quick, "one").code == 0
        assert run("merge", "one/mergewise_recipe.yaml", "other").code == 0
        assert weights(world.folder / "one") == weights(world.folder / "other")

    def test_the_files_beside_the_weights_are_those_of_the_base(self, world, run):
        kept = ("model.safetensors.index.json.bak", "generation_config.json")
        records = ("README.md", "mergekit_config.yml", "mergewise.json", "mergewise_recipe.yaml")
        for name in (*kept, *records, "notes.bin", ".hidden"):
            (world.folder / "base" / name).write_text("old")
        (world.folder / "base" / "folder").mkdir()
        assert run("merge", world.recipe(), "out").code == 0
        out = support.tree(world.folder / "out")
        assert sorted(out) == [
            "README.md", "config.json", "generation_config.json", "mergewise.json", "mergewise_recipe.yaml",
            "model.safetensors", "model.safetensors.index.json.bak", "tokenizer.json",
        ]  # fmt: skip
        assert json.loads(out["config.json"]) == support.CONFIG
        assert out["tokenizer.json"] == b'{"version": "1.0"}'
        assert b"old" not in {out["README.md"], out["mergewise.json"], out["mergewise_recipe.yaml"]}

    def test_loose_files_in_a_folder_of_other_things_take_nothing_of_it_along(self, world, run):
        for name, arrays in zip("ab", world.experts, strict=True):
            support.save_file(world.folder / "downloads" / f"{name}.safetensors", arrays)
        (world.folder / "downloads" / "diary.txt").write_text("dear diary")
        experts = ["--expert", "downloads/a.safetensors", "--expert", "downloads/b.safetensors"]
        assert run("merge", "--method", "average", *experts, "out").code == 0
        assert not (world.folder / "out" / "diary.txt").exists()

    def test_an_index_of_the_base_is_not_taken_along(self, world, run):
        (world.folder / "base" / "model.safetensors").unlink()
        support.save_model(world.folder / "base", world.base, shards=3)
        assert run("merge", world.recipe(), "out").code == 0
        assert {name for name in support.tree(world.folder / "out") if "model" in name} == {"model.safetensors"}
        assert support.load_model(world.folder / "out").keys() == world.base.keys()

    def test_the_shard_size_is_kept(self, world, run):
        assert run("merge", world.recipe(), "out", "--shard-size", "1KB").code == 0
        assert run("merge", world.recipe(), "whole").code == 0
        assert len(list((world.folder / "out").glob("model-*.safetensors"))) > 1
        assert weights(world.folder / "out") == weights(world.folder / "whole")

    @pytest.mark.parametrize(
        ("key", "config"), [("dtype", {"dtype": "float32"}), ("torch_dtype", {"torch_dtype": "x"})]
    )
    def test_the_configuration_says_the_dtype_of_the_result(self, key, config, world, run):
        support.save_model(world.folder / "base", world.base, config=support.CONFIG | config)
        assert run("merge", world.recipe(out_dtype="bfloat16"), "out").code == 0
        found = json.loads((world.folder / "out" / "config.json").read_text())
        assert found == support.CONFIG | {key: "bfloat16"}

    def test_integers_and_booleans_are_copied_and_a_difference_is_said(self, world, run):
        ids = np.arange(6, dtype="i8")
        for folder, arrays in (("base", world.base), ("e1", world.experts[0])):
            support.save_model(world.folder / folder, arrays | {"ids": ids, "mask": ids > 2})
        world.expert(ids=ids + 1, mask=ids > 2)
        outcome = run("merge", world.recipe(out_dtype="float16"), "out")
        assert outcome.code == 0
        merged = support.load_model(world.folder / "out")
        assert merged["ids"].tolist() == ids.tolist()
        assert merged["mask"].tolist() == (ids > 2).tolist()
        assert "'ids' holds integers or booleans that differ" in outcome.err
        assert "'mask' holds" not in outcome.err

    def test_eight_bit_weights_are_read_with_their_scales(self, world, run):
        name = "lm_head.weight"
        stored, scale = world.experts[1][name].astype("float8_e4m3fn"), np.float32(1.5)
        world.expert(**{name: stored, f"{name}_scale": np.array(scale)})
        outcome = run("merge", world.recipe(parameters={"weight": 1.0}), "out")
        assert outcome.code == 0
        base, e1 = (a[name].astype(np.float64) for a in (world.base, world.experts[0]))
        expected = base + (e1 - base) + (stored.astype(np.float64) * scale - base)
        np.testing.assert_allclose(support.load_model(world.folder / "out")[name], expected, rtol=1e-6, atol=1e-7)
        assert "e2 are stored in eight bits" in outcome.err

    def test_missing_and_extra_tensors_are_dealt_with_as_the_recipe_says(self, world, run):
        world.expert(**{"lm_head.weight": None, "extra.weight": np.zeros(3, "f4")})
        outcome = run("merge", world.recipe(missing_tensors="base", extra_tensors="drop"), "out")
        assert outcome.code == 0
        merged = support.load_model(world.folder / "out")
        assert merged.keys() == world.base.keys()
        base, e1 = (a["lm_head.weight"].astype(np.float64) for a in (world.base, world.experts[0]))
        np.testing.assert_allclose(merged["lm_head.weight"], base + 0.5 * (e1 - base), rtol=1e-6)
        assert "e2 lacks" in outcome.err
        assert "only e2 has" in outcome.err

    def test_an_empty_output_folder_is_filled(self, world, run):
        (world.folder / "out").mkdir()
        assert run("merge", world.recipe(), "out").code == 0
        assert support.load_model(world.folder / "out").keys() == world.base.keys()

    def test_the_same_merge_once_more_leaves_its_output_as_it_is(self, world, run):
        assert run("merge", world.recipe(), "out").code == 0
        before = support.tree(world.folder / "out")
        for again in ([], ["--dry-run"]):
            assert run("merge", "recipe.yaml", "out", *again).code == 0
        outcome = run("merge", "recipe.yaml", "out")
        assert "holds this merge already; nothing was done" in " ".join(outcome.err.split())
        assert support.tree(world.folder / "out") == before
        assert "holds this merge already; nothing would be done" in run("merge", "recipe.yaml", "out", "--dry-run").err
        for again in ([], ["--dry-run"]):
            outcome = run("merge", world.recipe(parameters={"weight": 0.25}), "out", *again)
            assert outcome.code == 1
            assert "new or empty" in outcome.err

    def test_the_inputs_are_not_touched(self, world, run):
        before = support.tree(world.folder)
        assert run("merge", world.recipe(), "out").code == 0
        after = {name: content for name, content in support.tree(world.folder).items() if not name.startswith("out")}
        assert after == before | {"recipe.yaml": (world.folder / "recipe.yaml").read_bytes()}

    def test_provenance_names_recipe_inputs_and_version(self, world, run):
        import hashlib

        assert run("merge", world.recipe(), "out").code == 0
        found = json.loads((world.folder / "out" / "mergewise.json").read_text())
        assert found["mergewise"] == mw.__version__
        assert found["recipe"] == yaml.safe_load((world.folder / "recipe.yaml").read_text())
        assert {i["file"]: i["sha256"] for i in found["inputs"]} == {
            f"{name}/{file}": hashlib.sha256((world.folder / name / file).read_bytes()).hexdigest()
            for name in ("base", "e1", "e2")
            for file in ("config.json", "model.safetensors")
        }

    @pytest.mark.parametrize("name", METHODS)
    def test_every_method_merges(self, name, world, run):
        method = mw.methods()[name]
        experts = ["e1"] if method.base_is_first or method.max_experts == 1 else ["e1", "e2"]
        options = [option for expert in experts for option in ("--expert", expert)]
        if method.statistics:
            for expert in experts:
                save_statistics(name, open_source(expert), world.folder / f"{expert}.statistics.safetensors")
            options += ["-p", "statistics=" + ",".join(f"{expert}.statistics.safetensors" for expert in experts)]
        base = () if method.base_joins else ("--base", "base")
        outcome = run("merge", "--method", name, *base, *options, "out", "--json")
        assert outcome.code == 0
        assert outcome.json["method"] == name
        assert support.load_model(world.folder / "out").keys() == world.base.keys()


class TestJson:
    def test_merge(self, world, run):
        outcome = run("merge", world.recipe(), "out", "--json")
        report = outcome.json
        assert outcome.err == ""
        assert report["out"] == "out"
        assert (report["method"], report["experts"], report["tensors"]) == ("task_arithmetic", 2, len(world.base))
        assert report["parameters"] == sum(a.size for a in world.base.values())
        assert report["bytes_out"] == sum(a.nbytes for a in world.base.values())
        assert report["bytes_in"] == 3 * report["bytes_out"]
        assert sorted(report["inputs"]) == [
            f"{n}/{file}" for n in ("base", "e1", "e2") for file in ("config.json", "model.safetensors")
        ]

    def test_plan_and_dry_run_agree(self, world, run):
        plan = run("plan", world.recipe(merge_method="ties", parameters={"density": 0.5}), "--json", "--threads", "2")
        assert plan.json["passes"][-1] == "combine"
        assert len(plan.json["passes"]) > 1
        assert plan.json["threads"] == 2
        assert plan.json["peak_memory"] <= 1 << 30
        dry = run("merge", "recipe.yaml", "out", "--dry-run", "--json", "--threads", "2")
        assert dry.json.keys() == plan.json.keys()
        changing = {"free_disk"}  # other processes write, too
        assert {k: v for k, v in dry.json.items() if k not in changing} == {
            k: v for k, v in plan.json.items() if k not in changing
        }

    def test_inspect(self, world, run):
        found = run("inspect", "base", "--json", "--tensors").json
        assert (found["path"], found["architectures"]) == ("base", ["LlamaForCausalLM"])
        assert (found["files"], found["tensors"]) == (["model.safetensors"], len(world.base))
        assert found["dtypes"] == {"F32": len(world.base)}
        assert {t["name"]: (t["dtype"], tuple(t["shape"]), t["bytes"]) for t in found["tensor_list"]} == {
            name: ("F32", a.shape, a.nbytes) for name, a in world.base.items()
        }

    def test_methods(self, run):
        found = {m["name"]: m for m in run("methods", "--json").json}
        assert sorted(found) == METHODS
        assert [run("methods", name, "--json").json for name in METHODS] == [[found[name]] for name in METHODS]
        density = next(p for p in found["ties"]["parameters"] if p["name"] == "density")
        assert (density["default"], density["per_model"], density["has_effect"]) == (1.0, True, True)


class TestForPeople:
    def test_merge_says_what_it_did(self, world, run):
        outcome = run("merge", world.recipe(parameters={"int8_mask": True}), "out")
        assert "merged   2 models with task_arithmetic" in outcome.out
        assert f"{len(world.base)} (" in outcome.out
        assert outcome.err == "note: 'int8_mask' at parameters.int8_mask has no effect on task_arithmetic.\n"

    def test_plan_says_what_a_merge_takes(self, world, run):
        outcome = run("plan", world.recipe(merge_method="ties", parameters={"density": 0.5, "scope": "model"}))
        assert outcome.code == 0
        assert "the whole model" in outcome.out
        assert "base, e1, e2" in outcome.out
        assert "memory" in outcome.out

    def test_a_dry_run_writes_nothing(self, world, run):
        recipe = world.recipe()
        before = support.tree(world.folder)
        assert run("merge", recipe, "deep/er/out", "--dry-run").code == 0
        assert run(*QUICK, "out", "--dry-run", "--json").code == 0
        assert support.tree(world.folder) == before

    def test_a_plan_reads_no_weights(self, world, run, monkeypatch):
        monkeypatch.setattr(Checkpoint, "read_into", lambda *_: pytest.fail("weights were read"))
        assert run("plan", world.recipe(merge_method="ties", parameters={"density": 0.5})).code == 0

    @pytest.mark.parametrize("path", ["base", "base/model.safetensors"])
    def test_inspect_says_what_a_checkpoint_holds(self, path, world, run):
        outcome = run("inspect", path)
        assert outcome.code == 0
        assert "LlamaForCausalLM" in outcome.out
        assert "lm_head" not in outcome.out
        listed = run("inspect", path, "--tensors").out
        assert all(name in listed for name in world.base)

    def test_inspect_says_what_is_stored_of_eight_bit_weights(self, world, run):
        support.save_model(
            world.folder / "eight", {"w": np.ones((4, 4), "float8_e4m3fn"), "w_scale": np.ones((), "f4")}
        )
        found = run("inspect", "eight", "--json").json
        assert found["dtypes"] == {"F8_E4M3": 1, "F32": 1}
        assert found["bytes"] == 20

    @pytest.mark.parametrize("config", [{}, {"architectures": None}, {"architectures": []}, {"architectures": "Odd"}])
    def test_inspect_does_without_a_usual_configuration(self, config, world, run):
        (world.folder / "base" / "config.json").write_text(json.dumps(config))
        outcome = run("inspect", "base")
        assert outcome.code == 0
        assert ("Odd" if config.get("architectures") == "Odd" else "not stated") in outcome.out
        (world.folder / "base" / "config.json").unlink()
        assert run("inspect", "base", "--json").code == 0

    def test_inspect_lists_names_that_look_like_markup_as_they_are(self, world, run):
        support.save_model(world.folder / "base", {"[bold]a[/bold] :smile:": np.zeros(3, "f4")})
        assert "[bold]a[/bold] :smile:" in run("inspect", "base", "--tensors").out

    def test_inspect_knows_dtypes_that_cannot_be_merged(self, world, run):
        support.save_model(world.folder / "base", {"a": np.zeros(3, "c8"), "b": np.zeros(3, "float8_e5m2")})
        assert run("inspect", "base", "--json").json["dtypes"] == {"C64": 1, "F8_E5M2": 1}

    def test_methods_lists_all(self, run):
        outcome = run("methods")
        assert outcome.code == 0
        assert all(name in outcome.out for name in METHODS)

    @pytest.mark.parametrize("name", METHODS)
    def test_methods_explains_one(self, name, run):
        outcome = run("methods", name)
        method = mw.methods()[name]
        assert outcome.code == 0
        assert method.summary in outcome.out
        assert all(parameter.name in outcome.out for parameter in method.parameters)

    @pytest.mark.parametrize("name", ["lines", "svc"])
    def test_methods_explains_post_steps(self, name, run):
        assert name in run("methods").out
        assert "alpha" in run("methods", name).out
        (found,) = run("methods", name, "--json").json
        assert found["name"] == name
        assert found["parameters"][0]["name"] == "alpha"

    def test_version(self, run):
        assert run("--version").out == f"mergewise {mw.__version__}\n"

    @pytest.mark.parametrize("command", [[], *map(str.split, COMMANDS)])
    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_every_command_has_help(self, command, option, run):
        outcome = run(*command, option)
        assert outcome.code == 0
        assert "Usage" in outcome.out

    def test_no_command_gives_the_help_and_counts_as_wrong_usage(self, run):
        outcome = run()
        assert outcome.code == 2
        assert "merge" in outcome.out + outcome.err


def strict(text: str):
    """Read JSON as the standard has it, without NaN and Infinity."""

    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


class TestDiff:
    def differences(self, run) -> dict[str, dict]:
        outcome = run("diff", "e1", "e2", "--json")
        assert outcome.code == 0
        assert outcome.err == ""
        return {found["name"]: found for found in strict(outcome.out)["differences"]}

    def save(self, world, one, other) -> None:
        support.save_model(world.folder / "e1", one)
        support.save_model(world.folder / "e2", other)

    def test_equal_checkpoints_have_no_differences(self, world, run):
        assert run("diff", "base", "base", "--json").json["differences"] == []
        assert f"{len(world.base)} equal, 0 different" in run("diff", "base", "base/model.safetensors").out

    def test_every_kind_of_difference_is_named_and_measured(self, world, run):
        a = {name: np.arange(1, 5, dtype="f4") for name in ("same", "values", "dtype", "shape", "mine")}
        b = a | {"values": np.array([1, 2, 3, 6], "f4"), "dtype": a["dtype"].astype("f8"), "shape": a["shape"][:3]}
        b["theirs"] = b.pop("mine")
        self.save(world, a, b)
        found = self.differences(run)
        kinds = {"values": "values", "dtype": "dtype", "shape": "shape", "mine": "only in A", "theirs": "only in B"}
        assert {name: d["kind"] for name, d in found.items()} == kinds
        assert (found["values"]["differing"], found["values"]["largest"]) == (1, 2.0)
        assert found["values"]["relative"] == pytest.approx(2 / 30**0.5)
        assert all(name in run("diff", "e1", "e2").out for name in kinds)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite_are_differences_too(self, value, world, run):
        self.save(world, {"a": np.array([1, value], "f4")}, {"a": np.array([1, 2], "f4")})
        assert self.differences(run)["a"]["differing"] == 1
        self.save(world, {"a": np.array([1, value], "f4")}, {"a": np.array([1, value], "f4")})
        assert self.differences(run) == {}

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (np.array([2**53], "i8"), np.array([2**53 + 1], "i8")),
            (np.array([2**64 - 1], "u8"), np.array([2**64 - 2], "u8")),
            (np.array([1 + 2j], "c8"), np.array([1 + 3j], "c8")),
            (np.array([True]), np.array([False])),
            (np.array(1, "f4"), np.array(2, "f4")),
        ],
        ids=["large integers", "larger integers", "imaginary parts", "booleans", "scalars"],
    )
    def test_no_difference_is_lost_in_conversion_of(self, one, other, world, run):
        self.save(world, {"a": one}, {"a": other})
        assert self.differences(run)["a"]["differing"] == 1

    def test_empty_tensors_are_equal(self, world, run):
        self.save(world, {"a": np.zeros((0, 3), "f4")}, {"a": np.zeros((0, 3), "f4")})
        assert self.differences(run) == {}


class TestVerify:
    @pytest.fixture
    def out(self, world, run):
        """A merge, with an integer tensor too."""
        for folder, arrays in (("base", world.base), ("e1", world.experts[0]), ("e2", world.experts[1])):
            support.save_model(world.folder / folder, arrays | {"ids": np.arange(4)})
        assert run("merge", world.recipe(merge_method="ties", parameters={"density": 0.5}), "out").code == 0
        return world.folder / "out"

    def faults(self, run, *options) -> list[str]:
        outcome = run("verify", "out", "--json", *options)
        assert outcome.code == bool(outcome.json["faults"])
        return outcome.json["faults"]

    def change(self, out, **arrays) -> None:
        found = support.load_model(out) | arrays
        support.save_file(out / "model.safetensors", {n: a for n, a in found.items() if a is not None})

    @pytest.mark.parametrize("options", [[], ["--all"], ["--sample", "1"], ["--all", "--threads", "1"]])
    def test_a_merge_is_as_recorded(self, options, out, run):
        assert self.faults(run, *options) == []
        assert "as recorded" in run("verify", "out", *options).out

    @pytest.mark.parametrize("scope", ["tensor", "model"])
    def test_a_changed_bit_is_found(self, scope, out, world, run):
        if scope == "model":
            recipe = world.recipe(merge_method="ties", parameters={"density": 0.5, "scope": "model"})
            assert run("merge", recipe, "other").code == 0
            (world.folder / "out").rename(world.folder / "first")
            (world.folder / "other").rename(world.folder / "out")
        changed = support.load_model(out)["lm_head.weight"].copy()
        changed.view(np.uint8).reshape(-1)[-1] ^= 1
        self.change(out, **{"lm_head.weight": changed})
        (fault,) = self.faults(run, "--all")
        assert "'lm_head.weight'" in fault
        outcome = run("verify", "out", "--all")
        assert "'lm_head.weight'" in outcome.err
        assert "1 fault\n" in outcome.out

    @pytest.mark.parametrize(
        "change",
        [
            lambda a: a.reshape(a.shape[::-1]),
            lambda a: np.concatenate([a, a[:1]]),
            lambda a: a[:-1],
            lambda a: a.view(np.int32),
            lambda a: None,
        ],
        ids=["another shape", "more rows", "fewer rows", "another dtype", "no tensor"],
    )
    def test_a_tensor_is_found_that_has(self, change, out, run):
        self.change(out, **{"lm_head.weight": change(support.load_model(out)["lm_head.weight"])})
        faults = self.faults(run, "--all")
        assert len(faults) == 1
        assert "'lm_head.weight'" in faults[0]

    def test_a_tensor_that_does_not_belong_is_found(self, out, run):
        self.change(out, ghost=np.zeros(3))
        assert "'ghost'" in self.faults(run)[0]

    def test_a_changed_input_is_found(self, out, world, run):
        arrays = support.load_model(world.folder / "e2")
        arrays["lm_head.weight"] = arrays["lm_head.weight"] + np.float32(1)
        support.save_model(world.folder / "e2", arrays)
        faults = self.faults(run, "--all")
        assert any("e2/model.safetensors" in fault and "SHA-256" in fault for fault in faults)

    @pytest.mark.parametrize("kept", [0, 1])
    def test_a_record_that_leaves_out_inputs_is_found(self, kept, out, run):
        record = json.loads((out / "mergewise.json").read_text())
        record["inputs"] = record["inputs"][:kept]
        (out / "mergewise.json").write_text(json.dumps(record))
        assert self.faults(run)

    def test_the_order_of_the_recorded_inputs_does_not_matter(self, out, run):
        record = json.loads((out / "mergewise.json").read_text())
        record["inputs"].reverse()
        (out / "mergewise.json").write_text(json.dumps(record))
        assert self.faults(run) == []

    def test_a_missing_input_gives_one_sentence(self, out, world, run):
        (world.folder / "e2" / "model.safetensors").unlink()
        outcome = run("verify", "out")
        assert outcome.code == 1
        assert len(outcome.err.splitlines()) == 1
        assert "e2" in outcome.err


def loaded_by(script: str) -> set[str]:
    """Return the packages that a Python process has loaded after a script."""
    script += "\nimport sys; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split())


COMMAND = """
import sys
from mergewise.cli import main
sys.argv = ["mergewise", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code
"""
HEAVY = {"torch", "transformers", "numba", "llvmlite", "scipy", "pandas", "sklearn", "jinja2", "safetensors"}


class TestWhatIsLoaded:
    def test_importing_the_package_loads_nothing_heavy(self):
        found = loaded_by("import mergewise")
        assert "mergewise" in found
        assert not found & (HEAVY | {"numpy", "ml_dtypes", "pydantic", "yaml", "typer", "rich"})

    @pytest.mark.parametrize("arguments", [["--help"], ["merge", "--help"], ["--version"], ["plan", "--help"]])
    def test_help_loads_neither_torch_nor_numba_nor_numpy(self, arguments):
        assert not loaded_by(COMMAND.format(arguments=arguments)) & (HEAVY | {"numpy", "ml_dtypes"})

    @pytest.mark.parametrize("command", ["inspect base", "methods", "methods ties", "plan recipe.yaml"])
    def test_what_merges_nothing_loads_neither_torch_nor_numba(self, command, world):
        world.recipe()
        assert not loaded_by(COMMAND.format(arguments=command.split())) & HEAVY

    def test_a_merge_loads_no_torch(self, world):
        arguments = ["merge", world.recipe(), "out"]
        assert not loaded_by(COMMAND.format(arguments=arguments)) & {"torch", "transformers", "pandas", "jinja2"}

    def test_a_merge_loads_no_numba_once_its_kernels_are_compiled(self, world):
        recipe = world.recipe()
        loaded_by(COMMAND.format(arguments=["merge", recipe, "first"]))
        assert not loaded_by(COMMAND.format(arguments=["merge", recipe, "second"])) & {"numba"}

    def test_the_module_is_a_command_too(self):
        ran = subprocess.run(
            [sys.executable, "-m", "mergewise", "--version"], capture_output=True, text=True, check=True
        )
        assert ran.stdout == f"mergewise {mw.__version__}\n"
