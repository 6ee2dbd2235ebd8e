# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Siemens mosaics: the slices of a volume, tiled in one image, as fMRI and diffusion series are stored."""

from __future__ import annotations

from typing import Any


def is_mosaic(header: Any) -> bool:
    """Tell whether an image is a mosaic. Enhanced files may say so in ImageType and have real frames instead."""
    stated = header.get("ImageType") or ()
    kinds = [stated] if isinstance(stated, str) else stated
    several = int(header.get("NumberOfFrames") or 1) > 1 or "PerFrameFunctionalGroupsSequence" in header
    return not several and "MOSAIC" in [str(kind).strip().upper() for kind in kinds]


def mosaic_notes(header: Any) -> tuple[str, ...]:
    """Return the warning that a mosaic deserves, none for other images."""
    if not is_mosaic(header):
        return ()
    return ("is a Siemens mosaic, many slices tiled in one image, and read as one slice: convert it with dcm2niix",)


__all__ = ["is_mosaic", "mosaic_notes"]
