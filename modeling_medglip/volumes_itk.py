# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reading NRRD and MetaImage through SimpleITK.

ITK fills in what a header leaves out, and calls a spacing of zero damage: the header's own lines are looked at first.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import one_line
from .geometry import Volume
from .volumes import Header, VolumeError, check_shape, checked_affine, made_volume


# Where MetaImage and NRRD headers name the file that their voxels are in.
DETACHED = re.compile(rb"^(?:ElementDataFile\s*=|data file:|datafile:)\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
HEADER_BYTES = 2**16
HERE = ("LOCAL", "local")
# Fields that say how the patient lies (NRRD's directions do only in a space that is named), and how large a voxel is.
ORIENTATION = ("space", "transformmatrix", "orientation", "rotation")
SPACING = ("spacings", "elementspacing", "elementsize")
UNORIENTED = "its header says nothing of orientation: left and right may be wrong; state the axes (--axes) to be sure"
UNSPACED = "its header says nothing of the size of voxels: they are taken as 1 mm, and mm are wrong if they are not"
_quiet = Lock()


def read_itk(file: Path, number: int | None = None) -> Volume:
    """A volume in memory.

    Args:
        number: which volume of a 4-D file, counted from 1.

    Raises:
        `VolumeError`: what is wrong, without the file's name.
    """
    reader, shape, affine = _opened(file, number)
    import SimpleITK

    if reader.GetDimension() > 3:  # only the one volume is read
        more = reader.GetDimension() - 3
        reader.SetExtractSize([*shape, *[0] * more])
        reader.SetExtractIndex([0, 0, 0, (number or 1) - 1, *[0] * (more - 1)])
    with _silent():
        image = reader.Execute()
    return made_volume(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0).reshape(shape), affine)


def itk_header(file: Path, number: int | None = None) -> Header:
    """Shape and affine (LPS mm) without voxels.

    Raises:
        `VolumeError`: what is wrong, without the file's name.
    """
    _, shape, affine = _opened(file, number)
    return shape, affine


def itk_notes(file: Path) -> tuple[str, ...]:
    """What a header that [`itk_header`] has accepted leaves out, one line each."""
    fields = _fields(file)
    oriented = any(name in fields for name in ORIENTATION)
    spaced = "space directions" in fields or any(name in fields for name in SPACING)
    return (() if oriented else (UNORIENTED,)) + (() if spaced else (UNSPACED,))


def _opened(file: Path, number: int | None) -> tuple[Any, tuple[int, int, int], NDArray[np.float64]]:
    """SimpleITK's reader of a file, checked by its header, and the volume's shape and affine; no voxel is read."""
    try:
        import SimpleITK
    except ModuleNotFoundError:
        raise VolumeError(
            'reading NRRD and MetaImage needs SimpleITK: pip install "med-glip[clinical]"', "unreadable"
        ) from None

    _check_detached(file)
    _check_spacing(_fields(file))
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(file))
    with _silent():
        reader.ReadImageInformation()
    if reader.GetNumberOfComponents() != 1:
        told = f"holds {reader.GetNumberOfComponents()} numbers per voxel: save one of them as a volume"
        raise VolumeError(told, "colour_volume")
    shape = _chosen(tuple(int(length) for length in reader.GetSize()), number)
    axes = reader.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(axes, axes)[:3, :3] * reader.GetSpacing()[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return reader, shape, checked_affine(affine)


def _chosen(size: tuple[int, ...], number: int | None) -> tuple[int, int, int]:
    """The shape of one volume of a file."""
    if len(size) not in (3, 4) and any(length != 1 for length in size[4:]) or len(size) < 3:
        raise VolumeError(f"has {len(size)} axes {size}, not three", "not_3d")
    count = size[3] if len(size) > 3 else 1
    if number is None and count > 1:
        raise VolumeError(f"has 4 axes {size}, not three: choose a volume from 1 to {count} (--volume)", "not_3d")
    if number is not None and not 1 <= number <= count:
        raise VolumeError(f"has {count} volumes, none of the number {number}", "not_3d")
    check_shape(size[:3], 8)
    return size[0], size[1], size[2]


def _fields(file: Path) -> dict[str, str]:
    """The lines of a header: lower-case name -> value."""
    with file.open("rb") as stream:
        content = stream.read(HEADER_BYTES)
    lines = re.split(rb"\r?\n\r?\n", content)[0].splitlines()
    between = ":" if content.startswith(b"NRRD") else "="
    found: dict[str, str] = {}
    for line in lines:
        name, mark, value = line.decode("latin-1").partition(between)
        if mark:
            found.setdefault(name.strip().lower(), value.strip())
        if name.strip().lower() == "elementdatafile":  # voxels follow
            break
    return found


def _check_spacing(fields: dict[str, str]) -> None:
    """Refuse voxels without a size, which ITK calls damage."""
    stated = [re.findall(r"[^\s,()]+", fields[name]) for name in SPACING if name in fields]
    vectors = re.findall(r"\(([^()]*)\)", fields.get("space directions", ""))
    stated += [["0"] for vector in vectors if not any(_number(value) for value in vector.split(","))]
    if any(_number(value) == 0 for values in stated for value in values):
        raise VolumeError("states voxels of 0 mm: mend its header, or convert it anew", "bad_affine")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "none", "nan": ITK's to judge
        return 1.0


def _check_detached(file: Path) -> None:
    """Refuse a header whose voxels lie in another folder, or behind a link."""
    with file.open("rb") as stream:
        found = DETACHED.search(stream.read(HEADER_BYTES).partition(b"\n\n")[0])
    name = found.group(1).decode("utf-8", "replace") if found else HERE[0]
    if name in HERE:
        return
    target = file.parent / name
    if name != Path(name).name or name.upper().startswith("LIST") or target.resolve().parent != file.parent.resolve():
        raise VolumeError(f"points to {one_line(name, 60)!r} outside its folder", "leaves_folder")


@contextmanager
def _silent() -> Iterator[None]:
    """ITK writes lines of its own to the process's stderr; the errors that it raises say enough."""
    with _quiet:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


__all__ = ["UNORIENTED", "itk_header", "itk_notes", "read_itk"]
