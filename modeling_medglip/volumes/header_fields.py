# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Parse the text headers of NRRD and MetaImage by one strict grammar.

Headers may name files, and libraries disagree about what a line means. Only what this grammar accepts is a header, and
a file that it names is read only if the caller allows it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import one_line
from .header import VolumeError


HEADER_BYTES = 2**16
LINE_BYTES = 2**14
MAX_AXES = 16
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# Characters that a program may take for the end of a line or of a text.
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
Fields = dict[str, str]


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


def add_field(fields: Fields, line: str, separator: str) -> str:
    """Add a line `name separator value` to fields and return its name in lower case without spaces.

    Args:
        fields (`dict[str, str]`): takes the value.
        line (`str`): of the header.
        separator (`str`): between name and value.

    Raises:
        `VolumeError`: not such a line, or a repeated name.
    """
    name, separated, value = line.partition(separator)
    key = name.lower().replace(" ", "")
    if not separated or not key or not name[0].isalnum() or ("=" in name or ":" in name):
        raise VolumeError(f"has an invalid line in its header: {one_line(line, 40)!r}", "unreadable")
    if key in fields:
        raise VolumeError(f"states {one_line(name.strip(), 40)} twice", "unreadable")
    fields[key] = value.strip()
    return key


def whole_numbers(fields: Fields, name: str, count: int, default: int | None = None) -> list[int]:
    """Return the whole numbers of a field.

    Args:
        fields (`dict[str, str]`): of the header.
        name (`str`): of the field.
        count (`int`): how many numbers.
        default (`int`, *optional*): each number of a missing field.

    Raises:
        `VolumeError`: another count, or invalid numbers.
    """
    text = fields.get(name, "" if default is None else " ".join([str(default)] * count)).split()
    if len(text) != count or not all(re.fullmatch(r"[+-]?[0-9]{1,18}", word) for word in text):
        raise VolumeError(f"does not state {count} whole numbers as {name}", "unreadable")
    return [int(word) for word in text]


def count_of_axes(fields: Fields, name: str) -> int:
    """Return how many axes a header states.

    Args:
        fields (`dict[str, str]`): of the header.
        name (`str`): of the field.

    Raises:
        `VolumeError`: zero, more than `MAX_AXES`, or not a whole number.
    """
    axes = whole_numbers(fields, name, 1)[0]
    if not 1 <= axes <= MAX_AXES:
        raise VolumeError(f"states {axes} axes", "unreadable")
    return axes


def numbers(words: Sequence[str], count: int, name: str) -> NDArray[np.float64]:
    """Convert words to finite numbers.

    Args:
        words (`Sequence[str]`): one number each.
        count (`int`): how many.
        name (`str`): of the field, for messages.

    Raises:
        `VolumeError`: another count, or invalid numbers.
    """
    if len(words) == count and all(NUMBER.fullmatch(word) for word in words):
        values = np.array([float(word) for word in words])
        if np.isfinite(values).all():
            return values
    raise VolumeError(f"does not state {count} finite numbers as {name}", "bad_affine")


def voxel_file(header: Path, name: str, inside: Sequence[str], detached: bool) -> tuple[Path, bool]:
    """Return the file that holds the voxels, and whether that is the header's own.

    Args:
        header (`Path`): the file with the header.
        name (`str`): the file that the header names.
        inside (`Sequence[str]`): names that mean the header's own file.
        detached (`bool`): allow another file, by plain name in the same folder.

    Raises:
        `VolumeError`: another file that is not allowed, outside the folder, or missing.
    """
    if name in inside:
        return header, True
    plain, shown = name.removeprefix("./"), repr(one_line(name, 60))
    if not detached:
        raise VolumeError(
            f"has its voxels in another file, {shown}: convert it to one file (.nrrd, .mha)", "leaves_folder"
        )
    if plain.split(" ")[0].upper() == "LIST" or "%" in plain:
        raise VolumeError(f"has its voxels in many files, {shown}, which may be outside its folder", "leaves_folder")
    target = header.parent / plain
    if plain != target.name or "\\" in plain or target.resolve().parent != header.parent.resolve():
        raise VolumeError(f"points to {shown} outside its folder", "leaves_folder")
    if not target.is_file():
        raise VolumeError(f"points to {shown}, which is not a file in its folder", "unreadable")
    return target.resolve(), False


def length_factor(unit: str, notes: list[str]) -> float:
    """Return the mm in a unit of length.

    Args:
        unit (`str`): its name.
        notes (`list[str]`): takes a line about an unknown unit, which counts as mm.
    """
    if unit.strip() in UNKNOWN_UNITS:
        return 1.0
    factor = LENGTH_UNITS.get(unit.strip() if len(unit.strip()) == 1 else unit.strip().lower())
    note = f"its header counts in an unknown unit, {one_line(unit, 40)!r}: it is taken as mm"
    if factor is None and note not in notes:
        notes.append(note)
    return 1.0 if factor is None else factor


__all__ = [
    "HEADER_BYTES",
    "Fields",
    "add_field",
    "count_of_axes",
    "header_lines",
    "length_factor",
    "numbers",
    "voxel_file",
    "whole_numbers",
]
