# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The pixels of a DICOM series, slice by slice: one file or frame is in memory at a time. Needs pydicom (extra
`clinical`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError, one_line
from ..io.dicom_files import PIXEL_TAGS, open_dicom, read_header
from ..io.dicom_pixels import PixelFormat, pixel_format, read_frame
from ..io.image_record import check_pixels
from ..io.quiet import silent
from .geometry import Volume
from .header import LARGEST_RESCALE
from .reader import MAX_BYTES, VolumeError


# Slices whose distances differ by more than this share of the usual one leave a gap, or are none of one stack.
GAP = 0.1


@dataclass(frozen=True)
class Slice:
    """A file or a frame of one, and how its stored numbers become values.

    Attributes:
        slope, intercept: the modality rescaling (PS3.3 C.11.1.1.2). High values are bright: those of pictures
            that say MONOCHROME1, and are not in Hounsfield units, are turned round.
        table: the file has a modality LUT in the place of a rescaling; its values are those of the table.
        frame: of a multi-frame file, counted from 0.
    """

    file: Path
    slope: float = 1.0
    intercept: float = 0.0
    table: bool = False
    frame: int | None = None

    @classmethod
    def of(cls, file: Path, header: Any, stored_as: PixelFormat, scaled: Any, frame: int | None = None) -> Slice:
        """From a header without pixels.

        Args:
            stored_as ([`PixelFormat`]): of the file. scaled: the part of the header that holds the rescaling.

        Raises:
            `VolumeError`: a rescaling that is not finite. `ValueError`: numbers that are none.
        """
        table = "ModalityLUTSequence" in header and scaled.get("RescaleSlope") is None
        slope, intercept = float(scaled.get("RescaleSlope", 1) or 1), float(scaled.get("RescaleIntercept", 0) or 0)
        if not (np.abs([slope, intercept]) <= LARGEST_RESCALE).all():
            raise VolumeError(f"{one_line(file.name, 60)}: a rescaling that is enormous or not finite", "unreadable")
        if stored_as.photometric == "MONOCHROME1" and str(header.get("Modality") or "").upper() != "CT":
            slope, intercept = -slope, -intercept
            if not table:  # the largest stored number becomes the smallest: nothing turns negative
                intercept = -intercept - slope * (-1 if stored_as.signed else stored_as.largest)
        return cls(file, slope, intercept, table, frame)

    @property
    def name(self) -> str:
        """For messages."""
        return one_line(self.file.name, 60) + ("" if self.frame is None else f": frame {self.frame + 1}")

    def pixels(self) -> NDArray:
        """Stored numbers (rows, columns).

        Raises:
            `VolumeError`: they cannot be decoded.
        """
        return slice_pixels(self.file) if self.frame is None else next(frame_pixels(self.file, [self.frame]))


class DicomSlabs:
    """The slices of a series in order, as [`~modeling_medglip.volumes.reader.VolumeFile`] gives those of a NIfTI file.

    Args:
        slices: from first to last, files, or frames of one file. shape: (rows, columns). affine: of the whole, LPS mm.
        name: of the series' folder, for messages of slices that are read later; none while its headers are read.

    Raises:
        `VolumeError`: so many and so large slices that nobody means it.
    """

    def __init__(
        self, slices: Sequence[Slice], shape: tuple[int, int], affine: NDArray[np.float64], name: str = ""
    ) -> None:
        self.slices, self.shape, self.affine, self.name = tuple(slices), shape, affine, name
        rows, columns = shape
        if rows * columns * len(slices) * 4 > MAX_BYTES:
            raise VolumeError(f"{len(slices)} slices of {columns}x{rows}: more than {MAX_BYTES} bytes", "too_large")

    def read(self, first: int = 0) -> Iterator[Volume]:
        """Slices from one on, each a [`Volume`] (columns, rows, 1) with the affine of the whole.

        Raises:
            `VolumeError`: names the file and what is wrong.
        """
        for piece, pixels in self._all_pixels(first):
            line = (1.0, 0.0) if piece.table else (piece.slope, piece.intercept)
            yield Volume(pixels.T[:, :, None], self.affine, *line)

    @property
    def count(self) -> int:
        """Number of slices."""
        return len(self.slices)

    def alike(self) -> bool:
        """Whether all slices become values in the same way."""
        lines = {(piece.slope, piece.intercept) for piece in self.slices}
        return len(lines) == 1 and not any(piece.table for piece in self.slices)

    def whole(self) -> Volume:
        """(columns, rows, slices) as stored, with slope and intercept; as float32 values where these differ.

        Raises:
            `VolumeError`: names the file and what is wrong.
        """
        rows, columns = self.shape
        same = self.alike()
        stack: NDArray[Any] = np.empty((0, rows, columns))
        for number, (piece, pixels) in enumerate(self._all_pixels()):
            if number == 0:
                stack = np.empty((len(self.slices), rows, columns), dtype=pixels.dtype if same else np.float32)
            if same and not np.can_cast(pixels.dtype, stack.dtype):
                told = f"{piece.name}: stores numbers of another kind than the slices before: give a folder for each"
                raise VolumeError(told, "mixed_series")
            raw = same or piece.table
            stack[number] = pixels if raw else pixels.astype(np.float32) * piece.slope + piece.intercept
        slope, intercept = (self.slices[0].slope, self.slices[0].intercept) if same else (1.0, 0.0)
        return Volume(stack.transpose(2, 1, 0), self.affine, slope, intercept)

    def _all_pixels(self, first: int = 0) -> Iterator[tuple[Slice, NDArray]]:
        """Slices with their stored numbers (rows, columns), or the values of the modality LUT."""
        pieces = self.slices[first:]
        frames = [piece.frame for piece in pieces if piece.frame is not None]
        stored = frame_pixels(pieces[0].file, frames) if frames else (slice_pixels(piece.file) for piece in pieces)
        try:
            for piece, pixels in zip(pieces, stored, strict=True):
                values = _by_table(pixels, piece) if piece.table else pixels
                if values.shape != self.shape:
                    raise VolumeError(f"{piece.name}: pixels of another size than stated", "unreadable")
                yield piece, values
        except VolumeError as error:
            raise VolumeError(f"{self.name}: {error}" if self.name else str(error), error.rule) from None


def slice_pixels(file: Path) -> NDArray:
    """Stored numbers of a file.

    Raises:
        `VolumeError`: they cannot be decoded.
    """
    return next(frame_pixels(file, [None]))


def frame_pixels(file: Path, frames: Sequence[int | None]) -> Iterator[NDArray]:
    """Stored numbers of frames (counted from 0) of a file, in their order; one is in memory at a time.

    Args:
        file (`Path`): the file. frames: `None` is the first, of a file that has no other.

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
            header = read_header(piece.file)
            values = pydicom.pixels.apply_modality_lut(pixels, header).astype(np.float32)
    except Exception as error:  # damaged tables make pydicom raise nearly anything
        reason = f"{one_line(piece.file.name, 60)}: its modality LUT cannot be used ({type(error).__name__})"
        raise VolumeError(reason, "unreadable") from None
    return values if piece.slope > 0 else -values


__all__ = ["GAP", "DicomSlabs", "Slice", "frame_pixels", "slice_pixels"]
