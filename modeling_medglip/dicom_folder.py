# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The image series of a folder of DICOM files, whatever else lies in it.

Files are told apart by their headers, never by their names. Of the headers nothing about the patient is kept; that two
files are of one patient is all that is compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dicom_series import Stack, index_series
from .errors import MedGlipError, one_line
from .reading_dicom import DERIVED_CODES, silent
from .volume_source import StreamedSource, VolumeSource
from .volumes import VolumeError


TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "StudyInstanceUID", "PatientID", "PatientName", "Modality",
    "Rows", "Columns", "ImageType",
]  # fmt: skip
MAX_FILES = 100_000


@dataclass(frozen=True)
class FoundSeries:
    """The files of one image series.

    Attributes:
        files: in no order. number: the series' number in the study, for its name.
        notes: what was left out of it, one line each.
    """

    files: tuple[Path, ...]
    number: int | None = None
    notes: tuple[str, ...] = ()


def find_series(folder: Path, several_patients: bool = False) -> list[FoundSeries]:
    """The image series below a folder.

    Args:
        several_patients: take a folder with files of several patients; refused otherwise, since mixing them up is
            nearly always a mistake.

    Raises:
        `MedGlipError`: no image series, several patients, or more than `MAX_FILES` files; names the folder.
    """
    name = one_line(folder.name, 120)
    groups: dict[str, list[tuple[Path, Any]]] = {}
    patients: set[tuple[str, str]] = set()
    others = 0
    with silent():
        for file, header in _headers(folder, name):
            if header is None:
                others += 1
                continue
            patients.add((str(header.get("PatientID", "")), str(header.get("PatientName", ""))))
            groups.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((file, header))
    if len(patients) > 1 and not several_patients:
        raise MedGlipError(f"{name}: holds files of {len(patients)} patients: give a folder for each")
    found = [series for files in groups.values() if (series := _series(files, others)) is not None]
    if not found:
        raise MedGlipError(f"{name}: holds no DICOM image series ({others} other files)")
    return sorted(found, key=lambda series: (series.number is None, series.number or 0, -len(series.files)))


def _headers(folder: Path, name: str) -> Iterator[tuple[Path, Any]]:
    """Every file below a folder with its header, `None` for what is no DICOM image. Links are not followed."""
    import pydicom

    count = 0
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(place) / file
            if path.is_symlink() or not path.is_file():
                continue
            count += 1
            if count > MAX_FILES:
                raise MedGlipError(f"{name}: holds more than {MAX_FILES} files: give the folder of a study")
            yield path, _image_header(path, pydicom)


def _image_header(path: Path, pydicom: Any) -> Any:
    try:
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=TAGS)
        modality = str(header.get("Modality") or "").strip().upper()
        image = "Rows" in header and "Columns" in header and "SOPClassUID" in header
        return header if image and modality not in DERIVED_CODES else None
    except Exception:  # damaged files make pydicom raise nearly anything; read_series names those of a series
        return None


def _series(files: list[tuple[Path, Any]], others: int) -> FoundSeries | None:
    """Without its localizers; `None` if nothing else is in it."""
    kept = [(file, header) for file, header in files if not _is_localizer(header)]
    if not kept:
        return None
    notes = []
    if len(kept) < len(files):
        notes.append(f"{len(files) - len(kept)} localizer images left out")
    if others:
        notes.append(f"{others} files that are no images left out")
    number = kept[0][1].get("SeriesNumber")
    return FoundSeries(tuple(file for file, _ in kept), None if number is None else int(number), tuple(notes))


def _is_localizer(header: Any) -> bool:
    kinds = header.get("ImageType") or ()
    return any(str(kind).strip().upper() == "LOCALIZER" for kind in ([kinds] if isinstance(kinds, str) else kinds))


def open_series(found: FoundSeries, name: str, resample: bool = False) -> VolumeSource:
    """A series as a volume, read slice by slice where its files are slices.

    Args:
        name: of the folder, for messages and results. resample: see [`~modeling_medglip.dicom_series.index_series`].

    Raises:
        `VolumeError`: names the folder and what is wrong with its slices.
    """
    try:
        with silent():
            series = index_series(found.files, resample)
    except VolumeError as error:
        raise VolumeError(f"{one_line(name, 120)}: {error}", error.rule) from error
    notes = tuple(f"{rule.replace('_', ' ')}: {value}" for rule, value in series.notes)
    told = (name, series.modality, (*found.notes, *notes))
    source = _streamed(series, *told) if isinstance(series, Stack) else VolumeSource(series.volume, *told)
    source.stacked, source.dicom_files = True, series.files
    return source


def _streamed(stack: Stack, name: str, modality: str | None, notes: tuple[str, ...]) -> StreamedSource:
    slabs = stack.slabs
    slabs.name = one_line(name, 120)
    rows, columns = slabs.shape
    return StreamedSource(slabs, (columns, rows, len(slabs.slices)), slabs.affine, name, modality, notes)


__all__ = ["FoundSeries", "find_series", "open_series"]
