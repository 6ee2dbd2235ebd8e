# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Store decoded slices, so that a compressed volume is decoded once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from tempfile import SpooledTemporaryFile

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError, one_line


# Bytes of slices that stay in memory; more of them go to a temporary file without a name.
MAX_MEMORY = 2**23


class SliceSpool:
    """Slices in the order in which they are decoded, each decoded when it is first asked for.

    Args:
        slices (`Iterator[tuple[int, np.ndarray]]`): index and pixels of every slice.
    """

    def __init__(self, slices: Iterator[tuple[int, NDArray]]) -> None:
        self._slices = slices
        self._file = SpooledTemporaryFile(max_size=MAX_MEMORY)  # noqa: SIM115
        self._stored: dict[int, tuple[int, np.dtype, tuple[int, ...]]] = {}
        self._order: list[int] = []
        self._end = 0
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[tuple[int, NDArray]]:
        for number in count():
            if number < len(self._order):
                yield self._order[number], self._read(self._order[number])
            elif (decoded := self._decode_next()) is not None:
                yield decoded
            else:
                return

    def get(self, index: int) -> NDArray | None:
        """Return a slice that was decoded before, or `None`."""
        return self._read(index) if index in self._stored else None

    def _decode_next(self) -> tuple[int, NDArray] | None:
        """Decode and store the next slice; `None` after the last. An error is raised again by every later call."""
        if self._error is not None:
            raise self._error
        try:
            decoded = next(self._slices, None)
        except Exception as error:
            self._error = error
            raise
        except BaseException:  # an interruption ends the iterator, which must not pass for the last slice
            self._error = MedGlipError("decoding was interrupted: open the volume again")
            raise
        if decoded is not None:
            self._store(*decoded)
        return decoded

    def _store(self, index: int, pixels: NDArray) -> None:
        content = pixels.tobytes()
        try:
            self._file.seek(self._end)
            self._file.write(content)
        except OSError as error:
            reason = f"decoded slices do not fit the temporary folder ({one_line(error.strerror)})"
            raise MedGlipError(f"{reason}: set TMPDIR to a folder with more space") from error
        self._stored[index] = (self._end, pixels.dtype, pixels.shape)
        self._order.append(index)
        self._end += len(content)

    def _read(self, index: int) -> NDArray:
        start, dtype, shape = self._stored[index]
        self._file.seek(start)
        content = bytearray(self._file.read(int(np.prod(shape)) * dtype.itemsize))
        return np.frombuffer(content, dtype).reshape(shape)


__all__ = ["SliceSpool"]
