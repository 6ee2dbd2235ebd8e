# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Image files of every kind, made in code, with the pixels that a decoder must give."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, content: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(color_type: int, bits: int, samples: NDArray, between: bytes = b"") -> bytes:
    """A PNG file of samples `(h, w, n)`; `between` are chunks before the pixels."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if bits < 8:
        digits = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        packed = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        packed = rows.astype(">u2" if bits == 16 else np.uint8).view(np.uint8)
    filtered = np.hstack([np.zeros((height, 1), np.uint8), packed]).tobytes()
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(filtered))
    return SIGNATURE + chunk(b"IHDR", header) + between + pixels + chunk(b"IEND", b"")


def composed(colors: NDArray, alpha: NDArray, full: int) -> NDArray:
    """Colors over black."""
    return (colors.astype(np.int64) * alpha + full // 2) // full


def tiff(tags: dict[int, tuple[int, list[int]]], pixels: bytes, order: str = "<", following: int = 0) -> bytes:
    """A TIFF file; tags as number -> (type, values); those of its strip are added if there are none."""
    tags = {273: (4, [8]), 279: (4, [len(pixels)]), **tags}
    size = {1: "B", 3: "H", 4: "I"}
    extra = b""
    start = 8 + len(pixels) + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, (kind, values) in sorted(tags.items()):
        content = struct.pack(f"{order}{len(values)}{size[kind]}", *values)
        held = content if len(content) <= 4 else struct.pack(f"{order}I", start + len(extra))
        extra += content if len(content) > 4 else b""
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + held.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(pixels))
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", following)
    return head + pixels + directory + extra
