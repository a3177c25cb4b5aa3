"""What ``limits`` says of families whose truth is known, and the forms in which it says so."""

import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

import mergewise as mw
from mergewise.engine.survey.record import MERGES
from mergewise.theory.crosstalk import concentration
from mergewise.theory.groups import kind_of, layer_of, place_names, place_of
from mergewise.theory.report import render, write_report
from mergewise.theory.tables import COLLISIONS, KINDS, collision_rows, counted, kind_rows, sketching, tail_rows
from mergewise.theory.tails import tails
from mergewise.theory.threshold import Threshold, threshold
from support import load_model, save_model

WIDTH = 60


def low_rank(rng, shape, rank, scale=0.01):
    return scale * rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1])) / np.sqrt(rank)


def write(folder, experts, *, rank, copies=None, noughts=(), seed=0):
    """Write a base and experts whose changes of every matrix have a known rank in random position."""
    rng = np.random.default_rng(seed)
    shapes = {f"model.layers.{layer}.{kind}.weight": (WIDTH, 2 * WIDTH) for layer in range(3) for kind in ("up", "q")}
    base = {name: rng.normal(size=shape) * 0.1 for name, shape in shapes.items()} | {"norm.weight": np.ones(WIDTH)}
    save_model(folder / "base", {name: value.astype(np.float32) for name, value in base.items()})
    made = []
    for i in range(experts):
        taus = {name: low_rank(rng, shape, rank) for name, shape in shapes.items()}
        taus = made[copies[i]] if copies and i in copies else taus
        taus = {name: 0.0 * tau for name, tau in taus.items()} if i in noughts else taus
        made.append(taus)
        model = {name: value + taus.get(name, 0.0) for name, value in base.items()}
        save_model(folder / f"e{i}", {name: value.astype(np.float32) for name, value in model.items()})
    return [folder / "base", *(folder / f"e{i}" for i in range(experts))]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    paths = write(tmp_path_factory.mktemp("limits"), 6, rank=12)
    return mw.limits(mw.survey(paths[0], paths[1:]))


def test_experts_of_known_rank_in_random_position_fill_the_space_where_their_ranks_add_up_to_it(found):
    """Entropy ranks of Gaussian matrices of rank 12 lie a little below 12, so five or six of them fit into 60."""
    _, most, _ = found.model.room
    assert most[0] >= 5
    assert most[2] <= 6
    for matrix in found.matrices:
        assert matrix.capacity == WIDTH
        assert (matrix.consumed <= 12.0).all()
        assert (matrix.consumed > 9.0).all()
        t = matrix.threshold
        assert t.safe <= t.most <= t.full
        assert (np.diff(matrix.dimension, axis=1) >= -1e-9).all()
        assert (np.diff(matrix.participation) > 0.0).all()
        order = found.recommendation.order
        assert matrix.participation[0] == pytest.approx(matrix.ranks[order[0], 1] / WIDTH, rel=1e-6)
        # in random position the ranks nearly add up while there is room
        assert 0.85 < matrix.occupancy[0, 1] * WIDTH / matrix.consumed[:2].sum() <= 1.0


def test_groups_hold_all_tensors_once(found):
    assert [group.name for group in found.layers] == ["outside", "layer 0", "layer 1", "layer 2"]
    assert sorted(group.name for group in found.kinds) == ["norm", "q", "up"]
    for groups in (found.layers, found.kinds):
        assert sum(group.tensors for group in groups) == found.model.tensors == 7
        assert sum(group.parameters for group in groups) == found.model.parameters
        assert sum(group.energy for group in groups) == pytest.approx(1.0)


def test_any_set_has_a_width_a_coverage_and_a_conflict(found):
    whole = list(range(6))
    assert found.width_of([2])[0] == pytest.approx(0.798, abs=0.02)
    assert found.width_of(whole)[0] == pytest.approx(found.model.width.greedy[-1])
    assert found.coverage_of(whole) == pytest.approx(tuple(found.model.coverage[-1]))
    assert found.coverage_of([1])[1] == pytest.approx(0.0, abs=1e-12)


def test_any_set_has_a_distance_to_each_of_its_experts(found):
    """In random position they are nearly orthogonal and of about one length, so averaging keeps 1/k of each."""
    np.testing.assert_allclose(found.distance_of([2]), [0.0], atol=1e-12)
    np.testing.assert_allclose(found.distance_of([0, 3, 4]), 1 - 1 / 3, atol=0.1)
    np.testing.assert_allclose(found.distance_of([0, 3], 0.0), 1.0)


def test_copies_and_noughts_are_left_out_of_the_recommendation(tmp_path):
    paths = write(tmp_path, 5, rank=3, copies={3: 1}, noughts={4})
    found = mw.limits(mw.survey(paths[0], paths[1:]))
    assert {finding.kind for finding in found.findings} == {"copy", "zero"}
    assert sorted(found.recommendation.order) == [0, 1, 2]
    assert found.recommendation.number == 3
    assert "the last still widens the set by" in found.recommendation.reason


@pytest.fixture(scope="module")
def beside_strangers(tmp_path_factory):
    """Return limits of four experts of different ranks, alone and with a model of another base and a nought."""
    folder = tmp_path_factory.mktemp("strangers")
    base, *own, nought = write(folder, 5, rank=10, noughts={4})
    for i, path in enumerate(own):  # so that the order of experts decides how many fit
        rng = np.random.default_rng(i)
        weights = {
            name: value + (0.01 + 0.003 * i) * low_rank(rng, value.shape, 6 + 8 * i, 1.0) if value.ndim == 2 else value
            for name, value in load_model(base).items()
        }
        save_model(path, {name: value.astype(np.float32) for name, value in weights.items()})
    rng = np.random.default_rng(99)
    other = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in load_model(base).items()}
    save_model(folder / "other", other)
    sets = own, [folder / "other", *own, nought], [nought, *own[:2], folder / "other", *own[2:]]
    return [mw.survey(base, paths) for paths in sets]


@pytest.mark.parametrize("seed", [0, 1])
def test_who_is_left_out_changes_neither_the_order_nor_how_many_fit(beside_strangers, seed):
    alone, *others = (mw.limits(survey, seed=seed) for survey in beside_strangers)
    for found in others:
        assert {reason for _, reason in found.recommendation.left_out} == {
            "it seems to be of a different base", "it has changed nothing",
        }  # fmt: skip
        names, wanted = (
            [one.experts[i] for i in one.recommendation.order[: one.recommendation.number]] for one in (found, alone)
        )
        assert names == wanted
        assert found.recommendation.gains == pytest.approx(alone.recommendation.gains)
        np.testing.assert_array_equal(found.model.room, alone.model.room)
        assert [one.threshold for one in found.matrices] == [one.threshold for one in alone.matrices]
        np.testing.assert_allclose([g.energy for g in found.kinds], [g.energy for g in alone.kinds], rtol=1e-5)


def test_who_is_left_out_does_not_show_in_what_is_occupied_nor_in_conflicts(beside_strangers):
    """Occupancy means one thing in the map, in the table of kinds and in the headline: that of who counts."""
    alone, *others = (mw.limits(survey) for survey in beside_strangers)
    for found in others:
        assert [kind_rows(found), cells_of(render(found))] == [kind_rows(alone), cells_of(render(alone))]
        assert found.model.participation[-1] == pytest.approx(alone.model.participation[-1])
        assert found.model.conflict == pytest.approx(alone.model.conflict)
        assert found.model.occupancy[-1, 1] > 1.2 * alone.model.occupancy[-1, 1]  # which counts everybody
        assert counted(found) == "the 4 of 6 experts that are not left out"
    assert counted(alone) == "all 4 experts"


def test_what_is_occupied_is_the_same_in_the_map_the_table_and_the_headline(found):
    matrix = found.matrices[0]
    alone = _only(found, matrix)
    share = f"{alone.model.participation[-1, 1]:.0%}"
    (cell,) = (title for titles_of in titles(render(alone)).values() for title in titles_of)
    (row,) = kind_rows(alone)
    assert f"occupied {share}," in cell
    assert f"{float(dict(zip(KINDS, row, strict=True))['occupied'].rstrip('%')):.0f}%" == share
    assert matrix.participation[-1] == pytest.approx(alone.model.participation[-1, 1])
    for place, name in enumerate(("stable rank", "participation", "entropy rank")):
        middle = np.median(matrix.ranks[:, place]) / WIDTH
        assert dict(zip(KINDS, row, strict=True))[name] == f"{middle:.1%}"


def _only(found, matrix):
    """Return limits of a survey of one matrix."""
    survey = mw.survey(found.base, found.experts, tensors=[matrix.name])
    return mw.limits(survey)


def sketched(survey, share):
    """Return a survey as if its ranks came from a sketch, with standard errors of a share of them."""
    return replace(
        survey,
        tensors=tuple(
            record
            if record.spectra is None
            else replace(
                record,
                spectra=replace(record.spectra, rank_errors=share * record.spectra.ranks, exact=np.zeros(2, np.bool_)),
            )
            for record in survey.tensors
        ),
    )


@pytest.fixture(scope="module")
def survey(found):
    return mw.survey(found.base, found.experts)


def test_errors_of_sketched_ranks_reach_the_number_of_experts(survey, found):
    """With a fifth more or less of every rank, a sixth fewer or a quarter more experts fit."""
    other = mw.limits(sketched(survey, 0.2))
    assert other.model.sketched == 6
    np.testing.assert_array_equal(other.model.room, found.model.room)
    for matrix in other.matrices:
        low, high = matrix.threshold_range
        for factor, end in ((1.2, low), (0.8, high)):
            order = list(other.recommendation.order)
            assert end == threshold(factor * matrix.consumed[order], matrix.capacity, other.eta)
    off = other.model.room_errors[1]
    assert off >= 1.0
    said = f"k* ± {off:.0f}, "
    assert said in sketching(other)
    assert sketching(other).endswith("by sketching 6 of 6 matrices")
    assert all(f"± {off:.0f}" in dict(zip(KINDS, row, strict=True))["k*"] for row in kind_rows(other)[:2])
    text = render(other)
    assert said in text
    assert re.search(r"k\* \d+ ± \d+ by sketching, k_full", text)
    content = json.loads(json.dumps(other.summary(), allow_nan=False))
    assert content["model"]["sketched"] == 6
    low, high = content["model"]["k_star_range"]
    assert low < content["model"]["k_star"][1] < high
    assert content["matrices"][0]["sketched"] is True
    assert len(content["matrices"][0]["k_star_range"]) == 2
    assert len(content["matrices"][0]["entropy_rank_errors"]) == 6


def test_where_all_spectra_are_exact_nothing_is_said_of_sketches(found):
    assert found.model.sketched == 0
    np.testing.assert_array_equal(found.model.room_errors, 0.0)
    assert sketching(found) == ""
    assert "sketching" not in render(found)
    assert not any("±" in cell for row in kind_rows(found) for cell in row)


def test_the_report_holds_the_collisions_and_the_ranks_of_the_command(found):
    text = render(found)
    assert "<h2>Where the recommended experts collide</h2>" in text
    assert escape(concentration(found.collisions)) in text
    for row in (KINDS, COLLISIONS, *kind_rows(found), *collision_rows(found)):
        cell = "th" if row in (KINDS, COLLISIONS) else "td"
        assert "".join(f"<{cell}>{escape(one)}</{cell}>" for one in row) in text


def test_a_survey_without_spectra_has_limits_without_room(tmp_path):
    paths = write(tmp_path, 3, rank=3)
    survey = mw.survey(paths[0], paths[1:], spectra=False)
    survey.save(tmp_path / "s.survey")
    found = mw.limits(tmp_path / "s.survey")
    assert found.matrices == ()
    assert np.isnan(found.model.room).all()
    assert "no spectra" in found.remarks[-1]
    assert found.recommendation.number == 3
    render(found)
    json.dumps(found.summary(), allow_nan=False)


def test_stacks_of_matrices_are_said_to_be_left_out(tmp_path):
    rng = np.random.default_rng(0)
    base = {"layers.0.experts": np.zeros((4, 6, 5), np.float32), "layers.0.w": np.zeros((6, 5), np.float32)}
    paths = [save_model(tmp_path / "base", base)]
    for i in range(2):
        changed = {name: rng.choice([-1.0, 1.0], array.shape).astype(np.float32) for name, array in base.items()}
        paths.append(save_model(tmp_path / f"{i}", changed))
    (remark,) = mw.limits(mw.survey(paths[0], paths[1:])).remarks
    assert remark.startswith(
        "Tensors with more than two dimensions have no spectra, 1 here, such as 'layers.0.experts'"
    )
    assert remark.endswith("and with them 80.0% of all change.")


def test_one_expert_is_enough(tmp_path):
    paths = write(tmp_path, 1, rank=3)
    found = mw.limits(mw.survey(paths[0], paths[1:]))
    assert found.recommendation.number == 1
    render(found)


@pytest.mark.parametrize("eta", [0.0, 1.0, -1.0])
def test_eta_is_a_probability(found, tmp_path, eta):
    with pytest.raises(mw.SurveyError, match="a probability above 0 and below 1"):
        mw.limits(tmp_path, eta=eta)


def test_the_summary_is_plain_data(found):
    text = json.dumps(found.summary(), allow_nan=False)
    content = json.loads(text)
    assert content["recommendation"]["number"] == found.recommendation.number
    assert content["model"]["k_star"][1] == found.model.room[1, 1]
    assert len(content["matrices"]) == 6
    assert len(content["model"]["participation_occupancy"]) == 6
    assert content["model"]["conflict_together"] == pytest.approx(content["recommendation"]["conflict"][-1])
    assert list(content["model"]["ranks"]) == ["stable", "participation", "entropy"]


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.seen = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.links += [value for name, value in attributes if name in {"src", "href"}]
        if tag not in {"meta", "line", "rect", "circle", "polygon", "polyline"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in {"line", "rect", "circle", "polygon", "polyline"}:
            assert self.open.pop() == tag


def test_the_report_is_one_whole_page_that_loads_nothing(found, tmp_path):
    write_report(found, tmp_path / "out.html")
    text = (tmp_path / "out.html").read_text("utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert all(link.startswith("data:") for link in page.links)
    assert "script" not in page.seen
    assert not re.search(r"https?://", text)
    assert "NaN" not in text
    assert "nan" not in re.findall(r"[a-z]+", re.sub(r"base64,[^\"]*", "", text))
    assert found.recommendation.sentence.split(";")[0] in text
    assert text.count("<svg") >= 4
    assert "layer 2" in text


def test_coverage_of_many_experts_is_not_said_to_be_without_error(found, tmp_path):
    assert "without error: norms, cosines, coverage, conflict, kurtosis" in render(found)
    paths = write(tmp_path, 17, rank=1)
    text = render(mw.limits(mw.survey(paths[0], paths[1:], spectra=False)))
    assert "without error: norms, cosines, kurtosis" in text
    assert "samples of coordinates: coverage and conflict" in text


def cells_of(text):
    """Return the map, as it is drawn."""
    return re.search(r'<table class="map">.*?</table>', text, re.DOTALL)[0]


def titles(text):
    """Return what the cells of the map say, by the row that they stand in."""
    rows = re.findall(r"<tr><td>([^<]*)</td>(.*?)</tr>", text[text.index('class="map"') :], re.DOTALL)
    return {name: re.findall(r'title="([^"]*)"', cells) for name, cells in rows if 'title="' in cells}


def test_the_map_holds_every_matrix_of_every_stack(found):
    """Experts of a layer share a cell, with the median by change; stacks have rows of their own."""
    one = found.matrices[0]
    names = [f"text.layers.0.mlp.experts.{i}.up.weight" for i in range(3)] + ["vision.layers.0.mlp.experts.0.up.weight"]
    sizes, rooms = (1.0, 5.0, 1.0, 3.0), (7, 3, 9, 2)
    matrices = tuple(
        replace(one, name=name, energy=size, threshold=Threshold(0, room, 20))
        for name, size, room in zip(names, sizes, rooms, strict=True)
    )
    cells = titles(render(replace(found, matrices=matrices)))
    assert list(cells) == ["text.layers 0", "vision.layers 0"]
    (text,), (vision,) = cells.values()
    assert text.startswith(f"3 matrices such as {names[0]} [60, 120]: occupied ")
    assert text.endswith("k_safe 0, k* 3, k_full 20, 70.0% of the change")
    assert vision.startswith(names[3])
    assert vision.endswith("k* 2, k_full 20, 30.0% of the change")


def test_a_report_of_experts_that_are_all_left_out_has_no_order(found):
    nobody = replace(found.recommendation, order=(), gains=(), number=0)
    assert "coverage, mean of all surveyed sets" in render(replace(found, recommendation=nobody, collisions=()))


def test_names_in_the_report_are_text(found):
    text = render(replace(found, experts=("<script>alert(1)</script>", *found.experts[1:])))
    assert "<script>" not in text


def test_a_report_that_cannot_be_written_is_told_in_a_sentence(found, tmp_path):
    with pytest.raises(mw.SurveyError, match="cannot be written"):
        write_report(found, tmp_path / "no" / "out.html")


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.11.self_attn.q_proj.weight", 11, "self_attn.q_proj"),
        ("0.weight", 0, "weight"),
        ("encoder.layer.2.output.dense.bias", 2, "output.dense.bias"),
        ("model.layers.3.experts.7.up.weight", 3, "experts.*.up"),
        ("lm_head.weight", -1, "lm_head"),
    ],
)
def test_layers_and_kinds_come_from_names(name, layer, kind):
    assert (layer_of(name), kind_of(name)) == (layer, kind)


def test_layers_of_several_stacks_are_told_apart():
    names = ["encoder.block.0.q.weight", "shared.weight", "decoder.block.0.q.weight", "encoder.block.10.q.weight"]
    assert list(place_names(map(place_of, names)).values()) == [
        "outside", "decoder.block 0", "encoder.block 0", "encoder.block 10"
    ]  # fmt: skip
    assert list(place_names(map(place_of, names[1::2])).values()) == ["outside", "layer 10"]
    assert place_of("0.weight") == ("", 0)


def test_errors_of_tails_are_weighed_by_elements_as_the_tails_are():
    def record(numel, error):
        figures = np.array([[3.0, error, 2.0, 2.0 * error, 1.0]] * (1 + len(MERGES)))
        return SimpleNamespace(numel=numel, tails=figures)

    few_large, many_small = [record(1_000_000, 0.5)], [record(384, 0.0)] * 10
    for tail in tails([*few_large, *many_small], ["e"]):
        assert (tail.kurtosis_error, tail.hill_error) == (0.5, 1.0)


def test_a_tail_that_cannot_be_told_is_a_dash(tmp_path):
    """A shift of a few elements by nearly the same has neither a kurtosis nor a tail."""
    for name, shift in (("base", 0.0), ("one", 0.01), ("two", 0.02)):
        save_model(tmp_path / name, {"norm.weight": (1.0 + shift + 1e-6 * np.arange(8)).astype(np.float32)})
    found = mw.limits(mw.survey(tmp_path / "base", [tmp_path / "one", tmp_path / "two"]))
    rows = tail_rows(found, ["one", "two"])
    assert [row[1:3] for row in rows[:2]] == [("–", "–")] * 2
    assert not any("nan" in cell for row in rows for cell in row)
    assert found.summary()["tails"][0]["kurtosis"] == [None] * 3


@pytest.mark.parametrize("asked", ["width_of", "coverage_of", "distance_of"])
@pytest.mark.parametrize("wrong", [7, -1])
def test_what_is_asked_of_who_is_not_there_is_refused(tmp_path, asked, wrong):
    for name in ("base", "one"):
        save_model(tmp_path / name, {"w": np.full(8, float(len(name)), np.float32)})
    found = mw.limits(mw.survey(tmp_path / "base", [tmp_path / "one"]))
    with pytest.raises(mw.SurveyError, match=f"from 0 to 0, found {wrong}"):
        getattr(found, asked)([wrong])
