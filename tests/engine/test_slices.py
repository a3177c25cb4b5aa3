"""Slices: runs of layers of several models, one upon the other."""

import itertools
import json

import numpy as np
import pytest

import mergewise as mw
import support
from engine.slices import arrays, config, save, source, value
from mergewise.recipe import parse_recipe

UP = "model.layers.{}.mlp.up_proj.weight"
Q = "model.layers.{}.self_attn.q_proj.weight"
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    return save(tmp_path)


def merged(method, slices, **more):
    recipe = parse_recipe({"merge_method": method, "slices": [{"sources": s} for s in slices], **more})
    return mw.merge_to_arrays(recipe)


def constant(array):
    assert (array == array.flat[0]).all()
    return float(array.flat[0])


def refusal(content):
    with pytest.raises(mw.MergewiseError) as fault:
        mw.plan(parse_recipe(content))
    return str(fault.value)


class TestFrankenmerges:
    def test_layers_stand_upon_each_other_in_the_order_of_the_slices(self, models):
        found = merged("linear", [[source("A", 0, 3)], [source("B", 2, 6)], [source("A", 3, 4)]])
        layers = [("A", 0), ("A", 1), ("A", 2), ("B", 2), ("B", 3), ("B", 4), ("B", 5), ("A", 3)]
        assert len(found) == 3 + 2 * len(layers)
        for number, (model, layer) in enumerate(layers):
            assert constant(found[UP.format(number)]) == value(model, layer)
            assert constant(found[Q.format(number)]) == value(model, layer)

    def test_embeddings_are_of_the_first_slice_and_norm_and_head_of_the_last(self, models):
        found = merged("linear", [[source("A", 0, 2)], [source("C", 0, 1)], [source("B", 2, 6)]])
        assert constant(found[EMBEDDING]) == value("A", outside=EMBEDDING)
        assert constant(found[NORM]) == value("B", outside=NORM)
        assert constant(found[HEAD]) == value("B", outside=HEAD)

    def test_a_folder_has_the_number_of_layers_in_its_configuration(self, models):
        kinds = {"A": ["full", "full", "sliding", "full"], "B": ["a", "b", "c", "d", "e", "f"]}
        for name, types in kinds.items():
            text = json.dumps(config(len(types), layer_types=types, other_list=[1, 2, 3, 4]))
            (models / name / "config.json").write_text(text)
        slices = [{"sources": [source("A", 1, 4)]}, {"sources": [source("B", 4, 6)]}]
        report = mw.merge(parse_recipe({"merge_method": "linear", "slices": slices}), "out")
        written = json.loads((models / "out" / "config.json").read_text())
        assert written["num_hidden_layers"] == 5
        assert written["layer_types"] == ["full", "sliding", "full", "e", "f"]
        assert written["other_list"] == [1, 2, 3, 4]
        assert "The result has 5 layers where A has 4." in report.remarks
        assert mw.verify("out", sample=None).faults == ()
        assert {p.rsplit("/", 2)[-2] for p in report.inputs} == {"A", "B"}

    def test_entries_by_layer_follow_also_where_their_name_does_not_say_what_they_are(self, models):
        own = {
            "A": {"block_configs": [{"n": i} for i in range(4)], "hybrid_override_pattern": "M-M*"},
            "B": {"block_configs": [{"n": 10 + i} for i in range(6)], "hybrid_override_pattern": "abcdef"},
        }
        for name, layers in {"A": 4, "B": 6}.items():
            more = {"sliding": list(range(layers)), "kinds": "MM**", "torch_dtype": "bf16", "rope": [1, 2], **own[name]}
            (models / name / "config.json").write_text(json.dumps(config(layers, **more)))
        slices = [{"sources": [source("A", 1, 4)]}, {"sources": [source("B", 4, 6)]}]
        planned = mw.plan(parse_recipe({"merge_method": "linear", "slices": slices}))
        found = planned.template.config()
        assert [block["n"] for block in found["block_configs"]] == [1, 2, 3, 14, 15]
        assert found["hybrid_override_pattern"] == "-M*ef"
        said = [remark for remark in planned.remarks if "has 4 entries, as many as there are layers" in remark]
        assert [remark.split()[0] for remark in said] == ["'sliding'", "'kinds'"]

    def test_numbers_of_all_layers_are_numbers_not_entries_by_layer(self, models):
        (models / "A" / "config.json").write_text(json.dumps(config(4, mlp_only_layers=[0, 1, 2, 3])))
        slices = [{"sources": [source("A", 0, 3)]}, {"sources": [source("A", 1, 4)]}]
        planned = mw.plan(parse_recipe({"merge_method": "linear", "slices": slices}))
        assert planned.template.config()["mlp_only_layers"] == [0, 1, 2, 3, 4, 5]

    def test_a_number_of_layers_beyond_all_measure_is_a_number(self, models):
        (models / "A" / "config.json").write_text(json.dumps(config(10**30)))
        planned = mw.plan(parse_recipe({"merge_method": "linear", "slices": [{"sources": [source("A", 0, 4)]}]}))
        assert planned.template.config()["num_hidden_layers"] == 4

    def test_numbers_of_layers_in_the_configuration_follow_the_layers(self, models):
        numbers = {"A": {"mlp_only_layers": [0, 3], "first_k_dense_replace": 1}, "B": {"mlp_only_layers": [1, 4, 5]}}
        for name, layers in {"A": 4, "B": 6}.items():
            (models / name / "config.json").write_text(
                json.dumps(config(layers, decoder_sparse_step=2, moe_layer_freq=1, **numbers[name]))
            )
        slices = [{"sources": [source("A", 0, 1)]}, {"sources": [source("A", 2, 4)]}, {"sources": [source("B", 4, 6)]}]
        planned = mw.plan(parse_recipe({"merge_method": "linear", "slices": slices}))
        assert planned.template.config()["mlp_only_layers"] == [0, 2, 3, 4]
        assert planned.template.config()["first_k_dense_replace"] == 1
        assert any("'decoder_sparse_step' says by their numbers" in remark for remark in planned.remarks)
        assert not any("moe_layer_freq" in remark for remark in planned.remarks)

    def test_norm_and_head_are_of_all_models_of_the_last_slice_however_few_the_first_has(self, models):
        slices = [{"sources": [source("A", 0, 1)]}, {"sources": [source("A", 1, 2), source("B", 1, 2)]}]
        recipe = parse_recipe({"merge_method": "linear", "slices": slices})
        assert constant(mw.merge_to_arrays(recipe)[NORM]) == (value("A", outside=NORM) + value("B", outside=NORM)) / 2
        assert any("mergekit takes no more of them than the first slice has (1)" in r for r in mw.plan(recipe).remarks)

    def test_one_layer_of_a_sharded_model_is_read_from_its_shard(self, models):
        support.save_model(models / "S", arrays("C", 4), shards=3, config=config(4))
        found = merged("linear", [[source("A", 0, 1)], [source("S", 2, 3)]])
        assert constant(found[UP.format(1)]) == value("C", 2)

    def test_a_filter_that_matches_no_name_of_result_or_model_is_remarked_on(self, models):
        weight = [{"filter": ".*mlp.*", "value": 0.5}, {"filter": "layers.5", "value": 2.0}, {"value": 1.0}]
        slices = [{"sources": [source("A", 0, 2, weight=weight), source("B", 4, 6, weight=weight)]}]
        plan = mw.plan(parse_recipe({"merge_method": "linear", "slices": slices}))
        assert [remark for remark in plan.remarks if "filter" in remark] == [
            f"The filter '.*mlp.*' at slices.0.sources.{i}.parameters.weight matches no tensor; a filter is part of a "
            "tensor's name, not a pattern."
            for i in range(2)
        ]

    @pytest.mark.parametrize("threads", [1, 3])
    def test_the_bytes_do_not_depend_on_threads_and_memory(self, models, threads):
        slices = [[source("A", 0, 2, weight=0.3), source("C", 1, 3)], [source("B", 2, 6)]]
        recipe = parse_recipe({"merge_method": "linear", "slices": [{"sources": s} for s in slices]})
        one = mw.merge_to_arrays(recipe)
        other = mw.merge_to_arrays(recipe, threads=threads, memory="300MiB")
        assert one.keys() == other.keys()
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)


class TestParameters:
    def test_a_gradient_runs_inside_its_slice_and_ends_in_a_slice_of_one_layer(self, models):
        found = merged(
            "linear",
            [
                [source("A", 0, 3, weight=[0, 1]), source("C", 0, 3, weight=[1, 0])],
                [source("A", 3, 4, weight=[0.25, 0]), source("B", 1, 2, weight=[0.75, 1])],
            ],
        )
        expected = [value("C", 0), (value("A", 1) + value("C", 1)) / 2, value("A", 2), value("B", 1)]
        assert [constant(found[UP.format(i)]) for i in range(4)] == expected

    @pytest.mark.parametrize("cuts", [(0, 1, 2, 3, 4), (0, 3, 4), (0, 4)])
    def test_lines_counts_the_layers_of_the_result_however_it_is_sliced(self, models, cuts):
        slices = [{"sources": [source("C", *cut), source("A", *cut)]} for cut in itertools.pairwise(cuts)]
        lines = {"lines": {"alpha": 0.25, "beta": 0.75}}
        recipe = {"merge_method": "task_arithmetic", "base_model": "A", "slices": slices, "post": [lines]}
        planned = mw.plan(parse_recipe(recipe))
        scales = {job.name: job.program.scale for job in planned.jobs}
        assert [scales[UP.format(i)] for i in range(4)] == [0.25, 0.5, 0.75, 1]
        assert scales[HEAD] == 0.25

    def test_outside_the_layers_a_gradient_is_at_its_start(self, models):
        found = merged(
            "linear",
            [
                [source("A", 0, 2, weight=[1, 0]), source("C", 0, 2, weight=[0, 1])],
                [source("A", 2, 4, weight=[0.25, 1]), source("C", 2, 4, weight=[0.75, 0])],
            ],
        )
        assert constant(found[EMBEDDING]) == value("A", outside=EMBEDDING)
        for name in (NORM, HEAD):
            assert constant(found[name]) == 0.25 * value("A", outside=name) + 0.75 * value("C", outside=name)

    def test_the_nearest_place_wins_source_then_slice_then_recipe(self, models):
        content = {
            "merge_method": "task_arithmetic", "base_model": "A",
            "slices": [
                {
                    "sources": [
                        source("A", 0, 2),
                        source("B", 0, 2, weight=[{"filter": "mlp", "value": 0.5}]),
                        source("C", 0, 2),
                    ],
                    "parameters": {"weight": [{"filter": "q_proj", "value": 0.25}]},
                },
                {"sources": [source("A", 2, 4), source("B", 2, 4), source("C", 2, 4)], "parameters": {"lambda": 0.5}},
            ],
            "parameters": {"weight": 0.125},
        }  # fmt: skip
        found = mw.merge_to_arrays(parse_recipe(content))
        # B is 100 and C is 200 above A, layer by layer
        assert constant(found[UP.format(0)]) == value("A", 0) + 100 * 0.5 + 200 * 0.125
        assert constant(found[Q.format(0)]) == value("A", 0) + 100 * 0.25 + 200 * 0.25
        assert constant(found[UP.format(3)]) == value("A", 3) + 0.5 * (100 * 0.125 + 200 * 0.125)

    def test_filters_of_one_model_see_its_own_names_and_shared_ones_the_names_of_the_result(self, models):
        content = {
            "merge_method": "task_arithmetic", "base_model": "A",
            "slices": [
                {"sources": [source("A", 0, 1), source("C", 0, 1)]},
                {"sources": [
                    source("A", 1, 3),
                    source("B", 4, 6, weight=[{"filter": "layers.1.", "value": 8}, {"filter": "layers.4.", "value": 2},
                                              {"value": 1}]),
                ]},
            ],
            "parameters": {"lambda": [{"filter": "layers.1.", "value": 0.5}, {"value": 1}]},
        }  # fmt: skip
        found = mw.merge_to_arrays(parse_recipe(content))
        assert constant(found[UP.format(1)]) == value("A", 1) + 0.5 * 2 * (value("B", 4) - value("A", 1))
        assert constant(found[UP.format(2)]) == value("A", 2) + 1 * 1 * (value("B", 5) - value("A", 2))

    def test_changes_are_measured_from_the_layers_of_the_base_that_a_slice_lists(self, models):
        slices = [[source("B", 0, 2), source("A", 2, 4)]]
        found = merged("task_arithmetic", slices, base_model="B", parameters={"weight": 0.5})
        assert [constant(found[UP.format(i)]) for i in range(2)] == [
            (value("A", 2) + value("B", 0)) / 2, (value("A", 3) + value("B", 1)) / 2
        ]  # fmt: skip

    def test_the_base_of_a_slice_that_does_not_list_it_has_the_layers_that_all_its_sources_have(self, models):
        slices = [[source("A", 2, 4), source("C", 2, 4)]]
        found = merged("task_arithmetic", slices, base_model="B", parameters={"weight": 0.25})
        base = [value("B", 2), value("B", 3)]
        expected = [b + 0.25 * (value("A", i) - b + value("C", i) - b) for i, b in zip((2, 3), base, strict=True)]
        assert [constant(found[UP.format(i)]) for i in range(2)] == expected

    def test_a_slice_may_have_a_base_of_its_own(self, models):
        content = {
            "merge_method": "task_arithmetic", "base_model": "A", "parameters": {"weight": 0.5},
            "slices": [
                {"sources": [source("C", 0, 2), source("B", 0, 2)], "base_model": "C"},
                {"sources": [source("A", 2, 4), source("B", 2, 4)]},
            ],
        }  # fmt: skip
        found = mw.merge_to_arrays(parse_recipe(content))
        assert constant(found[UP.format(0)]) == (value("C", 0) + value("B", 0)) / 2
        assert constant(found[UP.format(2)]) == (value("A", 2) + value("B", 2)) / 2

    @pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties", "della", "sce", "tsv_m", "wudi"])
    def test_a_slice_of_the_base_alone_stays_as_it_is(self, models, method):
        slices = [[source("A", 0, 2)], [source("A", 2, 4), source("B", 2, 4)]]
        found = merged(method, slices, base_model="A")
        whole = merged(method, slices[1:], base_model="A")
        for number in range(2):
            assert constant(found[UP.format(number)]) == value("A", number)
            assert found[UP.format(number + 2)].tobytes() == whole[UP.format(number)].tobytes()

    def test_a_method_of_two_experts_refuses_a_slice_of_the_base_alone(self, models):
        slices = [{"sources": [source("A", 0, 2)]}]
        said = refusal({"merge_method": "model_stock", "base_model": "A", "slices": slices})
        assert "model_stock merges at least 2 experts, found 0 at slices.0" in said

    def test_slices_may_merge_different_numbers_of_models(self, models):
        slices = [[source("A", 0, 1)], [source("A", 1, 2), source("B", 1, 2), source("C", 1, 2)], [source("B", 5, 6)]]
        found = merged("linear", slices)
        expected = [value("A", 0), (value("A", 1) + value("B", 1) + value("C", 1)) / 3, value("B", 5)]
        assert [constant(found[UP.format(i)]) for i in range(3)] == expected

    @pytest.mark.parametrize("method", ["ties", "dare_ties", "slerp", "model_stock"])
    def test_other_families_merge_slices_as_they_merge_whole_models(self, models, method):
        random = np.random.default_rng(0)
        for name in ("A", "B", "C"):
            noisy = {k: (v + random.normal(size=v.shape)).astype(np.float32) for k, v in arrays(name, 4).items()}
            support.save_model(models / name, noisy, config=config(4))
        names = ["A", "B"] if method == "slerp" else ["A", "B", "C"]
        parameters = {"slerp": {"t": [0.2, 0.7]}, "model_stock": {}}.get(method, {"density": 0.4, "weight": [0.3, 0.9]})
        more = {"merge_method": method, "base_model": "A", "parameters": parameters}
        whole = mw.merge_to_arrays(parse_recipe({**more, "models": [{"model": n} for n in names]}))
        sliced = [{"sources": [source(n, 0, 4) for n in names]}]
        found = mw.merge_to_arrays(parse_recipe({**more, "slices": sliced}))
        assert found.keys() == whole.keys()
        for name, array in whole.items():
            assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("method", ["nuslerp", "multislerp"])
@pytest.mark.parametrize("first", [True, False])
def test_slices_with_and_without_a_base_are_merged_each_in_its_own_way(models, method, first):
    random = np.random.default_rng(0)
    for name in "ABC":
        noise = {n: random.normal(size=a.shape).astype(np.float32) for n, a in arrays(name, 4).items()}
        support.save_model(models / name, noise, config=config(4))
    plain = [{"sources": [source("B", *cut, weight=0.25), source("C", *cut, weight=0.5)]} for cut in ((0, 2), (2, 4))]
    based = [one | {"base_model": "A"} for one in plain]
    with_base, without = (
        mw.merge_to_arrays(parse_recipe({"merge_method": method, "slices": slices})) for slices in (based, plain)
    )
    mixed = [based[0], plain[1]] if first else [plain[0], based[1]]
    found = mw.merge_to_arrays(parse_recipe({"merge_method": method, "slices": mixed}))
    for layer in range(4):
        expected = with_base if (layer < 2) == first else without
        assert np.array_equal(found[UP.format(layer)], expected[UP.format(layer)])
        assert not np.array_equal(with_base[UP.format(layer)], without[UP.format(layer)])
    for more, word in (({"post": ["svc"]}, "svc"), ({"missing_tensors": "base"}, "missing_tensors: base")):
        said = refusal({"merge_method": method, "slices": mixed, **more})
        assert word in said
        assert f"merges weights at slices.{1 if first else 0}" in said


class TestNames:
    def test_layers_of_a_model_whose_names_have_no_prefix_are_found(self, models):
        bare = {name.removeprefix("model."): array for name, array in arrays("C", 4).items()}
        support.save_model(models / "C", bare, config=config(4))
        found = merged("linear", [[source("A", 0, 2)], [source("C", 2, 4)]])
        assert constant(found[UP.format(2)]) == value("C", 2)
        assert constant(found[HEAD]) == value("C", outside=HEAD)

    def test_a_tied_head_is_read_from_the_embedding_of_the_last_slice(self, models):
        tied = {name: array for name, array in arrays("C", 4).items() if name != HEAD}
        support.save_model(models / "C", tied, config=config(4, tie_word_embeddings=True))
        found = merged("linear", [[source("A", 0, 2)], [source("C", 2, 4)]])
        assert constant(found[HEAD]) == value("C", outside=EMBEDDING)

    def test_a_result_with_a_head_of_its_own_does_not_say_that_it_ties_it(self, models):
        tied = {name: array for name, array in arrays("C", 4).items() if name != HEAD}
        support.save_model(models / "C", tied, config=config(4, tie_word_embeddings=True))
        slices = [{"sources": [source("C", 0, 2)]}, {"sources": [source("A", 2, 4)]}]
        report = mw.merge(parse_recipe({"merge_method": "linear", "slices": slices}), "out")
        assert json.loads((models / "out" / "config.json").read_text())["tie_word_embeddings"] is False
        assert any("a head of its own" in remark for remark in report.remarks)
        assert constant(support.load_model(models / "out")[HEAD]) == value("A", outside=HEAD)

    def test_a_head_of_a_model_in_the_middle_unties_nothing(self, models):
        tied = {name: array for name, array in arrays("C", 4).items() if name != HEAD}
        support.save_model(models / "C", tied, config=config(4, tie_word_embeddings=True))
        slices = [{"sources": [source(model, *layers)]} for model, *layers in (("C", 0, 2), ("A", 1, 3), ("C", 2, 4))]
        mw.merge(parse_recipe({"merge_method": "passthrough", "slices": slices}), "out")
        assert HEAD not in support.load_model(models / "out")
        assert json.loads((models / "out" / "config.json").read_text())["tie_word_embeddings"] is True

    @pytest.mark.parametrize("order", ["AC", "CA"])
    def test_a_tied_head_is_merged_with_one_that_is_none_in_either_order(self, models, order):
        tied = {name: array for name, array in arrays("C", 4).items() if name != HEAD}
        support.save_model(models / "C", tied, config=config(4, tie_word_embeddings=True))
        found = merged("linear", [[source(model, 0, 4, weight=1) for model in order]])
        assert constant(found[HEAD]) == (value("A", outside=HEAD) + value("C", outside=EMBEDDING)) / 2


class TestRefused:
    def test_layers_that_a_model_has_not(self, models):
        content = {"merge_method": "linear", "slices": [{"sources": [source("A", 0, 9)]}]}
        assert refusal(content) == (
            "The layer_range [0, 9] at slices.0.sources.0 reaches beyond A, which has 4 layers in 'model.layers'."
        )

    def test_a_base_whose_layers_are_not_clear(self, models):
        sources = [source("A", 0, 2), source("C", 1, 3)]
        content = {"merge_method": "task_arithmetic", "base_model": "B", "slices": [{"sources": sources}]}
        assert "list it among the sources" in refusal(content)

    @pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp", "nuslerp", "arcee_fusion"])
    @pytest.mark.parametrize("others", [[], [source("C", 0, 2)]])
    def test_a_base_that_stands_twice_in_a_slice(self, models, method, others):
        slices = [{"sources": [source("A", 0, 2), source("A", 2, 4), *others]}]
        content = {"merge_method": method, "base_model": "A", "slices": slices}
        assert "The base 'A' stands 2 times at slices.0.sources, expected once" in refusal(content)

    def test_models_of_different_width(self, models):
        support.save_model(models / "W", arrays("C", 4, width=8), config=config(4) | {"hidden_size": 8})
        slices = [{"sources": [source("A", 0, 2)]}, {"sources": [source("W", 2, 4)]}]
        assert "hidden size 8, expected 4" in refusal({"merge_method": "linear", "slices": slices})

    def test_layers_of_another_shape(self, models):
        tensors = {n: a[:5] if n.endswith("up_proj.weight") else a for n, a in arrays("C", 4).items()}
        support.save_model(models / "C", tensors, config=config(4))
        slices = [{"sources": [source("A", 0, 2)]}, {"sources": [source("C", 3, 4)]}]
        assert refusal({"merge_method": "passthrough", "slices": slices}) == (
            "Tensor 'model.layers.3.mlp.up_proj.weight' has shape [5, 4] in C, expected [8, 4] as in the layers of A; "
            "only layers of one shape can stand upon each other."
        )

    def test_an_embedding_and_a_head_of_different_vocabularies(self, models):
        support.save_model(models / "C", arrays("C", 4, vocabulary=7), config=config(4))
        slices = [{"sources": [source("A", 0, 2)]}, {"sources": [source("C", 2, 4)]}]
        assert refusal({"merge_method": "passthrough", "slices": slices}) == (
            "Tensor 'lm_head.weight' has shape [7, 4] in C, expected [6, 4] as in A; bring different vocabularies "
            "together with 'tokenizer', as in 'tokenizer: {source: union}'."
        )

    def test_a_configuration_that_does_not_count_layers(self, models):
        (models / "A" / "config.json").write_text('{"hidden_size": 4}')
        assert "expected the number of layers in its config.json" in refusal(
            {"merge_method": "linear", "slices": [{"sources": [source("A", 0, 2)]}]}
        )

    def test_a_dense_layer_behind_others_where_the_configuration_has_them_first(self, models):
        (models / "A" / "config.json").write_text(json.dumps(config(4, first_k_dense_replace=1)))
        said = refusal({"merge_method": "linear", "slices": [{"sources": [source("A", 0, 2)]}] * 2})
        assert "layer 2 of the result, layer 0 of A, is dense and follows one that is not" in said

    def test_a_model_without_layers(self, models):
        support.save_model(models / "N", {"weight": np.ones(3, np.float32)}, config=config(4))
        assert "no layers" in refusal({"merge_method": "linear", "slices": [{"sources": [source("N", 0, 2)]}]})

    def test_a_model_of_several_stacks_without_modules(self, models):
        two = arrays("A", 4) | {"vision.blocks.0.weight": np.ones(3, np.float32)}
        support.save_model(models / "V", two, config=config(4))
        said = refusal({"merge_method": "linear", "slices": [{"sources": [source("V", 0, 2)]}]})
        assert "several stacks" in said
        assert "'modules'" in said

    def test_a_tensor_that_only_one_source_of_a_slice_has(self, models):
        more = arrays("C", 4) | {"model.layers.1.extra": np.ones(3, np.float32)}
        support.save_model(models / "C", more, config=config(4))
        said = refusal({"merge_method": "linear", "slices": [{"sources": [source("A", 0, 2), source("C", 0, 2)]}]})
        assert "model.layers.1.extra" in said

    def test_a_number_that_is_not_finite_names_the_model_that_it_is_in(self, models):
        bad = arrays("B", 6)
        bad[UP.format(3)][0, 0] = np.nan
        support.save_model(models / "B", bad, config=config(6))
        with pytest.raises(mw.MergeError, match=r"Tensor 'model\.layers\.1\.mlp\.up_proj\.weight' of B holds nan"):
            merged("linear", [[source("A", 0, 1)], [source("B", 3, 4)]])
