# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reading of untrusted files in a process of its own, where a crash or a hang of a decoder costs one file.

The worker is started anew, never forked, and answers in JSON and bytes that are checked; nothing is unpickled. It has
limits for time, memory and files, but it is not a sandbox: it runs as the same user.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from ..errors import MedGlipError, UsageError, one_line
from ..io.dicom_files import has_dicom_prefix
from ..io.file_endings import DICOM_ENDINGS
from ..io.image import count_frames, read_image
from ..io.image_record import ReadImage
from ..modalities import MODALITIES
from ..volumes.dicom_folder import MAX_FILES, FoundSeries, find_series, holds_slices, open_series
from ..volumes.geometry import Volume, extract_slice, slice_count
from ..volumes.header import MAX_BYTES, VolumeError
from ..volumes.reader import Header, read_header
from ..volumes.source import VolumeSource, open_volume
from .answers import (
    AnswerTooLarge,
    checked,
    grid_of,
    hint_named,
    image_of,
    nifti_header_of,
    note_of,
    received,
    series_of,
    slice_reference_of,
)


MEGABYTE = 2**20
START_SECONDS = 120.0
# Runs the worker with this process's own search path, and nothing that the environment or the folder adds to it.
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "import importlib; importlib.import_module(sys.argv[2]).serve(*map(int, sys.argv[3:]))"
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2",
}  # fmt: skip


@dataclass(frozen=True)
class ReaderLimits:
    """What one request to a [`ReaderProcess`] may take.

    Attributes:
        memory_mb (`int`, *optional*, defaults to 2048): address space in MiB, on Linux.
        volume_mb (`int`, *optional*, defaults to 16384): most that open volumes add to it; they add what they need.
        seconds (`float`, *optional*, defaults to 10): time for any request.
        seconds_per_mb (`float`, *optional*, defaults to 0.25): more time for every MiB of the files.
        seconds_per_file (`float`, *optional*, defaults to 0.1): more time for every file of a folder.
        answer_mb (`int`, *optional*, defaults to 4096): largest array that is taken from the worker.
    """

    memory_mb: int = 2048
    volume_mb: int = 16384
    seconds: float = 10.0
    seconds_per_mb: float = 0.25
    seconds_per_file: float = 0.1
    answer_mb: int = MAX_BYTES // MEGABYTE


class FileReader:
    """Reads files in this process. [`ReaderProcess`] has the same methods."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what the reader holds."""

    def read_image(self, path: Path, frame: int | None = None) -> ReadImage:
        """See [`~modeling_medglip.io.image.read_image`]."""
        return read_image(path, frame)

    def count_frames(self, path: Path) -> int:
        """See [`~modeling_medglip.io.image.count_frames`]."""
        return count_frames(path)

    def read_header(self, path: Path, number: int | None = None) -> Header:
        """See [`~modeling_medglip.volumes.reader.read_header`]."""
        return read_header(path, number)

    def open_volume(self, path: Path, number: int | None = None, detached: bool = False) -> VolumeSource:
        """See [`~modeling_medglip.volumes.source.open_volume`]."""
        return open_volume(path, number, detached=detached)

    def holds_slices(self, path: Path) -> bool:
        """See [`~modeling_medglip.volumes.dicom_folder.holds_slices`]."""
        return holds_slices(path)

    def find_series(
        self, folder: Path, several_patients: bool = False, resample: bool = False, required: bool = True
    ) -> list[FoundSeries]:
        """See [`~modeling_medglip.volumes.dicom_folder.find_series`]."""
        return find_series(folder, several_patients, resample, required)

    def open_series(self, found_series: FoundSeries, name: str, resample: bool = False) -> VolumeSource:
        """See [`~modeling_medglip.volumes.dicom_folder.open_series`]."""
        return open_series(found_series, name, resample)


class ReaderProcess(FileReader):
    """Reads files in a worker process, which is started again after a crash, an overrun or growth.

    Every method raises what the reader in the worker raises; a crash, a hang or too much memory is a
    [`MedGlipError`] that names the file. Methods may be called from several threads; they take turns.

    Args:
        limits ([`ReaderLimits`], *optional*): of every request.
        limit_note (`str`, *optional*): added to errors about limits, such as how to switch them off.

    Attributes:
        worker (`str`): the module whose `serve` the worker runs.
    """

    worker = "modeling_medglip.isolation.worker"

    def __init__(self, limits: ReaderLimits | None = None, limit_note: str = "") -> None:
        self.limits, self.limit_note = ReaderLimits() if limits is None else limits, limit_note
        self.generation = 0
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = self._grown = False
        self._start()

    @property
    def pid(self) -> int | None:
        """Process id of the worker, `None` while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        if not self._lock.acquire(blocking=False):
            return True
        self._lock.release()
        return False

    def close(self) -> None:
        """End the worker. The next request starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            try:
                assert stream is not None
                stream.close()
            except OSError:  # what was not sent cannot be any more
                pass

    # Reading

    def read_image(self, path: Path, frame: int | None = None) -> ReadImage:
        """Read an image as [`read_image`] does."""
        self._renew()
        path = Path(path)
        answer, pixels = self.request(path.name, [path], "read_image", {"path": _text(path), "frame": frame})
        with checked(path.name):
            return image_of(answer["image"], pixels)

    def count_frames(self, path: Path) -> int:
        """Return how many frames or pages a file holds."""
        self._renew()
        answer, _ = self.request(path.name, [path], "count_frames", {"path": _text(path)})
        with checked(path.name):
            return max(1, int(answer["value"]))

    def read_header(self, path: Path, number: int | None = None) -> Header:
        """Read the header of a volume."""
        self._renew()
        path = Path(path)
        answer, _ = self.request(path.name, [path], "read_header", {"path": _text(path), "number": number})
        with checked(path.name):
            grid = grid_of(answer)
            i, j, k = grid.array.shape
            return (i, j, k), grid.affine

    def open_volume(self, path: Path, number: int | None = None, detached: bool = False) -> VolumeSource:
        """Open a volume as [`open_volume`] does."""
        self._renew()
        path = Path(path)
        arguments = {"path": _text(path), "number": number, "detached": detached}
        return IsolatedVolume(self, path.name, [path], "open_volume", arguments)

    def holds_slices(self, path: Path) -> bool:
        """Return whether a folder holds DICOM slices."""
        if not _may_be_dicom(path):
            return False
        self._renew()
        try:
            answer, _ = self.request(path.name, [path], "holds_slices", {"path": _text(path)})
        except MedGlipError:  # reading it reports what is wrong
            return False
        return answer.get("value") is True

    def find_series(
        self, folder: Path, several_patients: bool = False, resample: bool = False, required: bool = True
    ) -> list[FoundSeries]:
        """Find the DICOM series of a folder."""
        self._renew()
        options = {"folder": _text(folder), "several_patients": several_patients, "resample": resample}
        options["required"] = required
        answer, _ = self.request(folder.name, _files_below(folder), "find_series", options)
        with checked(folder.name):
            return [series_of(folder, entry) for entry in answer["series"]]

    def open_series(self, found_series: FoundSeries, name: str, resample: bool = False) -> VolumeSource:
        """Open a DICOM series as a volume."""
        self._renew()
        series = {field.name: getattr(found_series, field.name) for field in fields(found_series)}
        series["files"] = [_text(file) for file in found_series.files]
        return IsolatedVolume(
            self, name, found_series.files, "open_series", {"series": series, "name": name, "resample": resample}
        )

    # The worker

    def request(
        self, name: str, files: Sequence[Path], operation: str, arguments: dict[str, Any]
    ) -> tuple[dict[str, Any], NDArray]:
        """Ask the worker.

        Args:
            name (`str`): of the input, for messages.
            files (`Sequence[Path]`): what is read; their sizes decide how long it may take.
            operation (`str`): a method of [`~modeling_medglip.isolation.worker.Operations`].
            arguments (`dict`): of the method; JSON holds them.

        Returns:
            the answer, and its array (empty if it has none).

        Raises:
            `MedGlipError`: the worker's own error, or it crashed, hung, or took too much memory.
        """
        name, limits = one_line(name, 120), self.limits
        megabytes = sum(_size(file) for file in files) / MEGABYTE
        seconds = limits.seconds + limits.seconds_per_mb * megabytes + limits.seconds_per_file * (len(files) - 1)
        request = {"operation": operation, "arguments": arguments, "seconds": seconds}
        with self._lock:
            self._wait_until_ready()
            answer, array = self._exchange(name, request, seconds)
        if "error" in answer:
            raise self._error(name, answer["error"])
        return answer, array

    def _start(self) -> None:
        memory = (str(self.limits.memory_mb), str(self.limits.volume_mb))
        command = [sys.executable, "-I", "-c", START, json.dumps(sys.path), self.worker, *memory]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,  # Ctrl+C is for the parent to handle
        )
        self.generation += 1
        self._ready = self._grown = False

    def _renew(self) -> None:
        """Replace a worker that has grown, before it opens another file."""
        with self._lock:
            if self._grown:
                self.close()

    def _wait_until_ready(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        if not self._ready:
            try:
                self._exchange("", None, START_SECONDS)
            except MedGlipError:
                raise MedGlipError(f"the process that reads files did not start{self.limit_note}") from None
            self._ready = True

    def _exchange(self, name: str, request: Any, seconds: float) -> tuple[dict[str, Any], NDArray]:
        """Send a request (or none, at the start) and take the answer in, within so many seconds."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            if request is not None:
                process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
                process.stdin.flush()
            answer, array = received(process.stdout, self.limits.answer_mb * MEGABYTE)
            self._grown = answer.get("peak_mb", 0) > self.limits.memory_mb // 2
            return answer, array
        except (EOFError, OSError):
            status = process.wait()
            self.close()
            raise self._ended(name, seconds if late.is_set() else None, status) from None
        except AnswerTooLarge:
            self.close()
            raise VolumeError(f"{name}: has more than {self.limits.answer_mb} MB of pixels", "too_large") from None
        except BaseException:  # what comes next in the pipe belongs to this request
            self.close()
            raise
        finally:
            timer.cancel()

    def _ended(self, name: str, seconds: float | None, status: int) -> MedGlipError:
        if seconds is not None or status == -getattr(signal, "SIGXCPU", sys.maxsize):
            reason = f"took longer than {seconds or self.limits.seconds:.0f} s to read{self.limit_note}"
        else:
            try:
                cause = signal.Signals(-status).name
            except ValueError:
                cause = f"status {status}"
            reason = f"its decoder crashed ({cause}): the file is damaged, or malicious"
        return VolumeError(f"{name}: {reason}", "unreadable")

    def _error(self, name: str, error: Any) -> MedGlipError:
        kind, message = str(error.get("type")), one_line(error.get("message", ""), 500)
        hint = hint_named(error.get("hint"))
        if kind == "closed":
            return _Closed(name)
        if kind == "memory":
            return VolumeError(
                f"{name}: needs more than {self.limits.memory_mb} MB to read{self.limit_note}", "too_large"
            )
        if kind == "VolumeError":
            return VolumeError(message, one_line(error.get("rule", ""), 40), hint=hint)
        if kind in ("MedGlipError", "UsageError"):
            return (UsageError if kind == "UsageError" else MedGlipError)(message, hint=hint)
        return VolumeError(f"{name}: cannot be read (unexpected {one_line(message, 60)})", "unreadable")


class _Closed(MedGlipError):
    """The worker has closed a volume, or was replaced since the volume was opened."""


class IsolatedVolume(VolumeSource):
    """A volume that a [`ReaderProcess`] reads slice by slice, and opens again after the worker was replaced.

    Args:
        reader ([`ReaderProcess`]): the worker's parent.
        name (`str`): for messages.
        files (`Sequence[Path]`): of the volume.
        operation (`str`): what opens it, see [`ReaderProcess.request`].
        arguments (`dict`): of the operation.
    """

    def __init__(
        self, reader: ReaderProcess, name: str, files: Sequence[Path], operation: str, arguments: dict[str, Any]
    ) -> None:
        self._process, self._files = reader, tuple(files)
        self._operation, self._arguments = operation, {**arguments, "axes": None}
        self.name = one_line(name, 120)
        answer = self._open()
        with checked(self.name):
            stated = answer["modality"]
            super().__init__(
                grid_of(answer),
                name,
                stated if stated in MODALITIES else None,
                tuple(map(note_of, answer["notes"])),
                stacked=answer["stacked"] is True,
                nifti_header=nifti_header_of(answer["nifti_header"]),
                dicom_slices=tuple(slice_reference_of(self._files, *entry) for entry in answer.get("slices", ())),
            )
            self._volume, self._sequential = None, answer["sequential"] is True

    @property
    def sequential(self) -> bool:
        """Whether slices are read fastest in order."""
        return self._sequential

    def state_axes(self, codes: str) -> None:
        """State where the axes run, also for later requests."""
        super().state_axes(codes)
        self._arguments["axes"], self._generation = codes, 0

    def stream_slices(self, plane: str) -> Iterator[tuple[int, NDArray]]:
        """Yield index and pixels of every slice of a plane."""
        count = slice_count(self.lps, plane)
        for position in range(count):
            answer, values = self._ask("slice_at", plane=plane, position=position)
            with checked(self.name):
                index = int(answer["index"])
                if not 0 <= index < count:
                    raise ValueError(index)
            yield index, self._checked_slice(plane, index, values)

    def decode_slice(self, plane: str, index: int) -> NDArray:
        """Return the pixels of one slice."""
        return self._checked_slice(plane, index, self._ask("slice_of", plane=plane, index=index)[1])

    def _load(self) -> Volume:
        answer, array = self._ask("whole")
        with checked(self.name):
            if array.shape != self.grid.array.shape:
                raise ValueError(array.shape)
            return Volume(array, self.grid.affine, float(answer["slope"]), float(answer["intercept"]))

    def _open(self) -> dict[str, Any]:
        answer, _ = self._process.request(self.name, self._files, self._operation, self._arguments)
        self._token, self._generation = answer.get("token"), self._process.generation
        return answer

    def _ask(self, operation: str, **arguments: Any) -> tuple[dict[str, Any], NDArray]:
        for _ in range(2):
            if self._generation != self._process.generation:
                self._open()
            try:
                return self._process.request(self.name, self._files, operation, {"token": self._token, **arguments})
            except _Closed:
                self._generation = 0
        raise VolumeError(f"{self.name}: cannot be read: too many volumes are open", "unreadable")

    def _checked_slice(self, plane: str, index: int, values: NDArray) -> NDArray:
        with checked(self.name):
            if values.shape != extract_slice(self.lps, plane, index)[0].shape:
                raise ValueError(values.shape)
        return values


def _files_below(folder: Path) -> list[Path]:
    files: list[Path] = []
    for parent, _, names in os.walk(folder):
        files += [Path(parent, name) for name in names[: MAX_FILES - len(files)]]
        if len(files) >= MAX_FILES:
            break
    return files


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except (OSError, ValueError):  # reading it reports the problem
        return 0


def _may_be_dicom(path: Path) -> bool:
    try:
        return has_dicom_prefix(path) or path.name.lower().endswith(DICOM_ENDINGS)
    except MedGlipError:
        return False


def _text(path: Path) -> str:
    """Return an absolute path: the worker has its own working folder."""
    return os.fspath(path.absolute())


__all__ = ["FileReader", "IsolatedVolume", "ReaderLimits", "ReaderProcess"]
