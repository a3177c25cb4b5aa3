"""Rows become splits that share no text, alike every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergewise.zoo.splitting import (
    NEAR_DUPLICATE_SHARE,
    SHINGLE_WORDS,
    NearDuplicates,
    Row,
    Split,
    balance,
    normalise,
    split_rows,
    unique_rows,
    without_near_duplicates,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is  this?", "what is this"),
        ("¡Qué día!", "que dia"),
        ("snake_case, 3.5 & more", "snake case 3 5 more"),
        ("don't", "don t"),
        ("Straße", "strasse"),
        ("?!", ""),
    ],
)
def test_normalising_keeps_the_words_only(text, expected):
    assert normalise(text) == expected


def test_normalising_cuts_after_the_words_a_model_can_see():
    assert normalise("one two, three four", 3) == "one two three"


def test_texts_that_differ_in_case_and_punctuation_are_one_row():
    rows = [Row("Hello there!", 0), Row("hello THERE", 0), Row("bye", 1)]
    assert unique_rows(rows, None, set()) == [rows[0], rows[2]]


def test_a_text_with_two_answers_is_dropped_altogether():
    assert unique_rows([Row("San José", 0), Row("San Jose", 1), Row("Lima", 1)], None, set()) == [Row("Lima", 1)]


def test_the_same_reply_in_another_order_is_no_second_answer():
    rows = [Row("hi", 0, ("hello", "no")), Row("Hi", 1, ("no", "hello"))]
    assert unique_rows(rows, None, set()) == [rows[0]]


def test_a_text_taken_by_another_task_is_dropped_and_new_ones_are_taken():
    taken = {"hello"}
    assert unique_rows([Row("Hello", 0), Row("bye", 0)], None, taken) == [Row("bye", 0)]
    assert taken == {"hello", "bye"}


def test_a_text_in_both_parts_of_the_source_stays_in_its_test():
    rows = [Row("same text", 0, part="train"), Row("same text", 0, part="test")]
    assert unique_rows(rows, None, set()) == [rows[1]]


def test_texts_without_a_word_are_dropped():
    assert unique_rows([Row("…", 0), Row("", 1)], None, set()) == []


@pytest.mark.parametrize(("per_class", "counts"), [(None, [3, 3]), (5, [5, 3]), (1, [1, 1])])
def test_balancing_caps_every_answer(per_class, counts):
    rows = [Row(f"text {i}", 0) for i in range(10)] + [Row(f"other {i}", 1) for i in range(3)]
    kept = balance(rows, per_class, "seed")
    assert [sum(row.answer == answer for row in kept) for answer in (0, 1)] == counts
    assert kept == balance(rows, per_class, "seed")


def numbered(count, **fields):
    return [Row(f"text number {i}", i % 2, **fields) for i in range(count)]


def test_splits_have_their_sizes_and_share_nothing():
    split = split_rows(numbered(100), 10, 20, "seed")
    assert (len(split.train), len(split.validation), len(split.test)) == (70, 10, 20)
    assert len({row.text for row in split.train + split.validation + split.test}) == 100


def test_splits_are_the_same_every_time_and_differ_between_seeds():
    assert split_rows(numbered(100), 10, 20, "a") == split_rows(numbered(100), 10, 20, "a")
    assert split_rows(numbered(100), 10, 20, "a").test != split_rows(numbered(100), 10, 20, "b").test


def test_the_test_part_of_a_source_never_reaches_training_or_validation():
    rows = numbered(30, part="train") + [Row(f"unseen {i}", 0, part="test") for i in range(30)]
    split = split_rows(rows, 10, 20, "seed")
    assert {row.part for row in split.test} == {"test"}
    assert {row.part for row in split.train + split.validation} == {"train"}
    assert (len(split.train), len(split.validation), len(split.test)) == (20, 10, 20)


def test_groups_are_never_divided_between_splits():
    rows = [Row(f"quote {i}", 0, group=f"film {i % 15}") for i in range(150)]
    split = split_rows(rows, 25, 35, "seed")
    groups = [{row.group for row in part} for part in (split.train, split.validation, split.test)]
    assert len(split.validation) == 25
    assert len(split.test) == 35
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_the_first_items_of_a_split_come_from_many_groups():
    rows = [Row(f"quote {i}", 0, group=f"film {i // 10}") for i in range(300)]
    split = split_rows(rows, 100, 100, "seed")
    for part in (split.train, split.validation, split.test):
        assert len({row.group for row in part[:20]}) >= 5


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("free entry to win a prize call now on 0123", "free entry to win a prize call now on 4567", True),
        ("what is the capital of france", "what is the capital of spain", False),
        ("red bus", "red bus", True),
        ("red bus", "red car", False),
        ("a b c d e f", "u v w x y z", False),
    ],
)
def test_near_duplicates_share_most_of_their_word_sequences(first, second, near):
    index = NearDuplicates()
    index.add(first)
    assert index.has_near(second) is near


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), min_size=2, max_size=6))
def test_near_duplicates_agree_with_sets_compared_in_full(texts):
    def shingles(words):
        if len(words) < SHINGLE_WORDS:
            return {tuple(words)}
        return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}

    *seen, new = texts
    index = NearDuplicates()
    for words in seen:
        index.add(" ".join(words))
    resemblance = [len(shingles(s) & shingles(new)) / len(shingles(s) | shingles(new)) for s in seen]
    assert index.has_near(" ".join(new)) == any(share > NEAR_DUPLICATE_SHARE for share in resemblance)


def test_near_copies_of_test_and_validation_texts_leave_training_in_every_task():
    template = "you have won a prize of 900 pounds please call us now on {}"
    splits = {
        "one": Split((Row(template.format(1), 0), Row("quite another text", 0)), (), (Row("something else here", 0),)),
        "two": Split((), (Row(template.format(2), 0),), ()),
        "three": Split((), (Row(template.format(3), 0), Row("plain", 0)), (Row(template.format(4), 0),)),
    }
    cleaned = without_near_duplicates(splits, dict.fromkeys(splits, 32))
    assert cleaned["one"].train == (Row("quite another text", 0),)
    assert cleaned["two"].validation == ()
    assert cleaned["three"].validation == (Row("plain", 0),)
    assert {name: split.test for name, split in cleaned.items()} == {n: s.test for n, s in splits.items()}
