# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""From a volume to boxes in space. Where the network does not matter, bright blocks stand for what it finds."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from modeling_medglip import volume_grounding
from modeling_medglip.errors import MedGlipError, UsageError
from modeling_medglip.grounding import Grounder, load_grounder
from modeling_medglip.outputs.volume_results import VolumeBox, write_volume_boxes
from modeling_medglip.questions import Question
from modeling_medglip.volume_grounding import ground_volume, shows_nothing
from modeling_medglip.volumes.geometry import Volume
from modeling_medglip.volumes.laterality import laterality_warnings
from modeling_medglip.volumes.linking import SliceBox
from modeling_medglip.volumes.source import VolumeSource
from training.studies.volumes import reordered

from .tiny_checkpoint import save_tiny_checkpoint


LABELS = {"left kidney": 100, "right kidney": 200}


# A model whose checkpoint does not say what it was trained with.
STATES_NOTHING: Any = SimpleNamespace(config=SimpleNamespace(to_dict=dict))


class Bright:
    """Finds, for each label, the box around the pixels of one value."""

    def __init__(self, grounder: Any, question: Question, *arguments: Any) -> None:
        self.labels = question.labels
        self.presence: dict[str, float] = {}
        self.searched = [0]

    def run(self, source: VolumeSource, plane: str) -> dict[str, list[SliceBox]]:
        found: dict[str, list[SliceBox]] = {label: [] for label in self.labels}
        for index, pixels in source.read_slices(plane):
            for label in self.labels:
                rows, columns = np.nonzero(pixels == LABELS.get(label, -1))
                if len(rows):
                    corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                    x1, y1, x2, y2 = (float(value) for value in corners)
                    found[label].append(SliceBox(index, (x1, y1, x2, y2), 0.9))
        return found


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> Grounder:
    grounder = Grounder(STATES_NOTHING, None, "bright", torch.device("cpu"))  # type: ignore[arg-type]
    monkeypatch.setattr(volume_grounding, "_SliceSearch", Bright)
    monkeypatch.setattr(volume_grounding, "_modality", lambda *arguments: ("ct", "given", None, ()))
    return grounder


def body() -> Volume:
    """Two blocks in an LPS volume, the left one where LPS's x is larger."""
    array = np.zeros((30, 24, 20), np.uint8)
    array[18:26, 6:12, 4:11] = LABELS["left kidney"]
    array[3:10, 7:13, 5:12] = LABELS["right kidney"]
    affine = np.diag([0.8, 0.9, 2.5, 1.0])
    affine[:3, 3] = [-12.0, -10.0, 50.0]
    return Volume(array, affine)


def corner_set(box: VolumeBox) -> set[tuple[float, ...]]:
    return {tuple(round(value, 6) for value in corner) for corner in box.corners_lps_mm}


@pytest.mark.parametrize("plane", [None, "coronal", "sagittal", "all"])
def test_boxes_lie_where_the_blocks_are(bright: Grounder, plane: str | None) -> None:
    result = ground_volume(body(), "left kidney. right kidney.", "ct", plane=plane, model=bright)
    boxes = {box.label: box for box in result.boxes}
    assert boxes["left kidney"].box_ijk == pytest.approx((18, 6, 4, 26, 12, 11))
    assert boxes["right kidney"].box_ijk == pytest.approx((3, 7, 5, 10, 13, 12))
    low, high = body().affine @ [17.5, 5.5, 3.5, 1], body().affine @ [25.5, 11.5, 10.5, 1]
    assert corner_set(boxes["left kidney"]) == {
        tuple(round(float(value), 6) for value in (x, y, z))
        for x, y, z in product(*zip(low[:3], high[:3], strict=True))
    }
    assert result.plane == (plane or "axial") and result.warnings == ()
    assert result.slices == {None: 20, "coronal": 24, "sagittal": 30, "all": 74}[plane]


@pytest.mark.parametrize(
    ("order", "signs"), [(o, s) for o in permutations(range(3)) for s in product((1, -1), repeat=3)]
)
def test_no_order_of_the_file_s_axes_moves_a_box(
    bright: Grounder, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    expected = {box.label: corner_set(box) for box in ground_volume(body(), "left kidney", model=bright).boxes}
    found = ground_volume(reordered(body(), order, signs), "left kidney", model=bright)
    assert {box.label: corner_set(box) for box in found.boxes} == expected
    i1, j1, k1, i2, j2, k2 = (int(value) for value in found.boxes[0].box_ijk)
    assert (reordered(body(), order, signs).array[i1:i2, j1:j2, k1:k2] == LABELS["left kidney"]).all()


def test_a_flipped_body_is_reported(bright: Grounder) -> None:
    flipped = Volume(np.flip(body().array, 0), body().affine)
    result = ground_volume(flipped, "left kidney. right kidney.", model=bright)
    assert result.warnings == (
        "left kidney lies to the patient's right of right kidney: check the orientation of the file",
    )
    assert laterality_warnings([box for box in result.boxes if box.label == "left kidney"]) == ()


def nifti(volume: Volume) -> nibabel.Nifti1Image:
    """The same volume in the axes of NIfTI, RAS."""
    return nibabel.Nifti1Image(volume.array, np.diag([-1.0, -1, 1, 1]) @ volume.affine)


def test_nifti_and_memory_give_the_same(bright: Grounder, tmp_path: Path) -> None:
    volume, image = body(), nifti(body())
    nibabel.save(image, tmp_path / "a.nii.gz")
    results = [ground_volume(given, "right kidney", model=bright) for given in (tmp_path / "a.nii.gz", image, volume)]
    assert results[0].image.file == "a.nii.gz" and results[0].image.shape == (30, 24, 20)
    assert all(result.boxes[0].box_ijk == (3, 7, 5, 10, 13, 12) for result in results)


def test_the_json_says_where_everything_is(bright: Grounder, tmp_path: Path) -> None:
    result = ground_volume(body(), "left kidney", model=bright)
    path = write_volume_boxes(result, tmp_path / "a.boxes.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content == result.to_dict()
    assert content["image"] == {
        "file": "volume", "width": 30, "height": 24, "depth": 20, "modality": "ct", "spacing_mm": [0.8, 0.9, 2.5],
    }  # fmt: skip
    (box,) = content["boxes"]
    assert box["box_ijk"] == [18, 6, 4, 26, 12, 11] and box["bbox"] == [18, 6, 8, 6]
    assert np.shape(box["corners_lps_mm"]) == (8, 3) and box["label_id"] == "kidney_left"
    assert box["slices"] == 7 and len(box["best_slices"]) == 3


def test_a_box_outside_its_volume_is_not_written(bright: Grounder, tmp_path: Path) -> None:
    result = ground_volume(body(), "left kidney", model=bright)
    wrong = replace(result.boxes[0], box_ijk=(18, 6, 4, 26, 12, 21))
    with pytest.raises(MedGlipError, match="lies outside its volume of 20 slices"):
        write_volume_boxes(replace(result, boxes=(wrong,)), tmp_path / "a.boxes.json")
    assert not list(tmp_path.iterdir())


def test_a_montage_shows_the_best_slices(bright: Grounder) -> None:
    source = VolumeSource(body())
    result = ground_volume(source, "left kidney. right kidney.", model=bright)
    montage = result.plot(source)
    assert montage is not None and montage.size == (3 * 420, 2 * 420)
    assert ground_volume(source, "left kidney", threshold=0.95, model=bright).plot(body()) is None


def test_a_montage_of_stated_axes(bright: Grounder) -> None:
    source = VolumeSource(body())
    result = ground_volume(source, "left kidney", model=bright, axes="RPI")
    again = ground_volume(body(), "left kidney", model=bright, axes="RPI")
    assert again.boxes == result.boxes and result.plot(source) == again.plot(body())
    assert result.plot() == again.plot() == result.plot(source)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_montage_reads_the_file_again(bright: Grounder, tmp_path: Path, name: str) -> None:
    image = nifti(body())
    nibabel.save(image, tmp_path / name)
    result = ground_volume(tmp_path / name, "left kidney", model=bright, modality="ct", axes="RPI")
    assert result.boxes and result.plot() == result.plot(tmp_path / name) == result.plot(image)
    (tmp_path / name).unlink()
    with pytest.raises(MedGlipError, match=f"^{name}: is gone: give the volume to plot$"):
        result.plot()
    with pytest.raises(MedGlipError, match="the result has no volume: give it to plot"):
        replace(result, open_volume=None).plot()


@pytest.mark.parametrize(("given", "message"), [(3, "cannot ground a int"), (object(), "cannot ground a object")])
def test_unsupported_volumes(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ground_volume(given, "liver")


# With the (tiny) network ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grounder(tmp_path_factory: pytest.TempPathFactory) -> Grounder:
    return load_grounder(save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def scan(slices: int = 6) -> Volume:
    rng = np.random.default_rng(0)
    return Volume(rng.integers(-1000, 1000, (40, 36, slices)).astype(np.int16), np.diag([1.0, 1.0, 3.0, 1.0]))


def test_the_prompt_is_encoded_once_and_batches_change_nothing(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = type(grounder.model).get_text_features
    monkeypatch.setattr(
        type(grounder.model), "get_text_features", lambda self, *a, **k: calls.append(1) or original(self, *a, **k)
    )
    one, many = (
        ground_volume(scan(), "liver. spleen.", "ct", threshold=0.0, model=grounder, batch_size=size)
        for size in (1, 4)
    )
    assert len(calls) == 1, "once, however many slices, batches and runs"
    assert len(one.boxes) == len(many.boxes) > 0
    for first, second in zip(one.boxes, many.boxes, strict=True):
        assert first.label == second.label and first.score == pytest.approx(second.score, abs=1e-4)
        np.testing.assert_allclose(first.box_ijk, second.box_ijk, atol=0.01)


def test_slices_are_grounded_as_single_images_are(grounder: Grounder) -> None:
    from modeling_medglip.grounding import ground_image
    from modeling_medglip.io.image_record import ReadImage

    volume = scan(1)
    result = ground_volume(volume, "liver", "ct", threshold=0.0, model=grounder)
    image = ReadImage(np.ascontiguousarray(volume.array[:, :, 0].T), "a")
    single = ground_image(image, "liver", "ct", grounder, threshold=0.0)
    best = single.boxes[0]
    assert result.boxes[0].score == pytest.approx(best.score, abs=1e-4)
    i1, j1, k1, _i2, _j2, k2 = result.boxes[0].box_ijk
    assert (i1, j1) <= (best.bbox[0] + 0.01, best.bbox[1] + 0.01) and (k1, k2) == (0, 1)


def test_more_labels_than_a_prompt_holds(grounder: Grounder) -> None:
    prompt = ". ".join(f"liver {'spleen ' * 10}{number}" for number in range(20))
    result = ground_volume(scan(2), prompt, "ct", threshold=0.0, model=grounder, untrained_threshold=0.0)
    assert len({box.label for box in result.boxes}) > 5


def test_usage_errors(grounder: Grounder) -> None:
    with pytest.raises(UsageError, match="choose one of axial"):
        ground_volume(scan(), "liver", "ct", plane="slanted", model=grounder)
    with pytest.raises(UsageError):
        ground_volume(scan(), "liver", "telepathy", model=grounder)
    with pytest.raises(UsageError, match="empty"):
        ground_volume(scan(), " . ", "ct", model=grounder)


@pytest.mark.parametrize(("faint", "spans"), [(0.16, [3.0]), (0.14, [])])
def test_slices_count_from_half_of_the_threshold_on(
    faint: float, spans: list[float], monkeypatch: pytest.MonkeyPatch, bright: Grounder
) -> None:
    """The structure as a whole must reach it, its ends need not; a single slice is not a structure."""

    class Ends:
        def __init__(self, *arguments: Any) -> None:
            self.threshold = arguments[3]
            self.presence: dict[str, float] = {}
            self.searched = [0]

        def run(self, *_: Any) -> dict[str, list[SliceBox]]:
            scores = {2: faint, 3: 0.9, 4: faint}
            boxes = [SliceBox(n, (2.0, 2.0, 8.0, 8.0), score) for n, score in scores.items()]
            return {"block": [box for box in boxes if box.score >= self.threshold]}

    monkeypatch.setattr(volume_grounding, "_SliceSearch", Ends)
    monkeypatch.setattr("modeling_medglip.volumes.linking.END_SCORE_RATIO", 0.0)
    found = ground_volume(body(), "block", model=bright, threshold=0.3, plane="axial").boxes
    assert [box.box_ijk[5] - box.box_ijk[2] for box in found] == spans


def test_slices_without_a_body_are_not_searched(grounder: Grounder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Air, a table and padding; what is skipped draws nothing, and counts as a slice."""
    volume = scan(6)
    volume.array[:, :, 1] = -1024
    volume.array[:, :, 4] = -1000
    volume.array[0, 0, 4] = 200  # a speck of the table
    searched: list[int] = []
    detect = Grounder.detect
    monkeypatch.setattr(
        Grounder, "detect", lambda self, images, *rest: searched.append(len(images)) or detect(self, images, *rest)
    )
    result = ground_volume(volume, "liver", "ct", threshold=0.0, model=grounder)
    assert sum(searched) == 4 and result.slices == 6
    found = {box.index for box in result.slice_boxes["axial"]["liver"]}
    assert found and not found & {1, 4}


@pytest.mark.parametrize(
    ("pixels", "modality", "expected"),
    [
        (np.zeros((8, 8)), "mri", True),
        (np.eye(8), "mri", False),
        (np.full((8, 8), -1024.0), "ct", True),
        (np.where(np.eye(64), 40.0, -1000.0), "ct", False),
        (np.where(np.arange(4096).reshape(64, 64) < 4, 40.0, -1000.0), "ct", True),
        (np.where(np.arange(4096).reshape(64, 64) < 4, 40.0, 0.0), "ct", False),  # not in HU
        (np.where(np.arange(4096).reshape(64, 64) < 4, 40.0, -1000.0), "mri", False),
    ],
)
def test_what_shows_nothing(pixels: np.ndarray, modality: str, expected: bool) -> None:
    assert shows_nothing(pixels, modality) is expected


def test_a_volume_of_air_says_that_nothing_was_searched(grounder: Grounder) -> None:
    volume = Volume(np.full((9, 9, 4), -1024, np.int16), np.eye(4))
    result = ground_volume(volume, "liver", "ct", threshold=0.0, model=grounder)
    assert not result.boxes and any("nothing was searched" in warning for warning in result.warnings)
    searched = ground_volume(scan(), "liver", "ct", model=grounder)
    assert not any("nothing was searched" in warning for warning in searched.warnings)


def test_a_volume_gives_the_same_boxes_with_one_thread_and_with_several(grounder: Grounder) -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(ground_volume(scan(), "liver. spleen", "ct", threshold=0.0, model=grounder))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    one, several = ({label: boxes for label, boxes in result.slice_boxes["axial"].items()} for result in results)
    assert one.keys() == several.keys() and any(one.values())
    for label, boxes in one.items():
        assert [box.index for box in boxes] == [box.index for box in several[label]]
        for box, other in zip(boxes, several[label], strict=True):
            assert (*box.box, box.score) == pytest.approx((*other.box, other.score), abs=1e-3)


def test_decoding_ends_when_grounding_fails(grounder: Grounder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("no expert")

    monkeypatch.setattr(Grounder, "detect", fail)
    before = threading.active_count()
    with pytest.raises(MedGlipError, match="no expert"):
        ground_volume(scan(), "liver", "ct", model=grounder)
    assert threading.active_count() == before
