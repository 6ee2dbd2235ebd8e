# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""An image of a volume's boxes: for every label the slices that show it best."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..defaults import CT_WINDOW
from ..errors import MOST_MISSING, listed, one_line
from ..io.image_record import ReadImage
from ..volumes.geometry import Volume, slice_count, slice_spacing
from ..volumes.linking import SliceBox
from ..volumes.source import VolumeSource
from .overlay import (
    PALETTE,
    PANEL,
    AskedBox,
    DrawnBox,
    contact_sheet,
    display_image,
    draw_boxes,
    drawable,
    scaled,
    with_caption,
)


# Labels that are shown; from `FEW` on there are two in a row.
MOST, FEW, CELL = 24, 3, 420
# The longer side of a panel's image, in pixels.
SIDE = 640
# Share of the color circle between further colors, so that neighbors differ most.
HUE_STEP = 0.618


class MontageBox(AskedBox, Protocol):
    """What a montage needs of a box in space, such as [`~modeling_medglip.outputs.volume_results.VolumeBox`]."""

    @property
    def plane(self) -> str:
        """The plane of the slices in `best`."""

    @property
    def best(self) -> Sequence[SliceBox]:
        """The slices with the best scores, and the box in each."""


def draw_montage(
    source: VolumeSource,
    boxes: Sequence[MontageBox],
    labels: Sequence[str],
    modality: str,
    not_found: Sequence[str] = (),
    window: tuple[float, float] = CT_WINDOW,
) -> Image.Image | None:
    """Draw the best box of every label in the slices that show it best.

    Args:
        source ([`VolumeSource`]): what was grounded.
        boxes (`Sequence[MontageBox]`): best score first.
        labels (`Sequence[str]`): of the prompt; their positions decide the colors.
        modality (`str`): one of `MODALITIES`.
        not_found (`Sequence[str]`, *optional*): labels to name below as not found.
        window (`tuple[float, float]`, *optional*, defaults to `(40, 400)`): (center, width) in HU of CT.

    Returns:
        `PIL.Image.Image`: RGB, `None` without a box. It shows pixels, labels, scores and slice numbers, and nothing
        else of the file.
    """
    rows, missing = shown_boxes(boxes)
    colors = distinct_colors(labels)
    slices = _read_slices(source, {(box.plane, shown.index) for box in rows for shown in box.best})
    panels = []
    for box in rows:
        color = colors.get(box.label, PALETTE[0])
        row = [
            _panel(box, seen, slices[box.plane, seen.index], source.lps, modality, color, window) for seen in box.best
        ]
        panels += row + [Image.new("RGB", (8, 8), PANEL)] * (3 - len(row))
    if not panels:
        return None
    sheet = contact_sheet(panels, columns=3 if len(rows) <= FEW else 6, cell=CELL)
    for text, names in (("found, but not shown", missing), ("not found", not_found)):
        if names:
            sheet = with_caption(sheet, f"{text}: {listed([drawable(name) for name in names], 40, MOST_MISSING)}")
    return sheet


def _read_slices(source: VolumeSource, keys: set[tuple[str, int]]) -> dict[tuple[str, int], NDArray]:
    """Return (plane, index) -> pixels of some slices; those of a compressed file are decoded in one pass."""
    slices: dict[tuple[str, int], NDArray] = {}
    for plane in {plane for plane, _ in keys}:
        if source.sequential and source.streams(plane):
            every = (((plane, index), pixels) for index, pixels in source.read_slices(plane))
            slices |= {key: pixels for key, pixels in every if key in keys}
    slices |= {key: source.read_slice(*key) for key in sorted(keys - slices.keys())}
    return {key: np.ascontiguousarray(pixels) for key, pixels in slices.items()}


def shown_boxes(boxes: Sequence[MontageBox]) -> tuple[list[MontageBox], list[str]]:
    """Return the best box of every label that a montage has room for, and the labels that it has none for."""
    best: dict[str, MontageBox] = {}
    for box in boxes:
        best.setdefault(box.label, box)
    return list(best.values())[:MOST], list(best)[MOST:]


def distinct_colors(labels: Sequence[str]) -> dict[str, str]:
    """Return a different color for every label, by its position in the prompt: those of overlays, then other hues."""
    names = list(dict.fromkeys(labels))
    colors = list(PALETTE)
    for number in range(len(names) - len(PALETTE)):
        hue, light = number * HUE_STEP % 1.0, (0.95, 0.72, 0.85)[number % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.5)[number % 2], light)
        colors.append(f"#{round(red * 255):02X}{round(green * 255):02X}{round(blue * 255):02X}")
    return dict(zip(names, colors, strict=False))


def _panel(
    box: MontageBox,
    seen: SliceBox,
    pixels: NDArray,
    lps: Volume,
    modality: str,
    color: str,
    window: tuple[float, float],
) -> Image.Image:
    """Return a slice with its box, in the proportions of the patient; below it label, score and slice number."""
    image = display_image(ReadImage(pixels, "", modality), modality, window)
    across, down = slice_spacing(lps, box.plane)
    width, height = image.width * across, image.height * down
    factor = SIDE / max(width, height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    canvas = image.resize(size, Image.Resampling.BICUBIC)
    xyxy = scaled(seen.box, (size[0] / image.width, size[1] / image.height))
    draw_boxes(canvas, [DrawnBox(xyxy, color, dashed=box.trained is False)], width=3)
    count = slice_count(lps, box.plane)
    text = f"{one_line(drawable(box.label), 40)} {seen.score:.2f}, {box.plane} {seen.index + 1} of {count}"
    return with_caption(canvas, text, color)


__all__ = ["distinct_colors", "draw_montage", "shown_boxes"]
