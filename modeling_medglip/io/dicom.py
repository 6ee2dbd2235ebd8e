# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read one frame of a DICOM file as a [`ReadImage`]. Needs pydicom (the extra `clinical`).

pydicom's own messages may quote header values, names among them; they are never passed on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError
from ..modalities import resolve_modality
from .dicom_files import DicomFile, open_dicom
from .dicom_pixels import GRAY, PALETTE, Frame, PixelFormat, pixel_format, read_frame
from .image_record import ReadImage, check_pixels, choose_frame, compact
from .quiet import silent


# Values of Modality (0008,0060) that say nothing about the image.
UNSPECIFIC_CODES = ("", "OT", "SC")
# Values of Modality of objects that are derived from images.
DERIVED_CODES = ("SEG", "RTDOSE", "RTPLAN", "RTSTRUCT", "SR", "PR", "KO", "ECG")
# Lookup tables of images whose pixels are indices of a palette (PS3.3 C.7.6.3.1.5, C.7.9.2).
PALETTE_COLORS = ("Red", "Green", "Blue")
MAX_PALETTE_ENTRIES = 65536


def read_dicom(stream: IO[bytes], frame: int | None) -> ReadImage:
    """Read one frame of an open DICOM file.

    Args:
        stream (`IO[bytes]`): the file, opened for reading bytes.
        frame (`int`, *optional*): counted from 1; the first by default.

    Returns:
        [`ReadImage`]: without a name; gray pixels in HU or the header's units, colors as uint8 RGB.

    Raises:
        `MedGlipError`: pydicom is missing, or the file is not an image, too large or damaged.
    """
    with _opened(stream) as opened:
        return _decoded(opened, frame)


def count_dicom_frames(stream: IO[bytes]) -> int:
    """Return how many frames an open DICOM file holds.

    Args:
        stream (`IO[bytes]`): the file, opened for reading bytes.

    Raises:
        `MedGlipError`: as [`read_dicom`].
    """
    with _opened(stream) as opened:
        return pixel_format(opened).frames


@contextmanager
def _opened(stream: IO[bytes]) -> Iterator[DicomFile]:
    """Open a DICOM file. Every failure inside the block becomes a `MedGlipError`."""
    try:
        with silent("pydicom"), open_dicom(stream) as opened:
            yield opened
    except (MedGlipError, MemoryError):
        raise
    except Exception as error:  # pydicom raises nearly anything for damaged files
        raise MedGlipError(f"is a damaged or unreadable DICOM file ({type(error).__name__})") from error


def _decoded(opened: DicomFile, frame: int | None) -> ReadImage:
    header = opened.header
    if "Rows" not in header or "Columns" not in header:
        raise MedGlipError("is not a DICOM image (a report, a plan, or not DICOM at all)")
    if is_derived(header):
        raise MedGlipError("is a DICOM object made from images (segmentation, dose), not an image")
    stored_as = pixel_format(opened)
    check_pixels(stored_as.columns, stored_as.rows)
    notes = choose_frame(frame, stored_as.frames) + mosaic_notes(header) + stored_as.warnings
    index = (frame or 1) - 1
    modality, modality_note = _modality(header)
    values, value_notes = _values(header, read_frame(opened, stored_as, index), stored_as, index, modality)
    return ReadImage(
        values,
        "",
        modality=modality,
        spacing_mm=_spacing(header, index),
        photometric_interpretation=stored_as.photometric if stored_as.photometric in GRAY else None,
        warnings=notes + modality_note + value_notes + _orientation_note(header, index),
    )


def _modality(header: Any) -> tuple[str | None, tuple[str, ...]]:
    """Return the header's modality as one of `MODALITIES`, and a warning if it names another one."""
    code, modality = _modality_code(header), stated_modality(header)
    if modality or code in UNSPECIFIC_CODES or not (code.isascii() and code.isalpha() and len(code) <= 8):
        return modality, ()
    return None, (f"its header says {code}, a modality that MedGLIP does not know",)


def stated_modality(header: Any) -> str | None:
    """Return the modality of a header, one of `MODALITIES`; `None` if it states another one or none.

    Args:
        header (`pydicom.Dataset`): the header.
    """
    try:
        return resolve_modality(_modality_code(header))
    except ValueError:
        return None


def is_derived(header: Any) -> bool:
    """Return whether a header is of an object that is made from images, such as a segmentation or a dose.

    Args:
        header (`pydicom.Dataset`): the header.
    """
    return _modality_code(header) in DERIVED_CODES


def _modality_code(header: Any) -> str:
    return str(header.get("Modality") or "").strip().upper()


def image_types(header: Any) -> list[str]:
    """Return the values of ImageType (0008,0008) in upper case.

    Args:
        header (`pydicom.Dataset`): the header.
    """
    stated = header.get("ImageType") or ()
    return [str(kind).strip().upper() for kind in ([stated] if isinstance(stated, str) else stated)]


def _values(
    header: Any, frame: Frame, stored_as: PixelFormat, index: int, modality: str | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert stored numbers to HU or other units (gray) or uint8 RGB (color), with warnings."""
    import pydicom

    pixels = frame.pixels
    if frame.photometric == PALETTE:
        return palette_colors(pixels, header), ()
    if pixels.ndim == 3:
        return _rgb(frame, stored_as), ()
    if stored_as.stored == 1:
        return pixels, ()
    slope, intercept = _rescale(header, index)
    if slope is None and "ModalityLUTSequence" in header:
        return compact(pydicom.pixels.apply_modality_lut(pixels, header), signed=True), ()
    if slope is not None:
        return compact(pixels * slope + intercept, signed=True), ()
    measured = pixels.dtype.kind != "u"
    source = "taken from the numbers as they are" if measured else "estimated from the image where it has two peaks"
    unscaled = modality == "ct" and pixels.dtype.itemsize > 1
    note = (f"its header has no rescale slope: HU are {source}",) if unscaled else ()
    return (pixels if pixels.dtype == np.uint8 else compact(pixels, signed=measured)), note


def palette_colors(pixels: NDArray, header: Any) -> NDArray[np.uint8]:
    """Look up the colors of indices.

    Args:
        pixels (`np.ndarray` of shape `(rows, columns)`): whole numbers.
        header (`pydicom.Dataset`): of the same file, with its palette.

    Returns:
        `np.ndarray` of shape `(rows, columns, 3)`: uint8 RGB. An alpha palette is left out.

    Raises:
        `MedGlipError`: the palette is missing, or damaged.
    """
    tables = [_palette_table(header, color) for color in PALETTE_COLORS]
    # The depth is that of all three tables; 8-bit entries may be stored as 16-bit ones, and vice versa.
    largest = max(int(entries.max()) for _, entries, _ in tables)
    depth = max(depth for _, _, depth in tables)
    shift = (0 if largest < 256 else 8) if depth in (8, 16) else max(0, depth - 8)
    planes = []
    for first, entries, _ in tables:
        index = np.clip(pixels.astype(np.int64) - first, 0, len(entries) - 1)
        planes.append((entries[index] >> shift).clip(0, 255).astype(np.uint8))
    return np.stack(planes, axis=-1)


def _palette_table(header: Any, color: str) -> tuple[int, NDArray[np.uint16], int]:
    """Read the first index, entries and bits of an entry of one color."""
    stated = header.get(f"{color}PaletteColorLookupTableDescriptor")
    try:
        count, first, bits = (int(value) for value in stated)
    except (TypeError, ValueError):
        raise MedGlipError(f"its {color}PaletteColorLookupTableDescriptor is missing or damaged") from None
    count = (count & 0xFFFF) or MAX_PALETTE_ENTRIES  # signed as the pixels are, and 0 for the most
    if first > 0x7FFF and int(header.get("PixelRepresentation") or 0) == 1:
        first -= 0x10000
    little = bool(header.original_encoding[1])
    keyword = f"{color}PaletteColorLookupTableData"
    if header.get(keyword) is not None:
        entries = _words(header.get(keyword), count, little)
    else:
        segments = header.get(f"Segmented{keyword}")
        if segments is None:
            raise MedGlipError(f"its {keyword} is missing")
        entries = _expanded(_words(segments, None, little) if bits > 8 else _bytes(segments, little), bits > 8)
    if not len(entries) >= 1 or bits < 1:
        raise MedGlipError(f"its {keyword} is damaged")
    return first, entries[:count], bits


def _bytes(data: Any, little: bool) -> NDArray[np.uint16]:
    """Return bytes in their order; in big-endian files those of a word are swapped."""
    content = np.frombuffer(data, np.uint8)
    if not little and len(content) % 2 == 0:
        content = content.reshape(-1, 2)[:, ::-1].ravel()
    return content.astype(np.uint16)


def _words(data: Any, count: int | None, little: bool) -> NDArray[np.uint16]:
    """Return the entries of a table: 16-bit words, or bytes if there are too few of them for words."""
    if not isinstance(data, (bytes, bytearray)):  # numbers already, of the value representation US
        return np.atleast_1d(np.asarray(data, dtype=np.int64)).astype(np.uint16)
    if count is not None and len(data) < 2 * count:
        return _bytes(data, little)
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little else ">u2")
    return words.astype(np.uint16)


def _expanded(codes: NDArray[np.uint16], wide: bool) -> NDArray[np.uint16]:
    """Expand the segments of a segmented table.

    Args:
        codes (`np.ndarray`): opcodes, lengths and values.
        wide (`bool`): they are words, not bytes.
    """
    entries: list[int] = []
    position, size = 0, 2 if wide else 4
    while position + 1 < len(codes):
        if codes[position] != 2:
            position = _add_segment(entries, codes, position)
            continue
        # Indirect segments: their number, then the byte at which they begin.
        offset = codes[position + 2 : position + 2 + size].tolist()
        start = sum(part << (n * (16 if wide else 8)) for n, part in enumerate(offset)) // (2 if wide else 1)
        for _ in range(int(codes[position + 1])):
            start = _add_segment(entries, codes, start)
        position += 2 + size
    return np.array(entries, np.uint16)


def _add_segment(entries: list[int], codes: NDArray[np.uint16], position: int) -> int:
    """Add the entries of a discrete (0) or linear (1) segment and return the index of the next one."""
    if position + 2 >= len(codes):
        raise MedGlipError("its palette is cut short")
    opcode, length, values = int(codes[position]), int(codes[position + 1]), codes[position + 2 :]
    if opcode == 0 and 0 < length <= len(values):
        entries += values[:length].tolist()
        end = position + 2 + length
    elif opcode == 1 and length and entries:
        entries += np.rint(np.linspace(entries[-1], int(values[0]), length + 1)[1:]).astype(int).tolist()
        end = position + 3
    else:
        raise MedGlipError("its palette has an invalid segment")
    if len(entries) > MAX_PALETTE_ENTRIES:
        raise MedGlipError("its palette has more entries than a palette can have")
    return end


def _rgb(frame: Frame, stored_as: PixelFormat) -> np.ndarray:
    """Convert color of any depth and kind to uint8 RGB."""
    import pydicom

    colors, shift = frame.pixels, max(0, stored_as.stored - 8)
    if frame.photometric not in ("YBR_FULL", "YBR_FULL_422"):
        return colors if colors.dtype == np.uint8 else (colors >> shift).clip(0, 255).astype(np.uint8)
    if colors.dtype != np.uint8:  # rounded, since the conversion doubles errors
        colors = (colors / np.float32(2**shift)).round().clip(0, 255).astype(np.uint8)
    return pydicom.pixels.convert_color_space(colors, "YBR_FULL", "RGB")


def functional_item(dataset: Any, index: int, name: str) -> Any:
    """Return a functional group of an enhanced file, of the frame or else shared by all; `None` if there is none.

    Args:
        dataset (`pydicom.Dataset`): the header.
        index (`int`): of the frame, counted from 0.
        name (`str`): keyword of the group's sequence.
    """
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*frames[index : index + 1], *shared[:1]]:
        items = group.get(name)
        if items:
            return items[0]
    return None


def _is_mosaic(header: Any) -> bool:
    """Return whether an image is a Siemens mosaic: the slices of a volume, tiled in one image.

    Enhanced files may say so in ImageType and have real frames instead.

    Args:
        header (`pydicom.Dataset`): the header.
    """
    several = int(header.get("NumberOfFrames") or 1) > 1 or "PerFrameFunctionalGroupsSequence" in header
    return not several and "MOSAIC" in image_types(header)


def mosaic_notes(header: Any) -> tuple[str, ...]:
    """Return a warning for a mosaic, none for other images.

    Args:
        header (`pydicom.Dataset`): the header.
    """
    if not _is_mosaic(header):
        return ()
    return ("is a Siemens mosaic, many slices tiled in one image, and read as one slice: convert it with dcm2niix",)


def _rescale(dataset: Any, index: int) -> tuple[float | None, float]:
    """Return slope and intercept of the modality rescaling; the slope is `None` if the header states neither."""
    source = functional_item(dataset, index, "PixelValueTransformationSequence") or dataset
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    if slope is None and intercept is None:
        return None, 0.0
    slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise MedGlipError(f"its rescale slope {slope:g} or intercept {intercept:g} is unusable")
    return slope, intercept


def _orientation_note(dataset: Any, index: int) -> tuple[str, ...]:
    """Return a warning if rows and columns do not run as in the usual views.

    Usual are left and back (axial), left and feet (coronal), back and feet (sagittal); PS3.3 C.7.6.2.1.1.
    """
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
    return ("is flipped or rotated against the usual view (ImageOrientationPatient): left and right may be swapped",)


def _spacing(dataset: Any, index: int) -> tuple[float, float] | None:
    """Return mm per pixel (along x, along y); PixelSpacing has the opposite order."""
    source = functional_item(dataset, index, "PixelMeasuresSequence") or dataset
    stated = source.get("PixelSpacing")
    try:
        along_y, along_x = (float(value) for value in stated)
    except (TypeError, ValueError):
        return None
    usable = math.isfinite(along_x) and math.isfinite(along_y) and min(along_x, along_y) > 0
    return (along_x, along_y) if usable else None


__all__ = [
    "count_dicom_frames",
    "functional_item",
    "image_types",
    "is_derived",
    "mosaic_notes",
    "palette_colors",
    "read_dicom",
    "stated_modality",
]
