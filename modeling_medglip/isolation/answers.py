# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Answers of a reading worker, which may be compromised: taken in with bounds, and checked before they are used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import HINTS, Advice, Hint, MedGlipError, one_line
from ..io.dicom_pixels import GRAY
from ..io.image_record import ReadImage, check_pixels
from ..modalities import MODALITIES
from ..volumes.dicom_folder import FoundSeries
from ..volumes.geometry import Volume, empty_grid
from ..volumes.header import VolumeError
from ..volumes.source import SliceReference


MAX_HEADER_BYTES = 2**26
DTYPES = tuple(np.dtype(kind) for kind in "bBhHiIlLqQefdg")


class AnswerTooLarge(Exception):
    """The array of an answer exceeds the limit."""


@contextmanager
def checked(name: str) -> Iterator[None]:
    """Turn an invalid answer, whose sender may be compromised, into an error that names the input."""
    try:
        yield
    except MedGlipError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        message = f"{one_line(name, 120)}: its decoder gave an invalid answer"
        raise VolumeError(message, "unreadable") from None


def received(stream: Any, most: int) -> tuple[dict[str, Any], NDArray]:
    """Read one answer of the worker: header and array.

    Args:
        stream (`BinaryIO`): the pipe from the worker.
        most (`int`): bytes of the largest array that is taken.

    Raises:
        `EOFError`: it ends too early, or is not an answer. `AnswerTooLarge`: its array is too large.
    """
    length = int.from_bytes(_exactly(stream, 4), "big")
    if length > MAX_HEADER_BYTES:
        raise EOFError
    try:
        header = json.loads(_exactly(stream, length))
        shape = [int(side) for side in header.get("shape", (0,))]
        dtype = np.dtype(str(header.get("dtype", "|u1")))
        size = math.prod(shape) * dtype.itemsize
        valid = dtype in DTYPES and len(shape) <= 3 and min(shape) >= 0
        valid = valid and isinstance(header.get("peak_mb", 0), int) and isinstance(header.get("error", {}), dict)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise EOFError from None
    if not valid:
        raise EOFError
    if size > most:
        raise AnswerTooLarge
    array = np.empty(shape, dtype, order="F" if header.get("order") == "F" else "C")
    _fill(stream, memoryview(cast(Any, array.ravel(order="K"))).cast("B") if size else memoryview(b""))
    return header, array


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _fill(stream: Any, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        size = stream.readinto(buffer[done:])
        if not size:
            raise EOFError
        done += size


def image_of(stated: Any, pixels: NDArray) -> ReadImage:
    """Make an image of its pixels and what an answer states. Raises, as the functions below do, in `checked` only."""
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(pixels.shape)
    check_pixels(pixels.shape[1], pixels.shape[0])
    values = {field.name: _plain(stated[field.name]) for field in fields(ReadImage) if field.name != "pixels"}
    values["modality"] = values["modality"] if values["modality"] in MODALITIES else None
    shown = values["photometric_interpretation"]
    values["photometric_interpretation"] = shown if shown in GRAY else None
    if values["spacing_mm"] is not None:
        values["spacing_mm"] = _spacing(*values["spacing_mm"])
    return ReadImage(pixels, **values)


def hint_named(name: Any) -> Hint | None:
    """Return the hint of a name; `None` for anything else."""
    return next((hint for hint in HINTS if hint == name), None)


def note_of(stated: Any) -> str:
    """Make a warning of its text, or of its text and its hint."""
    if isinstance(stated, dict):
        return Advice(one_line(stated["text"], 500), hint_named(stated["hint"]))
    return one_line(stated, 500)


def _plain(value: Any) -> Any:
    """Return printable text, numbers, and lists of both as tuples."""
    if isinstance(value, (str, dict)):
        return note_of(value)
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    if value is None or isinstance(value, (int, float)):
        return value
    raise TypeError(type(value).__name__)


def _spacing(along_x: Any, along_y: Any) -> tuple[float, float]:
    spacing = float(along_x), float(along_y)
    if not (np.isfinite(spacing).all() and min(spacing) > 0):
        raise ValueError(spacing)
    return spacing


def grid_of(answer: dict[str, Any]) -> Volume:
    """Make a volume without voxels of a shape and an affine (LPS mm)."""
    i, j, k = (int(length) for length in answer["grid"])
    if min(i, j, k) < 1:
        raise ValueError(answer["grid"])
    return empty_grid((i, j, k), np.array(answer["affine"], np.float64))


def nifti_header_of(stated: Any) -> Any:
    """Make nibabel's header of its bytes."""
    if not stated:
        return None
    import nibabel

    block = bytes.fromhex(stated["block"])
    kinds = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    return kinds[len(block)](block, ">" if stated["order"] == ">" else "<", check=False)


def slice_reference_of(files: Sequence[Path], index: Any, frame: Any, position: Any) -> SliceReference:
    """Make the entry of a slice; its file is one of those that were asked for."""
    return SliceReference(files[int(index)], None if frame is None else int(frame), float(position))


def series_of(folder: Path, entry: Any) -> FoundSeries:
    """Make the entry of a series, whose files must lie below the folder."""
    names = [PurePath(str(name)) for name in entry["files"]]
    if not names or any(name.is_absolute() or ".." in name.parts for name in names):
        raise ValueError("files")
    number = entry["number"]
    notes = tuple(one_line(note, 500) for note in entry["notes"])
    number = None if number is None else int(number)
    return FoundSeries(tuple(folder / name for name in names), number, notes, entry["flat"] is True)


__all__ = [
    "AnswerTooLarge",
    "checked",
    "grid_of",
    "hint_named",
    "image_of",
    "nifti_header_of",
    "note_of",
    "received",
    "series_of",
    "slice_reference_of",
]
