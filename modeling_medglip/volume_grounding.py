# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Ground phrases in a volume: detect boxes slice by slice, then link them to boxes in space.

The prompt is encoded once. One batch of slices is in memory at a time, where the file allows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxes import iou
from .defaults import UNTRAINED_THRESHOLD
from .errors import MedGlipError, UsageError, hint_of, one_line
from .grounding import Grounder, as_grounder, locate_labels, prompt_labels
from .in_threads import ahead, in_threads, workers_of
from .io.image_record import ReadImage
from .modality_choice import ModalityChoice, choose_modality
from .outputs.base import UNRECOGNIZED
from .outputs.single_structures import best_in_volume
from .outputs.volume_results import Corner, VolumeBox, VolumeInfo, VolumeResult
from .questions import Question, make_question
from .volumes.geometry import (
    NORMAL_AXIS,
    PLANES,
    Volume,
    corners_lps,
    slice_count,
    slice_spacing,
    slices_extent,
    to_file,
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
# Slices of a batch on an accelerator.
BATCH_SIZE = 8
# A CT slice with fewer pixels than this share over this number of HU shows nothing but air and a table.
BODY_SHARE, BODY_HU = 1e-3, -300
CONSENSUS = "all"
# Fields of a box that the taxonomy fills.
LABEL_FIELDS = ("label_id", "category", "region")
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
    batch_size: int | None = None,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> VolumeResult:
    """Find the regions of a volume that the labels of a prompt name.

    Slices of one value, and CT slices of nothing but air and a table, are not searched.

    Args:
        volume (`str`, `Path`, [`Volume`], [`VolumeSource`] or image of nibabel): a file (see
            [`~volumes.reader.read_volume`]), a multi-frame DICOM file, a folder with one DICOM series, or voxels.
        prompt (`str`): labels, separated by dots, commas or lines; `"all"` for every label that the expert was
            trained with.
        modality (`str`, *optional*, defaults to `"auto"`): a name or an alias; `"auto"` takes the header's, else what
            the middle slice looks like.
        model (`str`, `Path` or [`Grounder`], *optional*): checkpoint or adapter, folder or id, or what
            `load_grounder` returned; the embedded checkpoint when `None`.
        device (`str`, *optional*, defaults to `"auto"`): see [`~modeling_medglip.load_grounder`].
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
        batch_size (`int`, *optional*): slices that go through the network together; when left out 1 on a CPU, where
            more take longer for each slice, and 8 elsewhere.
        progress (`Callable`, *optional*): called with the slices and their number; yields the slices.

    Returns:
        a [`VolumeResult`]: boxes in voxels of the file's own grid and in LPS mm.

    Raises:
        `UsageError`: an unknown modality, plane or device, no label. `MedGlipError`: a volume that cannot be read or
        used; names the file.
    """
    prompt_labels(prompt)  # refuse an empty prompt before anything is read
    source = _open(volume, axes, number, resample, several_patients)
    planes = _planes(plane, source)
    grounder = as_grounder(model, device, modality)
    start = time.perf_counter()
    if len(planes) > 1:
        source.volume()  # decode the file once for all planes
    name, origin, probability, notes = _modality(grounder, source, planes[0], modality, prompt_labels(prompt))
    question = make_question(grounder.trained, prompt_labels(prompt), name)
    batch = batch_size or (1 if grounder.device.type == "cpu" else BATCH_SIZE)
    search = _SliceSearch(grounder, question, name, threshold * SLICE_THRESHOLD_RATIO, max(1, batch), progress)
    searched = () if origin == UNRECOGNIZED else planes
    slice_boxes = {one: search.run(source, one) for one in searched}
    boxes = _boxes(slice_boxes, source, question, name, (threshold, untrained_threshold))
    best = best_in_volume(boxes, name)
    if searched and not search.searched:
        notes += (f"{source.name}: no slice shows a body: nothing was searched",)
    if searched:
        notes += question.notes(name, max(threshold, untrained_threshold))
    notes += tuple(note for note in source.notes if axes is None or note != UNORIENTED)
    x, y, z = (float(value) for value in source.grid.spacing)
    return VolumeResult(
        grounder.name,
        VolumeInfo(source.name, source.grid.shape, (x, y, z), name),
        prompt,
        boxes if all_boxes else best,
        plane=planes[0] if len(planes) == 1 else CONSENSUS,
        slice_boxes=slice_boxes,
        slices=sum(slice_count(source.lps, one) for one in searched),
        seconds=time.perf_counter() - start,
        modality_source=origin,
        modality_probability=probability,
        warnings=notes + laterality_warnings(best),
        trained=question.trained,
        presence=search.presence,
        axes=axes,
        open_volume=partial(_open_again, volume, axes, number, resample, several_patients),
    )


def _open(volume: Any, axes: str | None, number: int | None, resample: bool, several_patients: bool) -> VolumeSource:
    """Open what the caller gave, and state where its axes run if the header is wrong."""
    source = as_source(volume, number, resample, several_patients)
    if axes is not None:
        try:
            source.state_axes(axes)
        except ValueError as error:
            raise UsageError(one_line(error)) from None
    return source


def _open_again(volume: Any, axes: str | None, *options: Any) -> VolumeSource:
    """Open for a drawing what was grounded: a source as it is, anything else as at first."""
    if isinstance(volume, VolumeSource):
        return volume
    if isinstance(volume, (str, Path)) and not Path(volume).exists():
        raise MedGlipError(f"{one_line(Path(volume).name, 120)}: is gone: give the volume to plot")
    return _open(volume, axes, *options)


def _planes(plane: str | None, source: VolumeSource) -> tuple[str, ...]:
    if plane == CONSENSUS:
        return PLANES
    if plane is None:
        return (acquisition_plane(source.grid, source.stacked),)
    if plane not in PLANES:
        raise UsageError(f"plane {one_line(plane, 40)!r}: choose one of {', '.join((*PLANES, CONSENSUS))}")
    return (plane,)


def _modality(
    grounder: Grounder, source: VolumeSource, plane: str, modality: str, labels: Sequence[str]
) -> tuple[str, str, float | None, tuple[str, ...]]:
    """Choose the modality by the middle slice, see [`choose_modality`]; by one beside it where that shows nothing."""
    count = slice_count(source.lps, plane)
    for index in (count // 2, count // 4, 3 * count // 4):
        pixels = _square(_slice_at(source, plane, index), slice_spacing(source.lps, plane))
        choice = _choice(grounder, source, pixels, modality, labels)
        if choice.source != UNRECOGNIZED:
            break
    return choice


def _choice(
    grounder: Grounder, source: VolumeSource, pixels: NDArray, modality: str, labels: Sequence[str]
) -> ModalityChoice:
    try:
        return choose_modality(grounder, ReadImage(pixels, source.name, source.modality), modality, labels)
    except UsageError:
        raise
    except ValueError as error:
        raise MedGlipError(f"{source.name}: {one_line(error)}", hint=hint_of(error)) from error


def _slice_at(source: VolumeSource, plane: str, index: int) -> NDArray:
    """Return a slice of a plane; the slices that are decoded before it are kept."""
    if source.sequential and source.streams(plane):
        return next(pixels for number, pixels in source.read_slices(plane) if number == index)
    return source.read_slice(plane, index)


def _square(pixels: NDArray, spacing: tuple[float, float]) -> NDArray:
    """Resize a slice to square pixels."""
    rows, columns = pixels.shape
    return np.ascontiguousarray(resize(pixels, square_size((rows, columns), spacing)))


@dataclass(frozen=True)
class _SliceSearch:
    """Detects the labels of one prompt in slices of one modality."""

    grounder: Grounder
    question: Question
    modality: str
    threshold: float
    batch_size: int
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None
    presence: dict[str, float] = field(default_factory=dict)  # of each label, the highest of the slices so far
    searched: list[int] = field(default_factory=list)  # slices that went through the network

    @cached_property
    def prompt(self) -> dict[str, Any]:
        """The encoded prompt."""
        return self.grounder.encode(self.question)

    def run(self, source: VolumeSource, plane: str) -> dict[str, list[SliceBox]]:
        """Return label -> boxes in the slices of a plane."""
        boxes_by_label: dict[str, list[SliceBox]] = {label: [] for label in self.question.labels}
        workers = workers_of(self.grounder.device)
        with closing(ahead(source.read_slices(plane))) as decoded:
            batches = self._batches(decoded, slice_count(source.lps, plane))
            with closing(in_threads(partial(self._detect, source, plane), batches, workers)) as found:
                for index, result in (pair for pairs in found for pair in pairs):
                    self.searched.append(index)
                    for label, score, box in self.question.answers(result):
                        boxes_by_label[label].append(SliceBox(index, box, score))
                    for label, value in self.question.presence(result).items():
                        self.presence[label] = max(value, self.presence.get(label, 0.0))
        return boxes_by_label

    def _batches(self, slices: Iterable[tuple[int, NDArray]], count: int) -> Iterator[list[tuple[int, NDArray]]]:
        """Yield the slices that show something, in batches."""
        if self.progress is not None:
            slices = self.progress(slices, count)
        shown = ((index, pixels) for index, pixels in slices if not shows_nothing(pixels, self.modality))
        while batch := list(islice(shown, self.batch_size)):
            yield batch

    def _detect(
        self, source: VolumeSource, plane: str, batch: Sequence[tuple[int, NDArray]]
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return index and result of each slice of a batch."""
        spacing = slice_spacing(source.lps, plane)
        sizes = [(pixels.shape[0], pixels.shape[1]) for _, pixels in batch]
        images = [_square(pixels, spacing) for _, pixels in batch]
        try:
            results = self.grounder.detect(images, self.prompt, self.modality, self.threshold, sizes)
        except ValueError as error:
            raise MedGlipError(f"{source.name}: slice {batch[0][0]}: {one_line(error)}") from error
        return [(index, result) for (index, _), result in zip(batch, results, strict=True)]


def shows_nothing(pixels: NDArray, modality: str) -> bool:
    """Return whether a slice holds no body: one value everywhere, or in CT nothing but air and a table.

    Args:
        pixels (`np.ndarray` of shape `(rows, columns)`): in HU for CT.
        modality (`str`): one of `MODALITIES`.
    """
    if pixels.min() == pixels.max():
        return True
    is_hounsfield = modality == "ct" and pixels.min() < BODY_HU
    return bool(is_hounsfield and (pixels > BODY_HU).mean() < BODY_SHARE)


def _boxes(
    slice_boxes: Mapping[str, Mapping[str, Sequence[SliceBox]]],
    source: VolumeSource,
    question: Question,
    modality: str,
    thresholds: tuple[float, float],
) -> tuple[VolumeBox, ...]:
    """Return the boxes in space over the thresholds (of trained labels, of others), best first."""
    locations = locate_labels(question.labels, modality)
    boxes: list[VolumeBox] = []
    for label in question.labels:
        about = {**dict(zip(LABEL_FIELDS, locations[label], strict=True)), "trained": question.trained[label]}
        by_plane = [
            [
                _volume_box(label, tracklet, plane, source, about)
                for tracklet in _tracklets(boxes_by_label[label], source.lps, plane)
            ]
            for plane, boxes_by_label in slice_boxes.items()
        ]
        boxes += by_plane[0] if len(by_plane) == 1 else _consensus(by_plane, source.grid)
    least = {label: max(thresholds) if label in question.untrained else thresholds[0] for label in question.labels}
    kept_boxes = [box for box in boxes if box.score >= least[box.label]]
    return tuple(sorted(kept_boxes, key=lambda box: (-box.score, box.label, box.box_ijk)))


def _tracklets(boxes: Sequence[SliceBox], lps: Volume, plane: str) -> list[Tracklet]:
    """Link the boxes of one label. A structure must be seen in two slices, if there are several."""
    gap = max(1, round(MAX_GAP_MM / float(lps.spacing[NORMAL_AXIS[plane]])))
    return link_slices(boxes, gap, min(2, slice_count(lps, plane)))


def _volume_box(
    label: str,
    tracklet: Tracklet,
    plane: str,
    source: VolumeSource,
    about: Mapping[str, Any],
) -> VolumeBox:
    low, high = slices_extent(source.lps, plane, tracklet.extent, tracklet.first, tracklet.last)
    position = _position(source.grid, to_file(source.grid, low, high))
    return VolumeBox(label, tracklet.score, *position, plane, len(tracklet.boxes), tracklet.best, **about)


def _position(
    grid: Volume, box_ijk: Sequence[float]
) -> tuple[tuple[float, float, float, float, float, float], tuple[Corner, ...]]:
    """Return a box in voxels, and its corners in LPS mm."""
    i1, j1, k1, i2, j2, k2 = (float(value) for value in box_ijk)
    corners = corners_lps(grid, tuple(box_ijk))
    return (i1, j1, k1, i2, j2, k2), tuple((float(x), float(y), float(z)) for x, y, z in corners)


def _consensus(by_plane: list[list[VolumeBox]], grid: Volume) -> list[VolumeBox]:
    """Return the boxes that at least two planes agree on: the mean of their edges, weighted by score."""
    boxes = sorted((box for boxes in by_plane for box in boxes), key=lambda box: -box.score)
    agreed: list[VolumeBox] = []
    used: set[int] = set()
    for number, box in enumerate(boxes):
        if number in used:
            continue
        group = [box]
        for other in range(number + 1, len(boxes)):
            seen = {member.plane for member in group}
            overlaps = iou(box.box_ijk, boxes[other].box_ijk) >= CONSENSUS_IOU_THRESHOLD
            if other not in used and boxes[other].plane not in seen and overlaps:
                group.append(boxes[other])
                used.add(other)
        if len(group) > 1:
            agreed.append(_weighted_mean(group, grid))
    return agreed


def _weighted_mean(group: Sequence[VolumeBox], grid: Volume) -> VolumeBox:
    """Return the first box with the mean score and the weighted mean edges of all."""
    scores = [box.score for box in group]
    edges = np.average([box.box_ijk for box in group], axis=0, weights=scores)
    box_ijk, corners = _position(grid, edges.tolist())
    return replace(group[0], score=float(np.mean(scores)), box_ijk=box_ijk, corners_lps_mm=corners)


__all__ = ["ground_volume"]
