# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Sending staged repositories to a Hub: each in one commit, so that it is there as a whole or not at all.

Large files are sent before the commit and are not sent again when the command is repeated, so a run that broke off is
resumed by giving it once more. What has not changed is not sent: a second run makes no commit.
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

from .repository import Repository


# Says that a repository was published by this command, and may be changed by it.
MARKER = ".medglip-published.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sent:
    """What became of one repository: the commit it is at, and whether that is new."""

    id: str
    commit: str
    new: bool


def upload(repositories: Sequence[Repository], tag: str | None, replace: bool, say: Say) -> list[Sent]:
    """Publish, after all names and the token were looked at; nothing is sent before.

    Args:
        tag: name of a revision for the commit of each repository. replace: also over repositories that this command
            did not make.

    Raises:
        `ValueError`: no token, a name that is taken, a tag that is taken, or an answer of the Hub that ends the run;
            one line that says what to do.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _told("the Hub"):
        user = api.whoami(cache=False)["name"] if _has_token() else None
    if user is None:
        raise ValueError("no token: log in with `hf auth login`, or set HF_TOKEN to one that may write")
    there = {}
    for repository in repositories:
        with _told(repository.id):
            there[repository.id] = _files_there(api, repository)
        _check_name(api, repository, there[repository.id], replace)
        _check_tag(api, repository, there[repository.id], tag)
    return [_send(api, repository, there[repository.id], tag, say) for repository in repositories]


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


def _files_there(api: Any, repository: Repository) -> dict[str, str] | None:
    """Path -> hash of what a repository holds now; `None` if there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        tree = api.list_repo_tree(repository.id, recursive=True, repo_type=repository.kind)
        return {entry.path: _hash_there(entry) for entry in tree if hasattr(entry, "blob_id")}
    except RepositoryNotFoundError:
        return None


def _hash_there(entry: Any) -> str:
    return str(entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)


def _check_name(api: Any, repository: Repository, there: dict[str, str] | None, replace: bool) -> None:
    """Refuse a repository that somebody made for something else."""
    strange = there is not None and set(there) - {".gitattributes", "README.md"} and MARKER not in there
    if strange and not replace:
        raise ValueError(
            f"{repository.id}: is taken, by something that this command did not publish: "
            "choose another name, or --replace what is there"
        )


def _check_tag(api: Any, repository: Repository, there: dict[str, str] | None, tag: str | None) -> None:
    """Refuse a tag that names other files already."""
    if tag is None or there is None:
        return
    with _told(repository.id):
        refs = api.list_repo_refs(repository.id, repo_type=repository.kind)
    if any(ref.name == tag for ref in refs.tags) and changes(repository, there):
        raise ValueError(f"{repository.id}: {one_line(tag, 40)} names another content already: choose another --tag")


def changes(repository: Repository, there: dict[str, str] | None) -> list[str]:
    """Paths of a repository that differ from what is there; those to be removed are among them."""
    own = {**repository.files(), MARKER: None}
    known = there or {}
    differing = [path for path, file in own.items() if known.get(path) not in _hashes(repository, path, file)]
    return sorted([*differing, *(set(known) - set(own) - {".gitattributes"})])


def _hashes(repository: Repository, path: str, file: Path | None) -> tuple[str, str]:
    """How a Hub may name a file's content: Git's way, and SHA-256 for large ones."""
    content = marker(repository) if file is None else file.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return git, hashlib.sha256(content).hexdigest()


def marker(repository: Repository) -> bytes:
    """The content of [`MARKER`]."""
    from modeling_medglip.run_report import package_version

    content = {"schema": "medglip/published@1", "kind": repository.kind, "version": package_version()}
    return (json.dumps(content, indent=1) + "\n").encode()


def _send(api: Any, repository: Repository, there: dict[str, str] | None, tag: str | None, say: Say) -> Sent:
    wanted = changes(repository, there)
    with _told(repository.id):
        _make(api, repository, there is None)
        if wanted:
            say(f"{repository.id}: sending {len(wanted)} of {len(repository.files()) + 1} files")
            info = api.create_commit(
                repository.id, _operations(repository, wanted), repo_type=repository.kind,
                commit_message=f"Publish {repository.id.rsplit('/', 1)[-1]}",
            )  # fmt: skip
            commit = str(info.oid)
        else:
            say(f"{repository.id}: nothing has changed")
            commit = str(api.repo_info(repository.id, repo_type=repository.kind).sha)
        if tag is not None:
            api.create_tag(repository.id, tag=tag, revision=commit, repo_type=repository.kind, exist_ok=True)
    return Sent(repository.id, commit, bool(wanted))


def _make(api: Any, repository: Repository, new: bool) -> None:
    """Create a repository, closed before anything is in it; or leave its settings and only close a gate."""
    kind = {"repo_type": repository.kind}
    if new:
        sdk = {"space_sdk": "gradio"} if repository.kind == "space" else {}
        api.create_repo(
            repository.id, private=repository.private or repository.gated != "no", exist_ok=True, **kind, **sdk
        )
    if repository.gated != "no":
        api.update_repo_settings(repository.id, gated=repository.gated, **kind)
    if new and repository.gated != "no" and not repository.private:  # the gate is shut now: the door may open
        api.update_repo_settings(repository.id, private=False, **kind)
    for name, value in repository.variables.items():
        api.add_space_variable(repository.id, name, value)


def _operations(repository: Repository, wanted: Sequence[str]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = repository.files()
    operations: list[Any] = []
    for path in wanted:
        if path == MARKER:
            operations.append(CommitOperationAdd(path, marker(repository)))
        elif path in files:
            operations.append(CommitOperationAdd(path, str(files[path])))
        else:
            operations.append(CommitOperationDelete(path))
    return operations


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Answers of a Hub as one line that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise ValueError(f"{what}: HF_HUB_OFFLINE is set: unset it to publish") from None
    except HfHubHTTPError as error:
        raise ValueError(f"{what}: {_advice(error)}") from None
    except RuntimeError as error:  # of the threads that send large files
        cause = error.__cause__
        text = _advice(cause) if isinstance(cause, HfHubHTTPError) else "sending broke off: give the command again"
        raise ValueError(f"{what}: {text}") from None
    except Exception as error:
        # Clients of the 1.x and 2.x line raise what their HTTP library raises, which is no OSError.
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in ("httpx", "httpx2"):
            raise
        place = os.environ.get("HF_ENDPOINT", "the Hub")
        raise ValueError(f"{what}: no connection to {one_line(place, 80)} ({type(error).__name__})") from None


def _advice(error: Any) -> str:
    status = getattr(error.response, "status_code", None)
    if status == 401:
        return "the token is not accepted (401): log in again, or set HF_TOKEN"
    if status == 403:
        return f"the token may not do this (403: {one_line(getattr(error, 'server_message', '') or '', 120)})"
    if status is not None and status >= 500:
        return f"the Hub failed ({status}): give the same command again, what was sent is kept"
    return f"{one_line(getattr(error, 'server_message', None) or error, 200)} ({status})"


__all__ = ["MARKER", "Sent", "changes", "marker", "upload"]
