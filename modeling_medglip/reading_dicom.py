# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""One frame of a DICOM file as a [`ReadImage`]. Needs pydicom (the extra `clinical`).

pydicom's own messages may quote header values, names among them; they are never passed on.
"""

from __future__ import annotations

import math
import zlib
from typing import IO, Any

import numpy as np

from .errors import MedGlipError
from .modalities import resolve_modality
from .quiet import silent
from .reading import MAX_BYTES, ReadImage, check_pixels, choose_frame, compact


JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
DEFLATED = "1.2.840.10008.1.2.1.99"
# Codes of DICOM's Modality that say nothing about the picture.
SILENT_CODES = ("", "OT", "SC")
# Pixels that are results, not images.
DERIVED_CODES = ("SEG", "RTDOSE", "RTPLAN", "RTSTRUCT", "SR", "PR", "KO", "ECG")
GREY = ("MONOCHROME1", "MONOCHROME2")


def read_dicom(stream: IO[bytes], frame: int | None) -> ReadImage:
    """Read one frame of an open DICOM file.

    Args:
        stream: the file, opened for reading bytes, at its start.
        frame (`int`, *optional*): counted from 1; the first without it.

    Raises:
        `MedGlipError`: pydicom is missing, or the file is no picture, too large or damaged.
    """
    try:
        import pydicom
    except ImportError:
        raise MedGlipError('is a DICOM file: reading it needs pydicom, pip install "med-glip[clinical]"') from None
    try:
        with silent("pydicom"):
            _check_deflated(stream, pydicom)
            return _decoded(stream, frame, pydicom)
    except (MedGlipError, MemoryError):
        raise
    except Exception as error:  # damaged files make pydicom raise nearly anything
        raise MedGlipError(f"is a damaged or unreadable DICOM file ({type(error).__name__})") from error


def _check_deflated(stream: IO[bytes], pydicom: Any) -> None:
    """A deflated file is inflated whole by pydicom: count its bytes first, without keeping them."""
    try:
        pydicom.filereader.read_preamble(stream, False)
        meta = pydicom.filereader._read_file_meta_info(stream)
        if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
            return
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflater.eof:
            chunk = inflater.unconsumed_tail or stream.read(1 << 16)
            if not chunk:
                return
            total += len(inflater.decompress(chunk, 1 << 20))
            if total > MAX_BYTES:
                raise MedGlipError(f"inflates to more than {MAX_BYTES} bytes")
    except pydicom.errors.InvalidDicomError:
        return
    finally:
        stream.seek(0)


def _decoded(stream: IO[bytes], frame: int | None, pydicom: Any) -> ReadImage:
    header = pydicom.dcmread(stream, force=True, stop_before_pixels=True)
    if "Rows" not in header or "Columns" not in header:
        raise MedGlipError("is no DICOM picture (a report, a plan, or no DICOM file at all)")
    if str(header.get("Modality") or "").strip().upper() in DERIVED_CODES:
        raise MedGlipError("is a DICOM object made from images (segmentation, dose), not an image")
    check_pixels(int(header.Columns), int(header.Rows))
    notes = choose_frame(frame, int(header.get("NumberOfFrames") or 1))
    _check_decoder(header, pydicom)
    index = (frame or 1) - 1
    stream.seek(0)
    dataset = with_syntax(pydicom.dcmread(stream, force=True))
    pixels = _frame_pixels(dataset, index, pydicom)
    photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2")).strip().upper()
    modality, modality_note = _modality(header)
    values, value_notes = _values(dataset, pixels, photometric, index, modality)
    return ReadImage(
        values,
        "",
        modality=modality,
        spacing_mm=_spacing(dataset, index),
        photometric_interpretation=photometric if photometric in GREY else None,
        warnings=notes + modality_note + value_notes + _orientation_note(dataset, index),
    )


def with_syntax(dataset: Any) -> Any:
    """The data set, which says how its pixels are stored: plainly, where the file has no meta header."""
    import pydicom

    if "TransferSyntaxUID" not in dataset.file_meta:
        plain = (
            pydicom.uid.ImplicitVRLittleEndian if dataset.original_encoding[0] else pydicom.uid.ExplicitVRLittleEndian
        )
        dataset.file_meta.TransferSyntaxUID = plain
    return dataset


def _check_decoder(header: Any, pydicom: Any) -> None:
    """Name the cure when the pixels are compressed in a way that no installed library decodes."""
    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    if syntax is None or not syntax.is_compressed or str(syntax) == DEFLATED:
        return
    try:
        available = pydicom.pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise MedGlipError(f'its pixels ({syntax.name}) need a decoder, pip install "med-glip[clinical]"')


def _frame_pixels(dataset: Any, index: int, pydicom: Any) -> np.ndarray:
    """Stored numbers of one frame, (height, width) or (height, width, 3)."""
    try:
        return pydicom.pixels.pixel_array(dataset, index=index)
    except RuntimeError:
        syntax = dataset.file_meta.TransferSyntaxUID
        package = "pylibjpeg pylibjpeg-libjpeg" if str(syntax) == JPEG_EXTENDED else '"med-glip[clinical]"'
        cure = f"damaged, or needing a decoder that pip install {package} brings"
        raise MedGlipError(f"its pixels ({syntax.name}) could not be decoded: {cure}") from None


def _modality(header: Any) -> tuple[str | None, tuple[str, ...]]:
    """The header's modality as one of ours, and a warning when it names another one."""
    code = str(header.get("Modality") or "").strip().upper()
    try:
        return resolve_modality(code), ()
    except ValueError:
        if code in SILENT_CODES or not (code.isascii() and code.isalpha() and len(code) <= 8):
            return None, ()
        return None, (f"its header says {code}, a modality that MedGLIP does not know",)


def _values(
    dataset: Any, pixels: np.ndarray, photometric: str, index: int, modality: str | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Stored numbers -> HU or other units for grey pictures, uint8 RGB for coloured ones; and warnings."""
    import pydicom

    if photometric == "PALETTE COLOR":
        return _to_bytes(pydicom.pixels.apply_color_lut(pixels, dataset), None), ()
    if pixels.ndim == 3:
        return _to_bytes(pixels, int(dataset.get("BitsStored") or 8)), ()
    slope, intercept = _rescale(dataset, index)
    if slope is None and "ModalityLUTSequence" in dataset:
        return compact(pydicom.pixels.apply_modality_lut(pixels, dataset), signed=True), ()
    if slope is not None:
        return compact(pixels * slope + intercept, signed=True), ()
    measured = pixels.dtype.kind != "u"
    source = "taken from the numbers as they are" if measured else "estimated from the picture where it has two peaks"
    unscaled = modality == "ct" and pixels.dtype.itemsize > 1
    note = (f"its header has no rescale slope: HU are {source}",) if unscaled else ()
    return (pixels if pixels.dtype == np.uint8 else compact(pixels, signed=measured)), note


def _to_bytes(colour: np.ndarray, bits: int | None) -> np.ndarray:
    """RGB of any depth -> uint8; `bits` are those in use, all of the type's when `None`."""
    used = colour.dtype.itemsize * 8 if bits is None else bits
    if colour.dtype == np.uint8 and used <= 8:
        return colour
    return (colour >> max(0, used - 8)).clip(0, 255).astype(np.uint8)


def functional_item(dataset: Any, index: int, name: str) -> Any:
    """One group of an enhanced file, of the frame itself or of all frames together; `None` if it has none."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*list(own)[index : index + 1], *list(shared)[:1]]:
        items = group.get(name)
        if items:
            return items[0]
    return None


def _rescale(dataset: Any, index: int) -> tuple[float | None, float]:
    """(slope, intercept); slope `None` when the file states none that is usable."""
    source = functional_item(dataset, index, "PixelValueTransformationSequence") or dataset
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    if slope is None and intercept is None:
        return None, 0.0
    slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise MedGlipError(f"its rescale slope {slope:g} or intercept {intercept:g} is unusable")
    return slope, intercept


def _orientation_note(dataset: Any, index: int) -> tuple[str, ...]:
    """A warning if rows and columns do not run as in the usual views: axial to the left and the back, coronal to the
    left and the feet, sagittal to the back and the feet (PS3.3 C.7.6.2.1.1; axes left, posterior, superior)."""
    item = functional_item(dataset, index, "PlaneOrientationSequence")
    source = dataset if item is None else item
    stated = source.get("ImageOrientationPatient")
    if stated is None or len(stated) != 6:
        return ()
    directions = np.array(stated, dtype=float).reshape(2, 3)
    axes = np.abs(directions).argmax(axis=1)
    signs = tuple(float(np.sign(row[axis])) for row, axis in zip(directions, axes, strict=True))
    usual = {(0, 1): (1.0, 1.0), (0, 2): (1.0, -1.0), (1, 2): (1.0, -1.0)}
    if usual.get((int(axes[0]), int(axes[1]))) == signs:
        return ()
    return ("is mirrored or turned against the usual view (ImageOrientationPatient): left and right may be swapped",)


def _spacing(dataset: Any, index: int) -> tuple[float, float] | None:
    """(along x, along y) in mm. The header's order is the other way round."""
    source = functional_item(dataset, index, "PixelMeasuresSequence") or dataset
    stated = source.get("PixelSpacing")
    try:
        along_y, along_x = (float(value) for value in stated)
    except (TypeError, ValueError):
        return None
    usable = math.isfinite(along_x) and math.isfinite(along_y) and min(along_x, along_y) > 0
    return (along_x, along_y) if usable else None


__all__ = ["functional_item", "read_dicom", "silent", "with_syntax"]
