# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reading a DICOM series as one volume, through pydicom; multi-frame files through highdicom.

Of the headers nothing but geometry, modality and the rescaling of values is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .configuration_medglip import resolve_modality
from .dicom_slices import DicomSlabs, Slice, slice_pixels
from .errors import one_line
from .geometry import Volume
from .reading_dicom import DERIVED_CODES
from .volumes import MAX_BYTES, VolumeError


TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "NumberOfFrames", "ImageOrientationPatient",
    "ImagePositionPatient", "PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept", "SamplesPerPixel",
    "ModalityLUTSequence", "PhotometricInterpretation", "PixelRepresentation", "BitsStored",
]  # fmt: skip
# Slices whose distances differ by more than this share of the usual one leave a gap, or are none of one stack.
GAP = 0.1
SAME_PLACE_MM = 0.01
TILT_DEGREES = 0.5


@dataclass(frozen=True)
class Series:
    """A series as a volume.

    Attributes:
        volume: see [`Volume`]; the third axis runs from slice to slice.
        modality: one of `MODALITIES`, or `None`.
        notes: (rule, value) of what was mended or should be known: `"duplicate_slices"`, `"gantry_tilt"`.
        files: in the order of the volume's slices; a multi-frame file alone.
    """

    volume: Volume
    modality: str | None
    notes: tuple[tuple[str, str], ...] = ()
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Stack:
    """A series whose pixels are still on disk.

    Attributes:
        slabs: its slices in order, with the affine of the whole. modality, notes, files: as in [`Series`].
    """

    slabs: DicomSlabs
    modality: str | None
    notes: tuple[tuple[str, str], ...] = ()
    files: tuple[Path, ...] = ()


def read_series(paths: Sequence[str | Path], resample: bool = False) -> Series:
    """Read the slices of one series, in any order, or one multi-frame file, into memory.

    Args, Raises:
        as [`index_series`].
    """
    found = index_series(paths, resample)
    if isinstance(found, Series):
        return found
    return Series(found.slabs.whole(), found.modality, found.notes, found.files)


def index_series(paths: Sequence[str | Path], resample: bool = False) -> Stack | Series:
    """Order the slices of one series by their headers; pixels are left on disk where that can be.

    A tilted gantry is no matter: the affine keeps the shear.

    Args:
        paths: in any order, or one multi-frame file.
        resample: interpolate slices at even distances where they are uneven or missing, instead of refusing them.

    Returns:
        a [`Stack`]; of multi-frame files and resampled slices a [`Series`] in memory.

    Raises:
        `VolumeError`: rule `"mixed_series"` for slices of several series or orientations, `"missing_slices"` for
            uneven distances, `"duplicate_slices"` for different slices in one place, `"no_geometry"`, `"unreadable"`,
            `"too_large"`, `"colour_volume"`.
    """
    try:
        import pydicom
    except ModuleNotFoundError:
        raise VolumeError('reading DICOM needs pydicom: pip install "med-glip[clinical]"', "unreadable") from None

    files = [Path(path) for path in paths]
    headers = [(file, _header(file, pydicom)) for file in files]
    images = [(file, header) for file, header in headers if header is not None]
    if not images:
        raise VolumeError("no DICOM image among the files", "unreadable")
    if len({str(header.get("SeriesInstanceUID")) for _, header in images}) > 1:
        raise VolumeError("slices of several series", "mixed_series")
    if int(images[0][1].get("NumberOfFrames") or 1) > 1:
        return _multi_frame(images)
    return _stack(images, resample)


def _header(file: Path, pydicom: Any) -> Any:
    """The geometry of a file, `None` if it is no image; whatever is wrong with it is unreadable."""
    try:
        header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=TAGS)
        if "Rows" not in header or str(header.get("Modality") or "").upper() in DERIVED_CODES:
            return None
        if int(header.get("SamplesPerPixel") or 1) != 1:
            raise VolumeError(
                f"{one_line(file.name, 60)}: is in colour, and no slice of a volume: give the files one by one",
                "colour_volume",
            )
        return header
    except VolumeError:
        raise
    except Exception as error:  # damaged files make pydicom raise nearly anything
        raise VolumeError(f"{one_line(file.name, 60)}: is damaged ({type(error).__name__})", "unreadable") from None


def _stack(images: list[tuple[Path, Any]], resample: bool = False) -> Stack | Series:
    try:
        orientations = np.array([header.ImageOrientationPatient for _, header in images], dtype=np.float64)
        positions = np.array([header.ImagePositionPatient for _, header in images], dtype=np.float64)
        spacings = np.array([header.PixelSpacing for _, header in images], dtype=np.float64)
    except (AttributeError, TypeError, ValueError):
        raise VolumeError("slices without orientation, position or spacing", "no_geometry") from None
    if not np.isfinite([*orientations.ravel(), *positions.ravel(), *spacings.ravel()]).all() or spacings.min() <= 0:
        raise VolumeError("orientation, position or spacing are missing, zero or not finite", "no_geometry")
    shapes = {(int(header.Rows), int(header.Columns)) for _, header in images}
    alike = np.abs(orientations - orientations[0]).max() < 1e-3 and np.abs(spacings - spacings[0]).max() < 1e-3
    if len(shapes) > 1 or not alike:
        raise VolumeError("slices of several sizes or orientations", "mixed_series")
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    order, notes = _without_copies(order, along, images)
    chosen = [images[index] for index in order]
    uneven = _uneven(along[order], chosen)
    if uneven and not resample:
        raise VolumeError(uneven, "missing_slices")
    step, tilt = _step(positions[order], along[order], normal, chosen[0][1])
    affine = np.eye(4)
    affine[:3, 0] = orientations[0, :3] * spacings[0, 1]
    affine[:3, 1] = orientations[0, 3:] * spacings[0, 0]
    affine[:3, 2], affine[:3, 3] = step, positions[order[0]]
    try:
        Volume(np.zeros((1, 1, 1), np.uint8), affine)
    except ValueError as error:
        raise VolumeError(str(error), "no_geometry") from None
    slabs = DicomSlabs([Slice.of(file, header) for file, header in chosen], shapes.pop(), affine)
    modality, notes = _modality(chosen[0][1]), (*notes, *tilt)
    if not uneven:
        return Stack(slabs, modality, notes, tuple(file for file, _ in chosen))
    whole = slabs.whole()
    array, affine[:3, 2] = _evened(whole.array, along[order], step)
    notes = (*notes, ("resampled", f"{array.shape[2]} even slices from {len(chosen)}"))
    return Series(Volume(array, affine, whole.slope, whole.intercept), modality, notes)


def _without_copies(
    order: NDArray[np.int64], along: NDArray[np.float64], images: list[tuple[Path, Any]]
) -> tuple[NDArray[np.int64], tuple[tuple[str, str], ...]]:
    """The order without slices that are there twice."""
    kept: list[int] = []
    copies = 0
    for index in order.tolist():
        if kept and along[index] - along[kept[-1]] < SAME_PLACE_MM:
            first, second = (slice_pixels(images[place][0]) for place in (kept[-1], index))
            if first.shape != second.shape or not np.array_equal(first, second):
                raise VolumeError("different slices in one place: several phases or echoes", "duplicate_slices")
            copies += 1
        else:
            kept.append(index)
    return np.array(kept), ((("duplicate_slices", f"{copies} copies left out"),) if copies else ())


def _uneven(along: NDArray[np.float64], images: Sequence[tuple[Path, Any]]) -> str:
    """What is wrong with the distances of slices, naming the file before the first wrong one; empty if nothing."""
    if len(along) < 3:
        return ""
    distances = np.diff(along)
    usual = float(np.median(distances))
    wrong = np.flatnonzero(np.abs(distances - usual) > GAP * usual)
    if not len(wrong):
        return ""
    span = f"distances of slices from {distances.min():.2f} to {distances.max():.2f} mm"
    name = one_line(images[int(wrong[0])][0].name, 60)
    return f"{span}, the first uneven one after {name}: slices are missing, or --resample them"


def _evened(
    array: NDArray, along: NDArray[np.float64], step: NDArray[np.float64]
) -> tuple[NDArray, NDArray[np.float64]]:
    """Slices at even distances, linear between their neighbours, and the step from one to the next in mm."""
    usual = float(np.median(np.diff(along)))
    total = float(along[-1] - along[0])
    count = max(2, round(total / usual) + 1)
    if array.shape[0] * array.shape[1] * count * 4 > MAX_BYTES:
        raise VolumeError(f"{count} even slices: more than {MAX_BYTES} bytes", "too_large")
    places = np.linspace(along[0], along[-1], count)
    right = np.clip(np.searchsorted(along, places), 1, len(along) - 1)
    share = ((places - along[right - 1]) / (along[right] - along[right - 1])).astype(np.float32)
    evened = np.empty((*array.shape[:2], count), np.float32)
    for number in range(count):
        before, after = array[:, :, right[number] - 1], array[:, :, right[number]]
        evened[:, :, number] = before * (1 - share[number]) + after * share[number]
    if array.dtype.kind in "iu":
        evened = np.rint(evened).astype(array.dtype)
    return evened, step * (len(along) - 1) / (count - 1)


def _step(
    positions: NDArray[np.float64], along: NDArray[np.float64], normal: NDArray[np.float64], header: Any
) -> tuple[NDArray[np.float64], tuple[tuple[str, str], ...]]:
    """mm from slice to slice, and a note if that is not along the slices' normal."""
    if len(positions) == 1:
        return normal * float(header.get("SliceThickness") or 1.0), ()
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    angle = float(np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1))))
    return step, ((("gantry_tilt", f"{angle:.1f} degrees"),) if angle > TILT_DEGREES else ())


def _multi_frame(images: list[tuple[Path, Any]]) -> Series:
    if len(images) > 1:
        raise VolumeError("several multi-frame files", "mixed_series")
    try:
        import highdicom
    except ModuleNotFoundError:
        raise VolumeError(
            'multi-frame DICOM needs highdicom: pip install "med-glip[clinical]"', "unreadable"
        ) from None
    try:
        found = highdicom.imread(str(images[0][0])).get_volume()
        return Series(_from_highdicom(found), _modality(images[0][1]), files=(images[0][0],))
    except VolumeError:
        raise
    except Exception as error:  # frames that are no stack, among much else
        raise VolumeError(f"its frames are no volume ({type(error).__name__})", "no_geometry") from None


def _from_highdicom(found: Any) -> Volume:
    """highdicom orders (slice, row, column); ours run (column, row, slice)."""
    affine = np.asarray(found.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
    return Volume(np.asarray(found.array).transpose(2, 1, 0), affine)


def _modality(header: Any) -> str | None:
    try:
        return resolve_modality(str(header.get("Modality") or ""))
    except ValueError:
        return None


# Label maps ----------------------------------------------------------------------------------------------------------


def read_segmentation(path: str | Path) -> list[tuple[Volume, str]]:
    """The segments of a DICOM SEG file, through highdicom: (mask of 0 and 1, the segment's label).

    Raises:
        `VolumeError`: no segmentation, or one that is no volume.
    """
    try:
        import highdicom
    except ModuleNotFoundError:
        raise VolumeError('DICOM SEG needs highdicom: pip install "med-glip[clinical]"', "unreadable") from None
    try:
        segmentation = highdicom.seg.segread(str(path))
        if segmentation.get_volume_geometry() is None:
            return _sheared_segments(segmentation)
        found = []
        for number in segmentation.segment_numbers:
            mask = segmentation.get_volume(segment_numbers=[number], rescale_fractional=True)
            volume = _from_highdicom(type(mask)(mask.array[..., 0], mask.affine, mask.coordinate_system))
            label = str(segmentation.get_segment_description(number).segment_label)
            found.append((Volume((volume.array > 0.5).astype(np.uint8), volume.affine), label))
        return found
    except VolumeError:
        raise
    except Exception as error:  # damaged files make both libraries raise nearly anything
        raise VolumeError(f"is no DICOM segmentation of a volume ({type(error).__name__})", "unreadable") from None


def _sheared_segments(segmentation: Any) -> list[tuple[Volume, str]]:
    """Segments whose frames are not stacked along their normal, as those of a tilted gantry, by the frames' own
    positions. Frames may be missing between others: what has none is empty."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=np.float64)
    measures = shared.PixelMeasuresSequence[0]
    frames = segmentation.PerFrameFunctionalGroupsSequence
    positions = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], dtype=np.float64)
    numbers = [int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for frame in frames]
    along = positions @ np.cross(orientation[:3], orientation[3:])
    places, first = np.unique(along.round(2), return_index=True)
    gaps = np.diff(places)
    if len(places) < 2 or np.abs(gaps / gaps.min() - np.rint(gaps / gaps.min())).max() > GAP:
        raise VolumeError("its frames are no stack", "missing_slices")
    index = np.rint((along - along.min()) / gaps.min()).astype(int)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * float(measures.PixelSpacing[1])
    affine[:3, 1] = orientation[3:] * float(measures.PixelSpacing[0])
    affine[:3, 2] = (positions[first[-1]] - positions[first[0]]) / index.max()
    affine[:3, 3] = positions[first[0]]
    pixels = segmentation.pixel_array > float(segmentation.get("MaximumFractionalValue") or 1) / 2
    if pixels[0].size * (int(index.max()) + 1) > MAX_BYTES:
        raise VolumeError(f"{index.max() + 1} slices", "too_large")
    found = []
    for number in segmentation.segment_numbers:
        mask = np.zeros((pixels.shape[2], pixels.shape[1], index.max() + 1), np.uint8)
        for frame in np.flatnonzero(np.array(numbers) == number):
            mask[:, :, index[frame]] = pixels[frame].T
        found.append((Volume(mask, affine), str(segmentation.get_segment_description(number).segment_label)))
    return found


def read_structures(path: str | Path, image: Volume) -> list[tuple[Volume, str]]:
    """The regions of an RTSTRUCT file on an image's grid: (mask of 0 and 1, the region's name).

    A voxel belongs to a region if its centre lies inside an odd number of the region's closed planar contours in that
    slice (PS3.3 C.8.8.6.3: contours within contours are holes).

    Raises:
        `VolumeError`: no structure set; `"affine_mismatch"` for contours that do not lie in the image's slices.
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(path, force=True)
        names = {int(item.ROINumber): str(item.ROIName) for item in dataset.StructureSetROISequence}
        regions = [
            (names.get(int(item.ReferencedROINumber), ""), list(item.get("ContourSequence") or ()))
            for item in dataset.ROIContourSequence
        ]
        contours = [
            (name, [np.array(c.ContourData, dtype=np.float64).reshape(-1, 3) for c in items if _is_closed(c)])
            for name, items in regions
        ]
    except Exception as error:  # damaged files make pydicom raise nearly anything
        raise VolumeError(f"is no structure set ({type(error).__name__})", "unreadable") from None
    return [(_filled(planar, image), name) for name, planar in contours if planar]


def _is_closed(contour: Any) -> bool:
    return str(contour.get("ContourGeometricType", "")).upper() in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def _filled(contours: list[NDArray[np.float64]], image: Volume) -> Volume:
    inverse = np.linalg.inv(image.affine)
    mask: NDArray[np.uint8] = np.zeros(image.array.shape, np.uint8)
    for points in contours:
        if len(points) < 3 or not np.isfinite(points).all():
            continue
        index = points @ inverse[:3, :3].T + inverse[:3, 3]
        slice_ = int(np.rint(index[:, 2].mean()))
        if np.abs(index[:, 2] - slice_).max() > 0.5:
            raise VolumeError("contours that do not lie in the image's slices", "affine_mismatch")
        if 0 <= slice_ < mask.shape[2]:
            mask[:, :, slice_] ^= fill_polygon(index[:, :2], (mask.shape[0], mask.shape[1]))
    return Volume(mask, image.affine)


def fill_polygon(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The whole-numbered places (i, j) of an array that lie inside a closed polygon (n, 2), by the even-odd rule."""
    inside = np.zeros(shape, np.uint8)
    i, j = points[:, 0], points[:, 1]
    next_i, next_j = np.roll(i, -1), np.roll(j, -1)
    for column in range(max(0, int(np.ceil(j.min()))), min(shape[1] - 1, int(np.floor(j.max()))) + 1):
        crossing = (j <= column) != (next_j <= column)
        share = (column - j[crossing]) / (next_j[crossing] - j[crossing])
        edges = np.sort(i[crossing] + share * (next_i[crossing] - i[crossing]))
        for start, end in zip(edges[0::2], edges[1::2], strict=True):
            inside[max(0, int(np.ceil(start))) : max(0, int(np.ceil(end))), column] = 1
    return inside


__all__ = ["Series", "Stack", "fill_polygon", "index_series", "read_segmentation", "read_series", "read_structures"]
