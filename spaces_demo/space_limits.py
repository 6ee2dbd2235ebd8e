# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Limit what visitors can do: sizes of requests, routes, hosts, addresses instead of files, what a page may load."""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import re
import stat
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException
from gradio import queueing, route_utils, routes
from gradio.exceptions import InvalidPathError
from gradio.route_utils import GradioMultiPartParser, MultiPartException
from gradio.utils import LRUCache
from gradio_client.utils import is_http_url_like

from space_messages import visitor_message


MARGIN = 2**20
# Of one upload, which is one file.
MAX_PARTS, MAX_FIELD_BYTES = 8, 2**16
# Answers of all visitors together that no page has fetched; sessions, and characters of a session's name.
MAX_UNREAD, MAX_SESSIONS, MAX_SESSION_NAME = 500, 2000, 100
# Names of this machine.
LOCAL = ("localhost", "127.0.0.1", "[::1]")
# Routes of the page and its endpoints. Gradio has more: they fetch an address, hand an uploaded file to FFmpeg, or act
# on the Hub in a visitor's name. A file is one of this server, not an address.
ROUTES = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon)/?|/(assets|static|svelte|pwa_icon)/.*"
    r"|/gradio_api/(info|openapi\.json|theme\.css|app_id|startup-events|login_check|user|upload|upload_progress|cancel"
    r"|reset|queue/join|queue/data)/?|/gradio_api/(call|run|api|heartbeat)/.*"
    r"|/gradio_api/file=(?!\s*([a-z][a-z0-9+.-]+:|[/\\]{2})).*",
    re.IGNORECASE | re.DOTALL,
)
ARENAS = -8  # M_ARENA_MAX of malloc.h
_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
# A page loads from this server only, whatever a label or a file name holds.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class RequestLimits:
    """Middleware that refuses requests that are too large, too slow, or for another host, and adds headers.

    Args:
        app (`Callable`): the application behind it.
        upload_bytes (`int`): largest upload.
        json_bytes (`int`): largest request of another kind.
        seconds (`float`): longest time for the body of a request to arrive.
        hosts (`Sequence[str]`): names under which the server answers, besides those of this machine. Other names are
            refused: a hostile name server may point one here (DNS rebinding).
        any_address (`bool`): the server is bound to every address, and answers under each.
        cache (`Path`): the folder of all uploads.
        cache_bytes (`int`): largest content of that folder.
    """

    def __init__(
        self,
        app: App,
        upload_bytes: int,
        json_bytes: int,
        seconds: float,
        hosts: Sequence[str],
        any_address: bool,
        cache: Path,
        cache_bytes: int,
    ) -> None:
        self.app, self.upload_bytes, self.json_bytes, self.seconds = app, upload_bytes, json_bytes, seconds
        self.hosts, self.any_address = {*LOCAL, *(host.lower() for host in hosts if host)}, any_address
        self.cache, self.cache_bytes, self.arriving = cache, cache_bytes, 0

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.upload_bytes + MARGIN if scope["path"].rstrip("/").endswith("/upload") else self.json_bytes
        message = f"The file is too large: at most {self.upload_bytes // 2**20} MB can be uploaded."
        if limit == self.json_bytes:
            message = f"The request is too large: at most {limit // 2**10} kB."
        if not self._is_known(_header(scope, b"host")):
            await _refuse(send, 421, "This server has another name: use that, or set MEDGLIP_HOSTS.")
        elif not ROUTES.fullmatch(scope["path"].removeprefix(scope.get("root_path", ""))):
            await _refuse(send, 403, "This Space has its page, endpoints and uploads only; addresses are not fetched.")
        elif _stated_length(scope) > limit:
            await _refuse(send, 413, message)
        elif limit == self.json_bytes:
            await _Bounded(limit, self.seconds, message, receive, send).run(self.app, scope)
        else:
            await self._upload(scope, _Bounded(limit, self.seconds, message, receive, send), send)

    async def _upload(self, scope: Message, request: _Bounded, send: Any) -> None:
        """Accept an upload, if there is room for all that arrive at the same time."""
        size = _stated_length(scope) or request.limit
        stored = await asyncio.to_thread(folder_bytes, self.cache)
        if stored + self.arriving + size > self.cache_bytes:
            await _refuse(send, 507, "The server has no room for another upload: try again in a quarter of an hour.")
            return
        self.arriving += size
        try:
            await request.run(self.app, scope)
        finally:
            self.arriving -= size

    def _is_known(self, host: str) -> bool:
        name = re.sub(r":\d+$", "", host).lower().rstrip(".")
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return self.any_address


class _Bounded:
    """One request whose body is counted and timed while it arrives; a refusal replaces the answer."""

    def __init__(self, limit: int, seconds: float, message: str, receive: Any, send: Any) -> None:
        self.limit, self.seconds, self.message = limit, seconds, message
        self.receive, self.send = receive, send
        self.end = time.monotonic() + seconds
        self.count, self.complete, self.started = 0, False, False
        self.refusal: tuple[int, str] | None = None

    async def run(self, app: App, scope: Message) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as problem:
            if self.started:
                raise
            if self.refusal is None:
                traceback.print_exception(problem, file=sys.stderr)
                self.refusal = (500, "The server could not answer this request: check it, or try again later.")
        if self.refusal is not None and not self.started:
            await _refuse(self.send, *self.refusal)

    async def _receive(self) -> Message:
        if self.complete:
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), max(0.0, self.end - time.monotonic()))
        except TimeoutError:
            self.refusal = (408, f"The request took longer than {self.seconds:g} s to arrive.")
            raise
        self.count += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self.count > self.limit:
            self.refusal = (413, self.message)
            raise ValueError(self.message)
        return message

    async def _send(self, message: Message) -> None:
        if self.refusal is not None and not self.started:  # the application's answer to a broken body
            return
        if message["type"] == "http.response.start":
            self.started = True
            extra = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
            extra["x-content-type-options"] = "nosniff"
            known = [(key.encode(), value.encode()) for key, value in extra.items()]
            message["headers"] = [*message.get("headers", []), *known]
        await self.send(message)


class BoundedParser(GradioMultiPartParser):
    """Gradio's parser of uploads, limited to few parts, short fields, and files under `files`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "max_files": MAX_PARTS, "max_fields": MAX_PARTS})

    def on_headers_finished(self) -> None:
        """Check the headers of a part."""
        super().on_headers_finished()
        part = self._current_part
        if part.file is None and part.field_name == "files":
            raise MultiPartException("The upload holds no file: choose one.")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Write the data of a part, up to the limit."""
        part = self._current_part
        if part.file is not None:
            super().on_part_data(data, start, end)
        elif len(part.data) + end - start > MAX_FIELD_BYTES:
            raise MultiPartException(f"A field of the upload is longer than {MAX_FIELD_BYTES} bytes.")
        else:
            part.data += data[start:end]


def bound_uploads() -> None:
    """Replace gradio's parser of uploads by [`BoundedParser`], for which it has no setting."""
    for module in (route_utils, routes):
        module.GradioMultiPartParser = BoundedParser  # type: ignore[attr-defined, misc]


class Unread(asyncio.Queue[Any]):
    """Queue of answers that a page has not fetched. Beyond `MAX_UNREAD` of all pages the oldest are dropped."""

    waiting: deque[Unread] = deque()
    lock = threading.Lock()

    def _put(self, item: Any) -> None:
        with self.lock:
            super()._put(item)
            self.waiting.append(self)
            while len(self.waiting) > MAX_UNREAD:
                asyncio.Queue._get(self.waiting.popleft())  # type: ignore[attr-defined]

    def _get(self) -> Any:
        with self.lock:
            self.waiting.remove(self)
            return super()._get()  # type: ignore[misc]


class Sessions(LRUCache[str, Any]):
    """Store of the latest sessions. Visitors choose their names."""

    def __setitem__(self, key: str, value: Any) -> None:
        if len(key) > MAX_SESSION_NAME:
            raise HTTPException(400, f"The name of the session is longer than {MAX_SESSION_NAME} characters.")
        super().__setitem__(key, value)


def bound_queue(page: gr.Blocks) -> gr.Blocks:
    """Limit the answers and sessions that the queue of a page stores, for which gradio has no setting.

    Args:
        page (`gr.Blocks`): its queue is changed.
    """
    queueing.AsyncQueue = Unread  # type: ignore[misc, assignment]
    page._queue.pending_messages_per_session = Sessions(MAX_SESSIONS)
    page._queue.pending_event_ids_session = Sessions(MAX_SESSIONS)
    return page


class Page(gr.Blocks):
    """A page that shows the reason of every failure; gradio shows "Error" only."""

    async def process_api(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Run a function of the page; its errors become messages for the visitor."""
        try:
            return await super().process_api(*arguments, **options)
        except gr.Error:
            raise
        except InvalidPathError:
            raise gr.Error("the file is not on the server: upload it again", print_exception=False) from None
        except Exception as problem:
            raise gr.Error(visitor_message(problem), print_exception=False) from None


def _header(scope: Message, key: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope.get("headers", ()) if name.lower() == key), "")


def _stated_length(scope: Message) -> int:
    value = _header(scope, b"content-length")
    return int(value[:20]) if value.isdecimal() else 0


async def _refuse(send: Any, status: int, reason: str) -> None:
    body = reason.encode("utf-8")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def sweeper(folder: Path, every: float, keep: float) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return a lifespan of the server during which unused files are deleted.

    Gradio deletes complete uploads only, not those that were interrupted or refused.

    Args:
        folder (`Path`): of all uploads.
        every (`float`): seconds between two searches.
        keep (`float`): seconds after which an unused file is deleted.
    """

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(repeated())
        try:
            yield
        finally:
            task.cancel()

    async def repeated() -> None:
        while True:
            await asyncio.sleep(every)
            await asyncio.to_thread(sweep, folder, keep)
            release_memory()

    return lifespan


def limit_heaps() -> None:
    """Limit glibc to two heaps; it would have one for each of many threads, and hold what each once needed."""
    if mallopt := getattr(_LIBRARY, "mallopt", None):
        mallopt(ARENAS, 2)


def release_memory() -> None:
    """Return unused memory to the machine, with glibc."""
    if trim := getattr(_LIBRARY, "malloc_trim", None):
        trim(0)


def sweep(folder: Path, keep: float) -> None:
    """Delete files that were not touched for some time.

    Args:
        folder (`Path`): searched with its subfolders.
        keep (`float`): seconds since the last change of a file that stays.
    """
    limit = time.time() - keep
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode) and max(status.st_mtime, status.st_ctime) < limit:
                path.unlink()
        except FileNotFoundError:  # gradio was faster
            continue


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder.

    Args:
        folder (`Path`): searched with its subfolders.
    """
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:  # swept away
            continue
    return total


def local_only(page: gr.Blocks) -> None:
    """Limit every component to uploads: an address is refused before its name is resolved.

    Any component fetches an address that is sent to it as a file.

    Args:
        page (`gr.Blocks`): its components are changed.
    """
    for block in page.blocks.values():
        if hasattr(block, "async_move_resource_to_block_cache"):
            block.async_move_resource_to_block_cache = _of_uploads(block.async_move_resource_to_block_cache)


def _of_uploads(move: Any) -> Any:
    async def checked(url_or_file_path: str | Path | None) -> str | None:
        if url_or_file_path is not None and is_http_url_like(str(url_or_file_path).strip().lower()):
            raise gr.Error("upload a file: addresses are not fetched", print_exception=False)
        return await move(url_or_file_path)

    return checked
