"""Each reader of the corpus understands the format of its source; the samples are made up."""

import bz2
import gzip
import json
from dataclasses import replace

from mergewise.zoo import corpus
from mergewise.zoo.mixture import MIXTURE, Guard, assemble_mixture, assemble_texts
from mergewise.zoo.splitting import Row, normalise
from mergewise.zoo.tasks import TASKS, Example, TaskSource

from .conftest import make_task
from .test_datasets import serving

SITCOM = "Season\tEpisode\tCode\tTitle\tAuthor\tQuote\nd\td\td\td\td\tstring\n\t\t\t\t\tinclude=True\n"
LONG = "I really do not know what that means"


def lexicon(*entries):
    patterns = [{"label": tag, "pattern": {"LEMMA": word, "POS": part}} for word, tag, part in entries]
    patterns.append({"label": "F1", "pattern": [{"LEMMA": "fish", "POS": "NOUN"}, {"LEMMA": "cake", "POS": "NOUN"}]})
    return {
        "enusaspats.json.gz": gzip.compress(json.dumps(patterns).encode()),
        "count_1w.txt": "".join(f"{word}\t{100 - i}\n" for i, (word, _, _) in enumerate(entries) if word != "rare"),
    }


def test_words_of_one_field_and_one_class_are_kept():
    files = lexicon(
        ("bread", "F1", "NOUN"), ("bread", "F1", "NOUN"), ("bank", "I1", "NOUN"), ("bank", "W3", "NOUN"),
        ("rare", "F1", "NOUN"), ("eat", "F1", "VERB"), ("walk", "M1", "VERB"), ("walk", "M1", "NOUN"),
        ("happy", "E4", "ADJ"),
    )  # fmt: skip
    fields = list(corpus.WORD_FIELDS)
    assert corpus.word_fields(serving(**files)) == [Row("bread", fields.index("F")), Row("walk", fields.index("M"))]
    assert corpus.word_classes(serving(**files)) == [Row("bread", 0), Row("bank", 0), Row("happy", 2)]


def test_words_of_middling_arousal_are_left_out():
    table = ",Word,A.Mean.Sum\n1,sleep,2.4\n2,chair,4.0\n3,thunder,6.1\n"
    read = serving(**{"sentiment-Ratings_Warriner_et_al.csv": table})
    assert corpus.word_arousal(read) == [Row("sleep", 0), Row("thunder", 1)]


def test_lines_of_main_characters_that_say_enough_are_kept():
    rows = [("Joey", f" {LONG}."), ("Joey", "Hey."), ("Gunther", f"{LONG}!"), ("Ross", f"And  {LONG}?")]
    table = SITCOM + "".join(f"01\t01\t0101\tOne\t{who}\t{line}\n" for who, line in rows) + "\n"
    read = serving(**{"friends-transcripts.tab": table})
    assert corpus.sitcom_speakers(read) == [Row(f"{LONG}.", 1), Row(f"And {LONG}?", 5)]


def line(number):
    """A line like no other: hardly any four of its words in a row are in another."""
    return f"line{number} has word{number} and thing{number} with stuff{number}"


def world():
    words = " ".join(f"word{i}" for i in range(corpus.PIECE_WORDS + 3))
    tale = "Once upon a time there was a king. He slept. Then he woke up and went to war!"
    return {
        "friends-transcripts.tab": SITCOM + "".join(f"01\t01\t0101\tOne\tJoey\t{line(i)}\n" for i in range(9)),
        "book-excerpts.tab": f"Category\tText\nd\tstring\nclass\t\nchildren\tsmall {words}\nadult\tlarge {words}\n",
        "andersen.tab": f"Title\tContent\nstring\tstring\n\t\nA\t{tale}\n",
        "grimm-tales.tab": f"Topic\tTitle\tAbstract\tContent\nd\ts\ts\ts\n\t\t\t\nMagic\tB\tShort\tOnly {tale}\n",
        "guardian_headlines.csv.bz2": bz2.compress(
            b",Text,Date\n0,Johnson asks Santa for a new recovery,2020\n1,No,2020\n"
        ),
        "hamlet.txt": "HAMLET\nTo be, or not to be, that is the question:\nExit Ghost\n",
        "count_1w.txt": "the\t9\nof\t8\nand\t7\nto\t6\nlast\t5\n",
    }


def test_genres_are_told_by_where_a_piece_comes_from():
    rows = corpus.genres(serving(**world()))
    texts = {genre: [row.text for row in rows if row.answer == i] for i, genre in enumerate(corpus.GENRES)}
    assert texts["sitcom"] == [line(0), line(8)]
    assert [len(text.split()) for text in texts["children"]] == [corpus.PIECE_WORDS, 4]
    assert texts["adult"][0].startswith("large word0 ")
    assert texts["tale"] == [
        "Once upon a time there was a king.", "Then he woke up and went to war!",
        "Only Once upon a time there was a king.", "Then he woke up and went to war!",
    ]  # fmt: skip
    assert texts["headline"] == ["Johnson asks Santa for a new recovery"]
    assert texts["play"] == ["To be, or not to be, that is the question: Exit Ghost"]


def test_plain_texts_are_unique_in_the_same_random_order_and_none_the_guard_refuses():
    read = serving(**world())
    task = make_task(examples=(Example(f"  {line(3).upper()}!", 0), Example("fine", 1)) * 4)
    texts = assemble_texts(read, Guard([task]))
    assert texts == assemble_texts(read, Guard([task]))
    assert len(texts) == len(set(texts))
    assert {"the", "last", line(2)} <= set(texts)
    assert line(3) not in texts


def test_the_guard_refuses_choices_and_near_copies_too():
    long = "the quick brown fox jumps over the lazy dog and then sleeps all day long in the sun"
    guard = Guard([make_task(examples=(Example(long, 0, ("calm", "storm")),) * 8)])
    assert not guard.allows(long + " again")
    assert not guard.allows("Storm")
    assert not guard.allows("...")
    assert guard.allows("the quick brown fox")


def test_no_text_of_the_mixture_is_in_two_of_its_tasks_or_splits():
    def source(name, texts):
        rows = [Row(text, i % 2) for i, text in enumerate(texts)]
        task = replace(make_task(name, "mixture"), validation=(), test=())
        return TaskSource(task, lambda read: rows, balanced=True)

    shared = [f"shared text {i}" for i in range(900)]
    sources = [source("a", [*shared, *(f"a {i}" for i in range(100))]), source("b", [s.upper() for s in shared])]
    mixed = assemble_mixture(sources, lambda *_: b"", Guard([]))
    everything = [normalise(e.text) for task in mixed.values() for e in task.train + task.validation + task.test]
    assert len(everything) == len(set(everything)) == 1000
    assert len(mixed["a"].test) == 300
    assert mixed["a"].validation == ()


def test_the_mixture_asks_nothing_that_the_study_asks():
    study = {choice for source in TASKS.values() for choice in source.task.choices}
    for name, source in MIXTURE.items():
        assert source.task.name == name
        assert source.task.role == "mixture"
        assert source.task.licence
        assert len(set(source.task.choices)) == len(source.task.choices) >= 2
        assert not study & set(source.task.choices)
    assert not MIXTURE.keys() & TASKS.keys()
