# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Order the slices of a DICOM series, or the frames of an enhanced file, as one volume. Needs pydicom.

Only geometry, modality and the rescaling of values are kept of the headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Advice, MedGlipError, one_line
from ..io.dicom import functional_item, is_derived, mosaic_notes, stated_modality
from ..io.dicom_files import PIXEL_TAGS, open_dicom
from ..io.dicom_pixels import GRAY, PixelFormat, pixel_format
from ..io.quiet import silent
from .dicom_slices import GAP_TOLERANCE, DicomSlices, Slice
from .geometry import Volume
from .header import VolumeError, check_affine
from .reader import SliceReader, stack
from .resampled_slices import ResampledSlices


TAGS = [
    *PIXEL_TAGS, "SOPClassUID", "SeriesInstanceUID", "Modality", "ImageType", "ImageOrientationPatient",
    "ImagePositionPatient", "PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
SAME_POSITION_MM = 0.01
# Larger coordinates are damaged.
FARTHEST_MM = 1e6
# Tilts are noted from the smaller angle on. A gantry tilts by 30 degrees at most; beyond the larger angle slices do
# not form a stack.
MIN_TILT_DEGREES, MAX_TILT_DEGREES = 0.5, 45.0
# Largest distance of a slice from its position in an even stack, as a share of the distance between slices.
POSITION_TOLERANCE = 0.2
# Cosines of equal orientations differ by less than this.
ORIENTATION_TOLERANCE = 1e-3
SPACING_TOLERANCE_MM = 1e-3
# The cosine between the normals of a scout and the slices is below this.
MAX_SCOUT_COSINE = 0.98
FRAME_BY_FRAME = Advice("ground its frames one by one (frame=)", "frame")
# Required elements: their names in messages and how many numbers they hold.
REQUIRED = {
    "ImageOrientationPatient": ("orientation", 6),
    "ImagePositionPatient": ("position", 3),
    "PixelSpacing": ("pixel spacing", 2),
}


@dataclass(frozen=True)
class Series:
    """A series as a volume in memory.

    Args:
        volume ([`Volume`]): its third axis runs from slice to slice.
        modality (`str`, *optional*): one of `MODALITIES`.
        notes (`tuple[tuple[str, str], ...]`, *optional*): (rule, value) of repairs and warnings: `"duplicate_slices"`,
            `"gantry_tilt"`, `"mixed_series"`, `"resampled"`, `"incomplete_header"`, `"mosaic"`.
        files (`tuple[Path, ...]`, *optional*): in the order of the slices; a multi-frame file alone.
    """

    volume: Volume
    modality: str | None
    notes: tuple[tuple[str, str], ...] = ()
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SeriesIndex:
    """A series whose pixels are still on disk.

    Args:
        reader ([`SliceReader`]): its slices in order, with the affine of the whole.
        modality (`str`, *optional*): one of `MODALITIES`.
        notes (`tuple[tuple[str, str], ...]`, *optional*): as in [`Series`].
        slices (`tuple[Slice, ...]`, *optional*): of the files, in order.
        positions (`tuple[float, ...]`, *optional*): of `slices`, in voxels of the volume's last axis: 0, 1, 2 ...
            unless the volume's slices are interpolated.
    """

    reader: SliceReader
    modality: str | None
    notes: tuple[tuple[str, str], ...] = ()
    slices: tuple[Slice, ...] = ()
    positions: tuple[float, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Files in the order of the slices; a multi-frame file alone."""
        return tuple(dict.fromkeys(piece.file for piece in self.slices))


@dataclass(frozen=True)
class _Plane:
    """A slice and its position: LPS mm, (rows, columns), mm from row to row and from column to column."""

    piece: Slice
    orientation: NDArray[np.float64]
    position: NDArray[np.float64]
    spacing: NDArray[np.float64]
    shape: tuple[int, int]
    thickness: float

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.orientation[:3], self.orientation[3:])

    def is_parallel(self, other: _Plane) -> bool:
        return bool(np.abs(self.orientation - other.orientation).max() < ORIENTATION_TOLERANCE)


def read_series(paths: Sequence[str | Path], resample: bool = False) -> Series:
    """Read the slices of one series into memory.

    Args:
        paths (`Sequence[str | Path]`): in any order, or one multi-frame file.
        resample (`bool`, *optional*, defaults to `False`): see [`index_series`].

    Raises:
        `VolumeError`: as [`index_series`].
    """
    series = index_series(paths, resample)
    return Series(stack(series.reader), series.modality, series.notes, series.files)


def index_series(paths: Sequence[str | Path], resample: bool = False, name: str = "") -> SeriesIndex:
    """Order the slices of one series by their headers; pixels stay on disk.

    The affine keeps the shear of a tilted gantry. A single slice that crosses the others, as a scout does, is left out
    with a note.

    Args:
        paths (`Sequence[str | Path]`): in any order, or one multi-frame file.
        resample (`bool`, *optional*, defaults to `False`): interpolate evenly spaced slices where they are uneven or
            missing, instead of refusing them.
        name (`str`, *optional*, defaults to `""`): of the folder, for messages about slices that are read later.

    Raises:
        `VolumeError`: names the file and what to do; rule `"mixed_series"` for slices of several series, sizes or
            orientations, or to the side of the others, `"missing_slices"` for uneven distances, `"duplicate_slices"`
            for different slices at one position, `"no_geometry"`, `"unreadable"`, `"too_large"`, `"colour_volume"`.
    """
    with silent("pydicom"):
        images = [image for path in paths if (image := _image(Path(path))) is not None]
        if not images:
            raise VolumeError("no DICOM image among the files", "unreadable")
        if len({str(image.header.get("SeriesInstanceUID")) for image in images}) > 1:
            raise VolumeError("slices of several series: give a folder for each", "mixed_series")
        planes = [plane for image in images for plane in _planes(image, len(images) > 1)]
        series = _stack(planes, stated_modality(images[0].header), resample, name)
    return replace(series, notes=(*series.notes, *_header_notes(images)))


@dataclass(frozen=True)
class _Image:
    """An image file: its header, and how its pixels are stored."""

    file: Path
    header: Any
    stored_as: PixelFormat


def _image(file: Path) -> _Image | None:
    """Read the header of a file; `None` if it is not an image."""
    try:
        with open_dicom(file, TAGS) as opened:
            header = opened.header
            if "Rows" not in header or is_derived(header):
                return None
            stored_as = pixel_format(opened)
        if stored_as.photometric not in GRAY:
            advice = _as_images(stored_as)
            message = f"{_name(file)}: is in color and not a slice of a volume: {advice}"
            raise VolumeError(message, "colour_volume", hint=advice.hint)
        return _Image(file, header, stored_as)
    except VolumeError:
        raise
    except MedGlipError as error:
        raise VolumeError(f"{_name(file)}: {error}", "unreadable") from None
    except Exception as error:  # pydicom raises nearly anything for damaged files
        raise _damaged(file, error) from None


def _as_images(stored_as: PixelFormat) -> Advice:
    """Return the advice for a file that is not a slice."""
    return Advice("give the files one by one") if stored_as.frames == 1 else FRAME_BY_FRAME


def _header_notes(images: Sequence[_Image]) -> tuple[tuple[str, str], ...]:
    """Return the warnings of all headers, each once."""
    incomplete = [("incomplete_header", note) for image in images for note in image.stored_as.warnings]
    mosaics = [("mosaic", note) for image in images for note in mosaic_notes(image.header)]
    return tuple(dict.fromkeys([*incomplete, *mosaics]))


def _planes(image: _Image, several: bool) -> list[_Plane]:
    """Return the slice of a file, or the frames of a multi-frame file.

    Args:
        image ([`_Image`]): the file.
        several (`bool`): the file is one of several.
    """
    file, header, count = image.file, image.header, image.stored_as.frames
    try:
        if count == 1:
            return [_plane(image, None)]
        if several:
            reason = "holds several frames and is one of several files: give it by itself"
            raise VolumeError(f"{_name(file)}: {reason}", "mixed_series")
        if functional_item(header, 0, "PlanePositionSequence") is None:
            reason = f"its frames state no positions: {FRAME_BY_FRAME}"
            raise VolumeError(f"{_name(file)}: {reason}", "no_geometry", hint=FRAME_BY_FRAME.hint)
        if count > len(header.get("PerFrameFunctionalGroupsSequence") or ()):
            reason = f"states {count} frames, but fewer positions: {FRAME_BY_FRAME}"
            raise VolumeError(f"{_name(file)}: {reason}", "no_geometry", hint=FRAME_BY_FRAME.hint)
        return [_plane(image, frame) for frame in range(count)]
    except VolumeError:
        raise
    except Exception as error:  # invalid numbers, among others
        raise _damaged(file, error) from None


def _plane(image: _Image, frame: int | None) -> _Plane:
    file, header = image.file, image.header

    def group(name: str) -> Any:
        return functional_item(header, frame or 0, name) or header

    name = _name(file) if frame is None else f"{_name(file)}: frame {frame + 1}"
    orientation = _stated(group("PlaneOrientationSequence"), "ImageOrientationPatient", name)
    position = _stated(group("PlanePositionSequence"), "ImagePositionPatient", name)
    measures = group("PixelMeasuresSequence")
    spacing = _stated(measures, "PixelSpacing", name)
    rows = orientation.reshape(2, 3)
    if spacing.min() <= 0:
        raise VolumeError(
            f"{name}: its pixel spacing is not positive: correct it, or take the file out", "no_geometry"
        )
    if np.abs(rows @ rows.T - np.eye(2)).max() > 0.02:
        raise VolumeError(f"{name}: its orientation is invalid: correct it, or take the file out", "no_geometry")
    piece = Slice.of(file, header, image.stored_as, group("PixelValueTransformationSequence"), frame)
    shape = (image.stored_as.rows, image.stored_as.columns)
    return _Plane(piece, orientation, position, spacing, shape, float(measures.get("SliceThickness") or 1.0))


def _stated(group: Any, keyword: str, name: str) -> NDArray[np.float64]:
    """Return numbers of a header, all of them finite."""
    word, length = REQUIRED[keyword]
    values = group.get(keyword)
    if values is None or np.size(values) != length:
        raise VolumeError(f"{name}: states no {word} ({keyword}): correct it, or take the file out", "no_geometry")
    numbers = np.array(values, dtype=np.float64)
    if not (np.abs(numbers) < FARTHEST_MM).all():
        raise VolumeError(f"{name}: its {word} is not finite: correct it, or take the file out", "no_geometry")
    return numbers


def _stack(planes: list[_Plane], modality: str | None, resample: bool, name: str) -> SeriesIndex:
    planes, crossing = _one_orientation(planes)
    first = planes[0]
    along = np.array([plane.position @ first.normal for plane in planes])
    order, copies = _without_copies(np.argsort(along, kind="stable"), along, planes)
    chosen, along = [planes[index] for index in order], along[order]
    _check_line(chosen, along)
    uneven = _uneven(along, chosen)
    if uneven and not resample:
        raise VolumeError(uneven, "missing_slices", hint="resample")
    step, tilt = _step(chosen, along)
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * first.spacing[1]
    affine[:3, 1] = first.orientation[3:] * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, chosen[0].position
    check_affine((first.shape[1], first.shape[0], len(chosen)), affine)
    pieces = tuple(plane.piece for plane in chosen)
    reader, notes = DicomSlices(pieces, first.shape, affine, name), (*crossing, *copies, *tilt)
    if not uneven:
        return SeriesIndex(reader, modality, notes, pieces, tuple(map(float, range(len(chosen)))))
    even = ResampledSlices(reader, along)
    notes = (*notes, ("resampled", f"{even.shape[2]} even slices from {len(chosen)}"))
    return SeriesIndex(even, modality, notes, pieces, tuple(map(float, even.positions)))


def _one_orientation(planes: list[_Plane]) -> tuple[list[_Plane], tuple[tuple[str, str], ...]]:
    """Return the slices without single ones that cross the others; all have one size and orientation."""
    groups: list[list[_Plane]] = []
    for plane in planes:
        group = next((group for group in groups if group[0].is_parallel(plane)), None)
        if group is None:
            groups.append([plane])
        else:
            group.append(plane)
    main = max(groups, key=len)
    others = [group for group in groups if group is not main]
    lone = all(len(group) == 1 and abs(group[0].normal @ main[0].normal) < MAX_SCOUT_COSINE for group in others)
    if others and (len(main) < 3 or not lone):
        raise _differs(others[0][0], "orientation")
    for plane in main[1:]:
        if plane.shape != main[0].shape:
            raise _differs(plane, "size")
        if np.abs(plane.spacing - main[0].spacing).max() > SPACING_TOLERANCE_MM:
            raise _differs(plane, "pixel spacing")
    names = ", ".join(_name(group[0].piece.file) for group in others[:3])
    return main, ((("mixed_series", f"{names} left out, across the other slices"),) if others else ())


def _differs(plane: _Plane, what: str) -> VolumeError:
    advice = _separately(plane, "take it out, or give")
    reason = f"has another {what} than other slices of its series: {advice}"
    return VolumeError(f"{plane.piece.name}: {reason}", "mixed_series", hint=advice.hint)


def _separately(plane: _Plane, give: str = "give", each: str = "each") -> Advice:
    """Return the advice for slices that do not form one stack; frames of one file cannot be put in folders."""
    return Advice(f"{give} a folder for {each}") if plane.piece.frame is None else FRAME_BY_FRAME


def _without_copies(
    order: NDArray[np.int64], along: NDArray[np.float64], planes: Sequence[_Plane]
) -> tuple[NDArray[np.int64], tuple[tuple[str, str], ...]]:
    """Return the order without copies of slices, and a note about them."""
    unique: list[int] = []
    copies = 0
    for index in order.tolist():
        if unique and along[index] - along[unique[-1]] < SAME_POSITION_MM:
            first, second = planes[unique[-1]].piece, planes[index].piece
            if not np.array_equal(first.pixels(), second.pixels()):
                reason = f"{first.name} and {second.name} differ at one position: several phases or echoes;"
                advice = _separately(planes[index])
                raise VolumeError(f"{reason} {advice}", "duplicate_slices", hint=advice.hint)
            copies += 1
        else:
            unique.append(index)
    return np.array(unique), ((("duplicate_slices", f"{copies} copies left out"),) if copies else ())


def _check_line(planes: Sequence[_Plane], along: NDArray[np.float64]) -> None:
    """Refuse slices that jump to the side; with a tilted gantry all are shifted evenly."""
    if len(planes) < 2:
        return
    normal, distances = planes[0].normal, np.diff(along)
    aside = np.array([plane.position for plane in planes]) - along[:, None] * normal
    slope = np.median(np.diff(aside, axis=0) / distances[:, None], axis=0)
    off = np.linalg.norm(aside - aside[0] - slope * (along - along[0])[:, None], axis=1)
    wrong = np.flatnonzero(off > GAP_TOLERANCE * float(np.median(distances)))
    if len(wrong) or np.degrees(np.arctan(np.linalg.norm(slope))) > MAX_TILT_DEGREES:
        number = int(wrong[0]) if len(wrong) else 1
        distance = max(off[number], np.linalg.norm(aside[number] - aside[0]))
        advice = _separately(planes[number], each="each stack")
        reason = f"is {distance:.1f} mm to the side of the slices before: {advice}"
        raise VolumeError(f"{planes[number].piece.name}: {reason}", "mixed_series", hint=advice.hint)


def _uneven(along: NDArray[np.float64], planes: Sequence[_Plane]) -> str:
    """Return what is wrong with the distances of slices, naming the file before the first wrong one, else `""`."""
    if len(along) < 3:
        return ""
    distances = np.diff(along)
    usual = float(np.median(distances))
    off = np.abs(along - np.linspace(along[0], along[-1], len(along))) > POSITION_TOLERANCE * usual
    wrong = np.flatnonzero(np.abs(distances - usual) > GAP_TOLERANCE * usual)
    if not len(wrong) and not off.any():
        return ""
    name = planes[int(wrong[0]) if len(wrong) else int(np.flatnonzero(off)[0]) - 1].piece.name
    span = f"distances of slices from {distances.min():.2f} to {distances.max():.2f} mm"
    return f"{span}, the first uneven one after {name}: slices are missing, or interpolate them (resample=True)"


def _step(planes: Sequence[_Plane], along: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[Any, ...]]:
    """Return the step from slice to slice in LPS mm, and a note if it is not along the slices' normal."""
    normal = planes[0].normal
    if len(planes) == 1:
        thickness = planes[0].thickness
        return normal * (thickness if np.isfinite(thickness) and thickness > 0 else 1.0), ()
    step = (planes[-1].position - planes[0].position) / (len(planes) - 1)
    angle = float(np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1))))
    return step, ((("gantry_tilt", f"{angle:.1f} degrees"),) if angle > MIN_TILT_DEGREES else ())


def _name(file: Path) -> str:
    return one_line(file.name, 60)


def _damaged(file: Path, error: Exception) -> VolumeError:
    # pydicom's message may quote the header.
    return VolumeError(f"{_name(file)}: is damaged ({type(error).__name__}): repair it, or take it out", "unreadable")


__all__ = ["Series", "SeriesIndex", "index_series", "read_series"]
