"""A survey tells what slow float64 formulas tell, and the same bytes however it was made."""

import io
import json
import tracemalloc
import zipfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import mergewise as mw
from engine.surveys import changes, coverage_and_conflict, family
from mergewise.engine.layout import FIXED_BYTES
from mergewise.engine.survey import carry_out, weights
from mergewise.engine.survey import spectra as spectral
from mergewise.engine.survey.file import pack, unpack
from mergewise.engine.survey.journal import SurveyJournal
from mergewise.statistics.claims import Claims
from mergewise.statistics.magnitude import kept_count
from mergewise.statistics.spectrum import effective_ranks, ridge_dimension
from support import load_file, save_file, save_model, write_recipe

DENSITY = 0.2


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def surveyed(request, tmp_path_factory):
    paths, models = family(tmp_path_factory.mktemp("family"), dtype=request.param)
    return paths, models, mw.survey(paths[0], paths[1:], threads=1)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return family(tmp_path_factory.mktemp("paths"))[0]


def test_every_floating_tensor_is_there_once(surveyed):
    _, models, survey = surveyed
    expected = [name for name in sorted(models[0], key=str.encode) if models[0][name].size]
    assert [record.name for record in survey.tensors] == expected
    assert [record.shape for record in survey.tensors] == [models[0][name].shape for name in expected]


def test_products_and_moments_are_within_a_millionth_of_float64_numpy(surveyed):
    _, models, survey = surveyed
    for record in survey.tensors:
        tau, base = changes(models, record.name)
        rows = np.vstack([base, tau])
        scale = np.sqrt(np.outer((rows**2).sum(1), (rows**2).sum(1)))
        assert (np.abs(record.products - rows @ rows.T) <= 1e-6 * scale).all(), record.name
        for column, power in enumerate((1, 3, 4)):
            most = (np.abs(tau) ** power).sum(1)
            assert (np.abs(record.sums[:, column] - (tau**power).sum(1)) <= 1e-6 * most).all(), record.name
        np.testing.assert_array_equal(record.changed, np.count_nonzero(tau, axis=1))


def test_what_is_kept_of_a_tensor_is_no_view_of_anything_larger(surveyed):
    for record in surveyed[2].tensors:
        for array in (record.products, record.sums, record.changed, record.tails):
            assert array.base is None or array.base.nbytes <= 2 * array.nbytes


def test_thresholds_are_the_exact_kth_magnitudes_and_claims_follow_from_them(surveyed):
    _, models, survey = surveyed
    for record in survey.tensors:
        tau, _ = changes(models, record.name)
        kept = kept_count(DENSITY, tau.shape[1])
        if kept < tau.shape[1]:
            kth = np.sort(np.abs(tau).astype(np.float32), axis=1)[:, -kept]
            np.testing.assert_array_equal(record.thresholds, kth)
        else:
            assert not record.thresholds.any()  # of a scalar all is claimed that is not zero
        claimed = claimed_of(record, tau)
        for size in range(1, 4):
            for chosen in combinations(range(3), size):
                up, down = ((claimed & side)[list(chosen)].any(axis=0) for side in (tau > 0, tau < 0))
                expected = (up | down).mean(), (up & down).mean()
                np.testing.assert_allclose(coverage_and_conflict(record, chosen), expected, atol=1e-15)


def test_kurtosis_of_experts_is_that_of_all_elements(surveyed):
    _, models, survey = surveyed
    record = next(r for r in survey.tensors if r.name == "layers.0.long")
    tau, _ = changes(models, record.name)
    centred = tau - tau.mean(1, keepdims=True)
    expected = (centred**4).mean(1) / (centred**2).mean(1) ** 2 - 3
    np.testing.assert_allclose(record.kurtosis, expected, atol=1e-5)
    np.testing.assert_array_equal(record.tails[:3, 0], record.kurtosis)


def test_tails_of_merges_are_those_of_the_methods_on_a_tensor_that_is_sampled_whole(surveyed):
    from mergewise.engine.survey.record import MERGES

    _, models, survey = surveyed
    name = "embed.weight"
    record = next(r for r in survey.tensors if r.name == name)
    assert record.sampled == record.numel
    base = {name: models[0][name].astype(np.float64)}
    taus, _ = changes(models, name)
    experts = [{name: base[name] + tau.reshape(base[name].shape)} for tau in taus]
    settings = {"ties": {"density": DENSITY}, "rht": {"density": DENSITY}, "task_arithmetic": {"weight": 1 / 3}}
    for method, chosen in settings.items():
        merged = mw.merge_arrays(method, base, experts, **chosen)[name] - base[name]
        # among equal magnitudes at the threshold a merge keeps only some, a survey all
        exact = (
            method == "task_arithmetic"
            or (np.count_nonzero(claimed_of(record, taus), axis=1) == kept_count(DENSITY, record.numel)).all()
        )
        flat = merged.reshape(-1) - merged.mean()
        kurtosis, *_, nonzero = record.tails[3 + MERGES.index(method)]
        np.testing.assert_allclose(kurtosis, (flat**4).mean() / (flat**2).mean() ** 2 - 3, rtol=1e-6 if exact else 0.1)
        np.testing.assert_allclose(nonzero, np.mean(merged != 0.0), rtol=1e-12 if exact else 0.1)
    dropped = record.tails[3 + MERGES.index("dare_ties")]
    assert dropped[4] == pytest.approx(1 - 0.8**3, abs=0.02)


def claimed_of(record, taus):
    magnitudes = np.abs(taus).astype(np.float32)
    return (magnitudes >= record.thresholds[:, None]) & (magnitudes > 0)


def test_spectra_equal_singular_values_by_lapack(surveyed):
    _, models, survey = surveyed
    for record in survey.tensors:
        if len(record.shape) != 2:
            assert record.spectra is None
            continue
        found = record.spectra
        taus = [tau.reshape(record.shape) for tau in changes(models, record.name)[0]]
        exact = [effective_ranks(np.linalg.svd(tau, compute_uv=False) ** 2) for tau in taus]
        np.testing.assert_allclose(found.ranks, exact, rtol=1e-6)
        for side in (0, 1):
            if not found.exact[side]:
                continue
            grams = [t @ t.T if side == 0 else t.T @ t for t in taus]
            grams = [gram / np.trace(gram) for gram in grams]
            for k in range(1, 4):
                values = np.linalg.eigvalsh(np.sum(grams[:k], axis=0))
                np.testing.assert_allclose(found.occupancy[side, k - 1], effective_ranks(values)[2], rtol=1e-6)
                dimension = ridge_dimension(values, 1.0 / record.shape[side])
                np.testing.assert_allclose(found.dimension[side, k - 1], dimension, rtol=1e-6)
            for i, j in ((0, 0), (0, 1), (2, 1)):
                np.testing.assert_allclose(found.overlaps[side, i, j], np.trace(grams[i] @ grams[j]), rtol=1e-6)


def test_a_sketched_side_is_within_three_of_its_errors_of_the_exact_one(surveyed, monkeypatch):
    paths, _, exact = surveyed
    monkeypatch.setattr(spectral, "EXACT_SIDE", 1)
    sketched = mw.survey(paths[0], paths[1:], tensors=["wide", "embed"])
    for record in sketched.tensors:
        whole = next(r for r in exact.tensors if r.name == record.name).spectra
        assert not record.spectra.exact.any()
        close(record.spectra.ranks, whole.ranks, record.spectra.rank_errors)
        for side in np.flatnonzero(whole.exact):
            for name in ("occupancy", "dimension"):
                errors = getattr(record.spectra, f"{name}_errors")[side]
                close(getattr(record.spectra, name)[side], getattr(whole, name)[side], errors)
            errors = 2.0 * record.spectra.overlap_errors[side] + 0.005  # of pairs, from eight products each
            close(record.spectra.overlaps[side], whole.overlaps[side], errors)


def test_operators_that_take_their_steps_one_by_one_give_the_same_figures(surveyed, monkeypatch):
    paths, _, _ = surveyed
    monkeypatch.setattr(spectral, "EXACT_SIDE", 1)
    at_once = mw.survey(paths[0], paths[1:], tensors=["wide", "embed"])
    monkeypatch.setattr(spectral, "_ROUND", 1)
    one_by_one = mw.survey(paths[0], paths[1:], tensors=["wide", "embed"])
    for record, other in zip(at_once.tensors, one_by_one.tensors, strict=True):
        # products in other groups are rounded otherwise, of which steps beyond what a matrix has may make much
        for name in ("ranks", "occupancy", "dimension", "overlaps"):
            figure, errors = (getattr(record.spectra, one) for one in (name, f"{name.removesuffix('s')}_errors"))
            assert (np.abs(getattr(other.spectra, name) - figure) <= errors + 1e-3 * figure + 1e-5).all(), name


@pytest.mark.parametrize("shape", [(128256, 4096), (151936, 896), (262144, 3840), (4096, 14336)])
@pytest.mark.parametrize("experts", [2, 8, 16])
def test_spectra_of_a_vocabulary_fit_the_default_memory_twice(shape, experts):
    job = SimpleNamespace(inputs=range(1 + experts), output=SimpleNamespace(shape=shape))
    assert 2 * spectral.matrix_bytes(job) < (1 << 30) - FIXED_BYTES


def close(found, expected, errors):
    """Errors from eight probes are themselves uncertain."""
    assert (np.abs(found - expected) <= 3.0 * errors + 0.01 * expected).all()


@pytest.mark.parametrize(
    "options", [{"threads": 2}, {"threads": 3, "memory": "8GiB"}, {"threads": 2, "memory": "300MiB"}]
)
def test_threads_and_memory_do_not_change_a_byte(surveyed, options):
    paths, _, survey = surveyed
    assert pack(mw.survey(paths[0], paths[1:], **options)) == pack(survey)


def test_pieces_do_not_change_a_byte(surveyed, monkeypatch):
    paths, _, survey = surveyed
    monkeypatch.setattr(carry_out, "_PIECE", 65536)
    for threads in (1, 2):
        assert pack(mw.survey(paths[0], paths[1:], threads=threads)) == pack(survey)


def test_matrices_that_are_read_part_by_part_give_the_same_bytes(surveyed, monkeypatch):
    paths, _, survey = surveyed
    taken = spectral.survey_matrix
    monkeypatch.setattr(spectral, "_PANEL", 128)
    held = mw.survey(paths[0], paths[1:])
    monkeypatch.setattr(carry_out, "survey_matrix", lambda *given, hold: taken(*given, hold=False))
    assert pack(mw.survey(paths[0], paths[1:])) == pack(held)
    assert pack(replace_spectra(held)) == pack(replace_spectra(survey))


def replace_spectra(survey):
    return replace(survey, tensors=tuple(replace(record, spectra=None) for record in survey.tensors))


def test_surveys_of_disjoint_tensors_combine_in_any_order(surveyed):
    paths, _, survey = surveyed
    parts = [mw.survey(paths[0], paths[1:], tensors=[part]) for part in ("embed", "layers", "scale")]
    a, b, c = parts
    assert pack(a.combine(b).combine(c)) == pack(survey)
    assert pack(c.combine(a.combine(b))) == pack(survey)
    assert [one.partial for one in (a, a.combine(b), survey, a.combine(b).combine(c))] == [True, True, False, False]
    with pytest.raises(mw.SurveyError, match="share no tensor; found 'scale' in both"):
        a.combine(c).combine(c)


def test_surveys_of_other_models_do_not_combine(paths):
    one, other = mw.survey(paths[0], paths[1:3], tensors=["scale"]), mw.survey(paths[0], paths[1:], tensors=["norm"])
    with pytest.raises(mw.SurveyError, match="of the same models with the same settings; found 'experts'"):
        one.combine(other)


@pytest.mark.parametrize("kept", [1, 2])
def test_extending_gives_the_bytes_of_a_survey_of_all(surveyed, kept):
    paths, _, survey = surveyed
    before = mw.survey(paths[0], paths[1 : 1 + kept])
    extended = mw.survey(paths[0], paths[1:], extend=before)
    assert pack(extended) == pack(survey)


def test_only_what_is_a_survey_of_the_first_experts_is_extended(paths, tmp_path):
    before = mw.survey(paths[0], paths[1:3], spectra=False)
    with pytest.raises(mw.SurveyError, match="expected the same base, and these experts first"):
        mw.survey(paths[0], [paths[3], paths[1], paths[2]], extend=before)
    with pytest.raises(mw.SurveyError, match="expected at least one more"):
        mw.survey(paths[0], paths[1:3], extend=before)
    with pytest.raises(mw.SurveyError, match=r"density 0\.2, expected 0\.3"):
        mw.survey(paths[0], paths[1:], extend=before, density=0.3)
    stale = replace(before, identities=(before.identities[0], before.identities[2], before.identities[1]))
    with pytest.raises(mw.SurveyError, match="is not the model that was surveyed before"):
        mw.survey(paths[0], paths[1:], extend=stale)


def test_the_file_holds_the_survey(surveyed, tmp_path):
    _, _, survey = surveyed
    survey.save(tmp_path / "one.survey")
    loaded = mw.Survey.load(tmp_path / "one.survey")
    assert pack(loaded) == pack(survey) == (tmp_path / "one.survey").read_bytes()
    assert loaded.experts == survey.experts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.survey"]


def test_saving_takes_memory_for_one_array_at_a_time(paths, tmp_path):
    many = np.zeros(60_000, np.int64)
    survey = mw.survey(paths[0], paths[1:], spectra=False)
    survey = replace(
        survey, tensors=tuple(replace(t, claims=Claims(1, many.astype(np.uint64), many, many)) for t in survey.tensors)
    )
    tracemalloc.start()
    try:
        survey.save(tmp_path / "one.survey")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * many.nbytes * len(survey.tensors)  # stacked, as bytes, and in its file; not all three of them


def test_files_that_are_no_surveys_are_told_so(tmp_path, paths):
    survey = mw.survey(paths[0], paths[1:], spectra=False)
    content = pack(survey)
    for wrong in (b"", b"something else", content[: len(content) // 2], b"PK\x03\x04" + bytes(60)):
        (tmp_path / "x").write_bytes(wrong)
        with pytest.raises(mw.SurveyError, match="expected the file of a survey"):
            mw.Survey.load(tmp_path / "x")
    with pytest.raises(mw.SurveyError, match="No such file"):
        mw.Survey.load(tmp_path / "missing")
    with pytest.raises(mw.SurveyError, match="cannot be written"):
        survey.save(tmp_path / "no" / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(mw.SurveyError, match="cannot be written: Not a directory"):
        survey.save(tmp_path / "file" / "s.survey")
    assert pack(unpack(content, "here")) == content


def changed(content, **arrays):
    """Return the file of a survey with other arrays, or another header, in place of its own."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.namelist():
            body, name = old.read(entry), entry.rpartition(".")[0]
            if name == "survey" and "header" in arrays:
                body = json.dumps(arrays["header"](json.loads(body))).encode()
            elif name in arrays:
                file = io.BytesIO()
                np.save(file, arrays[name](np.load(io.BytesIO(body))))
                body = file.getvalue()
            new.writestr(entry, body)
    return out.getvalue()


def first_tensor(**entries):
    def change(header):
        header["tensors"][0] |= entries
        return header

    return change


@pytest.mark.parametrize(
    "change",
    [
        {"tails": lambda array: array[:, 1:]},
        {"tails": lambda array: array[:-1]},
        {"spectra.overlaps": lambda array: array[:, :, 1:]},
        {"spectra.ranks": lambda array: array[:-1]},
        {"thresholds": lambda array: array[:, 1:]},
        {"sums": lambda array: array[..., :2]},
        {"changed": lambda array: array[1:]},
        {"products": lambda array: array * np.nan},
        {"masks": lambda array: array | np.uint64(1 << 20)},
        {"counts": lambda array: -array},
        {"header": lambda header: header | {"tensors": header["tensors"][1:]}},
        {"header": lambda header: header | {"density": "x"}},
        {"header": lambda header: header | {"experts": []}},
        {"header": lambda header: header | {"experts": [*header["experts"], "another"]}},
        {"header": lambda header: {name: value for name, value in header.items() if name != "seed"}},
        {"header": first_tensor(shape="wide")},
        {"header": first_tensor(shape=["1"])},
        {"header": first_tensor(spectra="yes")},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_file_whose_parts_do_not_fit_each_other_is_told_so(surveyed, change):
    _, _, survey = surveyed
    content = pack(survey)
    assert pack(unpack(changed(content), "here")) == content
    with pytest.raises(mw.SurveyError, match="here: the header and the arrays of this survey do not fit each other"):
        unpack(changed(content, **change), "here")


def test_limits_of_nothing_are_told_so(surveyed):
    with pytest.raises(mw.SurveyError, match="of no tensor"):
        mw.limits(replace(surveyed[2], tensors=()))


def test_counts_of_more_elements_than_their_type_holds_are_added_up_before(surveyed, monkeypatch):
    paths, _, survey = surveyed
    monkeypatch.setattr(weights, "_COUNTED", 1)  # after every piece
    assert pack(mw.survey(paths[0], paths[1:])) == pack(survey)


@pytest.mark.parametrize(
    ("place", "bit"), [(8, 0x01), (8, 0x20), (10, 0x01), (10, 0x04)], ids=["encrypted", "patched", "unknown", "bzip2"]
)
def test_a_turned_bit_in_the_directory_of_the_zip_is_told_as_damage(tmp_path, place, bit):
    for name in ("base", "expert"):
        save_model(tmp_path / name, {"w": np.ones(3, np.float32)})
    content = bytearray(pack(mw.survey(tmp_path / "base", [tmp_path / "expert"])))
    content[content.index(b"PK\x01\x02") + place] ^= bit
    with pytest.raises(mw.SurveyError, match="here: expected the file of a survey, found something else or a damaged"):
        unpack(bytes(content), "here")


def test_an_interrupted_survey_goes_on_where_it_was(paths, tmp_path, monkeypatch):
    whole = mw.survey(paths[0], paths[1:])
    looked = []
    take = carry_out.survey_tensor

    def interrupted(pieces, *rest):
        if len(looked) == 3:
            raise KeyboardInterrupt
        looked.append(pieces[0].job.name)
        return take(pieces, *rest)

    out = tmp_path / "s.survey"
    monkeypatch.setattr(carry_out, "survey_tensor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mw.survey(paths[0], paths[1:], out=out, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == [".s.survey.mergewise-partial"]
    journal = tmp_path / ".s.survey.mergewise-partial"
    journal.write_bytes(journal.read_bytes() + b"cut short")
    first = list(looked)
    looked[:] = []
    monkeypatch.setattr(
        carry_out, "survey_tensor", lambda pieces, *rest: looked.append(pieces[0].job.name) or take(pieces, *rest)
    )
    found = mw.survey(paths[0], paths[1:], out=out, threads=1)
    assert not set(first) & set(looked)
    assert out.read_bytes() == pack(found) == pack(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["s.survey"]


def test_a_second_survey_of_the_same_models_to_the_same_place_is_told_to_wait(paths, tmp_path):
    out = tmp_path / "s.survey"
    told = []

    def another(*_):
        if not told:
            with pytest.raises(mw.SurveyError, match=r"s\.survey: another survey is being written here; wait for it"):
                mw.survey(paths[0], paths[1:], out=out, spectra=False, threads=1)
            told.append(True)

    first = mw.survey(paths[0], paths[1:], out=out, spectra=False, threads=1, progress=another)
    assert told
    assert out.read_bytes() == pack(first)
    assert [path.name for path in tmp_path.iterdir()] == ["s.survey"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_up_during_a_survey_is_told_in_a_sentence(paths, tmp_path, monkeypatch):
    start = SurveyJournal.__init__

    def on_a_full_disk(self, *arguments):
        start(self, *arguments)
        self._file.close()
        self._file = Path("/dev/full").open("wb")  # noqa: SIM115 - the journal closes it

    monkeypatch.setattr(SurveyJournal, "__init__", on_a_full_disk)
    with pytest.raises(mw.SurveyError, match=r"cannot be written: No space left on device; make room, and the same"):
        mw.survey(paths[0], paths[1:], out=tmp_path / "s.survey", spectra=False, threads=1)


def test_what_is_not_finite_is_told_by_tensor_and_model(tmp_path):
    paths, models = family(tmp_path)
    spoilt = {name: value.copy() for name, value in models[2].items()}
    spoilt["layers.0.wide.weight"][3, 7] = np.inf
    save_model(paths[2], {**spoilt, "ids": np.arange(5, dtype=np.int64)})
    with pytest.raises(
        mw.MergeError, match=r"'layers.0.wide.weight' of .*expert-2 holds inf at \[3, 7\].*survey stopped"
    ):
        mw.survey(paths[0], paths[1:])


def test_a_recipe_names_its_models(paths, tmp_path):
    recipe = {
        "merge_method": "linear", "base_model": str(paths[0]),
        "models": [{"model": str(path), "parameters": {"weight": 1.0}} for path in paths[:3]],
    }  # fmt: skip
    survey = mw.survey(write_recipe(tmp_path / "r.yaml", recipe))
    assert (survey.base, survey.experts) == (str(paths[0]), tuple(map(str, paths[1:3])))
    del recipe["base_model"]
    with pytest.raises(mw.RecipeError, match="needs 'base_model'"):
        mw.survey(write_recipe(tmp_path / "r.yaml", recipe))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"density": 1.0}, "must be above 0 and below 1, found 1.0"),
        ({"memory": "200MiB"}, "this survey of 4 models needs at least"),
        ({"tensors": ["nothing"]}, "found none of these names"),
    ],
)
def test_what_cannot_be_surveyed_is_told_before_it_is_read(paths, options, sentence):
    with pytest.raises(mw.MergewiseError, match=sentence):
        mw.survey(paths[0], paths[1:], **options)


def test_too_many_experts_are_refused(paths):
    with pytest.raises(mw.RecipeError, match="1 to 64 experts, found 65"):
        mw.survey(paths[0], [paths[1]] * 65)


def test_claims_of_many_experts_come_from_a_sample_that_is_all_of_a_small_tensor(tmp_path):
    paths, models = family(tmp_path, experts=18, dtype="float32")
    survey = mw.survey(paths[0], paths[1:], spectra=False)
    assert survey.sampled_claims
    for name, all_seen in (("embed.weight", True), ("layers.0.long", False)):
        record = next(r for r in survey.tensors if r.name == name)
        assert (record.claims.elements == record.numel) == all_seen
        tau, _ = changes(models, name)
        claimed = np.abs(tau).astype(np.float32) >= record.thresholds[:, None]
        covered, conflict = np.transpose([coverage_and_conflict(record, some) for some in (range(18), [0, 2])])
        up, down = ((claimed & side) for side in (tau > 0, tau < 0))
        expected = [(up | down).any(0).mean(), (up | down)[[0, 2]].any(0).mean()]
        np.testing.assert_allclose(covered, expected, atol=1e-12 if all_seen else 0.012)
        expected = [(up.any(0) & down.any(0)).mean(), (up[[0, 2]].any(0) & down[[0, 2]].any(0)).mean()]
        np.testing.assert_allclose(conflict, expected, atol=1e-12 if all_seen else 0.012)


@pytest.mark.parametrize("experts", [9, 12])
def test_masks_of_more_than_eight_experts_are_counted_over_all_coordinates(tmp_path, experts):
    paths, models = family(tmp_path, experts=experts)
    survey = mw.survey(paths[0], paths[1:], spectra=False)
    record = next(r for r in survey.tensors if r.name == "layers.0.long")
    tau, _ = changes(models, record.name)
    claimed = np.abs(tau).astype(np.float32) >= record.thresholds[:, None]
    covered, conflict = coverage_and_conflict(record, range(experts))
    assert record.claims.elements == record.numel
    np.testing.assert_allclose(covered, claimed.any(axis=0).mean())
    up, down = (claimed & (tau > 0)).any(axis=0), (claimed & (tau < 0)).any(axis=0)
    np.testing.assert_allclose(conflict, (up & down).mean())


def test_an_expert_that_changed_nothing_has_no_rank_and_no_claims(tmp_path):
    paths, _ = family(tmp_path, dtype="float32")
    save_file(paths[2] / "model.safetensors", load_file(paths[0] / "model.safetensors"))
    survey = mw.survey(paths[0], paths[1:])
    record = next(r for r in survey.tensors if r.spectra is not None)
    assert not record.spectra.ranks[1].any()
    assert not record.gram[1].any()
    assert coverage_and_conflict(record, [1])[0] == 0.0
    assert record.spectra.occupancy[1, 0] == pytest.approx(record.spectra.occupancy[1, 1])
