# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Decode the stored numbers of the frames of an open DICOM file. Needs pydicom.

Missing elements get their usual value, with a warning. Sizes and precision of compressed data must agree with the
header before a native decoder sees the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError, install_hint
from .codestreams import JPEG_LS_FRAME, LOSSLESS_FRAME, Codestream, check_jpeg, check_jpeg_2000, check_rle
from .dicom_files import DicomFile, limited
from .quiet import silent


GRAY = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
RLE = "1.2.840.10008.1.2.5"
# pydicom's decoders of each compressed transfer syntax, most robust first: gdcm, which crashes on damaged data more
# often than others, comes last.
DECODERS = {
    "1.2.840.10008.1.2.4.50": ("pillow",),
    JPEG_EXTENDED: ("pillow", "pylibjpeg"),
    "1.2.840.10008.1.2.4.57": ("pylibjpeg", "gdcm"),
    "1.2.840.10008.1.2.4.70": ("pylibjpeg", "gdcm"),
    "1.2.840.10008.1.2.4.80": ("pyjpegls", "pylibjpeg", "gdcm"),
    "1.2.840.10008.1.2.4.81": ("pyjpegls", "pylibjpeg", "gdcm"),
    "1.2.840.10008.1.2.4.90": ("pylibjpeg",),
    "1.2.840.10008.1.2.4.91": ("pylibjpeg",),
    "1.2.840.10008.1.2.4.201": ("pylibjpeg",),
    "1.2.840.10008.1.2.4.202": ("pylibjpeg",),
    "1.2.840.10008.1.2.4.203": ("pylibjpeg",),
    RLE: ("pydicom",),
}
# Kinds of JPEG frames by transfer syntax. Progressive ones violate DICOM, but occur.
JPEG_FRAMES = {
    "1.2.840.10008.1.2.4.50": {0xC0, 0xC1, 0xC2},
    JPEG_EXTENDED: {0xC0, 0xC1, 0xC2},
    "1.2.840.10008.1.2.4.57": {LOSSLESS_FRAME},
    "1.2.840.10008.1.2.4.70": {LOSSLESS_FRAME},
    "1.2.840.10008.1.2.4.80": {JPEG_LS_FRAME},
    "1.2.840.10008.1.2.4.81": {JPEG_LS_FRAME},
}


@dataclass(frozen=True)
class PixelFormat:
    """How the pixels of a file are stored, checked and completed.

    Args:
        rows (`int`): pixels along y.
        columns (`int`): pixels along x.
        frames (`int`): number of frames.
        samples (`int`): per pixel, 1 or 3.
        allocated (`int`): bits per sample.
        stored (`int`): bits in use.
        high_bit (`int`): the highest bit in use.
        signed (`bool`): samples are signed.
        planar (`int`): 1 if each color has a plane of its own (native pixels only).
        photometric (`str`): PhotometricInterpretation, one of `GRAY`, `COLOR` or `PALETTE`.
        warnings (`tuple[str, ...]`, *optional*): assumptions for missing elements, one line each.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    planar: int
    photometric: str
    warnings: tuple[str, ...] = ()

    @property
    def largest(self) -> int:
        """The largest stored number; 255 for one-bit images, see [`read_frame`]."""
        return 255 if self.stored == 1 else 2 ** (self.stored - int(self.signed)) - 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of an uncompressed frame."""
        return -(-self.rows * self.columns * self.samples * self.allocated // 8)


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Args:
        pixels (`np.ndarray` of shape `(rows, columns)` or `(rows, columns, 3)`): stored numbers; one-bit images as 0
            and 255.
        photometric (`str`): PhotometricInterpretation of the pixels, which a decoder may have changed to `"RGB"`.
    """

    pixels: NDArray
    photometric: str


def pixel_format(opened: DicomFile) -> PixelFormat:
    """Read how pixels are stored.

    Args:
        opened ([`DicomFile`]): with what `PIXEL_TAGS` name in its header.

    Raises:
        `MedGlipError`: a required element is missing or contradicts others; names it.
    """
    header, notes = opened.header, list[str]()
    stated = str(header.get("PhotometricInterpretation") or "").strip().upper()
    samples = _number(header, "SamplesPerPixel")
    if samples is None:
        samples = 3 if stated in COLOR else 1
        notes.append(f"its header states no SamplesPerPixel: taken as {samples}")
    if samples not in (1, 3):
        raise MedGlipError(f"its SamplesPerPixel is {samples}: only 1 and 3 are supported")
    allocated = _number(header, "BitsAllocated")
    if allocated not in (1, 8, 16, 32, 64):
        shown = "missing" if allocated is None else allocated
        raise MedGlipError(f"its BitsAllocated is {shown}: only 1, 8, 16, 32 and 64 are supported")
    whole = opened.pixel_keyword == "PixelData"  # float pixels do not use these elements
    stored, high_bit = _bits(header, allocated, notes) if whole else (allocated, allocated - 1)
    sign = _number(header, "PixelRepresentation")
    if whole and sign not in (0, 1):
        notes.append("its header states no valid PixelRepresentation: its numbers are taken as unsigned")
    return PixelFormat(
        rows=_positive(header, "Rows"),
        columns=_positive(header, "Columns"),
        frames=_positive(header, "NumberOfFrames", 1),
        samples=samples,
        allocated=allocated,
        stored=stored,
        high_bit=high_bit,
        signed=sign == 1,
        planar=1 if samples == 3 and _number(header, "PlanarConfiguration") == 1 else 0,
        photometric=_photometric(stated, samples, notes),
        warnings=tuple(notes),
    )


def _number(header: Any, keyword: str) -> int | None:
    """Read a whole number of a header, `None` if it states none."""
    value = header.get(keyword)
    try:
        return None if value is None or value == "" else int(value)
    except (TypeError, ValueError, OverflowError):
        raise MedGlipError(f"its {keyword} is not a whole number") from None


def _positive(header: Any, keyword: str, default: int | None = None) -> int:
    value = _number(header, keyword) or default
    if value is None or value < 1:
        raise MedGlipError(f"its {keyword} is missing, zero or negative")
    return value


def _bits(header: Any, allocated: int, notes: list[str]) -> tuple[int, int]:
    """Read the number of bits in use, and the highest of them."""
    stored = _number(header, "BitsStored")
    if stored is None or not 1 <= stored <= allocated:
        notes.append(f"its header states no valid BitsStored: taken as {allocated}")
        stored = allocated
    high_bit = _number(header, "HighBit")
    if high_bit is not None and not stored - 1 <= high_bit < allocated:
        notes.append(f"its header states no valid HighBit: taken as {stored - 1}")
        high_bit = None
    return stored, stored - 1 if high_bit is None else high_bit


def _photometric(stated: str, samples: int, notes: list[str]) -> str:
    usual = GRAY[1] if samples == 1 else COLOR[0]
    if not stated or (samples == 3 and stated in GRAY):
        notes.append(f"its header states no PhotometricInterpretation of {samples} samples: taken as {usual}")
        return usual
    if stated not in ((*GRAY, PALETTE) if samples == 1 else COLOR):
        raise MedGlipError(f"its PhotometricInterpretation is not supported with SamplesPerPixel {samples}")
    return stated


def read_frame(opened: DicomFile, stored_as: PixelFormat, index: int = 0) -> Frame:
    """Decode a frame.

    Args:
        opened ([`DicomFile`]): an open file.
        stored_as ([`PixelFormat`]): of the file.
        index (`int`, *optional*, defaults to 0): the frame, counted from 0.

    Raises:
        `MedGlipError`: missing pixels, no decoder, or damaged data.
    """
    if opened.pixel_start is None:
        raise MedGlipError("holds no pixel data, or is cut short before them")
    if not 0 <= index < stored_as.frames:
        raise MedGlipError(f"has no frame {index + 1}: it holds {stored_as.frames}")
    try:
        with silent("pydicom"):
            if opened.pixel_bytes is None:
                pixels, photometric, precision = _encapsulated(opened, stored_as, index)
            else:
                pixels, photometric, precision = _native(opened, stored_as, index)
    except (MedGlipError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything for damaged data
        raise MedGlipError(f"its pixels cannot be decoded: damaged or cut short ({type(error).__name__})") from None
    pixels = used_bits(pixels, stored_as, precision)
    if stored_as.stored == 1 and stored_as.samples == 1 and stored_as.photometric in GRAY:
        pixels = (pixels != 0).astype(np.uint8) * np.uint8(255)
    return Frame(pixels, photometric)


def used_bits(pixels: NDArray, stored_as: PixelFormat, precision: int) -> NDArray:
    """Return pixels without unused bits, which may hold overlays or noise (PS3.5 8.1.1); signs are extended.

    Args:
        pixels (`np.ndarray`): of any shape, as decoded.
        stored_as ([`PixelFormat`]): of the file.
        precision (`int`): bits that were decoded.
    """
    if pixels.dtype.kind == "f":
        return pixels
    bits = min(stored_as.stored, precision)
    low = stored_as.high_bit + 1 - stored_as.stored if precision > stored_as.high_bit else 0
    above = pixels.dtype.itemsize * 8 - low - bits
    if not low and not above:
        return pixels
    native = pixels.astype(pixels.dtype.newbyteorder("="))
    return native << above >> (above + low)


def _options(stored_as: PixelFormat) -> dict[str, Any]:
    """Describe the pixels for pydicom's decoders."""
    return {
        "rows": stored_as.rows,
        "columns": stored_as.columns,
        "number_of_frames": stored_as.frames,
        "samples_per_pixel": stored_as.samples,
        "photometric_interpretation": stored_as.photometric,
        "pixel_representation": int(stored_as.signed),
        "bits_allocated": stored_as.allocated,
        "bits_stored": stored_as.stored,
        "planar_configuration": stored_as.planar,
        "correct_unused_bits": False,
    }


def _native(opened: DicomFile, stored_as: PixelFormat, index: int) -> tuple[NDArray, str, int]:
    """Read a frame that is not compressed."""
    import pydicom

    syntax = opened.header.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        raise MedGlipError("its pixels are not compressed, as its transfer syntax says")
    if stored_as.allocated == 1:
        return _one_bit(opened, stored_as, index, syntax.is_little_endian), stored_as.photometric, 1
    opened.stream.seek(opened.pixel_start or 0)
    stream: Any = opened.stream
    options = _options(stored_as)
    options.update(pixel_keyword=opened.pixel_keyword, pixel_vr=opened.pixel_vr)
    pixels, properties = pydicom.pixels.get_decoder(syntax).as_array(stream, index=index, raw=True, **options)
    return pixels, str(properties["photometric_interpretation"]), stored_as.allocated


def _one_bit(opened: DicomFile, stored_as: PixelFormat, index: int, little: bool) -> NDArray[np.uint8]:
    """Read a frame of one bit per pixel; frames follow each other without gaps (PS3.5 8.1.1)."""
    count = stored_as.rows * stored_as.columns * stored_as.samples
    first = index * count // 16 * 2  # words, whose bytes may be swapped
    opened.stream.seek((opened.pixel_start or 0) + first)
    content = np.frombuffer(opened.stream.read(-(-((index + 1) * count) // 16) * 2 - first), np.uint8)
    if not little and opened.pixel_vr == "OW":
        content = content.reshape(-1, 2)[:, ::-1].ravel()
    start = index * count - first * 8
    bits = np.unpackbits(content, bitorder="little")[start : start + count]
    return bits.reshape((stored_as.rows, stored_as.columns, *((3,) if stored_as.samples == 3 else ())))


def _encapsulated(opened: DicomFile, stored_as: PixelFormat, index: int) -> tuple[NDArray, str, int]:
    """Decode a compressed frame."""
    import pydicom

    syntax = opened.header.file_meta.TransferSyntaxUID
    name = _decoder_name(syntax, stored_as)
    codestream = _checked(str(syntax), _compressed(opened, stored_as, index), stored_as)
    # Decoders return the smallest type that holds the precision.
    container = 8 if codestream.precision <= 8 else 16 if codestream.precision <= 16 else 32
    options = _options(stored_as)
    if str(syntax) != RLE:
        options.update(bits_allocated=container, bits_stored=codestream.precision)
    options.update(number_of_frames=1, planar_configuration=0, pixel_keyword="PixelData", pixel_vr="OB")
    pixels, properties = pydicom.pixels.get_decoder(syntax).as_array(
        pydicom.encaps.encapsulate([codestream.content], has_bot=False),
        index=0,
        raw=True,
        decoding_plugin=name,
        **options,
    )
    return pixels, "RGB" if codestream.rgb else str(properties["photometric_interpretation"]), codestream.precision


def _decoder_name(syntax: Any, stored_as: PixelFormat) -> str:
    """Choose the decoder of a transfer syntax among those that are installed."""
    import pydicom

    names = DECODERS.get(str(syntax))
    if names is None:
        raise MedGlipError(f"its pixels ({syntax.name if syntax.is_transfer_syntax else 'unknown'}) are not supported")
    if str(syntax) == JPEG_EXTENDED and stored_as.stored > 8:
        names = ("pylibjpeg",)
    available = pydicom.pixels.get_decoder(syntax).available_plugins
    chosen = next((name for name in names if name in available), None)
    if chosen is None:
        extended = str(syntax) == JPEG_EXTENDED
        hint = "pip install pylibjpeg pylibjpeg-libjpeg" if extended else install_hint("clinical")
        raise MedGlipError(f"its pixels ({syntax.name}) need a decoder: {hint}")
    return chosen


def _compressed(opened: DicomFile, stored_as: PixelFormat, index: int) -> bytes:
    """Put the fragments of a frame together."""
    import pydicom

    opened.stream.seek(opened.pixel_start or 0)
    header = opened.header
    tables = [header.get(name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    # Most bytes of compressed data of a frame; RLE data may grow by half.
    most = 2 * stored_as.frame_bytes + 2**16
    content = pydicom.encaps.get_frame(
        limited(opened.stream, most + 8 * stored_as.frames),
        index,
        number_of_frames=stored_as.frames,
        extended_offsets=None if None in tables else (tables[0], tables[1]),
    )
    if len(content) > most:
        raise MedGlipError("its pixels are damaged: more compressed data than a frame can have")
    return content


def _checked(syntax: str, content: bytes, stored_as: PixelFormat) -> Codestream:
    """Check the compressed data of a frame against its header."""
    if syntax == RLE:
        check_rle(content, stored_as.samples * stored_as.allocated // 8)
        return Codestream(content, stored_as.columns, stored_as.rows, stored_as.samples, stored_as.allocated)
    codestream = check_jpeg(content, JPEG_FRAMES[syntax]) if syntax in JPEG_FRAMES else check_jpeg_2000(content)
    if (codestream.width, codestream.height, codestream.samples) != (
        stored_as.columns,
        stored_as.rows,
        stored_as.samples,
    ):
        inside = f"{codestream.width}x{codestream.height} with {codestream.samples} samples per pixel"
        outside = f"{stored_as.columns}x{stored_as.rows} with {stored_as.samples}"
        raise MedGlipError(f"its compressed data say {inside}, its header {outside}")
    if codestream.precision > max(8, stored_as.allocated):
        raise MedGlipError(f"its compressed data have {codestream.precision} bits, its BitsAllocated is less")
    return replace(codestream, rgb=codestream.rgb if syntax in JPEG_FRAMES and stored_as.samples == 3 else None)


__all__ = ["COLOR", "GRAY", "PALETTE", "Frame", "PixelFormat", "pixel_format", "read_frame", "used_bits"]
