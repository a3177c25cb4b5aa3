"""A survey reads its models once, whatever they are made of; what that is may cost time, and never changes a byte."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mergewise as mw
import support
from adapters import linear_adapter, materialised, save_adapter
from engine.surveys import BLOCK, changes, coverage_and_conflict, family
from mergewise.engine.survey import carry_out, thresholds
from mergewise.engine.survey.file import pack
from mergewise.statistics.magnitude import kept_count
from support import save_model

LONG = "layers.0.long"
NAMES = ("embed.weight", LONG, "layers.0.wide.weight", "layers.1.wide.weight", "layers.1.norm.weight", "scale")


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    paths, models = family(tmp_path_factory.mktemp("family"))
    return paths, models, mw.survey(paths[0], paths[1:], threads=1, spectra=False)


@pytest.fixture(scope="module")
def parts(surveyed):
    paths, _, _ = surveyed
    return [mw.survey(paths[0], paths[1:], tensors=[name], spectra=False) for name in NAMES]


def of(survey, name):
    return next(record for record in survey.tensors if record.name == name)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(len(NAMES))), cut=st.integers(1, len(NAMES) - 1))
def test_surveys_of_parts_combine_associatively_in_any_order(surveyed, parts, order, cut):
    ordered = [parts[place] for place in order]
    left, right = (reduce(mw.Survey.combine, some) for some in (ordered[:cut], ordered[cut:]))
    assert pack(left.combine(right)) == pack(reduce(mw.Survey.combine, ordered)) == pack(surveyed[2])


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=st.integers(1, 4), threads=st.integers(1, 3))
def test_any_pieces_and_threads_give_the_same_survey(surveyed, blocks, threads):
    paths, _, survey = surveyed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carry_out, "_PIECE", blocks * BLOCK)
        assert pack(mw.survey(paths[0], paths[1:], threads=threads, spectra=False)) == pack(survey)


@pytest.mark.parametrize(
    "place",
    [
        lambda low, high: (high, high + np.uint32(9)),
        lambda low, high: (low // 2, low),
        lambda low, high: (np.ones_like(low), np.full_like(high, 1 << 30)),
        lambda low, high: (low, low + np.uint32(1)),
    ],
    ids=["misses above", "misses below", "holds everything", "holds one magnitude, the wrong one"],
)
def test_a_bracket_that_misses_or_overflows_changes_no_byte(surveyed, monkeypatch, place):
    paths, _, survey = surveyed
    search = thresholds.sampled_bracket
    monkeypatch.setattr(thresholds, "sampled_bracket", lambda *given: place(*search(*given)))
    if place(np.uint32(8), np.uint32(16))[0] == 1:
        monkeypatch.setattr(thresholds, "ASIDE_BYTES", 1 << 16)
    assert pack(mw.survey(paths[0], paths[1:], spectra=False)) == pack(survey)


def test_a_long_tensor_is_read_once_but_for_a_sample(surveyed, monkeypatch):
    from mergewise.engine import pieces

    paths, models, _ = surveyed
    monkeypatch.setattr(carry_out, "_PIECE", BLOCK)
    read = 0
    divide = pieces.Workspace._divide

    def counted(self, piece):
        nonlocal read
        read += piece.count
        return divide(self, piece)

    monkeypatch.setattr(pieces.Workspace, "_divide", counted)
    mw.survey(paths[0], paths[1:], tensors=[LONG], spectra=False)
    sampled = 2 * (1 << 16) + (1 << 14)
    assert models[0][LONG].size <= read <= models[0][LONG].size + sampled


def test_claims_are_exact_where_many_changes_are_equal_or_nought(tmp_path):
    rng = np.random.default_rng(0)
    base = {"w": np.zeros(3 * BLOCK + 5, np.float32)}
    few = [0.0, 1.0, -1.0, 2.0, -2.0]
    shares = [[0.2, 0.3, 0.3, 0.1, 0.1], [0.9, 0.02, 0.02, 0.03, 0.03], [0.0, 0.4, 0.4, 0.1, 0.1]]
    experts = [{"w": rng.choice(few, base["w"].size, p=p).astype(np.float32)} for p in shares]
    paths = [save_model(tmp_path / f"m{i}", model) for i, model in enumerate([base, *experts])]
    record = of(mw.survey(paths[0], paths[1:], spectra=False), "w")
    tau = np.stack([expert["w"] for expert in experts])
    kept = kept_count(0.2, base["w"].size)
    np.testing.assert_array_equal(record.thresholds, np.sort(np.abs(tau), axis=1)[:, -kept])
    claimed = (np.abs(tau) >= record.thresholds[:, None]) & (tau != 0)
    for mask in (0b001, 0b010, 0b101, 0b111):
        chosen = [i for i in range(3) if mask >> i & 1]
        up, down = ((claimed & side)[chosen].any(axis=0) for side in (tau > 0, tau < 0))
        expected = (up | down).mean(), (up & down).mean()
        assert coverage_and_conflict(record, chosen) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1e-13), ("float32", 1e12), ("float64", 1.0), ("float32", 1.0)]
)
def test_sums_keep_their_digits_whatever_the_size_of_changes(tmp_path, dtype, scale):
    rng = np.random.default_rng(1)
    base = {"w": (rng.normal(size=BLOCK + 77) * scale).astype(dtype)}
    experts = [{"w": (base["w"] + rng.normal(size=BLOCK + 77) * scale * 0.1).astype(dtype)} for _ in range(2)]
    experts.append({"w": (base["w"] * (1 + rng.normal(size=BLOCK + 77) * 1e-3)).astype(dtype)})
    paths = [save_model(tmp_path / f"m{i}", model) for i, model in enumerate([base, *experts])]
    record = of(mw.survey(paths[0], paths[1:], spectra=False), "w")
    tau, flat = changes([base, *experts], "w")
    rows = np.vstack([flat, tau])
    exact = rows @ rows.T
    lengths = np.sqrt(np.diagonal(exact))
    assert (np.abs(record.products - exact) <= 1e-6 * np.outer(lengths, lengths)).all()
    for column, power in enumerate((1, 3, 4)):
        most = (np.abs(tau) ** power).sum(1)
        assert (np.abs(record.sums[:, column] - (tau**power).sum(1)) <= 1e-6 * most).all()


def test_products_of_experts_that_were_surveyed_before_are_kept(surveyed):
    paths, _, survey = surveyed
    before = mw.survey(paths[0], paths[1:3], spectra=False)
    marked = [replace(record, products=record.products + 1.0) for record in before.tensors]
    extended = mw.survey(paths[0], paths[1:], extend=replace(before, tensors=tuple(marked)), spectra=False)
    for record, whole in zip(extended.tensors, survey.tensors, strict=True):
        np.testing.assert_array_equal(record.products[:3, :3], whole.products[:3, :3] + 1.0)
        np.testing.assert_array_equal(record.products[3], whole.products[3])


def test_an_extended_survey_of_many_experts_has_the_bytes_of_a_survey_of_all(tmp_path):
    paths, _ = family(tmp_path, experts=8)
    survey = mw.survey(paths[0], paths[1:], spectra=False)
    before = mw.survey(paths[0], paths[1:7], spectra=False)
    extended = mw.survey(paths[0], paths[1:], extend=before, spectra=False)
    assert pack(replace(extended, remarks=survey.remarks)) == pack(survey)


KILLED = """
import os, signal, sys
import mergewise as mw
from mergewise.engine.survey import carry_out
looked, take = [], carry_out.survey_tensor
def survey_tensor(pieces, *rest):
    if len(looked) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    looked.append(pieces[0].job.name)
    return take(pieces, *rest)
carry_out.survey_tensor = survey_tensor
mw.survey(sys.argv[2], sys.argv[3:], out=sys.argv[1], threads=1, spectra=False)
"""


def test_a_survey_that_is_killed_goes_on_where_it_was(surveyed, tmp_path, monkeypatch):
    paths, _, survey = surveyed
    out = tmp_path / "s.survey"
    command = [sys.executable, "-c", KILLED, str(out), *map(str, paths)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, capture_output=True, timeout=300, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    looked = []
    take = carry_out.survey_tensor
    monkeypatch.setattr(
        carry_out, "survey_tensor", lambda pieces, *rest: looked.append(pieces[0].job.name) or take(pieces, *rest)
    )
    mw.survey(paths[0], paths[1:], out=out, spectra=False)
    assert len(looked) == len(survey.tensors) - 3
    assert out.read_bytes() == pack(survey)
    assert [path.name for path in tmp_path.iterdir()] == ["s.survey"]


class TestSources:
    """Experts that are adapters, shards, or on another machine."""

    @pytest.fixture
    def base(self, tmp_path):
        base = support.model_arrays(0, width=40)
        save_model(tmp_path / "base", base)
        return base

    def test_an_adapter_is_surveyed_as_the_model_it_makes(self, base, tmp_path):
        tensors = linear_adapter(1, base)
        save_adapter(tmp_path / "adapter", tensors)
        made = {k: v.astype(np.float32) for k, v in materialised(base, tensors, lambda module: 2.0).items()}
        save_model(tmp_path / "made", made)
        save_model(tmp_path / "other", support.expert_of(base, 2))
        found, whole = (
            mw.survey(tmp_path / "base", [tmp_path / name, tmp_path / "other"]) for name in ("adapter", "made")
        )
        for one, two in zip(found.tensors, whole.tensors, strict=True):
            assert one.name == two.name
            lengths = np.sqrt(np.diagonal(two.products))
            assert (np.abs(one.products - two.products) <= 1e-6 * np.outer(lengths, lengths)).all()
            if one.spectra is not None:
                np.testing.assert_allclose(one.spectra.ranks, two.spectra.ranks, rtol=1e-3, atol=1e-6)
        up = of(found, "model.layers.0.mlp.up_proj.weight")
        assert 1.0 <= up.spectra.ranks[0, 2] <= 4.01  # the adapter's rank

    def test_shards_are_surveyed_as_one_file_is(self, base, tmp_path):
        for number in (1, 2):
            expert = support.expert_of(base, number)
            save_model(tmp_path / f"e{number}", expert)
            save_model(tmp_path / f"s{number}", expert, shards=3)
        one, other = (mw.survey(tmp_path / "base", [tmp_path / f"{x}{n}" for n in (1, 2)]) for x in "es")
        assert pack(replace(one, experts=(), identities=())) == pack(replace(other, experts=(), identities=()))

    def test_models_on_another_machine_are_surveyed_as_local_ones_are(
        self, base, tmp_path, file_server, quick, monkeypatch
    ):
        monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
        save_model(tmp_path / "e1", support.expert_of(base, 1), shards=2)
        save_adapter(tmp_path / "a1", linear_adapter(1, base))
        for name in ("base", "e1", "a1"):
            shutil.copytree(tmp_path / name, file_server.folder / name)
        near, far = (
            mw.survey(f"{root}/base", [f"{root}/e1", f"{root}/a1"], access=quick)
            for root in (tmp_path, file_server.url)
        )
        alike = {"base": "", "experts": (), "identities": (), "remarks": ()}
        assert pack(replace(near, **alike)) == pack(replace(far, **alike))
