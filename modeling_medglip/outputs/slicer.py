# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes of a volume for other programs: regions of interest for 3D Slicer, and a NIfTI label map.

Neither holds anything of the patient.
"""

from __future__ import annotations

import gzip
import json
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError, install_hint, one_line
from ..volumes.geometry import RAS_LPS, corners_lps
from ..volumes.source import VolumeSource
from .files import to_json, write_text
from .overlay import label_colours
from .volume_results import VolumeBox, VolumeResult


SLICER_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
# Axes that are further from square than this (cosine) are no box for Slicer, which knows no shear.
SHEAR = 1e-3
# Of the NIfTI extension that names the labels: its kind, plain text, and its largest size.
COMMENT_CODE, MAX_EXTENSION_BYTES = 6, 2**15


def write_slicer(result: VolumeResult, path: str | Path, source: VolumeSource | None = None) -> Path:
    """Write the boxes as markups of 3D Slicer (`*.mrk.json`), one region of interest each, in LPS mm.

    Of sheared volumes (a tilted gantry) a region is the box along the patient's axes round the sheared one.

    Args:
        source: what was grounded. Where its axes were stated, regions lie by the file's own header all the same, so
            that Slicer shows them over the file.

    Raises:
        `MedGlipError`: the place cannot be written to.
    """
    boxes = result.boxes if source is None else [_in_file(box, source) for box in result.boxes]
    markups = [_region(box, number) for number, box in enumerate(boxes, start=1)]
    return write_text(path, to_json({"@schema": SLICER_SCHEMA, "markups": markups}))


def _in_file(box: VolumeBox, source: VolumeSource) -> VolumeBox:
    """The box with the corners that it has by the file's own header."""
    corners = corners_lps(source.file_grid, box.box_ijk)
    return replace(box, corners_lps_mm=tuple((float(x), float(y), float(z)) for x, y, z in corners))


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

    The header's comment extension names the labels of the values. Where boxes overlap the better one is seen. Voxels
    belong to a box if their centres lie in it. One slice is in memory at a time.

    Args:
        source: what was grounded. Where that was NIfTI, the header's geometry is that file's, to the last bit; else
            the affine is that of the file's own header; whatever axes were stated.

    Raises:
        `MedGlipError`: more labels than fit, no nibabel, or a place that cannot be written to.
    """
    try:
        import nibabel
    except ModuleNotFoundError:
        raise MedGlipError(f"writing NIfTI needs nibabel: {install_hint('clinical')}") from None

    if len(labels) >= 2**16:
        raise MedGlipError(f"{len(labels)} labels are more than a label map holds")
    dtype = np.dtype(np.uint8 if len(labels) < 2**8 else np.uint16)
    header = _plain_header(source, nibabel) if source.nifti_header is None else geometry_of(source.nifti_header)
    header.set_data_dtype(dtype)
    header["magic"] = header.single_magic
    extension = _label_extension(labels, header.endianness)
    header["vox_offset"] = header.sizeof_hdr + 4 + len(extension)
    with written(path) as stream:
        packed = str(path).endswith(".gz")
        target = gzip.GzipFile("", "wb", 6, stream, mtime=0) if packed else stream
        target.write(header.binaryblock + b"\1\0\0\0" + extension)
        for picture in _label_slices(result, labels, source.grid.array.shape, dtype):
            target.write(picture.tobytes(order="F"))
        if packed:
            target.close()
    return Path(path)


def _label_extension(labels: Sequence[str], order: str) -> bytes:
    """A NIfTI comment extension: JSON of value -> label, long labels and long lists cut short.

    Args:
        order: byte order of the header, `"<"` or `">"`.
    """
    names: dict[str, str] = {}
    for value, label in enumerate(labels, start=1):
        names[str(value)] = one_line(label, 120)
        if len(json.dumps(names)) > MAX_EXTENSION_BYTES:
            del names[str(value)]
            break
    text = json.dumps({"label_values": names}).encode("ascii")
    size = -(-(len(text) + 8) // 16) * 16
    return struct.pack(f"{order}ii", size, COMMENT_CODE) + text.ljust(size - 8, b"\0")


def write_color_table(labels: Sequence[str], path: str | Path) -> Path:
    """Write a color table of 3D Slicer (`*.ctbl`) for a label map: value, name, red, green, blue, opacity.

    Names are one word each, since the format splits lines at spaces.

    Raises:
        `MedGlipError`: the place cannot be written to.
    """
    lines = ["# values of the label map", "0 background 0 0 0 0"]
    for value, (label, color) in enumerate(label_colours(labels).items(), start=1):
        red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
        lines.append(f"{value} {'_'.join(one_line(label, 120).split()).lstrip('#') or '_'} {red} {green} {blue} 255")
    return write_text(path, "\n".join(lines) + "\n")


def _label_slices(
    result: VolumeResult, labels: Sequence[str], shape: Sequence[int], dtype: np.dtype[Any]
) -> Iterator[NDArray]:
    """The label map's pictures (i, j) along the last axis."""
    places = [(voxels(box, shape), labels.index(box.label) + 1) for box in reversed(result.boxes)]  # the best one last
    for k in range(shape[2]):
        filled = np.zeros((shape[0], shape[1]), dtype)
        for (i, j, inside), value in places:
            if inside.start <= k < inside.stop:
                filled[i, j] = value
        yield filled


def _plain_header(source: VolumeSource, nibabel: Any) -> Any:
    """A NIfTI-1 header for a volume that was none."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(source.file_grid.array.shape)
    affine = RAS_LPS @ source.file_grid.affine
    header.set_sform(affine, code=2)
    header.set_qform(affine, code=0, strip_shears=True)
    header.set_xyzt_units("mm")
    return header


@contextmanager
def written(path: str | Path) -> Iterator[BinaryIO]:
    """A file that is written piece by piece, and is there only once all of it is.

    Raises:
        `MedGlipError`: the place cannot be written to.
    """
    target = Path(path)
    part = target.with_name(f".medglip-{secrets.token_hex(8)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as stream:
                yield cast(BinaryIO, stream)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise MedGlipError(f"{one_line(target.name)}: cannot be written ({one_line(error.strerror)})") from error


def geometry_of(header: Any) -> Any:
    """A header of the same kind (NIfTI-1 or -2) with another one's geometry and nothing else of it: no description, no
    name, no extension."""
    kept = type(header)()
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


__all__ = ["oriented_box", "voxels", "write_color_table", "write_label_map", "write_slicer", "written"]
