# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The MedGLIP Space: `python app.py` in this folder, or `python -m spaces_demo.app [--port 7860]` from a clone."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path


# Read when gradio is imported: nothing is reported to anybody, and files go where they are deleted.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="app.py", description=__doc__)
    parser.add_argument("--port", type=int, help="of 127.0.0.1; the first free one from 7860 on when left out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medglip-space-") as folder:
        cache = Path(folder, "cache")
        os.environ["GRADIO_TEMP_DIR"] = str(cache)
        from modeling_medglip.errors import MedGlipError, one_line
        from space_guard import few_heaps
        from space_page import build, serve
        from space_settings import from_environment, quiet

        few_heaps()
        quiet()
        settings = from_environment()
        try:
            page = build(settings, folder=Path(folder))
            _, address, _ = serve(page, settings, cache, server_port=options.port, prevent_thread_lock=True)
        except (MedGlipError, OSError) as error:  # no such checkpoint; no such port
            parser.error(one_line(error))
        sys.stdout.write(f"MedGLIP is at {address} (Ctrl+C stops it)\n")
        sys.stdout.flush()
        wait()


def wait() -> None:
    """Until somebody stops the server; its files are then deleted on the way out."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


if __name__ == "__main__":
    main()
