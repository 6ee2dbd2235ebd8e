# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The local Hub answers as the clients expect: commits, revisions, ranges, gates, failures."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .hub_server import Blob, Hub, Repository, client_environment, serve


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


def get(hub: Hub, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(hub.endpoint + path, method=method, headers=names)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def repository(hub: Hub, name: str = "org/one", kind: str = "model", **files: bytes) -> Repository:
    made = hub.repositories[kind, name] = Repository(kind, name)
    made.add("main", "first", {path.replace("__", "."): Blob(content, True) for path, content in files.items()})
    return made


def test_files_and_ranges(hub: Hub) -> None:
    made = repository(hub, weights__safetensors=b"0123456789")
    path = "/org/one/resolve/main/weights.safetensors"
    status, headers, content = get(hub, path)
    assert (status, content) == (200, b"0123456789")
    assert headers["x-repo-commit"] == made.commits[0].oid and headers["x-linked-size"] == "10"
    assert get(hub, path, Range="bytes=2-4")[::2] == (206, b"234")
    assert get(hub, path, Range="bytes=-3")[::2] == (206, b"789")
    assert get(hub, path, Range="bytes=10-")[0] == 416
    status, headers, content = get(hub, path, "HEAD")
    assert (status, headers["content-length"], content) == (200, "10", b"")


def test_what_is_not_there(hub: Hub) -> None:
    repository(hub, a=b"1")
    status, headers, _ = get(hub, "/org/one/resolve/main/b")
    assert (status, headers["x-error-code"]) == (404, "EntryNotFound") and len(headers["x-repo-commit"]) == 40
    assert get(hub, "/org/one/resolve/other/a")[1]["x-error-code"] == "RevisionNotFound"
    assert get(hub, "/api/models/org/two")[0] == 401
    assert get(hub, "/api/models/org/two", Authorization="Bearer hf_reader")[1]["x-error-code"] == "RepoNotFound"
    assert get(hub, "/nowhere")[0] == 404


def test_gates_and_tokens(hub: Hub) -> None:
    made = repository(hub, a=b"1")
    made.gated = "manual"
    path = "/org/one/resolve/main/a"
    status, headers, _ = get(hub, path)
    assert (status, headers["x-error-code"]) == (401, "GatedRepo")
    assert get(hub, path, Authorization="Bearer hf_reader")[0] == 403
    assert get(hub, path, Authorization="Bearer wrong")[0] == 401
    assert get(hub, path, Authorization="Bearer hf_writer")[2] == b"1"
    made.readers.add("reader")
    assert get(hub, path, Authorization="Bearer hf_reader")[2] == b"1"


def test_requests_can_be_made_to_fail(hub: Hub) -> None:
    repository(hub, a=b"1")
    hub.fail = lambda method, path: 500 if path.endswith("/a") else None
    assert get(hub, "/org/one/resolve/main/a")[0] == 500 and get(hub, "/api/models/org/one")[0] == 200
    assert hub.requests == [("GET", "/org/one/resolve/main/a"), ("GET", "/api/models/org/one")]


CLIENT = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

api, folder = HfApi(), Path(sys.argv[1])
said = {"user": api.whoami()["name"]}
api.create_repo("org/set", repo_type="dataset", private=True)
api.create_repo("org/set", repo_type="dataset", exist_ok=True)
kind = {"repo_id": "org/set", "repo_type": "dataset"}
first = api.upload_folder(folder_path=folder, **kind)
second = api.upload_folder(folder_path=folder, **kind)
said["same"] = first.oid == second.oid
api.create_tag(tag="v1", **kind)
api.delete_file("sub/b.txt", **kind)
said["now"] = sorted(api.list_repo_files(**kind))
said["then"] = sorted(api.list_repo_files(revision="v1", **kind))
said["tree"] = sorted(entry.path for entry in api.list_repo_tree(revision="v1", recursive=False, **kind))
said["large"] = Path(hf_hub_download(filename="a.parquet", **kind)).read_bytes().decode()
whole = Path(snapshot_download(revision="v1", **kind))
said["whole"] = sorted(path.name for path in whole.rglob("*") if path.is_file())
said["tags"] = [tag.name for tag in api.list_repo_refs(**kind).tags]
print(json.dumps(said))
"""


def test_huggingface_hub_can_work_with_it(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    (folder / "a.parquet").write_text("large", encoding="utf-8")
    (folder / "sub" / "b.txt").write_text("small", encoding="utf-8")
    environment = client_environment(hub, str(tmp_path / "cache"))
    run = subprocess.run(
        [sys.executable, "-c", CLIENT, str(folder)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert run.returncode == 0, run.stderr[-2000:]
    said: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    assert said == {
        "user": "writer",
        "same": True,
        "now": [".gitattributes", "README.md", "a.parquet"],
        "then": [".gitattributes", "README.md", "a.parquet", "sub/b.txt"],
        "tree": [".gitattributes", "README.md", "a.parquet", "sub"],
        "large": "large",
        "whole": [".gitattributes", "README.md", "a.parquet", "b.txt"],
        "tags": ["v1"],
    }
    assert len(hub.uploaded) == 1 and hub.repositories["dataset", "org/set"].private
