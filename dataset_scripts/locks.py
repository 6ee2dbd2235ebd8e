# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Lock a folder, so that one build at a time writes into it. The system drops the lock of a process that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, a file next to it, or raise at once.

    Args:
        folder (`Path`): The folder; it need not exist.

    Raises:
        `ValueError`: Another process holds the lock.
    """
    folder = folder.resolve()
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path, timeout=0).acquire()
    except Timeout:
        raise ValueError(f"{folder.name}: {_holder(path)} writes into this folder: wait until it has ended") from None
    with lock:
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
        try:
            yield
        finally:
            if os.name != "nt":  # there the library removes it; whoever locks a removed file is refused by it
                path.unlink(missing_ok=True)


def _holder(path: Path) -> str:
    """Return who holds a lock, where the system lets others read it."""
    try:
        return f"another build (process {int(path.read_text(encoding='ascii'))})"
    except (OSError, ValueError):
        return "another build"


__all__ = ["locked"]
