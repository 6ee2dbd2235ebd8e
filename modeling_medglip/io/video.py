# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read frames of a video (MP4, QuickTime, AVI) as [`ReadImage`]s. Needs PyAV (the extra `video`).

The container format follows from the file's name: when FFmpeg guesses, it may take a playlist for a video and open the
files that it names. Only the file itself is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any

import numpy as np

from ..errors import MedGlipError, install_hint
from .image_record import ReadImage, check_pixels, choose_frame


# FFmpeg's demuxer -> endings of the files that it reads.
CONTAINERS = {"mov": (".mp4", ".m4v", ".mov"), "avi": (".avi",)}
OPTIONS = {"enable_drefs": "0", "use_absolute_path": "0", "protocol_whitelist": "none"}
MAX_FRAMES = 100_000
# Most pixels to decode on the way to a frame.
MAX_DECODED_PIXELS = 2**30


def read_video(stream: IO[bytes], ending: str, frame: int | None = None) -> ReadImage:
    """Read one frame of an open video.

    Args:
        stream (`IO[bytes]`): a seekable file at its start.
        ending (`str`): of the file's name, one of `CONTAINERS`.
        frame (`int`, *optional*): counted from 1, in display order; the first by default.

    Returns:
        [`ReadImage`]: without a name; (height, width, 3) uint8 RGB, rotated as the file says.

    Raises:
        `MedGlipError`: PyAV is missing, or the file is not a video, too large or damaged.
    """
    with _opened(stream, ending) as (container, video):
        times = _times(container, video)
        notes = choose_frame(frame, len(times))
        values = _decoded(container, video, times, (frame or 1) - 1)
        return ReadImage(values, "", warnings=notes)


def count_video_frames(stream: IO[bytes], ending: str) -> int:
    """Return how many frames an open video holds, without decoding them.

    Args:
        stream (`IO[bytes]`): a seekable file at its start.
        ending (`str`): of the file's name, one of `CONTAINERS`.

    Raises:
        `MedGlipError`: as [`read_video`].
    """
    with _opened(stream, ending) as (container, video):
        return len(_times(container, video))


@contextmanager
def _opened(stream: IO[bytes], ending: str) -> Iterator[tuple[Any, Any]]:
    """Open a container and its first video stream. Every failure inside the block becomes a `MedGlipError`."""
    try:
        import av
    except ImportError:
        raise MedGlipError(f"is a video: reading it needs PyAV, {install_hint('video')}") from None
    kind = next(name for name, endings in CONTAINERS.items() if ending.lower() in endings)
    try:
        with av.open(stream, format=kind, options=OPTIONS) as container:
            if not container.streams.video:
                raise MedGlipError("holds no video")
            video = container.streams.video[0]
            video.thread_type = "NONE"
            check_pixels(video.codec_context.width, video.codec_context.height)
            yield container, video
    except (MedGlipError, MemoryError):
        raise
    except Exception as error:  # FFmpeg raises nearly anything for damaged files
        raise MedGlipError("is a damaged video, or of an unsupported kind: save its frames as PNG") from error


def _times(container: Any, video: Any) -> list[int | None]:
    """Return the display time of each frame, sorted, in units of the stream; all `None` if one is not stated."""
    packets = (packet.pts for packet in container.demux(video) if packet.size)
    times = list(islice(packets, MAX_FRAMES + 1))
    if not times:
        raise MedGlipError("holds no frame")
    if len(times) > MAX_FRAMES:
        raise MedGlipError(f"holds more than {MAX_FRAMES} frames: cut it")
    stated = [time for time in times if time is not None]
    return [None] * len(times) if len(stated) < len(times) else [*sorted(stated)]


def _decoded(container: Any, video: Any, times: list[int | None], index: int) -> np.ndarray:
    """Decode one frame from the key frame before it, or from the first frame where times are not stated."""
    timestamp, left = times[index], index
    container.seek(timestamp or 0, stream=video)
    spent = 0
    for frame in container.decode(video):
        check_pixels(frame.width, frame.height)
        spent += frame.width * frame.height
        if spent > MAX_DECODED_PIXELS:
            raise MedGlipError(f"takes too long to reach frame {index + 1}: save that frame as PNG")
        if (frame.pts is not None and frame.pts >= timestamp) if timestamp is not None else left == 0:
            return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))
        left -= 1
    raise MedGlipError(f"has no frame {index + 1} that can be decoded: it is damaged")


__all__ = ["CONTAINERS", "count_video_frames", "read_video"]
