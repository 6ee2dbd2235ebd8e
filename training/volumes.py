# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Volumes for training: reading NIfTI, NRRD and DICOM slices, and cutting pictures as a radiologist looks at them."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


NRRD_TYPES = {"uchar": "u1", "uint8": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"}
LPS_AXES = ("LR", "PA", "SI")


@dataclass(frozen=True)
class Volume:
    """A 3-D array with its geometry.

    Args:
        array (`np.ndarray` of shape `(i, j, k)`): voxels.
        axcodes (`str`): the direction in which each array axis increases, such as `"RAS"` (right, anterior, superior).
    """

    array: NDArray
    axcodes: str


def read_volume(path: Path, axcodes: str | None = None) -> Volume:
    """Read a `.nii.gz` or `.nrrd` file.

    Args:
        path (`Path`): the file.
        axcodes (`str`, *optional*): axes to believe instead of the header's.

    Raises:
        `ValueError`: another kind of file, or one that cannot be read.
    """
    if path.name.endswith(".nrrd"):
        volume = _read_nrrd(path)
    elif path.name.endswith((".nii", ".nii.gz")):
        volume = _read_nifti(path)
    else:
        raise ValueError(f"{path.name}: training reads volumes from .nii, .nii.gz and .nrrd files only")
    return Volume(volume.array, axcodes or volume.axcodes)


def _read_nifti(path: Path) -> Volume:
    import nibabel  # only training on volumes needs it

    image: Any = nibabel.load(path)
    return Volume(np.asarray(image.dataobj), "".join(nibabel.aff2axcodes(image.affine)))


def _read_nrrd(path: Path) -> Volume:
    head, _, body = path.read_bytes().partition(b"\n\n")
    lines = head.decode("ascii", "replace").splitlines()
    if not lines or not lines[0].startswith("NRRD"):
        raise ValueError(f"{path.name}: not an NRRD file")
    fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    if fields.get("space", "") != "left-posterior-superior" or fields["encoding"] not in ("raw", "gzip", "gz"):
        raise ValueError(f"{path.name}: only NRRD in left-posterior-superior space, raw or gzip, is read here")
    dtype = np.dtype(("<" if fields.get("endian", "little") == "little" else ">") + NRRD_TYPES[fields["type"]])
    data = body if fields["encoding"] == "raw" else gzip.decompress(body)
    sizes = [int(size) for size in fields["sizes"].split()]
    array = np.frombuffer(data, dtype, count=int(np.prod(sizes))).reshape(sizes, order="F")
    array = array.astype(dtype.newbyteorder("="))
    directions = [[float(x) for x in axis.strip("()").split(",")] for axis in fields["space directions"].split()]
    return Volume(array, "".join(_letter(axis) for axis in directions))


def _letter(direction: list[float]) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return LPS_AXES[axis][0 if direction[axis] > 0 else 1]


def read_dicom_slices(paths: list[Path]) -> Volume:
    """Read axial DICOM slices of one series, sorted from feet to head, in Hounsfield units.

    Raises:
        `ValueError`: a slice is not axial in the usual orientation.
    """
    import pydicom

    slices: list[Any] = sorted(map(pydicom.dcmread, paths), key=lambda slice_: float(slice_.ImagePositionPatient[2]))
    for slice_ in slices:
        if not np.allclose(slice_.ImageOrientationPatient, [1, 0, 0, 0, 1, 0], atol=1e-3):
            raise ValueError(f"{Path(slice_.filename).name}: not an axial slice in the usual orientation")
    planes = [s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices]
    return Volume(np.stack(planes, axis=-1).transpose(1, 0, 2).round().astype(np.int16), "LPS")


def to_lps(volume: Volume) -> NDArray:
    """Turn the array so that its axes increase towards the patient's left, back and head.

    Raises:
        `ValueError`: `axcodes` does not name three different axes.
    """
    order: list[int] = []
    for pair in LPS_AXES:
        found = [axis for axis, letter in enumerate(volume.axcodes) if letter in pair]
        if len(found) != 1:
            raise ValueError(f"axes {volume.axcodes!r} do not name three different directions")
        order.append(found[0])
    array = volume.array.transpose(order)
    steps = [1 if volume.axcodes[axis] == pair[0] else -1 for axis, pair in zip(order, LPS_AXES, strict=True)]
    return array[tuple(slice(None, None, step) for step in steps)]


def cut(array: NDArray, plane: str, index: int) -> NDArray:
    """Cut one picture in radiological display convention from an array in L, P, S order.

    Axial and coronal: the patient's right is on the left of the picture; the front (axial) or the head is on top.

    Raises:
        `ValueError`: `plane` is not `"axial"`, `"coronal"` or `"sagittal"`.
    """
    if plane == "axial":
        return np.ascontiguousarray(array[:, :, index].T)
    if plane == "coronal":
        return np.ascontiguousarray(array[:, index, ::-1].T)
    if plane == "sagittal":
        return np.ascontiguousarray(array[index, :, ::-1].T)
    raise ValueError(f"plane {plane!r}: choose axial, coronal or sagittal")


def plane_length(array: NDArray, plane: str) -> int:
    """Number of pictures that `cut` can make of an array in L, P, S order."""
    return int(array.shape[{"axial": 2, "coronal": 1, "sagittal": 0}[plane]])
