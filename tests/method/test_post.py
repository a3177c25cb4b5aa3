"""Post-steps: a scale that grows with the layers, and singular values divided by what the experts have in common."""

import numpy as np
import pytest

import mergewise as mw
from mergewise.engine.plan import build_plan
from reference import random_mask
from support import load_model, save_model

RNG = np.random.default_rng(0)
SHAPES = {
    "embed.weight": (9, 5), "layers.0.w": (7, 5), "layers.1.w": (7, 5), "layers.2.w": (5, 8), "layers.2.b": (5,),
    "norm": (5,),
}  # fmt: skip
BASE = {k: RNG.normal(size=s) for k, s in SHAPES.items()}
EXPERTS = [{k: v + 0.3 * RNG.normal(size=v.shape) for k, v in BASE.items()} for _ in range(3)]
METHODS = {
    "task_arithmetic": {"lambda": 0.7},
    "ties": {"density": 0.4},
    "dare_ties": {"density": 0.5, "seed": 3},
    "dare_linear": {"density": 0.5, "rescale": "expected"},
    "rht": {},
    "della": {"density": 0.5, "epsilon": 0.2},
    "breadcrumbs": {"density": 0.6},
    "model_stock": {},
    "multislerp": {},
    "tsv_m": {"lambda": 0.9},
    "knots": {},
    "wudi_ridge": {},
}
each_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [save_model(folder / f"m{i}", m) for i, m in enumerate((BASE, *EXPERTS))]


def merged(folders, name, post, **options):
    recipe = mw.Recipe(method=name, base=folders[0], experts=folders[1:], parameters=METHODS[name], post=post)
    found = mw.merge_to_arrays(recipe, **options)
    return {k: found[k] - BASE[k] for k in found}


def svc(delta, x, alpha):
    """The paper's formula, one singular direction after the other."""
    u, s, vt = np.linalg.svd(delta, full_matrices=False)
    result = np.zeros_like(delta)
    for r in range(s.size):
        if s[r] <= 2.0**-23 * s[0]:
            continue
        along, total = u[:, r] @ delta, 0.0
        for t in x:
            own = u[:, r] @ t
            total += max(alpha, along @ own / (own @ own)) if own.any() else alpha
        result += s[r] * len(x) / total * np.outer(u[:, r], vt[r])
    return result


@each_method
def test_lines_scales_the_change_layer_by_layer(name, folders):
    plain, found = merged(folders, name, []), merged(folders, name, [{"lines": {"alpha": 0.4, "beta": 0.8}}])
    scales = {"layers.1.w": 0.8, "layers.2.w": 1.2, "layers.2.b": 1.2}  # all others stand at the first layer
    for tensor, delta in plain.items():
        np.testing.assert_allclose(found[tensor], scales.get(tensor, 0.4) * delta, rtol=1e-11, atol=1e-13)


@each_method
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_svc_divides_singular_values_by_the_mean_share_of_the_experts(name, alpha, folders):
    plain, found = merged(folders, name, []), merged(folders, name, [{"svc": {"alpha": alpha}}])
    for tensor, delta in plain.items():
        x = [e[tensor] - BASE[tensor] for e in EXPERTS]
        expected = svc(delta, x, alpha) if delta.ndim == 2 else delta
        np.testing.assert_allclose(found[tensor], expected, rtol=1e-7, atol=1e-10, err_msg=tensor)


def test_svc_of_a_sum_of_equal_changes_is_one_of_them():
    # every share is k, so σ·k/Σ s = σ/k
    delta = RNG.normal(size=(6, 4))
    base = {"layers.0.w": np.zeros((6, 4))}
    recipe = mw.Recipe(method="task_arithmetic", base="b", experts=["1", "2", "3"], post=["svc"])
    found = through_arrays(recipe, base, [{"layers.0.w": delta}] * 3)
    np.testing.assert_allclose(found["layers.0.w"], delta, atol=1e-12)


def through_arrays(recipe, base, experts):
    from mergewise.checkpoint import ArrayCheckpoint
    from mergewise.engine.arrays import into_arrays

    sources = [ArrayCheckpoint(m, str(i)) for i, m in enumerate((base, *experts))]
    return into_arrays(build_plan(recipe, sources), 1, "1GiB")[0]


def test_svc_leaves_a_merge_without_changes_alone():
    base = {"layers.0.w": RNG.normal(size=(6, 4))}
    recipe = mw.Recipe(method="task_arithmetic", base="b", experts=["1", "2"], post=["svc"])
    np.testing.assert_array_equal(through_arrays(recipe, base, [base] * 2)["layers.0.w"], base["layers.0.w"])


def test_steps_are_done_in_their_order(folders):
    after = merged(folders, "task_arithmetic", ["svc", {"lines": {"alpha": 3.0}}])
    before = merged(folders, "task_arithmetic", [{"lines": {"alpha": 3.0}}, "svc"])
    plain = merged(folders, "task_arithmetic", [])
    for tensor, delta in plain.items():
        if delta.ndim == 2:
            x = [e[tensor] - BASE[tensor] for e in EXPERTS]
            np.testing.assert_allclose(after[tensor], 3 * svc(delta, x, 1.0), atol=1e-10)
            np.testing.assert_allclose(before[tensor], svc(3 * delta, x, 1.0), atol=1e-10)


@each_method
def test_threads_and_memory_do_not_change_a_byte_after_svc(name, folders):
    one = merged(folders, name, ["svc"], threads=1)
    for other in (merged(folders, name, ["svc"], threads=3), merged(folders, name, ["svc"], memory="210MiB")):
        assert all(other[k].tobytes() == one[k].tobytes() for k in one)


def test_the_random_masks_of_a_calibrated_merge_are_those_of_the_method():
    from mergewise.kernels import words_of
    from reference import mask_key

    for count in (1, 1023, 1024, 5000):
        found = words_of(mask_key(7, 2, "w"), count) < round(0.3 * 2**32)
        np.testing.assert_array_equal(found, random_mask(7, 2, "w", (count,), 0.3))


def test_steps_are_recorded_and_verified(folders, tmp_path):
    recipe = {
        "merge_method": "ties", "base_model": str(folders[0]), "models": [{"model": str(f)} for f in folders[1:]],
        "post": ["svc", {"lines": {"alpha": 0.5, "beta": 1.0}}],
    }  # fmt: skip
    from support import write_recipe

    mw.merge(write_recipe(tmp_path / "r.yaml", recipe), tmp_path / "out")
    assert not mw.verify(tmp_path / "out", sample=None).faults
    assert load_model(tmp_path / "out").keys() == BASE.keys()


@pytest.mark.parametrize(
    ("post", "message"),
    [
        (["line"], r"There is no post-step 'line'. Did you mean 'lines'\?"),
        (
            [{"lines": {"alfa": 1}}],
            r"lines has no parameter 'alfa', found at post.0.lines.alfa. Did you mean 'alpha'\?",
        ),
        ([{"lines": {0: 1}}], r"lines has no parameter '0', found at post.0.lines.0. Known here: alpha, beta"),
        ([{"svc": {"alpha": 0}}], r"The 'alpha' parameter of svc must be a finite number of at least 1e-06. Got 0"),
        ([{"svc": 3}], "Expected parameters of svc at post.0.svc, found 3"),
        ([{"svc": {}, "lines": {}}], "Expected one step such as .* at post.0"),
        ({"svc": {}}, "Expected a list of steps"),
    ],
)
def test_a_step_that_is_not_one_is_refused_in_one_sentence(post, message):
    with pytest.raises(mw.RecipeError, match=message) as caught:
        mw.Recipe(method="ties", base="b", experts=["1"], post=post)
    assert "\n" not in str(caught.value)


def test_steps_need_changes_to_a_base():
    with pytest.raises(mw.RecipeError, match="The post-step lines needs changes to a base, but average merges weights"):
        mw.Recipe(method="average", experts=["1", "2"], post=["lines"])


def test_svc_after_a_method_that_makes_all_singular_values_equal_is_refused(folders):
    recipe = mw.Recipe(method="iso_c", base=folders[0], experts=folders[1:], post=["svc"])
    with pytest.raises(mw.RecipeError, match=r"iso_c needs a step other than svc: .* are equal; found otherwise"):
        mw.plan(recipe)


def test_svc_after_trimming_over_the_whole_model_is_refused(folders):
    recipe = mw.Recipe(
        method="ties", base=folders[0], experts=folders[1:], parameters={"scope": "model", "density": 0.5}, post=["svc"]
    )
    with pytest.raises(mw.RecipeError, match="ties needs 'scope: tensor' before svc"):
        mw.plan(recipe)


def test_calibration_gives_the_same_on_torch_tensors():
    torch = pytest.importorskip("torch")
    from mergewise.method.post import calibrated

    x = [RNG.normal(size=(7, 4)) for _ in range(3)] + [np.zeros((7, 4))]
    found = calibrated(torch.as_tensor(sum(x)), [torch.as_tensor(t) for t in x], 0.3)
    np.testing.assert_allclose(found.numpy(), svc(sum(x), x, 0.3), rtol=1e-9, atol=1e-12)
