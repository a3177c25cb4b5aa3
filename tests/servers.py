"""Servers on the loopback interface: files by range, an object store as S3 is spoken to, and a Hub of models."""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable  # noqa: TC003 - annotates an attribute
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


class _Handler(BaseHTTPRequestHandler):
    """One connection to a ``Server``."""

    owner: "Server"
    protocol_version = "HTTP/1.1"
    timeout = 20

    def _answer(self) -> None:
        with self.owner.lock:
            self.owner.at_once += 1
            self.owner.most_at_once = max(self.owner.most_at_once, self.owner.at_once)
        try:
            self._answer_one()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has enough
        finally:
            with self.owner.lock:
                self.owner.at_once -= 1

    def _answer_one(self) -> None:
        wanted = self.headers.get("Range", "")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = _chunks(self.rfile)
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            body = _aws_chunks(body)
        with self.owner.lock:
            self.owner.requests.append((self.command, unquote(self.path), wanted))
        time.sleep(self.owner.pause)
        trouble = self.owner.trouble(self.command, unquote(self.path))
        if isinstance(trouble, int):
            self._send(trouble, {}, b"")
            return
        if trouble == "hang up":
            self.close_connection = True
            return
        if trouble == "slow":
            time.sleep(1.5)
        status, headers, content = self.owner.answer(self.command, self.path, body, self.headers)
        if status == 200 and wanted and trouble != "whole":
            status, headers, content = _range(wanted, headers, content, shift=trouble == "shifted")
        if trouble == "cut" and content:
            headers = {**headers, "Content-Length": str(len(content))}
            self._send(status, headers, content[: len(content) // 2])
            self.close_connection = True
            return
        self._send(status, headers, content)

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for start in range(0, len(content), 1 << 16):
                part = content[start : start + (1 << 16)]
                with self.owner.lock:
                    self.owner.sent += len(part)  # before whoever has it all can ask
                self.wfile.write(part)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        pass


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that hang up."""


class Server:
    """A server that can be told to misbehave.

    Attributes:
        url: Its address.
        requests: Method, path and range of every request so far.
        trouble: Called with method and path before every answer; what it returns is done instead: a status, or
            ``"cut"``, ``"slow"``, ``"hang up"``, ``"shifted"``, ``"whole"``.
        sent: Bytes of all bodies.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.trouble: Callable[[str, str], int | str | None] = lambda method, path: None
        self.sent = 0
        self.at_once = 0
        self.most_at_once = 0
        self.pause = 0.0
        self.lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> Answer:
        """Return the whole answer to a request; ranges are cut from it."""
        raise NotImplementedError

    @contextmanager
    def running(self):
        """Serve until the end of the block."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.close()
            thread.join()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


class FileServer(Server):
    """The files of a folder, with ETags unless ``versioned`` is false; folders have no list."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.versioned = True

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> Answer:
        file = self.folder / unquote(urlsplit(path).path).lstrip("/")
        if method not in {"GET", "HEAD"}:
            return 405, {}, b""
        if not file.is_file():
            return 404, {}, b"nothing here"
        content = file.read_bytes()
        version = {"ETag": f'"{hashlib.md5(content).hexdigest()}"'} if self.versioned else {}
        return 200, {**version, "Accept-Ranges": "bytes"}, content


class ObjectStore(Server):
    """An object store of one process: as much of the S3 interface as reading and writing models takes.

    Attributes:
        objects: Content by bucket and key, as in ``bucket/a/b``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.order: list[str] = []
        self._parts: dict[str, dict[int, bytes]] = {}

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> Answer:
        split = urlsplit(path)
        query = {k: v[0] for k, v in parse_qs(split.query, keep_blank_values=True).items()}
        bucket, _, key = unquote(split.path).lstrip("/").partition("/")
        with self.lock:
            if not key and method == "GET" and "list-type" in query:
                return self._list(bucket, query)
            if not key and method == "POST" and "delete" in query:
                for name in re.findall(rb"<Key>(.*?)</Key>", body):
                    self.objects.pop(f"{bucket}/{name.decode()}", None)
                return _xml("<DeleteResult></DeleteResult>")
            return self._object(method, f"{bucket}/{key}", query, body)

    def _object(self, method: str, name: str, query: dict[str, str], body: bytes) -> Answer:
        if method == "POST" and "uploads" in query:
            upload = f"upload{len(self._parts)}"
            self._parts[upload] = {}
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        if method == "PUT" and "partNumber" in query:
            self._parts[query["uploadId"]][int(query["partNumber"])] = body
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
        if method == "POST" and "uploadId" in query:
            parts = self._parts.pop(query["uploadId"])
            self._put(name, b"".join(parts[number] for number in sorted(parts)))
            return _xml(f"<CompleteMultipartUploadResult><Key>{escape(name)}</Key></CompleteMultipartUploadResult>")
        if method == "DELETE":
            self.objects.pop(name, None)
            self._parts.pop(query.get("uploadId", ""), None)
            return 204, {}, b""
        if method == "PUT":
            self._put(name, body)
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
        if name not in self.objects:
            return 404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchKey</Code></Error>"
        content = self.objects[name]
        return 200, {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Last-Modified": _DATE}, content

    def _put(self, name: str, content: bytes) -> None:
        self.objects[name] = content
        self.order.append(name)

    def _list(self, bucket: str, query: dict[str, str]) -> Answer:
        prefix, found, folders = query.get("prefix", ""), "", set()
        for name, content in sorted(self.objects.items()):
            key = name.removeprefix(f"{bucket}/")
            if not name.startswith(f"{bucket}/") or not key.startswith(prefix):
                continue
            rest = key.removeprefix(prefix)
            if query.get("delimiter") and "/" in rest:
                folders.add(prefix + rest.partition("/")[0] + "/")
                continue
            found += (
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{hashlib.md5(content).hexdigest()}&quot;</ETag><Size>{len(content)}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        found += "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders))
        return _xml(
            f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        )


class Hub(Server):
    """A hub of models: revisions, lists of files, and their content.

    Attributes:
        models: Files by name, by commit, by repository.
        refs: Commit by revision, by repository.
        gated: Repositories that nobody may read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()

    def add(self, repository: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Add a commit and return it."""
        commit = hashlib.sha1(json.dumps([repository, revision, sorted(files)]).encode() + b"".join(files.values()))
        self.models.setdefault(repository, {})[commit.hexdigest()] = files
        self.refs.setdefault(repository, {})[revision] = commit.hexdigest()
        return commit.hexdigest()

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> Answer:
        path = unquote(urlsplit(path).path)
        if method == "POST":
            return self._post(path, body)
        asked = re.fullmatch(
            r"(?:/api/models)?/(?P<id>[^/]+/[^/]+)(?:/(?P<what>revision|tree|resolve)/(?P<rev>[^/]+))?/?(?P<file>.*)",
            path,
        )
        if asked is None or asked["id"] not in self.models:
            return _refusal(401, "RepoNotFound")
        if asked["id"] in self.gated:
            return _refusal(403, "GatedRepo")
        revision = asked["rev"] or "main"
        commit = self.refs[asked["id"]].get(revision, revision)
        files = self.models[asked["id"]].get(commit)
        if files is None:
            return _refusal(404, "RevisionNotFound")
        if asked["what"] == "resolve":
            if asked["file"] not in files:
                return _refusal(404, "EntryNotFound")
            content = files[asked["file"]]
            etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
            return 200, etag, content
        if asked["what"] == "tree":
            return _json(_tree(asked["file"], files))
        siblings = [{"rfilename": name} for name in files]
        return _json({"id": asked["id"], "sha": commit, "siblings": siblings, "private": False, "tags": []})

    def _post(self, path: str, body: bytes) -> Answer:
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        asked = re.fullmatch(r"/api/models/(?P<id>[^/]+/[^/]+)/(?P<what>preupload|commit)/(?P<rev>[^/]+)", path)
        if asked is None:
            return 404, {}, b"{}"
        if asked["what"] == "preupload":
            files = [f["path"] for f in json.loads(body)["files"]]
            return _json({"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        lines = [json.loads(line) for line in body.splitlines()]
        added = {
            one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in lines if one["key"] == "file"
        }
        head = lines[0]["value"]
        parent = self.refs[asked["id"]].get(asked["rev"], asked["rev"])
        if head.get("parentCommit") not in {None, parent}:
            return _refusal(412, "Conflict")
        commit = self.add(asked["id"], self.models[asked["id"]][parent] | added, asked["rev"])
        return _json({"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{asked['id']}/commit/{commit}"})


_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


def _tree(folder: str, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Return what is right inside a folder: files, and folders without what is in them."""
    prefix = f"{folder}/" if folder else ""
    inside = {name: content for name, content in files.items() if name.startswith(prefix)}
    folders = {prefix + name.removeprefix(prefix).split("/")[0] for name in inside if "/" in name.removeprefix(prefix)}
    own = [_entry(name, content) for name, content in inside.items() if "/" not in name.removeprefix(prefix)]
    return own + [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)]


def _entry(name: str, content: bytes) -> dict[str, Any]:
    own = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    if not name.endswith(".safetensors"):
        return own
    return own | {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}


def _json(content: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _xml(content: str) -> Answer:
    return 200, {"Content-Type": "application/xml"}, f'<?xml version="1.0" encoding="UTF-8"?>\n{content}'.encode()


def _refusal(status: int, code: str) -> Answer:
    return status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"


def _range(wanted: str, headers: dict[str, str], content: bytes, *, shift: bool) -> Answer:
    first, last = wanted.removeprefix("bytes=").split("-")
    start, end = int(first), min(int(last or len(content)) + 1, len(content))
    if start >= len(content):
        return 416, {**headers, "Content-Range": f"bytes */{len(content)}"}, b""
    if shift:
        start, end = max(0, start - 1), end - 1
    headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
    return 206, headers, content[start:end]


def _chunks(stream: Any) -> bytes:
    found = b""
    while size := int(stream.readline().split(b";")[0], 16):
        found += stream.read(size)
        stream.readline()
    stream.readline()
    return found


def _aws_chunks(body: bytes) -> bytes:
    found, at = b"", 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if not size:
            return found
        found += body[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
