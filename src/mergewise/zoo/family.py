"""The family of the zoo: which models there are, what they are made from, and about how long that takes.

Eight bases (two qualities, four sizes), an expert of every base for every held-in category, and multitask models of any
categories together. All of it is known from the data alone; nothing here trains anything (`making` does).

The label texts of all tasks are embedded by the whole pretrained base, whatever model is trained or scored: smaller
ones are distilled onto its embeddings, and those that a model gives to labels would drift away while it is tuned.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mergewise.zoo.bases import BASES, WHOLE, BaseModel, HealingRecipe, instruction_recipe
from mergewise.zoo.errors import ZooError
from mergewise.zoo.experts import expert_key, expert_recipe, lesson_inputs, tuning_inputs
from mergewise.zoo.making import Healing, Making, Tuning
from mergewise.zoo.mixture import MIXTURE
from mergewise.zoo.tasks import TASKS, Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from mergewise.zoo.experts import Recipe
    from mergewise.zoo.sources import Sources

__all__ = ["CATEGORIES", "HELD_IN", "Plans", "held_in_tasks", "item_seconds", "plan_family", "training_seconds"]

HEALING_VERSION = 1
"""To be raised with every change of the code that changes what healing makes of the same recipe and texts."""

CATEGORIES: dict[str, tuple[str, ...]] = {}
"""The tasks of every category, held-in ones first, in the order in which experts are drawn from."""
for _name, _source in TASKS.items():
    CATEGORIES[_source.task.category] = (*CATEGORIES.get(_source.task.category, ()), _name)
HELD_IN = tuple(name for name, names in CATEGORIES.items() if TASKS[names[0]].task.role == "held-in")
"""The categories with experts."""

# Measured by benchmarks/zoo.py: seconds of one core with bfloat16 products; float32 takes about twice as long.
TOKEN_LAYER_SECONDS = 2.4e-5
STEP_LAYER_SECONDS = 0.006
STEP_SECONDS = 0.008
START_SECONDS = 6.0
MEAN_TOKENS = {
    "question_type": 14,
    "sms_spam": 25,
    "film_review": 24,
    "newswire_topic": 54,
    "newsgroup": 62,
    "tweet_author": 26,
    "speech_party": 51,
    "city_continent": 5,
    "word_field": 4,
    "word_class": 4,
    "word_arousal": 4,
    "genre": 24,
    "sitcom_speaker": 18,
}
"""Tokens of a training text, by task."""
ITEM_SECONDS, ITEM_LAYER_SECONDS = 1.0e-4, 6.5e-4  # of one text of mean length, by benchmarks/grid.py
MEAN_PLAIN_TOKENS = 16


@dataclass(frozen=True)
class Plans:
    """How every model of the family comes about; small and picklable.

    Attributes:
        sources: what all of them are made from.
        lessons: what training on a task depends on but the base, as plain JSON, by task, those of the mixture too.
        known_places: where in the cache the experts of the whole base are, by task; they are older than the family.
    """

    sources: Sources
    lessons: Mapping[str, Mapping[str, Any]]
    known_places: Mapping[str, str]

    def base(self, name: str) -> Making | Path:
        """Return a base by name: the folder of the whole one, or how another comes about.

        Raises:
            ZooError: there is no such base.
        """
        if name not in BASES:
            raise ZooError(f"the base should be one of {', '.join(BASES)}, but is {name!r}")
        base = BASES[name]
        if base == WHOLE:
            return self.sources.base
        return self._tuned_base(base) if base.quality == "it" else self._healed_base(base)

    def _healed_base(self, base: BaseModel) -> Making:
        recipe = HealingRecipe(precision=self.sources.precision)
        return Making(
            name=base.name,
            kind="base",
            base=self.sources.base,
            base_key=self.sources.base_sha256,
            inputs={
                "healing": HEALING_VERSION,
                "layers": base.layers,
                "texts": self.sources.texts_sha256,
                "recipe": asdict(recipe),
            },
            work=Healing(self.sources.texts_file, base.layers, recipe),
            seconds=training_seconds(base.name, ()),
        )

    def _tuned_base(self, base: BaseModel) -> Making:
        recipe = instruction_recipe(self.sources.precision)
        plain = BaseModel("pt", base.layers).name
        return self._tuning(plain, base.name, "base", dict.fromkeys(MIXTURE, recipe), self.sources.mixture_file)

    def expert(self, base: str, category: str) -> Making:
        """Return the expert of a base for one held-in category."""
        return self._on_categories(base, [category], f"{base}/{category}", "expert")

    def multitask(self, base: str, categories: Sequence[str]) -> Making:
        """Return the base trained on several held-in categories together.

        It takes as many steps on every task as the expert for that task does, so that it costs what all the experts
        together cost.
        """
        return self._on_categories(base, categories, f"{base}/multitask", "multitask")

    def _on_categories(self, base: str, categories: Sequence[str], name: str, kind: str) -> Making:
        recipes = {task: expert_recipe(task, self.sources.precision) for task in held_in_tasks(categories)}
        place = self.known_places[next(iter(recipes))] if base == WHOLE.name and len(recipes) == 1 else ""
        return self._tuning(base, name, kind, recipes, self.sources.tasks_file, place)

    def _tuning(
        self, base: str, name: str, kind: Any, recipes: Mapping[str, Recipe], tasks_file: Path, place: str = ""
    ) -> Making:
        origin = self.base(base)
        return Making(
            name=name,
            kind=kind,
            base=origin,
            base_key=origin.key if isinstance(origin, Making) else self.sources.base_sha256,
            inputs=tuning_inputs([self.lessons[task] for task in recipes], self.sources.base_sha256),
            work=Tuning(tasks_file, self.sources.base, tuple(recipes.items())),
            seconds=_tuning_seconds(BASES[base].layers, recipes),
            given_place=place,
        )


def plan_family(sources: Sources, tasks: Mapping[str, Task], mixture: Mapping[str, Task]) -> Plans:
    """Return the plans for all models.

    Args:
        sources: what is at hand.
        tasks: those of the study by name, with their examples.
        mixture: the same of the instruction mixture.
    """
    precision = sources.precision
    held_in = {name: task for name, task in tasks.items() if task.role == "held-in"}
    lessons = {name: lesson_inputs(task, expert_recipe(name, precision)) for name, task in held_in.items()}
    lessons |= {name: lesson_inputs(task, instruction_recipe(precision)) for name, task in mixture.items()}
    return Plans(
        sources,
        lessons,
        {
            name: f"experts/{name}-{expert_key(sources.base_sha256, task, expert_recipe(name, precision))}"
            for name, task in held_in.items()
        },
    )


def held_in_tasks(categories: Sequence[str]) -> list[str]:
    """Return the tasks of held-in categories.

    Raises:
        ZooError: there is no such category, or it is held out.
    """
    unknown = [name for name in categories if name not in HELD_IN]
    if unknown:
        raise ZooError(f"the category should be one of {', '.join(HELD_IN)}, but is {unknown[0]!r}")
    return [task for category in categories for task in CATEGORIES[category]]


def training_seconds(base: str, categories: Sequence[str]) -> float:
    """Estimate the seconds of one core that a training takes: of the base itself without categories, else on them."""
    model = BASES[base]
    if categories:
        recipes = {task: expert_recipe(task, "bfloat16") for task in held_in_tasks(categories)}
        return _tuning_seconds(model.layers, recipes)
    if model == WHOLE:
        return 0.0
    if model.quality == "it":
        return _tuning_seconds(model.layers, {name: instruction_recipe("bfloat16") for name in MIXTURE})
    healing = HealingRecipe()
    tokens = healing.batch * MEAN_PLAIN_TOKENS
    teacher = healing.steps * tokens * WHOLE.layers * TOKEN_LAYER_SECONDS
    return teacher + START_SECONDS + healing.steps * _step_seconds(model.layers, tokens)


def item_seconds(base: str) -> float:
    """Estimate the seconds of one core that a model of this base takes to score one item."""
    return ITEM_SECONDS + BASES[base].layers * ITEM_LAYER_SECONDS


def _tuning_seconds(layers: int, recipes: Mapping[str, Recipe]) -> float:
    steps = sum(r.steps * _step_seconds(layers, r.batch * MEAN_TOKENS[task]) for task, r in recipes.items())
    return START_SECONDS + steps


def _step_seconds(layers: int, tokens: int) -> float:
    """Forward and backward cost three times what scoring costs; the optimizer costs the same for any batch."""
    return STEP_SECONDS + layers * (STEP_LAYER_SECONDS + 3 * tokens * TOKEN_LAYER_SECONDS)
