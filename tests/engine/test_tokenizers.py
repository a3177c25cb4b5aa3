"""Models of different tokenizers: which tokens the result has, and where the rows of its embeddings come from."""

import json

import numpy as np
import pytest

import mergewise as mw
import support
from adapters import factors, save_adapter
from mergewise.recipe import parse_recipe
from tokenizer.folders import ids, rows, save, tokenizer

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A knows a b c; B knows b a x and <|s|>; C knows c y x, and has rows to spare."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    save(tmp_path / "A", 1, ["a", "b", "c"])
    save(tmp_path / "B", 2, ["b", "a", "x"], ["<|s|>"])
    save(tmp_path / "C", 3, ["c", "y", "x"], count=8)
    return tmp_path


def merge(out="out", method="linear", models="ABC", **more):
    entries = [{"model": name, "parameters": {"weight": 1}} for name in models]
    recipe = {"merge_method": method, "models": entries, "parameters": {}, "tokenizer_source": "union", **more}
    if "tokenizer" in more:
        del recipe["tokenizer_source"]
    return mw.merge(parse_recipe(recipe), out)


def by_token(folder, name=EMBEDDING):
    """The value of every token's row."""
    array = support.load_model(folder)[name]
    assert (array == array[:, :1]).all()
    return {token: float(array[number, 0]) for token, number in ids(folder).items()}


def own(model, token):
    """The value of a token's row in a model."""
    place = {"A": ["a", "b", "c"], "B": ["b", "a", "x", "<|s|>"], "C": ["c", "y", "x"]}[model].index(token)
    return 100.0 * ("ABC".index(model) + 1) + place


def mean(*values):
    return float(np.float32(sum(values) / len(values)))


class TestNone:
    def plan(self, *models):
        entries = [{"model": str(name), "parameters": {"weight": 0.5}} for name in models]
        return [r for r in mw.plan(parse_recipe({"merge_method": "linear", "models": entries})).remarks if "token" in r]

    def test_other_tokens_in_the_same_rows_are_remarked_on(self, tmp_path):
        save(tmp_path / "A", 1, ["a", "b"], ["<tool>"])
        save(tmp_path / "B", 2, ["a", "b"], ["<think>"])
        (remark,) = self.plan(tmp_path / "A", tmp_path / "B")
        assert remark.startswith(f"1 tokens of {tmp_path / 'B'}, such as '<think>', are not tokens of {tmp_path / 'A'}")

    def test_the_same_tokens_are_not(self, tmp_path):
        for number, name in enumerate("AB"):
            save(tmp_path / name, number, ["a", "b"], ["<tool>"])
        path = tmp_path / "B" / "tokenizer.json"
        path.write_text(path.read_text() + "\n")
        assert not self.plan(tmp_path / "A", tmp_path / "B")

    def test_nor_is_a_file_that_is_none(self, tmp_path):
        save(tmp_path / "A", 1, ["a", "b"])
        save(tmp_path / "B", 2, ["a", "c"])
        (tmp_path / "B" / "tokenizer.json").write_text("{")
        assert not self.plan(tmp_path / "A", tmp_path / "B")


class TestUnion:
    def test_the_first_keeps_its_numbers_and_others_follow_words_before_added_tokens(self, models):
        merge()
        assert ids(models / "out") == {"a": 0, "b": 1, "c": 2, "x": 3, "y": 4, "<|s|>": 5}
        content = json.loads((models / "out" / "tokenizer.json").read_text())
        assert {e["content"]: e["special"] for e in content["added_tokens"]} == {"x": False, "y": False, "<|s|>": True}
        assert json.loads((models / "out" / "config.json").read_text())["vocab_size"] == 6

    def test_a_model_without_a_token_gets_the_mean_of_those_that_have_it(self, models):
        merge()
        x = (own("B", "x") + own("C", "x")) / 2
        expected = {
            "a": mean(own("A", "a"), own("B", "a"), (own("A", "a") + own("B", "a")) / 2),
            "b": mean(own("A", "b"), own("B", "b"), (own("A", "b") + own("B", "b")) / 2),
            "c": mean(own("A", "c"), own("C", "c"), (own("A", "c") + own("C", "c")) / 2),
            "x": mean(x, own("B", "x"), own("C", "x")),
            "y": own("C", "y"),
            "<|s|>": own("B", "<|s|>"),
        }
        assert by_token(models / "out") == expected
        assert by_token(models / "out", HEAD) == {token: -value for token, value in expected.items()}

    def test_a_model_without_a_token_of_the_base_gets_the_bases_row(self, models):
        merge(method="task_arithmetic", models="BC", base_model="A")
        found = by_token(models / "out")
        assert found["a"] == own("A", "a") + (own("B", "a") - own("A", "a"))
        assert found["c"] == own("A", "c") + (own("C", "c") - own("A", "c"))
        x = (own("B", "x") + own("C", "x")) / 2
        assert found["x"] == x + (own("B", "x") - x) + (own("C", "x") - x)
        assert found["y"] == own("C", "y")

    def test_tensors_without_a_row_per_token_are_merged_as_ever(self, models):
        merge()
        assert support.load_model(models / "out")["model.layers.0.up.weight"][2, 0] == mean(102, 202, 302)

    def test_a_tied_model_has_its_head_from_its_embedding(self, models):
        save(models / "B", 2, ["b", "a", "x"], ["<|s|>"], head=False)
        merge(models="AB")
        expected = mean(-own("A", "a"), own("B", "a"))
        assert by_token(models / "out", HEAD)["a"] == expected

    def test_a_tied_model_has_its_head_from_its_embedding_also_if_it_comes_first(self, models):
        save(models / "A", 1, ["a", "b", "c"], head=False)
        merge(models="AB")
        assert by_token(models / "out", HEAD)["a"] == mean(own("A", "a"), -own("B", "a"))
        assert json.loads((models / "out" / "config.json").read_text())["tie_word_embeddings"] is False

    def test_slices_have_one_vocabulary_too(self, models):
        slices = [
            {"sources": [{"model": "C", "layer_range": [0, 1]}]},
            {"sources": [{"model": "A", "layer_range": [0, 1]}]},
        ]
        recipe = {"merge_method": "linear", "slices": slices, "tokenizer_source": "union"}
        mw.merge(parse_recipe(recipe), "out")
        assert list(ids(models / "out")) == ["c", "y", "x", "a", "b"]
        assert by_token(models / "out") == {
            "c": own("C", "c"), "y": own("C", "y"), "x": own("C", "x"), "a": own("A", "a"), "b": own("A", "b")
        }  # fmt: skip
        assert by_token(models / "out", HEAD)["a"] == -own("A", "a")
        assert by_token(models / "out", HEAD)["y"] == -own("C", "y")
        config = json.loads((models / "out" / "config.json").read_text())
        assert (config["num_hidden_layers"], config["vocab_size"]) == (2, 5)

    def test_a_unigram_vocabulary_is_read_from_its_list(self, models):
        save(models / "B", 2, ["b", "a", "x"], ["<|s|>"], kind="Unigram")
        merge(models="AB")
        assert by_token(models / "out")["x"] == own("B", "x")


class TestEncoderAndDecoder:
    """Models that store what encoder and decoder share several times, or once."""

    COPIES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")

    def save(self, folder, number, words, copies=COPIES, **more):
        table = rows(number, len(words))
        arrays = dict.fromkeys(copies, table) | {"encoder.block.0.layer.0.q.weight": rows(number, 4)} | more
        support.save_model(folder, arrays, config={"vocab_size": len(words), "num_layers": 1})
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer(words)))
        (folder / "tokenizer_config.json").write_text("{}")

    def test_every_copy_of_the_embedding_follows_the_tokens(self, models):
        self.save(models / "A", 1, "abc", **{"encoder.embed_positions.weight": rows(1, 3)})
        self.save(models / "B", 2, "acd", **{"encoder.embed_positions.weight": rows(2, 3)})
        merge(models="AB")
        b = mean(101, 101)  # only A has it
        expected = {"a": mean(100, 200), "b": b, "c": mean(102, 201), "d": 202.0}
        assert {name: by_token(models / "out", name) for name in self.COPIES} == dict.fromkeys(self.COPIES, expected)
        positions = support.load_model(models / "out")["encoder.embed_positions.weight"]
        assert positions[:, 0].tolist() == [150, 151, 152]

    def test_a_copy_that_another_model_does_not_store_is_what_it_shares(self, models):
        self.save(models / "A", 1, "abc", self.COPIES[1:])
        self.save(models / "B", 2, "cd", self.COPIES[:1])
        tokenizer = {"source": "base", "tokens": {"c": {"source": "B", "force": True}}}
        recipe = {"merge_method": "passthrough", "models": [{"model": "A"}], "tokenizer": tokenizer}
        mw.merge(parse_recipe(recipe), "out")
        for name in self.COPIES[1:]:
            assert by_token(models / "out", name) == {"a": 100, "b": 101, "c": 200}

    @pytest.mark.parametrize("name", ["vocab_projector.bias", "lm_head.bias", "cls.predictions.bias", "of.words.bias"])
    def test_a_bias_with_a_number_per_token_follows_the_tokens(self, models, name):
        self.save(models / "A", 1, "abc", **{name: rows(1, 3)[:, 0], "norm.bias": rows(1, 4)[0]})
        self.save(models / "B", 2, "cdb", **{name: rows(2, 3)[:, 0], "norm.bias": rows(2, 4)[0]})
        merge(models="AB", tokenizer={"source": "union", "pad_to_multiple_of": 6})
        found = support.load_model(models / "out")
        assert list(ids(models / "out")) == ["a", "b", "c", "d"]
        padding = mean(mean(100, 101, 102, 201), mean(100, 202, 200, 201))
        assert found[name].tolist() == [100, mean(101, 202), mean(102, 200), 201, padding, padding]
        assert found["norm.bias"].tolist() == [150] * 4

    def test_a_bias_as_long_as_the_layers_are_wide_is_none_of_tokens(self, models):
        for number, words in enumerate(("abcd", "dcba"), 1):
            self.save(models / "AB"[number - 1], number, words, **{"norm.bias": rows(number, 4)[:, 0]})
        merge(models="AB")
        assert support.load_model(models / "out")["norm.bias"].tolist() == [150, 151, 152, 153]

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("lm_head.weight", (4, 4)),
            ("vocab_projector.weight", (4, 4)),
            ("decoder.embed_tokens.weight", (2, 4)),
            ("final_logits_bias", (1, 3)),
        ],
    )
    def test_a_tensor_that_would_keep_to_the_old_tokens_is_refused(self, models, name, shape):
        odd = {name: np.zeros(shape, np.float32)}
        self.save(models / "A", 1, "abc", **odd)
        self.save(models / "B", 2, "acd", **odd)
        with pytest.raises(mw.CheckpointError, match=rf"A: expected 3 rows in '{name}', one per token as in 'shared"):
            merge(models="AB")
        self.save(models / "B", 2, "abc", **odd)
        merge(models="AB")
        assert support.load_model(models / "out")[name].shape == shape


class TestTokensWithoutARow:
    """Tokens that a tokenizer was given, but not the embedding of its model."""

    REMARK = "1 tokens of B have no row in its embedding of 3 rows, and are left out."

    @pytest.fixture(autouse=True)
    def _short(self, models):
        stated = {"3": {"content": "<|s|>", "special": True}}
        save(models / "B", 2, ["b", "a", "x"], ["<|s|>"], count=3, added_tokens_decoder=stated)

    @pytest.mark.parametrize(("order", "source"), [("AB", "union"), ("BA", "union"), ("BA", "base")])
    def test_they_are_left_out_as_in_mergekit(self, models, order, source):
        report = merge(models=order, tokenizer_source=source)
        tokens = {"AB": ["a", "b", "c", "x"], "BA": ["b", "a", "x", "c"][: 4 if source == "union" else 3]}[order]
        assert list(ids(models / "out")) == tokens
        assert len(support.load_model(models / "out")[EMBEDDING]) == len(tokens)
        assert self.REMARK in report.remarks
        settings = json.loads((models / "out" / "tokenizer_config.json").read_text())
        assert settings.get("added_tokens_decoder", {}) == {}
        assert mw.verify("out", sample=None).faults == ()

    def test_the_files_beside_the_tokenizer_name_them_no_more(self, models):
        named = {"pad_token": {"content": "<|s|>"}, "eos_token": "b", "additional_special_tokens": ["<|s|>", "a"]}
        save(models / "B", 2, ["b", "a", "x"], ["<|s|>"], count=3, **named)
        (models / "B" / "special_tokens_map.json").write_text(json.dumps(named))
        merge(models="BA", chat_template="{{ x }}")
        for name, more in (
            ("tokenizer_config.json", {"tokenizer_class": "X", "chat_template": "{{ x }}"}),
            ("special_tokens_map.json", {}),
        ):
            found = json.loads((models / "out" / name).read_text())
            assert found == {"eos_token": "b", "additional_special_tokens": ["a"]} | more

    def test_one_of_them_that_another_model_has_a_row_for_comes_with_that(self, models):
        (models / "B" / "special_tokens_map.json").write_text('{"pad_token": "<|s|>"}')
        save(models / "A", 1, ["a", "b", "c"], ["<|s|>"])
        report = merge(models="BA")
        assert json.loads((models / "out" / "special_tokens_map.json").read_text()) == {"pad_token": "<|s|>"}
        assert by_token(models / "out")["<|s|>"] == 103
        assert "1 tokens of B have no row in its embedding of 3 rows." in report.remarks

    def test_a_tokenizer_that_is_chosen_keeps_them_with_rows_of_zeros(self, models):
        report = merge(models="AB", tokenizer_source="B")
        assert (models / "out" / "tokenizer.json").read_bytes() == (models / "B" / "tokenizer.json").read_bytes()
        assert by_token(models / "out")["<|s|>"] == 0
        assert "1 tokens are in no model that is merged, such as '<|s|>'; their rows are 0." in report.remarks

    @pytest.mark.parametrize("kind", ["BPE", "Unigram"])
    def test_words_of_the_vocabulary_go_with_what_would_merge_into_them(self, models, kind):
        save(models / "B", 2, ["b", "a", "ab", "x", "aba"], count=4, kind=kind)
        content = json.loads((models / "B" / "tokenizer.json").read_text())
        content["model"] |= {"merges": [["a", "b"], ["ab", "a"]]} if kind == "BPE" else {}
        (models / "B" / "tokenizer.json").write_text(json.dumps(content))
        merge(models="BA", tokenizer_source="base")
        model = json.loads((models / "out" / "tokenizer.json").read_text())["model"]
        assert list(dict(model["vocab"])) == ["b", "a", "ab", "x"]
        assert model.get("merges", [["a", "b"]]) == [["a", "b"]]


class TestTokensBesideTheTokenizer:
    """Tokens that only tokenizer_config.json or added_tokens.json has, which loaders add after all others."""

    @pytest.fixture(params=["tokenizer_config.json", "added_tokens.json"])
    def file(self, models, request):
        decoder = {"5": {"content": "<|t|>", "special": True}, "4": {"content": "[u]"}, "3": {"content": "<|s|>"}}
        save(models / "B", 2, ["b", "a", "x"], ["<|s|>"], count=6)
        if request.param == "tokenizer_config.json":
            (models / "B" / request.param).write_text(json.dumps({"added_tokens_decoder": decoder}))
        else:
            (models / "B" / request.param).write_text(json.dumps({"[u]": 4, "<|t|>": 5}))
        return models / "B" / request.param

    @pytest.mark.parametrize("order", ["AB", "BA"])
    def test_they_have_rows_and_numbers_in_a_union(self, models, file, order):
        report = merge(models=order)
        found = by_token(models / "out")
        assert (found["[u]"], found["<|t|>"]) == (204, 205)
        content = json.loads((models / "out" / "tokenizer.json").read_text())
        special = {entry["content"]: entry["special"] for entry in content["added_tokens"]}
        assert special["[u]"] is False
        assert special["<|t|>"] is (file.name == "tokenizer_config.json")
        assert any(path.endswith(f"B/{file.name}") for path in report.inputs)

    def test_they_have_rows_where_their_tokenizer_is_taken_as_it_is(self, models, file):
        merge(models="AB", tokenizer_source="B")
        assert support.load_model(models / "out")[EMBEDDING][4:, 0].tolist() == [204, 205]
        assert (models / "out" / file.name).read_bytes() == file.read_bytes()

    def test_numbers_that_loaders_would_not_give_them_are_refused(self, models, file):
        file.write_text(file.read_text().replace("4", "7"))
        with pytest.raises(mw.CheckpointError, match=rf"{file.name}: expected number 4 for the token '<\|t\|>'"):
            merge(models="AB")

    @pytest.mark.parametrize("text", ['{"added_tokens_decoder": {"4": {}}}', '{"added_tokens_decoder": {"x": 1}}'])
    def test_damaged_ones_are_refused(self, models, text):
        (models / "B" / "tokenizer_config.json").write_text(text)
        with pytest.raises(mw.CheckpointError, match=r"tokenizer_config\.json: expected added tokens with numbers"):
            merge(models="AB")


class TestAdaptersWithTokens:
    """Adapters that bring an embedding and a head of their own, and a tokenizer to go with them."""

    WORDS = ("a", "b", "c", "<|s|>")

    @pytest.fixture
    def adapter(self, models):
        saved = {EMBEDDING: rows(4, 4), HEAD: -rows(4, 4)}
        save_adapter(models / "L", saved | factors(1, "model.layers.0.up", 3, 4), modules_to_save=["embed_tokens"])
        (models / "L" / "tokenizer.json").write_text(json.dumps(tokenizer(self.WORDS[:3], self.WORDS[3:])))
        (models / "L" / "tokenizer_config.json").write_text('{"chat_template": "of the adapter"}')
        (models / "A" / "vocab.json").write_text("{}")
        (models / "A" / "generation_config.json").write_text("{}")
        return models / "L"

    @pytest.mark.parametrize("source", ["union", "L"])
    def test_the_tokens_of_the_adapter_are_taken(self, models, adapter, source):
        merge(method="task_arithmetic", models="L", base_model="A", tokenizer_source=source)
        assert by_token(models / "out") == dict(zip(self.WORDS, (400, 401, 402, 403), strict=True))
        assert json.loads((models / "out" / "config.json").read_text())["vocab_size"] == 4

    def test_without_a_tokenizer_in_the_recipe_the_adapters_goes_with_its_embedding(self, models, adapter):
        mw.merge(parse_recipe({"merge_method": "passthrough", "models": [{"model": "A+L"}]}), "out")
        assert support.load_model(models / "out")[EMBEDDING].shape == (4, 4)
        assert json.loads((models / "out" / "config.json").read_text())["vocab_size"] == 4
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert (models / "out" / name).read_bytes() == (adapter / name).read_bytes()
        names = {path.name for path in (models / "out").iterdir()}
        assert "generation_config.json" in names
        assert "vocab.json" not in names

    def test_an_adapter_without_a_tokenizer_goes_with_that_of_its_base(self, models, adapter):
        (adapter / "tokenizer.json").unlink()
        save_adapter(adapter, factors(1, "model.layers.0.up", 3, 4))
        mw.merge(parse_recipe({"merge_method": "passthrough", "models": [{"model": "A+L"}]}), "out")
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json"):
            assert (models / "out" / name).read_bytes() == (models / "A" / name).read_bytes()

    def test_a_head_that_the_adapter_brings_is_no_copy_of_a_tied_embedding(self, models, adapter):
        save(models / "A", 1, self.WORDS[:3], self.WORDS[3:], head=False)
        mw.merge(parse_recipe({"merge_method": "passthrough", "models": [{"model": "A+L"}]}), "out")
        assert by_token(models / "out", HEAD)["a"] == -400
        assert json.loads((models / "out" / "config.json").read_text())["tie_word_embeddings"] is False
        merge("changed", method="task_arithmetic", models="L", base_model="A", tokenizer_source=None)
        assert by_token(models / "changed", HEAD)["a"] == -400
        assert json.loads((models / "changed" / "config.json").read_text())["tie_word_embeddings"] is False


class TestOtherSources:
    def test_the_tokenizer_of_the_base_gives_the_tokens(self, models):
        merge(method="task_arithmetic", models="BC", base_model="A", tokenizer_source="base")
        assert list(ids(models / "out")) == ["a", "b", "c"]
        assert by_token(models / "out")["b"] == own("B", "b")

    def test_the_tokenizer_of_a_model_gives_the_tokens(self, models):
        (models / "C" / "special_tokens_map.json").write_text("{}")
        merge(models="AB", tokenizer_source="C")
        assert (models / "out" / "tokenizer.json").read_bytes() == (models / "C" / "tokenizer.json").read_bytes()
        assert (models / "out" / "special_tokens_map.json").read_text() == "{}"
        found = by_token(models / "out")
        assert found == {"c": own("A", "c"), "y": 0.0, "x": own("B", "x")}
        assert len(support.load_model(models / "out")[EMBEDDING]) == 3

    def test_tokens_that_no_merged_model_has_are_reported(self, models):
        report = merge(models="AB", tokenizer_source="C")
        assert "1 tokens are in no model that is merged, such as 'y'; their rows are 0." in report.remarks

    def test_files_of_the_templates_tokenizer_do_not_stay_beside_another(self, models):
        (models / "A" / "vocab.json").write_text("{}")
        (models / "A" / "generation_config.json").write_text("{}")
        merge()
        names = {path.name for path in (models / "out").iterdir()}
        assert "vocab.json" not in names
        assert "generation_config.json" in names


class TestTokensThatConfigurationsName:
    """Tokens that config.json and generation_config.json name by number."""

    def set(self, model, name="config.json", **entries):
        path = self.folder / model / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | entries))

    def get(self, name="config.json"):
        return json.loads((self.folder / "out" / name).read_text())

    @pytest.fixture(autouse=True)
    def _folder(self, models):
        self.folder = models

    def test_they_follow_their_texts_to_the_numbers_of_another_tokenizer(self, models):
        named = {"eos_token_id": 2, "suppress_tokens": [0, 2], "text_config": {"pad_token_id": 2, "vocab_size": 3}}
        self.set("A", **named)
        self.set("A", "generation_config.json", eos_token_id=[2], temperature=0.5, pad_token_id=None)
        report = merge(models="AB", tokenizer_source="C")
        config = self.get()
        assert config["eos_token_id"] == 0
        assert config["suppress_tokens"] == [0]
        assert config["text_config"] == {"pad_token_id": 0, "vocab_size": 3}
        expected = {"eos_token_id": [0], "temperature": 0.5, "pad_token_id": None}
        assert self.get("generation_config.json") == expected
        assert "'eos_token_id' in config.json was 2 and is 0, as in the tokenizer of the result." in report.remarks
        assert any("'pad_token_id' in config.json (text_config) was 2 and is 0" in remark for remark in report.remarks)
        assert mw.verify("out", sample=None).faults == ()

    def test_a_token_that_the_result_lacks_is_named_no_more(self, models):
        self.set("A", eos_token_id=1, bad_token_ids=[0, 1])
        report = merge(models="AB", tokenizer_source="C")
        assert (self.get()["eos_token_id"], self.get()["bad_token_ids"]) == (None, None)
        assert (
            "'eos_token_id' in config.json was 1, which is no token of the result, and is left empty." in report.remarks
        )

    @pytest.mark.parametrize("source", ["base", "union"])
    def test_a_row_beyond_the_tokens_is_named_no_more_once_it_is_gone_or_taken(self, models, source):
        self.set("C", pad_token_id=5 if source == "base" else 3)
        self.set("C", "generation_config.json", pad_token_id=5 if source == "base" else 3)
        merge(models="CA", tokenizer_source=source)
        assert self.get()["pad_token_id"] is None
        assert self.get("generation_config.json")["pad_token_id"] is None

    def test_a_row_beyond_the_tokens_stays_if_it_still_is_one(self, models):
        self.set("C", pad_token_id=5, eos_token_id=-1)
        merge(models="CA", tokenizer={"source": "base", "pad_to_multiple_of": 8})
        assert (self.get()["pad_token_id"], self.get()["eos_token_id"]) == (5, -1)

    def test_the_ones_that_a_chosen_tokenizer_has_a_use_for_take_their_place(self, models):
        save(models / "C", 3, ["c", "y", "x"], eos_token="y", pad_token={"content": "x"}, bos_token=None)
        self.set("A", bos_token_id=2, eos_token_id=2, pad_token_id=None)
        self.set("A", "generation_config.json", eos_token_id=[2, 1])
        merge(models="AB", tokenizer_source="C")
        config = self.get()
        assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (0, 1, None)
        assert self.get("generation_config.json")["eos_token_id"] == [0, 1]

    @pytest.mark.parametrize("source", ["union", "base", None])
    def test_files_stay_as_they_are_where_the_tokens_keep_their_numbers(self, models, source):
        save(models / "A", 1, ["a", "b", "c"], eos_token="a")
        save(models / "B", 2, ["a", "b", "c"], eos_token="b")
        self.set("A", eos_token_id=2)
        (models / "A" / "generation_config.json").write_text('{ "eos_token_id":[2, 1] }')
        report = merge(models="AB", tokenizer_source=source)
        assert self.get()["eos_token_id"] == 2
        assert (models / "out" / "generation_config.json").read_text() == '{ "eos_token_id":[2, 1] }'
        assert not any("token_id" in remark for remark in report.remarks)


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "value"),
        [
            ({"source": "C"}, mean(302, 202)),
            ({"source": "C", "force": True}, 302),
            ({"source": {"kind": "zero"}}, mean(0, 202)),
            ({"source": {"kind": "zero"}, "force": True}, 0),
            ({"source": {"kind": "model_token", "model": "B", "token": "a"}}, mean(201, 202)),
            ({"source": {"kind": "model_token", "model": "C", "token_id": 1}, "force": True}, 301),
            ({"source": {"path": "C"}, "force": True}, 302),
        ],
        ids=str,
    )
    def test_a_token_has_the_row_that_its_rule_names(self, models, rule, value):
        merge(models="AB", tokenizer={"tokens": {"x": rule}})
        assert by_token(models / "out")["x"] == value

    def test_a_rule_makes_a_token_that_no_tokenizer_has(self, models):
        rule = {"source": {"kind": "model_token", "model": "B", "token": "b"}}
        merge(models="AB", tokenizer={"source": "base", "tokens": {"new": rule}})
        assert ids(models / "out") == {"a": 0, "b": 1, "c": 2, "new": 3}
        assert by_token(models / "out")["new"] == own("B", "b")

    def test_rows_beyond_the_tokens_are_the_mean_of_the_others(self, models):
        merge(models="AB", tokenizer={"source": "base", "pad_to_multiple_of": 8})
        array = support.load_model(models / "out")[EMBEDDING]
        assert array.shape == (8, 4)
        np.testing.assert_allclose(array[3:], np.broadcast_to(array[:3].mean(axis=0), (5, 4)), rtol=1e-6)
        assert json.loads((models / "out" / "config.json").read_text())["vocab_size"] == 8

    @pytest.mark.parametrize(
        ("rule", "words"),
        [
            ({"source": "A"}, "'A' has no token 'x', found at tokenizer.tokens.x"),
            ({"source": {"kind": "model_token", "model": "A", "token": "zz"}}, "no token 'zz'"),
            ({"source": {"kind": "model_token", "model": "C", "token_id": 7}}, "no token of number 7"),
        ],
        ids=str,
    )
    def test_a_rule_about_what_is_not_there_is_refused(self, models, rule, words):
        with pytest.raises(mw.RecipeError, match=words):
            merge(models="AB", tokenizer={"tokens": {"x": rule}})


class TestPrecision:
    def test_half_precision_embeddings_are_rounded_once_and_stay_in_their_dtype(self, models):
        for number, (name, words) in enumerate({"A": "ab", "B": "bc", "C": "cd"}.items(), 1):
            save(models / name, number, list(words), dtype="bfloat16")
        merge()
        found = support.load_model(models / "out")
        assert found[EMBEDDING].dtype.name == "bfloat16"
        # b is in A and B, so C has the mean of both: 1 · 100 + 1 and 2 · 100 + 0, stored as bfloat16
        a, b = (np.float64(rows(n, 2)[r, 0].astype(found[EMBEDDING].dtype)) for n, r in ((1, 1), (2, 0)))
        exact = np.asarray((a + b + (a + b) / 2) / 3).astype(found[EMBEDDING].dtype)
        assert found[EMBEDDING][1, 0] == exact

    def test_the_bytes_do_not_depend_on_threads_and_memory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        random = np.random.default_rng(0)
        words = [f"w{i}" for i in range(40_000)]
        for number, name in enumerate("AB"):
            mine = [words[i] for i in random.permutation(len(words))[:30_000]]
            save(tmp_path / name, number, mine)
            noise = {EMBEDDING: random.normal(size=(30_000, 4)).astype(np.float32)}
            support.save_model(tmp_path / name, noise, config={"vocab_size": 30_000, "hidden_size": 4})
            (tmp_path / name / "tokenizer.json").write_text(
                json.dumps({"added_tokens": [], "model": {"vocab": {w: i for i, w in enumerate(mine)}}})
            )
        entries = [{"model": name} for name in "AB"]
        tokenizer = {"source": "union", "pad_to_multiple_of": 64}
        recipe = parse_recipe({"merge_method": "linear", "models": entries, "tokenizer": tokenizer})
        one = mw.merge_to_arrays(recipe, threads=1, memory="2GiB")
        other = mw.merge_to_arrays(recipe, threads=3, memory="205MiB")
        assert one[EMBEDDING].tobytes() == other[EMBEDDING].tobytes()


class TestRefused:
    def test_different_vocabularies_without_a_tokenizer_in_the_recipe(self, models):
        with pytest.raises(mw.CheckpointError, match=r"shape \[4, 4\] in B, expected \[3, 4\]"):
            merge(models="AB", tokenizer_source=None)

    def test_a_model_without_a_fast_tokenizer(self, models):
        (models / "B" / "tokenizer.json").unlink()
        with pytest.raises(mw.CheckpointError, match=r"B: expected tokenizer\.json, found none; save the tokenizer"):
            merge()

    @pytest.mark.parametrize(
        "text", ["{", "[]", "{}", '{"model": {"vocab": {"a": "b"}}}', '{"model": {"vocab": {"a": -1}}}',
                 '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}', '{"model": {"vocab": [1]}}']
    )  # fmt: skip
    def test_a_damaged_tokenizer(self, models, text):
        (models / "B" / "tokenizer.json").write_text(text)
        with pytest.raises(mw.CheckpointError, match=r"B/tokenizer\.json: expected"):
            merge()

    def test_a_model_whose_embedding_has_no_known_name(self, models):
        support.save_model(models / "B", {"strange": rows(2, 4)})
        (models / "B" / "tokenizer.json").write_text((models / "A" / "tokenizer.json").read_text())
        with pytest.raises(mw.CheckpointError, match="expected an embedding of tokens by a known name"):
            merge(models="AB")


def test_a_changed_tokenizer_is_a_changed_input(models):
    report = merge()
    assert any(path.endswith("B/tokenizer.json") for path in report.inputs)
    assert mw.verify("out", sample=None).faults == ()
    content = json.loads((models / "B" / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {"b": 1, "a": 0}
    (models / "B" / "tokenizer.json").write_text(json.dumps(content))
    faults = mw.verify("out", sample=None).faults
    assert any("B/tokenizer.json: expected SHA-256" in fault for fault in faults)
    assert f"Tensor '{EMBEDDING}' is not what the recipe gives." in faults


class TestChatTemplates:
    @pytest.mark.parametrize("source", [None, "union"])
    def test_auto_takes_what_most_models_have(self, models, source):
        save(models / "A", 1, ["a", "b"], chat_template="one {{ x }}")
        save(models / "B", 2, ["a", "b"])
        (models / "B" / "chat_template.jinja").write_text("two {{ x }}")
        save(models / "C", 3, ["a", "b"], chat_template=[{"name": "default", "template": "two {{ x }}"}])
        merge(tokenizer_source=source, chat_template="auto")
        settings = json.loads((models / "out" / "tokenizer_config.json").read_text())
        assert settings == {"tokenizer_class": "X", "chat_template": "two {{ x }}"}

    def test_jinja_text_is_taken_as_it_is(self, models):
        merge(chat_template="{{ messages[0]['content'] }}")
        settings = json.loads((models / "out" / "tokenizer_config.json").read_text())
        assert settings["chat_template"] == "{{ messages[0]['content'] }}"

    def test_a_word_that_names_no_format_is_refused(self, models):
        with pytest.raises(mw.RecipeError, match=r"one of alpaca, chatml, .* or Jinja text, found 'chatm'"):
            merge(chat_template="chatm")

    def test_a_template_without_settings_to_put_it_in_is_refused(self, models):
        (models / "A" / "tokenizer_config.json").unlink()
        with pytest.raises(mw.CheckpointError, match=r"expected tokenizer_config\.json"):
            merge(chat_template="chatml")
