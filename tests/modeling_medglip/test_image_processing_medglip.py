# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The image processor: sizes, masks, batches, annotations, settings, conventions of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.image_processing_backends import TorchvisionBackend

from modeling_medglip.configuration_medglip import MODALITIES
from modeling_medglip.defaults import CT_WINDOW
from modeling_medglip.image_processing_medglip import (
    DEFAULT_MODALITY_SETTINGS,
    MedGlipImageProcessor,
    resize_image,
    resized_size,
    scale_annotation,
)


RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (40, 30), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)
EDGES = {"shortest_edge": 64, "longest_edge": 96}
SMALL_ROUTER = {
    "classes": ["ct"], "mean": [0.0, 0.0], "scale": [1.0, 1.0], "layers": [{"weight": [[1.0, 2.0]], "bias": [0.0]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def processor() -> MedGlipImageProcessor:
    return MedGlipImageProcessor(modality="xray")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((480, 640), (800, 1066)), ((640, 480), (1066, 800)), ((500, 1000), (666, 1332)), ((800, 900), (800, 900))],
)
def test_glip_arithmetic(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*shape, {"shortest_edge": 800, "longest_edge": 1333}) == expected


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_resized_sizes_have_pixels_and_stay_within_the_limit(height: int, width: int) -> None:
    rows, columns = resized_size(height, width, {"shortest_edge": 800, "longest_edge": 1333})
    assert rows >= 1 and columns >= 1
    if max(height, width) < 1000 * min(height, width):
        assert max(rows, columns) <= 1333 + max(height, width) / min(height, width)


def test_resize_agrees_with_pil() -> None:
    reference = np.asarray(Image.fromarray(GRAY).resize((17, 23), Image.Resampling.BILINEAR), dtype=np.float32)
    ours = resize_image(torch.from_numpy(GRAY).float()[None], (23, 17))[0].numpy()
    assert np.abs(reference - ours).max() < 1
    same = torch.rand(3, 5, 5)
    assert resize_image(same, (5, 5)) is same


def test_overlays_show_ct_through_the_first_window_of_the_network() -> None:
    assert DEFAULT_MODALITY_SETTINGS["ct"]["windows"][0] == list(CT_WINDOW)


@pytest.mark.parametrize("modality", MODALITIES)
def test_default_sizes(processor: MedGlipImageProcessor, modality: str) -> None:
    batch = processor(GRAY, modality=modality)
    side = DEFAULT_MODALITY_SETTINGS[modality]["size"]["height"]
    assert batch["pixel_values"].shape == (1, 3, side, side) and batch["pixel_mask"].all()
    assert batch["modality"] == [modality] and "input_sizes" not in batch


def test_padding_to_multiples_of_the_divisor(processor: MedGlipImageProcessor) -> None:
    batch = processor([GRAY, GRAY[:20]], modality="xray", size=EDGES)
    assert batch["pixel_values"].shape == (2, 3, 96, 96) and batch["pixel_values"].dtype == torch.float32
    assert batch["pixel_mask"].dtype == torch.int64
    assert batch["pixel_mask"].flatten(1).sum(1).tolist() == [85 * 64, 64 * 96]
    assert batch["pixel_values"].masked_select(batch["pixel_mask"][:, None] == 0).abs().max() == 0
    assert batch["pixel_mask"][0, :85, :64].all()


def test_colors_of_glip() -> None:
    glip = {
        "size": {"shortest_edge": 32, "longest_edge": 64},
        "intensity": "range",
        "channel_order": "BGR",
        "mean": [103.53 / 255, 116.28 / 255, 123.675 / 255],
        "std": [57.375 / 255, 57.12 / 255, 58.395 / 255],
    }
    processor = MedGlipImageProcessor("xray", {"xray": glip}, return_pixel_mask=False)
    batch = processor(COLOR, do_resize=False)
    expected = (COLOR[..., ::-1].astype(np.float64) - [103.53, 116.28, 123.675]) / [57.375, 57.12, 58.395]
    np.testing.assert_allclose(batch["pixel_values"][0, :, :40, :30].permute(1, 2, 0), expected, atol=1e-5)
    assert "pixel_mask" not in batch and batch["input_sizes"].tolist() == [[40, 30]]


def test_steps_can_be_left_out(processor: MedGlipImageProcessor) -> None:
    ready = processor.normalize_image(GRAY, "xray")
    batch = processor(ready, do_resize=False, do_rescale=False)
    assert torch.equal(batch["pixel_values"][0, :, :40, :30], (ready - 0.5) / 0.5)
    assert batch["pixel_values"].shape == (1, 3, 64, 32)
    raw = processor(ready, do_resize=False, do_rescale=False, do_normalize=False)
    assert torch.equal(raw["pixel_values"][0, :, :40, :30], ready)


def test_statistics_come_from_within_the_mask(processor: MedGlipImageProcessor) -> None:
    image = GRAY.astype(np.uint16)
    image[:, 20:] = 60000
    mask = np.zeros(GRAY.shape, dtype=bool)
    mask[:, :20] = True
    pixels = processor.normalize_image(image, "xray", pixel_mask=mask)
    torch.testing.assert_close(pixels[..., :20], processor.normalize_image(GRAY[:, :20], "xray"))
    assert pixels[..., 20:].abs().max() == 0


def test_the_mask_travels_to_the_batch(processor: MedGlipImageProcessor) -> None:
    mask = np.ones(GRAY.shape, dtype=np.uint8)
    mask[10:20, 10:20] = 0
    batch = processor([GRAY, GRAY], modality="xray", pixel_mask=[mask, None], size={"height": 80, "width": 60})
    hidden = batch["pixel_mask"][0, :80, :60] == 0
    assert hidden[20:40, 20:40].all() and hidden.sum() == 400 and batch["pixel_mask"][1, :80, :60].all()
    assert batch["pixel_values"][0, :, :80, :60][:, hidden].abs().max() == 0
    assert "input_sizes" not in batch and batch["image_sizes"] == [(80, 60), (80, 60)]


def test_a_mask_over_the_lower_border_keeps_the_size(processor: MedGlipImageProcessor) -> None:
    mask = torch.ones(GRAY.shape)
    mask[30:] = 0
    batch = processor(GRAY, pixel_mask=mask, size={"height": 40, "width": 30})
    assert batch["input_sizes"].tolist() == [[40, 30]] and batch["pixel_mask"][0, 30:].sum() == 0
    assert batch["image_sizes"] == [(30, 30)], "the extent of the mask, on which the model computes the image"
    stacked = processor([GRAY, GRAY], pixel_mask=torch.stack([mask, mask]), size={"height": 40, "width": 30})
    assert torch.equal(stacked["pixel_mask"][1], batch["pixel_mask"][0])


@pytest.mark.parametrize(("mask", "message"), [(np.ones((3, 3)), "shape"), (np.zeros(GRAY.shape), "leaves nothing")])
def test_bad_masks(processor: MedGlipImageProcessor, mask: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"image 0: .*{message}"):
        processor(GRAY, pixel_mask=mask)


def test_a_mask_that_vanishes_with_the_size(processor: MedGlipImageProcessor) -> None:
    mask = np.zeros(GRAY.shape)
    mask[0, 0] = 1
    with pytest.raises(ValueError, match="a pixel mask leaves nothing of its resized image"):
        processor(GRAY, pixel_mask=mask, modality="xray", size={"height": 4, "width": 4})


def test_a_mixed_batch_equals_one_by_one(processor: MedGlipImageProcessor) -> None:
    images = [GRAY.astype(np.int16) * 10 - 1000, Image.fromarray(COLOR), COLOR.transpose(2, 0, 1)]
    modalities = ["CT", "skin", "US"]
    batch = processor(images, modality=modalities)
    assert batch["modality"] == ["ct", "dermoscopy", "ultrasound"]
    for index, (image, modality) in enumerate(zip(images, modalities, strict=True)):
        alone = processor(image, modality=modality)
        rows, columns = alone["pixel_values"].shape[-2:]
        assert torch.equal(batch["pixel_values"][index, :, :rows, :columns], alone["pixel_values"][0])
        assert int(batch["pixel_mask"][index].sum()) == rows * columns


def test_numpy_output(processor: MedGlipImageProcessor) -> None:
    batch = processor(GRAY, return_tensors="np")
    assert isinstance(batch["pixel_values"], np.ndarray) and batch["modality"] == ["xray"]


def test_the_image_is_left_as_it_was(processor: MedGlipImageProcessor) -> None:
    image = GRAY.copy()
    processor(image, pixel_mask=np.eye(40, 30))
    assert np.array_equal(image, GRAY)


def test_boxes_are_scaled_into_glips_convention() -> None:
    scaled = scale_annotation({"boxes": [[0, 0, 30, 40], [3, 4, 6, 8]], "class_labels": [1, 0]}, (40, 30), (80, 90))
    assert scaled["boxes"].tolist() == [[0, 0, 89, 79], [9, 8, 17, 15]]
    assert scaled["class_labels"].tolist() == [1, 0] and scaled["class_labels"].dtype == torch.int64
    none = scale_annotation({"boxes": [], "class_labels": []}, (40, 30), (80, 90))
    assert none["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0, 0, 31, 5], "lies outside the image of 30x40"),
        ([-2, 0, 5, 5], "lies outside"),
        ([5, 5, 5, 9], "has no area"),
        ([0, 0, float("nan"), 3], "has no area"),
    ],
)
def test_bad_boxes_name_the_image(processor: MedGlipImageProcessor, box: list[float], message: str) -> None:
    good = {"boxes": [[0, 0, 30.2, 40]], "class_labels": [0]}
    with pytest.raises(ValueError, match=f"image 1: box 0 .*{message}"):
        processor([GRAY, GRAY], annotations=[good, {"boxes": [box], "class_labels": [0]}])


def test_boxes_and_classes_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="1 boxes but 2 class_labels"):
        scale_annotation({"boxes": [[0, 0, 1, 1]], "class_labels": [0, 1]}, (4, 4), (4, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modality_settings": {"ct": {"size": {"height": 100_000, "width": 100_000}}}}, "sides of 1 to 4096 pixels"),
        ({"modality_settings": {"ct": {"size": {"shortest_edge": 10**5}}}}, "sides of 1 to 4096 pixels"),
        ({"modality_settings": {"ct": {"size": {"height": "512", "width": 512}}}}, "sides of 1 to 4096 pixels"),
        ({"modality_settings": {"ct": {"windows": [[1, 2, 3]]}}}, "pairs of center and width"),
        ({"modality_settings": {"ct": {"windows": [[0, 1]] * 5000}}}, "one or three windows"),
        ({"modality_settings": {"ct": {"mean": [0.5]}}}, "mean of ct must be 3 finite numbers"),
        ({"modality_settings": {"ct": {"std": [float("nan")] * 3}}}, "std .*finite"),
        ({"modality_settings": {"ct": {"percentiles": [1, 2, 3]}}}, "percentiles of ct must be 2 finite numbers"),
        ({"size_divisor": 10**5}, "size_divisor must be 1 to 4096"),
        ({"router": {"classes": ["ct"]}}, "router's tables are damaged"),
        ({"router": {**SMALL_ROUTER, "scale": [1.0]}}, "router's tables do not fit"),
        ({"router": {**SMALL_ROUTER, "classes": ["ct", "mri"]}}, "router's tables do not fit"),
        ({"router": {**SMALL_ROUTER, "layers": [{"weight": [[1.0]], "bias": [0.0]}]}}, "router's tables do not fit"),
    ],
)
def test_settings_out_of_proportion(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedGlipImageProcessor(**settings)
    with pytest.raises(ValueError, match=message):
        MedGlipImageProcessor.from_dict(settings)


def test_saved_and_loaded(tmp_path: Path) -> None:
    settings = {"fundus": {"size": {"height": 64, "width": 96}, "mean": [0.1, 0.2, 0.3]}, "CT": {}}
    ours = MedGlipImageProcessor("retina", settings, router=SMALL_ROUTER, router_warning=0.5)
    for level in ("0.5", float("nan"), 1.5):
        with pytest.raises(ValueError, match=f"router_warning must be a number from 0 to 1, not '{level}'"):
            MedGlipImageProcessor("retina", settings, router_warning=level)  # type: ignore[arg-type]
    ours.save_pretrained(tmp_path)
    again = MedGlipImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == ours.to_dict() and again.modality == "fundus"
    assert torch.equal(again(COLOR)["pixel_values"], ours(COLOR)["pixel_values"])
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["modality_settings"]["ct"]["windows"] == [[40, 400], [-600, 1500], [400, 1800]]
    assert list(again.modality_settings) == ["fundus", "ct"] or set(again.modality_settings) == {"fundus", "ct"}
    assert MedGlipImageProcessor.from_pretrained(tmp_path, modality="ct").modality == "ct"


def test_changing_one_processor_leaves_the_defaults() -> None:
    MedGlipImageProcessor().modality_settings["ct"]["windows"][0][0] = 999
    assert MedGlipImageProcessor().modality_settings["ct"]["windows"][0][0] == 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ct": {"windows": [[40, 400], [0, 1]]}}, "one or three windows"),
        ({"mri": {"intensity": "guess"}}, "intensity of mri"),
        ({"mri": {"channel_order": "GBR"}}, "channel_order of mri"),
        ({"mri": {"size": {"depth": 3}}}, "size must hold"),
        ({"brain": {}}, "unknown modality"),
        ({}, "empty"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedGlipImageProcessor(modality_settings=settings)


def test_it_is_a_torchvision_processor(processor: MedGlipImageProcessor) -> None:
    assert isinstance(processor, TorchvisionBackend) and processor.backend == "torchvision"


def test_images_are_prepared_on_the_given_device(
    processor: MedGlipImageProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[dict[str, Any]] = []
    monkeypatch.setattr(MedGlipImageProcessor, "_collate", lambda self, parts, options: prepared.extend(parts))
    processor(GRAY, pixel_mask=np.ones((40, 30)), device="meta")
    assert prepared[0]["pixels"].device.type == prepared[0]["mask"].device.type == "meta"
    processor(GRAY)
    assert prepared[1]["pixels"].device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_batch(processor: MedGlipImageProcessor) -> None:
    batch, expected = processor([GRAY, COLOR], device="cuda"), processor([GRAY, COLOR])
    assert batch["pixel_values"].is_cuda and batch["pixel_mask"].is_cuda
    torch.testing.assert_close(batch["pixel_values"].cpu(), expected["pixel_values"], atol=1e-4, rtol=0)


def test_padding_can_be_left_out(processor: MedGlipImageProcessor) -> None:
    sized = {"modality": "xray", "size": {"height": 50, "width": 70}}
    assert processor(GRAY, **sized)["pixel_values"].shape == (1, 3, 64, 96)
    batch = processor([GRAY, GRAY], **sized, do_pad=False)
    assert batch["pixel_values"].shape == (2, 3, 50, 70) and batch["pixel_mask"].all()
    with pytest.raises(ValueError, match="images of different sizes make no batch without padding"):
        processor([GRAY, GRAY[:20]], modality="xray", do_resize=False, do_pad=False)
    never = MedGlipImageProcessor("xray", do_pad=False)
    assert never(GRAY, size={"height": 50, "width": 70})["pixel_values"].shape == (1, 3, 50, 70)


def test_only_settings_of_its_own_are_stored(tmp_path: Path) -> None:
    MedGlipImageProcessor("xray").save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert set(stored) == {
        "auto_map", "image_processor_type", "modality", "modality_settings", "return_pixel_mask", "router_warning",
        "size_divisor",
    }  # fmt: skip
    MedGlipImageProcessor("xray", do_normalize=False).save_pretrained(tmp_path)
    assert not MedGlipImageProcessor.from_pretrained(tmp_path).do_normalize


def test_unknown_arguments_are_refused(processor: MedGlipImageProcessor) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'modalty'"):
        processor(GRAY, modalty="xray")


def test_the_modality_of_a_loaded_processor_can_be_set() -> None:
    processor = MedGlipImageProcessor()
    others = processor.modality_settings["mri"]["size"]
    processor.set_modality("CT", size=96)
    assert processor.modality == "ct" and processor.modality_settings["ct"]["size"] == {"height": 96, "width": 96}
    assert processor.modality_settings["mri"]["size"] == others != {"height": 96, "width": 96}
    assert processor(GRAY)["modality"] == ["ct"] and processor(GRAY)["pixel_values"].shape == (1, 3, 96, 96)
    processor.set_modality("auto")
    assert processor.modality == "auto" and MedGlipImageProcessor().modality_settings["ct"]["size"]["height"] != 96
    with pytest.raises(ValueError, match="no expert for mri: choose one of ct"):
        MedGlipImageProcessor("ct", {"ct": {}}).set_modality("mri")
