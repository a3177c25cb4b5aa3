"""The zoo as a family: a catalogue that costs nothing, and models in the places where the zoo itself keeps them."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from mergewise.study import zoo_bench, zoo_family
from mergewise.study.cells import Model
from mergewise.study.errors import StudyError
from mergewise.study.zoo_family import ZooFamily, ZooWorkshop
from mergewise.zoo.family import HELD_IN, plan_family
from mergewise.zoo.making import Healing, Tuning
from mergewise.zoo.mixture import MIXTURE
from mergewise.zoo.sources import Sources
from mergewise.zoo.tasks import TASKS


def plans(folder, precision="float32"):
    files = [folder / name for name in ("tasks.json", "mixture.json", "texts.json")]
    sources = Sources(folder / "whole", "f" * 64, *files, "e" * 64, precision)
    tasks, mixture = ({n: source.task for n, source in table.items()} for table in (TASKS, MIXTURE))
    return plan_family(sources, tasks, mixture)


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_family, "hashed", lambda name, path: Model(name, path, f"digest of {path.name}"))
    return ZooWorkshop(plans(tmp_path), {"test": dict.fromkeys(TASKS, "d"), "validation": {}})


def test_the_catalogue_has_two_qualities_in_four_sizes_and_twelve_categories():
    family = ZooFamily({}, {})
    assert {(base.quality, base.size) for base in family.bases.values()} == {
        (quality, size) for quality in ("pt", "it") for size in ("1 layer", "2 layers", "4 layers", "6 layers")
    }
    by_size = sorted(family.bases.values(), key=lambda base: base.parameters)
    assert [base.size[0] for base in by_size] == [*"11224466"]
    assert [category.held_in for category in family.categories.values()] == [True] * 8 + [False] * 4
    assert sorted(task for category in family.categories.values() for task in category.tasks) == sorted(TASKS)
    assert any(category.far for category in family.categories.values())


def test_the_catalogue_needs_no_torch():
    made = "from mergewise.study.zoo_family import ZooFamily; ZooFamily({}, {})"
    code = f"import sys; {made}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_larger_bases_and_more_categories_take_longer():
    family = ZooFamily({}, {})
    for categories in ([HELD_IN[0]], HELD_IN):
        seconds = [family.training_seconds(f"pt-{layers}", categories) for layers in (1, 2, 4, 6)]
        assert seconds == sorted(seconds)
    alone = [family.training_seconds("it-4", [category]) for category in HELD_IN]
    assert max(alone) < family.training_seconds("it-4", HELD_IN) <= sum(alone)
    assert family.training_seconds("pt-6", []) == 0 < family.training_seconds("it-6", [])
    apart = [family.training_seconds(name, []) for name in ("pt-1", "it-1")]
    family.will_use(["it-1"])
    assert family.training_seconds("it-1", []) == sum(apart)
    assert family.item_seconds("pt-1") < family.item_seconds("pt-6")


def test_options_are_refused():
    with pytest.raises(StudyError, match=r"experts\.train: the zoo takes no 'steps'"):
        ZooFamily({}, {"steps": 3})


def test_what_a_model_needs_comes_before_it(workshop):
    expert = workshop.expert("it-2", HELD_IN[0])
    (tuned,) = expert.needs
    (healed,) = tuned.needs
    assert [training.name for training in (expert, tuned, healed)] == [f"it-2/{HELD_IN[0]}", "it-2", "pt-2"]
    assert [training.kind for training in (expert, tuned, healed)] == ["expert", "base", "base"]
    assert [need.name for need in healed.needs] == ["whole"]
    assert (tuned.key, tuned.place) == (workshop.base("it-2").key, workshop.base("it-2").place)
    assert (healed.key, healed.place) == (workshop.base("pt-2").key, workshop.base("pt-2").place)
    assert isinstance(workshop.base("pt-6"), Model)


def test_no_two_models_share_a_key_or_a_place(workshop):
    models = [workshop.expert(base, category) for base in ZooFamily({}, {}).bases for category in HELD_IN]
    models += [workshop.multitask(base, HELD_IN) for base in ZooFamily({}, {}).bases]
    models += [workshop.multitask("pt-1", HELD_IN[:2]), workshop.multitask("pt-1", HELD_IN[1:3])]
    models += [workshop.base(base) for base in ZooFamily({}, {}).bases if base != "pt-6"]
    assert len(models) == 64 + 8 + 2 + 7
    assert len({model.key for model in models}) == len({model.place for model in models}) == len(models)


def test_workshops_and_trainings_are_small_enough_to_travel(workshop):
    assert len(pickle.dumps(workshop)) < 20_000
    assert pickle.loads(pickle.dumps(workshop)) == workshop
    assert len(pickle.dumps(workshop.multitask("it-6", HELD_IN))) < 10_000


def test_items_are_named_by_the_precision_that_they_are_scored_in_on_any_machine(tmp_path, monkeypatch):
    import torch

    made = []
    monkeypatch.setattr("mergewise.zoo.encoder.Encoder", lambda folder, precision: made.append(precision))
    monkeypatch.setattr("mergewise.zoo.encoder.Scorer", lambda labeller, tasks, precision: made.append(precision))
    for module in (zoo_family, zoo_bench):
        monkeypatch.setattr(module, "load_tasks", lambda path: {name: source.task for name, source in TASKS.items()})
    names = set()
    for precision in ("float32", "bfloat16"):
        monkeypatch.setattr(zoo_family, "prepare_family", lambda *_, p=precision: plans(tmp_path, p))
        opened = ZooFamily({}, {}).open(tmp_path, print)
        names |= {opened.items("question_type", split).digest for split in ("validation", "test")}
        opened.bench(Model("pt-1", tmp_path, ""))
    assert len(names) == 2  # of a task without examples the splits are alike
    assert made == [torch.float32] * 2 + [torch.bfloat16] * 2
    zoo_bench._scorer.cache_clear()


def test_making_does_the_work_of_the_zoo(workshop, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(zoo_family, "carry_out", lambda *given: done.append(given))
    workshop.base("pt-2").make(tmp_path / "new", (tmp_path / "whole",))
    workshop.multitask("pt-2", HELD_IN[:2]).make(tmp_path / "new", (tmp_path / "pt-2",))
    (healing, whole, _), (tuning, base, new) = done
    assert isinstance(healing, Healing)
    assert healing.layers == 2
    assert isinstance(tuning, Tuning)
    assert [name for name, _ in tuning.lessons] == ["question_type", "sms_spam"]
    assert (whole, base, new) == (tmp_path / "whole", tmp_path / "pt-2", tmp_path / "new")
    assert isinstance(new, Path)
