# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read headers of NRRD files (`.nrrd`, `.nhdr`), https://teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import re
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


MAGIC = re.compile(r"NRRD000[1-6]")
TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
ENCODINGS = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2", "ascii": "text", "text": "text",
    "txt": "text", "hex": "hex",
}  # fmt: skip
# Factors from the axes of a space to LPS; only anatomical spaces tell the patient's left.
ANATOMICAL = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
WITHOUT_ANATOMY = ("", "scanner-xyz", "3d-right-handed", "3d-left-handed")
# Kinds of axes that list whole volumes; axes of other kinds hold the components of a voxel.
SERIES_KINDS = ("", "???", "none", "list", "time", "domain", "space", "scalar", "stub")
MAX_SKIPPED_LINES = 1000


def nrrd_header(file: Path, number: int | None = None, detached: bool = False) -> VolumeHeader:
    """Return the checked header of an NRRD file.

    Args:
        file (`Path`): begins with the header.
        number (`int`, *optional*): which volume of a 4-D file, counted from 1.
        detached (`bool`, *optional*, defaults to `False`): voxels may be in another file of the folder.

    Raises:
        `VolumeError`: what is wrong, without the file's name.
    """
    fields, end = _fields(file)
    axes = count_of_axes(fields, "dimension")
    sizes = whole_numbers(fields, "sizes", axes)
    spatial = _spatial_axes(fields, sizes)
    first = spatial[0]  # axes before it are those of channels
    shape, index = choose_volume([*(sizes[axis] for axis in spatial), *sizes[:first], *sizes[first + 3 :]], number)
    dtype, encoding = _type(fields)
    source, local = voxel_file(file, fields.get("datafile", ""), ("",), detached)
    channels = sizes[0] if first else 1
    before = 0 if first else index * shape[0] * shape[1] * shape[2] * dtype.itemsize
    offset = _after_lines(fields, source, end if local else 0)
    skip = whole_numbers(fields, "byteskip", 1, 0)[0]
    if skip == -1 and encoding == "raw":
        skip = source.stat().st_size - offset - int(np.prod(sizes, dtype=object)) * dtype.itemsize
    if skip < 0:
        raise VolumeError("states an invalid byte skip", "unreadable")
    affine, notes = _affine(fields, spatial)
    where = (offset, skip + before, channels, index if first else 0)
    return VolumeHeader(source, shape, dtype, affine, encoding, *where, notes=notes)


def _fields(file: Path) -> tuple[Fields, int]:
    """Return the fields of a header, and the byte where it ends: after an empty line, or with the file."""
    with file.open("rb") as stream:
        content = stream.read(HEADER_BYTES)
    blank_line = re.search(rb"\r?\n\r?\n", content)
    if blank_line is None and len(content) == HEADER_BYTES:
        raise VolumeError(f"has more than {HEADER_BYTES} bytes of header", "unreadable")
    end = len(content) if blank_line is None else blank_line.end()
    magic, *lines = header_lines(content[: blank_line.start() if blank_line else end])
    if not MAGIC.fullmatch(magic):
        raise VolumeError("is not an NRRD file", "unreadable")
    fields: Fields = {}
    for line in lines:
        if not line.startswith("#") and not re.match(r"[^:]+:=", line):  # comments, and keys of other programs
            add_field(fields, line, ":")
    return fields, end


def _type(fields: Fields) -> tuple[np.dtype, str]:
    """Return the type of the stored numbers, and the encoding as in [`VolumeHeader`]."""
    name, encoding = fields.get("type", "").lower(), fields.get("encoding", "").lower()
    if name not in TYPES:
        raise VolumeError(f"holds voxels of an unknown type, {one_line(name, 40)!r}", "unreadable")
    if encoding not in ENCODINGS:
        raise VolumeError(f"has an unknown encoding, {one_line(encoding, 40)!r}", "unreadable")
    dtype, endian = np.dtype(TYPES[name]), fields.get("endian", "").lower()
    if ENCODINGS[encoding] == "text" or dtype.itemsize == 1:
        return dtype, ENCODINGS[encoding]
    if endian not in ("little", "big"):
        raise VolumeError("does not state its endian (little or big)", "unreadable")
    return dtype.newbyteorder("<" if endian == "little" else ">"), ENCODINGS[encoding]


def _spatial_axes(fields: Fields, sizes: list[int]) -> list[int]:
    """Return the three spatial axes. Others may have one voxel, or list volumes: one axis before or after."""
    vectors, kinds = _vectors(fields, len(sizes)), _kinds(fields, len(sizes))
    if vectors is not None:
        spatial = [axis for axis, vector in enumerate(vectors) if vector != "none"]
    elif len(sizes) > 3 and kinds[0] not in ("", "domain", "space"):
        spatial = [1, 2, 3]
    else:
        spatial = list(range(min(3, len(sizes))))
    if len(spatial) != 3:
        raise VolumeError(f"has {len(spatial)} spatial axes {tuple(sizes)}, not three", "not_3d")
    others = [axis for axis, size in enumerate(sizes) if axis not in spatial and size != 1]
    for axis in others:
        if kinds[axis] not in SERIES_KINDS:
            raise VolumeError(f"holds {sizes[axis]} numbers per voxel: save one of them as a volume", "colour_volume")
    first = spatial[0]
    if spatial[2] != first + 2 or first > 1 or (0 in others and len(others) > 1):
        raise VolumeError(f"has {len(others)} axes besides or between the spatial ones {tuple(sizes)}", "not_3d")
    return spatial


def _kinds(fields: Fields, axes: int) -> list[str]:
    kinds = fields.get("kinds", "").lower().split()
    return kinds if len(kinds) == axes else [""] * axes


def _vectors(fields: Fields, axes: int) -> list[str] | None:
    """Return the directions of all axes as text, `"none"` for axes that are not spatial; `None` without directions."""
    if "spacedirections" not in fields:
        return None
    text = "".join(fields["spacedirections"].lower().split())
    vectors = re.findall(r"none|\([^()]*\)", text)
    if len(vectors) != axes or "".join(vectors) != text:
        raise VolumeError(f"does not state {axes} directions", "bad_affine")
    return vectors


def _vector(text: str, name: str) -> NDArray[np.float64]:
    """Parse a vector such as `(1, 0, 0)`."""
    return numbers("".join(text.split()).removeprefix("(").removesuffix(")").split(","), 3, name)


def _affine(fields: Fields, spatial: list[int]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the affine to LPS mm, and notes."""
    axes = whole_numbers(fields, "dimension", 1)[0]
    vectors, notes = _vectors(fields, axes), list[str]()
    space = fields.get("space", "").lower()
    if (space not in ANATOMICAL and space not in WITHOUT_ANATOMY) or fields.get("spacedimension", "3") != "3":
        raise VolumeError(f"has an unknown space, {one_line(space, 40)!r}", "bad_affine")
    affine = np.eye(4)
    if vectors is None:
        affine, spaced = _scaled(fields, axes, spatial, notes)
    else:
        spaced = True
        affine[:3, :3] = np.stack([_vector(vectors[axis], "space directions") for axis in spatial], axis=1)
        if not affine[:3, :3].any(axis=0).all():
            raise VolumeError("states voxels of 0 mm: correct its header, or convert it again", "bad_affine")
    if "spaceorigin" in fields:
        affine[:3, 3] = _vector(fields["spaceorigin"], "space origin")
    factors = [length_factor(unit, notes) for unit in _quoted(fields.get("spaceunits", ""), 3)]
    affine[:3] *= (np.array(ANATOMICAL.get(space, (1, 1, 1))) * factors)[:, None]
    oriented = space in ANATOMICAL and vectors is not None
    unstated = (*(() if oriented else (UNORIENTED,)), *(() if spaced else (UNSPACED,)))
    return affine, (*unstated, *notes)


def _scaled(fields: Fields, axes: int, spatial: list[int], notes: list[str]) -> tuple[NDArray[np.float64], bool]:
    """Return the affine to mm of a header with `spacings` instead of directions, and whether it states them.

    `axis mins` are edges of voxels, unless the header says that samples are nodes.
    """
    affine = np.eye(4)
    if "spacings" not in fields:
        return affine, False
    words, mins = fields["spacings"].split(), fields.get("axismins", "").split()
    if len(words) != axes or len(mins) not in (0, axes):
        raise VolumeError(f"does not state {axes} spacings", "bad_affine")
    factors = np.array([length_factor(unit, notes) for unit in _quoted(fields.get("units", ""), axes)])[spatial]
    spacing = numbers([words[axis] for axis in spatial], 3, "spacings") * factors
    if not spacing.all():
        raise VolumeError("states voxels of 0 mm: correct its header, or convert it again", "bad_affine")
    affine[:3, :3] = np.diag(spacing)
    if mins:
        centers = (fields.get("centerings") or fields.get("centers", "")).split()
        inward = [0.0 if axis < len(centers) and centers[axis] == "node" else 0.5 for axis in spatial]
        lowest = numbers([mins[axis] for axis in spatial], 3, "axis mins") * factors
        affine[:3, 3] = lowest + inward * spacing
    return affine, True


def _quoted(text: str, count: int) -> list[str]:
    """Split quoted or plain words; another count of words counts as one for all axes."""
    words = ["".join(pair) for pair in re.findall(r'"([^"]*)"|([^\s"]+)', text)]
    return words if len(words) == count else [text] * count


def _after_lines(fields: Fields, file: Path, offset: int) -> int:
    """Return the byte at which encoded voxels begin, after the lines that the header says to skip."""
    lines = whole_numbers(fields, "lineskip", 1, 0)[0]
    if not 0 <= lines <= MAX_SKIPPED_LINES:
        raise VolumeError(f"states a line skip of {lines}", "unreadable")
    with file.open("rb") as stream:
        stream.seek(offset)
        for _ in range(lines):
            if not stream.readline(HEADER_BYTES).endswith(b"\n"):
                raise VolumeError("does not have the lines that its header says to skip", "unreadable")
        return stream.tell()


__all__ = ["nrrd_header"]
