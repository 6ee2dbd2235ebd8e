# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The MedGLIP Space: `python app.py` in this folder, or `python -m spaces_demo.app [--port 7860]` from a clone."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeling_medglip.cli.scripts import script_main


try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl: Any = None  # type: ignore[no-redef]

PREFIX, LOCK = "medglip-space-", "lock"

# Read when gradio is imported: nothing is reported to anybody, and files go where they are deleted.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="app.py", description=__doc__)
    parser.add_argument("--port", type=int, help="of 127.0.0.1; the first free one from 7860 on when left out")
    options = parser.parse_args(argv)
    with server_folder() as folder:
        cache = folder / "cache"
        os.environ["GRADIO_TEMP_DIR"] = str(cache)
        from space_limits import limit_heaps
        from space_page import build_page, serve_page
        from space_readers import READERS
        from space_settings import from_environment, quiet

        limit_heaps()
        quiet()
        settings = from_environment()
        page = build_page(settings, folder=folder)
        _, address, _ = serve_page(page, settings, cache, server_port=options.port, prevent_thread_lock=True)
        sys.stdout.write(f"MedGLIP is at {address} (Ctrl+C stops it)\n")
        sys.stdout.flush()
        wait()
        READERS.close()
    return 0


@contextmanager
def server_folder() -> Iterator[Path]:
    """Yield a folder for this server alone, and delete those of servers that were killed. A lock shows which run."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, Path(folder, LOCK).open("wb") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for other in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
                _delete_if_left(other)
        yield Path(folder)


def _delete_if_left(folder: Path) -> None:
    """Delete a folder of this user if its server no longer runs."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # its server runs and holds the lock, or the folder has no lock and is not of a server


def wait() -> None:
    """Wait for a signal to stop; the caller then deletes the files."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


if __name__ == "__main__":
    sys.exit(main())
