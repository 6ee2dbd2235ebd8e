# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read DICOM segmentations (SEG, with highdicom) and structure sets (RTSTRUCT, with pydicom) as label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import install_hint
from ..io.dicom import functional_item
from ..io.dicom_files import PIXEL_TAGS, open_dicom, read_dataset, read_dicom_header
from ..io.dicom_pixels import pixel_format, read_frame
from ..io.quiet import silent
from .dicom_slices import GAP_TOLERANCE
from .geometry import Volume
from .header import MAX_BYTES, VolumeError


def read_segmentation(path: str | Path) -> list[tuple[Volume, str]]:
    """Read the segments of a DICOM SEG file.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        `list[tuple[Volume, str]]`: mask of 0 and 1 (column, row, slice) with its affine to LPS mm, and the segment's
        label.

    Raises:
        `VolumeError`: not a segmentation, or its frames do not form a volume.
    """
    try:
        import highdicom
    except ModuleNotFoundError:
        raise VolumeError(f"DICOM SEG needs highdicom: {install_hint('clinical')}", "unreadable") from None
    try:
        with silent("pydicom"):
            segmentation = highdicom.seg.Segmentation.from_dataset(_native_dataset(path), copy=False)
        if segmentation.get_volume_geometry() is None:
            return _sheared_segments(segmentation)
        segments = []
        for number in segmentation.segment_numbers:
            mask = segmentation.get_volume(segment_numbers=[number], rescale_fractional=True)
            label = str(segmentation.get_segment_description(number).segment_label)
            # highdicom orders axes as (slice, row, column, segment).
            array = (np.asarray(mask.array)[..., 0].transpose(2, 1, 0) > 0.5).astype(np.uint8)
            affine = np.asarray(mask.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
            segments.append((Volume(array, affine), label))
        return segments
    except VolumeError:
        raise
    except Exception as error:  # both libraries raise nearly anything for damaged files
        raise VolumeError(f"is not a DICOM segmentation of a volume ({type(error).__name__})", "unreadable") from None


def _native_dataset(path: str | Path) -> Any:
    """Read a file with its pixels, decompressed by this package's choice of decoder, not by pydicom's."""
    import pydicom

    with open_dicom(path, PIXEL_TAGS) as opened:
        stored_as = pixel_format(opened)
        if stored_as.rows * stored_as.columns * stored_as.frames > MAX_BYTES:
            raise VolumeError(f"{stored_as.frames} frames of {stored_as.columns}x{stored_as.rows}", "too_large")
        if opened.pixel_bytes is not None:
            return read_dataset(path)
        pixels = b"".join(read_frame(opened, stored_as, frame).pixels.tobytes() for frame in range(stored_as.frames))
    dataset = read_dataset(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OW" if stored_as.allocated > 8 else "OB"
    return dataset


def _sheared_segments(segmentation: Any) -> list[tuple[Volume, str]]:
    """Read segments whose frames are not stacked along their normal, as those of a tilted gantry.

    Missing frames are empty.
    """
    plane = functional_item(segmentation, 0, "PlaneOrientationSequence")
    orientation = np.array(plane.ImageOrientationPatient, dtype=np.float64)
    measures = functional_item(segmentation, 0, "PixelMeasuresSequence")
    frames = segmentation.PerFrameFunctionalGroupsSequence
    positions = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], dtype=np.float64)
    numbers = [  # shared by all frames where there is one segment
        int(functional_item(segmentation, frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        for frame in range(len(frames))
    ]
    along = positions @ np.cross(orientation[:3], orientation[3:])
    positions_mm, first = np.unique(along.round(2), return_index=True)
    gaps = np.diff(positions_mm)
    if len(positions_mm) < 2 or np.abs(gaps / gaps.min() - np.rint(gaps / gaps.min())).max() > GAP_TOLERANCE:
        raise VolumeError("its frames do not form a stack", "missing_slices")
    index = np.rint((along - along.min()) / gaps.min()).astype(int)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * float(measures.PixelSpacing[1])
    affine[:3, 1] = orientation[3:] * float(measures.PixelSpacing[0])
    affine[:3, 2] = (positions[first[-1]] - positions[first[0]]) / index.max()
    affine[:3, 3] = positions[first[0]]
    pixels = segmentation.pixel_array > float(segmentation.get("MaximumFractionalValue") or 1) / 2
    if pixels[0].size * (int(index.max()) + 1) > MAX_BYTES:
        raise VolumeError(f"{index.max() + 1} slices", "too_large")
    segments = []
    for number in segmentation.segment_numbers:
        mask = np.zeros((pixels.shape[2], pixels.shape[1], index.max() + 1), np.uint8)
        for frame in np.flatnonzero(np.array(numbers) == number):
            mask[:, :, index[frame]] = pixels[frame].T
        segments.append((Volume(mask, affine), str(segmentation.get_segment_description(number).segment_label)))
    return segments


def read_structures(path: str | Path, image: Volume) -> list[tuple[Volume, str]]:
    """Read the regions of an RTSTRUCT file on an image's grid.

    A voxel belongs to a region if its center is inside an odd number of the region's closed planar contours in that
    slice (PS3.3 C.8.8.6.3: contours within contours are holes).

    Args:
        path (`str` or `Path`): the file.
        image ([`Volume`]): the image; only its grid counts.

    Returns:
        `list[tuple[Volume, str]]`: mask of 0 and 1 (i, j, k) on the image's grid, and the region's name.

    Raises:
        `VolumeError`: not a structure set; `"affine_mismatch"` for contours outside the image's slices.
    """
    try:
        dataset = read_dicom_header(path)
        names = {int(item.ROINumber): str(item.ROIName) for item in dataset.StructureSetROISequence}
        regions = [
            (names.get(int(item.ReferencedROINumber), ""), list(item.get("ContourSequence") or ()))
            for item in dataset.ROIContourSequence
        ]
        contours = [
            (name, [np.array(c.ContourData, dtype=np.float64).reshape(-1, 3) for c in items if _is_closed(c)])
            for name, items in regions
        ]
    except Exception as error:  # pydicom raises nearly anything for damaged files
        raise VolumeError(f"is not a structure set ({type(error).__name__})", "unreadable") from None
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
            raise VolumeError("contours are not in the image's slices", "affine_mismatch")
        if 0 <= slice_ < mask.shape[2]:
            mask[:, :, slice_] ^= fill_polygon(index[:, :2], (mask.shape[0], mask.shape[1]))
    return Volume(mask, image.affine)


def fill_polygon(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a mask of 0 and 1 of the pixels whose centers are inside a closed polygon, by the even-odd rule.

    Args:
        points (`np.ndarray` of shape `(n, 2)`): corners (i, j) in pixels; integers are centers.
        shape (`tuple[int, int]`): of the mask.
    """
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


__all__ = ["fill_polygon", "read_segmentation", "read_structures"]
