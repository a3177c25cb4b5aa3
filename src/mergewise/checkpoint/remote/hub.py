"""References to models on the Hub: ``organisation/name@revision``, of which one commit is read."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergewise.checkpoint.remote.access import Access
from mergewise.checkpoint.remote.faults import AbsentError, attempt
from mergewise.checkpoint.remote.stores import Facts, require_range, whole
from mergewise.errors import CheckpointError

__all__ = ["HubReference", "HubStore", "commit_files", "hub_reference", "resolve_commit"]

_REFERENCE = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9_][\w.-]*?)(?:@([^\s@]+))?")
# of revisions with slashes, those that the Hub itself makes are told from a path in the repository
_URL = re.compile(r"([^/@]+/[^/@]+(?:@(?:refs/pr/\d+|refs/convert/[\w.-]+|[^/]+))?)(?:/(.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_NAME = re.compile(r"\.\.|--|\.git$|[.-]$")


@dataclass(frozen=True)
class HubReference:
    """A model on the Hub.

    Attributes:
        repository: ``organisation/name``.
        revision: Branch, tag or commit; ``None`` for the main branch.
        inside: Path of a file or folder in it; mostly empty.
    """

    repository: str
    revision: str | None = None
    inside: str = ""

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


def hub_reference(text: str) -> HubReference | None:
    """Return what ``organisation/name@revision`` or ``hf://organisation/name@revision/path`` refers to, if it does."""
    inside = ""
    if text.startswith("hf://"):
        url = _URL.fullmatch(text.removeprefix("hf://").strip("/"))
        if url is None or ".." in text.split("/"):
            return None
        text, inside = url[1], url[2] or ""
    match = _REFERENCE.fullmatch(text)
    if match is None or any(_NO_NAME.search(part) for part in match.groups()[:2]):
        return None
    return HubReference(f"{match[1]}/{match[2]}", match[3], inside)


def resolve_commit(reference: HubReference, access: Access) -> str:
    """Return the commit that a revision stands for now; offline, the one that the local cache of the Hub has.

    Raises:
        AbsentError: There is no such repository or revision.
        CheckpointError: It cannot be had, or the Hub does not answer.
    """
    if access.offline:
        return _cached_commit(reference)

    def ask() -> str:
        found = _api().model_info(reference.repository, revision=reference.revision, timeout=access.timeout).sha
        if not isinstance(found, str) or not _COMMIT.fullmatch(found):
            raise CheckpointError(f"{reference}: expected the Hub to name a commit, found {found!r}.")
        return found

    return attempt(ask, f"{reference} on the Hub", access)


class HubStore:
    """One commit of a model on the Hub. What the local cache of the Hub has of it is read from there.

    Args:
        repository: ``organisation/name``.
        commit: The commit.
        access: Whether the Hub may be asked.

    Attributes:
        commit: The commit.
    """

    prefix = "hf://"

    def __init__(self, repository: str, commit: str, access: Access) -> None:
        self.commit = commit
        self.root = f"{repository}@{commit}"
        self._repository = repository
        self._access = access
        self._snapshot = _cache_of(repository) / "snapshots" / commit
        self._lists: dict[str, dict[str, Facts]] = {}

    def facts(self, path: str) -> Facts:
        """Return size and commit of a file; what belongs to a commit does not change."""
        local = self.local(path)
        if local is not None:
            return Facts(local.stat().st_size, {"commit": self.commit})
        folder, _, name = self._inside(path).rpartition("/")
        found = self._list(folder).get(name)
        if found is None:
            raise AbsentError(path)
        return found

    def names(self, path: str) -> Sequence[str]:
        """Return the names of the files in a folder of the repository."""
        if not self._access.offline:
            return sorted(self._list(self._inside(path)))
        folder = self._snapshot / self._inside(path)
        return sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []

    def read(self, path: str, start: int, end: int, facts: Facts) -> bytes:
        """Return the bytes of a range."""
        from huggingface_hub import hf_hub_url, utils  # noqa: PLC0415 - slow to import

        self._require_online(path)
        if start >= end:
            return b""
        url = hf_hub_url(self._repository, self._inside(path), revision=self.commit, endpoint=_endpoint())
        own = utils.build_hf_headers()  # type: ignore[attr-defined]
        headers = {**own, "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        session = utils.get_session()  # type: ignore[attr-defined]
        answer = session.get(url, headers=headers, timeout=self._access.timeout)
        utils.hf_raise_for_status(answer)  # type: ignore[attr-defined]
        require_range(answer.status_code, answer.headers, start, end, facts)
        return whole(answer.content, start, end)

    def download(self, path: str, to: Path) -> None:
        """Fetch a whole file."""
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 - slow to import

        self._require_online(path)
        inside = self._inside(path)
        shutil.copyfile(hf_hub_download(self._repository, inside, revision=self.commit, endpoint=_endpoint()), to)

    def local(self, path: str) -> Path | None:
        """Return where the local cache of the Hub has a file."""
        found = self._snapshot / self._inside(path)
        return found if found.is_file() else None

    def _inside(self, path: str) -> str:
        return path.removeprefix(self.root).strip("/")

    def _require_online(self, path: str) -> None:
        if self._access.offline:
            raise AbsentError(path)

    def _list(self, folder: str) -> dict[str, Facts]:
        """Return the files in a folder of the repository, asked for once: a commit does not change."""
        self._require_online(folder)
        if folder not in self._lists:
            found = {}
            for entry in _api().list_repo_tree(self._repository, folder or None, revision=self.commit):
                if hasattr(entry, "blob_id"):  # else it is a folder
                    sha256 = entry.lfs["sha256"] if entry.lfs else None
                    name = entry.path.rpartition("/")[2]
                    found[name] = Facts(int(entry.size), {"commit": self.commit}, sha256)
            self._lists[folder] = found
        return self._lists[folder]


def _cached_commit(reference: HubReference) -> str:
    folder = _cache_of(reference.repository)
    revision = reference.revision or "main"
    if _COMMIT.fullmatch(revision) and (folder / "snapshots" / revision).is_dir():
        return revision
    known = folder / "refs" / revision
    if ".." not in Path(revision).parts and known.is_file():
        commit = known.read_text("utf-8").strip()
        if _COMMIT.fullmatch(commit) and (folder / "snapshots" / commit).is_dir():
            return commit
    raise CheckpointError(
        f"{reference}: expected it in the local cache of the Hub, since this is offline, but it is not in {folder}; "
        "download it once with 'hf download' while online."
    )


def _cache_of(repository: str) -> Path:
    from huggingface_hub import constants  # noqa: PLC0415 - slow to import

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _endpoint() -> str | None:
    from huggingface_hub import constants  # noqa: PLC0415 - slow to import

    return str(constants.ENDPOINT) or None


def _api() -> Any:
    from huggingface_hub import HfApi  # noqa: PLC0415 - slow to import

    return HfApi(endpoint=_endpoint())


def commit_files(path: str, files: Sequence[Path], removed: Sequence[str], what: str, access: Access) -> None:
    """Put files into a folder of a repository on the Hub, and remove others, all in one commit.

    Args:
        path: ``organisation/name@commit/folder``; the commit is that on which the new one is based.
        files: The files.
        removed: Names of files there that are removed.
        what: What messages call the place.
        access: How the Hub is reached.

    Raises:
        CheckpointError: The Hub does not take them.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete  # noqa: PLC0415 - slow to import

    organisation, name, *inside = path.split("/")
    repository, _, commit = f"{organisation}/{name}".partition("@")
    revision = hub_reference(what)

    def commit_all() -> None:
        added = [CommitOperationAdd("/".join([*inside, file.name]), file) for file in files]
        operations = [*added, *(CommitOperationDelete("/".join([*inside, name])) for name in removed)]
        _api().create_commit(
            repository,
            operations,
            commit_message="Merge with mergewise",
            revision=revision.revision if revision else None,
            parent_commit=commit,
        )

    attempt(commit_all, what, access)
