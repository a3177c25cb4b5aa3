"""Whether answers agree, on outputs small enough to see."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from answers import Answers


@pytest.fixture
def known():
    at_base = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])  # the base: 0, 0, 1, 0
    own = np.array([[-1.0, 3.0], [-1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])  # its expert: 1, 1, 1, 0
    other = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 0.0], [0.0, 4.0]])
    return Answers(at_base, np.stack([own, other])[:, None], [np.eye(2)])


@pytest.mark.parametrize(
    ("chosen", "scale", "share", "kept"),
    [
        ([0], 1.0, 1.0, 1.0),
        ([], 1.0, 0.5, 0.0),
        ([0, 1], 0.5, 0.5, 0.5),  # 1, 0, 1, 1
        ([0, 1], 0.0, 0.5, 0.0),
    ],
)
def test_a_sum_agrees_where_added_changes_lead_to_the_expert_s_answer(chosen, scale, share, kept, known):
    outputs = known.foreseen(chosen, scale, 0)
    assert known.agreement(outputs, 0) == share
    assert known.kept(outputs, 0) == kept


def test_the_nearest_of_other_inputs_is_an_answer_too(known):
    assert known.nearest(known.foreseen([0], 1.0, 0), 0) == 1.0  # (0, 3), (0, 1), (0, 1), (1, 0): 1, 0, 0, 0
    assert known.nearest(known.foreseen([1], 1.0, 0), 0) == 0.5  # (1, 0), (5, 0), (0, 1), (1, 4): 1, 0, 3, 2
