# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Take the screenshots of the Space for the documentation, with the embedded checkpoint, in a browser.

python -m tests.spaces_demo.screenshots --out docs/space
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_XET="1", GRADIO_ANALYTICS_ENABLED="False")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "spaces_demo"))

from modeling_medglip.grounding import load_grounder
from space_experts import Experts
from space_settings import Settings, quiet
from tests.spaces_demo.browser import PHONE, browser, visit
from tests.spaces_demo.serving import served


MOST_BYTES = 400_000


def desktop(started: Any, address: str, file: Path) -> None:
    """A chest radiograph with its boxes."""
    opened = visit(started, address, (1360, 1080))
    opened.example("xray_chest")
    opened.page.wait_for_timeout(1000)
    opened.page.screenshot(path=file)


def dark(started: Any, address: str, file: Path) -> None:
    """Two experts side by side, on a dark screen."""
    opened = visit(started, address, (1360, 1080), color_scheme="dark")
    opened.example("ct_abdomen")
    opened.page.click("#mg-second input")
    opened.page.click("[role=option]:has-text('MRI expert')")
    opened.page.click("#mg-find")
    opened.page.wait_for_selector(".mg-double", timeout=60_000)
    opened.page.wait_for_timeout(1000)
    opened.page.screenshot(path=file)


def volume(started: Any, address: str, file: Path) -> None:
    """The boxes of a volume, in a slice and in space."""
    opened = visit(started, address, (1360, 1150))
    opened.example("mri_volume")
    opened.page.click("#mg-find-all")
    opened.page.wait_for_selector(".mg-space canvas", timeout=300_000)
    opened.page.locator(".mg-row:visible").first.click()
    opened.page.wait_for_timeout(2500)
    opened.page.evaluate("window.scrollTo(0, 0)")
    opened.page.mouse.move(5, 500)
    opened.page.wait_for_timeout(500)
    opened.page.screenshot(path=file)


def labels(started: Any, address: str, file: Path) -> None:
    """The tree of labels."""
    opened = visit(started, address, (1360, 1080))
    opened.example("ct_abdomen")
    opened.page.click("#mg-labels button >> nth=0")
    opened.page.click(".mg-tree summary:has-text('abdomen')")
    opened.page.wait_for_timeout(800)
    opened.page.screenshot(path=file)


def error(started: Any, address: str, file: Path) -> None:
    """A text file with the name of an image."""
    opened = visit(started, address, (1360, 800))
    with tempfile.TemporaryDirectory() as folder:
        bad = Path(folder, "notes.png")
        bad.write_text("not an image")
        opened.upload(bad)
    opened.page.wait_for_timeout(500)
    opened.page.screenshot(path=file)


def phone(started: Any, address: str, file: Path) -> None:
    """390 pixels wide."""
    opened = visit(started, address, PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
    opened.example("fundus_retina")
    opened.page.wait_for_timeout(2000)
    opened.page.screenshot(path=file)


VIEWS = {view.__name__: view for view in (desktop, dark, volume, labels, error, phone)}


def compact(file: Path) -> None:
    """At most 256 colors if the file is too large otherwise."""
    from PIL import Image

    if file.stat().st_size > MOST_BYTES:
        Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    if file.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{file.name}: has {file.stat().st_size} bytes, more than {MOST_BYTES}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/space"))
    parser.add_argument("--only", choices=VIEWS, nargs="*", default=list(VIEWS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    quiet()
    settings = Settings()
    with (
        tempfile.TemporaryDirectory() as folder,
        browser() as started,
        served(Experts((load_grounder(),), settings), settings, Path(folder)) as space,
    ):
        for name in options.only:
            file = options.out / f"{name}.png"
            VIEWS[name](started, space.address, file)
            compact(file)
            print(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
