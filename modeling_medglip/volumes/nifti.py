# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read headers of NIfTI files (`.nii`, `.nii.gz`).

nibabel decodes the fixed fields. Extensions are never read. Violations of the standard that ITK accepts are accepted;
ambiguous headers are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import install_hint
from ..io.quiet import silent
from .geometry import RAS_LPS, affine_fault
from .header import UNORIENTED, VolumeError, VolumeHeader, choose_volume
from .voxels import is_gzip, open_decoded, read_bytes


# Units of xyzt_units that are not mm, in mm; a file without a unit counts in mm.
UNITS = {1: ("meters", 1000.0), 3: ("micrometers", 0.001)}
KNOWN_UNITS = (0, 1, 2, 3)
# Largest offset of the voxels. Larger extensions only make readers inflate or skip data.
MAX_OFFSET = 2**24
QFORM_USED = "its sform is singular or not finite: its qform is used instead"
OFFSET_ASSUMED = "its header says that voxels begin at byte 0: they are read from the end of the header"
# How far the squares of a quaternion may add up to more than 1, by rounding.
QUATERNION_TOLERANCE = 1e-3


def nifti_header(file: Path, number: int | None = None) -> VolumeHeader:
    """Return the checked header of a NIfTI file.

    Args:
        file (`Path`): compressed by gzip or not, whatever its name says.
        number (`int`, *optional*): which volume of a 4-D file, counted from 1.

    Raises:
        `VolumeError`: what is wrong, without the file's name.
    """
    encoding = "gzip" if is_gzip(file) else "raw"
    stored = _stored_header(file, encoding)
    dtype = _dtype(stored)
    shape, index = choose_volume(_lengths(stored), number)
    affine, notes = _ras_affine(stored)
    offset, offset_notes = _voxel_offset(stored)
    slope, intercept = _rescale(stored)
    return VolumeHeader(
        file,
        shape,
        dtype,
        _lps_mm(affine, stored),
        encoding,
        skip=offset + index * shape[0] * shape[1] * shape[2] * dtype.itemsize,
        slope=slope,
        intercept=intercept,
        notes=(*notes, *unit_note(stored), *offset_notes),
        nifti=stored,
    )


def image_affine(image: Any) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the affine of an image of nibabel, and notes as for a file.

    Args:
        image (`nibabel.spatialimages.SpatialImage`): of any format; Analyze 7.5 states no orientation, unless a
            `.mat` file does.

    Returns:
        `tuple[np.ndarray, tuple[str, ...]]`: (4, 4) index to LPS mm, by the unit of the header; notes, one line each.

    Raises:
        `VolumeError`: the qform is needed and invalid.
    """
    from nibabel.analyze import AnalyzeHeader

    header: Any = getattr(image, "header", None)
    affine = np.asarray(image.affine, dtype=np.float64)
    if not isinstance(header, AnalyzeHeader):  # NIfTI's header is one, too
        return _lps_mm(affine, header), ()
    if "xyzt_units" not in header:
        return _lps_mm(affine, header), ((UNORIENTED,) if np.allclose(affine, header.get_best_affine()) else ())
    notes: tuple[str, ...] = ()
    if affine_fault(affine) is not None and int(header["qform_code"]) > 0:
        affine, notes = _qform(header), (QFORM_USED,)
    coded = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    oriented = _orientation_note(affine) if coded else (UNORIENTED,)
    return _lps_mm(affine, header), (*notes, *oriented, *unit_note(header))


def unit_note(header: Any) -> tuple[str, ...]:
    """Return a note about the unit of a NIfTI header unless it is mm.

    Args:
        header (`nibabel.Nifti1Header`): or one of NIfTI-2.
    """
    code = int(header["xyzt_units"]) & 7
    if code not in KNOWN_UNITS:
        return (f"its header counts in an unknown unit ({code}): it is taken as mm",)
    name, factor = UNITS.get(code, ("", 1.0))
    return (f"its header counts in {name}: 1 of them is taken as {factor:g} mm",) if name else ()


def _lps_mm(affine: NDArray[np.float64], header: Any) -> NDArray[np.float64]:
    """Convert an affine to RAS to one to LPS mm, by the unit of a NIfTI header."""
    scaled = affine * np.diag(RAS_LPS)[:, None]  # a matrix product would warn about infinite numbers
    if isinstance(getattr(header, "structarr", None), np.ndarray) and "xyzt_units" in header:
        scaled[:3] *= UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))[1]
    return scaled


def _stored_header(file: Path, encoding: str) -> Any:
    """Read nibabel's header as it is stored, without extensions."""
    try:
        import nibabel
    except ModuleNotFoundError:
        raise VolumeError(f"reading NIfTI needs nibabel: {install_hint('clinical')}", "unreadable") from None
    kinds: dict[int, Any] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    with open_decoded(file, encoding) as stream:
        start = read_bytes(stream, 4)
        for order, sign in (("little", "<"), ("big", ">")):
            size = int.from_bytes(start, order)  # type: ignore[arg-type]
            if size in kinds:
                with silent("nibabel.global"):
                    header = kinds[size](start + read_bytes(stream, size - 4), endianness=sign, check=False)
                return _with_magic(header)
    raise VolumeError("is not a NIfTI file", "unreadable")


def _with_magic(header: Any) -> Any:
    magic = bytes(header["magic"])[:2]
    if magic == b"ni":
        raise VolumeError("is the header of a pair of files (.hdr, .img): convert it to one .nii", "unreadable")
    if magic != b"n+":
        raise VolumeError("is not a NIfTI file (its magic is missing)", "unreadable")
    return header


def _dtype(header: Any) -> np.dtype[Any]:
    """Return the type of the stored numbers, in the byte order of the file."""
    try:
        with silent("nibabel.global"):
            dtype = header.get_data_dtype()
    except KeyError:
        dtype = np.dtype("V")  # nibabel's answer for types that it cannot read
    if dtype == np.dtype("V"):
        raise VolumeError(f"holds voxels of an unknown type ({int(header['datatype'])})", "unreadable")
    if dtype.fields is not None or dtype.kind not in "buif":
        raise VolumeError(f"holds {dtype} voxels, not numbers", "colour_volume")
    if dtype.itemsize > 8:
        raise VolumeError(f"holds {dtype} voxels: save them as float64", "unreadable")
    if int(header["bitpix"]) not in (0, dtype.itemsize * 8):
        raise VolumeError(f"states {int(header['bitpix'])} bits for {dtype} voxels: correct its header", "unreadable")
    return dtype


def _lengths(header: Any) -> tuple[int, ...]:
    """Return the voxels along all axes; a single slice (two axes) gets a third axis of one voxel."""
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7:
        raise VolumeError(f"states {axes} axes", "unreadable")
    lengths = tuple(int(length) for length in header["dim"][1 : axes + 1])
    return (*lengths, 1) if axes == 2 else lengths


def _voxel_offset(header: Any) -> tuple[int, tuple[str, ...]]:
    """Return the byte of the decompressed file at which voxels begin, and a note if that is assumed."""
    first = int(header.sizeof_hdr) + 4
    offset = float(header["vox_offset"])
    if offset == 0:
        return first, (OFFSET_ASSUMED,)
    if not first <= offset <= MAX_OFFSET or offset != int(offset):
        raise VolumeError(f"states that voxels begin at byte {offset:g}, not {first} or after", "unreadable")
    return int(offset), ()


def _rescale(header: Any) -> tuple[float, float]:
    """Return slope and intercept; a slope of 0, or one that is not finite, means no rescaling."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    return (slope, intercept) if np.isfinite(slope) and slope else (1.0, 0.0)


def _ras_affine(header: Any) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the affine to RAS in the header's unit, and notes: the sform, else the qform, else the spacing alone."""
    if int(header["sform_code"]) > 0:
        sform = np.asarray(header.get_sform(), dtype=np.float64)
        if affine_fault(sform) is None:
            return sform, _orientation_note(sform)
    if int(header["qform_code"]) > 0:
        qform = _qform(header)
        return qform, (*((QFORM_USED,) if int(header["sform_code"]) > 0 else ()), *_orientation_note(qform))
    if int(header["sform_code"]) > 0:
        raise VolumeError(f"its sform cannot be used ({affine_fault(sform)}), and it has no qform", "bad_affine")
    base = np.diag([*_spacing(header), 1.0])
    base[0, 0] *= -1 if header.default_x_flip else 1
    base[:3, 3] = -base[:3, :3] @ (np.array([*_lengths(header), 1, 1][:3]) - 1) / 2
    return base, (UNORIENTED,)


def _orientation_note(affine: NDArray[np.float64]) -> tuple[str, ...]:
    """Return a warning for a transform that only scales voxels from the origin, as programs without geometry write."""
    turned = np.abs(affine[:3, :3] - np.diag(np.diag(affine[:3, :3]))).max() > 0
    return () if np.abs(affine[:3, 3]).max() > 0 or turned else (UNORIENTED,)


def _spacing(header: Any) -> NDArray[np.float64]:
    """Return the size of voxels (pixdim); refuse zero or less."""
    spacing = np.asarray(header["pixdim"][1:4], dtype=np.float64).copy()
    if int(header["dim"][0]) == 2:  # the third axis is not stated
        spacing[2] = 1.0
    if not (np.isfinite(spacing).all() and spacing.min() > 0):
        stated = " ".join(f"{value:g}" for value in spacing)
        reason = f"states voxels of {stated} mm (pixdim): correct its header, or convert it again"
        raise VolumeError(reason, "bad_affine")
    return spacing


def _qform(header: Any) -> NDArray[np.float64]:
    """Return the affine to RAS of quaternion, offset and spacing.

    By nifti1.h, pixdim[0] is -1 for a flipped third axis; anything not negative means 1.
    """
    import nibabel.quaternions

    b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
    rest = 1.0 - (b * b + c * c + d * d)
    if not rest >= -QUATERNION_TOLERANCE:
        raise VolumeError("states an invalid rotation (quatern_b, c, d): correct its header", "bad_affine")
    qform = np.eye(4)
    steps = _spacing(header) * [1.0, 1.0, -1.0 if float(header["pixdim"][0]) < 0 else 1.0]
    qform[:3, :3] = nibabel.quaternions.quat2mat([np.sqrt(max(rest, 0.0)), b, c, d]) * steps
    qform[:3, 3] = [float(header[f"qoffset_{name}"]) for name in "xyz"]
    return qform


__all__ = ["image_affine", "nifti_header", "unit_note"]
