# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""One call for one image: read it, load a checkpoint, find what a prompt names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import grounding
from .errors import MedGlipError, UsageError, one_line
from .grounding import Grounder
from .image_processing_medglip import channels_first, upright_picture
from .io.image import read_image
from .io.image_record import ReadImage
from .outputs.results import GroundingResult


def ground_image(
    image: str | Path | ReadImage | Any,
    prompt: str,
    modality: str = "auto",
    model: str | Path | Grounder | None = None,
    device: str = "auto",
    frame: int | None = None,
    **options: Any,
) -> GroundingResult:
    """Find the regions of one image that the labels of a prompt name.

    Args:
        image (`str`, `Path`, `PIL.Image.Image`, `np.ndarray` or [`ReadImage`]): a file (PNG, JPEG, TIFF, DICOM ...),
            a PIL image, turned upright by its EXIF tag; or pixels: (height, width), or (height, width, 3) in RGB.
        prompt (`str`): labels, separated by dots, commas or lines.
        modality (`str`, *optional*): a name, an alias, or `"auto"`: the header's, else what the pixels look like.
        model (*optional*): checkpoint or adapter, folder or id, or what `load_grounder` gave, which saves loading it
            again for every image; the embedded checkpoint when `None`.
        device (`str`, *optional*): see [`~modeling_medglip.grounding.load`].
        frame (`int`, *optional*): of a file that holds several, counted from 1.
        options: `threshold` and others of [`~modeling_medglip.grounding.ground_image`].

    Returns:
        a [`GroundingResult`]: boxes in pixels of the image, best first.

    Raises:
        `MedGlipError`: the image cannot be read or used; names the file. `UsageError`: an unknown modality, no label.
    """
    read = image if isinstance(image, ReadImage) else _read(image, frame)
    grounder = model if isinstance(model, Grounder) else grounding.load(model, device, modality)
    return grounding.ground_image(grounder, read, prompt, modality, **options)


def _read(image: Any, frame: int | None) -> ReadImage:
    """A file, or pixels that the caller has already."""
    if isinstance(image, (str, Path)):
        return read_image(image, frame)
    if isinstance(image, Image.Image):
        return ReadImage(_pixels(image), "image")
    if isinstance(image, np.ndarray):
        return ReadImage(image, "image")
    raise UsageError(f"image: give a file, a PIL image or a NumPy array, not a {type(image).__name__}")


def _pixels(image: Image.Image) -> np.ndarray:
    """An upright PIL image in its own numbers: (height, width), or (height, width, 3)."""
    try:
        planes = channels_first(upright_picture(image))
    except ValueError as error:
        raise MedGlipError(f"image: {one_line(error)}") from None
    return planes[0] if len(planes) == 1 else np.moveaxis(planes, 0, -1)


__all__ = ["ground_image"]
