# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""`medglip demo`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError, install_hint
from .console import echo, progress
from .options import Debug, Device, Model, Out, Threshold, check_port
from .request import GroundRequest
from .session import finish, load_model, make_folder, quiet_libraries
from .tasks import ImageTask


# The page of the Space, in a clone.
SPACE = Path(__file__).resolve().parents[2] / "spaces_demo" / "app.py"
PHANTOM = "PHANTOM: drawn by this project, not a patient"


@dataclass(frozen=True)
class DemoCommand:
    """Ground phrases on an image of every modality: files of this package and of others; one is a phantom."""

    out: Out = Path("out/demo")
    model: Model = None
    threshold: Threshold = 0.3
    device: Device = "auto"
    space: Annotated[bool, typer.Option("--space", help="Serve the page of the Space at 127.0.0.1 instead.")] = False
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="For --space.")] = None
    debug: Debug = False

    def run(self) -> int:
        """Ground the images, or serve the page, and return the exit status."""
        if self.space:
            return self._serve_space()
        make_folder(self.out)
        with quiet_libraries(self.debug):
            grounder = load_model(self.model, self.device, debug=self.debug)
            from ..demo.cases import demo_cases
            from ..outputs.files import write_bytes
            from ..outputs.overlay import contact_sheet, overlay_png

            cases = [case for case in demo_cases() if case.modality in grounder.modalities]
            records, overlays = [], []
            for case in progress(cases):
                request = GroundRequest(
                    [], case.prompt, modality=case.modality, threshold=self.threshold, out=self.out, debug=self.debug
                )
                task = ImageTask(request, grounder, case.id, PHANTOM if case.is_phantom else "", case.source)
                records.append(task.run(case.id, case.load))
                overlays += task.overlays
            if overlays:
                sheet = contact_sheet(overlays, columns=min(4, len(overlays)))
                write_bytes(self.out / "demo.png", overlay_png(sheet))
                echo(f"all overlays on one sheet: {self.out / 'demo.png'}")
        return finish(records, self.out)

    def _serve_space(self) -> int:
        """Serve the page of the Space of this clone until it is stopped."""
        if not SPACE.is_file():
            raise UsageError("--space: the Space is not part of the installed package: run this from a clone")
        if importlib.util.find_spec("gradio") is None:
            raise UsageError(f"--space: needs gradio: {install_hint('space')}")
        check_port(self.port)
        settings = {**os.environ, **({"MEDGLIP_MODEL": self.model} if self.model else {})}
        command = [sys.executable, str(SPACE), *(["--port", str(self.port)] if self.port else [])]
        return subprocess.run(command, env=settings).returncode


__all__ = ["DemoCommand"]
