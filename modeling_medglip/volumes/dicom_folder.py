# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The image series of a folder of DICOM files, whatever else lies in it.

Files are told apart by their headers; a name only decides whether a file that cannot be read should have been a slice.
Of the headers nothing about the patient is kept; that two files are of one patient is all that is compared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MedGlipError, one_line
from ..io.dicom import DERIVED_CODES, functional_item
from ..io.dicom_files import is_marked, read_header, require_pydicom
from ..io.folders import MAX_FILES, is_named_input, is_output
from ..io.image import DICOM_ENDINGS
from ..io.quiet import silent
from ..modalities import resolve_modality
from .dicom_series import index_series
from .header import VolumeError
from .source import SliceReference, VolumeSource


TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "StudyInstanceUID", "PatientID", "PatientName", "Modality",
    "Rows", "Columns", "ImageType", "ImagePositionPatient",
]  # fmt: skip
IMAGE, OTHER, BROKEN, EMPTY = "image", "other", "broken", "empty"


@dataclass(frozen=True)
class FoundSeries:
    """The files of one image series.

    Attributes:
        files: in no order. number: the series' number in the study, for its name.
        notes: what was left out of it, one line each.
        flat: its files are images without a place in space (ultrasound, radiographs), each for itself.
    """

    files: tuple[Path, ...]
    number: int | None = None
    notes: tuple[str, ...] = ()
    flat: bool = False


@dataclass(frozen=True)
class _File:
    """A file of a folder: what it is, and of an image the patient, study and series, and whether it is a localizer."""

    path: Path
    kind: str
    patient: tuple[str, str] = ("", "")
    key: tuple[str, str] = ("", "")
    number: int | None = None
    localizer: bool = False
    flat: bool = False


def find_series(
    folder: Path, several_patients: bool = False, resample: bool = False, required: bool = True
) -> list[FoundSeries]:
    """The image series below a folder. Files with the name of another image or of a volume are passed over.

    Args:
        several_patients: take a folder with files of several patients; refused otherwise, since mixing them up is
            nearly always a mistake.
        resample: leave out, with a note, files that should be slices and cannot be read; refused otherwise.
        required: refuse a folder without a series.

    Raises:
        `MedGlipError`: no image series though one is required, several patients, a damaged file, or more than
            `MAX_FILES` files; names the folder.
    """
    require_pydicom()
    name = one_line(folder.name, 120)
    files = list(_files(folder, name))
    images = [file for file in files if file.kind == IMAGE]
    alike = {_pattern(file.path) for file in images}
    empty = [file for file in files if file.kind == EMPTY and (_named(file.path) or _pattern(file.path) in alike)]
    broken = [*empty, *(file for file in files if file.kind == BROKEN)]
    others = len(files) - len(images) - len(broken)
    if broken and not resample:
        told = f"{one_line(broken[0].path.name, 60)}: is {'empty' if broken[0].kind == EMPTY else 'damaged'}"
        raise MedGlipError(f"{name}: {told}, and may be a slice: mend or remove it, or leave it out (--resample)")
    patients = {file.patient for file in images if not file.flat}
    if len(patients) > 1 and not several_patients:
        told = f"holds files of {len(patients)} patients: give a folder for each, or --several-patients"
        raise MedGlipError(f"{name}: {told}")
    groups: dict[tuple[Any, ...], list[_File]] = {}
    for file in images:
        groups.setdefault(() if file.flat else (file.patient, file.key), []).append(file)
    notes = _left_out(broken, others)
    found = [series for group in groups.values() if (series := _series(group, notes)) is not None]
    if not found and required:
        raise MedGlipError(f"{name}: holds no DICOM image series ({others} other files)")
    return sorted(found, key=lambda series: (series.number is None, series.number or 0, -len(series.files)))


def _left_out(broken: Sequence[_File], others: int) -> tuple[str, ...]:
    names = ", ".join(one_line(file.path.name, 60) for file in broken[:3])
    damaged = (f"{len(broken)} damaged files left out: {names}",) if broken else ()
    return ((f"{others} files that are no images left out",) if others else ()) + damaged


def _named(path: Path) -> bool:
    """Whether a file's name says that it is DICOM; what macOS leaves beside files begins with a dot."""
    return path.name.lower().endswith(DICOM_ENDINGS) and not path.name.startswith(".")


def _pattern(path: Path) -> str:
    """A file's name, whatever its numbers."""
    return re.sub(r"\d+", "0", path.name.lower())


def _files(folder: Path, name: str) -> Iterator[_File]:
    """Every file below a folder. Links are not followed."""
    count = 0
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(place) / file
            if is_named_input(path) or is_output(path) or path.is_symlink() or not path.is_file():
                continue
            count += 1
            if count > MAX_FILES:
                raise MedGlipError(f"{name}: holds more than {MAX_FILES} files: give the folder of a study")
            with silent("pydicom"):
                yield _file(path)


def _file(path: Path) -> _File:
    try:
        if path.stat().st_size == 0:
            return _File(path, EMPTY)
        header = read_header(path, TAGS)
        kind = _kind(header, header.preamble is not None or _named(path))
        return _image(path, header) if kind == IMAGE else _File(path, kind)
    except Exception:  # damaged files make pydicom raise nearly anything
        return _File(path, BROKEN if _named(path) else OTHER)


def _kind(header: Any, expected: bool) -> str:
    """What a file is, by its header.

    Args:
        expected: name or first bytes say that it is DICOM.
    """
    stated = header.get("SOPClassUID") or getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID")
    if str(header.get("Modality") or "").strip().upper() in DERIVED_CODES:
        return OTHER
    if stated is not None and "Rows" in header and "Columns" in header:
        return IMAGE
    of_images = stated is None or "Image Storage" in getattr(stated, "name", "")
    return BROKEN if expected and of_images else OTHER


def _image(path: Path, header: Any) -> _File:
    kinds = header.get("ImageType") or ()
    shown = [str(kind).strip().upper() for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    key = (str(header.get("StudyInstanceUID") or ""), str(header.get("SeriesInstanceUID") or ""))
    return _File(path, IMAGE, _patient(header), key, _series_number(header), "LOCALIZER" in shown, _flat(header))


def _flat(header: Any) -> bool:
    """Whether an image is of a modality whose images are no slices, and has no place in space."""
    try:
        modality = resolve_modality(str(header.get("Modality") or ""))
    except ValueError:
        return False
    return modality not in ("ct", "mri") and "ImagePositionPatient" not in header


def _patient(header: Any) -> tuple[str, str]:
    """Whose file it is: the ID, or the name where there is none; in one spelling."""
    number = str(header.get("PatientID") or "").strip().casefold()
    name = str(header.get("PatientName") or "").strip(" ^").casefold()
    return (number, "") if number else ("", name)


def _series_number(header: Any) -> int | None:
    try:
        return int(header.get("SeriesNumber"))
    except Exception:  # none, or no number; it only names the series
        return None


def _series(files: list[_File], notes: tuple[str, ...]) -> FoundSeries | None:
    """Without its localizers; `None` if nothing else is in it."""
    kept = [file for file in files if not file.localizer]
    if not kept:
        return None
    if len(kept) < len(files):
        notes = (f"{len(files) - len(kept)} localizer images left out", *notes)
    return FoundSeries(tuple(file.path for file in kept), kept[0].number, notes, kept[0].flat)


def holds_slices(path: Path) -> bool:
    """Whether a file is a multi-frame DICOM image whose frames lie in space, as those of an enhanced CT or MR do."""
    try:
        if not is_marked(path) and not path.name.lower().endswith(DICOM_ENDINGS):
            return False
        tags = ["NumberOfFrames", "Modality", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
        with silent("pydicom"):
            header = read_header(path, tags)
            several = int(header.get("NumberOfFrames") or 1) > 1
            derived = str(header.get("Modality") or "").strip().upper() in DERIVED_CODES
            return several and not derived and functional_item(header, 0, "PlanePositionSequence") is not None
    except Exception:  # whatever is wrong with it, who reads it will say
        return False


def open_series(found: FoundSeries, name: str, resample: bool = False) -> VolumeSource:
    """A series as a volume, read slice by slice.

    Args:
        name: of the folder, for messages and results. resample: see [`~volumes.dicom_series.index_series`].

    Raises:
        `VolumeError`: names the folder and what is wrong with its slices.
    """
    shown = one_line(name, 120)
    try:
        stack = index_series(found.files, resample, shown)
    except VolumeError as error:
        raise VolumeError(f"{shown}: {error}", error.rule) from error
    notes = tuple(f"{rule.replace('_', ' ')}: {value}" for rule, value in stack.notes)
    slices = tuple(
        SliceReference(piece.file, None if piece.frame is None else piece.frame + 1, position)
        for piece, position in zip(stack.slices, stack.positions, strict=True)
    )
    return VolumeSource(stack.reader, name, stack.modality, (*found.notes, *notes), stacked=True, dicom_slices=slices)


__all__ = ["FoundSeries", "find_series", "holds_slices", "open_series"]
