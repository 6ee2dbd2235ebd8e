# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the console script does with one input: read, ground, write, print; a failure is told and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_talk import complain, fail, print_boxes, print_volume_boxes, say, slices
from .errors import MedGlipError, UsageError, one_line
from .run_report import InputRecord
from .trained_labels import UNTRAINED_THRESHOLD


if TYPE_CHECKING:
    from .demo_images import DemoCase
    from .grounding import Grounder
    from .isolation import Reader
    from .volume_results import VolumeResult
    from .volume_source import VolumeSource


# Outputs that refer to a DICOM series.
DICOM_KINDS = ("sr", "seg")


@dataclass(frozen=True)
class Input:
    """A picture, or a volume that `open` opens.

    Attributes:
        path: where it is; of a series of a folder, and of a multi-frame file, one that only names its outputs.
        name: for messages.
    """

    path: Path
    name: str
    open: Callable[[], VolumeSource] | None = None


@dataclass(frozen=True)
class Options:
    """What the command line says of volumes, and of pictures that are a frame.

    Attributes:
        given: the options that were given and are for volumes alone, as they are typed.
    """

    several_patients: bool = False
    resample: bool = False
    volume: int | None = None
    frame: int | None = None
    given: tuple[str, ...] = ()


def known_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """What `--write` asks for, once each.

    Raises:
        `UsageError`: something that is not written.
    """
    from .results import volume_output_names

    known = tuple(volume_output_names(""))
    for kind in kinds:
        if kind not in known:
            raise UsageError(f"--write {one_line(kind, 40)!r}: choose of {', '.join(known)}")
    return tuple(dict.fromkeys(kinds))


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
        if not path.is_dir():
            found.append(_file(path, options, reader))
            continue
        name = one_line(path.name, 120)
        _refuse_frame(name, options)
        start = time.perf_counter()
        try:
            found += _series(path, options, reader)
        except UsageError:
            raise
        except Exception as error:  # one input must not take the others with it
            reason = str(error) if isinstance(error, MedGlipError) else f"{name}: {_unexpected(error)}"
            fail(reason, 1, debug, error)
            failed.append(InputRecord(name, "failed", time.perf_counter() - start, error=reason))
    return found, failed


def _unexpected(error: Exception) -> str:
    # What other libraries say may quote a header.
    return f"unexpected {type(error).__name__}; --debug shows where"


def _file(path: Path, options: Options, reader: Reader) -> Input:
    from .volumes import is_volume_file

    name = one_line(path.name, 120)
    if is_volume_file(path):
        _refuse_frame(name, options)
        return Input(path, name, partial(reader.open_volume, path, options.volume, detached=True))
    from .dicom_folder import FoundSeries

    if options.frame is None and reader.holds_slices(path):
        _refuse_number(name, options)
        return Input(path, name, partial(reader.open_series, FoundSeries((path,)), path.name, options.resample))
    if options.given and path.is_file():
        told = f"{options.given[0]} is for volumes, and {name} is a picture: ground it in a run of its own"
        raise UsageError(told)
    return Input(path, name)


def _refuse_frame(name: str, options: Options) -> None:
    if options.frame is not None:
        raise UsageError(f"--frame is for pictures, and {name} is a volume: ground it in a run of its own")


def _refuse_number(name: str, options: Options) -> None:
    if options.volume is not None:
        raise UsageError(f"--volume is for 4-D files, and {name} is DICOM: ground it in a run of its own")


def _series(folder: Path, options: Options, reader: Reader) -> list[Input]:
    """The series of a folder, each by a name of its own."""
    _refuse_number(one_line(folder.name, 120), options)
    series = reader.find_series(folder, options.several_patients, options.resample)
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

    def run(self, name: str, read: Any) -> InputRecord:
        """Read, ground, write, print."""
        start, name = time.perf_counter(), one_line(name, 120)
        try:
            image = read()
            result = self.ground(image)
            for warning in result.warnings:
                complain("warning", f"{name}: {warning}")
            outputs = self.write(image, result)
            for warning in self.warned:
                complain("warning", f"{name}: {warning}")
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
        told = (*result.warnings, *self.warned)
        found = (len(result.boxes), result.image.modality, result.modality_source, told)
        status, problem = ("failed", "; ".join(self.problems)) if self.problems else ("done", None)
        return InputRecord(name, status, time.perf_counter() - start, outputs, *found, error=problem)

    def ground(self, image: Any) -> Any:
        """The boxes of what was read."""
        from .grounding import ground_image

        thresholds = (self.threshold, self.untrained_threshold)
        return ground_image(self.grounder, image, self.prompt, self.modality, *thresholds, self.all_boxes)

    def show(self, name: str, result: Any) -> None:
        """Print the boxes."""
        print_boxes(name, result, self.case)

    def window(self) -> tuple[float, float]:
        """(centre, width) in HU that CT is shown with."""
        settings = self.grounder.processor.image_processor.modality_settings.get("ct", {})
        centre, width = settings.get("windows", [(40, 400)])[0]
        return float(centre), float(width)

    def write(self, image: Any, result: Any) -> tuple[str, ...]:
        """Write the files; returns their names."""
        from .overlay import display_picture, draw_overlay, overlay_png
        from .results import output_names, write_boxes, write_bytes

        boxes_name, picture_name = output_names(self.stem)
        phantom = self.case is not None and self.case.is_phantom
        banner = "PHANTOM: drawn by this project, not a patient" if phantom else ""
        shown = display_picture(image, result.image.modality, self.window())
        title = f"{result.image.modality}: {image.file}"
        picture = draw_overlay(shown, result, self.labels, title, banner)
        self.pictures.append(picture)
        write_boxes(result, self.out / boxes_name)
        write_bytes(self.out / picture_name, overlay_png(picture))
        return boxes_name, picture_name


class VolumeJob(Job):
    """Ground one volume; the overlay is a montage of the slices that show each label best."""

    plane: str | None = None
    kinds: tuple[str, ...] = ()
    axes: str | None = None

    def ground(self, image: Any) -> Any:
        from .volume_grounding import ground_volume

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

    def write(self, image: Any, result: Any) -> tuple[str, ...]:
        """Write every file on its own: one that cannot be written leaves the others, and is told and recorded."""
        from .results import output_names, volume_output_names
        from .volume_results import write_volume_boxes

        boxes_name, picture_name = output_names(self.stem)
        written = self._each(boxes_name, lambda path: write_volume_boxes(result, path))
        if result.boxes:
            written += self._each(picture_name, partial(self._montage, image, result))
        names = volume_output_names(self.stem)
        for kind in self.kinds:
            if kind in DICOM_KINDS and not result.boxes:
                self.warned.append(f"nothing was found: no {kind} is written, which cannot be empty")
                continue
            written += self._each(names[kind], partial(self._write_as, kind, image, result))
        return tuple(written)

    def _each(self, name: str, write: Callable[[Path], Any]) -> list[str]:
        """The name of a file, if it could be written."""
        try:
            write(self.out / name)
            return [name]
        except Exception as error:  # one output must not take the others with it
            reason = str(error) if isinstance(error, MedGlipError) else f"{name}: {_unexpected(error)}"
            self.problems.append(reason)
            fail(reason, 1, self.debug, error)
            return []

    def _montage(self, source: VolumeSource, result: VolumeResult, path: Path) -> None:
        from .montage import draw_montage, shown_boxes
        from .overlay import overlay_png
        from .results import write_bytes

        picture = draw_montage(source, result, self.labels, self.window())
        assert picture is not None  # there are boxes
        write_bytes(path, overlay_png(picture))
        missing = shown_boxes(result)[1]
        if missing:
            self.warned.append(f"the montage has no room for {len(missing)} labels: {', '.join(missing)}")

    def _write_as(self, kind: str, source: VolumeSource, result: VolumeResult, path: Path) -> None:
        from . import dicom_outputs, volume_outputs

        if kind == "slicer":
            volume_outputs.write_slicer(result, path, source)
        elif kind == "nifti":
            volume_outputs.write_label_map(result, source, self.labels, path)
        elif kind == "sr":
            dicom_outputs.write_report(result, source, path)
        else:
            dicom_outputs.write_segmentation(result, source, path)

    def show(self, name: str, result: Any) -> None:
        print_volume_boxes(name, result)
