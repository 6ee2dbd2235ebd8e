# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Decode the voxels that a [`VolumeHeader`] describes, and no more than it promises."""

from __future__ import annotations

import bz2
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..io.quiet import silent
from .geometry import Volume
from .header import VolumeError, VolumeHeader


PIECE = 2**16
# Blocked gzip has a member for every 64 KiB; more and smaller members only cost time.
MAX_MEMBERS = 2**18
# Most bytes to inflate after the voxels to reach their checksum.
MAX_VERIFIED = 2**20
# Most bytes of numbers as text, which are read at once.
MAX_TEXT = 2**28


def decode_slices(header: VolumeHeader, first: int = 0) -> Iterator[Volume]:
    """Yield the slices along the last axis of a volume from an index on; one is in memory at a time.

    Args:
        header ([`VolumeHeader`]): of the volume.
        first (`int`, *optional*, defaults to 0): index of the first slice to yield.

    Returns:
        `Iterator[Volume]`: volumes (i, j, 1) with the affine of the whole.

    Raises:
        `VolumeError`: the file ends before its voxels, or is damaged, also after some slices; without its name.
    """
    with open_decoded(header.file, header.encoding, header.offset, header.dtype) as stream:
        _skip(stream, header.skip + first * header.slice_bytes)
        for _ in range(first, header.shape[2]):
            yield Volume(_read_slice(stream, header), header.affine, header.slope, header.intercept)
        _verify(stream)


def is_gzip(file: Path) -> bool:
    """Return whether a file begins as gzip does.

    Args:
        file (`Path`): any file.
    """
    with file.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextmanager
def open_decoded(file: Path, encoding: str, offset: int = 0, dtype: np.dtype[Any] | None = None) -> Iterator[BinaryIO]:
    """Open a file for reading as decoded bytes, which are inflated on demand.

    Args:
        file (`Path`): what to read.
        encoding (`str`): as in [`VolumeHeader`].
        offset (`int`, *optional*, defaults to 0): bytes of the file that come before.
        dtype (`np.dtype`, *optional*): of numbers that are stored as text.

    Raises:
        `VolumeError`: text that is too long.
    """
    with file.open("rb") as stream:
        stream.seek(offset)
        if encoding == "raw":
            yield stream
        elif encoding == "gzip":
            yield cast(BinaryIO, _Inflated(stream))
        elif encoding == "bzip2":
            yield cast(BinaryIO, bz2.BZ2File(stream))
        else:
            yield io.BytesIO(_decoded_text(stream, encoding, dtype))


def _decoded_text(stream: BinaryIO, encoding: str, dtype: np.dtype[Any] | None) -> bytes:
    """Return the bytes of numbers that are stored as text, or in hexadecimal digits."""
    text = stream.read(MAX_TEXT + 1)
    if len(text) > MAX_TEXT:
        raise VolumeError(f"holds more than {MAX_TEXT} bytes of text: save it with the encoding gzip", "too_large")
    if encoding == "hex":
        return bytes.fromhex(text.decode("ascii"))
    with silent("numpy"):  # about what follows the numbers
        return np.fromstring(text.decode("ascii"), dtype, sep=" ").tobytes()


def read_bytes(stream: BinaryIO, count: int) -> bytes:
    """Return the next decoded bytes of a stream.

    Args:
        stream (`BinaryIO`): from [`open_decoded`].
        count (`int`): how many.

    Raises:
        `VolumeError`: it ends before.
    """
    content = np.empty(count, np.uint8)
    _fill(stream, content)
    return content.tobytes()


def _skip(stream: BinaryIO, count: int) -> None:
    """Move forward by a number of decoded bytes."""
    if isinstance(stream, _Inflated):
        scratch = np.empty(min(count, 2**20), np.uint8)
        for start in range(0, count, 2**20):
            _fill(stream, scratch[: count - start])
    else:
        stream.seek(count, io.SEEK_CUR)


def _read_slice(stream: BinaryIO, header: VolumeHeader) -> NDArray:
    """Return the next slice (i, j, 1), in the byte order of this machine."""
    array = np.empty((header.channels, *header.shape[:2], 1), header.dtype, order="F")
    _fill(stream, array.reshape(-1, order="F").view(np.uint8))
    chosen = array[0] if header.channels == 1 else array[header.channel].copy(order="F")
    native = header.dtype.newbyteorder("=")
    return chosen if header.dtype == native else chosen.byteswap(inplace=True).view(native)


def _fill(stream: BinaryIO, target: NDArray[np.uint8]) -> None:
    view, done = memoryview(cast(Any, target)), 0
    while done < len(view):
        count = cast(Any, stream).readinto(view[done:])
        if not count:
            raise VolumeError("is damaged or cut short: it ends before its voxels do", "unreadable")
        done += count


def _verify(stream: BinaryIO) -> None:
    """Verify the checksum of compressed voxels, if it comes right after them."""
    if isinstance(stream, _Inflated):
        stream.verify()
    elif isinstance(stream, bz2.BZ2File):
        stream.read(1)


class _Inflated(io.RawIOBase):
    """Bytes of a gzip file with any number of members, or of a zlib stream; by isa-l if installed, which is faster."""

    def __init__(self, stream: BinaryIO) -> None:
        try:
            from isal import isal_zlib

            self._library: Any = isal_zlib
        except ModuleNotFoundError:
            self._library = zlib
        self._stream, self._members, self._packed = stream, 0, b""
        self._start()

    def _start(self) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise VolumeError(f"has more than {MAX_MEMBERS} gzip members", "too_large")
        self._inflater = self._library.decompressobj(32 + zlib.MAX_WBITS)

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a part of a buffer and return its length; 0 at the end of the file."""
        while True:
            if self._inflater.eof:
                self._packed = self._inflater.unused_data
                self._start()
            packed = self._packed or self._stream.read(PIECE)
            content = self._inflater.decompress(packed, min(len(buffer), 64 * PIECE))
            self._packed = self._inflater.unconsumed_tail
            if content or not packed:
                buffer[: len(content)] = content
                return len(content)

    def verify(self) -> None:
        """Verify the checksum, if the member ends here or soon after.

        Raises:
            `VolumeError`: the file ends before the checksum. `Exception`: the library's own, for a wrong checksum.
        """
        left = MAX_VERIFIED
        while left > 0 and not self._inflater.eof:
            packed = self._packed or self._stream.read(PIECE)
            content = self._inflater.decompress(packed, left)
            if not packed and not content:
                raise VolumeError("is damaged or cut short: it ends before its checksum", "unreadable")
            self._packed = self._inflater.unconsumed_tail
            left -= len(content)


__all__ = ["decode_slices", "is_gzip", "open_decoded", "read_bytes"]
