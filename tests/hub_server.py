# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A local Hub for tests: the part of the Hugging Face Hub's HTTP interface that `huggingface_hub`, `transformers`,
`datasets` and `peft` use, with everything in memory.

`serve()` starts one in a thread; clients find it by `HF_ENDPOINT`, which they read when they are imported, so they run
in processes of their own. Tests may also look inside ([`Hub`]): what was requested, which files a repository has, and
`fail` to let requests fail. There is no Xet and no Git, only commits.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse


KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
# Sizes and names from which a file is stored apart (Git LFS), as the real Hub's default `.gitattributes` has them.
LARGE_BYTES = 10_000_000
LARGE_NAMES = re.compile(r"\.(safetensors|parquet|bin|png|jpe?g|gz|zip|pt|pth|onnx|npz|npy)$")
PREFIX = "(?P<prefix>datasets/|spaces/)?"


class HubError(Exception):
    """An answer other than success.

    Args:
        status (`int`): of HTTP. code (`str`): the header `X-Error-Code`. message (`str`): what clients show.
        headers (`dict`): further ones.
    """

    def __init__(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message or code)
        self.status, self.code, self.message, self.headers = status, code, message or code, headers or {}


@dataclass(frozen=True)
class Blob:
    """The content of a file; `large` ones are stored apart."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Git's name of the content."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        """What clients name the file in their cache."""
        return self.sha256 if self.large else self.oid


@dataclass(frozen=True)
class Commit:
    """All files of a repository at one time: path -> content."""

    oid: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repository:
    """A repository with its history, latest commit last, and its named revisions."""

    kind: str
    name: str
    private: bool = False
    gated: str | bool = False
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)
    variables: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        """The commit of a branch, tag or hash.

        Raises:
            `HubError`: there is none.
        """
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        for commit in self.commits:
            if commit.oid == oid:
                return commit
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def add(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        """A new commit with exactly these files."""
        oid = hashlib.sha1(f"{self.kind} {self.name} {len(self.commits)} {title}".encode()).hexdigest()
        commit = Commit(oid, title, files)
        self.commits.append(commit)
        self.branches[branch] = oid
        return commit


@dataclass
class Hub:
    """The state of a local Hub.

    Args:
        users (`dict[str, str]`): token -> name. Anybody with a token may write to any organization.
        fail (*optional*): called with method and path of every request; a status it returns is the answer.
    """

    users: dict[str, str] = field(default_factory=lambda: {"hf_writer": "writer", "hf_reader": "reader"})
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    uploaded: list[str] = field(default_factory=list)
    fail: Callable[[str, str], int | None] | None = None
    endpoint: str = ""

    def files(self, name: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Path -> content."""
        return {path: blob.content for path, blob in self.repositories[kind, name].at(revision).files.items()}

    def user(self, request: Request) -> str | None:
        """Whose token the request has; `None` without one.

        Raises:
            `HubError`: an unknown token.
        """
        header = request.headers.get("authorization", "")
        if not header:
            return None
        token = header.removeprefix("Bearer ").strip()
        if token not in self.users:
            raise HubError(401, message="Invalid credentials in Authorization header")
        return self.users[token]

    def open(self, request: Request, kind: str, name: str, content: bool = True) -> Repository:
        """A repository that the request may read; with `content` also its files.

        Raises:
            `HubError`: there is none, it is private, or it is gated.
        """
        user, found = self.user(request), self.repositories.get((kind, name))
        if found is None or (found.private and user is None):
            raise HubError(401 if user is None else 404, "RepoNotFound", "Repository not found")
        if content and found.gated and user not in found.readers | {"writer"}:
            why = f"Access to {kind} {name} is restricted."
            raise HubError(401 if user is None else 403, "GatedRepo", why)
        return found

    def writer(self, request: Request) -> str:
        """Who writes.

        Raises:
            `HubError`: no token, or one that only reads.
        """
        user = self.user(request)
        if user is None:
            raise HubError(401, message="Invalid username or password.")
        if user == "reader":
            raise HubError(403, message="You don't have the rights to write here: the token can only read.")
        return user


def create_app(hub: Hub) -> FastAPI:
    """The web application over a state."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def watch(request: Request, call_next: Any) -> Response:
        path = request.url.path
        hub.requests.append((request.method, path))
        status = hub.fail(request.method, path) if hub.fail else None
        if status is not None:
            return JSONResponse({"error": "the server was made to fail"}, status)
        return await call_next(request)

    @app.exception_handler(HubError)
    async def refused(request: Request, error: HubError) -> JSONResponse:
        headers = {"X-Error-Message": error.message, **error.headers}
        if error.code:
            headers["X-Error-Code"] = error.code
        return JSONResponse({"error": error.message}, error.status, headers)

    _add_accounts(app, hub)
    _add_repositories(app, hub)
    _add_uploads(app, hub)
    _add_files(app, hub)
    return app


def _add_accounts(app: FastAPI, hub: Hub) -> None:
    @app.get("/api/whoami-v2")
    async def whoami(request: Request) -> dict[str, Any]:
        user = hub.user(request)
        if user is None:
            raise HubError(401, message="Invalid credentials in Authorization header")
        role = "read" if user == "reader" else "write"
        token = {"displayName": user, "role": role, "createdAt": "2026-01-01T00:00:00.000Z"}
        return {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token", "accessToken": token}}

    @app.post("/api/validate-yaml")
    async def validate() -> dict[str, Any]:
        return {"errors": [], "warnings": []}


def _add_repositories(app: FastAPI, hub: Hub) -> None:
    @app.post("/api/repos/create")
    async def create(request: Request) -> JSONResponse:
        user, asked = hub.writer(request), await request.json()
        kind = asked.get("type") or "model"
        name = f"{asked.get('organization') or user}/{asked['name']}"
        url = f"{hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in hub.repositories:
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        made = hub.repositories[kind, name] = Repository(kind, name, private)
        made.add("main", "initial commit", {".gitattributes": Blob(b"", False)})
        return JSONResponse({"url": url, "name": name, "id": name})

    @app.delete("/api/repos/delete")
    async def delete(request: Request) -> dict[str, Any]:
        user, asked = hub.writer(request), await request.json()
        name = f"{asked.get('organization') or user}/{asked['name']}"
        hub.repositories.pop((asked.get("type") or "model", name), None)
        return {}

    @app.put("/api/{kinds}/{owner}/{name}/settings")
    async def settings(request: Request, kinds: str, owner: str, name: str) -> dict[str, Any]:
        hub.writer(request)
        found, asked = hub.open(request, KINDS[kinds], f"{owner}/{name}", content=False), await request.json()
        found.gated = asked.get("gated", found.gated)
        if "private" in asked or "visibility" in asked:
            found.private = bool(asked.get("private")) or asked.get("visibility") == "private"
        return asked

    @app.post("/api/spaces/{owner}/{name}/variables")
    async def variables(request: Request, owner: str, name: str) -> dict[str, Any]:
        hub.writer(request)
        found, asked = hub.open(request, "space", f"{owner}/{name}", content=False), await request.json()
        found.variables[asked["key"]] = asked["value"]
        return {
            key: {"value": value, "updatedAt": "2026-01-01T00:00:00.000Z"} for key, value in found.variables.items()
        }

    @app.get("/api/{kinds}/{owner}/{name}/refs")
    async def refs(request: Request, kinds: str, owner: str, name: str) -> dict[str, Any]:
        found = hub.open(request, KINDS[kinds], f"{owner}/{name}")
        named = {"branches": ("heads", found.branches), "tags": ("tags", found.tags)}
        rows = {
            key: [{"name": own, "ref": f"refs/{place}/{own}", "targetCommit": oid} for own, oid in values.items()]
            for key, (place, values) in named.items()
        }
        return {**rows, "converts": []}

    @app.post("/api/{kinds}/{owner}/{name}/tag/{revision:path}")
    async def tag(request: Request, kinds: str, owner: str, name: str, revision: str) -> dict[str, Any]:
        hub.writer(request)
        found, asked = hub.open(request, KINDS[kinds], f"{owner}/{name}"), await request.json()
        if asked["tag"] in found.tags:
            raise HubError(409, message=f"Tag {asked['tag']} already exists")
        found.tags[asked["tag"]] = found.at(revision).oid
        return {}

    @app.get("/api/{kinds}/{owner}/{name}")
    @app.get("/api/{kinds}/{owner}/{name}/revision/{revision:path}")
    async def info(request: Request, kinds: str, owner: str, name: str, revision: str = "main") -> dict[str, Any]:
        found = hub.open(request, KINDS[kinds], f"{owner}/{name}", content=False)
        commit = found.at(revision)
        date = "2026-01-01T00:00:00.000Z"
        return {
            "_id": "0" * 24, "id": found.name, "author": owner, "sha": commit.oid, "private": found.private,
            "gated": found.gated, "disabled": False, "tags": [], "downloads": 0, "likes": 0, "lastModified": date,
            "createdAt": date, "siblings": [{"rfilename": path} for path in commit.files],
        }  # fmt: skip


def _add_uploads(app: FastAPI, hub: Hub) -> None:
    @app.post("/api/{kinds}/{owner}/{name}/preupload/{revision:path}")
    async def preupload(request: Request, kinds: str, owner: str, name: str, revision: str) -> dict[str, Any]:
        hub.writer(request)
        known = hub.open(request, KINDS[kinds], f"{owner}/{name}").at(revision).files
        files = []
        for asked in (await request.json())["files"]:
            path = asked["path"]
            mode = "lfs" if asked["size"] > LARGE_BYTES or LARGE_NAMES.search(path) else "regular"
            there = known.get(path)
            oid = None if there is None else there.etag
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    @app.post("/{full:path}.git/info/lfs/objects/batch")
    async def batch(request: Request, full: str) -> JSONResponse:
        hub.writer(request)
        objects = []
        for asked in (await request.json())["objects"]:
            entry: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in hub.large:
                entry["actions"] = {"upload": {"href": f"{hub.endpoint}/lfs/{asked['oid']}"}}
            objects.append(entry)
        content = {"transfer": "basic", "objects": objects}
        return JSONResponse(content, media_type="application/vnd.git-lfs+json")

    @app.put("/lfs/{oid}")
    async def put(request: Request, oid: str) -> Response:
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(422, message="the content is not what its name says")
        hub.large[oid] = content
        hub.uploaded.append(oid)
        return Response()

    @app.post("/api/{kinds}/{owner}/{name}/commit/{revision:path}")
    async def commit(request: Request, kinds: str, owner: str, name: str, revision: str) -> dict[str, Any]:
        hub.writer(request)
        found = hub.open(request, KINDS[kinds], f"{owner}/{name}")
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, found.at(revision).oid):
            raise HubError(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(found.at(revision).files)
        for line in lines:
            _apply(hub, files, line["key"], line["value"])
        made = found.add(revision, header["summary"], files)
        url = f"{hub.endpoint}/{'' if found.kind == 'model' else kinds + '/'}{found.name}/commit/{made.oid}"
        return {"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""}


def _apply(hub: Hub, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    """One line of a commit.

    Raises:
        `HubError`: a name that leaves the repository, or a large file that was not uploaded.
    """
    path = value.get("path", "")
    if key != "header" and (path.startswith("/") or ".." in path.split("/") or "\\" in path):
        raise HubError(400, message=f"{path[:60]!r} is not a valid name of a file in a repository")
    if key == "file":
        files[path] = Blob(base64.b64decode(value["content"]), False)
    elif key == "lfsFile":
        if value["oid"] not in hub.large:
            raise HubError(400, message=f"the content of {path} was not uploaded")
        files[path] = Blob(hub.large[value["oid"]], True)
    elif key in ("deletedFile", "deletedFolder"):
        for own in [own for own in files if own == path or own.startswith(f"{path.rstrip('/')}/")]:
            del files[own]


def _add_files(app: FastAPI, hub: Hub) -> None:
    @app.get("/api/{kinds}/{owner}/{name}/tree/{where:path}")
    async def tree(request: Request, kinds: str, owner: str, name: str, where: str) -> JSONResponse:
        found = hub.open(request, KINDS[kinds], f"{owner}/{name}")
        revision, _, folder = where.partition("/")
        commit = found.at(revision)
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        own = {path: blob for path, blob in commit.files.items() if path.startswith(prefix)}
        if folder and not own:
            raise HubError(404, "EntryNotFound", f"{folder} does not exist", {"X-Repo-Commit": commit.oid})
        deep = request.query_params.get("recursive", "false").lower() in ("true", "1")
        folders = sorted({prefix + path[len(prefix) :].split("/")[0] for path in own if "/" in path[len(prefix) :]})
        rows: list[dict[str, Any]] = [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]
        rows += [_row(path, blob) for path, blob in own.items() if deep or "/" not in path[len(prefix) :]]
        return JSONResponse(rows)

    @app.post("/api/{kinds}/{owner}/{name}/paths-info/{revision:path}")
    async def paths(request: Request, kinds: str, owner: str, name: str, revision: str) -> JSONResponse:
        commit = hub.open(request, KINDS[kinds], f"{owner}/{name}").at(revision)
        kind = request.headers.get("content-type", "")
        asked = (await request.json())["paths"] if "json" in kind else (await request.form()).getlist("paths")
        return JSONResponse([_row(path, commit.files[path]) for path in asked if path in commit.files])

    @app.api_route("/{full:path}", methods=["GET", "HEAD"])
    async def resolve(request: Request, full: str) -> Response:
        match = re.fullmatch(PREFIX + r"(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", full)
        if match is None:
            raise HubError(404, message="no such page")
        kind = KINDS[(match["prefix"] or "models/").rstrip("/")]
        commit = hub.open(request, kind, match["name"]).at(match["revision"])
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        blob = commit.files.get(match["path"])
        if blob is None:
            raise HubError(404, "EntryNotFound", "Entry not found", headers)
        headers["ETag"] = f'"{blob.etag}"'
        if blob.large:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        return _part(request, blob.content, headers)


def _row(path: str, blob: Blob) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid}
    if blob.large:
        row["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
    return row


def _part(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """The content, or the range that is asked for."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    status = 200
    if asked and (asked[1] or asked[2]):
        total = len(content)
        first = int(asked[1]) if asked[1] else max(0, total - int(asked[2]))
        last = min(int(asked[2]), total - 1) if asked[1] and asked[2] else total - 1
        if first > last:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{total}"})
        headers["Content-Range"], status = f"bytes {first}-{last}/{total}", 206
        content = content[first : last + 1]
    if request.method == "HEAD":
        return Response(status_code=status, headers={**headers, "Content-Length": str(len(content))})
    return Response(content, status, headers, "application/octet-stream")


@contextlib.contextmanager
def serve(hub: Hub | None = None) -> Iterator[Hub]:
    """A local Hub at a free port of this machine; its address is `endpoint`."""
    state = hub or Hub()
    server = uvicorn.Server(uvicorn.Config(create_app(state), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the local Hub did not start")
        time.sleep(0.01)
    state.endpoint = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        server.should_exit = True
        thread.join(10)


def client_environment(hub: Hub, cache: str, token: str | None = "hf_writer") -> dict[str, str]:
    """Variables for a process whose Hub is this one: its own cache, and no other network."""
    values = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": cache, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    values |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return {**values, "HF_TOKEN": token} if token else values
