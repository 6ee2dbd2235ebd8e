# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Frames of videos."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_medglip.errors import MedGlipError
from modeling_medglip.io.image import count_frames, read_image


av: Any = pytest.importorskip("av")


def video(path: Path, count: int = 30, codec: str = "mpeg4") -> Path:
    """A video whose frame n (from 0) has the gray level 8 * n on its left half, and white on its right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, width=64, height=48, pix_fmt="yuv420p")
        for number in range(count):
            pixels = np.full((48, 64, 3), 255, np.uint8)
            pixels[:, :32] = 8 * number
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["scan.mp4", "scan.MOV", "scan.avi"])
@pytest.mark.parametrize("frame", [1, 13, 14, 30])
def test_frames(name: str, frame: int, tmp_path: Path) -> None:
    path = video(tmp_path / name.lower()).rename(tmp_path / name)
    assert count_frames(path) == 30
    image = read_image(path, frame)
    assert image.pixels.shape == (48, 64, 3) and image.pixels.dtype == np.uint8 and image.file == name
    assert abs(float(image.pixels[:, 8:24].mean()) - 8 * (frame - 1)) < 4
    assert image.pixels[:, 40:].mean() > 245 and image.warnings == ()


def test_the_first_frame_comes_with_a_warning(tmp_path: Path) -> None:
    image = read_image(video(tmp_path / "scan.mp4", 3))
    assert image.warnings == ("holds 3 frames; only the first is used (choose another with frame=)",)
    with pytest.raises(MedGlipError, match="scan.mp4: has no frame 4: it holds 3"):
        read_image(tmp_path / "scan.mp4", 4)


def test_frames_out_of_order_are_counted_as_they_are_shown(tmp_path: Path) -> None:
    path = video(tmp_path / "scan.mp4", 30, "libx264")
    for frame in (2, 3, 29):
        assert abs(float(read_image(path, frame).pixels[:, 8:24].mean()) - 8 * (frame - 1)) < 4


@pytest.mark.parametrize(("turn", "quarters"), [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)])
def test_frames_are_turned_as_the_file_says(turn: tuple[int, ...], quarters: int, tmp_path: Path) -> None:
    """The matrix of the track header (ISO/IEC 14496-12, 8.3.2) turns clockwise, counterclockwise, and by a half."""
    path = video(tmp_path / "scan.mp4", 3)
    stored = read_image(path, 2).pixels
    content = bytearray(path.read_bytes())
    a, b, c, d = (number << 16 for number in turn)
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    assert np.array_equal(read_image(path, 2).pixels, np.rot90(stored, quarters))


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile other.mp4\n",
        b"\0\0\0\x18ftypisom" + b"\xff" * 200,
        b"RIFF\xff\xff\xff\xffAVI LIST" + b"\0" * 100,
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_what_is_not_a_video_is_refused(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (read_image, count_frames):
        with pytest.raises(MedGlipError, match=rf"^{name}: (is a damaged video|holds no)"):
            read(tmp_path / name)


def test_a_video_that_is_cut_short(tmp_path: Path) -> None:
    path = video(tmp_path / "scan.avi")
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(MedGlipError, match=r"^scan.avi: "):
        read_image(path, 30)
