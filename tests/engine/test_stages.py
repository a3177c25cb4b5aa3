"""Several recipes in one file, of which later ones merge what earlier ones made."""

import json
import shutil

import numpy as np
import pytest

import mergewise as mw
import support
from adapters import factors, product, save_adapter
from engine.slices import arrays, config, save
from mergewise.checkpoint import sha256_of
from mergewise.engine import provenance
from mergewise.engine.stages import as_stages, plan_stages, stage_folders
from mergewise.errors import RecipeError
from mergewise.recipe import load_stages, order_stages

TWO = """
name: half
merge_method: linear
models: [{model: A}, {model: C}]
---
merge_method: task_arithmetic
base_model: A
models: [{model: half, parameters: {weight: 0.5}}]
"""
ON_ITS_BASE = TWO.replace("base_model: A", "base_model: half").replace("{model: half, ", "{model: A, ")
THREE_BACKWARDS = """
merge_method: slerp
base_model: left
models: [{model: left}, {model: right}]
parameters: {t: 0.25}
---
name: right
merge_method: linear
models: [{model: left}, {model: C}]
---
name: left
merge_method: linear
models: [{model: A}, {model: C}]
"""
UP = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    return save(tmp_path)


def flip(file):
    content = bytearray(file.read_bytes())
    content[-2] ^= 64
    file.write_bytes(content)


def written(models, text):
    (models / "recipe.yaml").write_text(text)
    return models / "recipe.yaml"


class TestMerging:
    def test_a_later_stage_merges_what_an_earlier_one_made(self, models):
        report = mw.merge(written(models, TWO), "out")
        a, c = arrays("A", 4)[UP], arrays("C", 4)[UP]
        assert np.array_equal(support.load_model(models / "out.stages" / "half")[UP], (a + c) / 2)
        assert np.array_equal(support.load_model(models / "out")[UP], a + 0.5 * ((a + c) / 2 - a))
        assert report.method == "task_arithmetic"
        assert mw.verify("out", sample=None).faults == ()

    def test_the_order_in_the_file_does_not_matter(self, models):
        mw.merge(written(models, THREE_BACKWARDS), "out", stages="kept")
        assert sorted(path.name for path in (models / "kept").iterdir()) == ["left", "right"]
        recorded = json.loads((models / "out" / "mergewise.json").read_text())
        assert recorded["recipe"]["base_model"] == "kept/left"

    def test_the_folder_one_stands_in_may_be_the_output(self, models, monkeypatch):
        (models / "recipe.yaml").write_text(TWO.replace("model: ", "model: ../").replace("../half", "half"))
        (models / "here").mkdir()
        monkeypatch.chdir(models / "here")
        mw.merge("../recipe.yaml", ".")
        assert (models / "here.stages" / "half" / "model.safetensors").is_file()
        a, c = arrays("A", 4)[UP], arrays("C", 4)[UP]
        assert np.array_equal(support.load_model(models / "here")[UP], a + 0.5 * ((a + c) / 2 - a))

    @pytest.mark.parametrize(("out", "stages"), [("out", "out/stages"), ("kept/half", "kept"), ("out", ".")])
    def test_stages_inside_the_output_or_around_it_are_refused_before_any_is_merged(self, models, out, stages):
        path = written(models, TWO.replace("half", "out") if stages == "." else TWO)
        before = support.tree(models)
        with pytest.raises(mw.CheckpointError, match=r"apart from the output .* found one inside the other"):
            mw.merge(path, out, stages=stages)
        assert support.tree(models) == before

    def test_a_finished_stage_is_taken_over(self, models):
        path = written(models, TWO)
        mw.merge(path, "out")
        before = support.tree(models / "out")
        made = (models / "out.stages" / "half" / "model.safetensors").stat().st_mtime_ns
        shutil.rmtree(models / "out")
        report = mw.merge(path, "out")
        assert "Stage 'half' was taken over from out.stages/half." in report.remarks
        assert (models / "out.stages" / "half" / "model.safetensors").stat().st_mtime_ns == made
        assert support.tree(models / "out") == before

    @pytest.mark.parametrize("change", ["recipe", "input"])
    def test_a_stage_that_was_made_otherwise_is_not_taken_over(self, models, change):
        path = written(models, TWO)
        mw.merge(path, "out")
        shutil.rmtree(models / "out")
        if change == "recipe":
            path.write_text(TWO.replace("{model: C}", "{model: C, parameters: {weight: 2}}"))
        else:
            changed = {name: array + 1 for name, array in arrays("C", 4).items()}
            support.save_model(models / "C", changed, config=config(4))
        with pytest.raises(mw.CheckpointError, match=r"out\.stages/half: expected the result of this stage or nothing"):
            mw.merge(path, "out")
        assert not (models / "out").exists()

    @pytest.mark.parametrize("base", ["A", "half"])
    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "mergewise_recipe.yaml"])
    def test_small_files_that_a_stage_or_the_output_has_lost_are_put_back(self, models, base, name):
        path = written(models, TWO if base == "A" else ON_ITS_BASE)
        mw.merge(path, "out")
        whole, stage = support.tree(models / "out"), support.tree(models / "out.stages")
        shutil.rmtree(models / "out")
        (models / "out.stages" / "half" / name).unlink()
        report = mw.merge(path, "out")
        taken = f"Stage 'half' was taken over from out.stages/half; {name} had gone and was put back."
        assert taken in report.remarks
        assert (support.tree(models / "out"), support.tree(models / "out.stages")) == (whole, stage)
        for left in ("out.stages", None):
            (models / "out" / name).unlink()
            report = mw.merge(path, "out")
            assert report.remarks[-1] == f"out holds this merge already; {name} had gone and was put back."
            assert (support.tree(models / "out"), support.tree(models / "out.stages")) == (whole, stage)
            if left:
                shutil.rmtree(left)
        assert mw.verify("out").faults == ()

    def test_a_stage_whose_small_files_or_weights_were_altered_is_not_taken_over(self, models):
        path = written(models, ON_ITS_BASE)
        mw.merge(path, "out")
        half = models / "out.stages" / "half"
        config = (half / "config.json").read_text()
        shutil.rmtree(models / "out")
        (half / "config.json").write_text('{"model_type": "other"}')
        with pytest.raises(mw.CheckpointError, match=r"half/config\.json: expected SHA-256"):
            mw.merge(path, "out")
        (half / "config.json").write_text(config)
        flip(half / "model.safetensors")
        with pytest.raises(mw.CheckpointError, match=r"expected weights of the SHA-256 .* remove out\.stages/half"):
            mw.merge(path, "out")
        assert not (models / "out").exists()
        flip(half / "model.safetensors")
        mw.merge(path, "out")

    def test_verify_finds_what_was_altered_in_stages(self, models):
        text = THREE_BACKWARDS.replace("models: [{model: left}, {model: right}]", "models: [{model: right}]")
        mw.merge(written(models, text.replace("base_model: left", "base_model: A")), "out")
        assert mw.verify("out").faults == ()
        right, left = models / "out.stages" / "right", models / "out.stages" / "left"
        (right / "tokenizer.json").unlink()
        (left / "tokenizer.json").write_text("{}")
        flip(left / "model.safetensors")
        first, second, third = mw.verify("out").faults
        assert first == "out.stages/right/tokenizer.json is missing."
        assert second.startswith("out.stages/left/tokenizer.json: expected SHA-256 ")
        assert third.startswith("out.stages/left/model.safetensors: its SHA-256 is not ")
        assert any(fault.startswith("model.safetensors: its SHA-256 is not ") for fault in mw.verify(left).faults)

    def test_the_weights_of_a_stage_are_hashed_once(self, models, monkeypatch):
        hashed = []
        monkeypatch.setattr(provenance, "sha256_of", lambda path, stop=None: hashed.append(path) or sha256_of(path))
        mw.merge(written(models, TWO), "out")
        assert [path.name for path in hashed if "half" in str(path)] == ["config.json"]  # weights as they were written

    def test_an_output_that_holds_it_already_is_left_and_one_that_holds_another_is_refused_at_once(self, models):
        mw.merge(written(models, TWO), "out")
        assert mw.merge("recipe.yaml", "out").remarks[-1] == "out holds this merge already; nothing was done."
        shutil.rmtree("out.stages")
        with pytest.raises(mw.CheckpointError, match="new or empty"):
            mw.merge(written(models, TWO.replace("0.5", "0.6")), "out")
        assert not (models / "out.stages").exists()

    def test_the_folder_of_stages_may_be_spelt_in_another_way(self, models):
        mw.merge(written(models, TWO), "out")
        report = mw.merge("recipe.yaml", models / "out")
        assert report.remarks[-1] == f"{models / 'out'} holds this merge already; nothing was done."
        shutil.rmtree(models / "out")
        report = mw.merge("recipe.yaml", models / "out")
        assert f"Stage 'half' was taken over from {models}/out.stages/half." in report.remarks

    def test_an_output_is_known_without_its_stages_and_these_are_not_merged_again(self, models):
        for text, out in ((TWO, "out"), (THREE_BACKWARDS, "other")):
            mw.merge(written(models, text), out)
            shutil.rmtree(f"{out}.stages")
            report = mw.merge("recipe.yaml", out)
            assert report.remarks[-1] == f"{out} holds this merge already; nothing was done."
            assert not (models / f"{out}.stages").exists()

    @pytest.mark.parametrize("change", ["recipe of a stage", "input of a stage", "file of its base", "size"])
    def test_an_output_of_other_stages_is_refused_before_any_is_merged(self, models, change):
        text = ON_ITS_BASE
        mw.merge(written(models, text), "out")
        shutil.rmtree("out.stages")
        if change == "recipe of a stage":
            written(models, text.replace("{model: C}]", "{model: C, parameters: {weight: 2}}]"))
        elif change == "input of a stage":
            support.save_model(models / "C", {name: one + 1 for name, one in arrays("C", 4).items()}, config=config(4))
        elif change == "file of its base":
            (models / "A" / "tokenizer.json").write_text('{"version": "2.0"}')
        with pytest.raises(mw.CheckpointError, match="new or empty"):
            mw.merge("recipe.yaml", "out", shard_size=100 if change == "size" else "5GB")
        assert not (models / "out.stages").exists()

    def test_a_stage_is_not_taken_over_once_small_files_of_its_base_have_changed(self, models):
        path = written(models, TWO)
        mw.merge(path, "out")
        shutil.rmtree(models / "out")
        mw.merge(path, "out", shard_size=1000)  # of the result; those of a stage are as good
        shutil.rmtree(models / "out")
        (models / "A" / "tokenizer.json").write_text('{"version": "2.0"}')
        with pytest.raises(mw.CheckpointError, match=r"out\.stages/half: expected the result of this stage or nothing"):
            mw.merge(path, "out")

    def test_another_output_is_refused_before_the_stages_whose_tokenizer_the_last_one_takes(self, models):
        mw.merge(written(models, TWO), "out")
        shutil.rmtree("out.stages")
        with pytest.raises(mw.CheckpointError, match="new or empty"):
            mw.merge(written(models, TWO + "chat_template: auto\n"), "out")
        assert not (models / "out.stages").exists()

    def test_a_fault_of_the_last_stage_is_known_before_the_first_is_merged(self, models):
        first = TWO.split("---", maxsplit=1)[0]
        text = f"{first}---\nmerge_method: linear\nslices: [{{sources: [{{model: half, layer_range: [2, 9]}}]}}]\n"
        with pytest.raises(mw.RecipeError, match=r"reaches beyond out\.stages/half, which has 4 layers"):
            mw.merge(written(models, text), "out")
        assert not (models / "out.stages").exists()

    def test_a_fault_names_its_stage(self, models):
        with pytest.raises(mw.CheckpointError, match=r"^Stage 'half': missing: expected a checkpoint folder"):
            mw.merge(written(models, TWO.replace("{model: C}", "{model: missing}")), "out")

    def test_a_stage_may_make_the_tokenizer_that_the_next_one_takes(self, models):
        for name in ("A", "C"):
            vocabulary = {letter: i for i, letter in enumerate("abcdef" if name == "A" else "abcdxy")}
            (models / name / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
        text = TWO.replace("[{model: A}, {model: C}]", "[{model: A}, {model: C}]\ntokenizer_source: union") + (
            "tokenizer_source: half\n"
        )
        mw.merge(written(models, text), "out")
        assert json.loads((models / "out" / "config.json").read_text())["vocab_size"] == 8

    def test_a_stage_may_have_an_adapter_on_it(self, models):
        module = UP.removesuffix(".weight")
        tensors = factors(1, module, 8, 4)
        save_adapter(models / "lora", tensors)
        path = written(models, TWO.replace("model: half", "model: half+lora"))
        stages = as_stages(path)
        planned = plan_stages(stages, stage_folders(stages, "out.stages"))
        assert planned[-1].recipe.models == ("A", "out.stages/half+lora")
        mw.merge(path, "out")
        a, c = arrays("A", 4)[UP], arrays("C", 4)[UP]
        expected = a + 0.5 * ((a + c) / 2 + 2 * product(tensors, module) - a)
        np.testing.assert_allclose(support.load_model(models / "out")[UP], expected, rtol=1e-6)
        assert mw.verify("out", sample=None).faults == ()

    def test_one_document_with_a_name_is_one_recipe(self, models):
        text = TWO.split("---", maxsplit=1)[0]
        mw.merge(written(models, text), "out")
        assert not (models / "out.stages").exists()
        assert mw.plan(models / "recipe.yaml").recipe.method == "linear"


REFUSED = {
    "a name that stands twice": (TWO.replace("merge_method: task", "name: half\nmerge_method: task"), "stands twice"),
    "a circle": (
        (
            "name: a\nmerge_method: linear\nmodels: [{model: b}]\n---\n"
            "name: b\nmerge_method: linear\nmodels: [{model: a}]\n---\n"
            "merge_method: linear\nmodels: [{model: a}]\n"
        ),
        "in a circle: a, b",
    ),
    "a stage that needs itself": (TWO.replace("{model: C}", "{model: half}"), "in a circle: half"),
    "two ends": (TWO.replace("model: half", "model: A2"), "whose result no other merges, found 'half', one without"),
    "a misspelt stage": (TWO.replace("model: half", "model: hallf"), "Did you mean 'half'?"),
    "two without names": (TWO.replace("name: half\n", ""), "found one without a name, one without a name"),
    "an adapter for later ones": (
        TWO.replace("merge_method: linear", "merge_method: task_arithmetic\nbase_model: A\nadapter: true"),
        "found that 'half' makes an adapter; merge it with a recipe of its own",
    ),
    "an empty document": (TWO + "---\n", "document 3 of 3 is empty"),
    "a fault in a document": (TWO.replace("linear", "linaer"), "document 1: There is no merge method 'linaer'"),
    "nothing": ("", "expected one recipe, found nothing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_stages_are_refused_that_have(what, models):
    text, words = REFUSED[what]
    with pytest.raises(RecipeError) as fault:
        order_stages(load_stages(written(models, text)), "recipe.yaml")
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)
