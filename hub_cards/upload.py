# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Send staged repositories to a Hub: each in one commit, so that it is published as a whole or not at all.

Large files are sent before the commit and are not sent again when the command is repeated, so that an interrupted run
can be resumed. What has not changed is not sent: a second run makes no commit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_medglip.errors import one_line

from .stage.repository import Repository


# A repository with this file was published by this command, which may change it.
MARKER = ".medglip-published.json"
Echo = Callable[[str], None]


@dataclass(frozen=True)
class UploadResult:
    """The commit of a published repository.

    Attributes:
        id (`str`): `owner/name`.
        commit (`str`): Hash of the commit.
        new (`bool`): Whether this run made it.
    """

    id: str
    commit: str
    new: bool


@dataclass(frozen=True)
class RemoteState:
    """A repository on the Hub.

    Attributes:
        files (`dict[str, str]`): Path -> hash.
        private (`bool`): Whether only the owners see it.
        gated (`str` or `bool`): Its gate.
    """

    files: dict[str, str]
    private: bool
    gated: str | bool


def upload(repositories: Sequence[Repository], tag: str | None, replace: bool, echo: Echo) -> list[UploadResult]:
    """Publish repositories, after token, names and remote state were checked; nothing is sent before.

    Args:
        repositories (`Sequence[Repository]`): Staged and checked.
        tag (`str`, *optional*): Name of a revision for the commit of each repository.
        replace (`bool`): Write into repositories that this command did not make, or made for another role.
        echo (`Callable`): Called with what is done, one line each.

    Raises:
        `ValueError`: No token, a name that is taken, a repository that more people see than requested, a tag of other
            content, files that changed after the check, or an answer of the Hub that ends the run; in one line.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _hub_errors("the Hub"):
        user = api.whoami(cache=False).get("name") if _has_token() else None
    if not user:
        raise ValueError("no token: log in with `hf auth login`, or set HF_TOKEN to one that may write")
    remote: dict[str, RemoteState | None] = {}
    for repository in repositories:
        with _hub_errors(repository.id):
            known = remote[_key(repository)] = _remote_state(api, repository)
            if known is not None:
                _check_name(api, repository, known, replace)
                _check_visibility(repository, known)
                _check_tag(api, repository, tag)
    return [_send(api, repository, remote[_key(repository)], tag, echo) for repository in repositories]


def _key(repository: Repository) -> str:
    return f"{repository.kind} {repository.id}"


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


def _remote_state(api: Any, repository: Repository) -> RemoteState | None:
    """Return the remote state of a repository, or `None` if it does not exist."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(repository.id, repo_type=repository.kind)
        return RemoteState(_files(api, repository), bool(info.private), getattr(info, "gated", False) or False)
    except RepositoryNotFoundError:
        return None


def _files(api: Any, repository: Repository, revision: str | None = None) -> dict[str, str]:
    tree = api.list_repo_tree(repository.id, recursive=True, repo_type=repository.kind, revision=revision)
    return {entry.path: _remote_hash(entry) for entry in tree if hasattr(entry, "blob_id")}


def _remote_hash(entry: Any) -> str:
    return str(entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)


def _check_name(api: Any, repository: Repository, remote: RemoteState, replace: bool) -> None:
    """Refuse a repository that this command did not publish, or published for another role."""
    if replace or set(remote.files) <= {".gitattributes"}:
        return
    role = None
    if MARKER in remote.files:
        path = api.hf_hub_download(repository.id, MARKER, repo_type=repository.kind)
        try:
            role = json.loads(Path(path).read_text(encoding="utf-8")).get("role")
        except (ValueError, AttributeError):
            role = None
    if role != repository.role:
        owner = f"this command's {one_line(role, 20)}" if role else "something that this command did not publish"
        raise ValueError(f"{repository.id}: is taken by {owner}: choose another name, or --replace its content")


def _check_visibility(repository: Repository, remote: RemoteState) -> None:
    """Refuse to publish a private repository into a public one."""
    if repository.private and not remote.private:
        hint = "make it private on the Hub first, or pass --public"
        raise ValueError(f"{repository.id}: is public on the Hub, but private was requested: {hint}")


def _check_tag(api: Any, repository: Repository, tag: str | None) -> None:
    """Refuse a tag that names other files already."""
    if tag is not None and _has_tag(api, repository, tag) and changes(repository, _files(api, repository, tag)):
        raise ValueError(f"{repository.id}: {one_line(tag, 40)} already names other content: choose another --tag")


def _has_tag(api: Any, repository: Repository, tag: str) -> bool:
    return any(ref.name == tag for ref in api.list_repo_refs(repository.id, repo_type=repository.kind).tags)


def changes(repository: Repository, remote: dict[str, str]) -> list[str]:
    """Return the paths of a repository that differ from the remote ones, including those to remove.

    Args:
        repository ([`Repository`]): The local repository.
        remote (`dict[str, str]`): Path -> hash of the remote files.
    """
    local = {**repository.files(), MARKER: None}
    differing = [path for path, file in local.items() if remote.get(path) not in _hashes(repository, path, file)]
    return sorted([*differing, *(set(remote) - set(local) - {".gitattributes"})])


def _hashes(repository: Repository, path: str, file: Path | None) -> tuple[str, str]:
    """Return the hashes by which a Hub may name the content of a file: Git's, and SHA-256 for large files."""
    content = marker(repository) if file is None else file.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return git, hashlib.sha256(content).hexdigest()


def marker(repository: Repository) -> bytes:
    """Return the content of [`MARKER`]."""
    from modeling_medglip.outputs.run_report import package_version

    content = {"schema": "medglip/published@1", "role": repository.role, "version": package_version()}
    return (json.dumps(content, indent=1) + "\n").encode()


def _send(api: Any, repository: Repository, remote: RemoteState | None, tag: str | None, echo: Echo) -> UploadResult:
    paths = changes(repository, remote.files if remote else {})
    operations = _operations(repository, paths)
    with _hub_errors(repository.id):
        _make(api, repository, remote)
        if paths:
            removed = [path for path in paths if path not in repository.files() and path != MARKER]
            echo(f"{repository.id}: sending {len(paths) - len(removed)} of {len(repository.files()) + 1} files")
            if removed:
                echo(f"{repository.id}: removing {len(removed)}: {one_line(', '.join(removed), 200)}")
            message = f"Publish {repository.id.rsplit('/', 1)[-1]}"
            info = api.create_commit(repository.id, operations, repo_type=repository.kind, commit_message=message)
            commit = str(info.oid)
        else:
            echo(f"{repository.id}: nothing has changed")
            commit = str(api.repo_info(repository.id, repo_type=repository.kind).sha)
        _open(api, repository)
        if tag is not None and not _has_tag(api, repository, tag):
            api.create_tag(repository.id, tag=tag, revision=commit, repo_type=repository.kind)
    return UploadResult(repository.id, commit, bool(paths))


def _make(api: Any, repository: Repository, remote: RemoteState | None) -> None:
    """Create a private repository, and close the requested gate before any file is sent."""
    kind = {"repo_type": repository.kind}
    if remote is None:
        sdk = {"space_sdk": "gradio"} if repository.kind == "space" else {}
        api.create_repo(repository.id, private=True, exist_ok=True, **kind, **sdk)
    if repository.gated != "no" and (remote is None or remote.gated != repository.gated):
        api.update_repo_settings(repository.id, gated=repository.gated, **kind)
    for name, value in repository.variables.items():
        api.add_space_variable(repository.id, name, value)


def _open(api: Any, repository: Repository) -> None:
    """Make a repository public as the last step, if requested."""
    if not repository.private and api.repo_info(repository.id, repo_type=repository.kind).private:
        api.update_repo_settings(repository.id, private=False, repo_type=repository.kind)


def _operations(repository: Repository, paths: Sequence[str]) -> list[Any]:
    """Return the operations of a commit with the checked files.

    Raises:
        `ValueError`: A file changed after the check.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = repository.files()
    if set(files) != set(repository.checked_hashes):
        raise ValueError(f"{repository.id}: files were added or removed after the check: run the command again")
    operations: list[Any] = []
    for path in paths:
        if path == MARKER:
            operations.append(CommitOperationAdd(path, marker(repository)))
        elif path in files:
            operation = CommitOperationAdd(path, str(files[path]))
            if operation.upload_info.sha256.hex() != repository.checked_hashes[path]:
                raise ValueError(f"{repository.id}: {path} changed after the check: run the command again")
            operations.append(operation)
        else:
            operations.append(CommitOperationDelete(path))
    return operations


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turn errors of the Hub inside the block into one line that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise ValueError(f"{what}: HF_HUB_OFFLINE is set: unset it to publish") from None
    except HfHubHTTPError as error:
        raise ValueError(f"{what}: {_advice(error)}") from None
    except RuntimeError as error:  # of the threads that send large files
        cause = error.__cause__
        text = (
            _advice(cause)
            if isinstance(cause, HfHubHTTPError)
            else "the upload was interrupted: run the command again"
        )
        raise ValueError(f"{what}: {text}") from None
    except Exception as error:
        # Clients of the 1.x and 2.x line raise errors of their HTTP library, which are not subclasses of OSError.
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in ("httpx", "httpx2"):
            raise
        endpoint = os.environ.get("HF_ENDPOINT", "the Hub")
        raise ValueError(f"{what}: no connection to {one_line(endpoint, 80)} ({type(error).__name__})") from None


def _advice(error: Any) -> str:
    status = getattr(error.response, "status_code", None)
    if status == 401:
        return "the token is not accepted (401): log in again, or set HF_TOKEN"
    if status == 403:
        return f"the token may not do this (403: {one_line(getattr(error, 'server_message', '') or '', 120)})"
    if status is not None and status >= 500:
        return f"the Hub failed ({status}): run the same command again, files that were sent stay there"
    return f"{one_line(getattr(error, 'server_message', None) or error, 200)} ({status})"


__all__ = ["MARKER", "UploadResult", "changes", "marker", "upload"]
