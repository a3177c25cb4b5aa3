"""How a study sees models and tasks: a family of bases, the tasks they are scored on, and how experts come about.

The embedded zoo is one family (`zoo_family`); `families` knows them by the name that a spec gives. A study asks in this
order, and only what it asks for is ever fetched or made:

1. **The catalogue**, a `Family`: which bases and categories there are, and what things cost. It must be cheap, since
   specs are checked against it and `--dry-run` stops here: nothing is fetched, no torch is imported.
2. **The workshop**, from `Family.open`: data sets are there, so that everything has a content-addressed name. For a
   base, an expert or a multitask model it returns a `Model` (a folder that exists) or a `Training` (how to make one).
3. **Work in worker processes**, on this machine or another: `Training.make` fills a folder, and the `Bench` from
   `Workshop.bench` merges in memory and scores item by item. Workshops and trainings travel there by pickle: they hold
   paths and numbers, never weights or data sets.

    class MyFamily:                                   # a spec names it, `family: my_module:MyFamily`
        name = "mine"
        bases = {"it-1M": Base("it-1M", quality="it", size="1M", parameters=1_000_000, nbytes=4_000_000)}
        categories = {"spam": Category("spam", held_in=True, tasks=("sms", "mail"))}
        def training_seconds(self, base, categories): ...
        def item_seconds(self, base): ...
        def open(self, cache, progress): ...          # fetches data, returns a Workshop

An **expert** is trained on one held-in *category* (all its tasks together, also where a study scores some of them only)
and is named like the category; a **multitask** model on several at once. A `Training` is keyed by `inputs`: everything
that the weights depend on and that plain JSON can say – the keys of `needs` count by themselves, paths must not occur.
The study keeps what `make` leaves (files, no folders), notes the SHA-256 of each, and hands the folder on as a `Model`
whose digest is that of its bytes; merges depend on these bytes, not on how they came about.

**Scores** are numbers in [0, 1] per item, boolean where an item is right or wrong. The items of a split are a fixed
sequence; a limit takes the first ones. `validation` and `test` share nothing, nor does either with training.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from mergewise.study.cells import Bench, Model, Scores, Split, TaskItems, digest

__all__ = ["Base", "Bench", "Category", "Family", "Kind", "Progress", "Scores", "Training", "Workshop"]

Kind = Literal["base", "expert", "multitask"]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """A base model of a family.

    Attributes:
        name: unique in the family; a spec and the tables name it so.
        quality: what kind of base it is; "pt" (pretrained) and "it" (instruction-tuned) are what the study's first
            question compares.
        size: a label such as "6 layers" or "1B"; bases of the same size differ in quality only.
        parameters: number of parameters, by which sizes are ordered and slopes are taken.
        nbytes: bytes of one checkpoint, for estimates.
        trained_nbytes: bytes of what a training leaves, for estimates, if that is not a checkpoint but an adapter.
    """

    name: str
    quality: str
    size: str
    parameters: int
    nbytes: int
    trained_nbytes: int | None = None

    @property
    def expert_nbytes(self) -> int:
        """Bytes of one expert, for estimates."""
        return self.nbytes if self.trained_nbytes is None else self.trained_nbytes


@dataclass(frozen=True)
class Category:
    """An ability with the tasks that measure it; scores are averaged inside a category first.

    Attributes:
        name: unique in the family; the category's expert is named so too.
        held_in: whether experts are trained for it.
        tasks: names of its tasks, unique in the family.
        far: whether a held-out category is unlike every held-in one in form and content.
        about: facts to show beside it, such as source and licence by task; plain JSON.
    """

    name: str
    held_in: bool
    tasks: tuple[str, ...]
    far: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """A model that has to be made once: a content-addressed cell whose result is a checkpoint folder.

    Attributes:
        name: for people, and part of the folder's name, such as "it-6/spam".
        kind: what it is to the study.
        inputs: all that its weights depend on but the models in `needs`: data digests, hyper-parameters, precision,
            seeds, versions of code. Plain JSON, free of paths.
        needs: models that must exist first, such as the base.
        make: fills an empty folder with a checkpoint (config, tokenizer, safetensors); called in a worker process on
            one thread as `make(folder, folders_of_needs)`. Picklable: a `functools.partial` of a module's function.
        seconds: estimated, on one core.
        folder: where in the cache it is kept; by default `models/NAME-KEY`. Its name must change with the inputs.
    """

    name: str
    kind: Kind
    inputs: Mapping[str, Any]
    needs: "tuple[Training | Model, ...]"
    make: Callable[[Path, tuple[Path, ...]], None]
    seconds: float
    folder: str = ""

    @cached_property
    def key(self) -> str:
        """SHA-256, in hexadecimal, of the kind, the inputs and what is needed."""
        needs = [need.digest if isinstance(need, Model) else need.key for need in self.needs]
        return digest([json.dumps([self.kind, dict(self.inputs), needs], sort_keys=True).encode()])

    @property
    def place(self) -> str:
        """Where in the cache it is kept."""
        return self.folder or f"models/{self.name.replace('/', '-').replace(' ', '_')}-{self.key[:16]}"


class Workshop(Protocol):
    """A family whose data sets are at hand; small and picklable.

    Cells are named by the code that merges and scores: that of the workshop's module and all it imports of this
    package or its own, or, so that trainings may change without cells losing their names, of the module that an
    attribute `bench_module` names. An attribute `on_devices` that is true says that benches and trainings run on
    accelerators: workers of one machine then share these out, by CUDA_VISIBLE_DEVICES.
    """

    def base(self, base: str) -> Training | Model:
        """Return a base by its name."""

    def expert(self, base: str, category: str) -> Training | Model:
        """Return the expert of a base for one held-in category."""

    def multitask(self, base: str, categories: Sequence[str]) -> Training | Model:
        """Return the base trained on several held-in categories together."""

    def items(self, task: str, split: Split) -> TaskItems:
        """Return a task's name and the digest of all that scoring it on a split depends on but the model."""

    def bench(self, base: Model) -> Bench:
        """Load what merging and scoring models of this base takes; called in a worker, once per worker and base."""


class Family(Protocol):
    """What is on offer, known without fetching or computing anything.

    A family may have a method `will_score(tasks)`: it is called with all tasks of a study, before the family is opened,
    so that none of their items is trained on. Likewise `will_use(bases)` is called with the names of the bases that a
    study chose, so that no others are fetched, and `will_fetch(model)`
    with what a spec gives as an expert that is no folder: it says whether that will be fetched on opening, after which
    the workshop's `fetched[model]` is its folder. If its work runs on accelerators, `workers(devices)` returns how many
    workers a machine with so many of them has room for.

    Attributes:
        name: as specs name it.
        bases: by name.
        categories: by name, held-in ones first, in the order in which experts are drawn from.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - as above
    @property
    def bases(self) -> Mapping[str, Base]: ...  # noqa: D102
    @property
    def categories(self) -> Mapping[str, Category]: ...  # noqa: D102

    def training_seconds(self, base: str, categories: Sequence[str]) -> float:
        """Estimate the core seconds of a training: of the base itself without categories, else of an expert on them."""

    def item_seconds(self, base: str) -> float:
        """Estimate the core seconds that a model of this base takes for one item."""

    def open(self, cache: Path, progress: Progress) -> Workshop:
        """Fetch and prepare data sets, whatever the cache lacks, and return the workshop.

        Args:
            cache: a folder that all workers see.
            progress: called with a line of text now and then.

        Raises:
            MergewiseError: something could not be fetched or is not as expected.
        """
