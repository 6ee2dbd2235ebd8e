# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes of a volume for other programs: regions of interest for 3D Slicer, and a NIfTI label map.

Neither holds anything of the patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import MedGlipError
from .results import to_json, write_bytes, write_text
from .volume_results import VolumeBox, VolumeResult
from .volume_source import VolumeSource


SLICER_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
# Axes that are further from square than this (cosine) are no box for Slicer, which knows no shear.
SHEAR = 1e-3


def write_slicer(result: VolumeResult, path: str | Path) -> Path:
    """Write the boxes as markups of 3D Slicer (`*.mrk.json`), one region of interest each, in LPS mm.

    Of sheared volumes (a tilted gantry) a region is the box along the patient's axes round the sheared one.

    Raises:
        `MedGlipError`: the place cannot be written to.
    """
    markups = [_region(box, number) for number, box in enumerate(result.boxes, start=1)]
    return write_text(path, to_json({"@schema": SLICER_SCHEMA, "markups": markups}))


def _region(box: VolumeBox, number: int) -> dict[str, Any]:
    centre, axes, size = oriented_box(box)
    return {
        "type": "ROI",
        "name": f"{box.label} {box.score:.2f}",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "roiType": "Box",
        "insideOut": False,
        "center": [round(float(value), 4) for value in centre],
        # Row by row: the first column is the direction of the region's x axis.
        "orientation": [round(float(value), 9) for value in axes.ravel()],
        "size": [round(float(value), 4) for value in size],
        "controlPoints": [
            {
                "id": str(number),
                "label": box.label,
                "description": f"score {box.score:.4f}",
                "position": [round(float(value), 4) for value in centre],
                "selected": True,
                "locked": False,
                "visibility": True,
                "positionStatus": "defined",
            }
        ],
    }


def oriented_box(box: VolumeBox) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centre (3,), right-handed axes (3, 3) in columns, and size (3,) in mm of a box in space."""
    corners = np.array(box.corners_lps_mm)
    edges = np.stack([corners[1] - corners[0], corners[2] - corners[0], corners[4] - corners[0]], axis=1)
    size = np.linalg.norm(edges, axis=0)
    axes = edges / size
    if np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR:
        size = corners.max(axis=0) - corners.min(axis=0)
        return (corners.max(axis=0) + corners.min(axis=0)) / 2, np.eye(3), size
    if np.linalg.det(axes) < 0:  # a box is the same box with one of its axes turned round
        axes[:, 2] *= -1
    return corners.mean(axis=0), axes, size


def write_label_map(result: VolumeResult, source: VolumeSource, labels: Sequence[str], path: str | Path) -> Path:
    """Write the boxes as a NIfTI label map on the volume's own grid: 1 for the first label of the prompt, and so on.

    Where boxes overlap the better one is seen. Voxels belong to a box if their centres lie in it.

    Args:
        source: what was grounded. Where that was NIfTI, the header's geometry is that file's, to the last bit.

    Raises:
        `MedGlipError`: more labels than fit, no nibabel, or a place that cannot be written to.
    """
    try:
        import nibabel
    except ModuleNotFoundError:
        raise MedGlipError('writing NIfTI needs nibabel: pip install "med-glip[clinical]"') from None

    dtype = np.uint8 if len(labels) < 2**8 else np.uint16
    if len(labels) >= 2**16:
        raise MedGlipError(f"{len(labels)} labels are more than a label map holds")
    shape = source.grid.array.shape
    filled = np.zeros(shape, dtype)
    for box in reversed(result.boxes):  # the best one last
        filled[voxels(box, shape)] = labels.index(box.label) + 1
    geometry = None if source.nifti_header is None else geometry_of(source.nifti_header)
    image: Any = nibabel.Nifti1Image(filled, np.diag([-1.0, -1.0, 1.0, 1.0]) @ source.grid.affine, geometry)
    image.header.set_data_dtype(dtype)
    if geometry is None:
        image.header.set_xyzt_units("mm")
    if str(path).endswith(".gz"):
        import gzip

        return write_bytes(path, gzip.compress(image.to_bytes(), 6, mtime=0))
    return write_bytes(path, image.to_bytes())


def geometry_of(header: Any) -> Any:
    """A NIfTI-1 header with another one's geometry and nothing else of it: no description, no name, no extension."""
    import nibabel

    kept = nibabel.Nifti1Header()
    kept.set_data_shape(header.get_data_shape()[:3])
    for field in ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
                  "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):  # fmt: skip
        kept[field] = header[field]
    return kept


def voxels(box: VolumeBox, shape: Sequence[int]) -> tuple[slice, slice, slice]:
    """The voxels whose centres lie in a box."""
    low = [max(0, int(np.ceil(value - 0.5))) for value in box.box_ijk[:3]]
    high = [min(int(length), int(np.ceil(value - 0.5))) for value, length in zip(box.box_ijk[3:], shape, strict=True)]
    i, j, k = (slice(start, max(start, stop)) for start, stop in zip(low, high, strict=True))
    return i, j, k


__all__ = ["oriented_box", "voxels", "write_label_map", "write_slicer"]
