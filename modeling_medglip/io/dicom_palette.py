# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Colors of DICOM images whose pixels are indices of a palette (PS3.3 C.7.6.3.1.5, C.7.9.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError


COLORS = ("Red", "Green", "Blue")
MAX_ENTRIES = 65536
PALETTE_TAGS = [
    f"{start}{color}PaletteColorLookupTable{end}"
    for color in COLORS
    for start, end in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]


def palette_colors(pixels: NDArray, header: Any) -> NDArray[np.uint8]:
    """Look up the colors of indices.

    Args:
        pixels (`NDArray`): (rows, columns) whole numbers.
        header (`pydicom.Dataset`): of the same file, with what `PALETTE_TAGS` name.

    Returns:
        (rows, columns, 3) uint8 RGB. An alpha palette is left out.

    Raises:
        `MedGlipError`: the palette is missing, or damaged.
    """
    tables = [_table(header, color) for color in COLORS]
    # The depth is that of all three tables; 8-bit entries may be stored as 16-bit ones, and the other way round.
    largest = max(int(entries.max()) for _, entries, _ in tables)
    depth = max(depth for _, _, depth in tables)
    shift = (0 if largest < 256 else 8) if depth in (8, 16) else max(0, depth - 8)
    planes = []
    for first, entries, _ in tables:
        index = np.clip(pixels.astype(np.int64) - first, 0, len(entries) - 1)
        planes.append((entries[index] >> shift).clip(0, 255).astype(np.uint8))
    return np.stack(planes, axis=-1)


def _table(header: Any, color: str) -> tuple[int, NDArray[np.uint16], int]:
    """Read the first index, entries and bits of an entry of one color."""
    stated = header.get(f"{color}PaletteColorLookupTableDescriptor")
    try:
        count, first, bits = (int(value) for value in stated)
    except (TypeError, ValueError):
        raise MedGlipError(f"its {color}PaletteColorLookupTableDescriptor is missing or damaged") from None
    count = (count & 0xFFFF) or MAX_ENTRIES  # signed as the pixels are, and 0 for the most
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
    if not 1 <= len(entries) or bits < 1:
        raise MedGlipError(f"its {keyword} is damaged")
    return first, entries[:count], bits


def _bytes(data: Any, little: bool) -> NDArray[np.uint16]:
    """Bytes in their order: in big-endian files those of a word are swapped."""
    content = np.frombuffer(data, np.uint8)
    if not little and len(content) % 2 == 0:
        content = content.reshape(-1, 2)[:, ::-1].ravel()
    return content.astype(np.uint16)


def _words(data: Any, count: int | None, little: bool) -> NDArray[np.uint16]:
    """Entries of a table: 16-bit words, or bytes if there are too few of them for words."""
    if not isinstance(data, (bytes, bytearray)):  # numbers already, of the value representation US
        return np.atleast_1d(np.asarray(data, dtype=np.int64)).astype(np.uint16)
    if count is not None and len(data) < 2 * count:
        return _bytes(data, little)
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little else ">u2")
    return words.astype(np.uint16)


def _expanded(codes: NDArray[np.uint16], wide: bool) -> NDArray[np.uint16]:
    """Expand the segments of a segmented table.

    Args:
        codes: opcodes, lengths and values. wide (`bool`): they are words, not bytes.
    """
    entries: list[int] = []
    place, size = 0, 2 if wide else 4
    while place + 1 < len(codes):
        if codes[place] != 2:
            place = _add_segment(entries, codes, place)
            continue
        # Segments from elsewhere: their number, then where they begin, in bytes.
        offset = codes[place + 2 : place + 2 + size].tolist()
        start = sum(part << (n * (16 if wide else 8)) for n, part in enumerate(offset)) // (2 if wide else 1)
        for _ in range(int(codes[place + 1])):
            start = _add_segment(entries, codes, start)
        place += 2 + size
    return np.array(entries, np.uint16)


def _add_segment(entries: list[int], codes: NDArray[np.uint16], place: int) -> int:
    """Add the entries of a discrete (0) or linear (1) segment; returns the place of the next one."""
    if place + 2 >= len(codes):
        raise MedGlipError("its palette is cut short")
    opcode, length, values = int(codes[place]), int(codes[place + 1]), codes[place + 2 :]
    if opcode == 0 and 0 < length <= len(values):
        entries += values[:length].tolist()
        end = place + 2 + length
    elif opcode == 1 and length and entries:
        entries += np.rint(np.linspace(entries[-1], int(values[0]), length + 1)[1:]).astype(int).tolist()
        end = place + 3
    else:
        raise MedGlipError("its palette has a segment that does not exist")
    if len(entries) > MAX_ENTRIES:
        raise MedGlipError("its palette has more entries than a palette can have")
    return end


__all__ = ["PALETTE_TAGS", "palette_colors"]
