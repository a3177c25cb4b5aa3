"""Where remote files are: what a server can be asked, for every protocol that fsspec knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from mergewise.checkpoint.remote.access import Access
from mergewise.checkpoint.remote.faults import BrokenAnswerError

__all__ = ["COMPANION_NAMES", "Facts", "FsspecStore", "HttpStore", "Store", "require_range", "whole"]

COMPANION_NAMES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "modules.json", "sentence_bert_config.json", "LICENSE",
)  # fmt: skip
"""What a model has beside its weights: the files that are asked for where a server gives no list."""

_VERSION_KEYS = {"etag": "etag", "last-modified": "modified", "lastmodified": "modified", "versionid": "version"}
_VERSION_KEYS |= {"mtime": "modified", "modified": "modified", "created": "created", "checksum": "checksum"}


@dataclass(frozen=True)
class Facts:
    """What a server says of a file.

    Attributes:
        size: Bytes in it.
        version: What versions are told apart by, such as ``{"etag": …}``; empty if the server tells nothing but size.
        sha256: Of its content, where the server knows it.
        ranged: Whether ranges of it can be had.
    """

    size: int
    version: Mapping[str, str] = field(default_factory=dict)
    sha256: str | None = None
    ranged: bool = True

    def identity(self) -> dict[str, int | str]:
        """Return what stays equal for as long as the file does, whoever is asked."""
        return {"size": self.size, **self.version}

    def recorded(self) -> dict[str, int | str]:
        """Return what provenance records of it."""
        return self.identity() | ({"sha256": self.sha256} if self.sha256 else {})


class Store(Protocol):
    """A tree of remote files. Nothing here tries again: that is for the caller.

    Attributes:
        prefix: What stands before a path in a URL, such as ``s3://``.
    """

    prefix: str

    def facts(self, path: str) -> Facts:
        """Return what the server says of a file, now.

        Raises:
            FileNotFoundError: There is none.
            Exception: Whatever the protocol's library raises.
        """

    def names(self, path: str) -> Sequence[str]:
        """Return the names of the files in a folder, or of those that may be there if the server gives no list."""

    def read(self, path: str, start: int, end: int, facts: Facts) -> bytes:
        """Return the bytes of a range.

        Raises:
            BrokenAnswerError: The server sent something else.
            Exception: Whatever the protocol's library raises.
        """

    def download(self, path: str, to: Path) -> None:
        """Fetch a whole file."""

    def local(self, path: str) -> Path | None:
        """Return where a copy of a file is on this machine, if there is one that is known to be of this version."""


class FsspecStore:
    """Any filesystem of fsspec, such as ``s3://``.

    Args:
        protocol: Name of the protocol.
        options: Of the filesystem, beside those of fsspec's own configuration.

    Raises:
        ValueError: fsspec does not know the protocol.
        ImportError: The protocol's library is not installed.
    """

    def __init__(self, protocol: str, **options: Any) -> None:
        import fsspec  # noqa: PLC0415 - only where there are remote files

        self.prefix = f"{protocol}://"
        self.fs = fsspec.filesystem(protocol, skip_instance_cache=True, **options)

    def facts(self, path: str) -> Facts:
        """Return what the filesystem says of a file, past its own cache of listings."""
        self.fs.invalidate_cache(path)
        if hasattr(self.fs, "dircache"):
            self.fs.invalidate_cache(path.rpartition("/")[0])
        info = self.fs.info(path)
        if info.get("type") == "directory":
            raise FileNotFoundError(str(info.get("name")))
        version = {
            _VERSION_KEYS[word.lower()]: str(of).strip('"')
            for word, of in info.items()
            if word.lower() in _VERSION_KEYS and of not in {None, "", "null"}
        }
        return Facts(int(info["size"]), dict(sorted(version.items())))

    def names(self, path: str) -> Sequence[str]:
        """Return the names of the files in a folder."""
        try:
            entries = self.fs.ls(path, detail=True)
        except FileNotFoundError:
            return ()
        files = (e["name"].rstrip("/").rpartition("/")[2] for e in entries if e["type"] == "file")
        return tuple(sorted(name for name in files if name))

    def read(self, path: str, start: int, end: int, facts: Facts) -> bytes:
        """Return the bytes of a range."""
        if start >= end:
            return b""
        if self.fs.async_impl:
            found: bytes = self.fs.cat_file(path, start=start, end=end)
            return whole(found, start, end)
        # neither filesystem nor file may keep or read ahead: that is done, and counted, in one place for all
        with self.fs.open(path, "rb", size=facts.size, block_size=max(1, end - start), cache_type="none") as stream:
            stream.seek(start)
            found = stream.read(end - start)
        return whole(found, start, end)

    def download(self, path: str, to: Path) -> None:
        """Fetch a whole file."""
        self.fs.get_file(path, str(to))

    def local(self, path: str) -> Path | None:  # noqa: ARG002
        """Return nothing: there are no copies."""
        return None


class HttpStore:
    """Files on web servers: one request tells size, version, and whether ranges can be had.

    Args:
        protocol: ``http`` or ``https``.
        access: How long to wait for a server.

    Raises:
        ImportError: aiohttp is not installed.
    """

    def __init__(self, protocol: str, access: Access) -> None:
        import aiohttp  # noqa: PLC0415 - of an extra
        import fsspec  # noqa: PLC0415 - only where there are remote files

        self.prefix = f"{protocol}://"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=access.timeout, sock_read=access.timeout)
        self.fs = fsspec.filesystem(protocol, skip_instance_cache=True, client_kwargs={"timeout": timeout})

    def facts(self, path: str) -> Facts:
        """Ask for the first byte of a file."""
        found: Facts = self._sync(self._facts(path))
        return found

    def names(self, path: str) -> Sequence[str]:  # noqa: ARG002
        """Return the names of files that models have: web servers give no lists."""
        return COMPANION_NAMES

    def read(self, path: str, start: int, end: int, facts: Facts) -> bytes:
        """Return the bytes of a range."""
        if start >= end:
            return b""
        found: bytes = self._sync(self._read(path, start, end, facts))
        return whole(found, start, end)

    def download(self, path: str, to: Path) -> None:
        """Fetch a whole file."""
        self.fs.get_file(self._url(path), str(to))

    def local(self, path: str) -> Path | None:  # noqa: ARG002
        """Return nothing: there are no copies."""
        return None

    def _url(self, path: str) -> str:
        return self.prefix + quote(path, safe="/:%@~[]")

    def _sync(self, coroutine: Any) -> Any:
        import asyncio  # noqa: PLC0415 - as above

        return asyncio.run_coroutine_threadsafe(coroutine, self.fs.loop).result()

    async def _request(self, path: str, start: int, end: int) -> Any:
        import yarl  # noqa: PLC0415 - comes with aiohttp

        session = await self.fs.set_session()
        options = dict(self.fs.kwargs)
        headers = {
            **options.pop("headers", {}),
            "Range": f"bytes={start}-{end - 1}",
            "Accept-Encoding": "identity",  # ranges of a compressed answer are not ranges of the file
        }
        return session.get(yarl.URL(self._url(path), encoded=True), headers=headers, **options)

    async def _facts(self, path: str) -> Facts:
        async with await self._request(path, 0, 1) as answer:
            ended_in_folder = answer.url.path.endswith("/") and not path.endswith("/")
            if answer.status == 404 or ended_in_folder:
                raise FileNotFoundError(path)
            version = {
                word: answer.headers[name].strip('"')
                for name, word in (("ETag", "etag"), ("Last-Modified", "modified"))
                if name in answer.headers
            }
            if answer.status == 416:
                return Facts(0, version)  # there is no first byte
            answer.raise_for_status()
            if answer.status == 206:
                return Facts(_range_of(answer.headers)[2], version)
            size = answer.headers.get("Content-Length")
            answer.close()  # what follows is the whole file
            if size is None:
                raise BrokenAnswerError("the server does not say how large the file is")
            return Facts(int(size), version, ranged=False)

    async def _read(self, path: str, start: int, end: int, facts: Facts) -> bytes:
        async with await self._request(path, start, end) as answer:
            answer.raise_for_status()
            try:
                require_range(answer.status, answer.headers, start, end, facts)
            except BrokenAnswerError:
                answer.close()  # what follows may be the whole file
                raise
            found: bytes = await answer.content.readexactly(end - start)
            return found


def _range_of(headers: Mapping[str, str]) -> tuple[int, int, int]:
    """Return first byte, last byte and size of the file from ``Content-Range: bytes 0-0/1234``."""
    text = headers.get("Content-Range", "")
    try:
        span, total = text.removeprefix("bytes").strip().split("/")
        first, last = span.split("-")
        return int(first), int(last), int(total)
    except ValueError:
        raise BrokenAnswerError(f"expected a Content-Range, found {text[:60]!r}") from None


def require_range(status: int, headers: Mapping[str, str], start: int, end: int, facts: Facts) -> None:
    """Require that an answer is about the range that was asked for, of a file that has not changed its size.

    Raises:
        BrokenAnswerError: It is about something else.
    """
    if status != 206:
        raise BrokenAnswerError(f"expected a range, found status {status}")
    first, last, total = _range_of(headers)
    if (first, last, total) != (start, end - 1, facts.size):
        raise BrokenAnswerError(f"expected bytes {start}-{end - 1} of {facts.size}, found {first}-{last} of {total}")


def whole(found: bytes, start: int, end: int) -> bytes:
    """Return the bytes of a range if there are as many as there should be.

    Raises:
        BrokenAnswerError: There are fewer or more.
    """
    if len(found) != end - start:
        raise BrokenAnswerError(f"expected {end - start} bytes, found {len(found)}")
    return found
