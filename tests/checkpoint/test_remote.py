"""Checkpoints on other machines are read by byte range, and whatever goes wrong on the way is told in a sentence."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import support
from mergewise.checkpoint import Connections, StoppedError, open_source
from mergewise.checkpoint.remote.access import BLOCK_BYTES, READ_AHEAD_BYTES
from mergewise.checkpoint.remote.blocks import BlockCache
from mergewise.errors import CheckpointError

MIB = 1 << 20


@pytest.fixture
def arrays():
    return support.model_arrays(0, width=64)


@pytest.fixture
def url(file_server, arrays):
    support.save_model(file_server.folder / "m", arrays, shards=2)
    return f"{file_server.url}/m"


def read(source, name, start=0, end=None):
    info = source.tensors[name]
    found = np.empty((info.nbytes if end is None else end) - start, np.uint8)
    source.read_into(info, start, found)
    return found.tobytes()


def opened(reference, access):
    return open_source(reference, Connections(access))


def refusal(reference, access):
    def read_all():
        source = opened(reference, access)
        for name in source.tensors:
            read(source, name)

    with pytest.raises(CheckpointError) as caught:
        read_all()
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def fails(times, what, part="safetensors"):
    """Trouble for the first requests of weights."""
    lock, left = threading.Lock(), [times]

    def trouble(method, path):
        with lock:
            if part in path and "index" not in path and left[0]:
                left[0] -= 1
                return what
        return None

    return trouble


class TestWhatIsRead:
    def test_every_byte_is_that_of_the_file(self, url, arrays, quick):
        source = opened(url, quick)
        assert {name: read(source, name) for name in source.tensors} == {n: a.tobytes() for n, a in arrays.items()}
        assert source.config() == support.CONFIG
        assert source.location == url

    def test_a_file_may_be_named_instead_of_its_folder(self, file_server, arrays, quick):
        support.save_file(file_server.folder / "a b#.safetensors", arrays)
        path = f"{file_server.url}/a b.safetensors"
        (file_server.folder / "a b#.safetensors").rename(file_server.folder / "a b.safetensors")
        source = opened(path, quick)
        assert read(source, "lm_head.weight") == arrays["lm_head.weight"].tobytes()
        assert [str(file) for file in source.files] == [path]

    def test_opening_asks_for_headers_alone(self, file_server, quick):
        support.save_model(file_server.folder / "m", {"big": np.zeros(MIB, np.float32)})
        opened(f"{file_server.url}/m", quick)
        assert file_server.sent < 100_000

    def test_reading_a_part_of_a_tensor_does_not_fetch_the_file(self, file_server, quick):
        many = {f"layers.{i}.w": np.full(MIB, i, np.float32) for i in range(8)}
        support.save_model(file_server.folder / "m", many)
        source = opened(f"{file_server.url}/m", quick)
        assert read(source, "layers.3.w", MIB, MIB + 4096) == many["layers.3.w"].tobytes()[MIB : MIB + 4096]
        assert file_server.sent < 2 * BLOCK_BYTES + 100_000

    def test_neighbouring_small_reads_make_few_requests(self, file_server, quick):
        values = np.arange(4 * MIB, dtype=np.float32)
        support.save_model(file_server.folder / "m", {"w": values})
        source = opened(f"{file_server.url}/m", quick)
        before = len(file_server.requests)
        step = 512 << 10
        parts = [read(source, "w", at, at + step) for at in range(0, values.nbytes, step)]
        assert b"".join(parts) == values.tobytes()
        assert len(file_server.requests) - before <= -(-values.nbytes // BLOCK_BYTES) + 1

    def test_a_large_read_is_several_requests_at_once_but_never_more_than_allowed(self, file_server, quick):
        values = np.arange(10 * MIB, dtype=np.float32)
        support.save_model(file_server.folder / "m", {"w": values})
        source = opened(f"{file_server.url}/m", replace(quick, parallel=3, timeout=10))
        file_server.pause = 0.05
        assert read(source, "w") == values.tobytes()
        assert 1 < file_server.most_at_once <= 3

    def test_many_threads_read_the_same_bytes(self, url, arrays, quick):
        source = opened(url, quick)
        names = sorted(arrays) * 5
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda name: read(source, name), names))
        assert found == [arrays[name].tobytes() for name in names]

    def test_any_filesystem_of_fsspec_will_do(self, arrays, tmp_path, quick):
        import fsspec

        memory = fsspec.filesystem("memory")
        for path in support.save_model(tmp_path / "m", arrays).iterdir():
            memory.pipe_file(f"/here/m/{path.name}", path.read_bytes())
        source = opened("memory://here/m", quick)
        assert {name: read(source, name) for name in source.tensors} == {n: a.tobytes() for n, a in arrays.items()}

    def test_an_object_store_is_read(self, object_store, arrays, tmp_path, quick):
        for path in support.save_model(tmp_path / "m", arrays, shards=2).iterdir():
            object_store.objects[f"bucket/models/m/{path.name}"] = path.read_bytes()
        source = opened("s3://bucket/models/m", quick)
        assert {name: read(source, name) for name in source.tensors} == {n: a.tobytes() for n, a in arrays.items()}

    def test_a_single_file_of_another_name_is_found_where_there_is_a_list(self, object_store, arrays, tmp_path, quick):
        object_store.objects["bucket/m/expert.safetensors"] = support.save_file(tmp_path / "f", arrays).read_bytes()
        assert opened("s3://bucket/m", quick).tensors.keys() == arrays.keys()


class TestWhatGoesWrong:
    @pytest.mark.parametrize("what", [500, 503, 429, "cut", "hang up", "shifted"])
    def test_what_passes_is_tried_again(self, what, url, arrays, file_server, quick):
        source = opened(url, quick)
        file_server.trouble = fails(2, what)
        assert read(source, "lm_head.weight") == arrays["lm_head.weight"].tobytes()

    def test_a_slow_answer_is_not_waited_for_for_ever(self, url, arrays, file_server, quick):
        source = opened(url, quick)
        file_server.trouble = fails(1, "slow")
        assert read(source, "lm_head.weight") == arrays["lm_head.weight"].tobytes()

    @pytest.mark.parametrize(
        ("what", "said"),
        [
            (503, "after 3 attempts: the server answered with status 503"),
            (400, "the server answered with status 400"),
            (401, "access is denied (status 401)"),
            (403, "access is denied (status 403)"),
            ("cut", "after 3 attempts: the answer was cut short"),
            ("slow", "after 3 attempts: no answer within 0.7 s"),
            ("hang up", "after 3 attempts: no connection"),
        ],
    )
    def test_what_does_not_pass_is_a_sentence(self, what, said, url, file_server, quick):
        file_server.trouble = fails(100, what)
        assert said in refusal(url, quick)

    def test_denied_access_is_not_tried_again(self, url, file_server, quick):
        file_server.trouble = fails(100, 403)
        refusal(url, quick)
        assert sum("00001" in path for _, path, _ in file_server.requests) == 1

    def test_nothing_there(self, file_server, quick):
        assert "expected model.safetensors" in refusal(f"{file_server.url}/nothing", quick)
        assert "found nothing there" in refusal(f"{file_server.url}/m/model.safetensors", quick)

    def test_nobody_there(self, file_server, quick):
        file_server.close()
        assert "no connection" in refusal(f"{file_server.url}/m", quick)

    def test_a_server_without_ranges_is_refused_before_it_sends_everything(self, file_server, quick):
        support.save_model(file_server.folder / "m", {"w": np.zeros(4 * MIB, np.float32)})
        file_server.trouble = lambda method, path: "whole"
        assert "gives no byte ranges" in refusal(f"{file_server.url}/m", quick)
        assert file_server.sent < 8 * MIB

    def test_a_server_without_ranges_is_read_from_the_cache(self, file_server, arrays, tmp_path, quick):
        support.save_model(file_server.folder / "m", arrays)
        file_server.trouble = lambda method, path: "whole"
        access = replace(quick, cache=tmp_path / "kept")
        source = opened(f"{file_server.url}/m", access)
        assert {name: read(source, name) for name in source.tensors} == {n: a.tobytes() for n, a in arrays.items()}

    def test_a_file_that_shrinks_while_it_is_read(self, file_server, arrays, quick):
        path = support.save_model(file_server.folder / "m", arrays) / "model.safetensors"
        source = opened(f"{file_server.url}/m", quick)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="cut short or wrong"):
            read(source, "model.norm.weight")

    def test_a_header_that_claims_too_much_allocates_nothing(self, file_server, quick):
        (file_server.folder / "m").mkdir()
        content = support.file_bytes(b"{}", length=1 << 60)
        (file_server.folder / "m" / "model.safetensors").write_bytes(content)
        assert "its header claims" in refusal(f"{file_server.url}/m", quick)

    @pytest.mark.parametrize("name", ["..", "../secret.safetensors", "/etc/passwd", "a/b.safetensors", "x?y=1/../z"])
    def test_an_index_cannot_lead_elsewhere(self, name, file_server, quick):
        support.save_index(support.save_model(file_server.folder / "m", {}, shards=2), {"w": name})
        assert "must be a file beside the index" in refusal(f"{file_server.url}/m", quick)

    def test_a_shard_of_an_index_that_is_not_there(self, url, file_server, quick):
        (file_server.folder / "m" / "model-00002-of-00002.safetensors").unlink()
        assert "model-00002-of-00002.safetensors, which is missing" in refusal(url, quick)

    def test_offline_no_server_is_asked(self, url, file_server, quick):
        assert "this is offline" in refusal(url, replace(quick, offline=True))
        assert not file_server.requests

    @pytest.mark.parametrize(
        ("reference", "said"),
        [
            ("https://host/m?signature=secret", "without '?' and '#'"),
            ("https://user:secret@host/m", "without user and password"),
            ("https:///m", "without '..'"),
            ("https://host/a/../b", "without '..'"),
            ("nonsense://host/m", "no protocol that fsspec knows"),
            ("hf://alone", "expected hf://organisation/name"),
        ],
    )
    def test_urls_that_cannot_be_used(self, reference, said, quick):
        text = refusal(reference, quick)
        assert said in text
        assert "secret" not in text

    def test_a_library_that_is_missing_is_named(self, monkeypatch, quick):
        monkeypatch.setitem(sys.modules, "aiohttp", None)
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        assert "needs aiohttp; install it or 'mergewise[remote]'" in refusal("https://host/m", quick)
        assert "needs gcsfs; install it, or download" in refusal("gs://bucket/m", quick)


class TestTheCache:
    def test_what_was_read_is_not_read_again(self, url, arrays, file_server, tmp_path, quick):
        access = replace(quick, cache=tmp_path / "kept")
        for _ in range(2):
            source, before = opened(url, access), file_server.sent
            assert {name: read(source, name) for name in source.tensors} == {n: a.tobytes() for n, a in arrays.items()}
        assert file_server.sent == before
        assert not list((tmp_path / "kept").rglob(".*"))

    def test_another_version_is_read_anew(self, file_server, arrays, tmp_path, quick):
        access = replace(quick, cache=tmp_path / "kept")
        for model in (arrays, support.expert_of(arrays, 1)):
            support.save_model(file_server.folder / "m", model)
            source = opened(f"{file_server.url}/m", access)
            assert read(source, "lm_head.weight") == model["lm_head.weight"].tobytes()

    @pytest.mark.parametrize("trouble", [None, "whole"])
    def test_without_a_version_nothing_is_taken_for_the_file_but_itself(
        self, trouble, file_server, arrays, tmp_path, quick
    ):
        file_server.versioned = False
        file_server.trouble = lambda method, path: trouble
        for model in (arrays, support.expert_of(arrays, 1)):
            support.save_model(file_server.folder / "m", model)
            connections = Connections(replace(quick, cache=tmp_path / "kept"))
            source = open_source(f"{file_server.url}/m", connections)
            assert {name: read(source, name) for name in source.tensors} == {n: a.tobytes() for n, a in model.items()}
            open_source(f"{file_server.url}/m", connections)
        downloads = [request for request in file_server.requests if request[0] == "GET" and not request[2]]
        assert len(downloads) == (2 if trouble else 0)  # once for every merge

    def test_a_damaged_block_is_fetched_again(self, url, arrays, tmp_path, quick):
        access = replace(quick, cache=tmp_path / "kept")
        read(opened(url, access), "lm_head.weight")
        for path in (tmp_path / "kept").rglob("*-*"):
            path.write_bytes(path.read_bytes()[:-1])
        assert read(opened(url, access), "lm_head.weight") == arrays["lm_head.weight"].tobytes()

    def test_pickled_files_are_fetched_into_it_and_refused_without(self, file_server, tmp_path, quick):
        torch = pytest.importorskip("torch")
        (file_server.folder / "m").mkdir()
        torch.save({"w": torch.arange(6.0)}, file_server.folder / "m" / "pytorch_model.bin")
        reference = f"{file_server.url}/m"
        assert "switching the cache on" in refusal(reference, quick)
        source = opened(reference, replace(quick, cache=tmp_path / "kept"))
        assert np.frombuffer(read(source, "w"), np.float32).tolist() == [0, 1, 2, 3, 4, 5]
        assert str(source.files[0]) == f"{reference}/pytorch_model.bin"


class TestBlocks:
    def test_memory_is_bounded_whatever_is_read(self):
        cache = BlockCache(parallel=2, readers=2, capacity=10)
        for at in range(0, 100, 4):
            assert cache.block("f", (at, at + 4), lambda a, b: bytes(b - a)).result() == bytes(4)
            assert sum(end - start for _, start, end in cache._blocks) <= 10
        cache.close()

    def test_a_block_is_fetched_once_however_many_want_it(self):
        begun, go = [], threading.Event()

        def fetch(start, end):
            begun.append((start, end))
            go.wait(5)
            return bytes(end - start)

        cache = BlockCache(parallel=2, readers=2)
        wanted = [cache.block("f", (0, 4), fetch) for _ in range(5)]
        go.set()
        assert [future.result() for future in wanted] == [bytes(4)] * 5
        assert begun == [(0, 4)]
        cache.close()

    def test_a_block_that_could_not_be_had_is_asked_for_again(self):
        answers = iter([OSError("gone"), b"1234"])

        def fetch(start, end):
            answer = next(answers)
            if isinstance(answer, OSError):
                raise answer
            return answer

        cache = BlockCache(parallel=1, readers=1)
        with pytest.raises(OSError, match="gone"):
            cache.block("f", (0, 4), fetch).result()
        assert cache.block("f", (0, 4), fetch).result() == b"1234"
        cache.close()

    @pytest.mark.parametrize("models", [1, 3, 9, 64])
    @pytest.mark.parametrize("readers", [1, 2, 16])
    def test_every_reader_has_its_block_and_the_next_of_every_model(self, models, readers):
        cache = BlockCache(parallel=1, readers=readers, folders={f"folder {model}" for model in range(models)})
        least = 256 << 10
        assert least <= cache.block_bytes <= BLOCK_BYTES
        assert cache.block_bytes == least or 2 * models * readers * cache.block_bytes <= READ_AHEAD_BYTES
        cache.close()


def test_what_is_asked_for_while_reading_is_stopped_is_no_fault_of_its_own(url, quick, monkeypatch):
    source = opened(url, quick)
    info = next(iter(source.tensors.values()))
    begin = BlockCache.block

    def stopped_just_before(self, *arguments):
        source.files[0].connections.close()
        return begin(self, *arguments)

    monkeypatch.setattr(BlockCache, "block", stopped_just_before)
    source.will_read(info, 0, info.nbytes)
    with pytest.raises(StoppedError):
        read(source, info.name)
