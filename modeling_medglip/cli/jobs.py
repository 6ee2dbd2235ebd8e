# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the console script does with one input: read, ground, write, print; a failure is told and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..defaults import UNTRAINED_THRESHOLD
from ..errors import MedGlipError, UsageError, listed, one_line
from ..outputs.run_report import InputRecord
from .console import complain, fail, print_boxes, print_volume_boxes, say, slices


if TYPE_CHECKING:
    from ..demo.cases import DemoCase
    from ..grounding import Grounder
    from ..isolation.process import Reader
    from ..outputs.volume_results import VolumeResult
    from ..volumes.dicom_folder import FoundSeries
    from ..volumes.source import VolumeSource


# Outputs that refer to a DICOM series.
DICOM_KINDS = ("sr", "seg")
# Frames of one file that are grounded in one run.
MAX_FRAMES = 1000


@dataclass(frozen=True)
class Input:
    """An image, or a volume that `open` opens.

    Attributes:
        path: where it is; of a series of a folder, of a multi-frame file, and of one frame of several, a path that
            only names its outputs.
        name: for messages.
        frame: which frame of an image file, counted from 1.
        source: the file of an image, if `path` only names the outputs.
    """

    path: Path
    name: str
    open: Callable[[], VolumeSource] | None = None
    frame: int | None = None
    source: Path | None = None

    @property
    def file(self) -> Path:
        """The file that is read."""
        return self.source or self.path


@dataclass(frozen=True)
class Options:
    """What the command line says of volumes, and of images that are a frame.

    Attributes:
        frame: a frame, counted from 1, or `"all"`; every: take every so many of all frames.
        given: the options that were given and are for volumes alone, as they are typed.
    """

    several_patients: bool = False
    resample: bool = False
    volume: int | None = None
    frame: int | Literal["all"] | None = None
    given: tuple[str, ...] = ()
    every: int = 1


def expand(
    inputs: Sequence[Path], options: Options, debug: bool, reader: Reader
) -> tuple[list[Input], list[InputRecord]]:
    """What the command line names, folders as their series; and records of folders that cannot be used.

    Raises:
        `UsageError`: an option that is not for what it is given with.
    """
    found: list[Input] = []
    failed: list[InputRecord] = []
    for path in inputs:
        name = one_line(path.name or path.resolve().name, 120)
        start = time.perf_counter()
        try:
            if not _exists(path):
                raise MedGlipError(f"{name}: no such file{'' if path.suffix else ' or folder'}")
            found += _folder(path, options, reader, failed) if path.is_dir() else _file(path, options, reader)
        except UsageError:
            raise
        except Exception as error:  # one input must not take the others with it
            reason = str(error) if isinstance(error, MedGlipError) else f"{name}: {_unexpected(error)}"
            fail(reason, 1, debug, error)
            failed.append(InputRecord(name, "failed", time.perf_counter() - start, error=reason))
    return found, failed


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, a folder that may not be read: opening it will tell
        return True


def _unexpected(error: Exception) -> str:
    # What other libraries say may quote a header.
    return f"unexpected {type(error).__name__}; --debug shows where"


def _file(path: Path, options: Options, reader: Reader) -> list[Input]:
    """One input, or one for each frame of `--frame all`."""
    from ..volumes.reader import is_volume_file

    name = one_line(path.name, 120)
    if is_volume_file(path):
        _refuse_frame(name, options)
        return [Input(path, name, partial(reader.open_volume, path, options.volume, detached=True))]
    from ..volumes.dicom_folder import FoundSeries

    if options.frame is None and reader.holds_slices(path):
        _refuse_number(name, options)
        return [Input(path, name, partial(reader.open_series, FoundSeries((path,)), path.name, options.resample))]
    if options.given and path.is_file():
        told = f"{options.given[0]} is for volumes, and {name} is a picture: ground it in a run of its own"
        raise UsageError(told)
    return [Input(path, name, frame=options.frame)] if options.frame != "all" else _frames(path, options, reader)


def _frames(path: Path, options: Options, reader: Reader) -> list[Input]:
    """The frames of a file, each by a name of its own; a file with one frame is an image as any other."""
    name, count = one_line(path.name, 120), reader.count_frames(path)
    frames = range(1, count + 1, options.every)
    if len(frames) > MAX_FRAMES:
        least = -(-count // MAX_FRAMES)
        raise MedGlipError(f"{name}: has {len(frames)} frames, more than {MAX_FRAMES}: thin them out, --every {least}")
    if count == 1:
        return [Input(path, name)]
    return [
        Input(path.with_name(f"{path.stem}-f{frame:04d}{path.suffix}"), f"{name} frame {frame}", None, frame, path)
        for frame in frames
    ]


def _refuse_frame(name: str, options: Options) -> None:
    if options.frame is not None:
        raise UsageError(f"--frame is for pictures, and {name} is a volume: ground it in a run of its own")


def _refuse_number(name: str, options: Options) -> None:
    if options.volume is not None:
        raise UsageError(f"--volume is for 4-D files, and {name} is DICOM: ground it in a run of its own")


def _folder(folder: Path, options: Options, reader: Reader, failed: list[InputRecord]) -> list[Input]:
    """What a folder holds: its DICOM series, then images and volumes by name.

    Args:
        failed: takes a record of DICOM files that cannot be used, if there is something else.
    """
    from ..io.folders import sort_folder
    from ..volumes.reader import is_volume_file

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
        failed.append(InputRecord(name, "failed", 0.0, error=str(error)))
    else:
        if contents.others and not series:
            complain("warning", f"{name}: {contents.others} files that are neither images nor volumes left out")
    files += [file for one in series if one.flat for file in one.files]
    volumes = [one for one in series if not one.flat]
    has_volumes = bool(volumes) or any(map(is_volume_file, files))
    if has_volumes and not any(not is_volume_file(file) for file in files):
        _refuse_frame(name, options)
    if volumes:
        _refuse_number(name, options)
    # Of a mixed folder, options for volumes are for its volumes, and those for images for its images.
    given = replace(options, given=() if has_volumes else options.given)
    found = _series(folder, volumes, options, reader)
    for file in sorted(files):
        found += _file(file, replace(given, frame=None) if is_volume_file(file) else given, reader)
    return found


def _series(folder: Path, series: Sequence[FoundSeries], options: Options, reader: Reader) -> list[Input]:
    """The series of a folder, each by a name of its own."""
    whole, taken = folder.resolve().name, set[str]()
    found = []
    for place, one in enumerate(series, start=1):
        base = whole if len(series) == 1 else f"{whole}-{place if one.number is None else one.number}"
        name = next(n for n in (base, *(f"{base}-{again}" for again in range(2, len(series) + 2))) if n not in taken)
        taken.add(name)
        # The ending keeps a stem from losing what follows a dot.
        found.append(
            Input(folder.parent / f"{name}.dcm", name, partial(reader.open_series, one, name, options.resample))
        )
    return found


class Job:
    """Ground one picture, write its files, print its boxes; a failure is told and recorded, not raised."""

    untrained_threshold = UNTRAINED_THRESHOLD
    all_boxes = False

    def __init__(
        self,
        grounder: Grounder,
        out: Path,
        stem: str,
        prompt: str,
        labels: list[str],
        modality: str,
        threshold: float,
        debug: bool,
        case: DemoCase | None = None,
    ) -> None:
        self.grounder, self.out, self.stem = grounder, out, stem
        self.prompt, self.labels, self.modality, self.threshold = prompt, labels, modality, threshold
        self.debug, self.case = debug, case
        self.pictures: list[Any] = []
        self.warned: list[str] = []
        self.problems: list[str] = []
        self.written: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.frame: int | None = None

    def run(self, name: str, read: Any) -> InputRecord:
        """Read, ground, write, print."""
        start, name = time.perf_counter(), one_line(name, 120)
        try:
            image = read()
            result = self.ground(image)
            for warning in result.warnings:
                complain("warning", f"{name}: {warning}")
            self.labels = list(result.trained) or self.labels
            self.write(image, result)
            for warning in self.warned:
                complain("warning", f"{name}: {warning}")
        except KeyboardInterrupt:  # it counts as not done
            for file in self.written:
                (self.out / file).unlink(missing_ok=True)
            raise
        except UsageError:
            raise
        except MedGlipError as error:
            fail(error, 1, self.debug)
            return InputRecord(name, "failed", time.perf_counter() - start, error=str(error))
        except MemoryError as error:
            fail(f"{name}: not enough memory", 1, self.debug, error)
            return InputRecord(name, "failed", time.perf_counter() - start, error="not enough memory")
        except Exception as error:  # one input must not take the others with it
            memory = "memory" in str(error).lower()
            reason = "not enough memory" if memory else _unexpected(error)
            fail(f"{name}: {reason}", 1, self.debug, error)
            return InputRecord(name, "failed", time.perf_counter() - start, error=reason)
        self.show(name, result)
        self.rows = self.table_rows(result)
        told = (*result.warnings, *self.warned)
        found = (len(result.boxes), result.image.modality, result.modality_source, told)
        status, problem = ("failed", "; ".join(self.problems)) if self.problems else ("done", None)
        return InputRecord(name, status, time.perf_counter() - start, tuple(self.written), *found, error=problem)

    def ground(self, image: Any) -> Any:
        """Ground the prompt in one image."""
        """The boxes of what was read."""
        from ..grounding import ground_image

        thresholds = (self.threshold, self.untrained_threshold)
        return ground_image(self.grounder, image, self.prompt, self.modality, *thresholds, self.all_boxes)

    def show(self, name: str, result: Any) -> None:
        """Print the table of the boxes."""
        """Print the boxes."""
        print_boxes(name, result, self.case)

    def table_rows(self, result: Any) -> list[dict[str, Any]]:
        """The rows of `--csv`."""
        from ..outputs.csv_table import table_rows

        return table_rows(result, one_line(result.image.file, 120), self.frame)

    def window(self) -> tuple[float, float]:
        """(centre, width) in HU that CT is shown with."""
        settings = self.grounder.processor.image_processor.modality_settings.get("ct", {})
        centre, width = settings.get("windows", [(40, 400)])[0]
        return float(centre), float(width)

    def write(self, image: Any, result: Any) -> None:
        """Write the files, both or none."""
        from ..outputs.files import output_names, write_files
        from ..outputs.overlay import display_picture, draw_overlay, overlay_png
        from ..outputs.results import boxes_json

        boxes_name, picture_name = output_names(self.stem)
        phantom = self.case is not None and self.case.is_phantom
        banner = "PHANTOM: drawn by this project, not a patient" if phantom else ""
        shown = display_picture(image, result.image.modality, self.window())
        title = f"{result.image.modality}: {image.file}"
        picture = draw_overlay(shown, result, self.labels, title, banner)
        boxes = boxes_json(result, boxes_name).encode("utf-8", "replace")
        write_files({self.out / boxes_name: boxes, self.out / picture_name: overlay_png(picture)})
        self.written += (boxes_name, picture_name)
        self.pictures.append(picture)


class VolumeJob(Job):
    """Ground one volume; the overlay is a montage of the slices that show each label best."""

    plane: str | None = None
    kinds: tuple[str, ...] = ()
    axes: str | None = None

    def ground(self, image: Any) -> Any:
        """Ground the prompt in the volume."""
        from ..volume_grounding import ground_volume

        wanted = [kind for kind in self.kinds if kind in DICOM_KINDS]
        if wanted and not image.dicom_slices:
            told = f"is no DICOM series, which {' and '.join(wanted)} refer to: leave out --write {wanted[0]}"
            raise MedGlipError(f"{image.name}: {told}")
        found = ground_volume(
            image,
            self.prompt,
            self.modality,
            self.threshold,
            self.plane,
            self.grounder,
            axes=self.axes,
            progress=slices,
            untrained_threshold=self.untrained_threshold,
            all_boxes=self.all_boxes,
        )
        rate = found.slices / max(found.seconds, 1e-6)
        say(f"{image.name}: {found.slices} {found.plane} pictures, {rate:.1f} per second")
        return found

    def write(self, image: Any, result: Any) -> None:
        """Write boxes and montage, both or none, and the other files each on its own: one that cannot be written
        leaves the others, and is told and recorded."""
        from ..outputs.files import color_table_name, output_names, volume_output_names

        own = output_names(self.stem)[: 2 if result.boxes else 1]
        self._each(own, partial(self._write_own, own, image, result))
        names = volume_output_names(self.stem)
        for kind in self.kinds:
            if kind in DICOM_KINDS and not result.boxes:
                self.warned.append(f"nothing was found: no {kind} is written, which cannot be empty")
                continue
            files = (names[kind], color_table_name(self.stem)) if kind == "nifti" else (names[kind],)
            self._each(files, partial(self._write_as, kind, image, result, self.out / names[kind]))

    def _each(self, names: Sequence[str], write: Callable[[], Any]) -> None:
        """Write files that belong together."""
        try:
            write()
            self.written += names
        except Exception as error:  # one output must not take the others with it
            reason = str(error) if isinstance(error, MedGlipError) else f"{names[0]}: {_unexpected(error)}"
            self.problems.append(reason)
            fail(reason, 1, self.debug, error)

    def _write_own(self, names: Sequence[str], source: VolumeSource, result: VolumeResult) -> None:
        from ..outputs.files import write_files
        from ..outputs.volume_results import volume_boxes_json

        contents = [volume_boxes_json(result, names[0]).encode("utf-8", "replace")]
        if result.boxes:
            contents.append(self._montage(source, result))
        write_files({self.out / name: content for name, content in zip(names, contents, strict=True)})

    def _montage(self, source: VolumeSource, result: VolumeResult) -> bytes:
        from ..outputs.montage import draw_montage, shown_boxes
        from ..outputs.overlay import overlay_png

        picture = draw_montage(source, result, self.labels, self.window())
        assert picture is not None  # there are boxes
        missing = shown_boxes(result)[1]
        if missing:
            self.warned.append(f"the montage has no room for {len(missing)} labels: {listed(missing)}")
        return overlay_png(picture)

    def _write_as(self, kind: str, source: VolumeSource, result: VolumeResult, path: Path) -> None:
        from ..outputs import dicom, nifti, slicer
        from ..outputs.files import color_table_name

        if kind == "slicer":
            slicer.write_slicer(result, path, source)
        elif kind == "nifti":
            nifti.write_label_map(result, source, self.labels, path)
            slicer.write_color_table(self.labels, self.out / color_table_name(self.stem))
        elif kind == "sr":
            dicom.write_report(result, source, path)
        else:
            dicom.write_segmentation(result, source, path)

    def show(self, name: str, result: Any) -> None:
        """Print the table of the boxes."""
        print_volume_boxes(name, result)
