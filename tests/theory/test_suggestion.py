"""Crosstalk where the truth is known, and recipes that follow from it."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

import mergewise as mw
from mergewise.recipe import LayerPositions, parse_recipe, tensor_settings
from mergewise.theory.crosstalk import Collision, collisions, concentration, crosstalk, scale_of
from mergewise.theory.suggestion import filters, suggest
from support import save_model

WIDTH = 40


def write(folder, inputs, *, experts=3, seed=0):
    """Write a base and experts whose changes have orthogonal outputs, and inputs that are shared or of their own."""
    rng = np.random.default_rng(seed)
    base = {name: rng.normal(size=(WIDTH, WIDTH)) for name in inputs} | {"norm.weight": np.ones(WIDTH)}
    save_model(folder / "base", {name: value.astype(np.float64) for name, value in base.items()})
    for i in range(experts):
        model = dict(base)
        for name, kind in inputs.items():
            basis = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
            rows = np.eye(WIDTH)[:, :5] if kind == "shared" else np.eye(WIDTH)[:, 5 * i : 5 * i + 5]
            model[name] = base[name] + 0.01 * basis[:, :5] @ rows.T
        save_model(folder / f"e{i}", model)
    return folder / "base", [folder / f"e{i}" for i in range(experts)]


NAMES = {
    "model.layers.0.attn.out.weight": "own",
    "model.layers.0.out.weight": "shared",
    "model.layers.1.attn.out.weight": "shared",
    "model.layers.1.out.weight": "shared",
}


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    return mw.survey(*write(tmp_path_factory.mktemp("suggestion"), NAMES))


@pytest.fixture(scope="module")
def found(surveyed):
    return mw.limits(surveyed)


def test_suggestions_are_for_the_experts_that_a_recipe_will_choose(found):
    listed = {"method": "task_arithmetic", "base": found.base, "experts": list(found.experts)}
    chosen = [found.experts[i] for i in found.recommendation.order[:2]]
    two = suggest(found, mw.Recipe(**listed, select=2))
    assert two.select.keep == 2
    alone = suggest(mw.limits(mw.survey(found.base, chosen)), mw.Recipe(**listed | {"experts": chosen}))
    every = suggest(found, mw.Recipe(**listed))
    assert two.parameters == alone.parameters != every.parameters
    with pytest.raises(mw.SurveyError, match=r"only .* is to be merged; give a recipe without 'experts'"):
        suggest(found, mw.Recipe(**listed, select=1))


def test_experts_with_inputs_of_their_own_do_not_collide_and_those_with_the_same_inputs_do_wholly(found):
    chosen = found.recommendation.number
    by_name = {one.name: one for one in found.collisions}
    for name, kind in NAMES.items():
        expected = 0.0 if kind == "own" else chosen - 1.0
        assert by_name[name].crosstalk == pytest.approx(expected, abs=1e-6)
        assert by_name[name].scale == pytest.approx(1.0 / (1.0 + expected), abs=1e-6)
    assert sum(one.share for one in found.collisions) == pytest.approx(1.0)
    assert "collisions lie in 2 of 4 matrices" in concentration(found.collisions)


@pytest.mark.parametrize(
    ("name", "looked_up"),
    [
        ("model.embed_tokens.weight", True),
        ("transformer.wte.weight", True),
        ("transformer.wpe.weight", True),
        ("shared.weight", True),
        ("gpt_neox.embed_in.weight", True),
        ("embeddings.position_embeddings.weight", True),
        ("model.decoder.embed_positions.weight", True),
        ("backbone.embedding.weight", True),
        ("embed.weight", True),
        ("embed_out.weight", False),
        ("lm_head.weight", False),
        ("time_embedding.linear_1.weight", False),
        ("embeddings_project.weight", False),
        ("vision.patch_embed.proj.weight", False),
        ("model.layers.0.out.weight", False),
    ],
)
def test_the_inputs_of_what_is_looked_up_are_its_rows(surveyed, name, looked_up):
    record = next(one for one in surveyed.tensors if one.name == "model.layers.1.out.weight")
    sides = record.spectra.overlaps * np.diagonal(record.gram)
    assert not np.allclose(sides[0], sides[1])
    np.testing.assert_allclose(crosstalk(replace(record, name=name)), np.maximum(sides[0 if looked_up else 1], 0.0))


def test_the_scale_is_where_the_error_of_a_sum_is_least():
    rng = np.random.default_rng(1)
    taus = [rng.normal(size=(400, 6)) @ rng.normal(size=(6, 30)) for _ in range(4)]
    squares = [float(np.sum(tau * tau)) for tau in taus]
    a = np.array([[np.sum((tau @ own.T) ** 2) / s for tau in taus] for own, s in zip(taus, squares, strict=True)])
    (one,) = collisions([("w.weight", a)])

    def error(scale):
        return sum(
            np.sum(((scale * sum(taus) - own) @ own.T) ** 2) / s / a[i, i]
            for i, (own, s) in enumerate(zip(taus, squares, strict=True))
        )

    best = min(np.linspace(0.05, 1.0, 96), key=error)
    assert one.scale == pytest.approx(best, abs=0.03)


def test_of_some_experts_only_theirs_counts():
    a = np.array([[1.0, 0.0, 5.0], [0.0, 1.0, 5.0], [5.0, 5.0, 1.0]])
    assert collisions([("w", a)], [0, 1])[0].crosstalk == 0.0
    assert collisions([("w", a)])[0].crosstalk == pytest.approx(20.0 / 3.0)


def test_filters_give_every_matrix_its_own_scale_and_all_others_the_common_one(found):
    recipe = suggest(found)
    assert recipe.method == "task_arithmetic"
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.canonical()))) == recipe
    positions = LayerPositions(NAMES)
    for one in found.collisions:
        got = tensor_settings(recipe, one.name, positions(one.name)).values["lambda"]
        assert got == pytest.approx(one.scale, rel=1e-2)
    common = tensor_settings(recipe, "norm.weight", 0.0).values["lambda"]
    assert common == pytest.approx(scale_of(found.collisions), rel=1e-2)
    assert recipe.parameters["lambda"][0]["filter"] == "attn.out.weight"  # before 'out.weight', which it holds


def test_a_suggested_recipe_is_merged_as_it_is(found, tmp_path):
    report = mw.merge(suggest(found), tmp_path / "out")
    assert report.experts == found.recommendation.number
    assert mw.verify(tmp_path / "out", sample=None).faults == ()


def test_a_recipes_own_method_and_level_stand(found):
    own = mw.Recipe(
        method="ties", base=found.base, experts=list(found.experts), parameters={"density": 0.3, "lambda": 0.8}
    )
    changed = suggest(found, own)
    assert (changed.method, changed.experts, changed.parameters["density"]) == (own.method, own.experts, 0.3)
    assert changed.parameters["lambda"][-1] == {"value": 0.8}
    with pytest.raises(mw.RecipeError, match="average has none"):
        suggest(found, mw.Recipe(method="average", base=found.base, experts=list(found.experts)))
    with pytest.raises(mw.RecipeError, match="differs already"):
        suggest(found, changed)


def test_kinds_that_filters_cannot_tell_apart_are_named_whole():
    made = [Collision(name, kind, layer, 1.0, 0.25, 0.25, scale) for name, kind, layer, scale in (
        ("a.0.w.x", "w.x", 0, 0.1), ("a.1.w.x", "w.x", 1, 0.2), ("a.0.x", "x", 0, 0.3), ("b.w.x.x", "b.w.x.x", -1, 0.4),
    )]  # fmt: skip
    entries = filters(made)
    for one in made:
        first = next(entry for entry in entries if entry.get("filter", "") in one.name)
        value = first["value"]
        assert (value[one.layer] if isinstance(value, list) else value) == one.scale


def test_without_spectra_nothing_is_suggested(tmp_path):
    base, experts = write(tmp_path, NAMES)
    with pytest.raises(mw.SurveyError, match="no spectra"):
        suggest(mw.limits(mw.survey(base, experts, spectra=False)))


def test_a_tensor_without_spectra_that_a_filter_would_meet_keeps_the_common_value(tmp_path):
    names = {"net.0.weight": "own", "net.1.weight": "shared"}
    found = mw.limits(mw.survey(*write(tmp_path, names)))
    assert found.others == ("norm.weight",)  # which 'weight' would meet, that all layers end with
    recipe, positions = suggest(found), LayerPositions((*names, *found.others))
    wanted = {one.name: one.scale for one in found.collisions} | {"norm.weight": scale_of(found.collisions)}
    assert max(wanted.values()) > 1.5 * wanted["norm.weight"] > 2.0 * min(wanted.values())
    for name, scale in wanted.items():
        assert tensor_settings(recipe, name, positions(name)).values["lambda"] == pytest.approx(scale, rel=1e-2)


def test_a_tensor_that_a_whole_name_would_meet_has_a_filter_of_its_own():
    made = [Collision("a.x", "a.x", -1, 1.0, 0.5, 0.5, 0.2), Collision("b.x", "b.x", -1, 1.0, 0.5, 0.5, 0.4)]
    entries = filters(made, 1.0, ("a.x.bias", "c"))
    first = {name: next(one["value"] for one in entries if one.get("filter", "") in name) for name in (
        "a.x", "b.x", "a.x.bias", "c",
    )}  # fmt: skip
    assert first == {"a.x": 0.2, "b.x": 0.4, "a.x.bias": first["c"], "c": float(f"{scale_of(made):.3g}")}


def test_of_one_expert_nothing_collides_and_nothing_is_suggested(tmp_path):
    base, experts = write(tmp_path, {"layers.0.weight": "own"}, experts=1)
    found = mw.limits(mw.survey(base, experts))
    assert found.collisions == ()
    with pytest.raises(mw.SurveyError, match=r"only .*e0 is to be merged; give a recipe"):
        suggest(found)
