# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read headers of MetaImage files (`.mha`, `.mhd`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import one_line
from .header import UNORIENTED, UNSPACED, VolumeError, VolumeHeader, choose_volume
from .header_fields import (
    HEADER_BYTES,
    Fields,
    add_field,
    count_of_axes,
    header_lines,
    length_factor,
    numbers,
    voxel_file,
    whole_numbers,
)


META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
ORIGIN = ("offset", "position", "origin")
DIRECTION = ("transformmatrix", "orientation", "rotation")
BYTE_ORDER = ("binarydatabyteordermsb", "elementbyteordermsb")
BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def meta_header(file: Path, number: int | None = None, detached: bool = False) -> VolumeHeader:
    """Return the checked header of a MetaImage file.

    Args:
        file (`Path`): begins with the header.
        number (`int`, *optional*): which volume of a 4-D file, counted from 1.
        detached (`bool`, *optional*, defaults to `False`): voxels may be in another file of the folder.

    Raises:
        `VolumeError`: what is wrong, without the file's name.
    """
    fields, end = _meta_fields(file)
    axes = count_of_axes(fields, "ndims")
    sizes = whole_numbers(fields, "dimsize", axes)
    shape, index = choose_volume(sizes, number)
    dtype = _meta_type(fields)
    affine, notes = _meta_affine(fields, axes)
    source, local = voxel_file(
        file, _one_of(fields, ("elementdatafile",)) or "", ("LOCAL", "Local", "local"), detached
    )
    volume_bytes = shape[0] * shape[1] * shape[2] * dtype.itemsize
    packed = _boolean(fields, "compresseddata")
    skip = int(np.prod([int(size) for size in sizes[3:]], dtype=object)) * volume_bytes
    offset = _meta_offset(fields, source, end if local else 0, None if packed else skip)
    encoding = "gzip" if packed else "raw"
    return VolumeHeader(source, shape, dtype, affine, encoding, offset, index * volume_bytes, notes=notes)


def _meta_fields(file: Path) -> tuple[Fields, int]:
    """Return the fields of a header, and the byte where it ends."""
    with file.open("rb") as stream:
        content = stream.read(HEADER_BYTES)
    fields: Fields = {}
    end = 0
    while "elementdatafile" not in fields:
        stop = content.find(b"\n", end) + 1
        if stop == 0 and (len(content) == HEADER_BYTES or not content[end:]):
            raise VolumeError(f"is not a MetaImage file: no ElementDataFile in {HEADER_BYTES} bytes", "unreadable")
        stop = stop or len(content)
        add_field(fields, header_lines(content[end:stop])[0], "=")
        end = stop
    if fields.get("objecttype", "Image").lower() != "image":
        raise VolumeError("is a MetaIO file of another object, not an image", "unreadable")
    if _one_of(fields, ("binarydata",)) is not None and not _boolean(fields, "binarydata"):
        raise VolumeError("holds its voxels as text: save them in binary form", "unreadable")
    return fields, end


def _meta_type(fields: Fields) -> np.dtype:
    channels = whole_numbers(fields, "elementnumberofchannels", 1, 1)[0]
    if channels != 1:
        raise VolumeError(f"holds {channels} numbers per voxel: save one of them as a volume", "colour_volume")
    name = fields.get("elementtype", "")
    if name not in META_TYPES:
        raise VolumeError(f"holds voxels of an unknown type, {one_line(name, 40)!r}", "unreadable")
    stated = _one_of(fields, BYTE_ORDER)
    big = stated is not None and _is_true(stated)
    return np.dtype((">" if big else "<") + META_TYPES[name])


def _meta_affine(fields: Fields, axes: int) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the affine to LPS mm, and notes. Each row of the stored matrix is the direction of an array axis."""
    notes: list[str] = []
    factor = length_factor(fields.get("distanceunits", ""), notes)
    spacing, spaced = _meta_numbers(fields, ("elementspacing",), axes)
    if not spaced:
        spacing, spaced = _meta_numbers(fields, ("elementsize",), axes)
    if spaced and not spacing.all():
        raise VolumeError("states voxels of 0 mm: correct its header, or convert it again", "bad_affine")
    origin, _ = _meta_numbers(fields, ORIGIN, axes)
    matrix, oriented = _meta_numbers(fields, DIRECTION, axes * axes)
    affine = np.eye(4)
    directions = matrix.reshape(axes, axes).T[:3, :3] if oriented else np.eye(3)
    affine[:3, :3] = directions * (spacing[:3] if spaced else 1.0) * factor
    affine[:3, 3] = origin[:3] * factor
    unstated = (*(() if oriented else (UNORIENTED,)), *(() if spaced else (UNSPACED,)))
    return affine, (*unstated, *notes)


def _meta_numbers(fields: Fields, names: Sequence[str], count: int) -> tuple[NDArray[np.float64], bool]:
    """Return the numbers of a field with several names, or zeros, and whether the field is there."""
    text = _one_of(fields, names)
    return (np.zeros(count), False) if text is None else (numbers(text.split(), count, names[0]), True)


def _meta_offset(fields: Fields, source: Path, end: int, needed: int | None) -> int:
    """Return the byte at which encoded voxels begin: after the header, as stated, or (-1) counted from the end."""
    size = whole_numbers(fields, "headersize", 1, 0)[0]
    if size == -1 and needed is not None:
        size = source.stat().st_size - needed
    elif size < 0:
        raise VolumeError(f"states a HeaderSize of {size}", "unreadable")
    if size and size < end:
        raise VolumeError("states that its voxels begin in its header", "unreadable")
    return size or end


def _one_of(fields: Fields, names: Sequence[str]) -> str | None:
    """Return the value of a field with several names."""
    values = [fields[name] for name in names if name in fields]
    if len(set(values)) > 1:
        raise VolumeError(f"states {names[0]} in two ways", "unreadable")
    return values[0] if values else None


def _boolean(fields: Fields, name: str) -> bool:
    return _is_true(fields.get(name, "false"))


def _is_true(text: str) -> bool:
    if text.lower() not in BOOLEANS:
        raise VolumeError(f"has {one_line(text, 20)!r} where True or False belongs", "unreadable")
    return BOOLEANS[text.lower()]


__all__ = ["meta_header"]
