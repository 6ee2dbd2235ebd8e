# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The pixels of a DICOM series, file by file: one slice is in memory at a time. Needs pydicom (extra `clinical`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import one_line
from .geometry import Volume
from .reading_dicom import silent
from .volumes import MAX_BYTES, VolumeError


@dataclass(frozen=True)
class Slice:
    """A file, and how its stored numbers become values.

    Attributes:
        slope, intercept: the modality rescaling (PS3.3 C.11.1.1.2). High values are bright: those of pictures
            that say MONOCHROME1, and are not in Hounsfield units, are turned round.
        table: the file has a modality LUT in the place of a rescaling; its values are those of the table.
    """

    file: Path
    slope: float = 1.0
    intercept: float = 0.0
    table: bool = False

    @classmethod
    def of(cls, file: Path, header: Any) -> Slice:
        """From a header without pixels.

        Raises:
            `VolumeError`: a rescaling that is none.
        """
        table = "ModalityLUTSequence" in header and header.get("RescaleSlope") is None
        slope, intercept = float(header.get("RescaleSlope", 1) or 1), float(header.get("RescaleIntercept", 0) or 0)
        if not np.isfinite([slope, intercept]).all():
            raise VolumeError(f"{one_line(file.name, 60)}: a rescaling that is not finite", "unreadable")
        dark = str(header.get("PhotometricInterpretation", "")).strip().upper() == "MONOCHROME1"
        if dark and str(header.get("Modality") or "").upper() != "CT":
            slope, intercept = -slope, -intercept
            if not table:  # the largest stored number becomes the smallest: nothing turns negative
                signed = int(header.get("PixelRepresentation") or 0) == 1
                intercept = -intercept - slope * (-1 if signed else 2 ** int(header.get("BitsStored") or 16) - 1)
        return cls(file, slope, intercept, table)


class DicomSlabs:
    """The slices of a series in order, as [`~modeling_medglip.volumes.NiftiSlabs`] gives those of a NIfTI file.

    Args:
        slices: from first to last. shape: (rows, columns). affine: of the whole, LPS mm.
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
        for piece in self.slices[first:]:
            pixels = self._pixels(piece)
            line = (1.0, 0.0) if piece.table else (piece.slope, piece.intercept)
            yield Volume(pixels.T[:, :, None], self.affine, *line)

    def whole(self) -> Volume:
        """(columns, rows, slices) as stored, with slope and intercept; as float32 values where these differ.

        Raises:
            `VolumeError`: names the file and what is wrong.
        """
        rows, columns = self.shape
        lines = {(piece.slope, piece.intercept) for piece in self.slices}
        same = len(lines) == 1 and not any(piece.table for piece in self.slices)
        stack: NDArray[Any] = np.empty((0, rows, columns))
        for number, piece in enumerate(self.slices):
            pixels = self._pixels(piece)
            if number == 0:
                stack = np.empty((len(self.slices), rows, columns), dtype=pixels.dtype if same else np.float32)
            if same and not np.can_cast(pixels.dtype, stack.dtype):
                raise VolumeError("slices of several kinds of numbers", "mixed_series")
            raw = same or piece.table
            stack[number] = pixels if raw else pixels.astype(np.float32) * piece.slope + piece.intercept
        slope, intercept = lines.pop() if same else (1.0, 0.0)
        return Volume(stack.transpose(2, 1, 0), self.affine, slope, intercept)

    def _pixels(self, piece: Slice) -> NDArray:
        """Stored numbers (rows, columns), or the values of the modality LUT."""
        try:
            pixels = slice_pixels(piece.file)
            if piece.table:
                pixels = _by_table(pixels, piece)
            if pixels.shape != self.shape:
                raise VolumeError(f"{one_line(piece.file.name, 60)}: pixels of another size than stated", "unreadable")
        except VolumeError as error:
            raise VolumeError(f"{self.name}: {error}" if self.name else str(error), error.rule) from None
        return pixels


def slice_pixels(file: Path) -> NDArray:
    """Stored numbers of a file.

    Raises:
        `VolumeError`: they cannot be decoded.
    """
    import pydicom

    try:
        with silent():
            return pydicom.dcmread(file, force=True).pixel_array
    except Exception as error:  # decoders raise nearly anything
        reason = f"{one_line(file.name, 60)}: its pixels cannot be decoded ({type(error).__name__})"
        raise VolumeError(reason, "unreadable") from None


def _by_table(pixels: NDArray, piece: Slice) -> NDArray:
    import pydicom

    try:
        with silent():
            header = pydicom.dcmread(piece.file, force=True, stop_before_pixels=True)
            values = pydicom.pixels.apply_modality_lut(pixels, header).astype(np.float32)
    except Exception as error:  # damaged tables make pydicom raise nearly anything
        reason = f"{one_line(piece.file.name, 60)}: its modality LUT cannot be used ({type(error).__name__})"
        raise VolumeError(reason, "unreadable") from None
    return values if piece.slope > 0 else -values


__all__ = ["DicomSlabs", "Slice", "slice_pixels"]
