# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Uploads to a local Hub that goes wrong in many ways: `python -m tests.hub_cards.upload_scenarios FOLDER` prints what
became of each as JSON. A process of its own, since clients read the Hub's address when they are imported."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.hub_server import Blob, Hub, Repository, client_environment, serve


SCENARIOS: list[Callable[[Hub, Path], Any]] = []
ID = "clinic/model"


def scenario(function: Callable[[Hub, Path], Any]) -> Callable[[Hub, Path], Any]:
    SCENARIOS.append(function)
    return function


def staged(folder: Path, name: str = ID, kind: str = "model", **settings: Any) -> Any:
    """A small repository of a text and two large files."""
    from hub_cards.stage.repository import Repository as Staged

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\ntext\n", encoding="utf-8")
    (folder / "one.safetensors").write_bytes(b"1" * 2000)
    (folder / "two.safetensors").write_bytes(b"2" * 3000)
    made = Staged(name, kind, folder, "mit", settings.pop("role", "expert"), **settings)
    return checked(made)


def checked(repository: Any) -> Any:
    """The repository with the hashes of its present files."""
    return replace(repository, checked_hashes=repository.hashes())


def send(*repositories: Any, tag: str | None = None, replace: bool = False, token: str | None = "hf_writer") -> Any:
    """`[commit is new]` of every repository, or the error."""
    from hub_cards.upload import upload

    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        return [sent.new for sent in upload(repositories, tag, replace, lambda text: None)]
    except ValueError as error:
        return str(error)


def without_waiting() -> None:
    """The client tries failing requests again after longer and longer pauses: not here."""
    import time
    from types import SimpleNamespace

    from huggingface_hub.utils import _http

    _http.time = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})


def state(hub: Hub, name: str = ID, kind: str = "model") -> dict[str, Any]:
    """What a repository has now."""
    published = hub.repositories.get((kind, name))
    if published is None:
        return {"commits": 0, "files": []}
    return {"commits": len(published.commits), "files": sorted(published.at("main").files)}


@scenario
def again(hub: Hub, folder: Path) -> Any:
    repository = staged(folder)
    first = send(repository, tag="v1")
    hub.requests.clear()
    second = send(repository, tag="v1")
    sent = [path for method, path in hub.requests if "/commit/" in path or method == "PUT"]
    return {"first": first, "second": second, "sent": sent, **state(hub), "uploaded": len(hub.uploaded)}


@scenario
def changed(hub: Hub, folder: Path) -> Any:
    repository = staged(folder)
    send(repository)
    hub.uploaded.clear()
    (folder / "two.safetensors").unlink()
    (folder / "three.safetensors").write_bytes(b"3")
    repository = checked(repository)
    return {"sent": send(repository), "uploaded": len(hub.uploaded), **state(hub)}


@scenario
def tokens(hub: Hub, folder: Path) -> Any:
    repository = staged(folder)
    outcomes = {str(token): send(repository, token=token) for token in (None, "hf_wrong", "hf_reader")}
    return {**outcomes, **state(hub), "uploaded": len(hub.uploaded)}


@scenario
def broken_off(hub: Hub, folder: Path) -> Any:
    """The second large file fails until the Hub is well again."""
    repository = staged(folder)
    large = repository.files()["two.safetensors"].read_bytes()
    without_waiting()
    oid = Blob(large, True).sha256
    hub.fail = lambda method, path: 500 if path == f"/lfs/{oid}" else None
    first, after = send(repository), state(hub)
    hub.fail = None
    second = send(repository)
    return {"first": first, "after": after, "second": second, "uploaded": len(hub.uploaded), **state(hub)}


@scenario
def commit_fails(hub: Hub, folder: Path) -> Any:
    repository = staged(folder)
    hub.fail = lambda method, path: 500 if "/commit/" in path else None
    first, after, sent = send(repository), state(hub), len(hub.uploaded)
    hub.fail = None
    return {
        "first": first,
        "after": after,
        "second": send(repository),
        "resent": len(hub.uploaded) - sent,
        **state(hub),
    }


@scenario
def taken(hub: Hub, folder: Path) -> Any:
    """Of two repositories the second one's name is somebody else's: the first one must not go either."""
    made = hub.repositories["model", "clinic/other"] = Repository("model", "clinic/other", private=True)
    made.add("main", "first", {"theirs.txt": Blob(b"theirs", False)})
    repositories = [staged(folder / "a"), staged(folder / "b", "clinic/other")]
    refused, before = send(*repositories), state(hub)
    return {"refused": refused, "before": before, "replaced": send(*repositories, replace=True),
            "theirs": state(hub, "clinic/other")["files"]}  # fmt: skip


@scenario
def tag_taken(hub: Hub, folder: Path) -> Any:
    repository = staged(folder)
    send(repository, tag="v1")
    (folder / "one.safetensors").write_bytes(b"other")
    repository = checked(repository)
    refused, after = send(repository, tag="v1"), state(hub)
    return {"refused": refused, "after": after, "next": send(repository, tag="v2"),
            "tags": sorted(hub.repositories["model", ID].tags)}  # fmt: skip


@scenario
def back_to_a_tag(hub: Hub, folder: Path) -> Any:
    """Content that becomes what a tag names again."""
    repository = staged(folder)
    send(repository, tag="v1")
    send(staged(folder, role="expert"), tag="v1")
    (folder / "one.safetensors").write_bytes(b"other")
    repository = checked(repository)
    send(repository)
    kept = send(repository, tag="v1")
    again = staged(folder)
    return {"kept": kept, "again": send(again, tag="v1"), "tags": len(hub.repositories["model", ID].tags)}


@scenario
def public_there(hub: Hub, folder: Path) -> Any:
    """What should be private does not go into what everybody sees."""
    send(staged(folder, private=False))
    before = state(hub)
    (folder / "one.safetensors").write_bytes(b"private")
    refused = send(staged(folder))
    published = hub.repositories["model", ID]
    public = published.private
    published.private = True
    after, closed, opened = state(hub), send(staged(folder)), send(staged(folder, private=False))
    return {"before": before, "refused": refused, "after": after, "public": public, "private": closed,
            "opened": opened, "now": published.private}  # fmt: skip


@scenario
def opened_again(hub: Hub, folder: Path) -> Any:
    """The setting that opens a repository fails; the next run opens it."""
    hub.fail = lambda method, path: 500 if path.endswith("/settings") else None
    without_waiting()
    first = send(staged(folder, private=False))
    closed = hub.repositories["model", ID].private
    hub.fail = None
    return {"first": first, "closed": closed, "second": send(staged(folder, private=False)),
            "private": hub.repositories["model", ID].private}  # fmt: skip


@scenario
def changed_after_the_look(hub: Hub, folder: Path) -> Any:
    repository = staged(folder)
    (folder / "scan.json").write_text("{}", encoding="utf-8")
    added = send(repository)
    (folder / "scan.json").unlink()
    (folder / "README.md").write_text("other", encoding="utf-8")
    return {"added": added, "other": send(repository), **state(hub)}


@scenario
def other_role(hub: Hub, folder: Path) -> Any:
    """An adapter does not replace an expert of its name."""
    send(staged(folder))
    return {"refused": send(staged(folder, role="adapter")), **state(hub)}


@scenario
def somebodys_readme(hub: Hub, folder: Path) -> Any:
    made = hub.repositories["model", ID] = Repository("model", ID, private=True)
    made.add("main", "first", {"README.md": Blob(b"theirs", False)})
    return {"refused": send(staged(folder)), **state(hub)}


@scenario
def gated(hub: Hub, folder: Path) -> Any:
    """A public repository with a gate: shut before anything is in it."""
    sent = send(staged(folder, private=False, gated="manual"))
    order = [path.rsplit("/", 1)[-1] for method, path in hub.requests if method in ("POST", "PUT")]
    published = hub.repositories["model", ID]
    return {"sent": sent, "order": order, "gated": published.gated, "private": published.private}


@scenario
def space(hub: Hub, folder: Path) -> Any:
    sent = send(staged(folder, "clinic/space", "space", variables={"MEDGLIP_MODEL": "clinic/model"}))
    published = hub.repositories["space", "clinic/space"]
    return {"sent": sent, "variables": published.variables, "private": published.private}


@scenario
def names_that_leave(hub: Hub, folder: Path) -> Any:
    """The Hub refuses names that leave the repository, and clients that ask for them get nothing."""
    from huggingface_hub import CommitOperationAdd, HfApi

    send(staged(folder))
    try:
        HfApi().create_commit(ID, [CommitOperationAdd("../x.txt", b"x")], commit_message="x")
    except Exception as error:
        return {"message": f"{type(error).__name__}: {error}", **state(hub)}
    return {"message": "", **state(hub)}


@scenario
def no_network(hub: Hub, folder: Path) -> Any:
    from huggingface_hub import HfApi

    repository, initialize = staged(folder), HfApi.__init__
    HfApi.__init__ = lambda self, *a, **k: initialize(self, "http://127.0.0.1:9")  # type: ignore[method-assign]
    try:
        return {"message": send(repository)}
    finally:
        HfApi.__init__ = initialize  # type: ignore[method-assign]


def main() -> None:
    folder = Path(sys.argv[1])
    outcomes = {}
    with serve() as hub:
        os.environ.update(client_environment(hub, str(folder / "cache")))
        for number, run in enumerate(SCENARIOS):
            hub.repositories.clear(), hub.large.clear(), hub.requests.clear(), hub.uploaded.clear()
            hub.fail = None
            outcomes[run.__name__] = run(hub, folder / str(number))
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
