"""Whether answers agree, on outputs small enough to see."""

import numpy as np

from answers import Answers


def test_a_merge_agrees_where_added_changes_lead_to_the_expert_s_answer():
    at_base = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])  # the base: 0, 0, 1, 0
    own = np.array([[-1.0, 3.0], [-1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])  # its expert: 1, 1, 1, 0
    other = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 0.0], [0.0, 4.0]])
    found = Answers(at_base, np.stack([own, other])[:, None], [np.eye(2)])
    assert found.agreement([0], 1.0, 0) == 1.0
    assert found.agreement([], 1.0, 0) == 0.5
    assert found.agreement([0, 1], 0.5, 0) == 0.5  # at half the scale: 1, 0, 1, 1
    assert found.agreement([0, 1], 0.0, 0) == 0.5
