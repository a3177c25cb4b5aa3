"""The header reader believes what the safetensors library believes, and nothing more.

The library is the authority: whatever it refuses must be refused. Where mergewise is stricter, it is on purpose, and
``stricter_on_purpose`` lists every such case with its reason.
"""

import copy
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open
from safetensors import numpy as library

import support
from mergewise.checkpoint import STORAGE_DTYPES, read_header
from mergewise.checkpoint.header import MAX_HEADER_BYTES, encode_header, parse_header
from mergewise.errors import CheckpointError

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# every character that UTF-8 can hold, line breaks and quotes too
NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@st.composite
def arrays(draw, least=0):
    """Tensors of every dtype and of odd shapes: scalars, empty ones, up to three dimensions."""
    found = {}
    for name in draw(st.lists(NAMES, unique=True, min_size=least, max_size=4)):
        dtype = np.dtype(support.NUMPY_NAMES[draw(st.sampled_from(sorted(support.NUMPY_NAMES)))])
        shape = draw(SHAPES)
        size = int(np.prod(shape)) * dtype.itemsize
        raw = draw(st.binary(min_size=size, max_size=size))
        found[name] = np.frombuffer(bytearray(raw), dtype).reshape(shape)
    return found


def library_accepts(content: bytes) -> bool:
    try:
        deserialize(content)
    except SafetensorError:
        return False
    return True


def parse(content: bytes):
    """Read a file's bytes as ``read_header`` does, without a file."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        return None  # never reaches the parser; files like this have tests of their own below
    return parse_header(content[8 : 8 + length], len(content) - 8 - length, "x.safetensors")


def accepts(content: bytes) -> bool:
    try:
        return parse(content) is not None
    except CheckpointError:
        return False


def stricter_on_purpose(content: bytes) -> bool:
    """Whether a file that the library accepts may be refused here."""
    text = content[8 : 8 + int.from_bytes(content[:8], "little")]
    if not text.startswith(b"{"):
        return True  # the format says that a header begins with {; the library skips white space before it
    twice = False

    def pairs(found):
        nonlocal twice
        # the format disallows duplicate keys; the library keeps the last, others the first: two readings of one file
        twice |= len(dict(found)) < len(found)
        return dict(found)

    header = json.loads(text, object_pairs_hook=pairs)
    if twice:
        return True
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        # the format knows one form of entry; the library also takes [dtype, shape, offsets], {"F32": null} for a
        # dtype, and fields that it ignores: a claim that is not understood is not believed here
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            return True
        if not isinstance(entry["dtype"], str):
            return True
        # no array can have such dimensions, even an empty one; the library minds only those before the first zero
        if any(size >= 1 << 63 for size in entry["shape"]) or math.prod(n for n in entry["shape"] if n) >= 1 << 64:
            return True
    return False


def agree(content: bytes) -> None:
    """Require that mergewise and the library agree on a file, but for what is stricter on purpose."""
    if accepts(content):
        assert library_accepts(content), "mergewise accepts what the library refuses"
    elif library_accepts(content):
        assert stricter_on_purpose(content), "mergewise refuses what the library accepts"


class TestValidFiles:
    @relaxed
    @given(arrays(), st.dictionaries(NAMES, NAMES, max_size=2))
    def test_what_the_library_writes_is_read_with_the_same_dtypes_shapes_and_bytes(self, given_arrays, metadata):
        content = library.save(given_arrays, metadata or None)
        tensors, words = parse(content)
        assert words == metadata
        expected = {name: (e["dtype"], tuple(e["shape"]), bytes(e["data"])) for name, e in deserialize(content)}
        assert {
            name: (t.dtype, t.shape, content[t.start : t.start + t.nbytes]) for name, t in tensors.items()
        } == expected
        assert all(name == t.name and t.numel == np.prod(t.shape) for name, t in tensors.items())

    @pytest.mark.parametrize("name", sorted(STORAGE_DTYPES))
    def test_every_dtype_of_the_format_is_known_with_its_width(self, name):
        bits = STORAGE_DTYPES[name].bits
        header = {"a": {"dtype": name, "shape": [8, 3], "data_offsets": [0, 3 * bits]}}
        content = support.file_bytes(header, bytes(3 * bits))
        assert library_accepts(content)
        assert parse(content)[0]["a"].nbytes == 3 * bits

    def test_packed_elements_that_do_not_fill_a_byte_are_refused(self):
        content = support.file_bytes({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, b"0")
        assert not library_accepts(content)
        assert not accepts(content)

    def test_a_file_without_tensors_is_a_valid_file(self):
        content = support.file_bytes({})
        assert library_accepts(content)
        assert parse(content) == ({}, {})

    @pytest.mark.parametrize("metadata", [None, {}, {"a": "b"}, {"": ""}])
    def test_metadata_may_be_null_empty_or_words(self, metadata):
        content = support.file_bytes({"__metadata__": metadata})
        assert library_accepts(content)
        assert parse(content) == ({}, metadata or {})

    @relaxed
    @given(arrays(), st.dictionaries(NAMES, NAMES, max_size=2))
    def test_what_is_encoded_here_is_read_back_and_the_library_accepts_it(self, given_arrays, metadata):
        entries = [("F32", (2, 1), 8), ("U8", (0,), 0), ("BOOL", (), 1), ("F64", (1,), 8)]
        tensors = [(name, *entry) for name, entry in zip(given_arrays, entries, strict=False)]
        content = encode_header(tensors, metadata)
        assert len(content) % 8 == 0  # so that data may be mapped into memory as it stands
        content += bytes(sum(nbytes for *_, nbytes in tensors))
        assert library_accepts(content)
        found, words = parse(content)
        assert [(t.name, t.dtype, t.shape, t.nbytes) for t in found.values()] == tensors
        assert words == metadata


WEIRD_SIZES = st.sampled_from(
    [-1, 0, 1, 2, 3, 1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30, 1.0, 0.5, True, None,
     "2", [1], {}]
)  # fmt: skip
WEIRD = st.sampled_from(
    [None, True, False, 0, 1, -1, 0.5, "", "F32", [], [1], {}, {"a": 1}, {"F32": None}, [0, 4]]
).map(copy.deepcopy)
SCRAPS = st.sampled_from([b"", b"0", b"9", b"-", b'"', b"\\", b"{", b"}", b",", b":", b"\xff", b"\0", b"e1", b"."])
DTYPES = st.sampled_from([*STORAGE_DTYPES, "f32", "F33", "float32", "", "I128"])


def damage_entry(draw, header, name):
    """Put a fault into the entry of one tensor."""
    entry = header[name]
    fault = draw(st.integers(0, 7))
    if fault == 0:
        header[name] = draw(WEIRD)
    elif fault == 1:
        del header[name]  # leaves a hole, unless it was empty or alone
    elif fault == 2:
        header[draw(NAMES)] = dict(entry)  # overlaps, unless it is empty
    elif fault == 3:
        entry["data_offsets"] = [draw(st.integers(-9, 9)), draw(st.integers(-9, 99))]
    elif fault == 4:
        entry["shape"] = draw(st.lists(st.integers(0, 3) | WEIRD_SIZES, max_size=3))
    elif fault == 5:
        entry["shape"], entry["data_offsets"] = draw(st.lists(WEIRD_SIZES, max_size=3)), [0, 0]
    elif fault == 6:
        entry["dtype"] = draw(DTYPES | WEIRD)
    else:
        entry[draw(st.sampled_from(["dtype", "shape", "data_offsets", "strides"]))] = draw(WEIRD)


@st.composite
def damaged_files(draw):
    """Valid files, with up to two faults in their entries and one in the rest."""
    content = library.save(draw(arrays(least=1)), draw(st.sampled_from([None, {"a": "b"}])))
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    for _ in range(draw(st.integers(0, 2))):
        intact = [name for name, entry in header.items() if name != "__metadata__" and isinstance(entry, dict)]
        if intact:
            damage_entry(draw, header, draw(st.sampled_from(intact)))
    front, back, claim = b"", b"", 0
    fault = draw(st.integers(0, 6))
    if fault == 0:
        data = data[: -draw(st.integers(1, 8))]
    elif fault == 1:
        data += bytes(draw(st.integers(1, 8)))
    elif fault == 2:
        claim = draw(st.integers(-20, 20))
    elif fault == 3:
        front = draw(st.sampled_from([b" ", b"\n", b"\xef\xbb\xbf", b"\0", b"[", b"{}"]))
    elif fault == 4:
        back = draw(st.sampled_from([b" ", b"  \n\t\r", b"\0", b"\x0b", b"\xa0", b"}", b"//", b","]))
    elif fault == 5:
        header["__metadata__"] = draw(WEIRD)
    text = front + json.dumps(header).encode() + back
    return support.file_bytes(text, data, max(0, len(text) + claim))


class TestDamagedFiles:
    @settings(relaxed, max_examples=400)
    @given(damaged_files())
    def test_a_damaged_file_is_judged_as_the_library_judges_it(self, content):
        agree(content)

    @settings(relaxed, max_examples=300)
    @given(arrays(least=1), st.data())
    def test_a_file_with_changed_bytes_is_judged_as_the_library_judges_it(self, given_arrays, data):
        content = bytearray(library.save(given_arrays, {"a": "b"}))
        header_end = 8 + int.from_bytes(content[:8], "little")
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, header_end - 1))
            content[at : at + data.draw(st.integers(0, 2))] = data.draw(SCRAPS)
        agree(bytes(content))

    @settings(relaxed, max_examples=200)
    @given(st.binary(max_size=60), st.booleans())
    def test_bytes_that_are_no_header_at_all_give_a_fault_and_never_a_crash(self, text, in_braces):
        agree(support.file_bytes(b"{" + text + b"}" if in_braces else text))


def entry(**changes):
    return {"a": {**F32, **changes}}


MALFORMED = {
    "the header is empty": (b"", b"", "JSON"),
    "the header is not JSON": (b"{'a': 1}", b"", "JSON"),
    "the header is a list": (b"[]", b"", "header"),
    "the header is not UTF-8": (b'{"\xff": 1}', b"", "JSON"),
    "the header starts with a byte order mark": (b"\xef\xbb\xbf{}", b"", "JSON"),
    "the header is nested a thousand deep": (b'{"a":' * 1000 + b"1" + b"}" * 1000, b"", ""),
    "the header is nested a hundred thousand deep": (b'{"a":' + b"[" * 100_000, b"", "JSON"),
    "the header is followed by null bytes": (b"{}\0\0", b"", "JSON"),
    "the header says NaN": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"0000", "JSON"),
    "metadata is a number": ({"__metadata__": 1}, b"", "__metadata__"),
    "metadata is false": ({"__metadata__": False}, b"", "__metadata__"),
    "metadata is zero": ({"__metadata__": 0}, b"", "__metadata__"),
    "metadata is an empty word": ({"__metadata__": ""}, b"", "__metadata__"),
    "metadata is an empty list": ({"__metadata__": []}, b"", "__metadata__"),
    "metadata maps to a number": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
    "metadata maps to null": ({"__metadata__": {"a": None}}, b"", "__metadata__"),
    "an entry is null": ({"a": None}, b"", "'a'"),
    "an entry lacks its shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"0000", "shape"),
    "a dtype is unknown": (entry(dtype="F33"), b"0000", "F33"),
    "a dtype is in small letters": (entry(dtype="f32"), b"0000", "f32"),
    "a shape is negative": (entry(shape=[-1]), b"0000", "-1"),
    "a shape is fractional": (entry(shape=[1.0]), b"0000", "1.0"),
    "a shape is a boolean": (entry(shape=[True]), b"0000", "True"),
    "a shape is not a list": (entry(shape=1), b"0000", "shape"),
    "a shape does not fit 64 bits": (entry(shape=[0, 1 << 64], data_offsets=[0, 0]), b"", "shape"),
    "a shape multiplies beyond 64 bits": (entry(shape=[1 << 33, 1 << 33]), b"0000", "shape"),
    "an empty shape multiplies beyond 64 bits": (
        entry(shape=[1 << 62, 1 << 62, 0], data_offsets=[0, 0]),
        b"",
        "shape",
    ),
    "offsets are three": (entry(data_offsets=[0, 4, 4]), b"0000", "data_offsets"),
    "offsets are negative": (entry(data_offsets=[-4, 0]), b"0000", "-4"),
    "offsets are a negative zero": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', b"0000", ""),
    "offsets run backwards": (entry(data_offsets=[4, 0]), b"0000", "-4"),
    "offsets do not fit 64 bits": (entry(data_offsets=[(1 << 64) - 4, 1 << 64]), b"0000", "data_offsets"),
    "offsets span less than the shape": (entry(data_offsets=[0, 3]), b"000", "3"),
    "offsets span more than the shape": (entry(data_offsets=[0, 5]), b"00000", "5"),
    "the first tensor does not start at zero": (entry(data_offsets=[4, 8]), b"00000000", "hole"),
    "two tensors overlap": ({"a": F32, "b": {**F32, "data_offsets": [2, 6]}}, b"000000", "overlap"),
    "two tensors share their bytes": ({"a": F32, "b": F32}, b"0000", "overlap"),
    "an empty tensor lies inside another": (
        {"a": F32, "b": {"dtype": "F32", "shape": [0], "data_offsets": [2, 2]}},
        b"0000",
        "overlap",
    ),
    "there is a hole": ({"a": F32, "b": {**F32, "data_offsets": [8, 12]}}, b"0" * 12, "hole"),
    "bytes are left over": ({"a": F32}, b"00000", "belong to no tensor"),
    "the data are cut short": ({"a": F32}, b"000", "cut short"),
    "a name is half a surrogate pair": (
        b'{"a\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"0000",
        "",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_file_is_refused_as_by_the_library_when(kind, tmp_path):
    header, data, words = MALFORMED[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(support.file_bytes(header, data))
    assert not library_accepts(path.read_bytes())
    with pytest.raises(CheckpointError) as fault:
        read_header(path)
    assert str(path) in str(fault.value)
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)


STRICTER = {
    "a key stands twice": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"0000",
        "'a' stands twice",
    ),
    "a key of the metadata stands twice": (b'{"__metadata__":{"a":"1","a":"2"}}', b"", "'a' stands twice"),
    "an entry has a field that the format does not know": (entry(strides=[1]), b"0000", "strides"),
    "an entry is written as a list": ({"a": ["F32", [1], [0, 4]]}, b"0000", "data_offsets"),
    "a dtype is written as an object": (entry(dtype={"F32": None}), b"0000", "dtype"),
    "a dimension cannot be that of an array": (entry(shape=[0, 1 << 63], data_offsets=[0, 0]), b"", "shape"),
    "an empty shape multiplies beyond 64 bits after its zero": (
        entry(shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0]),
        b"",
        "shape",
    ),
    "the header does not begin with a brace": (b" {}", b"", "{"),
}


@pytest.mark.parametrize("kind", STRICTER)
def test_a_file_is_refused_although_the_library_takes_it_when(kind):
    header, data, words = STRICTER[kind]
    content = support.file_bytes(header, data)
    assert library_accepts(content), "the library has become stricter: this belongs to MALFORMED now"
    assert stricter_on_purpose(content)
    with pytest.raises(CheckpointError) as fault:
        parse(content)
    assert words in str(fault.value)
    assert "found dict" not in str(fault.value), "the header is an object; the message must say what is wrong with it"


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_shorter_than_the_length_prefix_is_refused(size, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(size))
    with pytest.raises(CheckpointError, match=f"found only {size} bytes"):
        read_header(path)


@pytest.mark.parametrize("length", [3, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_a_header_longer_than_the_file_is_refused_before_it_is_read(length, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(support.file_bytes({}, length=length))
    assert not library_accepts(path.read_bytes())
    with pytest.raises(CheckpointError, match=f"claims {length} bytes, but the file has 10"):
        read_header(path)


def test_a_pointer_that_git_left_in_place_of_the_file_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n")
    with pytest.raises(CheckpointError, match=r"found a Git LFS pointer to one; fetch it with 'git lfs pull'"):
        read_header(path)


def test_a_header_beyond_the_limit_of_the_format_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
    os.truncate(path, MAX_HEADER_BYTES + 100)  # a sparse file: it takes no room
    with pytest.raises(SafetensorError), safe_open(path, "numpy"):
        pass
    with pytest.raises(CheckpointError, match=f"claims {MAX_HEADER_BYTES + 1} bytes"):
        read_header(path)


@pytest.mark.parametrize("kept", [9, 20, 60, -1])
def test_a_truncated_file_is_refused(kept, tmp_path):
    path = support.save_file(tmp_path / "model.safetensors", support.model_arrays(0))
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(CheckpointError, match="cut short") as fault:
        read_header(path)
    assert str(path) in str(fault.value)


def test_a_number_of_five_thousand_digits_is_refused():
    text = b'{"a":{"dtype":"F32","shape":[' + b"1" * 5000 + b'],"data_offsets":[0,4]}}'
    content = support.file_bytes(text, b"0000")
    assert not library_accepts(content)
    assert not accepts(content)


@pytest.mark.parametrize("path", ["missing.safetensors", "."])
def test_what_is_not_a_file_gives_a_sentence_with_its_path(path, tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read") as fault:
        read_header(tmp_path / path)
    assert str(tmp_path / Path(path)) in str(fault.value)


def test_the_file_number_is_recorded_with_every_tensor(tmp_path):
    path = support.save_file(tmp_path / "model.safetensors", support.model_arrays(0))
    tensors, metadata = read_header(path, 7)
    assert {t.file for t in tensors.values()} == {7}
    assert metadata == {"format": "pt"}
