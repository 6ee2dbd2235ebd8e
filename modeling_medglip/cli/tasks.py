# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the console script does with one input: read, ground, write, print; a failure is printed and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MOST_MISSING, MedGlipError, UsageError, listed, one_line
from ..outputs.run_report import InputRecord
from .console import echo, fail, failure_reason, in_flags, print_result, slices, warn


if TYPE_CHECKING:
    from ..grounding import Grounder
    from ..outputs.volume_results import VolumeResult
    from ..volumes.source import VolumeSource
    from .inputs import Input
    from .request import GroundRequest


# Outputs that refer to a DICOM series.
DICOM_KINDS = ("sr", "seg")


class ImageTask:
    """Ground one image, write its files, print its boxes; a failure is printed and recorded, not raised.

    Args:
        request ([`GroundRequest`]): the options of the run.
        grounder ([`~modeling_medglip.Grounder`]): the loaded checkpoint.
        stem (`str`): of the names of the written files.
        banner (`str`, *optional*): a warning at the top of the overlay.
        note (`str`, *optional*): a line below the printed heading.
        frame (`int`, *optional*): which frame of its file the image is, counted from 1.

    Attributes:
        overlays (`list[PIL.Image.Image]`): what a sheet of all inputs shows.
        rows (`list[dict]`): what a table of all inputs shows.
    """

    def __init__(
        self,
        request: GroundRequest,
        grounder: Grounder,
        stem: str,
        banner: str = "",
        note: str = "",
        frame: int | None = None,
    ) -> None:
        self.request, self.grounder, self.stem = request, grounder, stem
        self.banner, self.note, self.frame = banner, note, frame
        self.overlays: list[Any] = []
        self.warnings: list[str] = []
        self.problems: list[str] = []
        self.written: list[str] = []
        self.rows: list[dict[str, Any]] = []

    def run(self, name: str, read: Callable[[], Any]) -> InputRecord:
        """Read, ground, write, print.

        Args:
            name (`str`): of the input, for messages.
            read (`Callable`): returns the image or the volume.

        Raises:
            `UsageError`: the request does not fit the input. `KeyboardInterrupt`: after the written files are deleted.
        """
        start, name = time.perf_counter(), one_line(name, 120)
        try:
            image = read()
            result = self.ground(image)
            self._warn(name, result.warnings)
            self.write(image, result)
            self._warn(name, self.warnings)
        except KeyboardInterrupt:  # the input counts as not done
            for file in self.written:
                (self.request.out / file).unlink(missing_ok=True)
            raise
        except UsageError:
            raise
        except Exception as error:  # one input must not take the others with it
            reason = failure_reason(error, name)
            fail(reason, 1, self.request.debug, error)
            return InputRecord(name, "failed", time.perf_counter() - start, error=reason)
        print_result(name, result, self.note)
        self.rows = result.to_rows(self.frame)
        return InputRecord(
            file=name,
            status="failed" if self.problems else "done",
            seconds=time.perf_counter() - start,
            outputs=tuple(self.written),
            boxes=len(result.boxes),
            modality=result.image.modality,
            modality_source=result.modality_source,
            warnings=tuple(in_flags(warning) for warning in (*result.warnings, *self.warnings)),
            error="; ".join(self.problems) or None,
        )

    def _warn(self, name: str, warnings: Sequence[str]) -> None:
        for warning in warnings:
            warn("warning", f"{name}: {in_flags(warning)}")

    def ground(self, image: Any) -> Any:
        """Return the result of what was read."""
        from ..grounding import ground_image

        return ground_image(image, **self._options())

    def _options(self) -> dict[str, Any]:
        """Return the arguments that `ground_image` and `ground_volume` share."""
        names = ("modality", "threshold", "untrained_threshold", "all_boxes")
        options = {name: getattr(self.request, name) for name in names}
        return {"prompt": self.request.asked, "model": self.grounder, **options}

    def write(self, image: Any, result: Any) -> None:
        """Write the files, both or none."""
        from ..outputs.files import output_names, write_files
        from ..outputs.overlay import overlay_png
        from ..outputs.results import boxes_json

        names = output_names(self.stem)
        overlay = result.plot(image, banner=self.banner, window=self.grounder.ct_window)
        contents = (boxes_json(result, names[0]).encode("utf-8", "replace"), overlay_png(overlay))
        write_files({self.request.out / name: content for name, content in zip(names, contents, strict=True)})
        self.written += names
        self.overlays.append(overlay)


class VolumeTask(ImageTask):
    """Ground one volume; the overlay is a montage of the slices that show each label best."""

    def ground(self, image: Any) -> Any:
        """Return the result of an opened volume."""
        from ..volume_grounding import ground_volume

        request = self.request
        dicom_kinds = [kind for kind in request.kinds if kind in DICOM_KINDS]
        if dicom_kinds and not image.dicom_slices:
            problem = f"is not a DICOM series, which {' and '.join(dicom_kinds)} refer to"
            raise MedGlipError(f"{image.name}: {problem}: leave out --write {dicom_kinds[0]}")
        result = ground_volume(image, **self._options(), plane=request.plane, axes=request.axes, progress=slices)
        speed = result.slices / max(result.seconds, 1e-6)
        echo(f"{image.name}: {result.slices} {result.plane} slices, {speed:.1f} per second")
        return result

    def write(self, image: Any, result: Any) -> None:
        """Write boxes and montage, both or none, and every other file by itself.

        A file that cannot be written leaves the others; its error is printed and recorded.
        """
        from ..outputs.files import color_table_name, output_names, volume_output_names

        main = output_names(self.stem)[: 2 if result.boxes else 1]
        self._write_group(main, partial(self._write_main, main, image, result))
        names = volume_output_names(self.stem)
        for kind in self.request.kinds:
            if kind in DICOM_KINDS and not result.boxes:
                self.warnings.append(f"nothing was found: no {kind} is written, which cannot be empty")
                continue
            files = (names[kind], color_table_name(self.stem)) if kind == "nifti" else (names[kind],)
            path = self.request.out / names[kind]
            self._write_group(files, partial(self._write_kind, kind, image, result, path))

    def _write_group(self, names: Sequence[str], write: Callable[[], Any]) -> None:
        """Write files that belong together."""
        try:
            write()
            self.written += names
        except Exception as error:  # one output must not take the others with it
            reason = failure_reason(error, names[0])
            self.problems.append(reason)
            fail(reason, 1, self.request.debug, error)

    def _write_main(self, names: Sequence[str], source: VolumeSource, result: VolumeResult) -> None:
        from ..outputs.files import write_files
        from ..outputs.volume_results import volume_boxes_json

        contents = [volume_boxes_json(result, names[0]).encode("utf-8", "replace")]
        if result.boxes:
            contents.append(self._montage(source, result))
        write_files({self.request.out / name: content for name, content in zip(names, contents, strict=True)})

    def _montage(self, source: VolumeSource, result: VolumeResult) -> bytes:
        from ..outputs.montage import shown_boxes
        from ..outputs.overlay import overlay_png

        montage = result.plot(source, self.grounder.ct_window)
        assert montage is not None  # there are boxes
        missing = shown_boxes(result.boxes)[1]
        if missing:
            names = listed(missing, most=MOST_MISSING)
            self.warnings.append(f"the montage has no room for {len(missing)} labels: {names}")
        return overlay_png(montage)

    def _write_kind(self, kind: str, source: VolumeSource, result: VolumeResult, path: Path) -> None:
        from ..outputs import dicom, nifti, slicer
        from ..outputs.files import color_table_name

        labels = list(result.trained)
        if kind == "slicer":
            slicer.write_slicer(result, path, source)
        elif kind == "nifti":
            nifti.write_label_map(result, source, labels, path)
            slicer.write_color_table(labels, path.with_name(color_table_name(self.stem)))
        elif kind == "sr":
            dicom.write_report(result, source, path)
        else:
            dicom.write_segmentation(result, source, path)


def make_task(request: GroundRequest, grounder: Grounder, stem: str, one: Input) -> ImageTask:
    """Return the task of one input.

    Args:
        request ([`GroundRequest`]): the options of the run.
        grounder ([`~modeling_medglip.Grounder`]): the loaded checkpoint.
        stem (`str`): of the names of the written files.
        one ([`Input`]): an image or a volume.
    """
    return (ImageTask if one.volume is None else VolumeTask)(request, grounder, stem, frame=one.frame)


__all__ = ["ImageTask", "VolumeTask", "make_task"]
