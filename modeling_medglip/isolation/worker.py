# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The worker of [`~isolation.process.ReaderProcess`]: decodes files under limits, answers in JSON and bytes.

A request is one line of JSON. An answer is the length of a JSON header (4 bytes, big-endian), the header, and the
bytes of the array that the header describes, if it describes one.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import queue
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import MedGlipError, UsageError, hint_of


MEGABYTE = 2**20
# Volumes that stay open between requests.
MAX_OPEN = 2
# Memory per voxel that a volume in memory may take: stored numbers, a copy of them, and their values.
BYTES_PER_VOXEL = 12
PRELOADED = (
    "modeling_medglip.io.dicom", "modeling_medglip.volumes.source", "modeling_medglip.volumes.dicom_folder",
    "pydicom", "pydicom.pixels", "nibabel", "isal.isal_zlib",
)  # fmt: skip


def send(stream: BinaryIO, header: dict[str, Any], array: NDArray | None = None) -> None:
    """Write one answer.

    Args:
        stream (`BinaryIO`): the pipe to the parent.
        header (`dict`): whatever JSON holds; `shape`, `dtype` and `order` are added for an array.
        array (`np.ndarray`, *optional*): numbers of any shape; bool and foreign byte orders are converted.
    """
    content: bytes | memoryview = b""
    if array is not None:
        native = np.dtype(np.uint8) if array.dtype == bool else array.dtype.newbyteorder("=")
        order: Literal["C", "F"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        stored = np.asarray(array, native, order=order)
        header = {**header, "shape": stored.shape, "dtype": stored.dtype.str, "order": order}
        content = memoryview(cast(Any, stored.ravel(order="K"))).cast("B")
    text = json.dumps(header, default=lambda number: number.item()).encode("ascii")
    stream.write(len(text).to_bytes(4, "big") + text)
    stream.write(content)
    stream.flush()


@dataclasses.dataclass
class _OpenVolume:
    """An open volume and the iteration over its slices that is under way, if one is."""

    source: Any
    plane: str = ""
    slices: Iterator[tuple[int, NDArray]] | None = None
    position: int = 0

    def slice_at(self, plane: str, position: int) -> tuple[int, NDArray]:
        """Return a slice of `source.stream_slices(plane)` with its index; cheap in order, else read anew."""
        if self.slices is None or plane != self.plane or position < self.position:
            self.slices, self.plane, self.position = self.source.stream_slices(plane), plane, 0
        while True:
            slice_ = next(self.slices)
            self.position += 1
            if self.position > position:
                return slice_


class Operations:
    """What a request can ask for. Each method returns a JSON header and an array or `None`."""

    def __init__(self, limits: _ResourceLimits) -> None:
        self._limits = limits
        self._open: OrderedDict[int, _OpenVolume] = OrderedDict()
        self._last_token = 0

    def read_image(self, path: str, frame: int | None) -> tuple[dict[str, Any], NDArray | None]:
        """See [`~modeling_medglip.io.image.read_image`]."""
        from ..io.image import read_image

        image = read_image(path, frame)
        values = {name: value for name, value in _fields(image).items() if name != "pixels"}
        return {"image": {**values, "warnings": _notes(image.warnings)}}, image.pixels

    def count_frames(self, path: str) -> tuple[dict[str, Any], NDArray | None]:
        """See [`~modeling_medglip.io.image.count_frames`]."""
        from ..io.image import count_frames

        return {"value": count_frames(path)}, None

    def read_header(self, path: str, number: int | None) -> tuple[dict[str, Any], NDArray | None]:
        """See [`~modeling_medglip.volumes.reader.read_header`]."""
        from ..volumes.reader import read_header

        shape, affine = read_header(path, number)
        return {"grid": shape, "affine": affine.tolist()}, None

    def holds_slices(self, path: str) -> tuple[dict[str, Any], NDArray | None]:
        """See [`~modeling_medglip.volumes.dicom_folder.holds_slices`]."""
        from ..volumes.dicom_folder import holds_slices

        return {"value": holds_slices(Path(path))}, None

    def find_series(
        self, folder: str, several_patients: bool, resample: bool, required: bool
    ) -> tuple[dict[str, Any], NDArray | None]:
        """See [`~modeling_medglip.volumes.dicom_folder.find_series`]; files are given relative to the folder."""
        from ..volumes.dicom_folder import find_series

        series = find_series(Path(folder), several_patients, resample, required)
        entries = [{**_fields(one), "files": [os.path.relpath(file, folder) for file in one.files]} for one in series]
        return {"series": entries}, None

    def open_volume(
        self, path: str, number: int | None, detached: bool, axes: str | None
    ) -> tuple[dict[str, Any], NDArray | None]:
        """See [`~modeling_medglip.volumes.source.open_volume`]."""
        from ..volumes.source import open_volume

        source = open_volume(path, number, detached=detached)
        self._make_room(math.prod(source.grid.array.shape))
        return self._opened(source, axes), None

    def open_series(
        self, series: dict[str, Any], name: str, resample: bool, axes: str | None
    ) -> tuple[dict[str, Any], NDArray | None]:
        """See [`~volumes.dicom_folder.open_series`]; slices name their files by position in the series."""
        from ..volumes.dicom_folder import FoundSeries, open_series

        files = tuple(Path(file) for file in series["files"])
        found_series = FoundSeries(**{**series, "files": files, "notes": tuple(series["notes"])})
        source = open_series(found_series, name, resample)
        self._make_room(math.prod(source.grid.array.shape))
        index_of = {file: position for position, file in enumerate(files)}
        slices = [(index_of[piece.file], piece.frame, piece.position) for piece in source.dicom_slices]
        return {**self._opened(source, axes), "slices": slices}, None

    def slice_at(self, token: int, plane: str, position: int) -> tuple[dict[str, Any], NDArray | None]:
        """Return one slice of the iteration over a plane."""
        index, values = self._open[token].slice_at(plane, position)
        return {"index": index}, values

    def slice_of(self, token: int, plane: str, index: int) -> tuple[dict[str, Any], NDArray | None]:
        """Return one slice of a plane."""
        return {}, self._open[token].source.decode_slice(plane, index)

    def whole(self, token: int) -> tuple[dict[str, Any], NDArray | None]:
        """Return all stored numbers of a volume."""
        volume = self._open[token].source.volume()
        return {"slope": volume.slope, "intercept": volume.intercept}, volume.array

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], NDArray | None]:
        """Do what a request asks for; whatever goes wrong is an answer, too."""
        try:
            token = request["arguments"].get("token")
            if token is not None and token not in self._open:
                return {"error": {"type": "closed", "message": ""}}, None
            return getattr(self, request["operation"])(**request["arguments"])
        except MemoryError:
            self._open.clear()
            return {"error": {"type": "memory", "message": ""}}, None
        except MedGlipError as error:
            kind = "UsageError" if isinstance(error, UsageError) else "MedGlipError"
            rule = getattr(error, "rule", None)
            kind = "VolumeError" if isinstance(rule, str) else kind
            return {"error": {"type": kind, "message": str(error), "rule": rule, "hint": error.hint}}, None
        except Exception as error:  # what it says may quote a header
            return {"error": {"type": "unexpected", "message": type(error).__name__}}, None

    def _opened(self, source: Any, axes: str | None) -> dict[str, Any]:
        grid = {"grid": source.grid.array.shape, "affine": source.grid.affine.tolist()}
        if axes is not None:
            source.state_axes(axes)
        self._last_token += 1
        self._open[self._last_token] = _OpenVolume(source)
        facts = {name: getattr(source, name) for name in ("name", "modality", "stacked", "sequential")}
        header = source.nifti_header
        stored = None if header is None else {"block": header.binaryblock.hex(), "order": header.endianness}
        return {"token": self._last_token, **grid, **facts, "notes": _notes(source.notes), "nifti_header": stored}

    def _make_room(self, voxels: int) -> None:
        """Close the oldest volume if too many are open, and allow memory for another."""
        while len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)
        open_voxels = sum(math.prod(one.source.grid.array.shape) for one in self._open.values())
        self._limits.allow_memory((voxels + open_voxels) * BYTES_PER_VOXEL)


class _ResourceLimits:
    """Limits of this process, as far as the system has them: Linux has all, Windows none.

    Args:
        memory_mb (`int`): address space beyond what the imports take.
        volume_mb (`int`): most that volumes add to it.
    """

    def __init__(self, memory_mb: int, volume_mb: int) -> None:
        self._most = volume_mb * MEGABYTE
        try:
            import resource
        except ModuleNotFoundError:  # Windows
            self._resource: Any = None
            return
        self._resource = resource
        self._memory = _address_space() + memory_mb * MEGABYTE
        self._set("RLIMIT_CORE", 0, 0)
        self._set("RLIMIT_FSIZE", 0, 0)
        self.allow_memory(0)

    def allow_memory(self, more: int) -> None:
        """Let the address space grow by some bytes beyond the usual limit."""
        if self._resource is not None:
            self._set("RLIMIT_AS", self._memory + min(more, self._most))

    def allow_seconds(self, seconds: float) -> None:
        """Let the processor be used for so long from now on."""
        if self._resource is not None:
            self._set("RLIMIT_CPU", math.ceil(time.process_time() + seconds) + 1)

    def peak_mb(self) -> int:
        """Return the largest memory in use so far, in MiB; 0 if that is unknown."""
        if self._resource is None:
            return 0
        try:  # on Linux, `getrusage` includes the memory of the parent
            (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            return int(peak) // 1024
        except (OSError, ValueError):
            pass
        peak = self._resource.getrusage(self._resource.RUSAGE_SELF).ru_maxrss
        return int(peak // (MEGABYTE if sys.platform == "darwin" else 1024))

    def _set(self, name: str, soft: int, hard: int | None = None) -> None:
        which = getattr(self._resource, name)
        highest = self._resource.getrlimit(which)[1] if hard is None else hard
        with suppress(OSError, ValueError):  # a system that does not have this limit
            self._resource.setrlimit(which, (soft if highest < 0 else min(soft, highest), highest))


def _address_space() -> int:
    """Return the bytes that this process has mapped."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def _channels() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes of requests and answers; output of libraries is discarded."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    return requests, answers


def _received(requests: BinaryIO) -> Callable[[], dict[str, Any]]:
    """Receive requests in a thread, so that the end of the parent ends this process at any time."""
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def receive() -> None:
        for line in requests:
            waiting.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    return waiting.get


def serve(memory_mb: int, volume_mb: int, operations: type[Operations] = Operations) -> None:
    """Answer requests until the parent closes the pipe."""
    requests, answers = _channels()
    next_request = _received(requests)
    sys.dont_write_bytecode = True
    for name in PRELOADED:
        with suppress(ImportError):  # an extra that is not installed: the reader that needs it reports it
            importlib.import_module(name)
    limits = _ResourceLimits(memory_mb, volume_mb)
    known = operations(limits)
    send(answers, {"ready": True})
    while True:
        request = next_request()
        limits.allow_seconds(request["seconds"])
        header, array = known.answer(request)
        send(answers, {**header, "peak_mb": limits.peak_mb()}, array)


def _notes(notes: Iterable[str]) -> list[str | dict[str, str]]:
    """Return warnings for JSON; one with a hint as both."""
    return [note if (hint := hint_of(note)) is None else {"text": note, "hint": hint} for note in notes]


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


__all__ = ["Operations", "send", "serve"]
