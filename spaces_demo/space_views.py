# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The state of a page between its requests, and its HTML and files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from gradio.processing_utils import save_bytes_to_cache

from modeling_medglip.grounding import prompt_labels
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.outputs.files import output_names, safe_stem
from modeling_medglip.outputs.overlay import display_image
from modeling_medglip.outputs.results import GroundingResult, write_boxes
from modeling_medglip.outputs.volume_results import VolumeResult, write_volume_boxes
from space_experts import NAMES, Experts, Progress, above
from space_html import boxes_table, figure, image_uri, status
from space_messages import in_page_terms
from space_rows import Row, rows_of
from space_scene import middle_slices, scene
from space_sources import Source, box_in_slice, planes_of, read_slice_image


ASK = "Name what to look for and press Find."
EMPTY = "Upload an image or a volume, or pick an example."


@dataclass(frozen=True)
class Shown:
    """What a page shows.

    Attributes:
        source ([`Source`]): the input.
        name (`str`): of the file.
        uri (`str`): the image as it is shown, see [`figure`].
        size (`tuple[int, int]`): (width, height) of the image in pixels.
        ratio (`float`): shown width / height.
        guessed (`tuple[str, str, float | None]`): modality, its source, the router's probability.
        plane (`str`): of the slice of a volume.
        index (`int`): of the slice, counted from 0.
        counts (`tuple[tuple[str, int], ...]`): (plane, number of slices) of a volume.
        notes (`tuple[str, ...]`): warnings about the file.
        results (`tuple[GroundingResult, ...]`): of the image, one or two.
        volume ([`VolumeResult`], *optional*): of the whole volume.
        slices (`tuple[tuple[str, str], ...]`): (plane, URI) of its middle slices, see [`middle_slices`].
    """

    source: Source
    name: str
    uri: str
    size: tuple[int, int]
    ratio: float
    guessed: tuple[str, str, float | None]
    plane: str = ""
    index: int = 0
    counts: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    results: tuple[GroundingResult, ...] = ()
    volume: VolumeResult | None = None
    slices: tuple[tuple[str, str], ...] = ()

    @property
    def prompt(self) -> str:
        """The prompt of the results, empty without results."""
        return self.volume.prompt if self.volume else self.results[0].prompt if self.results else ""


def open_source(source: Source, experts: Experts) -> Shown:
    """Open an input.

    Args:
        source ([`Source`]): the input.
        experts ([`Experts`]): choose the modality.

    Raises:
        `MedGlipError`: it cannot be read.
    """
    if not source.is_volume:
        image = source.read_image()
        return _with_image(Shown(source, image.file, "", (1, 1), 1.0, experts.guess(image)), image, experts)
    volume = source.volume(experts.settings)
    plane, counts = planes_of(volume)
    index = counts[plane] // 2
    image = read_slice_image(volume, plane, index)
    shown = Shown(source, volume.name, "", (1, 1), 1.0, experts.guess(image), plane, index, tuple(counts.items()))
    return _with_image(replace(shown, notes=tuple(volume.notes)), image, experts)


def at_slice(shown: Shown, plane: str, index: int, experts: Experts) -> Shown:
    """Show another slice, without the boxes of the slice before; those of the whole volume stay.

    Args:
        shown ([`Shown`]): of a volume.
        plane (`str`): of the slice; the plane that is shown if unknown.
        index (`int`): of the slice, counted from 0.
        experts ([`Experts`]): with the settings.

    Raises:
        `MedGlipError`: it cannot be read.
    """
    counts = dict(shown.counts)
    plane = plane if plane in counts else shown.plane
    index = min(max(index, 0), counts[plane] - 1)
    image = read_slice_image(shown.source.volume(experts.settings), plane, index)
    return _with_image(replace(shown, plane=plane, index=index, results=()), image, experts)


def whole_volume(shown: Shown, experts: Experts, prompt: str, modality: str, progress: Progress | None) -> Shown:
    """Ground the volume in the plane that is shown.

    Args:
        shown ([`Shown`]): of a volume.
        experts ([`Experts`]): the loaded checkpoints.
        prompt (`str`): labels.
        modality (`str`): of the expert, or `"auto"`.
        progress (`Callable`, *optional*): wraps the slices.

    Raises:
        `MedGlipError`: it cannot be read or grounded.
    """
    source = shown.source.volume(experts.settings)
    result = experts.find_in_volume(source, prompt, modality, shown.plane, progress)
    slices = middle_slices(source, result.image.modality, experts.window())
    return replace(shown, results=(), volume=result, slices=tuple(slices.items()))


def shown_image(shown: Shown, experts: Experts) -> ReadImage:
    """Return the image or slice that is shown, in the numbers of its file.

    Args:
        shown ([`Shown`]): of an image or a volume.
        experts ([`Experts`]): with the settings.

    Raises:
        `MedGlipError`: it cannot be read.
    """
    if shown.source.is_volume:
        return read_slice_image(shown.source.volume(experts.settings), shown.plane, shown.index)
    return shown.source.read_image()


def _with_image(shown: Shown, image: ReadImage, experts: Experts) -> Shown:
    displayed = display_image(image, shown.guessed[0], experts.window())
    ratio = image.width / image.height
    if image.spacing_mm is not None:
        ratio *= image.spacing_mm[0] / image.spacing_mm[1]
    return replace(shown, uri=image_uri(displayed), size=(image.width, image.height), ratio=min(max(ratio, 0.2), 5.0))


# HTML ----------------------------------------------------------------------------------------------------------------


def status_html(shown: Shown) -> str:
    """Return the line about modality, file and slice, and the warnings, as HTML.

    Args:
        shown ([`Shown`]): what the page shows.
    """
    modality, source, sure = shown.guessed
    warnings, extra = shown.notes, ""
    if shown.counts:
        extra = f"{shown.plane} slice {shown.index + 1} of {dict(shown.counts)[shown.plane]}"
    result = shown.volume or (shown.results[0] if shown.results else None)
    if result is not None:
        modality, source, sure = result.image.modality, result.modality_source, result.modality_probability
        warnings = (*warnings, *(note for note in result.warnings if note not in warnings))
    if shown.volume is not None:
        extra += f"; {shown.volume.slices} slices in {shown.volume.seconds:.0f} s"
    known = NAMES.get(modality, modality) or "Modality not known: choose it"
    return status(known, source, sure, shown.name, map(in_page_terms, warnings), extra)


def result_html(shown: Shown, threshold: float) -> str:
    """Return the image with its boxes and their table, as HTML; two of both, side by side, for two experts.

    Args:
        shown ([`Shown`]): what the page shows.
        threshold (`float`): boxes with lower scores are hidden.
    """
    if shown.volume is not None:
        return f'<div class="mg-results">{_volume_html(shown, shown.volume, threshold)}</div>'
    if not shown.results:
        return f'<div class="mg-results"><div>{figure(shown.uri, shown.size, shown.ratio, [], threshold)}</div></div>'
    parts = []
    for result in shown.results:
        labels = list(result.trained) or prompt_labels(result.prompt)
        rows = rows_of(result.boxes, labels)
        name = NAMES.get(result.image.modality, result.image.modality)
        title = f"{name} expert of {result.model}" if len(shown.results) > 1 else ""
        drawn = figure(shown.uri, shown.size, shown.ratio, rows, threshold, title)
        parts.append(f"<div>{drawn}{boxes_table(rows, labels, threshold)}</div>")
    double = " mg-double" if len(parts) > 1 else ""
    return f'<div class="mg-results{double}">{"".join(parts)}</div>'


def _volume_html(shown: Shown, result: VolumeResult, threshold: float) -> str:
    labels = list(result.trained) or prompt_labels(result.prompt)
    rows = rows_of(result.boxes, labels)
    grid = shown.source.volume_grid()
    cut: list[Row] = []
    for row in rows:
        box = box_in_slice(result.boxes[row.number], grid, shown.plane, shown.index)
        cut += [replace(row, box=box)] if box is not None else []
    drawn = figure(shown.uri, shown.size, shown.ratio, cut, threshold, f"{shown.plane} slice {shown.index + 1}")
    space = scene(grid, dict(shown.slices), rows, threshold)
    below = boxes_table(rows, labels, threshold, result.image.spacing_mm)
    return f'<div><div class="mg-pair">{drawn}{space}</div>{below}</div>'


# Files ---------------------------------------------------------------------------------------------------------------


def boxes_file(result: GroundingResult | VolumeResult, threshold: float, cache: str, suffix: str = "") -> str:
    """Write a `*.boxes.json` of the boxes above the threshold to the server's cache, and return its path.

    Args:
        result ([`GroundingResult`] or [`VolumeResult`]): with all boxes.
        threshold (`float`): lowest score of a box.
        cache (`str`): the folder of the server's files.
        suffix (`str`, *optional*): of the name's stem.
    """
    shown_result = above(result, threshold)
    name = output_names(safe_stem(result.image.file) + suffix)[0]
    with tempfile.TemporaryDirectory(prefix="medglip-") as folder:
        path = Path(folder, name)
        write_volume_boxes(shown_result, path) if isinstance(shown_result, VolumeResult) else write_boxes(
            shown_result, path
        )
        return save_bytes_to_cache(path.read_bytes(), name, cache)


def boxes_files(shown: Shown, threshold: float, cache: str) -> list[str]:
    """Write the files of all shown results, and return their paths.

    Args:
        shown ([`Shown`]): what the page shows.
        threshold (`float`): lowest score of a box.
        cache (`str`): the folder of the server's files.
    """
    if shown.volume is not None:
        return [boxes_file(shown.volume, threshold, cache)]
    suffix = f"-{shown.plane}-{shown.index + 1}" if shown.counts else ""
    names = [suffix, *(f"{suffix}-{result.image.modality}-2" for result in shown.results[1:])]
    return [boxes_file(result, threshold, cache, end) for result, end in zip(shown.results, names, strict=False)]
