# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Images for people: an image with its boxes, their labels and scores, and a legend. Pillow only.

[`draw_boxes`] is the one function that draws boxes; overlays, montages and contact sheets call it.
"""

from __future__ import annotations

import io
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..boxes import intersection
from ..defaults import CT_WINDOW
from ..errors import MOST_MISSING, one_line
from ..io.image_record import ReadImage
from ..taxonomy import load_taxonomy


# Okabe and Ito's colors, which the color-blind tell apart, in an order in which the first ones differ most.
PALETTE = ("#F0E442", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#FFFFFF", "#0072B2")
# The longer side of an overlay, in pixels: smaller images are enlarged, larger ones reduced.
MIN_SIDE, MAX_SIDE = 800, 1600
PANEL = (24, 24, 28)
# Height of a line of text below an image, in pixels.
CAPTION_HEIGHT = 30
LIGATURES = str.maketrans(
    {"ß": "ss", "œ": "oe", "Œ": "OE", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
)
Rectangle = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class AskedBox(Protocol):
    """What every drawing needs of a box."""

    @property
    def label(self) -> str:
        """What the box was asked as."""

    @property
    def trained(self) -> bool | None:
        """Whether the checkpoint was trained with the label."""


class LabeledBox(AskedBox, Protocol):
    """What an overlay needs of a box, such as [`~modeling_medglip.outputs.results.GroundedBox`]."""

    @property
    def score(self) -> float:
        """0 to 1."""

    @property
    def xyxy(self) -> Rectangle:
        """(left, top, right, bottom) in pixels of the image."""


@dataclass(frozen=True)
class DrawnBox:
    """A box as [`draw_boxes`] draws it.

    Args:
        xyxy (`tuple[float, float, float, float]`): (left, top, right, bottom) in pixels of the image; width is
            right - left.
        color (`str`): such as `"#F0E442"`.
        text (`str`, *optional*): the label at the box, shortened to fit the image; none where empty.
        suffix (`str`, *optional*): the end of the label, which is never cut, such as `" 0.91"`.
        dashed (`bool`, *optional*, defaults to `False`): for labels that the checkpoint was not trained with.
    """

    xyxy: Rectangle
    color: str
    text: str = ""
    suffix: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class _Tag:
    """A label on a colored ground, and the positions where it may be put, best first."""

    text: str
    color: str
    size: tuple[int, int]
    positions: list[tuple[float, float]]


def display_image(image: ReadImage, modality: str, window: tuple[float, float] = CT_WINDOW) -> Image.Image:
    """Return an image in RGB for a screen.

    CT is shown through a window, other gray images are stretched from the 0.5th to the 99.5th percentile, MONOCHROME1
    is inverted, colors stay as they are.

    Args:
        image ([`ReadImage`]): pixels in their own numbers.
        modality (`str`): one of `MODALITIES`.
        window (`tuple[float, float]`, *optional*, defaults to `(40, 400)`): (center, width) in HU of CT.
    """
    pixels = image.pixels
    if pixels.ndim == 3:
        return Image.fromarray(np.ascontiguousarray(pixels[..., :3], dtype=np.uint8)).convert("RGB")
    if modality == "ct" and pixels.dtype.kind != "u":
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    elif pixels.dtype == np.uint8:
        low, high = 0.0, 255.0
    else:
        low, high = (float(value) for value in np.percentile(pixels, [0.5, 99.5]))
    gray = ((pixels.astype(np.float32) - low) / max(high - low, 1e-6)).clip(0, 1)
    if image.photometric_interpretation == "MONOCHROME1" and modality != "ct":
        gray = 1 - gray
    return Image.fromarray((gray * 255).round().astype(np.uint8)).convert("RGB")


def label_colors(labels: Sequence[str]) -> dict[str, str]:
    """Return a color for every label, by its position in the prompt; after eight labels the colors start again."""
    return {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(dict.fromkeys(labels))}


def draw_overlay(
    image: Image.Image, boxes: Sequence[LabeledBox], labels: Sequence[str] = (), title: str = "", banner: str = ""
) -> Image.Image:
    """Draw boxes on an image, and a legend below it.

    Args:
        image (`PIL.Image.Image`): RGB, of the size that the boxes refer to.
        boxes (`Sequence[LabeledBox]`): best score first.
        labels (`Sequence[str]`, *optional*): all labels of the prompt; the legend names those without a box too.
        title (`str`, *optional*): a line above the legend, such as modality and file.
        banner (`str`, *optional*): a warning in a colored bar at the top.

    Returns:
        `PIL.Image.Image`: RGB; its longer side has 800 pixels at least, 1600 at most.
    """
    colors = label_colors([*labels, *(box.label for box in boxes)])
    factor = _scale(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    canvas = Image.new("RGB", (max(size[0], 320), max(size[1], 120)), PANEL)
    offset = ((canvas.width - size[0]) // 2, (canvas.height - size[1]) // 2)
    canvas.paste(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), offset)
    font = ImageFont.load_default(size=_font_size(canvas.size))
    ratio = (size[0] / image.width, size[1] / image.height)
    drawn = [
        DrawnBox(
            scaled(box.xyxy, ratio, offset), colors[box.label], box.label, f" {box.score:.2f}", box.trained is False
        )
        for box in boxes
    ]
    draw_boxes(canvas, drawn, font)
    parts = [canvas, _legend(canvas.width, boxes, colors, title, font)]
    if banner:
        parts.insert(0, _banner(canvas.width, banner, font))
    return _stack(parts)


def scaled(xyxy: Rectangle, ratio: tuple[float, float], offset: tuple[int, int] = (0, 0)) -> Rectangle:
    """Map a box to an image that was resized and pasted.

    Args:
        xyxy (`tuple[float, float, float, float]`): (left, top, right, bottom) in pixels before.
        ratio (`tuple[float, float]`): (x, y) size after by size before.
        offset (`tuple[int, int]`, *optional*, defaults to `(0, 0)`): (x, y) of the pasted image's top left corner.
    """
    left, top, right, bottom = xyxy
    return (
        left * ratio[0] + offset[0],
        top * ratio[1] + offset[1],
        right * ratio[0] + offset[0],
        bottom * ratio[1] + offset[1],
    )


def draw_boxes(
    image: Image.Image, boxes: Sequence[DrawnBox], font: Font | None = None, width: int | None = None
) -> None:
    """Draw boxes and their labels on an image, in place.

    All frames come first, the last box at the bottom, then all labels, so that no frame crosses a label.

    Args:
        image (`PIL.Image.Image`): RGB.
        boxes (`Sequence[DrawnBox]`): the most important first.
        font (`ImageFont`, *optional*): of the labels; by the size of the image when left out.
        width (`int`, *optional*): of the frames in pixels; by the size of the image when left out.
    """
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=_font_size(image.size)) if font is None else font
    line = max(2, round(min(image.size) / 260)) if width is None else width
    frames = [(box.xyxy[0], box.xyxy[1], box.xyxy[2] - 1, box.xyxy[3] - 1) for box in boxes]
    for box, (left, top, right, bottom) in reversed(list(zip(boxes, frames, strict=True))):
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        if box.dashed:
            _draw_dashed(pen, (left, top, right, bottom), box.color, line)
            continue
        pen.rectangle([left - 1, top - 1, right + 1, bottom + 1], outline="black", width=line + 2)
        pen.rectangle([left, top, right, bottom], outline=box.color, width=line)
    taken: list[Rectangle] = []
    for box, frame in zip(boxes, frames, strict=True):
        if box.text:
            tag = _tag(pen, box, frame, font, image.width)
            x, y = _best_position(tag, taken, frames, image.size)
            _draw_tag(pen, tag, (x, y), font)
            taken.append((x, y, x + tag.size[0], y + tag.size[1]))


def overlay_png(image: Image.Image) -> bytes:
    """Encode an image as PNG, without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def contact_sheet(images: Sequence[Image.Image], columns: int = 3, cell: int = 480) -> Image.Image:
    """Put images on one sheet, each fitted into a square cell.

    Args:
        images (`Sequence[PIL.Image.Image]`): row by row.
        columns (`int`, *optional*, defaults to 3): cells in a row.
        cell (`int`, *optional*, defaults to 480): side of a cell in pixels.
    """
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell, max(rows, 1) * cell), PANEL)
    for index, image in enumerate(images):
        small = image.copy()
        small.thumbnail((cell - 12, cell - 12), Image.Resampling.LANCZOS)
        left = (index % columns) * cell + (cell - small.width) // 2
        sheet.paste(small, (left, (index // columns) * cell + (cell - small.height) // 2))
    return sheet


def with_caption(image: Image.Image, text: str, color: str = "#FFFFFF", height: int = CAPTION_HEIGHT) -> Image.Image:
    """Return an image with a line of text below it, made smaller and shortened until it fits.

    Args:
        image (`PIL.Image.Image`): RGB.
        text (`str`): The line, in ASCII; see [`drawable`].
        color (`str`, *optional*, defaults to `"#FFFFFF"`): Of the text.
        height (`int`, *optional*, defaults to 30): Of the line in pixels.
    """
    canvas = Image.new("RGB", (max(image.width, 320), image.height + height), PANEL)
    canvas.paste(image, ((canvas.width - image.width) // 2, 0))
    size = round(height * 2 / 3)
    while size > 8 and ImageFont.load_default(size=size).getlength(text) > canvas.width - 8:
        size -= 1
    font, rest, shown = ImageFont.load_default(size=size), text, text
    while rest and font.getlength(shown) > canvas.width - 8:
        rest = rest[: int(len(rest) * 0.9)]
        shown = rest.rstrip() + "..."
    ImageDraw.Draw(canvas).text((4, image.height + height // 10), shown, fill=color, font=font)
    return canvas


def _scale(size: tuple[int, int]) -> float:
    longest = max(size)
    if longest < MIN_SIDE:
        return MIN_SIDE / longest
    return min(1.0, MAX_SIDE / longest)


def _font_size(size: tuple[int, int]) -> int:
    return int(np.clip(round(min(size) / 40), 13, 40))


def _draw_dashed(pen: ImageDraw.ImageDraw, frame: Rectangle, color: str, width: int) -> None:
    """Draw a dashed frame with dark gaps, so that it shows on every ground.

    Args:
        pen (`ImageDraw`): of the image.
        frame (`tuple[float, float, float, float]`): left, top, right and bottom in pixels of the image.
        color (`str`): of the dashes.
        width (`int`): of the line, in pixels; dashes are four times, gaps twice as long.
    """
    left, top, right, bottom = frame
    pen.rectangle(frame, outline="black", width=width)
    inner_x, inner_y = max(left, right - width + 1), max(top, bottom - width + 1)
    for x in np.arange(left, right, 6 * width):
        for y in (top, inner_y):
            pen.rectangle((x, y, min(x + 4 * width, right), y + width - 1), fill=color)
    for y in np.arange(top, bottom, 6 * width):
        for x in (left, inner_x):
            pen.rectangle((x, y, x + width - 1, min(y + 4 * width, bottom)), fill=color)


def _tag(pen: ImageDraw.ImageDraw, box: DrawnBox, frame: Rectangle, font: Font, limit: int) -> _Tag:
    text = _fitted(pen, drawable(box.text), box.suffix, font, limit - 8)
    width, height = _text_size(pen, text, font)
    width, height = width + 8, height + 6
    left, top, right, bottom = frame
    positions = [
        (left - 1, top - height - 1), (left - 1, bottom + 2), (left + 3, top + 3), (left + 3, bottom - height - 3),
        (right - width + 1, top - height - 1), (right - width + 1, bottom + 2), (right - width - 3, top + 3),
        (right - width - 3, bottom - height - 3), (right + 3, top), (left - width - 3, top),
        (right + 3, bottom - height), (left - width - 3, bottom - height),
    ]  # fmt: skip
    return _Tag(text, box.color, (width, height), positions)


def _best_position(
    tag: _Tag, taken: Sequence[Rectangle], frames: Sequence[Rectangle], size: tuple[int, int]
) -> tuple[float, float]:
    """Return the position that hides no other label and as little as possible of any box, within the image."""
    width, height = tag.size
    best, least = (0.0, 0.0), float("inf")
    for x, y in tag.positions:
        inside = (min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height))
        covered = (*inside, inside[0] + width, inside[1] + height)
        moved = abs(inside[0] - x) + abs(inside[1] - y)
        hidden = sum(intersection(covered, other) for other in frames) / (width * height)
        cost = 1000 * sum(intersection(covered, other) for other in taken) + hidden + moved / height
        if cost < least:
            best, least = inside, cost
    return best


def _draw_tag(pen: ImageDraw.ImageDraw, tag: _Tag, position: tuple[float, float], font: Font) -> None:
    x, y = position
    pen.rectangle([x, y, x + tag.size[0] - 1, y + tag.size[1] - 1], fill=tag.color, outline="black")
    pen.text((x + 4, y + 3), tag.text, fill=_ink(tag.color), font=font, anchor=_anchor(font))


def _ink(color: str) -> str:
    """Return black or white, whichever is easier to read on a color."""
    red, green, blue = ImageColor.getrgb(color)[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"


def _anchor(font: Font) -> str | None:
    return "la" if isinstance(font, ImageFont.FreeTypeFont) else None


def _text_size(pen: ImageDraw.ImageDraw, text: str, font: Font) -> tuple[int, int]:
    """Return (width, height) in pixels; the height is that of the tallest letters, the same for all labels."""
    width = pen.textlength(text, font=font)
    height = pen.textbbox((0, 0), "Ag|", font=font)[3]
    return int(np.ceil(width)), int(np.ceil(height))


def _fitted(pen: ImageDraw.ImageDraw, text: str, suffix: str, font: Font, limit: int) -> str:
    """Return `text + suffix`, the text shortened with dots until both fit into `limit` pixels."""
    if _text_size(pen, text + suffix, font)[0] <= limit:
        return text + suffix
    while text and _text_size(pen, f"{text}...{suffix}", font)[0] > limit:
        text = text[:-1]
    return f"{text.rstrip()}...{suffix}"


def drawable(text: str) -> str:
    """Return a text in ASCII, the only letters of Pillow's default font.

    Accents go; labels in other scripts get their English name where the taxonomy knows them: `"riñón"` -> `"rinon"`,
    `"左肾"` -> `"left kidney"`.
    """
    plain = unicodedata.normalize("NFKD", text.translate(LIGATURES))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    shown = plain if plain.isascii() else load_taxonomy().english(text) or plain
    return one_line("".join(c if c.isascii() else "?" for c in shown), 200)


def _legend(
    width: int,
    boxes: Sequence[LabeledBox],
    colors: dict[str, str],
    title: str,
    font: Font,
) -> Image.Image:
    """Return the panel below an image: the title, and every label with its color and its number of boxes."""
    scratch = ImageDraw.Draw(Image.new("RGB", (8, 8)))
    height = _text_size(scratch, "Ag|", font)[1] + 8
    entries = []
    counts = Counter(box.label for box in boxes)
    missing = [label for label in colors if label not in counts]
    hidden = set(missing[MOST_MISSING:])
    for label, color in colors.items():
        if label not in hidden:
            count = f" x{counts[label]}" if counts[label] > 1 else ""
            note = count if label in counts else ": not found"
            text = _fitted(scratch, drawable(label), note, font, width - height - 24)
            entries.append((text, color, label in counts))
    if hidden:
        entries.append((f"{len(hidden)} more: not found", PALETTE[0], False))
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
        for text, color, has_boxes in row:
            swatch = [x, y + 4, x + height - 9, y + height - 5]
            pen.rectangle(swatch, fill=color if has_boxes else None, outline=color)
            pen.text(
                (x + height, y + 3), text, fill="white" if has_boxes else "#9A9AA0", font=font, anchor=_anchor(font)
            )
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
    """Stack images of one width."""
    sheet = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), PANEL)
    y = 0
    for part in parts:
        sheet.paste(part, (0, y))
        y += part.height
    return sheet


__all__ = [
    "PALETTE",
    "PANEL",
    "AskedBox",
    "DrawnBox",
    "contact_sheet",
    "display_image",
    "draw_boxes",
    "draw_overlay",
    "drawable",
    "label_colors",
    "overlay_png",
    "scaled",
    "with_caption",
]
