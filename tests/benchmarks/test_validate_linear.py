"""The linear model: its closed forms against samples and against each other."""

import numpy as np
import pytest

from mergewise.theory.distance import distances
from validate_linear import NOISE, excess, expected_excess, input_metric, loss, make_family, mean_excess, train


@pytest.fixture(scope="module")
def family():
    return make_family(0, shared=0.2, spread=0.4, decay=1.0)


def test_the_loss_in_closed_form_is_that_of_a_large_sample(family):
    rng = np.random.default_rng(5)
    weights = family.base + 0.3 * sum(family.changes)
    for task in (0, 5):
        root = np.linalg.cholesky(family.covariances[task])
        x = rng.standard_normal((200_000, root.shape[0])) @ root.T
        y = x @ family.targets[task].T + NOISE * rng.standard_normal((len(x), family.base.shape[0]))
        sampled = np.sum((x @ weights.T - y) ** 2, axis=1)
        assert loss(family, weights, task) == pytest.approx(sampled.mean(), abs=5 * sampled.std() / np.sqrt(len(x)))


def test_an_expert_has_no_excess_and_the_base_has_one(family):
    for task in range(8):
        assert excess(family, [task], 1.0, task) == pytest.approx(0.0, abs=1e-9)
        assert excess(family, [task], 0.0, task) == pytest.approx(1.0)
    assert mean_excess(family, [3], 0.0) == pytest.approx(1.0)


def test_the_smallest_change_that_fits_is_found():
    rng = np.random.default_rng(2)
    base, x, y = rng.standard_normal((3, 12)), rng.standard_normal((5, 12)), rng.standard_normal((5, 3))
    change = train(base, x, y)
    np.testing.assert_allclose(x @ (base + change).T, y, atol=1e-10)
    unseen = np.linalg.svd(x)[2][5:]
    np.testing.assert_allclose(change @ unseen.T, 0.0, atol=1e-10)


@pytest.mark.parametrize(("k", "scale", "examples"), [(2, 0.5, 12), (4, 0.25, 24), (6, 0.4, 48), (8, 1.0, 16)])
def test_the_expected_excess_over_random_designs_is_the_mean_of_many(k, scale, examples):
    rng = np.random.default_rng([k, examples])
    inputs, outputs, seen = 48, 24, []
    for _ in range(150):
        targets = rng.standard_normal((k, outputs, inputs))
        designs = rng.standard_normal((k, examples, inputs))
        changes = [train(np.zeros((outputs, inputs)), x, x @ w.T) for x, w in zip(designs, targets, strict=True)]
        metric = input_metric(changes, designs[0])
        seen.append((distances(metric, range(k), scale)[0] * metric[0, 0], metric[0, 0]))
    merged, own = np.mean(seen, axis=0)
    assert merged / own == pytest.approx(expected_excess(k, scale, examples), rel=0.03)


def test_the_distance_in_the_metric_of_the_training_inputs_is_the_excess_of_the_training_loss():
    """An expert that was trained to the end has no gradient left, so the loss around it is a quadratic form."""
    rng = np.random.default_rng(7)
    base = rng.standard_normal((6, 20))
    data = [(rng.standard_normal((n, 20)), rng.standard_normal((n, 6))) for n in (9, 60, 15)]
    changes = [train(base, x, y) for x, y in data]

    def measured(weights, task):
        x, y = data[task]
        return np.sum((x @ weights.T - y) ** 2)

    for task in range(3):
        own, start = measured(base + changes[task], task), measured(base, task)
        merged = measured(base + 0.4 * (changes[0] + changes[1] + changes[2]), task)
        metric = input_metric(changes, data[task][0])
        assert distances(metric, [0, 1, 2], 0.4)[task] == pytest.approx((merged - own) / (start - own))
