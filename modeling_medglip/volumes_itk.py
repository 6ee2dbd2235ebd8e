# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reading headers of MetaImage files (`.mha`, `.mhd`), and the grammar that they share with NRRD.

Headers may name files, and programs disagree about what a line means. So no library reads them: only what this one
strict grammar accepts is a header, and a file that it names is read only where the caller allows that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import one_line
from .volume_header import UNORIENTED, UNSPACED, VolumeError, VolumeHeader, choose_volume


HEADER_BYTES = 2**16
LINE_BYTES = 2**14
MAX_AXES = 16
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# Everything that a program may take for the end of a line or of a text.
CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
# mm in a unit of length.
LENGTH_UNITS = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers"), 1e-3),
    **dict.fromkeys(("micrometre", "micrometres"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-6),
}
UNKNOWN_UNITS = ("", "?", "???", "unknown")
META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
ORIGIN = ("offset", "position", "origin")
DIRECTION = ("transformmatrix", "orientation", "rotation")
BYTE_ORDER = ("binarydatabyteordermsb", "elementbyteordermsb")
BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
Fields = dict[str, str]


def meta_header(file: Path, number: int | None = None, detached: bool = False) -> VolumeHeader:
    """Return the checked header of a MetaImage file.

    Args:
        file (`Path`): begins with the header.
        number (`int`, *optional*): which volume of a 4-D file, counted from 1.
        detached (`bool`, *optional*, defaults to `False`): voxels may be in another file beside this one.

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


def header_lines(content: bytes) -> list[str]:
    """Return the lines of a header without their ends.

    Args:
        content (`bytes`): lines that end with LF or CRLF.

    Raises:
        `VolumeError`: a line is too long or holds control characters, which programs read in different ways.
    """
    lines = []
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        line = raw.removesuffix(b"\r").decode("utf-8", "replace")
        if len(raw) > LINE_BYTES or CONTROL.search(line):
            what = f"more than {LINE_BYTES} bytes" if len(raw) > LINE_BYTES else "control characters"
            raise VolumeError(f"has {what} in line {number} of its header", "unreadable")
        lines.append(line)
    return lines


def add_field(fields: Fields, line: str, mark: str) -> str:
    """Add a line `name mark value` to fields and return its name in lower case without spaces.

    Raises:
        `VolumeError`: no such line, or a name that comes twice.
    """
    name, found, value = line.partition(mark)
    key = name.lower().replace(" ", "")
    if not found or not key or not name[0].isalnum() or ("=" in name or ":" in name):
        raise VolumeError(f"has a line that is no header's: {one_line(line, 40)!r}", "unreadable")
    if key in fields:
        raise VolumeError(f"states {one_line(name.strip(), 40)} twice", "unreadable")
    fields[key] = value.strip()
    return key


def whole_numbers(fields: Fields, name: str, count: int, default: int | None = None) -> list[int]:
    """Return the whole numbers of a field.

    Raises:
        `VolumeError`: there are not that many, or others.
    """
    text = fields.get(name, "" if default is None else " ".join([str(default)] * count)).split()
    if len(text) != count or not all(re.fullmatch(r"[+-]?[0-9]{1,18}", word) for word in text):
        raise VolumeError(f"does not state {count} whole numbers as {name}", "unreadable")
    return [int(word) for word in text]


def count_of_axes(fields: Fields, name: str) -> int:
    """Return how many axes a header states.

    Raises:
        `VolumeError`: none, more than `MAX_AXES`, or not a whole number.
    """
    axes = whole_numbers(fields, name, 1)[0]
    if not 1 <= axes <= MAX_AXES:
        raise VolumeError(f"states {axes} axes", "unreadable")
    return axes


def numbers(words: Sequence[str], count: int, name: str) -> NDArray[np.float64]:
    """Return words as finite numbers.

    Raises:
        `VolumeError`: there are not that many, or others.
    """
    if len(words) == count and all(NUMBER.fullmatch(word) for word in words):
        found = np.array([float(word) for word in words])
        if np.isfinite(found).all():
            return found
    raise VolumeError(f"does not state {count} finite numbers as {name}", "bad_affine")


def voxel_file(header: Path, name: str, inside: Sequence[str], detached: bool) -> tuple[Path, bool]:
    """Return the file that holds the voxels, and whether that is the header's own.

    Args:
        header (`Path`): the file with the header.
        name (`str`): what the header says; one of `inside` for its own file.
        detached (`bool`): it may be another file, by plain name in the same folder.

    Raises:
        `VolumeError`: another file, and that is not allowed, leads out of the folder, or is not there.
    """
    if name in inside:
        return header, True
    plain, told = name.removeprefix("./"), repr(one_line(name, 60))
    if not detached:
        raise VolumeError(
            f"has its voxels in another file, {told}: convert it to one file (.nrrd, .mha)", "leaves_folder"
        )
    if plain.split(" ")[0].upper() == "LIST" or "%" in plain:
        raise VolumeError(f"has its voxels in many files, {told}, some perhaps outside its folder", "leaves_folder")
    target = header.parent / plain
    if plain != target.name or "\\" in plain or target.resolve().parent != header.parent.resolve():
        raise VolumeError(f"points to {told} outside its folder", "leaves_folder")
    if not target.is_file():
        raise VolumeError(f"points to {told}, which is not a file beside it", "unreadable")
    return target.resolve(), False


def length_factor(unit: str, notes: list[str]) -> float:
    """Return the mm in a unit of length; an unknown one is taken as mm, and noted."""
    if unit.strip() in UNKNOWN_UNITS:
        return 1.0
    factor = LENGTH_UNITS.get(unit.strip() if len(unit.strip()) == 1 else unit.strip().lower())
    note = f"its header counts in an unknown unit, {one_line(unit, 40)!r}: it is taken as mm"
    if factor is None and note not in notes:
        notes.append(note)
    return 1.0 if factor is None else factor


def _meta_fields(file: Path) -> tuple[Fields, int]:
    """The fields of a header, and where it ends."""
    with file.open("rb") as stream:
        content = stream.read(HEADER_BYTES)
    fields: Fields = {}
    end = 0
    while "elementdatafile" not in fields:
        stop = content.find(b"\n", end) + 1
        if stop == 0 and (len(content) == HEADER_BYTES or not content[end:]):
            raise VolumeError(f"is no MetaImage file: no ElementDataFile in {HEADER_BYTES} bytes", "unreadable")
        stop = stop or len(content)
        add_field(fields, header_lines(content[end:stop])[0], "=")
        end = stop
    if fields.get("objecttype", "Image").lower() != "image":
        raise VolumeError("is a MetaIO file of another object than an image", "unreadable")
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
    big = stated is not None and _truth(stated)
    return np.dtype((">" if big else "<") + META_TYPES[name])


def _meta_affine(fields: Fields, axes: int) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Index -> LPS mm, and notes. Each row of the matrix is the direction of an array axis."""
    notes: list[str] = []
    factor = length_factor(fields.get("distanceunits", ""), notes)
    spacing, spaced = _meta_numbers(fields, ("elementspacing",), axes)
    if not spaced:
        spacing, spaced = _meta_numbers(fields, ("elementsize",), axes)
    if spaced and not spacing.all():
        raise VolumeError("states voxels of 0 mm: mend its header, or convert it anew", "bad_affine")
    origin, _ = _meta_numbers(fields, ORIGIN, axes)
    matrix, oriented = _meta_numbers(fields, DIRECTION, axes * axes)
    affine = np.eye(4)
    directions = matrix.reshape(axes, axes).T[:3, :3] if oriented else np.eye(3)
    affine[:3, :3] = directions * (spacing[:3] if spaced else 1.0) * factor
    affine[:3, 3] = origin[:3] * factor
    unstated = (*(() if oriented else (UNORIENTED,)), *(() if spaced else (UNSPACED,)))
    return affine, (*unstated, *notes)


def _meta_numbers(fields: Fields, names: Sequence[str], count: int) -> tuple[NDArray[np.float64], bool]:
    """The numbers of a field with several names, or zeros, and whether it is there."""
    text = _one_of(fields, names)
    return (np.zeros(count), False) if text is None else (numbers(text.split(), count, names[0]), True)


def _meta_offset(fields: Fields, source: Path, end: int, needed: int | None) -> int:
    """Where the encoded voxels begin: after the header, at a byte of the file, or (-1) so that the file ends with
    them."""
    size = whole_numbers(fields, "headersize", 1, 0)[0]
    if size == -1 and needed is not None:
        size = source.stat().st_size - needed
    elif size < 0:
        raise VolumeError(f"states a HeaderSize of {size}", "unreadable")
    if size and size < end:
        raise VolumeError("states that its voxels begin in its header", "unreadable")
    return size or end


def _one_of(fields: Fields, names: Sequence[str]) -> str | None:
    """The value of a field with several names."""
    found = [fields[name] for name in names if name in fields]
    if len(set(found)) > 1:
        raise VolumeError(f"states {names[0]} in two ways", "unreadable")
    return found[0] if found else None


def _boolean(fields: Fields, name: str) -> bool:
    return _truth(fields.get(name, "false"))


def _truth(text: str) -> bool:
    if text.lower() not in BOOLEANS:
        raise VolumeError(f"has {one_line(text, 20)!r} where True or False belongs", "unreadable")
    return BOOLEANS[text.lower()]


__all__ = [
    "HEADER_BYTES",
    "Fields",
    "add_field",
    "count_of_axes",
    "header_lines",
    "length_factor",
    "meta_header",
    "numbers",
    "voxel_file",
    "whole_numbers",
]
