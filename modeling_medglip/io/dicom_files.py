# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Open untrusted DICOM files. Every DICOM file that the project reads is opened by [`open_dicom`].

Files are refused before they cost memory or time: pipes and devices, deflated data sets that inflate beyond what their
pixels need, too many elements, too deep nesting. References to other files are never followed. pydicom's own messages
may quote header values, names among them; they are never passed on.
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import MedGlipError, install_hint
from .quiet import silent


MAX_BYTES = 2**32
# Largest value of a header, and bytes besides the pixels of a deflated file. Structure sets and enhanced files of
# thousands of frames take some tens of megabytes.
MAX_HEADER_BYTES = 2**26
MAX_INFLATED_BYTES = 2**29
# pydicom reads two or three times per element; enhanced files of ten thousand frames take two million reads.
MAX_READS = 4_000_000
MAX_ITEMS = 500_000
ITEM = b"\xfe\xff\x00\xe0"
PIXEL_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
# Elements that describe the pixels.
PIXEL_TAGS = [
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
]  # fmt: skip


@dataclass(frozen=True)
class DicomFile:
    """An open DICOM file whose header has been read.

    Attributes:
        header (`pydicom.Dataset`): the elements before the pixels; its `file_meta` states a transfer syntax.
        stream (`IO[bytes]`): the file, inflated if it is deflated.
        pixel_start (`int`, *optional*): where the value of the pixel data begins in `stream`.
        pixel_keyword (`str`): `"PixelData"`, `"FloatPixelData"` or `"DoubleFloatPixelData"`.
        pixel_vr (`str`): its value representation, which decides the byte order of big-endian 8-bit images.
        pixel_bytes (`int`, *optional*): its length; `None` for encapsulated pixels.
    """

    header: Any
    stream: IO[bytes]
    pixel_start: int | None = None
    pixel_keyword: str = "PixelData"
    pixel_vr: str = "OW"
    pixel_bytes: int | None = None


class _LimitedStream:
    """A stream that refuses more or larger reads than valid files need."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self.stream, self.most, self.reads, self.items = stream, most, 0, 0
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read from the stream. Raises `MedGlipError` beyond the limits."""
        self.reads += 1
        content = self.stream.read(self.most + 1 if size < 0 else min(size, self.most + 1))
        if len(content) > self.most:
            raise MedGlipError(f"holds a value of more than {self.most} bytes where less are needed")
        if len(content) > 4:  # pydicom parses sequences of a stated length later, from memory
            self.items += content.count(ITEM)
        if self.reads > MAX_READS or self.items > MAX_ITEMS:
            raise MedGlipError("has too many elements")
        return content


def limited(stream: IO[bytes], most: int = MAX_HEADER_BYTES) -> Any:
    """Wrap a stream so that reading too large or too many values fails.

    Args:
        stream (`IO[bytes]`): the file.
        most (`int`, *optional*): bytes of the largest value.
    """
    return _LimitedStream(stream, most)


@contextmanager
def open_dicom(file: str | Path | IO[bytes], tags: Sequence[str] | None = None) -> Iterator[DicomFile]:
    """Open a DICOM file and read its header.

    Args:
        file (`str`, `Path` or binary stream): a stream is read from its start and stays open.
        tags (`Sequence[str]`, *optional*): keywords of the elements to keep; all of them by default.

    Raises:
        `MedGlipError`: pydicom is missing, or the file is not a plain file, too large, damaged or hostile; one line
            without the file's name. Errors of the block pass through.
    """
    require_pydicom()
    if not isinstance(file, (str, Path)):
        yield _opened(file, tags)
        return
    with open_plain(Path(file)) as stream:
        yield _opened(stream, tags)


def require_pydicom() -> None:
    """Raise `MedGlipError` unless pydicom is installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise MedGlipError(f"reading DICOM needs pydicom: {install_hint('clinical')}") from None


def read_dicom_header(file: str | Path | IO[bytes], tags: Sequence[str] | None = None) -> Any:
    """Read the elements of a DICOM file before its pixels.

    Args:
        file (`str`, `Path` or binary stream): see [`open_dicom`].
        tags (`Sequence[str]`, *optional*): keywords of the elements to keep; all of them by default.

    Raises:
        `MedGlipError`: as [`open_dicom`].
    """
    with open_dicom(file, tags) as opened:
        return opened.header


def read_dataset(file: str | Path) -> Any:
    """Read a DICOM file with its pixels.

    Args:
        file (`str` or `Path`): the file.

    Raises:
        `MedGlipError`: as [`open_dicom`].
    """
    import pydicom

    with open_dicom(file) as opened:
        opened.stream.seek(0)
        with silent("pydicom"):
            dataset = pydicom.dcmread(limited(opened.stream, MAX_INFLATED_BYTES), force=True)
        dataset.file_meta = opened.header.file_meta
        return dataset


def has_dicom_prefix(path: Path) -> bool:
    """Return whether a file begins as DICOM files do.

    Args:
        path (`Path`): any file.

    Raises:
        `MedGlipError`: not a regular file.
    """
    with open_plain(path) as stream:
        return stream.read(132)[128:] == b"DICM"


def open_plain(path: Path) -> IO[bytes]:
    """Open a regular file of limited size, so that reading it neither blocks nor goes on forever.

    Args:
        path (`Path`): any file.

    Raises:
        `MedGlipError`: not a regular file, too large, or it cannot be opened; one line without the file's name.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise MedGlipError("is not a plain file")
        if status.st_size > MAX_BYTES:
            raise MedGlipError(f"has {status.st_size} bytes, more than {MAX_BYTES}")
        return path.open("rb")
    except MedGlipError:
        raise
    except (OSError, ValueError) as error:
        raise MedGlipError(f"cannot be read ({getattr(error, 'strerror', None) or 'no file name'})") from None


def _opened(stream: IO[bytes], tags: Sequence[str] | None) -> DicomFile:
    try:
        with silent("pydicom"):
            return _read(stream, tags)
    except (MedGlipError, MemoryError):
        raise
    except RecursionError:
        raise MedGlipError("its header is nested too deeply") from None
    except Exception as error:  # pydicom raises nearly anything for damaged files
        raise MedGlipError(f"is a damaged or unreadable DICOM file ({type(error).__name__})") from None


def _read(stream: IO[bytes], tags: Sequence[str] | None) -> DicomFile:
    import pydicom

    meta = _meta(stream)
    deflated = meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian
    if deflated:
        stream = _inflated(stream)
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    stream.seek(0)
    header = _header(stream, tags)
    if deflated:
        header.file_meta, header.preamble = meta, bytes(128)
    elif "TransferSyntaxUID" not in header.file_meta:
        header.file_meta.TransferSyntaxUID = _plain_syntax(header)
    return _at_pixels(header, stream)


def _meta(stream: IO[bytes]) -> Any:
    """Read the file meta information, empty if missing; the stream is then behind it."""
    import pydicom

    stream.seek(0)
    start = limited(stream)
    pydicom.filereader.read_preamble(start, force=True)
    return pydicom.filereader._read_file_meta_info(start)


def _header(stream: IO[bytes], tags: Sequence[str] | None) -> Any:
    import pydicom

    names: Any = None if tags is None else list(tags)
    # Larger values are skipped, and refused when they are read later.
    return pydicom.dcmread(
        limited(stream), force=True, stop_before_pixels=True, specific_tags=names, defer_size=MAX_HEADER_BYTES
    )


def _plain_syntax(header: Any) -> Any:
    """Return the transfer syntax by which a file without one was read."""
    import pydicom

    implicit, little = header.original_encoding
    if implicit:
        return pydicom.uid.ImplicitVRLittleEndian
    return pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian


def _inflated(stream: IO[bytes]) -> IO[bytes]:
    """Inflate the rest of a stream, to no more than its pixels need."""
    inflater, content = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO()
    _inflate(stream, inflater, content, MAX_HEADER_BYTES)
    if not inflater.eof:
        content.seek(0)
        limit = min(MAX_HEADER_BYTES + _pixel_bytes(_header(content, PIXEL_TAGS)), MAX_INFLATED_BYTES)
        content.seek(0, io.SEEK_END)
        _inflate(stream, inflater, content, limit)
        if content.tell() >= limit:
            raise MedGlipError(f"inflates to more than the {limit} bytes that its pixels need")
    return content


def _inflate(stream: IO[bytes], inflater: Any, content: io.BytesIO, limit: int) -> None:
    """Append inflated bytes until there are `limit` of them, or no more."""
    while content.tell() < limit and not inflater.eof:
        chunk = inflater.unconsumed_tail or stream.read(1 << 16)
        if not chunk:
            return
        content.write(inflater.decompress(chunk, min(1 << 20, limit - content.tell())))


def _pixel_bytes(header: Any) -> int:
    """Count the bytes that the pixels of a header take, stored plainly."""
    bits = 1
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated"):
        bits *= max(0, int(header.get(keyword) or 1))
    return -(-bits // 8) if "Rows" in header else 0


def _at_pixels(header: Any, stream: IO[bytes]) -> DicomFile:
    """Read the head of the pixel data element, at which pydicom has stopped."""
    little = header.original_encoding[1]
    order = "<" if little else ">"
    start = stream.read(12)
    if len(start) < 8:
        return DicomFile(header, stream)
    group, element = struct.unpack(f"{order}HH", start[:4])
    keyword = PIXEL_KEYWORDS.get(group << 16 | element)
    if keyword is None:
        return DicomFile(header, stream)
    explicit = start[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN")
    position = stream.tell() - (0 if explicit else len(start) - 8)
    length = struct.unpack(f"{order}I", start[8:12] if explicit else start[4:8])[0]
    vr = start[4:6].decode() if explicit else "OW"
    return DicomFile(header, stream, position, keyword, vr, None if length == 0xFFFFFFFF else length)


__all__ = [
    "MAX_BYTES",
    "PIXEL_TAGS",
    "DicomFile",
    "has_dicom_prefix",
    "limited",
    "open_dicom",
    "open_plain",
    "read_dataset",
    "read_dicom_header",
    "require_pydicom",
]
