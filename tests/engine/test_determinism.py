"""The same recipe and inputs give the same bytes: for any threads, memory, pieces, process and machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mergewise as mw
import reference_elementwise as formulas
from engine.models import BLOCK, CASES, arguments, assert_identical, digest, integer_model, large_family
from mergewise.engine import gather, layout
from mergewise.engine.layout import Layout, sum_elements
from mergewise.method import MatrixProgram, VotingProgram, WholeProgram
from mergewise.testing.cases import merged
from support import load_model, save_model

TESTS = Path(__file__).parents[1]


def merge(case, models, **options):
    name, experts, chosen = arguments(case)
    base, *rest = models
    return merged(name, base, rest[:experts], **options, **chosen)


def smallest_budget(case, models):
    """The least memory that the merge says it needs."""
    with pytest.raises(mw.RecipeError) as caught:
        merge(case, models, memory=1)
    (least,) = re.findall(r"needs at least (\d+ MiB)", str(caught.value))
    return least


@pytest.fixture(scope="module")
def models():
    base, experts = large_family(3)
    return base, *experts


@pytest.fixture(scope="module")
def undisturbed(models):
    """The result of every case in one thread and as much memory as it likes, made when first asked for."""
    made = {}

    def result(case):
        if case not in made:
            made[case] = merge(case, models, threads=1, memory="8GiB")
        return made[case]

    return result


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_byte(case, threads, models, undisturbed):
    assert_identical(merge(case, models, threads=threads), undisturbed(case))


@pytest.mark.parametrize("case", CASES)
def test_the_smallest_memory_that_is_accepted_does_not_change_a_byte(case, models, undisturbed):
    least = smallest_budget(case, models)
    assert_identical(merge(case, models, threads=1, memory=least), undisturbed(case))
    assert_identical(merge(case, models, threads=3, memory=least), undisturbed(case))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_cut_into_pieces_does_not_change_a_byte(case, blocks, models, undisturbed, monkeypatch):
    def piece_elements(self, job):
        if isinstance(job.program, WholeProgram | MatrixProgram):
            return max(1, job.numel)
        unit = job.row
        if isinstance(job.program, VotingProgram) and job.program.row is not None:
            unit = sum_elements(job) if job.numel else 1  # rows are ranked as a whole, and summed in groups
        elif unit > BLOCK or not unit:
            unit = BLOCK  # what is not dealt with by row, or by long ones, is cut anywhere
        return max(1, blocks * BLOCK // unit) * unit

    monkeypatch.setattr(Layout, "piece_elements", piece_elements)
    assert_identical(merge(case, models, threads=blocks), undisturbed(case))


@pytest.mark.parametrize(
    "case", ["ties trimmed", "ties over the model", "ties over the model, l1", "rht", "breadcrumbs over the model, l1"]
)
@pytest.mark.parametrize("sample", [1, 5000, 100_000])
def test_the_size_of_the_sample_does_not_change_a_byte(case, sample, models, undisturbed, monkeypatch):
    for name in ("_LEAST_SAMPLE", "_LARGEST_SAMPLE"):
        monkeypatch.setattr(layout, name, sample)
    for run in ("_SHORT_RUN", "_LONG_RUN"):
        monkeypatch.setattr(gather, run, max(1, sample // 10))
    assert_identical(merge(case, models, threads=2), undisturbed(case))
    assert_identical(merge(case, models, threads=2, memory=smallest_budget(case, models)), undisturbed(case))


@pytest.mark.parametrize(
    "case", ["ties trimmed, l1", "ties over the model, l1", "breadcrumbs over the model, l1", "rht"]
)
@pytest.mark.parametrize("bins", [1 << 6, 1 << 11])
def test_the_number_of_bins_does_not_change_a_byte(case, bins, models, undisturbed, monkeypatch):
    monkeypatch.setattr(layout, "COUNT_BINS", bins)
    monkeypatch.setattr(gather, "COLLECT_MOST", 0)
    monkeypatch.setattr(layout, "_LEAST_SAMPLE", 100)
    assert_identical(merge(case, models, threads=2, memory=smallest_budget(case, models)), undisturbed(case))


@pytest.mark.parametrize("case", ["ties over the model", "rht over the model", "dare_ties, l1", "della, l1", "karcher"])
def test_the_order_of_the_tensors_in_memory_does_not_change_a_byte(case, models, undisturbed):
    rng = np.random.default_rng(0)
    shuffled = [{k: m[k] for k in rng.permutation(list(m))} for m in models]
    assert_identical(merge(case, shuffled, threads=2), undisturbed(case))


@pytest.mark.parametrize("case", ["ties trimmed, l1", "ties over the model, l1", "dare_linear, l1", "average", "slerp"])
@pytest.mark.parametrize(("threads", "memory", "shard_size"), [(1, "8GiB", "5GB"), (3, "256MiB", "300KB")])
def test_folders_and_arrays_hold_the_same_tensors(case, threads, memory, shard_size, models, undisturbed, tmp_path):
    paths = [
        save_model(tmp_path / f"m{i}", model, shards=1 + 2 * (threads > 1) * (i % 2)) for i, model in enumerate(models)
    ]
    name, experts, chosen = arguments(case)
    own = [{k: v[i] for k, v in chosen.items() if isinstance(v, list)} for i in range(experts)]
    recipe = mw.Recipe(
        method=name,
        base=paths[0],
        experts=[mw.Expert(model=p, parameters=o) for p, o in zip(paths[1 : experts + 1], own, strict=True)],
        parameters={k: v for k, v in chosen.items() if not isinstance(v, list)},
    )
    mw.merge(recipe, tmp_path / "out", threads=threads, memory=memory, shard_size=shard_size)
    assert_identical(load_model(tmp_path / "out"), undisturbed(case))
    assert_identical(mw.merge_to_arrays(recipe, threads=threads, memory=memory), undisturbed(case))


# The inputs are integers over powers of two, so no value here depends on a random generator or a library; if one
# changes, merges made earlier cannot be repeated. All were equal to the formulas of ``reference.py``, rounded once.
# ``PYTHONPATH=tests python -m engine.test_determinism`` prints them anew; those of the elementwise methods come from
# the formulas of ``reference_elementwise.py`` alone, in plain Python floats.
GOLDEN = {
    "fisher": "c027ea5f0ff34e21e3fa8ba156dbd41aacc190634f14edecd25df7411c7f206e",
    "regmean": "2dd7b1547bfe9e667c6571183f5652c2c0f649fb0e53585a57023ef713c105c8",
    "sce": "84b1814cd1b603376970270c8d60e4c249e6e1476ca48d50a04dc87707006f60",
    "consensus": "5309d8f6f9872e0a2f8450a0fd73476df1f1089e9121ddb3cdd1dbc370c01794",
    "nearswap": "d9362a56fc9dbffc4e7d8dd94007a05d6741803c2201185b66ba35db61d53425",
    "ram": "d4e2018a0f39eff69d615f47233e3d9b8cf1983a75518a47d7e021bc783993e5",
    "ramplus_tl": "84a5df2392e55bc92c0f321170c2cb131a995cefdfeede2d4c9c1c734c4e733e",
    "arcee_fusion": "d1a880613419bedb5c2f79ea1a4b99a0747a29521b1175cf9b038e730afa556a",
    "sce, few elements": "ccf7e171c4616d2a4c453aef30ed2e8da3c3b7bfe91b9044f7834646fe8b39b9",
    "ramplus_tl, few changes": "47cdd05871e0cb8d851410915444d20b8e8bfb41d3991fd94bc90f20864548be",
    "breadcrumbs": "ca99923dd58949a6e51838b2816510f09cbdc850569ef0eab162c83ea2ec7507",
    "breadcrumbs_ties": "b23e82013f5292ca0e9ff3ded122eb837a333dc8bc54de2fcfd93e9b65c3d396",
    "della": "ce83390879c84def2cb5b03a44327143d0bcbefc25ea918e8eaeaf476a43b6ca",
    "della_linear": "ca99923dd58949a6e51838b2816510f09cbdc850569ef0eab162c83ea2ec7507",
    "breadcrumbs, trimmed": "1f0fb2bf2f8ae5a6ad236a528d6b882948e0abc3ed298048c71b96e430aba309",
    "breadcrumbs over the model, l1": "bdfda6575a80cfa7d9bd328512ed424f401b33a6a78be07f971a30974947a06b",
    "della, l1": "e24d763327b886a9c2214ef88880816c9aa5816e3ae7b923d00ab2a4e12c6932",
    "average": "219e4b2718166b3fa86139fe15f7846a2ebd6b762df61bdd70a4092126ede481",
    "dare_linear": "ca99923dd58949a6e51838b2816510f09cbdc850569ef0eab162c83ea2ec7507",
    "dare_ties": "b23e82013f5292ca0e9ff3ded122eb837a333dc8bc54de2fcfd93e9b65c3d396",
    "iso_c": "1bd3adfffb02441456b0a1b59131327adc3adf259584450db28d79bdc9bdde85",
    "iso_cts": "4f8afd69f0ba1852771af5255f9189eef9d6aba61ca9009d2b1b177b0ffc3c86",
    "karcher": "709cfaeb7cff0facd8a7bebad0304c31b4dee28dfacd62cc4490d5fe4e61c2c3",
    "knots": "74c5c5777eabe81d5e9586b6f48fa22786c76df51eb5c90b9b5cd4e81091d8c9",
    "linear": "219e4b2718166b3fa86139fe15f7846a2ebd6b762df61bdd70a4092126ede481",
    "model_stock": "476dc94078aaf2d47378257b6eb05784cae4806e2f33a2d504188005fef18cbe",
    "multislerp": "2df16ebd1ca5c23038a43846f51e66efb13032da675da15dc8da22dab23674d7",
    "nuslerp": "524bf16e5209c296fc1658bdb4587fbf9d19bbce1f9d15dc0960cf138f293698",
    "passthrough": "8cbab5bfb7a7eb960f3a341f3560efc4faf9b961432b7f5176cbf7bc08f220f0",
    "rht": "a4285491a10e87b30f8d4b7057441626adf8ea0820678ab08639d7f85531c870",
    "slerp": "33f3f64405807c7b06915eeb752182dc0e271c88966a4ece348f7e58c6a56ce5",
    "task_arithmetic": "ca99923dd58949a6e51838b2816510f09cbdc850569ef0eab162c83ea2ec7507",
    "ties": "ce83390879c84def2cb5b03a44327143d0bcbefc25ea918e8eaeaf476a43b6ca",
    "tsv_m": "c97643ba2108987d3a83fcfef864dce81fec7cb1093ac7f71ded9c07e19c637c",
    "wudi": "3f4a781f12577c2ea195a59d78b650c93781db3f06f68e113fee1a602814f3ea",
    "wudi_ridge": "80baff84ac912a49d67c9c49eb6811b74883873e824189c4eaac51347b3f5c68",
    "linear by weights": "508c676f710504d23da1c8fd3566d6e3d0226f281c073a3562beb20d414dc24d",
    "ties trimmed": "45e1bc2fa55757edb15670bf0ff8eed525a38b61995b7d921167e84f818b5139",
    "ties trimmed, l1": "e6bf9507708767f0810983425a413757a503c823cf842b02fe561b1245701f9d",
    "ties over the model": "06a5dd124e98bf1bfbdf8ab4bd8c9d30d6ce9bacfdafb4c64beb8348d53199dd",
    "ties over the model, l1": "30e325bdde910ad6558d03ef264e9210e42a7b76ada87b1c4d8ab4ab7739385b",
    "dare_linear, l1": "6273047504c52cb7c1fd0b13837ee385a339b92d500fbbf5dd77aee6b02095fd",
    "dare_ties, expected": "edf91cf873724a4ab94c61e03cc370ae4deeebb5659ff5362efbb019f1d6a306",
    "dare_ties, l1": "06d16091bc814a8bfbe8356d60c38a96cf4c53b5b12066e59fb75584fccb75ec",
    "rht over the model": "cf925c214b7dd5148f6c0a48271d18072bd14e5131135128e7e5e23bfc8d93d4",
    "nuslerp by slices": "b2413658d8bd533d7d70c09868ea1dbf9266c5d24d54aba186c88cefde2e8a6a",
    "nuslerp across slices": "51b10702ed4398fe92904e5d1cbd63a28d26a757e252dfd11eaa11bdb231c694",
    "model_stock by filters": "3c491bac7d821a4c1d9ba0a437f603ad816ef62f62961b7c79137add0e5bf098",
}


ELEMENTWISE = [case for case in CASES if CASES[case][0] in
               {"sce", "consensus", "nearswap", "ram", "ramplus_tl", "arcee_fusion"}]  # fmt: skip


def golden_by_formula(case):
    name, experts, chosen = arguments(case)
    models = [integer_model(i + 1) for i in range(experts)]
    return digest(formulas.merged_model(name, integer_model(0), models, **chosen))


@pytest.mark.parametrize("case", ELEMENTWISE)
def test_golden_bytes_of_elementwise_methods_are_those_of_their_formulas(case):
    assert golden_by_formula(case) == GOLDEN[case]


def golden(case):
    name, experts, chosen = arguments(case)
    return digest(merged(name, integer_model(0), [integer_model(i + 1) for i in range(experts)], **chosen))


@pytest.mark.parametrize("case", CASES)
def test_a_merge_gives_the_bytes_that_it_always_gave(case):
    assert case in GOLDEN, f"a new case: add its digest, {golden(case)}"
    assert golden(case) == GOLDEN[case]


def test_the_inputs_of_the_golden_merges_are_what_they_were():
    inputs = [digest(integer_model(i)) for i in range(4)]
    assert inputs == GOLDEN_INPUTS


GOLDEN_INPUTS = [
    "33dbbbc7c38bcc0514d16db9ed63ec33feeaaf14c50d397212f6b86f63813b39",
    "8cbab5bfb7a7eb960f3a341f3560efc4faf9b961432b7f5176cbf7bc08f220f0",
    "847cff51c9a580c0e5566250f59cf9dd53beb9d5837c7e9c6f96396f6cc8008b",
    "487435875fae2dac115443411d594e132ce1855332228cdb53bb54db65e1b7f7",
]


def print_golden():
    """Print the golden values, for a change that is meant to change them."""
    print("GOLDEN = {")
    for case in CASES:
        print(f'    "{case}": "{golden_by_formula(case) if case in ELEMENTWISE else golden(case)}",')
    print("}\nGOLDEN_INPUTS = [")
    for number in range(4):
        print(f'    "{digest(integer_model(number))}",')
    print("]")


@pytest.mark.parametrize("seed", ["0", "12345"])
def test_another_process_gives_the_same_bytes(seed):
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    script = (
        "from engine.test_determinism import golden\n"
        "for case in ('ties over the model, l1', 'dare_ties, expected', 'model_stock', 'average'): print(golden(case))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=300
    ).stdout.split()
    assert found == [golden(c) for c in ("ties over the model, l1", "dare_ties, expected", "model_stock", "average")]


if __name__ == "__main__":
    print_golden()
