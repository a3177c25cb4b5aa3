"""Specs: what they may say, and what is found before anything runs."""

import re
from pathlib import Path

import pytest
import study_fakes
import yaml
from key_tables import default_of, keys_of, table_of
from study_fakes import HELD_IN, SPEC, TINY, study

from mergewise.study import spec as spec_module
from mergewise.study.errors import StudyError
from mergewise.study.family import Base
from mergewise.study.run import estimate
from mergewise.study.spec import Spec, check_fields, load_spec, resolve

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(tmp_path, content):
    path = tmp_path / "spec.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return resolve(load_spec(path))


def test_a_file_says_the_same_as_its_content(tmp_path):
    found = load(tmp_path, TINY)
    assert found.spec == study(TINY).spec
    assert [method.label for method in found.protocol.methods] == ["Averaging", "Task Arithmetic", "RHT"]
    assert found.names == HELD_IN[:3]


def test_the_example_in_the_docstring_is_a_study():
    example = spec_module.__doc__.split("\n\n")[1]
    found = resolve(check_fields(Spec, yaml.safe_load(example), "the docstring"))
    assert [base.name for base in found.bases] == ["pt-1", "it-1"]
    assert [method.label for method in found.protocol.methods] == ["Averaging", "TIES", "TIES by tensor"]
    whole = yaml.safe_load(re.sub("^# ", "", example, flags=re.MULTILINE))  # with what is commented out
    assert whole.keys() == Spec.model_fields.keys()
    check_fields(Spec, whole, "the docstring")


def test_the_table_of_the_docs_has_every_key_with_its_default():
    table, known = table_of("studies.md"), dict(keys_of(Spec))
    sections = {key.partition(".")[0] for key in known if "." in key}
    assert known.keys() <= table.keys() <= known.keys() | sections
    assert {key: table[key] for key in known} == {key: default_of(field) for key, field in known.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metods": {}}, r"unknown key 'metods' at metods\. Did you mean 'methods'\?"),
        ({"scoring": {"test_item": 3}}, r"unknown key 'test_item' at scoring\.test_item\. Did you mean 'test_items'\?"),
        ({"methods": {"ties": {"parametres": {}}}}, r"'parametres' at methods\.ties\.parametres\. Did you mean 'param"),
        ({"bases": {"qualty": ["pt"]}}, r"unknown key 'qualty' at bases\.qualty\. Did you mean 'quality'\?"),
        ({"tasks": {"heldin": "all"}}, r"unknown key 'heldin' at tasks\.heldin\. Did you mean 'held_in'\?"),
        ({"methods": {"tiess": None}}, r"methods\.tiess: There is no merge method 'tiess'\. Did you mean 'ties'\?"),
        (
            {"methods": {"ties": {"parameters": {"densty": 0.1}}}},
            r"methods\.ties: ties has no parameter 'densty', found at parameters\.densty\. Did you mean 'density'\?",
        ),
        (
            {"methods": {"ties": {"parameters": {"density": [0.1, 1.5]}}}},
            r"'density' parameter of ties must be a finite number in \[0, 1\]. Got 1.5 instead at parameters.density",
        ),
        ({"methods": {"ties": {"parameters": {"lambda": [1.0, 1]}}}}, r"lambda: expected different values to try"),
        ({"methods": {"ties": {"parameters": {"lambda": []}}}}, r"lambda: expected different values to try"),
        ({"methods": {"slerp": None}}, r"methods\.slerp: .*2"),
        ({"methods": {}}, r"'methods'.* at least 1"),
        ({"bases": ["it-lrge"]}, r"bases: there is no base 'it-lrge'\. Did you mean 'it-large'\?"),
        ({"bases": {"size": ["larg"]}}, r"bases\.size: there is no base of size 'larg'\. Did you mean 'large'\?"),
        ({"bases": []}, r"bases: at least one base is needed"),
        ({"tasks": {"held_in": ["task_x"]}}, r"tasks\.held_in: there is no held-in category 'task_x'"),
        ({"tasks": {"held_in": ["near"]}}, r"tasks\.held_in: there is no held-in category 'near'"),
        (
            {"tasks": {"held_out": {"near": ["near_on"]}}},
            r"tasks\.held_out\.near: there is no task of 'near' 'near_on'\. Did you mean 'near_one'\?",
        ),
        ({"tasks": {"held_out": {"near": []}}}, r"tasks\.held_out\.near: a category needs at least one task"),
        (
            {"tasks": {"held_out": []}},
            r"tasks\.held_out: at least one category is needed, found none; .*, so name one or more of near, far, or",
        ),
        (
            {"tasks": {"held_in": []}},
            r"tasks\.held_in: .*, found none; experts are trained for these, so name .* task_a, ",
        ),
        ({"k": [2, 9]}, r"k: 9 experts cannot be merged, as there are 8"),
        ({"k": [2, 2]}, r"k: every number of experts should be there once"),
        ({"k": [0]}, r"'k\.0'.* greater than or equal to 1, found 0"),
        ({"draws": "three"}, r"'draws': expected a whole number, found 'three'\.$"),
        ({"bases": True}, r"'bases': expected a list, a mapping or 'all', found True"),
        ({"bases": {"quality": {"it": None}}}, r"'bases\.quality': expected a list or 'all', found \{'it': None\}\.$"),
        ({"bases": {"size": [["large"]]}}, r"'bases\.size\.0': expected text, found \['large'\]"),
        ({"tasks": {"held_in": {"task_a": None}}}, r"'tasks\.held_in\.task_a': expected a list, found nothing\.$"),
        (
            {"tasks": {"held_in": {"task_a": True}}},
            r"'tasks\.held_in\.task_a': expected a list, found True\.$",
        ),
        ({"k": "2"}, r"'k': expected a list, found '2'; a list of one is \[2\]\.$"),
        ({"methods": ["average", "ties"]}, r"'methods': expected a mapping, found \['average', 'ties'\]\.$"),
        ({"methods": {"ties": 3}}, r"'methods\.ties': expected a mapping, found 3\.$"),
        (
            {"methods": {"ties": {"parameters": {"lambda": {"a": 1}}}}},
            r"'methods\.ties\.parameters\.lambda': expected a number, text, true or false or a list, found \{'a': 1\}",
        ),
        (
            {"methods": {"ties": {"parameters": {"lambda": [[1]]}}}},
            r"parameters\.lambda\.0': expected a number, .* \[1\]",
        ),
        ({"multitask": "perhaps"}, r"'multitask': expected true or false, found 'perhaps'"),
        ({"family": "zo"}, r"There is no family of models 'zo'\. Did you mean 'zoo'\?"),
        ({"family": "nowhere.at:All"}, r"The family 'nowhere\.at:All' cannot be loaded"),
        ({"family": "os:path"}, r"The family 'os:path' cannot be loaded: expected a class 'path' in .* found module"),
        ({"family": "os:pth"}, r"The family 'os:pth' cannot be loaded: expected a class 'pth' in .* found none"),
        ({"family": "json:loads"}, r"The family 'json:loads' cannot be made of its options"),
        ({"family": "collections:ChainMap"}, r"Expected a family of models at 'collections:ChainMap', found ChainMap"),
        ({"experts": {"given": {"it-larg": {}}}}, r"experts\.given: there is no base 'it-larg'"),
        (
            {"experts": {"given": {"it-large": {"a": "x"}}}},
            r"experts\.given\.it-large: there is no held-in category 'a'",
        ),
        (
            {"experts": {"given": {"it-large": {"task_a": "/does/not/exist"}}}},
            r"experts\.given\.it-large\.task_a: expected the folder of a checkpoint at /does/not/exist, found none",
        ),
        ({"methods": {"fisher": None}}, r"methods\.fisher: fisher needs statistics of every model \(fisher\)"),
        ({"methods": {"mean": {"method": "regmean"}}}, r"methods\.mean: regmean needs statistics .* \(gram\)"),
        ({"name": "a/b"}, r"'name': string should match pattern"),
        ({"methods": {"base": {"method": "ties"}}}, r"methods: a method cannot be called 'base'"),
        (
            {"methods": {"ties": {"label": "Multitask"}}},
            r"methods\.ties: 'Multitask' is what models that are not merged are called; give the method another",
        ),
        (
            {"methods": {"ties": None, "mine": {"method": "ties", "label": "TIES"}}},
            r"methods: every method needs a label of its own, found 'TIES' for both 'ties' and 'mine'; give one",
        ),
        ({"family": ":All"}, r"There is no family of models ':All'"),
    ],
)
def test_what_a_spec_cannot_say_is_told_in_one_sentence(change, message):
    with pytest.raises(StudyError, match=message):
        study(SPEC, **change)


@pytest.mark.parametrize("missing", ["name", "family", "methods"])
def test_what_is_missing_is_named(tmp_path, missing):
    with pytest.raises(StudyError, match=rf"spec\.yaml: '{missing}' is required, but missing"):
        load(tmp_path, {key: value for key, value in SPEC.items() if key != missing})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "expected a mapping"),
        ("", "expected a mapping"),
        ("name: 2025-02-30", "not valid YAML"),
        ("name: a\nname: b", "name"),
        ("a: 1\n---\nb: 2", "expected a mapping"),
    ],
)
def test_files_that_are_no_specs_are_told(tmp_path, content, message):
    with pytest.raises(StudyError, match=message):
        load(tmp_path, content)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StudyError, match=r"none\.yaml: cannot be read"):
        load_spec(tmp_path / "none.yaml")


def test_an_expert_that_is_not_there_is_told_with_the_whole_path_that_was_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=re.escape(f"a checkpoint at {tmp_path / 'experts' / 'a'}, found none")):
        study(SPEC, experts={"given": {"it-large": {"task_a": "experts/a"}}})


def test_an_expert_without_safetensors_is_refused_before_anything_is_fetched(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(
        StudyError, match=r"^experts\.given\.it-large\.task_a: expected \*\.safetensors in .*found none"
    ):
        study(SPEC, experts={"given": {"it-large": {"task_a": str(tmp_path)}}})


def test_a_family_without_held_out_categories_is_told_that_it_needs_one(monkeypatch):
    monkeypatch.setattr(study_fakes, "HELD_OUT", {})
    with pytest.raises(StudyError, match=r"tasks\.held_out: .*, so give the family one with 'held_in: false'\.$"):
        study()


def test_options_of_the_zoo_are_checked():
    with pytest.raises(StudyError, match="'stps'"):
        study(SPEC, family="zoo", bases="all", experts={"train": {"stps": 3}})


def test_bases_are_chosen_by_quality_and_size_and_ordered():
    assert [base.name for base in study(bases="all").bases] == ["pt-small", "pt-large", "it-small", "it-large"]
    assert [base.name for base in study(bases={"size": ["large"]}).bases] == ["pt-large", "it-large"]
    assert [base.name for base in study(bases=["it-large", "pt-small"]).bases] == ["pt-small", "it-large"]


def test_a_name_or_number_alone_is_a_list_of_one():
    listed = study(bases={"quality": ["it"], "size": ["large"]}, k=[2], tasks={"held_out": {"near": ["near_one"]}})
    alone = study(bases={"quality": "it", "size": "large"}, k=2, tasks={"held_out": {"near": "near_one"}})
    assert alone.spec == listed.spec
    assert study(bases="it-large", tasks={"held_out": "far"}).spec == study(tasks={"held_out": ["far"]}).spec
    with pytest.raises(StudyError, match=r"bases\.size: there is no base of size '1'\."):
        study(bases={"size": 1})


def test_one_method_may_stand_twice_with_other_parameters():
    methods = {"ties": None, "ties_model": {"method": "ties", "label": "TIES, model", "parameters": {"scope": "model"}}}
    plain, model = study(methods=methods).protocol.methods
    assert (plain.merge_method, model.merge_method) == ("ties", "ties")
    assert (plain.label, model.label) == ("TIES", "TIES, model")


def test_a_method_that_bears_the_name_of_another_has_not_its_label():
    methods = {"ties": {"method": "rht"}, "rht": {"method": "rht", "parameters": {"lambda": [0.5, 1.0]}}}
    assert [method.label for method in study(methods=methods).protocol.methods] == ["ties", "RHT"]


def test_numbers_are_taken_in_their_canonical_form():
    whole, fraction = (
        study(methods={"ties": {"parameters": {"lambda": [one, 2]}}}).protocol.methods[0] for one in (1, 1.0)
    )
    assert repr(whole.settings(0)) == repr(fraction.settings(0))


def test_only_methods_that_draw_masks_have_seeds():
    assert [m.name for m in study().protocol.methods if m.seeded] == ["dare_ties"]


def test_a_dry_run_counts_cells_by_kind_and_merges_by_method():
    found = estimate(study(bases="all", multitask=True, k=[2, 4, 6, 8]))
    assert found.merges == dict.fromkeys(["average", "task_arithmetic", "ties", "dare_ties", "rht"], 4 * 4 * 3)
    assert found.cells == {
        "models": 4 * 9,
        "limits": 4,
        "references": 4 * (1 + 8 + 1 + 8),
        "tuning": 4 * 18 * 10,
        "merges": 4 * 5 * 4 * 3,
    }
    assert found.seconds["models"] == 4 * (8 * 10 + 80)
    assert found.nbytes == 4 * 9 * 1000


@pytest.mark.parametrize("name", ["zoo-full", "zoo-small"])
def test_the_examples_are_studies_of_the_zoo(name):
    pytest.importorskip("mergewise.zoo.bases")
    found = resolve(load_spec(EXAMPLES / f"{name}.yaml"))
    assert found.family.name == "zoo"
    took = estimate(found)
    if name == "zoo-full":
        assert (len(found.bases), len(found.names)) == (8, 8)
        paper = ("average", "task_arithmetic", "ties", "dare_ties")
        assert sum(took.merges[method] for method in paper) == 384
        assert took.cells["models"] >= 64 + 8
    else:
        assert sum(took.seconds.values()) < 3600


def test_a_dry_run_knows_what_sweeps_share():
    def seconds(**parameters):
        return estimate(study(methods={"ties": {"parameters": parameters}})).seconds["tuning"]

    one_change = seconds(**{"lambda": [1.0, 1.5, 2.0, 2.5]})
    four_changes = seconds(density=[0.1, 0.2, 0.3, 0.4])
    assert one_change < four_changes


def test_fewer_draws_to_tune_on_take_less_time_and_no_fewer_merges():
    all_draws, one_draw = (
        estimate(study(draws=3, k=[2], scoring={"validation_items": 12, "tuning_draws": draws})) for draws in (None, 1)
    )
    assert one_draw.cells["tuning"] * 3 == all_draws.cells["tuning"]
    assert one_draw.merges == all_draws.merges


def test_two_bases_of_one_quality_and_size_cannot_be_told_apart(monkeypatch):
    monkeypatch.setattr("study_fakes.Base", lambda name, quality, size, *rest: Base(name, quality, "one size", *rest))
    with pytest.raises(StudyError, match=r"bases: one base of each quality and size .* 'it-small' and 'it-large'"):
        study(SPEC, bases="all")
