# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A picture of a volume's boxes: for every box found the slices that show it best."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import listed, one_line
from ..io.image_record import ReadImage
from ..volumes.geometry import Volume, slice_count, slice_spacing
from ..volumes.linking import SliceBox
from ..volumes.source import VolumeSource
from .overlay import PALETTE, PANEL, contact_sheet, display_picture, draw_dashed, drawable
from .volume_results import VolumeBox, VolumeResult


# Labels that are shown; two side by side when there are many.
MOST, FEW, CELL = 24, 3, 420
# Height of a line of text, and the longer side of a panel's picture.
LINE, SIDE = 30, 640
# Further colours turn by this share of the circle, so that neighbours differ most.
TURN = 0.618


def draw_montage(
    source: VolumeSource, result: VolumeResult, labels: Sequence[str], window: tuple[float, float] | None = None
) -> Image.Image | None:
    """Rows of pictures, one for the best box of every label, with its three best slices; `None` without any box.

    Args:
        source: what was grounded. labels: of the prompt, whose places decide the colours.
        window: (centre, width) in HU of CT pictures.

    Returns:
        RGB; nothing of the file but pixels, labels, scores and slice numbers is in it. Labels for which there is no
        room are named below it.
    """
    rows, missing = shown_boxes(result)
    colours = distinct_colours(labels)
    wanted = {(box.plane, shown.index) for box in rows for shown in box.best}
    pictures = {place: np.ascontiguousarray(source.read_slice(*place)) for place in sorted(wanted)}
    panels = []
    for box in rows:
        colour = colours.get(box.label, PALETTE[0])
        row = [
            _panel(box, seen, pictures[box.plane, seen.index], source.lps, result, colour, window) for seen in box.best
        ]
        panels += row + [Image.new("RGB", (8, 8), PANEL)] * (3 - len(row))
    if not panels:
        return None
    sheet = contact_sheet(panels, columns=3 if len(rows) <= FEW else 6, cell=CELL)
    for told, names in (("found, but not shown", missing), ("not found", result.not_found)):
        if names:
            sheet = _with_line(sheet, f"{told}: {listed([drawable(name) for name in names], 40)}")
    return sheet


def shown_boxes(result: VolumeResult) -> tuple[list[VolumeBox], list[str]]:
    """The best box of every label that a montage has room for, and the labels that it has none for."""
    best: dict[str, VolumeBox] = {}
    for box in result.boxes:
        best.setdefault(box.label, box)
    return list(best.values())[:MOST], list(best)[MOST:]


def distinct_colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour of its own for every label, by its place in the prompt: those of overlays, then other hues."""
    names = list(dict.fromkeys(labels))
    colours = list(PALETTE)
    for number in range(len(names) - len(PALETTE)):
        hue, light = number * TURN % 1.0, (0.95, 0.72, 0.85)[number % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.5)[number % 2], light)
        colours.append(f"#{round(red * 255):02X}{round(green * 255):02X}{round(blue * 255):02X}")
    return dict(zip(names, colours, strict=False))


def _panel(
    box: VolumeBox,
    seen: SliceBox,
    pixels: NDArray,
    lps: Volume,
    result: VolumeResult,
    colour: str,
    window: tuple[float, float] | None,
) -> Image.Image:
    """A picture with its box, as long as it is in the patient, under it label, score and place."""
    shown = [window] if window else []
    picture = display_picture(ReadImage(pixels, "", result.image.modality), result.image.modality, *shown)
    across, down = slice_spacing(lps, box.plane)
    width, height = picture.width * across, picture.height * down
    factor = SIDE / max(width, height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    canvas = picture.resize(size, Image.Resampling.BICUBIC)
    x, y = size[0] / picture.width, size[1] / picture.height
    x1, y1, x2, y2 = seen.box
    frame, pen = (x1 * x, y1 * y, x2 * x - 1, y2 * y - 1), ImageDraw.Draw(canvas)
    if box.trained is False:
        draw_dashed(pen, frame, colour, 3)
    else:
        pen.rectangle(frame, outline=colour, width=3)
    count = slice_count(lps, box.plane)
    text = f"{one_line(drawable(box.label), 40)} {seen.score:.2f}, {box.plane} {seen.index + 1} of {count}"
    return _with_line(canvas, text, colour)


def _with_line(picture: Image.Image, text: str, colour: str = "#FFFFFF") -> Image.Image:
    """The picture with a line of text below it, made smaller until it fits."""
    canvas = Image.new("RGB", (max(picture.width, 320), picture.height + LINE), PANEL)
    canvas.paste(picture, ((canvas.width - picture.width) // 2, 0))
    size = 20
    while size > 8 and ImageFont.load_default(size=size).getlength(text) > canvas.width - 8:
        size -= 1
    font, kept, shown = ImageFont.load_default(size=size), text, text
    while kept and font.getlength(shown) > canvas.width - 8:
        kept = kept[: int(len(kept) * 0.9)]
        shown = kept.rstrip() + "..."
    ImageDraw.Draw(canvas).text((4, picture.height + 3), shown, fill=colour, font=font)
    return canvas


__all__ = ["distinct_colours", "draw_montage", "shown_boxes"]
