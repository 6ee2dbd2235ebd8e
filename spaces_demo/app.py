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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl: Any = None  # type: ignore[no-redef]

PREFIX, LOCK = "medglip-space-", "lock"

# Read when gradio is imported: nothing is reported to anybody, and files go where they are deleted.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="app.py", description=__doc__)
    parser.add_argument("--port", type=int, help="of 127.0.0.1; the first free one from 7860 on when left out")
    options = parser.parse_args()
    with own_folder() as folder:
        cache = folder / "cache"
        os.environ["GRADIO_TEMP_DIR"] = str(cache)
        from modeling_medglip.errors import MedGlipError, one_line
        from space_limits import few_heaps
        from space_page import build, serve
        from space_readers import READERS
        from space_settings import from_environment, quiet

        few_heaps()
        quiet()
        settings = from_environment()
        try:
            page = build(settings, folder=folder)
            _, address, _ = serve(page, settings, cache, server_port=options.port, prevent_thread_lock=True)
        except (MedGlipError, OSError) as error:  # no such checkpoint; no such port
            parser.error(one_line(error))
        sys.stdout.write(f"MedGLIP is at {address} (Ctrl+C stops it)\n")
        sys.stdout.flush()
        wait()
        READERS.close()


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder of this server alone; those that killed servers left behind are deleted. A lock shows which live."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, Path(folder, LOCK).open("wb") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for other in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
                _delete_if_left(other)
        yield Path(folder)


def _delete_if_left(folder: Path) -> None:
    """Delete a folder of a server of this user that does not run any more."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # it runs, or has no lock and is none of ours
        pass


def wait() -> None:
    """Until somebody stops the server; its files are then deleted on the way out."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


if __name__ == "__main__":
    main()
