# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The image processor: intensities by modality, every kind of input, sizes, masks, batches, saving, bad input."""

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
    MAX_PIXELS,
    MedGlipImageProcessor,
    channels_first,
    deduced_hounsfield,
    has_gray_levels,
    luminance,
    resize_image,
    resized_size,
    scale_annotation,
    unit_range,
)


RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (40, 30), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)
EDGES = {"shortest_edge": 64, "longest_edge": 96}


@pytest.fixture(scope="module")
def processor() -> MedGlipImageProcessor:
    return MedGlipImageProcessor(modality="xray")


# Intensities ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_ct_windows_become_channels(processor: MedGlipImageProcessor, dtype: Any) -> None:
    hounsfield = np.array([[-1350, -600, -160, 40, 240, 400, 1300, 3000]]).astype(dtype)
    soft, lung, bone = processor.normalize_image(hounsfield, "CT").numpy()[:, 0]
    np.testing.assert_allclose(soft, [0, 0, 0, 0.5, 1, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(lung[:3], [0, 0.5, (-160 + 1350) / 1500], atol=1e-6)
    np.testing.assert_allclose(bone, [0, 0, 340 / 1800, 540 / 1800, 740 / 1800, 0.5, 1, 1], atol=1e-6)


def test_one_ct_window_fills_all_channels() -> None:
    one = MedGlipImageProcessor(modality_settings={"ct": {"windows": [[40, 400]]}})
    pixels = one.normalize_image(np.array([[-160, 40, 240]], dtype=np.int16), "ct")
    assert pixels.tolist() == [[[0.0, 0.5, 1.0]]] * 3


@pytest.mark.parametrize("picture", [GRAY, Image.fromarray(GRAY), (GRAY / 255).astype(np.float32), torch.tensor(GRAY)])
def test_ct_pictures_without_a_window_are_stretched_gray_levels(picture: Any) -> None:
    processor = MedGlipImageProcessor(modality_settings={"ct": {"deduce_window": False}})
    low, high = np.percentile(GRAY, [0.5, 99.5])
    expected = ((GRAY.astype(np.float64) - low) / (high - low)).clip(0, 1)
    pixels = processor.normalize_image(picture, "ct").numpy()
    np.testing.assert_allclose(pixels, np.stack([expected] * 3), atol=1e-5)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_ct_pictures_of_a_trunk_are_turned_back_into_hounsfield_units(
    processor: MedGlipImageProcessor, kind: type
) -> None:
    """Air, fat and soft tissue shown from -1000 to 1400 HU look as the measured values would, to about 80 HU."""
    hounsfield = np.full((128, 128), -1000.0)
    hounsfield[10:118, 10:118] = -100
    hounsfield[20:108, 20:108] = 50
    hounsfield += RNG.normal(0, 12, hounsfield.shape)
    shown = ((hounsfield + 1000) / 2400 * 255).clip(0, 255).round().astype(np.uint8)
    picture = shown if kind is np.uint8 else (shown / 255).astype(np.float32)
    deduced = processor.normalize_image(picture, "ct").numpy()
    measured = processor.normalize_image(hounsfield.astype(np.float32), "ct").numpy()
    assert np.abs(deduced - measured)[0].mean() < 80 / 400
    assert np.abs(deduced - measured)[1].mean() < 80 / 1500
    assert not np.array_equal(deduced[0], deduced[1])


@pytest.mark.parametrize("offset", [1024, 32768])
def test_ct_pictures_of_sixteen_bits_hold_an_offset(processor: MedGlipImageProcessor, offset: int) -> None:
    """As a picture file keeps a trunk in HU: the very numbers come back."""
    hounsfield = np.full((128, 128), -1000.0)
    hounsfield[10:118, 10:118] = -100
    hounsfield[20:108, 20:108] = 50
    hounsfield[60:70, 60:70] = 900
    hounsfield = (hounsfield + RNG.normal(0, 8, hounsfield.shape)).clip(-1024).round().astype(np.int16)
    stored = (hounsfield.astype(np.int32) + offset).astype(np.uint16)
    for picture in (stored, stored.astype(">u2"), Image.fromarray(stored), Image.fromarray(stored.astype(np.int32))):
        assert torch.equal(processor.normalize_image(picture, "ct"), processor.normalize_image(hounsfield, "ct"))


def test_an_offset_that_nobody_uses_is_estimated(processor: MedGlipImageProcessor) -> None:
    hounsfield = np.full((128, 128), -1000.0)
    hounsfield[10:118, 10:118] = -100
    hounsfield[20:108, 20:108] = 50
    hounsfield[60:70, 60:70] = 900
    hounsfield = (hounsfield + RNG.normal(0, 8, hounsfield.shape)).round()
    found = deduced_hounsfield((hounsfield + 4096).astype(np.uint16)[None])
    assert found is not None and np.abs(found - hounsfield).mean() < 60


def test_ct_pictures_of_sixteen_bits_may_be_windowed(processor: MedGlipImageProcessor) -> None:
    hounsfield = np.full((128, 128), -1000.0)
    hounsfield[10:118, 10:118] = -100
    hounsfield[20:108, 20:108] = 50
    hounsfield += RNG.normal(0, 12, hounsfield.shape)
    stored = ((hounsfield + 1000) / 2400 * 65535).clip(0, 65535).astype(np.uint16)
    off = processor.normalize_image(stored, "ct") - processor.normalize_image(hounsfield.astype(np.float32), "ct")
    assert off[1].abs().mean() < 80 / 1500
    as_it_is = MedGlipImageProcessor(modality_settings={"ct": {"deduce_window": False}})
    low, high = np.percentile(stored, [0.5, 99.5])
    expected = ((stored - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(as_it_is.normalize_image(stored, "ct")[1], expected, atol=1e-5)


def test_mri_percentiles_leave_out_zeros(processor: MedGlipImageProcessor) -> None:
    image = np.zeros((20, 20), dtype=np.uint16)
    image[5:10, 5:10] = RNG.integers(400, 900, (5, 5))
    low, high = np.percentile(image[image > 0], [0.5, 99.5])
    pixels = processor.normalize_image(image, "mri")[0].numpy()
    np.testing.assert_allclose(pixels[5:10, 5:10], ((image[5:10, 5:10] - low) / (high - low)).clip(0, 1), atol=1e-5)
    assert pixels[:5].max() == 0


def test_mri_takes_the_statistics_of_the_volume(processor: MedGlipImageProcessor) -> None:
    volume = np.zeros((3, 8, 8), dtype=np.int16)
    volume[0], volume[1, 2:, 2:], volume[2, 3] = 100, 200, 1100
    limits = processor.volume_statistics(volume, "MR")
    assert limits == tuple(np.percentile(volume[volume != 0], [0.5, 99.5]))
    pixels = processor.normalize_image(volume[1], "mri", volume_statistics=limits)[0]
    assert pixels[5, 5] == pytest.approx((200 - limits[0]) / (limits[1] - limits[0]))
    whole = processor(list(volume), modality="mri", volume_statistics=limits, do_resize=False, do_normalize=False)
    assert torch.equal(whole["pixel_values"][1, 0, :8, :8], pixels)
    inside = np.zeros(volume.shape, dtype=bool)
    inside[1] = True
    assert processor.volume_statistics(volume, "mri", mask=inside) == (200, 200)


def test_monochrome1_is_inverted(processor: MedGlipImageProcessor) -> None:
    usual = processor.normalize_image(GRAY, "xray")
    negative = processor.normalize_image(255 - GRAY, "xray", photometric_interpretation="MONOCHROME1")
    torch.testing.assert_close(usual, negative, atol=1e-5, rtol=0)
    twelve_bit = (GRAY.astype(np.uint16) * 16, 4095 - GRAY.astype(np.uint16) * 16)
    torch.testing.assert_close(
        processor.normalize_image(twelve_bit[0], "CR"),
        processor.normalize_image(twelve_bit[1], "DX", photometric_interpretation="monochrome1 "),
        atol=1e-5,
        rtol=0,
    )


def test_monochrome1_within_the_limits_of_a_volume(processor: MedGlipImageProcessor) -> None:
    pixels = processor.normalize_image(
        GRAY, "xray", volume_statistics=(0.0, 255.0), photometric_interpretation="MONOCHROME1"
    )
    np.testing.assert_allclose(pixels[0], 1 - GRAY / 255, atol=1e-6)


@pytest.mark.parametrize("modality", ["dermoscopy", "endoscopy", "fundus"])
def test_color_modalities_keep_their_numbers(processor: MedGlipImageProcessor, modality: str) -> None:
    expected = torch.from_numpy(COLOR).permute(2, 0, 1) / 255
    sixteen = COLOR.astype(np.uint16) * 257
    for image in (COLOR, Image.fromarray(COLOR), expected, expected.permute(1, 2, 0).numpy(), sixteen):
        torch.testing.assert_close(processor.normalize_image(image, modality), expected, atol=1e-6, rtol=0)


def test_gray_pictures_fill_the_channels_of_color_modalities(processor: MedGlipImageProcessor) -> None:
    pixels = processor.normalize_image(GRAY, "fundus")
    assert torch.equal(pixels, torch.from_numpy(GRAY)[None].expand(3, -1, -1) / 255)


@pytest.mark.parametrize("modality", ["ct", "mri", "ultrasound", "xray"])
def test_gray_modalities_take_the_luminance(processor: MedGlipImageProcessor, modality: str) -> None:
    as_color = processor.normalize_image(np.stack([GRAY] * 3, axis=-1), modality)
    assert torch.equal(as_color, processor.normalize_image(GRAY, modality))
    if modality != "ct":  # three windows
        mixed = processor.normalize_image(COLOR, modality)
        assert torch.equal(mixed[0], mixed[2])
    gray = luminance(COLOR.transpose(2, 0, 1))
    np.testing.assert_allclose(gray, COLOR @ np.array([0.299, 0.587, 0.114]), rtol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("value", [0, 7, 255])
def test_flat_pictures_give_finite_numbers(processor: MedGlipImageProcessor, modality: str, value: int) -> None:
    pixels = processor.normalize_image(np.full((9, 9), value, dtype=np.uint8), modality)
    assert torch.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1


def test_a_few_bright_pixels_are_not_lost(processor: MedGlipImageProcessor) -> None:
    image = np.zeros((100, 100), dtype=np.uint8)
    image[50, 50] = 200
    assert processor.normalize_image(image, "xray")[0, 50, 50] == 1


@given(st.sampled_from(MODALITIES), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**16))
def test_numbers_stay_between_zero_and_one(modality: str, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtype = [np.uint8, np.uint16, np.int16][seed % 3]
    top = 255 if modality in ("dermoscopy", "endoscopy", "fundus") else 2000
    image = rng.integers(0, min(top, np.iinfo(dtype).max), (height, width)).astype(dtype)
    pixels = MedGlipImageProcessor().normalize_image(image, modality)
    assert pixels.shape == (3, height, width) and pixels.dtype == torch.float32
    assert float(pixels.min()) >= 0 and float(pixels.max()) <= 1


# Kinds of input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        COLOR,
        COLOR.transpose(2, 0, 1),
        torch.from_numpy(COLOR),
        torch.from_numpy(COLOR).permute(2, 0, 1),
        Image.fromarray(COLOR),
        Image.fromarray(COLOR).convert("RGBA"),
        np.dstack([COLOR, np.full((40, 30), 255, dtype=np.uint8)]),
    ],
)
def test_layouts_of_color(image: Any) -> None:
    assert np.array_equal(channels_first(image), COLOR.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "image",
    [
        GRAY,
        GRAY[None],
        GRAY[..., None],
        torch.from_numpy(GRAY),
        Image.fromarray(GRAY),
        Image.fromarray(GRAY).convert("LA"),
    ],
)
def test_layouts_of_gray(image: Any) -> None:
    assert np.array_equal(luminance(channels_first(image)), GRAY.astype(np.float32))


def test_pil_keeps_sixteen_bits_floats_and_palettes() -> None:
    deep = GRAY.astype(np.uint16) * 200
    assert np.array_equal(channels_first(Image.fromarray(deep))[0], deep)
    assert np.array_equal(channels_first(Image.fromarray(GRAY.astype(np.float32) * 7))[0], GRAY * np.float32(7))
    assert np.array_equal(channels_first(Image.fromarray(GRAY.astype(np.int32)))[0], GRAY)
    palette = Image.fromarray(COLOR).quantize(16)
    assert np.array_equal(channels_first(palette), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    assert np.array_equal(channels_first(Image.fromarray(GRAY > 99))[0], (GRAY > 99) * np.uint8(255))
    assert channels_first(Image.fromarray(COLOR).convert("CMYK")).shape == (3, 40, 30)


def test_transparency_is_black() -> None:
    image = np.full((2, 2, 4), 200, dtype=np.uint8)
    image[0, 0, 3], image[0, 1, 3], image[1, :, 3] = 0, 128, 255
    assert channels_first(image)[0].tolist() == [[0, 100], [200, 200]]
    assert channels_first((image / 255).astype(np.float32))[0, 0, 0] == 0


def test_ambiguous_shapes_go_by_type_or_by_argument() -> None:
    square = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert channels_first(square).shape == (3, 3, 4)
    assert channels_first(torch.from_numpy(square)).shape == (3, 4, 3)
    assert channels_first(square, "channels_first").shape == (3, 4, 3)


def test_bool_bfloat16_and_batches_of_arrays(processor: MedGlipImageProcessor) -> None:
    assert set(np.unique(channels_first(GRAY > 128))) == {0, 255}
    assert channels_first(torch.rand(3, 5, 5, dtype=torch.bfloat16)).dtype == np.float32
    assert processor(torch.rand(2, 3, 8, 8), modality="fundus")["pixel_values"].shape == (2, 3, 320, 320)


def test_files(tmp_path: Path, processor: MedGlipImageProcessor) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(GRAY).save(path)
    assert torch.equal(processor(path)["pixel_values"], processor(GRAY)["pixel_values"])
    (fetched,) = processor.fetch_images([str(path)])
    assert np.array_equal(np.asarray(fetched), GRAY)


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GRAY).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(channels_first(tmp_path / "turned.png")[0], np.rot90(GRAY, -1))


def test_gray_levels_and_units_are_told_apart() -> None:
    assert has_gray_levels(np.zeros((1, 2, 2), np.uint8)) and has_gray_levels(np.array([0.0, 1.0]))
    assert has_gray_levels(np.zeros((1, 2, 2), np.uint16))
    assert not has_gray_levels(np.array([0.0, 40.0])) and not has_gray_levels(np.zeros((1, 2, 2), np.int16))
    assert unit_range(np.array([0, 51, 255], dtype=np.int32)).tolist() == pytest.approx([0, 0.2, 1])
    assert unit_range(np.array([0.0, 51, 255])).tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_whole_numbers_go_by_the_bits_they_need(bits: int) -> None:
    values = np.array([0, 2 ** (bits - 1), 2**bits - 1], dtype=np.uint16)
    assert unit_range(values).tolist() == pytest.approx([0, 0.5, 1], abs=2 / 2**bits)


# Sizes ---------------------------------------------------------------------------------------------------------------


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


# Pixel masks ---------------------------------------------------------------------------------------------------------


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


# Batches -------------------------------------------------------------------------------------------------------------


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


# Annotations ---------------------------------------------------------------------------------------------------------


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


# Settings and saving -------------------------------------------------------------------------------------------------


SMALL_ROUTER = {
    "classes": ["ct"], "mean": [0.0, 0.0], "scale": [1.0, 1.0], "layers": [{"weight": [[1.0, 2.0]], "bias": [0.0]}],
}  # fmt: skip


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


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 5), np.uint8), "no pixels"),
        (np.array([[np.nan, 1.0]]), "NaN"),
        (np.array([[np.inf, 1.0]]), "NaN or infinite"),
        (np.zeros((20, 30, 40), np.uint8), "not an image"),
        (np.zeros((2, 2), dtype=complex), "not an image"),
        (np.zeros(7), "not an image"),
        ("https://example.org/a.png", "read from files only"),
        ("missing.png", "missing.png: cannot be read"),
        ({"a": 1}, "dict is not an image"),
        (None, "NoneType is not an image"),
    ],
)
def test_what_is_no_picture(processor: MedGlipImageProcessor, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"image 1: .*{message}") as error:
        processor([GRAY, image])
    assert "\n" not in str(error.value)


def test_too_many_pixels(processor: MedGlipImageProcessor) -> None:
    huge = np.broadcast_to(np.uint8(0), (MAX_PIXELS // 1024 + 1, 1024))
    with pytest.raises(ValueError, match="more than 67108864"):
        processor(huge)


def test_only_plain_picture_formats_are_opened(tmp_path: Path, processor: MedGlipImageProcessor) -> None:
    """EPS would start Ghostscript; its content under another name is none either."""
    Image.fromarray(COLOR).save(tmp_path / "drawing.eps")
    (tmp_path / "drawing.png").write_bytes((tmp_path / "drawing.eps").read_bytes())
    for name in ("drawing.eps", "drawing.png"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read as an image") as error:
            processor(tmp_path / name)
        assert str(tmp_path) not in str(error.value)


def test_files_that_are_no_pictures(tmp_path: Path, processor: MedGlipImageProcessor) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(ValueError, match="broken.png: cannot be read"):
        processor(broken)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([-5, 3], np.int16), ([0, 300], np.float32), ([0, 70000], np.int32), ([-1.0, 0.5], np.float32)],
)
def test_colors_outside_their_range(processor: MedGlipImageProcessor, values: list[float], dtype: Any) -> None:
    with pytest.raises(ValueError, match="outside an image's range"):
        processor.normalize_image(np.array([values], dtype=dtype), "fundus")


def test_unknown_modalities_list_the_choices(processor: MedGlipImageProcessor) -> None:
    with pytest.raises(ValueError, match="ct, mri, ultrasound"):
        processor(GRAY, modality="pet")
    single = MedGlipImageProcessor(modality_settings={"ct": {}, "mri": {}})
    with pytest.raises(ValueError, match="no expert for fundus: choose one of ct, mri"):
        single(GRAY, modality="fundus")
    with pytest.raises(ValueError, match="no router"):
        single(GRAY)


def test_one_modality_needs_no_router() -> None:
    assert MedGlipImageProcessor(modality_settings={"mri": {}})(GRAY)["modality"] == ["mri"]


@pytest.mark.parametrize("argument", ["modality", "pixel_mask", "annotations", "volume_statistics"])
def test_lists_must_be_as_long_as_the_images(processor: MedGlipImageProcessor, argument: str) -> None:
    with pytest.raises(ValueError, match=f"2 images but 3 values of {argument}"):
        processor([GRAY, GRAY], **{argument: [None] * 3})


def test_no_images(processor: MedGlipImageProcessor) -> None:
    with pytest.raises(ValueError, match="no image"):
        processor([])


# Conventions of transformers -----------------------------------------------------------------------------------------


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
