# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Images in which an expert must find nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_medglip.image_processing_medglip import MedGlipImageProcessor
from training.data import negative_images
from training.data.coco_records import read_image_file
from training.data.dataset import GroundingDataset
from training.data.image_cache import ImageCache
from training.data.load import load_records
from training.data.negative_images import (
    SYNTHETIC,
    NegativeImages,
    chosen_records,
    photographs,
    smooth_noise,
    synthetic_image,
)
from training.data.records import GroundingRecord

from ..tiny_data import make_data
from ..tiny_data import record as annotated


def record() -> GroundingRecord:
    return replace(annotated([[4, 4, 20, 24]], ["liver"]), split="train")


@pytest.mark.parametrize("seed", range(12))
def test_synthetic_images_are_images(seed: int) -> None:
    image = synthetic_image((40, 56), np.random.default_rng(seed))
    assert image.shape in ((1, 40, 56), (3, 40, 56)) and image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1
    again = synthetic_image((40, 56), np.random.default_rng(seed))
    assert np.array_equal(image, again), "the generator decides everything"


def test_they_differ_in_kind() -> None:
    spread = [float(synthetic_image((32, 32), np.random.default_rng(seed)).std()) for seed in range(40)]
    assert min(spread) < 0.01 and max(spread) > 0.2, "flat ones and rich ones"


@pytest.mark.parametrize("kind", [name for name in SYNTHETIC if name != "photograph"])
def test_one_kind_can_be_drawn(kind: str) -> None:
    for seed in range(4):
        image = synthetic_image((40, 56), np.random.default_rng(seed), [kind])
        assert image.shape in ((1, 40, 56), (3, 40, 56)) and image.min() >= 0 and image.max() <= 1
    flat = [float(synthetic_image((16, 16), np.random.default_rng(seed), ["flat"]).std()) for seed in range(20)]
    assert min(flat) == 0 and max(flat) < 0.5


def test_noise_of_steep_spectra_is_smooth() -> None:
    white = np.random.default_rng(0).normal(size=(2, 40, 50))
    np.testing.assert_allclose(smooth_noise(white, 0.0), white, atol=1e-12)
    smooth = smooth_noise(white, 2.0)
    assert smooth.shape == white.shape and np.abs(smooth.mean((1, 2))).max() < 1e-9
    roughness = [np.abs(np.diff(noise)).mean() / noise.std() for noise in (white, smooth)]
    assert roughness[1] < 0.5 * roughness[0]


def test_photographs_are_there_with_scikit_image() -> None:
    pytest.importorskip("skimage")
    assert "astronaut.png" in {file.name for file in photographs()}


def test_modalities_that_show_the_same_organs_are_left_out() -> None:
    records = [replace(record(), modality=name) for name in ("ct", "mri", "ultrasound", "fundus")]
    assert [one.modality for one in chosen_records(records, "ct")] == ["fundus", "ultrasound"]
    assert [one.modality for one in chosen_records(records, "fundus")] == ["ct", "mri", "ultrasound"]
    assert chosen_records([replace(one, split="validation") for one in records], "ct") == []


def test_as_many_of_each_modality(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negative_images, "MOST_IMAGES", 6)
    counts = {"ultrasound": 10, "fundus": 10, "xray": 1}
    records = [
        replace(record(), modality=name, image_id=f"{name} {index}")
        for name, count in counts.items()
        for index in range(count)
    ]
    chosen = [one.modality for one in chosen_records(records, "ct")]
    assert {name: chosen.count(name) for name in counts} == {"ultrasound": 2, "fundus": 2, "xray": 1}


def test_records_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negative_images, "SYNTHETIC_SHARE", 0.0)
    decoded = []

    def load(one: object) -> torch.Tensor:
        decoded.append(one)
        return torch.full((1, 8, 8), 0.6)

    negatives = NegativeImages([replace(record(), modality="ultrasound")], "ct", 0.5, load, ImageCache(100))
    images = [negatives.draw((16, 16), np.random.default_rng(seed)) for seed in range(3)]
    assert len(decoded) == 1 and all(float(image.mean()) == pytest.approx(0.6, abs=1e-6) for image in images)


def test_images_that_can_be_read_are_drawn_by_the_same_numbers() -> None:
    """A run that goes on after an update shows the same images."""
    names = ("fundus", "ultrasound", "xray")
    records = [replace(record(), modality=name) for name in names]
    negatives = NegativeImages(
        records, "ct", 0.5, lambda one: torch.full((1, 4, 4), names.index(one.modality) / 5), ImageCache(100)
    )
    for seed in range(12):
        rng = np.random.default_rng(seed)
        if rng.random() < negative_images.SYNTHETIC_SHARE:
            expected = torch.from_numpy(synthetic_image((16, 16), rng))
        else:
            expected = torch.full((1, 4, 4), int(rng.integers(3)) / 5).mul(255).round().div(255)
        after = np.random.default_rng(seed)
        assert torch.equal(negatives.draw((16, 16), after), expected) and after.random() == rng.random()


def dataset_with_broken_negatives(tmp_path: Path) -> GroundingDataset:
    """CT images, all replaced: of three fundus images two cannot be read."""
    data = make_data(tmp_path)
    (fundus,) = (one for one in load_records(data, "fundus") if one.split == "train")
    (data / "images" / "torn.png").write_bytes(b"\x89PNG")
    others = [
        replace(fundus, image_id=name, loader=partial(read_image_file, data / "images" / name, fundus.size))
        for name in ("torn.png", "missing.dcm")
    ]
    train = [one for one in load_records(data, "ct") if one.split == "train"]
    processor = MedGlipImageProcessor(modality_settings={"ct": {"size": {"height": 64, "width": 64}}})
    return GroundingDataset(train, processor, negatives=(1.0, [fundus, *others]), cache_bytes=20_000)


def test_broken_images_of_other_modalities_are_named_once_and_synthetic_ones_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(negative_images, "SYNTHETIC_SHARE", 0.0)
    dataset = dataset_with_broken_negatives(tmp_path)
    spread = set()
    for epoch in range(8):
        dataset.set_epoch(epoch)
        spread |= {float(dataset[index]["pixel_values"].std()) for index in range(len(dataset))}
    assert len(spread) > 8, "images of several kinds"
    left_out = sorted(message for message in caplog.messages if message.startswith("left out: "))
    assert len(left_out) == 2 and "missing.dcm" in left_out[0] and "torn.png" in left_out[1]
    assert sorted(dataset.broken()) == ["fundus/discs/missing.dcm", "fundus/discs/torn.png"]
    assert "is not an image of a known format" in dataset.broken()["fundus/discs/torn.png"]


def test_broken_images_do_not_change_what_comes_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on shows the same images as one that was not interrupted."""
    monkeypatch.setattr(negative_images, "SYNTHETIC_SHARE", 0.0)
    first, second = (dataset_with_broken_negatives(tmp_path) for _ in range(2))
    for index in range(len(first)):
        first[index]
    for dataset in (first, second):
        dataset.set_epoch(1)
    assert all(torch.equal(first[i]["pixel_values"], second[i]["pixel_values"]) for i in range(len(first)))


def test_negative_images_take_of_the_same_memory_and_give_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negative_images, "SYNTHETIC_SHARE", 0.0)
    fundus = replace(record(), modality="fundus")
    processor = MedGlipImageProcessor(modality_settings={"ct": {"size": {"height": 64, "width": 64}}})
    own, other = dataset_room(processor, []), dataset_room(processor, [fundus])
    assert 0 < own[1] < own[0] and other[1] < own[1], "the negative image is in memory too"
    assert own[2] == own[0] and other[2] == other[0], "all of it is given back"
    assert dataset_room(processor, [fundus], room=own[0] - own[1])[1] == 0, "no more than the limit"


def dataset_room(
    processor: MedGlipImageProcessor, elsewhere: list[GroundingRecord], room: int = 100_000
) -> tuple[int, int, int]:
    """Return the free bytes of a data set of one image before it was shown, after, and after the release."""
    dataset = GroundingDataset([record()], processor, negatives=(1.0, elsewhere), cache_bytes=room)
    before = dataset._cache.room
    for epoch in range(3):
        dataset.set_epoch(epoch)
        dataset[0]
    after = dataset._cache.room
    dataset.release()
    return before, after, dataset._cache.room


def test_an_example_with_a_negative_image_has_a_prompt_and_no_box() -> None:
    processor = MedGlipImageProcessor(modality_settings={"ct": {"size": {"height": 64, "width": 64}}})
    dataset = GroundingDataset([record()], processor, seed=3, negatives=(1.0, ()))
    for epoch in range(4):
        dataset.set_epoch(epoch)
        example = dataset[0]
        assert example["pixel_values"].shape == (3, 64, 64)
        assert (
            example["text_labels"] and len(example["labels"]["boxes"]) == len(example["labels"]["class_labels"]) == 0
        )
    shown = GroundingDataset([record()], processor, seed=3)[0]
    assert len(shown["labels"]["boxes"]) > 0


def test_measured_units_of_another_modality_are_shown_in_gray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negative_images, "SYNTHETIC_SHARE", 0.0)
    hounsfield = np.linspace(-1024, 900, 100 * 80).reshape(80, 100).astype(np.int16)
    ct = replace(annotated([], [], ["liver"], pixels=hounsfield, is_hounsfield=True), split="train")
    processor = MedGlipImageProcessor(modality_settings={"endoscopy": {"size": {"height": 64, "width": 64}}})
    shown = replace(record(), modality="endoscopy")
    dataset = GroundingDataset([shown], processor, seed=3, negatives=(1.0, [ct]))
    spread = [float(dataset[0]["pixel_values"].std()) for epoch in range(3) if dataset.set_epoch(epoch) is None]
    assert all(value > 0.1 for value in spread)
