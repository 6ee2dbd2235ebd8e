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


if TYPE_CHECKING:
    from .demo_images import DemoCase
    from .grounding import Grounder
    from .volume_results import VolumeResult
    from .volume_source import VolumeSource


@dataclass(frozen=True)
class Input:
    """A picture, or a volume that `open` opens. Series of a folder have a path of their own, which only names them."""

    path: Path
    open: Callable[[], VolumeSource] | None = None


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
    inputs: Sequence[Path], several_patients: bool, resample: bool, volume: int | None, debug: bool
) -> tuple[list[Input], list[InputRecord]]:
    """What the command line names, folders as their series; and records of folders that cannot be used."""
    from .volumes import is_volume_file

    found: list[Input] = []
    failed: list[InputRecord] = []
    for path in inputs:
        if path.is_dir():
            from .dicom_folder import find_series, open_series

            try:
                series = find_series(path, several_patients)
            except MedGlipError as error:
                fail(error, 1, debug)
                failed.append(InputRecord(one_line(path.name, 120), "failed", 0.0, error=str(error)))
                continue
            for number, one in enumerate(series, start=1):
                name = path.resolve().name if len(series) == 1 else f"{path.resolve().name}-{one.number or number}"
                found.append(Input(path.parent / name, partial(open_series, one, name, resample)))
        elif is_volume_file(path):
            from .volume_source import open_volume

            found.append(Input(path, partial(open_volume, path, volume)))
        else:
            found.append(Input(path))
    return found, failed


class Job:
    """Ground one picture, write its files, print its boxes; a failure is told and recorded, not raised."""

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

    def run(self, name: str, read: Any) -> InputRecord:
        """Read, ground, write, print."""
        start, name = time.perf_counter(), one_line(name, 120)
        try:
            image = read()
            result = self.ground(image)
            for warning in result.warnings:
                complain("warning", f"{name}: {warning}")
            outputs = self.write(image, result)
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
            reason = "not enough memory" if memory else f"unexpected {type(error).__name__}; --debug shows where"
            fail(f"{name}: {reason}", 1, self.debug, error)
            return InputRecord(name, "failed", time.perf_counter() - start, error=reason)
        self.show(name, result)
        found = (len(result.boxes), result.image.modality, result.modality_source, result.warnings)
        return InputRecord(name, "done", time.perf_counter() - start, outputs, *found)

    def ground(self, image: Any) -> Any:
        """The boxes of what was read."""
        from .grounding import ground_image

        return ground_image(self.grounder, image, self.prompt, self.modality, self.threshold)

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

        found = ground_volume(
            image,
            self.prompt,
            self.modality,
            self.threshold,
            self.plane,
            self.grounder,
            axes=self.axes,
            progress=slices,
        )
        rate = found.slices / max(found.seconds, 1e-6)
        say(f"{image.name}: {found.slices} {found.plane} pictures, {rate:.1f} per second")
        return found

    def write(self, image: Any, result: Any) -> tuple[str, ...]:
        from .montage import draw_montage
        from .overlay import overlay_png
        from .results import output_names, volume_output_names, write_bytes
        from .volume_results import write_volume_boxes

        boxes_name, picture_name = output_names(self.stem)
        write_volume_boxes(result, self.out / boxes_name)
        written = [boxes_name]
        picture = draw_montage(image, result, self.labels, self.window())
        if picture is not None:
            write_bytes(self.out / picture_name, overlay_png(picture))
            written.append(picture_name)
        names = volume_output_names(self.stem)
        for kind in self.kinds:
            self._write_as(kind, image, result, self.out / names[kind])
            written.append(names[kind])
        return tuple(written)

    def _write_as(self, kind: str, source: VolumeSource, result: VolumeResult, path: Path) -> None:
        from . import dicom_outputs, volume_outputs

        if kind == "slicer":
            volume_outputs.write_slicer(result, path)
        elif kind == "nifti":
            volume_outputs.write_label_map(result, source, self.labels, path)
        elif kind == "sr":
            dicom_outputs.write_report(result, source, path)
        else:
            dicom_outputs.write_segmentation(result, source, path)

    def show(self, name: str, result: Any) -> None:
        print_volume_boxes(name, result)
