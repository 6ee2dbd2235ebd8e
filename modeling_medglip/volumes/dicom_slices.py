# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read the pixels of a DICOM series slice by slice. Needs pydicom (the extra `clinical`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError, one_line
from ..io.dicom_files import PIXEL_TAGS, open_dicom, read_dicom_header
from ..io.dicom_pixels import PixelFormat, pixel_format, read_frame
from ..io.image_record import check_pixels
from ..io.quiet import silent
from .geometry import Volume
from .header import MAX_BYTES, MAX_RESCALE, VolumeError


# Distances of slices that differ by more than this share of the median leave a gap.
GAP_TOLERANCE = 0.1


@dataclass(frozen=True)
class Slice:
    """A file or a frame of one, and how its stored numbers become values.

    Args:
        file (`Path`): the file.
        slope (`float`, *optional*, defaults to 1.0): of the modality rescaling (PS3.3 C.11.1.1.2). High values are
            bright: MONOCHROME1 images that are not in HU are inverted.
        intercept (`float`, *optional*, defaults to 0.0): of the modality rescaling.
        table (`bool`, *optional*, defaults to `False`): the file has a modality LUT instead of a rescaling.
        frame (`int`, *optional*): of a multi-frame file, counted from 0.
    """

    file: Path
    slope: float = 1.0
    intercept: float = 0.0
    table: bool = False
    frame: int | None = None

    @classmethod
    def of(cls, file: Path, header: Any, stored_as: PixelFormat, scaled: Any, frame: int | None = None) -> Slice:
        """Return the slice of a header.

        Args:
            file (`Path`): the file.
            header (`pydicom.Dataset`): its header.
            stored_as ([`PixelFormat`]): of the file.
            scaled (`pydicom.Dataset`): the part of the header that holds the rescaling.
            frame (`int`, *optional*): of a multi-frame file, counted from 0.

        Raises:
            `VolumeError`: a rescaling that is not finite. `ValueError`: invalid numbers.
        """
        table = "ModalityLUTSequence" in header and scaled.get("RescaleSlope") is None
        slope, intercept = float(scaled.get("RescaleSlope", 1) or 1), float(scaled.get("RescaleIntercept", 0) or 0)
        if not (np.abs([slope, intercept]) <= MAX_RESCALE).all():
            raise VolumeError(f"{one_line(file.name, 60)}: a rescaling that is enormous or not finite", "unreadable")
        if stored_as.photometric == "MONOCHROME1" and str(header.get("Modality") or "").upper() != "CT":
            slope, intercept = -slope, -intercept
            if not table:  # the largest stored number becomes the smallest: nothing turns negative
                intercept = -intercept - slope * (-1 if stored_as.signed else stored_as.largest)
        return cls(file, slope, intercept, table, frame)

    @property
    def name(self) -> str:
        """Name of the file, and of the frame, for messages."""
        return one_line(self.file.name, 60) + ("" if self.frame is None else f": frame {self.frame + 1}")

    def pixels(self) -> NDArray:
        """Return the stored numbers (rows, columns).

        Raises:
            `VolumeError`: they cannot be decoded.
        """
        return next(frame_pixels(self.file, [self.frame]))


class DicomSlices:
    """The slices of a DICOM series in order, a [`~volumes.reader.SliceReader`] of shape (columns, rows, slices).

    Args:
        slices (`Sequence[Slice]`): from first to last: files, or frames of one file.
        shape (`tuple[int, int]`): (rows, columns).
        affine (`np.ndarray` of shape `(4, 4)`): of the whole, index (column, row, slice) to LPS mm.
        name (`str`, *optional*, defaults to `""`): of the series' folder, for messages.

    Raises:
        `VolumeError`: too many or too large slices.
    """

    sequential = False

    def __init__(
        self, slices: Sequence[Slice], shape: tuple[int, int], affine: NDArray[np.float64], name: str = ""
    ) -> None:
        self._slices, self._name, self.affine = tuple(slices), name, affine
        rows, columns = shape
        self.shape = (columns, rows, len(slices))
        if rows * columns * len(slices) * 4 > MAX_BYTES:
            raise VolumeError(f"{len(slices)} slices of {columns}x{rows}: more than {MAX_BYTES} bytes", "too_large")

    def read(self, first: int = 0) -> Iterator[Volume]:
        """See [`~volumes.reader.SliceReader.read`]."""
        for piece, pixels in self._all_pixels(first):
            rescale = (1.0, 0.0) if piece.table else (piece.slope, piece.intercept)
            yield Volume(pixels.T[:, :, None], self.affine, *rescale)

    def _all_pixels(self, first: int = 0) -> Iterator[tuple[Slice, NDArray]]:
        """Yield slices with their stored numbers (rows, columns), or the values of the modality LUT."""
        pieces = self._slices[first:]
        frames = [piece.frame for piece in pieces if piece.frame is not None]
        stored = frame_pixels(pieces[0].file, frames) if frames else (piece.pixels() for piece in pieces)
        try:
            for piece, pixels in zip(pieces, stored, strict=True):
                values = _by_table(pixels, piece) if piece.table else pixels
                if values.shape != self.shape[1::-1]:
                    raise VolumeError(f"{piece.name}: pixels of another size than stated", "unreadable")
                yield piece, values
        except VolumeError as error:
            raise VolumeError(f"{self._name}: {error}" if self._name else str(error), error.rule) from None


def frame_pixels(file: Path, frames: Sequence[int | None]) -> Iterator[NDArray]:
    """Yield the stored numbers of frames of a file; one is in memory at a time.

    Args:
        file (`Path`): the file.
        frames (`Sequence[int | None]`): counted from 0; `None` for the only frame of a file.

    Raises:
        `VolumeError`: they cannot be decoded; names file and frame.
    """
    name = one_line(file.name, 60)
    try:
        with open_dicom(file, PIXEL_TAGS) as opened:
            stored_as = pixel_format(opened)
            check_pixels(stored_as.columns, stored_as.rows)
            for frame in frames:
                name = one_line(file.name, 60) + ("" if frame is None else f": frame {frame + 1}")
                yield read_frame(opened, stored_as, frame or 0).pixels
    except MedGlipError as error:
        raise VolumeError(f"{name}: {error}", "unreadable") from None


def _by_table(pixels: NDArray, piece: Slice) -> NDArray:
    import pydicom

    try:
        with silent("pydicom"):
            header = read_dicom_header(piece.file)
            values = pydicom.pixels.apply_modality_lut(pixels, header).astype(np.float32)
    except Exception as error:  # pydicom raises nearly anything for damaged tables
        reason = f"{one_line(piece.file.name, 60)}: its modality LUT cannot be used ({type(error).__name__})"
        raise VolumeError(reason, "unreadable") from None
    return values if piece.slope > 0 else -values


__all__ = ["GAP_TOLERANCE", "DicomSlices", "Slice", "frame_pixels"]
