# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Ground phrases in a volume: picture by picture, then boxes in space.

The prompt is read by the language encoder once; of the volume one batch of pictures is in memory at a time, where the
file allows it; what stays of a picture is its boxes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .boxes import iou
from .defaults import UNTRAINED_THRESHOLD
from .errors import MedGlipError, UsageError, one_line
from .grounding import Grounder, as_grounder, asked_labels, choose_modality, locate_labels, prompt_labels
from .io.image_record import ReadImage
from .outputs.single_structures import best_in_volume
from .outputs.volume_results import Corner, VolumeBox, VolumeInfo, VolumeResult
from .questions import Question, encode_questions, make_question
from .volumes.geometry import (
    NORMAL_AXIS,
    PLANES,
    Volume,
    corners_lps,
    slice_count,
    slice_spacing,
    slices_extent,
    to_file,
    to_lps,
)
from .volumes.header import UNORIENTED
from .volumes.inputs import as_source
from .volumes.laterality import laterality_warnings
from .volumes.linking import SliceBox, Tracklet, link_slices
from .volumes.source import VolumeSource, acquisition_plane
from .volumes.square_pixels import resize, square_size


# Boxes of single slices are kept from this share of the threshold on; whole structures must reach the threshold.
SLICE_THRESHOLD_RATIO = 0.5
# Slices without a box that a structure may span, in mm.
MAX_GAP_MM = 5.0
CONSENSUS = "all"
# Boxes of two planes show the same structure from this IoU on.
CONSENSUS_IOU_THRESHOLD = 0.25


def ground_volume(
    volume: str | Path | Volume | VolumeSource | Any,
    prompt: str,
    modality: str = "auto",
    model: str | Path | Grounder | None = None,
    device: str = "auto",
    *,
    threshold: float = 0.3,
    untrained_threshold: float = UNTRAINED_THRESHOLD,
    all_boxes: bool = False,
    plane: str | None = None,
    axes: str | None = None,
    number: int | None = None,
    resample: bool = False,
    several_patients: bool = False,
    batch_size: int = 4,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> VolumeResult:
    """Find the regions of a volume that the labels of a prompt name.

    Args:
        volume (`str`, `Path`, [`Volume`], [`VolumeSource`] or image of nibabel): a file (see
            [`~volumes.reader.read_volume`]), a multi-frame DICOM file, a folder with one DICOM series, or voxels.
        prompt (`str`): labels, separated by dots, commas or lines; `"all"` for every label that the expert was
            trained with.
        modality (`str`, *optional*, defaults to `"auto"`): a name or an alias; `"auto"` takes the header's, else what
            the middle slice looks like.
        model (`str`, `Path` or [`Grounder`], *optional*): checkpoint or adapter, folder or id, or what
            `load_grounder` returned; the embedded checkpoint when `None`.
        device (`str`, *optional*, defaults to `"auto"`): see [`~modeling_medglip.grounding.load`].
        threshold (`float`, *optional*, defaults to 0.3): lowest score of a box in space, 0 to 1.
        untrained_threshold (`float`, *optional*, defaults to 0.9): lowest score to keep of labels that the expert was
            not trained with, if that is higher.
        all_boxes (`bool`, *optional*, defaults to `False`): keep every box, also several of a structure that a patient
            has one of.
        plane (`str`, *optional*): `"axial"`, `"coronal"`, `"sagittal"`; `"all"` keeps what two planes of three agree
            on; `None` is the plane in which the slices were taken.
        axes (`str`, *optional*): where the file's axes run, such as `"LPS"`, instead of what its header says; mm are
            then counted along these axes from where the header puts the first voxel; see
            [`~volumes.geometry.with_axcodes`].
        number (`int`, *optional*): which volume of a 4-D file or image, counted from 1.
        resample (`bool`, *optional*, defaults to `False`): take a DICOM series with uneven, missing or damaged slices,
            interpolated.
        several_patients (`bool`, *optional*, defaults to `False`): take a DICOM folder with files of several patients.
        batch_size (`int`, *optional*, defaults to 4): slices that go through the network together.
        progress (`Callable`, *optional*): called with the slices and their number; yields the slices.

    Returns:
        a [`VolumeResult`]: boxes in voxels of the file's own grid and in LPS mm.

    Raises:
        `UsageError`: an unknown modality, plane or device, no label. `MedGlipError`: a volume that cannot be read or
        used; names the file.
    """
    prompt_labels(prompt)  # a prompt without labels is found before anything else
    source = as_source(volume, number, resample, several_patients)
    if axes is not None:
        try:
            source.state_axes(axes)
        except ValueError as error:
            raise UsageError(one_line(error)) from None
    planes = _planes(plane, source)
    grounder = as_grounder(model, device, modality)
    start = time.perf_counter()
    name, origin, probability, notes = _modality(grounder, source, planes[0], modality)
    question = make_question(grounder.trained, asked_labels(grounder, prompt, name), name)
    finder = _Finder(grounder, question, name, threshold * SLICE_THRESHOLD_RATIO, batch_size)
    single: dict[str, dict[str, list[SliceBox]]] = {}
    count = 0
    for own in planes:
        pictures = slice_count(source.lps, own)
        shown = source.read_slices(own) if progress is None else progress(source.read_slices(own), pictures)
        single[own] = finder.find(shown, source.name, slice_spacing(source.lps, own))
        count += pictures
    found = {own: _tracklets(boxes, source.lps, own) for own, boxes in single.items()}
    boxes = _boxes(found, source.grid, question, name, (threshold, untrained_threshold))
    notes += question.notes(name, max(threshold, untrained_threshold))
    notes += tuple(note for note in source.notes if axes is None or note != UNORIENTED)
    best = best_in_volume(boxes, name)
    notes += laterality_warnings(best)
    grid = source.grid
    i, j, k = (int(length) for length in grid.array.shape)
    x, y, z = (float(value) for value in grid.spacing)
    info = VolumeInfo(source.name, (i, j, k), (x, y, z), name)
    shown_plane = planes[0] if len(planes) == 1 else CONSENSUS
    seconds = time.perf_counter() - start
    seen = (shown_plane, single, count, seconds)
    boxes = boxes if all_boxes else best
    return VolumeResult(grounder.name, info, prompt, boxes, *seen, origin, probability, notes, question.trained)


def _planes(plane: str | None, source: VolumeSource) -> tuple[str, ...]:
    if plane == CONSENSUS:
        return PLANES
    if plane is None:
        return (acquisition_plane(source.grid, source.stacked),)
    if plane not in PLANES:
        raise UsageError(f"plane {one_line(plane, 40)!r}: choose one of {', '.join((*PLANES, CONSENSUS))}")
    return (plane,)


def _modality(
    grounder: Grounder, source: VolumeSource, plane: str, modality: str
) -> tuple[str, str, float | None, tuple[str, ...]]:
    """As [`choose_modality`], by the middle picture."""
    middle = _middle_slice(source, plane)
    size = square_size((middle.shape[0], middle.shape[1]), slice_spacing(source.lps, plane))
    image = ReadImage(np.ascontiguousarray(resize(middle, size)), source.name, source.modality)
    try:
        return choose_modality(grounder, image, modality)
    except UsageError:
        raise
    except ValueError as error:
        raise MedGlipError(f"{source.name}: {one_line(error)}") from error


def _middle_slice(source: VolumeSource, plane: str) -> NDArray:
    """Return the middle slice of a plane; slices that are decoded on the way to it are kept."""
    middle = slice_count(source.lps, plane) // 2
    if source.sequential and source.streams(plane):
        return next(pixels for index, pixels in source.read_slices(plane) if index == middle)
    return source.read_slice(plane, middle)


class _Finder:
    """Grounds the labels of one prompt in many pictures of one modality."""

    def __init__(
        self, grounder: Grounder, question: Question, modality: str, threshold: float, batch_size: int
    ) -> None:
        self.grounder, self.question, self.modality = grounder, question, modality
        self.threshold, self.batch_size = threshold, max(1, batch_size)
        text = encode_questions(grounder.processor, [question])
        self.label_tokens, self.wordings = text["label_tokens"], text["text_labels"]
        self.text = {key: text[key].to(grounder.device) for key in ("input_ids", "attention_mask")}
        if self.text["input_ids"].dim() == 2:  # one prompt holds all labels: its features serve every batch
            with torch.inference_mode():
                self.text = {"text_features": grounder.model.get_text_features(**self.text)}

    def find(
        self, pictures: Iterable[tuple[int, NDArray]], name: str, spacing: tuple[float, float]
    ) -> dict[str, list[SliceBox]]:
        """Label -> boxes of all pictures, whose pixels measure `spacing` (x, y) in mm."""
        found: dict[str, list[SliceBox]] = {label: [] for label in self.question.labels}
        for batch in _batches(pictures, self.batch_size):
            try:
                results = self._ground([picture for _, picture in batch], spacing)
            except ValueError as error:
                raise MedGlipError(f"{name}: picture {batch[0][0]}: {one_line(error)}") from error
            for (index, _), result in zip(batch, results, strict=True):
                for label, score, box in self.question.answers(result):
                    found[label].append(SliceBox(index, box, score))
        return found

    def _ground(self, pictures: list[NDArray], spacing: tuple[float, float]) -> list[dict[str, Any]]:
        """Of each picture boxes in its own pixels; the network is shown square ones."""
        processor, model = self.grounder.processor, self.grounder.model
        sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
        arrays = [
            np.ascontiguousarray(resize(picture, square_size(size, spacing)))
            for picture, size in zip(pictures, sizes, strict=True)
        ]
        inputs = processor.image_processor(arrays, modality=self.modality, return_tensors="pt")
        count = len(arrays)
        text = self.text
        if "text_features" not in text:
            text = {key: value.expand(count, *value.shape[1:]) for key, value in text.items()}
        with torch.inference_mode():
            outputs = model(
                pixel_values=inputs["pixel_values"].to(self.grounder.device), modality=self.modality, **text
            )
        asked = {"label_tokens": self.label_tokens.expand(count, *self.label_tokens.shape[1:])}
        asked["text_labels"] = self.wordings * count
        return processor.post_process_grounded_object_detection(
            outputs, {**inputs, **asked}, threshold=self.threshold, target_sizes=sizes
        )


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _tracklets(boxes: dict[str, list[SliceBox]], lps: Volume, plane: str) -> dict[str, list[Tracklet]]:
    """Label -> tracklets over the slices of a plane. A structure must be seen in two slices, if there are several."""
    gap = max(1, round(MAX_GAP_MM / float(lps.spacing[NORMAL_AXIS[plane]])))
    min_slices = min(2, slice_count(lps, plane))
    return {label: link_slices(found, gap, min_slices) for label, found in boxes.items()}


def _boxes(
    found: dict[str, dict[str, list[Tracklet]]],
    grid: Volume,
    question: Question,
    modality: str,
    thresholds: tuple[float, float],
) -> tuple[VolumeBox, ...]:
    """The boxes in space over the thresholds (of trained labels, of others), best first."""
    places = locate_labels(question.labels, modality)
    boxes: list[VolumeBox] = []
    for label in question.labels:
        about = (*places[label], question.trained[label])
        by_plane = [
            [_box(label, tracklet, plane, grid, about) for tracklet in tracklets[label]]
            for plane, tracklets in found.items()
        ]
        boxes += by_plane[0] if len(by_plane) == 1 else _agreed(by_plane, grid)
    least = {label: max(thresholds) if label in question.untrained else thresholds[0] for label in question.labels}
    kept = [box for box in boxes if box.score >= least[box.label]]
    return tuple(sorted(kept, key=lambda box: (-box.score, box.label, box.box_ijk)))


def _box(label: str, tracklet: Tracklet, plane: str, grid: Volume, about: tuple[Any, Any, Any, Any]) -> VolumeBox:
    low, high = slices_extent(to_lps(grid), plane, tracklet.extent, tracklet.first, tracklet.last)
    seen = (plane, len(tracklet.boxes), tracklet.best)
    return _made(label, tracklet.score, to_file(grid, low, high), grid, seen, about)


def _made(
    label: str,
    score: float,
    ijk: Sequence[float],
    grid: Volume,
    seen: tuple[str, int, tuple[SliceBox, ...]],
    about: tuple[Any, Any, Any, Any],
) -> VolumeBox:
    i1, j1, k1, i2, j2, k2 = (float(value) for value in ijk)
    corners: tuple[Corner, ...] = tuple((float(x), float(y), float(z)) for x, y, z in corners_lps(grid, tuple(ijk)))
    return VolumeBox(label, score, (i1, j1, k1, i2, j2, k2), corners, *seen, *about)


def _agreed(by_plane: list[list[VolumeBox]], grid: Volume) -> list[VolumeBox]:
    """Boxes that at least two planes agree on: the mean of their edges, weighted by score."""
    boxes = sorted((box for boxes in by_plane for box in boxes), key=lambda box: -box.score)
    agreed: list[VolumeBox] = []
    used: set[int] = set()
    for number, box in enumerate(boxes):
        if number in used:
            continue
        group, planes = [box], {box.plane}
        for other, candidate in enumerate(boxes):
            free = other > number and other not in used and candidate.plane not in planes
            if free and iou(box.box_ijk, candidate.box_ijk) >= CONSENSUS_IOU_THRESHOLD:
                group.append(candidate)
                planes.add(candidate.plane)
                used.add(other)
        if len(group) > 1:
            weights = [member.score for member in group]
            ijk = np.average([member.box_ijk for member in group], axis=0, weights=weights)
            seen = (box.plane, box.slices, box.best)
            about = (box.label_id, box.category, box.region, box.trained)
            agreed.append(_made(box.label, float(np.mean(weights)), ijk.tolist(), grid, seen, about))
    return agreed


__all__ = ["ground_volume"]
