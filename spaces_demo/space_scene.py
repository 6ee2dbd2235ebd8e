# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Show boxes of a volume in space: three slices and the boxes, as data that the page's script draws.

The script needs no library and no graphics driver: seen without perspective, a slice is a sheared image.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.outputs.overlay import display_image
from modeling_medglip.outputs.volume_results import VolumeBox
from modeling_medglip.volumes.geometry import Volume, to_lps
from modeling_medglip.volumes.source import VolumeSource
from space_html import long_text, text
from space_rows import Row
from space_sources import extent_lps


LONGEST, DARK = 256, 12
# By the LPS axis that they cut.
PLANES = ("sagittal", "coronal", "axial")


def middle_slices(source: VolumeSource, modality: str, window: tuple[float, float]) -> dict[str, str]:
    """Return plane -> its middle slice as a URI; dark pixels are transparent.

    Args:
        source ([`VolumeSource`]): the volume.
        modality (`str`): decides how gray levels are shown.
        window (`tuple[float, float]`): center and width in HU, for CT.
    """
    uris = {}
    for plane, middle in zip(PLANES, middle_indices(to_lps(source.grid)), strict=True):
        image = ReadImage(np.ascontiguousarray(source.read_slice(plane, middle)), "", modality)
        uris[plane] = _uri(display_image(image, modality, window))
    return uris


def middle_indices(lps: Volume) -> list[int]:
    """Return the index of the middle slice along each axis."""
    return [int(length) // 2 for length in lps.array.shape]


def scene(grid: Volume, slices: dict[str, str], rows: Sequence[Row], threshold: float) -> str:
    """Return the view as HTML.

    Args:
        grid ([`Volume`]): of the volume.
        slices (`dict[str, str]`): see [`middle_slices`].
        rows (`Sequence[Row]`): boxes of the volume.
        threshold (`float`): boxes with lower scores are hidden.
    """
    content = json.dumps(scene_data(grid, slices, rows, threshold))
    views = "".join(f'<button type="button" data-view="{name}">{name}</button>' for name in ("front", "left", "top"))
    label = f"{len(rows)} boxes in space; drag, or use the arrow keys, to turn"
    return (
        f'<figure class="mg-figure mg-space"><figcaption>In space: drag to turn <span>{views}</span></figcaption>'
        f'<canvas tabindex="0" role="img" aria-label="{text(label)}" data-scene="{long_text(content)}"></canvas>'
        "</figure>"
    )


def scene_data(grid: Volume, slices: dict[str, str], rows: Sequence[Row], threshold: float) -> dict[str, Any]:
    """Return what the script draws.

    Edges are voxels of the canonical grid (to the left, the back, the head), counted from the middle slices; `axes`
    are the steps of its voxels in LPS mm.

    Args:
        grid ([`Volume`]): of the volume.
        slices (`dict[str, str]`): see [`middle_slices`].
        rows (`Sequence[Row]`): boxes of the volume.
        threshold (`float`): boxes with lower scores are hidden.
    """
    lps = to_lps(grid)
    center = np.array(middle_indices(lps)) + 0.5
    ends = np.array(lps.array.shape)
    boxes = []
    for row in rows:
        if isinstance(row.box, VolumeBox):
            low, high = extent_lps(row.box, grid)
            entry = {"number": row.number, "label": row.box.label[:60], "score": round(row.box.score, 6)}
            entry |= {"color": row.color, "untrained": row.box.trained is False}
            boxes.append({**entry, "low": _rounded(low - center), "high": _rounded(high - center)})
    return {
        "axes": [_rounded(lps.affine[:3, axis]) for axis in range(3)],
        "low": _rounded(-center),
        "high": _rounded(ends - center),
        "slices": [slices.get(plane, "") for plane in PLANES],
        "boxes": boxes,
        "threshold": threshold,
    }


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 3) for value in values]


def _uri(image: Image.Image) -> str:
    image.thumbnail((LONGEST, LONGEST))
    image.putalpha(image.convert("L").point([255 if value > DARK else 0 for value in range(256)]))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
