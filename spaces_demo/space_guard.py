# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What keeps strangers within bounds: sizes of requests, addresses instead of files, and what a page may load."""

from __future__ import annotations

import asyncio
import ctypes
import stat
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio_client.utils import is_http_url_like

from modeling_medglip.errors import MedGlipError


MARGIN = 2**20
ARENAS = -8  # M_ARENA_MAX of malloc.h
_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
# Nothing but this server is asked for anything, whatever a label or a file name holds.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class Guard:
    """Middleware: turns away what says that it is too large before a byte of it is read, and adds headers.

    Args:
        limit: bytes of an upload.
    """

    def __init__(self, app: App, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _stated_length(scope) > self.limit + MARGIN:
            await _refuse(send, f"The file is too large: at most {self.limit // 2**20} MB can be uploaded.")
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
                extra["x-content-type-options"] = "nosniff"
                known = [(key.encode(), value.encode()) for key, value in extra.items()]
                message["headers"] = [*message.get("headers", []), *known]
            await send(message)

        await self.app(scope, receive, guarded)


def _stated_length(scope: Message) -> int:
    for name, value in scope.get("headers", ()):
        if name.lower() == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0


async def _refuse(send: Any, reason: str) -> None:
    body = reason.encode("utf-8")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def sweeper(folder: Path, every: float, keep: float) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan of the server during which unused files are deleted.

    Gradio deletes what was uploaded whole; what was broken off or turned away half-way it leaves behind.
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
            give_memory_back()

    return lifespan


def few_heaps() -> None:
    """Let glibc keep two heaps; it would have one for each of many threads, and keep what each once needed."""
    if mallopt := getattr(_LIBRARY, "mallopt", None):
        mallopt(ARENAS, 2)


def give_memory_back() -> None:
    """Hand memory that is not used back to the machine, where glibc is."""
    if trim := getattr(_LIBRARY, "malloc_trim", None):
        trim(0)


def sweep(folder: Path, keep: float) -> None:
    """Delete files that were not touched for `keep` seconds."""
    limit = time.time() - keep
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode) and max(status.st_mtime, status.st_ctime) < limit:
                path.unlink()
        except FileNotFoundError:  # gradio was faster
            continue


def local_only(file: gr.File) -> gr.File:
    """The component, which then takes uploads only: an address to fetch a file from is refused."""
    move = file.async_move_resource_to_block_cache

    async def checked(url_or_file_path: str | Path | None) -> str | None:
        if url_or_file_path is not None and is_http_url_like(str(url_or_file_path)):
            raise gr.Error("upload a file: addresses are not fetched", print_exception=False)
        return await move(url_or_file_path)

    file.async_move_resource_to_block_cache = checked
    return file


def reason_of(error: Exception) -> str:
    """What a visitor is told. What nobody foresaw goes to the server's log, not to the visitor."""
    if isinstance(error, MedGlipError):
        return str(error)
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return "not enough memory for this on the server"
    traceback.print_exception(error, file=sys.stderr)
    return f"unexpected {type(error).__name__} on the server"
