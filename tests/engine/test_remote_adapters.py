"""Adapters, tokenizers and stages whose files are on other machines: the bytes that local files give."""

import json
import shutil

import numpy as np
import pytest

import mergewise as mw
import support
from adapters import linear_adapter, save_adapter
from mergewise.recipe import parse_recipe
from tokenizer import folders

NAMES = ("base", "a1", "a2", "e1")


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A base, two adapters of it and a whole expert."""
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    base = support.model_arrays(0, width=40, exact=True)
    support.save_model(tmp_path / "base", base)
    support.save_model(tmp_path / "e1", support.expert_of(base, 1))
    for number in (1, 2):
        save_adapter(tmp_path / f"a{number}", linear_adapter(number, base))
    return tmp_path


@pytest.fixture
def on_the_web(file_server, family):
    for name in NAMES:
        shutil.copytree(family / name, file_server.folder / name)
    return file_server.url


@pytest.fixture
def on_the_hub(hub, family):
    return {name: hub.add(f"org/{name}", files(family / name)) for name in NAMES}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def recipe(root, **changes):
    experts = [f"{root}/a1", f"{root}/a2"]
    asked = {"method": "ties", "base": f"{root}/base", "experts": experts, "parameters": {"density": 0.5}}
    return mw.Recipe(**asked | changes)


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}


class TestAdapters:
    @pytest.mark.parametrize("threads", [1, 4])
    def test_on_the_web_they_are_experts_as_local_ones_are(self, threads, family, on_the_web, tmp_path, quick):
        mw.merge(recipe(family), tmp_path / "near", access=quick)
        report = mw.merge(recipe(on_the_web), tmp_path / "far", access=quick, threads=threads)
        assert weights(tmp_path / "far") == weights(tmp_path / "near")
        assert f"{on_the_web}/a1/adapter_config.json" in report.inputs
        assert mw.verify(tmp_path / "far", access=quick, sample=None).faults == ()

    def test_on_the_hub_each_part_of_a_reference_has_its_revision(self, family, hub, on_the_hub, tmp_path, quick):
        hub.add("org/a1", files(family / "a2"))  # the branch goes on
        named = [f"org/base@{on_the_hub['base']}+org/a1@{on_the_hub['a1']}", "org/base+org/a2"]
        mw.merge(
            recipe("org", method="linear", base=None, experts=named, parameters={}), tmp_path / "far", access=quick
        )
        near = [f"{family}/base+{family}/{name}" for name in ("a1", "a2")]
        mw.merge(recipe(family, method="linear", base=None, experts=near, parameters={}), tmp_path / "near")
        assert weights(tmp_path / "far") == weights(tmp_path / "near")
        record = json.loads((tmp_path / "far" / "mergewise.json").read_text())
        assert set(record["revisions"].values()) == {on_the_hub[name] for name in ("base", "a1", "a2")}
        assert mw.verify(tmp_path / "far", access=quick, sample=None).faults == ()

    def test_they_are_merged_into_one_and_checked_against_a_base_that_has_a_url(
        self, family, on_the_hub, tmp_path, quick
    ):
        asked = {"method": "task_arithmetic", "parameters": {}, "adapter": {"rank": 3}}
        mw.merge(recipe(family, **asked), tmp_path / "near")
        report = mw.merge(recipe("hf://org", **asked), tmp_path / "far", access=quick)
        assert weights(tmp_path / "far") == weights(tmp_path / "near")
        assert not any("compared with each other only" in remark for remark in report.remarks)
        assert (
            json.loads((tmp_path / "far" / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
        )
        assert mw.verify(tmp_path / "far", access=quick, sample=None).faults == ()

    def test_an_adapter_of_models_on_the_hub_names_its_base_as_peft_does(self, family, on_the_hub, tmp_path, quick):
        commit = on_the_hub["base"]
        mw.extract_lora(family / "e1", family / "base", tmp_path / "near", rank=2)
        mw.extract_lora("org/e1", f"org/base@{commit}", tmp_path / "far", rank=2, access=quick)
        assert weights(tmp_path / "far") == weights(tmp_path / "near")
        config = json.loads((tmp_path / "far" / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", commit)


class TestTokenizers:
    def test_a_union_of_models_on_the_web_is_that_of_local_ones(self, tmp_path, file_server, monkeypatch, quick):
        monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
        words = {"A": ["a", "b", "c"], "B": ["b", "a", "x"]}
        for number, (name, known) in enumerate(words.items(), 1):
            folders.save(tmp_path / name, number, known)
            shutil.copytree(tmp_path / name, file_server.folder / name)
        for root, out in ((tmp_path, "near"), (file_server.url, "far")):
            models = [{"model": f"{root}/{name}", "parameters": {"weight": 1}} for name in words]
            asked = {"merge_method": "linear", "models": models, "tokenizer_source": "union", "chat_template": "auto"}
            mw.merge(parse_recipe(asked), tmp_path / out, access=quick)
        assert weights(tmp_path / "far") == weights(tmp_path / "near")
        assert files(tmp_path / "far").keys() == files(tmp_path / "near").keys()
        assert folders.ids(tmp_path / "far") == {"a": 0, "b": 1, "c": 2, "x": 3}


class TestStages:
    TWO = """
name: half
merge_method: linear
models: [{{model: {root}/base}}, {{model: {root}/e1}}]
---
merge_method: task_arithmetic
base_model: {root}/base
models: [{{model: half, parameters: {{weight: 0.5}}}}]
"""

    def written(self, folder, root):
        (folder / "recipe.yaml").write_text(self.TWO.format(root=root))
        return folder / "recipe.yaml"

    def test_models_may_be_elsewhere_and_a_stage_is_taken_over(self, family, on_the_web, tmp_path, quick):
        mw.merge(self.written(family, family), tmp_path / "near")
        far = self.written(family, on_the_web)
        mw.merge(far, tmp_path / "far", access=quick)
        assert weights(tmp_path / "far") == weights(tmp_path / "near")
        again = mw.merge(far, tmp_path / "again", stages=tmp_path / "far.stages", access=quick)
        assert any("was taken over" in remark for remark in again.remarks)
        assert mw.explain(far, "lm_head.weight", access=quick).inputs[0].file == f"{on_the_web}/base/model.safetensors"

    def test_a_name_on_the_hub_is_one_commit_in_all_stages(self, family, hub, on_the_hub, tmp_path, quick):
        mw.merge(self.written(family, family), tmp_path / "near")
        other = support.save_model(tmp_path / "other", support.model_arrays(9, width=40, exact=True))

        def go_on(done, total):
            hub.add("org/base", files(other))

        mw.merge(self.written(family, "org"), tmp_path / "far", access=quick, progress=go_on)
        assert weights(tmp_path / "far") == weights(tmp_path / "near")

    def test_the_result_may_be_sent_elsewhere(self, family, object_store, tmp_path, quick):
        mw.merge(self.written(family, family), tmp_path / "near")
        mw.merge(self.written(family, family), "s3://bucket/out", access=quick)
        sent = {name.removeprefix("bucket/out/"): content for name, content in object_store.objects.items()}
        assert {n: c for n, c in sent.items() if n.endswith(".safetensors")} == weights(tmp_path / "near")
        assert not list(tmp_path.glob("*bucket*"))


class TestReadingAhead:
    def test_all_models_are_asked_at_once_for_tensors_of_any_size(self, tmp_path, file_server, monkeypatch, quick):
        monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
        rng = np.random.default_rng(0)
        for name in ("m1", "m2"):
            arrays = {f"w{i}": rng.standard_normal(64).astype(np.float32) for i in range(12)}
            support.save_model(file_server.folder / name, arrays)
        planned = mw.plan(mw.Recipe(method="linear", experts=[f"{file_server.url}/{n}" for n in ("m1", "m2")]), quick)
        from mergewise.engine.layout import lay_out
        from mergewise.engine.local import run_local

        read = {}

        class Kept:
            def write(self, name, offset, data):
                read[name] = bytes(data)

            def finish(self, name):
                pass

        file_server.pause, file_server.most_at_once = 0.05, 0
        run_local(planned, lay_out(planned, 1, "1GiB"), Kept(), lambda _: None)
        assert len(read) == 12
        assert file_server.most_at_once > 2
