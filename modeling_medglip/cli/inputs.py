# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The images and volumes that the arguments of `medglip ground` name: files, frames of files, folders, series."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import MedGlipError, UsageError, one_line
from ..outputs.run_report import InputRecord
from .console import fail, failure_reason, warn


if TYPE_CHECKING:
    from ..io.image_record import ReadImage
    from ..isolation.process import FileReader
    from ..volumes.dicom_folder import FoundSeries
    from ..volumes.source import VolumeSource


# Frames of one file that are grounded in one run.
MAX_FRAMES = 1000


@dataclass(frozen=True)
class Input:
    """An image file, or a volume.

    Attributes:
        path (`Path`): of the file; of a series of a folder, of a multi-frame file, and of one frame of several, a path
            that only names the outputs.
        name (`str`): for messages.
        volume (`tuple`, *optional*): method of [`FileReader`] that opens a volume, its arguments and its options.
        frame (`int`, *optional*): which frame of an image file, counted from 1.
        source (`Path`, *optional*): the file of an image, if `path` only names the outputs.
    """

    path: Path
    name: str
    volume: tuple[str, tuple[Any, ...], dict[str, Any]] | None = None
    frame: int | None = None
    source: Path | None = None

    @property
    def file(self) -> Path:
        """The file that is read."""
        return self.source or self.path

    def opener(self, reader: FileReader) -> Callable[[], ReadImage | VolumeSource]:
        """Return the call that reads the image, or opens the volume."""
        if self.volume is None:
            return partial(reader.read_image, self.file, self.frame)
        method, arguments, options = self.volume
        return partial(getattr(reader, method), *arguments, **options)


@dataclass(frozen=True)
class InputOptions:
    """Options that decide what of a file or folder is read.

    Attributes:
        several_patients (`bool`): see [`~modeling_medglip.volumes.dicom_folder.find_series`].
        resample (`bool`): see [`~modeling_medglip.volumes.dicom_folder.find_series`].
        volume (`int`, *optional*): which volume of a 4-D file, counted from 1.
        frame (`int` or `str`, *optional*): a frame, counted from 1, or `"all"`.
        given (`tuple[str, ...]`): the flags on the command line that are for volumes alone.
        every (`int`): step between the frames that are read, of all frames.
    """

    several_patients: bool = False
    resample: bool = False
    volume: int | None = None
    frame: int | Literal["all"] | None = None
    given: tuple[str, ...] = ()
    every: int = 1


def expand(
    inputs: Sequence[Path], options: InputOptions, reader: FileReader, debug: bool = False
) -> tuple[list[Input], list[InputRecord]]:
    """Return the images and volumes that the command line names, and records of paths that cannot be used.

    Args:
        inputs (`Sequence[Path]`): files and folders.
        options ([`InputOptions`]): what of them is read.
        reader ([`FileReader`]): reads headers.
        debug (`bool`, *optional*, defaults to `False`): print tracebacks.

    Raises:
        `UsageError`: an option does not fit its input.
    """
    expanded: list[Input] = []
    failed: list[InputRecord] = []
    for path in inputs:
        name = one_line(path.name or path.resolve().name, 120)
        start = time.perf_counter()
        try:
            if not _exists(path):
                raise MedGlipError(f"{name}: no such file{'' if path.suffix else ' or folder'}")
            expanded += _folder(path, options, reader, failed) if path.is_dir() else _file(path, options, reader)
        except UsageError:
            raise
        except Exception as error:  # one input must not take the others with it
            reason = failure_reason(error, name)
            fail(reason, 1, debug, error)
            failed.append(InputRecord(name, "failed", time.perf_counter() - start, error=reason))
    return expanded, failed


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, a folder that may not be read: opening it will tell
        return True


def _file(path: Path, options: InputOptions, reader: FileReader) -> list[Input]:
    """Return one input, or one for each frame of `--frame all`."""
    from ..io.file_endings import is_volume_file

    name = one_line(path.name, 120)
    if is_volume_file(path):
        _refuse_frame(name, options)
        return [Input(path, name, ("open_volume", (path, options.volume), {"detached": True}))]
    from ..volumes.dicom_folder import FoundSeries

    if options.frame is None and reader.holds_slices(path):
        _refuse_number(name, options)
        return [Input(path, name, ("open_series", (FoundSeries((path,)), path.name, options.resample), {}))]
    if options.given and path.is_file():
        raise UsageError(f"{options.given[0]} is for volumes, and {name} is an image: ground it in a run of its own")
    return [Input(path, name, frame=options.frame)] if options.frame != "all" else _frames(path, options, reader)


def _frames(path: Path, options: InputOptions, reader: FileReader) -> list[Input]:
    """Return the frames of a file, each with its own name; a file with one frame is an image as any other."""
    name, count = one_line(path.name, 120), reader.count_frames(path)
    frames = range(1, count + 1, options.every)
    if len(frames) > MAX_FRAMES:
        least = -(-count // MAX_FRAMES)
        raise MedGlipError(f"{name}: has {len(frames)} frames, more than {MAX_FRAMES}: take fewer, --every {least}")
    if count == 1:
        return [Input(path, name)]
    return [
        Input(path.with_name(f"{path.stem}-f{frame:04d}{path.suffix}"), f"{name} frame {frame}", None, frame, path)
        for frame in frames
    ]


def _refuse_frame(name: str, options: InputOptions) -> None:
    if options.frame is not None:
        raise UsageError(f"--frame is for images, and {name} is a volume: ground it in a run of its own")


def _refuse_number(name: str, options: InputOptions) -> None:
    if options.volume is not None:
        raise UsageError(f"--volume is for 4-D files, and {name} is DICOM: ground it in a run of its own")


def _folder(folder: Path, options: InputOptions, reader: FileReader, failed: list[InputRecord]) -> list[Input]:
    """Return what a folder holds: its DICOM series, then images and volumes by name.

    Args:
        folder (`Path`): the folder.
        options ([`InputOptions`]): what of it is read.
        reader ([`FileReader`]): reads headers.
        failed (`list[InputRecord]`): gets a record of DICOM files that cannot be used, if there is something else.
    """
    from ..io.file_endings import is_volume_file
    from ..io.folders import sort_folder

    name, contents = one_line(folder.resolve().name, 120), sort_folder(folder)
    files = list(contents.files)
    series: list[FoundSeries] = []
    try:
        if contents.others or not files:
            series = reader.find_series(folder, options.several_patients, options.resample, required=False)
        if not files and not series:
            raise MedGlipError(f"{name}: holds no image, volume or DICOM series ({contents.others} other files)")
    except MedGlipError as error:
        if not files:
            raise
        fail(error, 1, False)
        failed.append(InputRecord(name, "failed", 0.0, error=failure_reason(error, name)))
    else:
        if contents.others and not series:
            warn("warning", f"{name}: {contents.others} files that are neither images nor volumes left out")
    files += [file for one in series if one.flat for file in one.files]
    volumes = [one for one in series if not one.flat]
    has_volumes = bool(volumes) or any(map(is_volume_file, files))
    if has_volumes and not any(not is_volume_file(file) for file in files):
        _refuse_frame(name, options)
    if volumes:
        _refuse_number(name, options)
    # Of a mixed folder, options for volumes are for its volumes, and those for images for its images.
    given = replace(options, given=() if has_volumes else options.given)
    inputs = _series(folder, volumes, options)
    for file in sorted(files):
        inputs += _file(file, replace(given, frame=None) if is_volume_file(file) else given, reader)
    return inputs


def _series(folder: Path, series: Sequence[FoundSeries], options: InputOptions) -> list[Input]:
    """Return the series of a folder, each with its own name."""
    whole, taken = folder.resolve().name, set[str]()
    inputs = []
    for index, one in enumerate(series, start=1):
        base = whole if len(series) == 1 else f"{whole}-{index if one.number is None else one.number}"
        name = next(n for n in (base, *(f"{base}-{again}" for again in range(2, len(series) + 2))) if n not in taken)
        taken.add(name)
        # The ending keeps a stem from losing what follows a dot.
        path = folder.parent / f"{name}.dcm"
        inputs.append(Input(path, name, ("open_series", (one, name, options.resample), {})))
    return inputs


__all__ = ["Input", "InputOptions", "expand"]
