# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Phantoms: images drawn by this project, stored in `images/`. None shows a patient."""

from __future__ import annotations

from pathlib import Path

from ..io.image import read_image
from ..io.image_record import ReadImage


def chest_radiograph() -> ReadImage:
    """Read the drawn frontal chest radiograph, (512, 512) uint8."""
    return read_image(Path(__file__).parent / "images" / "chest_phantom.png")


__all__ = ["chest_radiograph"]
