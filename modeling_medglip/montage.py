# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A picture of a volume's boxes: for every box found the slices that show it best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .geometry import Volume, to_lps
from .overlay import contact_sheet, display_picture, draw_overlay
from .reading import ReadImage
from .results import GroundedBox, GroundingResult, ImageInfo
from .volume_results import VolumeBox, VolumeResult
from .volume_source import CUT_AXIS, VolumeSource


# Labels that are shown; two side by side when there are many.
MOST, FEW, CELL = 24, 3, 420


def draw_montage(
    source: VolumeSource, result: VolumeResult, labels: Sequence[str], window: tuple[float, float] | None = None
) -> Image.Image | None:
    """Rows of pictures, one for the best box of every label, with its three best slices; `None` without any box.

    Args:
        source: what was grounded. labels: of the prompt, whose places decide the colours.
        window: (centre, width) in HU of CT pictures.

    Returns:
        RGB; nothing of the file but pixels, labels, scores and slice numbers is in it.
    """
    best: dict[str, VolumeBox] = {}
    for box in result.boxes:
        best.setdefault(box.label, box)
    rows = list(best.values())[:MOST]
    wanted = {(box.plane, shown.index) for box in rows for shown in box.best}
    pictures = _pictures(source, wanted)
    panels = []
    for box in rows:
        row = [_panel(box, place, pictures, source.grid, result, labels, window) for place in range(len(box.best))]
        panels += row + [Image.new("RGB", (8, 8))] * (3 - len(row))
    return contact_sheet(panels, columns=3 if len(rows) <= FEW else 6, cell=CELL) if panels else None


def _pictures(source: VolumeSource, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], NDArray]:
    """The pictures that are shown; each plane is read once, from the first to the last that is needed."""
    found: dict[tuple[str, int], NDArray] = {}
    for plane in sorted({plane for plane, _ in wanted}):
        for index, picture in source.pictures(plane):
            if (plane, index) in wanted:
                found[plane, index] = np.ascontiguousarray(picture)
            if len([key for key in found if key[0] == plane]) == len([key for key in wanted if key[0] == plane]):
                break
    return found


def _panel(
    box: VolumeBox,
    place: int,
    pictures: dict[tuple[str, int], NDArray],
    grid: Volume,
    result: VolumeResult,
    labels: Sequence[str],
    window: tuple[float, float] | None,
) -> Image.Image:
    shown = box.best[place]
    image = ReadImage(pictures[box.plane, shown.index], "", result.image.modality)
    picture = display_picture(image, result.image.modality, *([window] if window else []))
    x1, y1, x2, y2 = shown.box
    lps = to_lps(grid)
    across = CUT_AXIS[box.plane]
    columns, rows = (axis for axis in range(3) if axis != across)
    # Voxels need not be square; what is looked at should be as long as it is.
    ratio = float(lps.spacing[rows] / lps.spacing[columns])
    size = (picture.width, max(1, round(picture.height * ratio)))
    found = GroundedBox(box.label, shown.score, (x1, y1 * ratio, x2 - x1, (y2 - y1) * ratio))
    info = ImageInfo("", *size, result.image.modality)
    title = f"{box.label}, {box.plane} {shown.index + 1} of {lps.array.shape[across]}"
    drawn = GroundingResult(result.model, info, result.prompt, (found,))
    # All labels, so that each keeps its colour; only the one that is shown is in the legend.
    return draw_overlay(picture.resize(size, Image.Resampling.BICUBIC), drawn, [box.label], title)


__all__ = ["draw_montage"]
