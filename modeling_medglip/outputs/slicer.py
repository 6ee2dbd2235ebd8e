# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write boxes of a volume for 3D Slicer: regions of interest, and a color table for label maps.

The files hold no patient data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import one_line
from ..volumes.geometry import corners_lps
from ..volumes.source import VolumeSource
from .files import to_json, write_text
from .overlay import label_colors
from .volume_results import VolumeBox, VolumeResult


SLICER_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
# Boxes whose axes are further from orthogonal than this (cosine) are sheared, which Slicer does not support.
MAX_SHEAR = 1e-3


def write_slicer(result: VolumeResult, path: str | Path, source: VolumeSource | None = None) -> Path:
    """Write the boxes as markups of 3D Slicer (`*.mrk.json`), one region of interest each, in LPS mm.

    In sheared volumes (a tilted gantry) a region is the box along the patient's axes around the sheared one.

    Args:
        result ([`VolumeResult`]): the boxes.
        path (`str` or `Path`): the file to write.
        source ([`VolumeSource`], *optional*): what was grounded. Regions follow the file's own header even where other
            axes were stated, so that Slicer shows them over the file.

    Raises:
        `MedGlipError`: the file cannot be written.
    """
    boxes = result.boxes if source is None else [_in_file(box, source) for box in result.boxes]
    markups = [_region(box, number) for number, box in enumerate(boxes, start=1)]
    return write_text(path, to_json({"@schema": SLICER_SCHEMA, "markups": markups}))


def _in_file(box: VolumeBox, source: VolumeSource) -> VolumeBox:
    """Return the box with its corners by the file's own header."""
    corners = corners_lps(source.file_grid, box.box_ijk)
    return replace(box, corners_lps_mm=tuple((float(x), float(y), float(z)) for x, y, z in corners))


def _region(box: VolumeBox, number: int) -> dict[str, Any]:
    center, axes, size = oriented_box(box)
    return {
        "type": "ROI",
        "name": f"{box.label} {box.score:.2f}",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "roiType": "Box",
        "insideOut": False,
        "center": [round(float(value), 4) for value in center],
        # Row by row: the first column is the direction of the region's x axis.
        "orientation": [round(float(value), 9) for value in axes.ravel()],
        "size": [round(float(value), 4) for value in size],
        "controlPoints": [
            {
                "id": str(number),
                "label": box.label,
                "description": f"score {box.score:.4f}",
                "position": [round(float(value), 4) for value in center],
                "selected": True,
                "locked": False,
                "visibility": True,
                "positionStatus": "defined",
            }
        ],
    }


def oriented_box(box: VolumeBox) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return center (3,), right-handed axes (3, 3) in columns, and size (3,) of a box in LPS mm.

    Args:
        box ([`VolumeBox`]): sheared boxes are replaced by the box along the patient's axes around them.
    """
    corners = np.array(box.corners_lps_mm)
    edges = np.stack([corners[1] - corners[0], corners[2] - corners[0], corners[4] - corners[0]], axis=1)
    size = np.linalg.norm(edges, axis=0)
    axes = edges / size
    if np.abs(axes.T @ axes - np.eye(3)).max() > MAX_SHEAR:
        size = corners.max(axis=0) - corners.min(axis=0)
        return (corners.max(axis=0) + corners.min(axis=0)) / 2, np.eye(3), size
    if np.linalg.det(axes) < 0:  # a box with one of its axes flipped is the same box
        axes[:, 2] *= -1
    return corners.mean(axis=0), axes, size


def write_color_table(labels: Sequence[str], path: str | Path) -> Path:
    """Write a color table of 3D Slicer (`*.ctbl`) for a label map: value, name, red, green, blue, opacity.

    Names are one word each, since the format splits lines at spaces.

    Args:
        labels (`Sequence[str]`): in the order of their values, from 1 on.
        path (`str` or `Path`): the file to write.

    Raises:
        `MedGlipError`: the file cannot be written.
    """
    lines = ["# values of the label map", "0 background 0 0 0 0"]
    for value, (label, color) in enumerate(label_colors(labels).items(), start=1):
        red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
        lines.append(f"{value} {'_'.join(one_line(label, 120).split()).lstrip('#') or '_'} {red} {green} {blue} 255")
    return write_text(path, "\n".join(lines) + "\n")


__all__ = ["oriented_box", "write_color_table", "write_slicer"]
