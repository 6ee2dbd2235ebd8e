# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Find the image series in a folder of DICOM files and open them as volumes.

Headers decide what a file is; its name only decides whether an unreadable file should have been a slice. Patient data
is compared to tell patients apart, and not kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MedGlipError, one_line
from ..io.dicom import functional_item, image_types, is_derived, stated_modality
from ..io.dicom_files import has_dicom_prefix, read_dicom_header, require_pydicom
from ..io.file_endings import DICOM_ENDINGS
from ..io.folders import MAX_FILES, is_named_input, is_output
from ..io.quiet import silent
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

    Args:
        files (`tuple[Path, ...]`): in any order.
        number (`int`, *optional*): SeriesNumber.
        notes (`tuple[str, ...]`, *optional*): what was left out, one line each.
        flat (`bool`, *optional*, defaults to `False`): the files are single images without a position in the patient,
            such as ultrasound or radiographs.
    """

    files: tuple[Path, ...]
    number: int | None = None
    notes: tuple[str, ...] = ()
    flat: bool = False


@dataclass(frozen=True)
class _File:
    """What the header of a file says: its kind and, of an image, patient, study, series and type."""

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
    """Find the image series below a folder. Files named as other images or volumes are skipped.

    Args:
        folder (`Path`): searched with all its subfolders; links are not followed.
        several_patients (`bool`, *optional*, defaults to `False`): accept files of several patients, which is nearly
            always a mistake.
        resample (`bool`, *optional*, defaults to `False`): leave out damaged files, with a note, instead of refusing
            the folder.
        required (`bool`, *optional*, defaults to `True`): refuse a folder without a series.

    Returns:
        `list[FoundSeries]`: by series number.

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
        reason = f"{one_line(broken[0].path.name, 60)}: is {'empty' if broken[0].kind == EMPTY else 'damaged'}"
        message = f"{name}: {reason}, and may be a slice: repair or remove it, or leave it out (resample=True)"
        raise MedGlipError(message, hint="resample")
    patients = {file.patient for file in images if not file.flat}
    if len(patients) > 1 and not several_patients:
        reason = f"holds files of {len(patients)} patients: give a folder for each, or pass several_patients=True"
        raise MedGlipError(f"{name}: {reason}", hint="several_patients")
    groups: dict[tuple[Any, ...], list[_File]] = {}
    for file in images:
        groups.setdefault(() if file.flat else (file.patient, file.key), []).append(file)
    notes = _left_out(broken, others)
    all_series = [series for group in groups.values() if (series := _series(group, notes)) is not None]
    if not all_series and required:
        raise MedGlipError(f"{name}: holds no DICOM image series ({others} other files)")
    return sorted(all_series, key=lambda series: (series.number is None, series.number or 0, -len(series.files)))


def _left_out(broken: Sequence[_File], others: int) -> tuple[str, ...]:
    names = ", ".join(one_line(file.path.name, 60) for file in broken[:3])
    damaged = (f"{len(broken)} damaged files left out: {names}",) if broken else ()
    return ((f"{others} files that are not images left out",) if others else ()) + damaged


def _named(path: Path) -> bool:
    """Return whether a file has a DICOM name; files of macOS that begin with a dot do not count."""
    return path.name.lower().endswith(DICOM_ENDINGS) and not path.name.startswith(".")


def _pattern(path: Path) -> str:
    """Return a file's name with its numbers replaced."""
    return re.sub(r"\d+", "0", path.name.lower())


def _files(folder: Path, name: str) -> Iterator[_File]:
    """Yield every file below a folder. Links are not followed."""
    count = 0
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(parent) / file
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
        header = read_dicom_header(path, TAGS)
        kind = _kind(header, header.preamble is not None or _named(path))
        return _image(path, header) if kind == IMAGE else _File(path, kind)
    except Exception:  # pydicom raises nearly anything for damaged files
        return _File(path, BROKEN if _named(path) else OTHER)


def _kind(header: Any, expected: bool) -> str:
    """Return the kind of a file by its header.

    Args:
        header (`pydicom.Dataset`): with what `TAGS` name.
        expected (`bool`): its name or first bytes say that it is DICOM.
    """
    stated = header.get("SOPClassUID") or getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID")
    if is_derived(header):
        return OTHER
    if stated is not None and "Rows" in header and "Columns" in header:
        return IMAGE
    of_images = stated is None or "Image Storage" in getattr(stated, "name", "")
    return BROKEN if expected and of_images else OTHER


def _image(path: Path, header: Any) -> _File:
    key = (str(header.get("StudyInstanceUID") or ""), str(header.get("SeriesInstanceUID") or ""))
    return _File(
        path, IMAGE, _patient(header), key, _series_number(header), "LOCALIZER" in image_types(header), _flat(header)
    )


def _flat(header: Any) -> bool:
    """Return whether an image has no position in the patient and a modality without slices."""
    modality = stated_modality(header)
    return modality not in (None, "ct", "mri") and "ImagePositionPatient" not in header


def _patient(header: Any) -> tuple[str, str]:
    """Return the patient's ID, else the name, in one spelling."""
    number = str(header.get("PatientID") or "").strip().casefold()
    name = str(header.get("PatientName") or "").strip(" ^").casefold()
    return (number, "") if number else ("", name)


def _series_number(header: Any) -> int | None:
    try:
        return int(header.get("SeriesNumber"))
    except Exception:  # missing or not a number; it only names the series
        return None


def _series(files: list[_File], notes: tuple[str, ...]) -> FoundSeries | None:
    """Return a series without its localizers; `None` if there is nothing else."""
    slices = [file for file in files if not file.localizer]
    if not slices:
        return None
    if len(slices) < len(files):
        notes = (f"{len(files) - len(slices)} localizer images left out", *notes)
    return FoundSeries(tuple(file.path for file in slices), slices[0].number, notes, slices[0].flat)


def holds_slices(path: Path) -> bool:
    """Return whether a file is a multi-frame DICOM image with a position for each frame, such as enhanced CT or MR.

    Args:
        path (`Path`): any file.
    """
    try:
        if not has_dicom_prefix(path) and not path.name.lower().endswith(DICOM_ENDINGS):
            return False
        tags = ["NumberOfFrames", "Modality", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
        with silent("pydicom"):
            header = read_dicom_header(path, tags)
            several = int(header.get("NumberOfFrames") or 1) > 1
            return (
                several and not is_derived(header) and functional_item(header, 0, "PlanePositionSequence") is not None
            )
    except Exception:  # reading the file raises its own error
        return False


def open_series(found_series: FoundSeries, name: str, resample: bool = False) -> VolumeSource:
    """Open a series as a volume that is read slice by slice.

    Args:
        found_series ([`FoundSeries`]): from [`find_series`].
        name (`str`): of the folder, for messages and results.
        resample (`bool`, *optional*, defaults to `False`): see [`~volumes.dicom_series.index_series`].

    Raises:
        `VolumeError`: names the folder and what is wrong with its slices.
    """
    shown = one_line(name, 120)
    try:
        series = index_series(found_series.files, resample, shown)
    except VolumeError as error:
        raise VolumeError(f"{shown}: {error}", error.rule, hint=error.hint) from error
    notes = tuple(f"{rule.replace('_', ' ')}: {value}" for rule, value in series.notes)
    slices = tuple(
        SliceReference(piece.file, None if piece.frame is None else piece.frame + 1, position)
        for piece, position in zip(series.slices, series.positions, strict=True)
    )
    notes = (*found_series.notes, *notes)
    return VolumeSource(series.reader, name, series.modality, notes, stacked=True, dicom_slices=slices)


__all__ = ["FoundSeries", "find_series", "holds_slices", "open_series"]
