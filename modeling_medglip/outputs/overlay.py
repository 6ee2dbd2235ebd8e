# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Pictures for people: the image with its boxes, their labels and scores, and a legend. Pillow only."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import one_line
from ..io.image_record import ReadImage
from ..taxonomy import load_taxonomy
from .results import GroundedBox, GroundingResult


# Okabe and Ito's colours, which the colour-blind tell apart, in an order in which the first ones differ most.
PALETTE = ("#F0E442", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#FFFFFF", "#0072B2")
SHORT_LIMIT, LONG_LIMIT = 800, 1600
PANEL = (24, 24, 28)
SOFT_TISSUE = (40.0, 400.0)
LIGATURES = str.maketrans(
    {"ß": "ss", "œ": "oe", "Œ": "OE", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
)
Rectangle = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class _Chip:
    """A label on its coloured ground, and where it may be put, best place first."""

    text: str
    colour: str
    size: tuple[int, int]
    places: list[tuple[float, float]]


def display_picture(image: ReadImage, modality: str, window: tuple[float, float] = SOFT_TISSUE) -> Image.Image:
    """The image as RGB for a screen: CT through a window (centre, width in HU), other grey pictures stretched from
    the 0.5th to the 99.5th percentile, MONOCHROME1 inverted, colour as it is."""
    pixels = image.pixels
    if pixels.ndim == 3:
        return Image.fromarray(np.ascontiguousarray(pixels[..., :3], dtype=np.uint8)).convert("RGB")
    if modality == "ct" and pixels.dtype.kind != "u":
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    elif pixels.dtype == np.uint8:
        low, high = 0.0, 255.0
    else:
        low, high = (float(value) for value in np.percentile(pixels, [0.5, 99.5]))
    grey = ((pixels.astype(np.float32) - low) / max(high - low, 1e-6)).clip(0, 1)
    if image.photometric_interpretation == "MONOCHROME1" and modality != "ct":
        grey = 1 - grey
    return Image.fromarray((grey * 255).round().astype(np.uint8)).convert("RGB")


def label_colours(labels: Sequence[str]) -> dict[str, str]:
    """A fixed colour for every label, by its place in the prompt; after eight labels the colours start again."""
    return {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(dict.fromkeys(labels))}


def draw_overlay(
    picture: Image.Image, result: GroundingResult, labels: Sequence[str] = (), title: str = "", banner: str = ""
) -> Image.Image:
    """The picture with its boxes, under it a legend.

    Args:
        picture: RGB, of the size that the boxes refer to.
        result: the boxes.
        labels: all labels of the prompt, so that those without a box are named too.
        title: a line over the legend, for example modality and file.
        banner: a warning in a coloured bar at the top, for example that the picture is a phantom.

    Returns:
        RGB, at least 800 pixels on its longer side, larger pictures at most 1600.
    """
    names = list(dict.fromkeys([*labels, *(box.label for box in result.boxes)]))
    colours = label_colours(names)
    factor = _scale(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    canvas = Image.new("RGB", (max(size[0], 320), max(size[1], 120)), PANEL)
    offset = ((canvas.width - size[0]) // 2, (canvas.height - size[1]) // 2)
    canvas.paste(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), offset)
    font = ImageFont.load_default(size=_font_size(canvas.size))
    ratio = (size[0] / picture.width, size[1] / picture.height)
    frames = [_frame(box, ratio, offset) for box in result.boxes]
    _draw_boxes(canvas, result.boxes, frames, colours, font)
    parts = [canvas, _legend(canvas.width, result.boxes, colours, title, font)]
    if banner:
        parts.insert(0, _banner(canvas.width, banner, font))
    return _stack(parts)


def overlay_png(picture: Image.Image) -> bytes:
    """A picture as PNG, without any metadata."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 3, cell: int = 480) -> Image.Image:
    """Several overlays on one sheet, each fitted into a square cell of `cell` pixels."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell, max(rows, 1) * cell), PANEL)
    for index, picture in enumerate(pictures):
        small = picture.copy()
        small.thumbnail((cell - 12, cell - 12), Image.Resampling.LANCZOS)
        left = (index % columns) * cell + (cell - small.width) // 2
        sheet.paste(small, (left, (index // columns) * cell + (cell - small.height) // 2))
    return sheet


def _scale(size: tuple[int, int]) -> float:
    longest = max(size)
    if longest < SHORT_LIMIT:
        return SHORT_LIMIT / longest
    return min(1.0, LONG_LIMIT / longest)


def _font_size(size: tuple[int, int]) -> int:
    return int(np.clip(round(min(size) / 40), 13, 40))


def _frame(box: GroundedBox, ratio: tuple[float, float], offset: tuple[int, int]) -> Rectangle:
    """The box in pixels of the canvas."""
    left, top, right, bottom = box.xyxy
    return (
        left * ratio[0] + offset[0],
        top * ratio[1] + offset[1],
        right * ratio[0] + offset[0] - 1,
        bottom * ratio[1] + offset[1] - 1,
    )


def _draw_boxes(
    canvas: Image.Image,
    boxes: Sequence[GroundedBox],
    frames: Sequence[Rectangle],
    colours: dict[str, str],
    font: Font,
) -> None:
    """Frames first, worst score first, then all labels, so that no frame crosses a label."""
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(min(canvas.size) / 260))
    for box, frame in sorted(zip(boxes, frames, strict=True), key=lambda pair: pair[0].score):
        left, top, right, bottom = frame
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        if box.trained is False:
            draw_dashed(pen, (left, top, right, bottom), colours[box.label], line)
            continue
        pen.rectangle([left - 1, top - 1, right + 1, bottom + 1], outline="black", width=line + 2)
        pen.rectangle([left, top, right, bottom], outline=colours[box.label], width=line)
    taken: list[Rectangle] = []
    for box, frame in sorted(zip(boxes, frames, strict=True), key=lambda pair: -pair[0].score):
        chip = _chip(pen, box, frame, colours[box.label], font, canvas.width)
        place = _best_place(chip, taken, frames, canvas.size)
        _draw_chip(pen, chip, place, font)
        taken.append((place[0], place[1], place[0] + chip.size[0], place[1] + chip.size[1]))


def draw_dashed(pen: ImageDraw.ImageDraw, frame: Rectangle, colour: str, width: int) -> None:
    """Draw the dashed frame of a label that the checkpoint was not trained with.

    Args:
        pen (`ImageDraw.ImageDraw`): draws on the image.
        frame (`tuple[float, float, float, float]`): left, top, right and bottom in pixels of the image.
        colour (`str`): of the dashes; the gaps are dark, so that the frame shows on every ground.
        width (`int`): of the line, in pixels; dashes are four times, gaps twice as long.
    """
    left, top, right, bottom = frame
    pen.rectangle(frame, outline="black", width=width)
    inner_x, inner_y = max(left, right - width + 1), max(top, bottom - width + 1)
    for x in np.arange(left, right, 6 * width):
        for y in (top, inner_y):
            pen.rectangle((x, y, min(x + 4 * width, right), y + width - 1), fill=colour)
    for y in np.arange(top, bottom, 6 * width):
        for x in (left, inner_x):
            pen.rectangle((x, y, x + width - 1, min(y + 4 * width, bottom)), fill=colour)


def _chip(
    pen: ImageDraw.ImageDraw,
    box: GroundedBox,
    frame: Rectangle,
    colour: str,
    font: Font,
    limit: int,
) -> _Chip:
    text = _fitted(pen, drawable(box.label), f" {box.score:.2f}", font, limit - 8)
    width, height = _text_size(pen, text, font)
    width, height = width + 8, height + 6
    left, top, right, bottom = frame
    places = [
        (left - 1, top - height - 1), (left - 1, bottom + 2), (left + 3, top + 3), (left + 3, bottom - height - 3),
        (right - width + 1, top - height - 1), (right - width + 1, bottom + 2), (right - width - 3, top + 3),
        (right - width - 3, bottom - height - 3), (right + 3, top), (left - width - 3, top),
        (right + 3, bottom - height), (left - width - 3, bottom - height),
    ]  # fmt: skip
    return _Chip(text, colour, (width, height), places)


def _best_place(
    chip: _Chip, taken: Sequence[Rectangle], frames: Sequence[Rectangle], size: tuple[int, int]
) -> tuple[float, float]:
    """The place that hides no other label and as little as possible of any box; always within the canvas."""
    width, height = chip.size
    best, least = (0.0, 0.0), float("inf")
    for x, y in chip.places:
        inside = (min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height))
        covered = (*inside, inside[0] + width, inside[1] + height)
        moved = abs(inside[0] - x) + abs(inside[1] - y)
        hidden = sum(_overlap(covered, other) for other in frames) / (width * height)
        cost = 1000 * sum(_overlap(covered, other) for other in taken) + hidden + moved / height
        if cost < least:
            best, least = inside, cost
    return best


def _overlap(first: Rectangle, other: Rectangle) -> float:
    width = min(first[2], other[2]) - max(first[0], other[0])
    height = min(first[3], other[3]) - max(first[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _draw_chip(pen: ImageDraw.ImageDraw, chip: _Chip, place: tuple[float, float], font: Font) -> None:
    x, y = place
    pen.rectangle([x, y, x + chip.size[0] - 1, y + chip.size[1] - 1], fill=chip.colour, outline="black")
    pen.text((x + 4, y + 3), chip.text, fill=_ink(chip.colour), font=font, anchor=_anchor(font))


def _ink(colour: str) -> str:
    """Black or white, whichever is easier to read on the colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"


def _anchor(font: Font) -> str | None:
    return "la" if isinstance(font, ImageFont.FreeTypeFont) else None


def _text_size(pen: ImageDraw.ImageDraw, text: str, font: Font) -> tuple[int, int]:
    """(width, height) in pixels; the height is that of the tallest letters, so that all labels are alike."""
    width = pen.textlength(text, font=font)
    height = pen.textbbox((0, 0), "Ag|", font=font)[3]
    return int(np.ceil(width)), int(np.ceil(height))


def _fitted(pen: ImageDraw.ImageDraw, text: str, tail: str, font: Font, limit: int) -> str:
    """`text + tail`, the text shortened with dots until both fit into `limit` pixels."""
    if _text_size(pen, text + tail, font)[0] <= limit:
        return text + tail
    while text and _text_size(pen, f"{text}...{tail}", font)[0] > limit:
        text = text[:-1]
    return f"{text.rstrip()}...{tail}"


def drawable(text: str) -> str:
    """Put a text into ASCII, the only letters of Pillow's own font: accents go, and of what is left labels that the
    taxonomy knows get their English name: `"riñón"` -> `"rinon"`, `"左肾"` -> `"left kidney"`."""
    plain = unicodedata.normalize("NFKD", text.translate(LIGATURES))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    shown = plain if plain.isascii() else load_taxonomy().english(text) or plain
    return one_line("".join(c if c.isascii() else "?" for c in shown), 200)


def _legend(
    width: int,
    boxes: Sequence[GroundedBox],
    colours: dict[str, str],
    title: str,
    font: Font,
) -> Image.Image:
    """Under the picture: the title, and every label of the prompt with its colour and its number of boxes."""
    scratch = ImageDraw.Draw(Image.new("RGB", (8, 8)))
    height = _text_size(scratch, "Ag|", font)[1] + 8
    entries = []
    for label, colour in colours.items():
        scores = [box.score for box in boxes if box.label == label]
        count = f" x{len(scores)}" if len(scores) > 1 else ""
        text = _fitted(scratch, drawable(label), count if scores else ": not found", font, width - height - 24)
        entries.append((text, colour, bool(scores)))
    rows: list[list[tuple[str, str, bool]]] = [[]]
    used = 0
    for entry in entries:
        needed = _text_size(scratch, entry[0], font)[0] + height + 12
        if used + needed > width - 8 and rows[-1]:
            rows.append([])
            used = 0
        rows[-1].append(entry)
        used += needed
    lines = (1 if title else 0) + len([row for row in rows if row])
    panel = Image.new("RGB", (width, lines * height + 8), PANEL)
    _fill_legend(panel, rows, _fitted(scratch, drawable(title), "", font, width - 16) if title else "", height, font)
    return panel


def _fill_legend(
    panel: Image.Image,
    rows: Sequence[Sequence[tuple[str, str, bool]]],
    title: str,
    height: int,
    font: Font,
) -> None:
    pen, y = ImageDraw.Draw(panel), 4
    if title:
        pen.text((8, y + 3), title, fill="white", font=font, anchor=_anchor(font))
        y += height
    for row in rows:
        x = 8
        for text, colour, found in row:
            swatch = [x, y + 4, x + height - 9, y + height - 5]
            pen.rectangle(swatch, fill=colour if found else None, outline=colour)
            pen.text((x + height, y + 3), text, fill="white" if found else "#9A9AA0", font=font, anchor=_anchor(font))
            x += _text_size(pen, text, font)[0] + height + 12
        y += height


def _banner(width: int, text: str, font: Font) -> Image.Image:
    scratch = ImageDraw.Draw(Image.new("RGB", (8, 8)))
    fitted = _fitted(scratch, drawable(text), "", font, width - 16)
    size = _text_size(scratch, fitted, font)
    bar = Image.new("RGB", (width, size[1] + 12), "#D55E00")
    ImageDraw.Draw(bar).text(((width - size[0]) // 2, 6), fitted, fill="white", font=font, anchor=_anchor(font))
    return bar


def _stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width, one under the other."""
    sheet = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), PANEL)
    y = 0
    for part in parts:
        sheet.paste(part, (0, y))
        y += part.height
    return sheet


__all__ = ["PALETTE", "contact_sheet", "display_picture", "draw_overlay", "drawable", "label_colours", "overlay_png"]
