"""What is said of a set of experts, on weights whose relations are known."""

import numpy as np
import pytest

import quantities
from quantities import BASELINES, DIRECTIONS, for_expert, for_set, know, opposite_signs
from support import save_model


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Four experts: two opposite in half of the coordinates, one apart from these, and a copy of it."""
    folder = tmp_path_factory.mktemp("quantities")
    rng = np.random.default_rng(0)
    base = {"a.weight": rng.normal(size=(32, 32)), "fixed.weight": rng.normal(size=(8, 8))}
    one = np.abs(rng.normal(size=(32, 32)))
    flip = np.where(np.arange(32) < 16, 1.0, -1.0)
    apart = rng.normal(size=(32, 32))
    for i, change in enumerate([np.zeros((32, 32)), one, one * flip, apart, apart]):
        model = base | {"a.weight": base["a.weight"] + 0.25 * change}
        save_model(folder / f"m{i}", {name: value.astype(np.float32) for name, value in model.items()})
    return [folder / f"m{i}" for i in range(5)]


def test_opposite_signs_are_counted_where_something_changed(paths, monkeypatch):
    found = opposite_signs(paths[0], paths[1:])
    assert found[0, 1] == pytest.approx(0.5)
    assert found[2, 3] == found[0, 0] == 0.0
    assert 0.4 < found[0, 2] < 0.6
    monkeypatch.setattr(quantities, "_BLOCK", 100)
    np.testing.assert_allclose(opposite_signs(paths[0], paths[1:]), found)


def test_all_quantities_are_given_and_copies_stand_out(paths):
    metric = np.stack([np.eye(4)] * 4)
    known = know(paths[0], paths[1:], {"input distance": metric, "output distance": metric}, threads=1)
    opposite, copies, apart = (for_set(known, chosen, 0.5) for chosen in ([0, 1], [2, 3], [0, 2]))
    assert set(opposite) == set(DIRECTIONS) - {"overlap", "agreement", "nearest", "changes kept", "base agreement"}
    assert set(BASELINES) < set(DIRECTIONS)
    assert copies["mean cosine"] == pytest.approx(1.0)
    assert abs(opposite["mean cosine"]) < 0.3
    assert copies["distance"] == pytest.approx(0.0, abs=1e-9)
    assert copies["marginal gain"] == pytest.approx(0.0, abs=1e-6)
    assert apart["distance"] > 0.3
    assert copies["occupancy"] == pytest.approx(known.limits.matrices[0].ranks[2, 1] / 32)
    assert copies["crosstalk"] == pytest.approx(1.0, rel=1e-3)
    assert apart["crosstalk"] < copies["crosstalk"]
    assert copies["input distance"] == pytest.approx(0.5)
    assert (opposite["k"], opposite["norm"]) == (2.0, pytest.approx(np.sqrt(known.gram[[0, 1], [0, 1]]).mean()))


def test_companions_are_told_apart(paths):
    known = know(paths[0], paths[1:], threads=1)
    beside_copy, beside_other = for_expert(known, [2, 3], 0.5, 2), for_expert(known, [2, 0], 0.5, 2)
    assert beside_copy["mean cosine"] == pytest.approx(1.0)
    assert beside_copy["distance"] == pytest.approx(0.0, abs=1e-9)
    spectra = next(one.spectra for one in known.survey.tensors if one.spectra is not None)
    assert beside_copy["overlap"] == pytest.approx(spectra.overlaps[:, 2, 2].mean(), rel=1e-3)  # 1/participation ratio
    assert beside_copy["overlap"] > beside_other["overlap"]
    assert "occupancy" not in beside_copy  # which is of all of a set together
    assert beside_copy["conflict"] == pytest.approx(0.0, abs=1e-12)
    assert set(beside_copy) < set(DIRECTIONS)
