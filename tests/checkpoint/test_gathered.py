"""Rows of an embedding gathered from several models, read by any range of bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.checkpoint import ArrayCheckpoint, GatheredCheckpoint
from mergewise.checkpoint.gathered import AVERAGE, MEAN, ZERO, RowMap

ARRAYS = [np.random.default_rng(i).normal(size=(5, 3)).astype(np.float32) for i in range(3)]


def gathered(model, row, averages=(), arrays=ARRAYS):
    sources = [ArrayCheckpoint({"e": array, "other": array}, f"m{i}") for i, array in enumerate(arrays)]
    places = {"e": [(source, source.tensors["e"]) for source in sources]}
    rows = RowMap(np.array(model, np.int32), np.array(row, np.int64), tuple(averages))
    return GatheredCheckpoint(sources[0], rows, places, {"vocab_size": len(model)})


def read(view, name, start, count):
    width = {"F32": 4, "F64": 8, "F16": 2}[view.tensors[name].dtype]
    buffer = np.empty(count * width, np.uint8)
    view.read_into(view.tensors[name], start * width, buffer)
    return buffer.view({4: np.float32, 8: np.float64, 2: np.float16}[width])


def whole(model, row, averages=(), arrays=ARRAYS):
    """The same rows with plain indexing."""
    found = []
    for m, r in zip(model, row, strict=True):
        if m >= 0:
            found.append(arrays[m][r].astype(np.float64))
        elif m == AVERAGE:
            found.append(np.mean([arrays[a][b].astype(np.float64) for a, b in averages[r]], axis=0))
        elif m == ZERO:
            found.append(np.zeros(3))
        else:
            found.append(np.mean(found[: list(model).index(MEAN)], axis=0))
    return np.array(found)


ROW = st.one_of(
    st.tuples(st.integers(0, 2), st.integers(0, 4)), st.just((ZERO, 0)), st.tuples(st.just(AVERAGE), st.integers(0, 1))
)


@settings(deadline=None, max_examples=200)
@given(st.lists(ROW, min_size=1, max_size=12), st.integers(0, 3), st.data())
def test_any_range_of_any_rows_is_what_indexing_gives(rows, padding, data):
    model, row = map(list, zip(*(rows + [(MEAN, 0)] * padding), strict=True))
    averages = (((0, 1), (1, 2)), ((2, 0), (1, 4), (0, 3)))
    view = gathered(model, row, averages)
    expected = whole(model, row, averages).reshape(-1)
    start = data.draw(st.integers(0, expected.size))
    count = data.draw(st.integers(0, expected.size - start))
    found = read(view, "e", start, count)
    if found.dtype == np.float32:
        assert np.array_equal(found, expected[start : start + count].astype(np.float32))
    else:
        np.testing.assert_allclose(found, expected[start : start + count], rtol=1e-14)


def test_rows_that_are_only_moved_keep_their_dtype_and_their_bits():
    half = [array.astype(np.float16) for array in ARRAYS]
    view = gathered([0, 2, 1], [4, 0, 0], arrays=half)
    assert view.tensors["e"].dtype == "F16"
    assert np.array_equal(read(view, "e", 0, 9).reshape(3, 3), np.stack([half[0][4], half[2][0], half[1][0]]))


def test_rows_of_models_with_other_dtypes_are_shown_in_float64():
    arrays = [ARRAYS[0], ARRAYS[1].astype(np.float16)]
    view = gathered([0, 1], [1, 2], arrays=arrays)
    assert view.tensors["e"].dtype == "F64"
    assert np.array_equal(read(view, "e", 0, 6).reshape(2, 3), [arrays[0][1], arrays[1][2]])


def test_other_tensors_are_those_of_its_own_checkpoint():
    view = gathered([1], [0])
    assert np.array_equal(read(view, "other", 0, 15).reshape(5, 3), ARRAYS[0])
    assert view.tensors["e"].shape == (1, 3)
    assert view.config() == {"vocab_size": 1}


@pytest.mark.parametrize("model", [[0, 1, 1], [ZERO, ZERO, 0]])
def test_runs_are_read_across_their_borders(model):
    view = gathered(model, [0, 0, 1])
    assert np.array_equal(read(view, "e", 2, 5), whole(model, [0, 0, 1]).astype(np.float32).reshape(-1)[2:7])
