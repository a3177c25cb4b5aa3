"""Arrays as people have them: any memory layout, any byte order, any scalar, and what merge_arrays makes of lists."""

import re

import numpy as np
import pytest

import mergewise as mw
from engine.models import assert_identical
from mergewise.engine.sweep import merge_sweep_to_arrays
from support import save_model


def family(dtype="float32", shape=(6, 8)):
    rng = np.random.default_rng(7)
    base = {"w": rng.normal(size=shape).astype(dtype)}
    return base, [{"w": (base["w"] + rng.normal(size=shape)).astype(dtype)} for _ in range(2)]


LAYOUTS = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "Fortran": np.asfortranarray,
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["average", "ties", "slerp"])
def test_arrays_in_any_memory_layout_are_read_as_they_index(layout, method):
    base, experts = family()
    experts = experts[: 1 if method == "slerp" else 2]
    odd = [{k: LAYOUTS[layout](v) for k, v in m.items()} for m in (base, *experts)]
    assert_identical(mw.merge_arrays(method, odd[0], odd[1:]), mw.merge_arrays(method, base, experts))


def test_experts_may_come_from_a_generator():
    base, experts = family()
    expected = mw.merge_arrays("ties", base, experts, weight=[0.5, 1.0])
    assert_identical(mw.merge_arrays("ties", base, (expert for expert in experts), weight=[0.5, 1.0]), expected)


@pytest.mark.parametrize(
    ("experts", "options", "told"),
    [
        ([None, None], {}, "expert 1: expected a dictionary of arrays by name, found NoneType"),
        ({"w": np.ones(2)}, {}, "expert 1: expected a dictionary of arrays by name, found str"),
        ([{1: np.ones(2)}] * 2, {}, "expert 1: expected names of tensors that are text, found 1"),
        ([{"w": np.ones(2)}] * 2, {"threads": 2.5}, "--threads must be at least 1 and whole, found 2.5"),
        ([{"w": np.ones(2)}] * 2, {"threads": "2"}, "--threads must be at least 1 and whole, found '2'"),
        ([{"w": np.ones(2)}] * 2, {"memory": 3}, "--memory is 3 bytes, but"),
    ],
)
def test_what_is_no_model_or_no_number_is_refused_in_a_sentence(experts, options, told):
    with pytest.raises(mw.MergewiseError, match=re.escape(told)):
        mw.merge_arrays("average", None, experts, **options)


@pytest.mark.parametrize("recipe", [None, {"merge_method": "average"}, [{"merge_method": "average"}]])
def test_what_is_no_recipe_is_refused_in_a_sentence(recipe, tmp_path):
    told = f"Expected a Recipe, or the path of a file that holds one, found {type(recipe).__name__}"
    for refused in (mw.plan, mw.merge_to_arrays, lambda given: mw.merge(given, tmp_path / "out")):
        with pytest.raises(mw.RecipeError, match=told):
            refused(recipe)


def test_read_only_arrays_can_be_merged():
    base, experts = family()
    expected = mw.merge_arrays("ties", base, experts)
    for model in (base, *experts):
        model["w"].flags.writeable = False
    assert_identical(mw.merge_arrays("ties", base, experts), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("method", ["average", "ties"])
def test_arrays_of_foreign_byte_order_are_read_as_the_numbers_they_hold_or_refused(method, dtype):
    base, experts = family(dtype)
    swapped = [{k: v.astype(v.dtype.newbyteorder()) for k, v in m.items()} for m in (base, *experts)]
    try:
        found = mw.merge_arrays(method, swapped[0], swapped[1:])
    except mw.CheckpointError:
        return
    assert np.array_equal(found["w"], mw.merge_arrays(method, base, experts)["w"])


def test_integers_of_foreign_byte_order_are_copied_as_the_numbers_they_hold_or_refused():
    base = {"ids": np.arange(5, dtype=">i4")}
    try:
        found = mw.merge_arrays("average", None, [base, base])
    except mw.CheckpointError:
        return
    assert found["ids"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", ["longdouble", "complex128", "datetime64[s]", "object", "S3"])
def test_arrays_that_no_checkpoint_can_store_are_refused_by_name(dtype):
    array = np.zeros(3, dtype)
    with pytest.raises(mw.CheckpointError, match="tensor 'w' has dtype"):
        mw.merge_arrays("average", None, [{"w": array}])


def test_the_result_is_fresh_memory_that_can_be_written_to():
    base, experts = family()
    found = mw.merge_arrays("ties", base, experts, weight=[0.0, 0.0])
    assert found["w"].flags.writeable
    assert not np.shares_memory(found["w"], base["w"])
    found["w"][:] = 0
    assert base["w"].any()


def test_the_same_array_may_stand_for_several_experts_and_the_base():
    base, _ = family()
    assert np.array_equal(mw.merge_arrays("ties", base, [base, base])["w"], base["w"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_asked_dtype_is_the_dtype_of_the_result(dtype):
    base, experts = family()
    assert mw.merge_arrays("ties", base, experts, dtype=dtype)["w"].dtype.name == dtype


def test_an_unknown_dtype_is_refused():
    base, experts = family()
    with pytest.raises(mw.RecipeError, match="dtype"):
        mw.merge_arrays("ties", base, experts, dtype="float8")


@pytest.mark.parametrize("memory", [1, "1", "0.5GiB ", "2 GB", 1 << 33])
def test_memory_is_a_number_of_bytes_or_a_size_in_words(memory):
    base, experts = family()
    if memory in {1, "1"}:
        with pytest.raises(mw.RecipeError, match="needs at least"):
            mw.merge_arrays("ties", base, experts, memory=memory)
    else:
        assert mw.merge_arrays("ties", base, experts, memory=memory).keys() == {"w"}


@pytest.mark.parametrize("memory", ["much", "", "1XB", "-1GiB", "1e9", 1e9, None, -5])
def test_what_is_no_size_is_refused_in_one_sentence(memory):
    base, experts = family()
    with pytest.raises(mw.RecipeError) as caught:
        mw.merge_arrays("ties", base, experts, memory=memory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_refused(threads):
    base, experts = family()
    with pytest.raises(mw.RecipeError, match="threads must be at least 1"):
        mw.merge_arrays("ties", base, experts, threads=threads)


def test_arrays_that_do_not_fit_each_other_are_named():
    base, (expert, _) = family()
    with pytest.raises(mw.CheckpointError, match=r"'w' has shape \[8, 6\] in expert 1, expected \[6, 8\]"):
        mw.merge_arrays("ties", base, [{"w": expert["w"].T}])
    with pytest.raises(mw.CheckpointError, match=r"expert 1 .*'w'"):
        mw.merge_arrays("ties", base, [{"v": expert["w"]}])


def test_integers_that_differ_are_copied_with_a_warning(tmp_path):
    models = [{"ids": np.arange(3) + i, "w": np.ones(2, "f4")} for i in range(2)]
    with pytest.warns(UserWarning, match="'ids' holds integers or booleans that differ.*taken from expert 1") as caught:
        assert mw.merge_arrays("average", None, models)["ids"].tolist() == [0, 1, 2]
    experts = [save_model(tmp_path / f"e{i}", model) for i, model in enumerate(models)]
    with pytest.warns(UserWarning, match="taken from .*e0") as from_files:
        mw.merge_to_arrays(mw.Recipe(method="average", experts=experts))
    assert [w.filename for w in (*caught, *from_files)] == [__file__] * 2
    (merged,) = merge_sweep_to_arrays([mw.Recipe(method="average", experts=experts)])  # a study says nothing of it
    assert merged["ids"].tolist() == [0, 1, 2]
    mw.merge_arrays("average", None, [models[0]] * 2)


def test_filters_without_a_match_are_told(tmp_path):
    base, experts = family()
    weight = [{"filter": "layer", "value": 0.5}, {"filter": "w", "value": 1.0}]
    with pytest.warns(UserWarning, match="The filter 'layer' at parameters.weight matches no tensor") as caught:
        mw.merge_arrays("ties", base, experts, weight=weight, density=0.5)
    paths = [save_model(tmp_path / f"m{i}", model) for i, model in enumerate((base, *experts))]
    recipe = mw.Recipe(method="ties", base=paths[0], experts=paths[1:], parameters={"weight": weight, "density": 0.5})
    with pytest.warns(UserWarning, match="The filter 'layer' at parameters.weight matches no tensor") as from_files:
        mw.merge_to_arrays(recipe)
    assert [w.filename for w in (*caught, *from_files)] == [__file__] * 2
