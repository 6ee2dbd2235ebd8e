# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write boxes of a volume as a NIfTI label map. The file holds no patient data."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError, install_hint, one_line
from ..volumes.geometry import RAS_LPS, box_voxels
from ..volumes.source import VolumeSource
from .files import atomic_writer
from .volume_results import VolumeResult


# NIfTI extension that names the labels: its code for plain text, and its largest size.
COMMENT_CODE, MAX_EXTENSION_BYTES = 6, 2**15
# Header fields that state where voxels are.
GEOMETRY_FIELDS = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
    "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


def write_label_map(result: VolumeResult, source: VolumeSource, labels: Sequence[str], path: str | Path) -> Path:
    """Write the boxes as a NIfTI label map on the volume's own grid: 1 for the first label of the prompt, and so on.

    A comment extension of the header names the labels of the values. Where boxes overlap, the one with the better
    score wins. Voxels belong to a box if their centers lie in it. One slice is in memory at a time.

    Args:
        result ([`VolumeResult`]): the boxes.
        source ([`VolumeSource`]): what was grounded. The geometry is that of the file's own header, even where other
            axes were stated; for NIfTI files it is copied bit for bit.
        labels (`Sequence[str]`): in the order of their values, from 1 on.
        path (`str` or `Path`): the file to write, gzip-compressed if it ends with `.gz`.

    Raises:
        `MedGlipError`: too many labels, nibabel is missing, or the file cannot be written.
    """
    try:
        import nibabel
    except ModuleNotFoundError:
        raise MedGlipError(f"writing NIfTI needs nibabel: {install_hint('clinical')}") from None

    if len(labels) >= 2**16:
        raise MedGlipError(f"{len(labels)} labels are more than a label map holds")
    dtype = np.dtype(np.uint8 if len(labels) < 2**8 else np.uint16)
    header = _new_header(source, nibabel) if source.nifti_header is None else copy_geometry(source.nifti_header)
    header.set_data_dtype(dtype)
    header["magic"] = header.single_magic
    extension = _label_extension(labels, header.endianness)
    header["vox_offset"] = header.sizeof_hdr + 4 + len(extension)
    with atomic_writer(path) as stream:
        packed = str(path).endswith(".gz")
        target = gzip.GzipFile("", "wb", 6, stream, mtime=0) if packed else stream
        target.write(header.binaryblock + b"\1\0\0\0" + extension)
        for values in _label_slices(result, labels, source.grid.shape, dtype):
            target.write(values.tobytes(order="F"))
        if packed:
            target.close()
    return Path(path)


def _label_extension(labels: Sequence[str], order: str) -> bytes:
    """Return a NIfTI comment extension: JSON of value to label; long labels and long lists are truncated.

    Args:
        labels (`Sequence[str]`): in the order of their values, from 1 on.
        order (`str`): byte order of the header, `"<"` or `">"`.
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


def _label_slices(
    result: VolumeResult, labels: Sequence[str], shape: Sequence[int], dtype: np.dtype[Any]
) -> Iterator[NDArray]:
    """Yield the slices (i, j) of the label map along the last axis."""
    filled_boxes = [  # the best one last
        (box_voxels(box.box_ijk, shape), labels.index(box.label) + 1) for box in reversed(result.boxes)
    ]
    for k in range(shape[2]):
        filled = np.zeros((shape[0], shape[1]), dtype)
        for (i, j, inside), value in filled_boxes:
            if inside.start <= k < inside.stop:
                filled[i, j] = value
        yield filled


def _new_header(source: VolumeSource, nibabel: Any) -> Any:
    """Return a NIfTI-1 header for a volume of another format."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(source.file_grid.array.shape)
    affine = RAS_LPS @ source.file_grid.affine
    header.set_sform(affine, code=2)
    header.set_qform(affine, code=0, strip_shears=True)
    header.set_xyzt_units("mm")
    return header


def copy_geometry(header: Any) -> Any:
    """Return a new header of the same kind (NIfTI-1 or -2) with the geometry of another and nothing else of it.

    Args:
        header (`nibabel.Nifti1Header`): its description, name and extensions are left out.
    """
    copy = type(header)()
    copy.set_data_shape(header.get_data_shape()[:3])
    for field in GEOMETRY_FIELDS:
        copy[field] = header[field]
    return copy


__all__ = ["copy_geometry", "write_label_map"]
