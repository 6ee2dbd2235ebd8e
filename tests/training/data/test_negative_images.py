# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Images in which an expert must find nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from modeling_medglip.image_processing_medglip import MedGlipImageProcessor
from training.data import negative_images
from training.data.dataset import GroundingDataset
from training.data.negative_images import (
    SYNTHETIC,
    NegativeImages,
    chosen_records,
    photographs,
    smooth_noise,
    synthetic_image,
)
from training.data.records import GroundingRecord

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

    negatives = NegativeImages([replace(record(), modality="ultrasound")], "ct", 0.5, load)
    images = [negatives.draw((16, 16), np.random.default_rng(seed)) for seed in range(3)]
    assert len(decoded) == 1 and all(float(image.mean()) == pytest.approx(0.6, abs=1e-6) for image in images)


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
