# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The image processor's intensities: windows, percentiles, offsets, colors, by modality."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modeling_medglip.configuration_medglip import MODALITIES
from modeling_medglip.image_processing_medglip import (
    MedGlipImageProcessor,
    deduced_hounsfield,
    estimate_window,
    luminance,
)


RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (40, 30), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def processor() -> MedGlipImageProcessor:
    return MedGlipImageProcessor(modality="xray")


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


@pytest.mark.parametrize("image", [GRAY, Image.fromarray(GRAY), (GRAY / 255).astype(np.float32), torch.tensor(GRAY)])
def test_ct_images_without_a_window_are_stretched_gray_levels(image: Any) -> None:
    processor = MedGlipImageProcessor(modality_settings={"ct": {"deduce_window": False}})
    low, high = np.percentile(GRAY, [0.5, 99.5])
    expected = ((GRAY.astype(np.float64) - low) / (high - low)).clip(0, 1)
    pixels = processor.normalize_image(image, "ct").numpy()
    np.testing.assert_allclose(pixels, np.stack([expected] * 3), atol=1e-5)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_ct_images_of_a_trunk_are_turned_back_into_hounsfield_units(
    processor: MedGlipImageProcessor, kind: type
) -> None:
    """Air, fat and soft tissue shown from -1000 to 1400 HU look as the measured values would, to about 80 HU."""
    hounsfield = np.full((128, 128), -1000.0)
    hounsfield[10:118, 10:118] = -100
    hounsfield[20:108, 20:108] = 50
    hounsfield += RNG.normal(0, 12, hounsfield.shape)
    shown = ((hounsfield + 1000) / 2400 * 255).clip(0, 255).round().astype(np.uint8)
    image = shown if kind is np.uint8 else (shown / 255).astype(np.float32)
    deduced = processor.normalize_image(image, "ct").numpy()
    measured = processor.normalize_image(hounsfield.astype(np.float32), "ct").numpy()
    assert np.abs(deduced - measured)[0].mean() < 80 / 400
    assert np.abs(deduced - measured)[1].mean() < 80 / 1500
    assert not np.array_equal(deduced[0], deduced[1])


@pytest.mark.parametrize("offset", [1024, 32768])
def test_ct_images_of_sixteen_bits_hold_an_offset(processor: MedGlipImageProcessor, offset: int) -> None:
    """As an image file stores a trunk in HU: the very numbers come back."""
    hounsfield = np.full((128, 128), -1000.0)
    hounsfield[10:118, 10:118] = -100
    hounsfield[20:108, 20:108] = 50
    hounsfield[60:70, 60:70] = 900
    hounsfield = (hounsfield + RNG.normal(0, 8, hounsfield.shape)).clip(-1024).round().astype(np.int16)
    stored = (hounsfield.astype(np.int32) + offset).astype(np.uint16)
    for image in (stored, stored.astype(">u2"), Image.fromarray(stored), Image.fromarray(stored.astype(np.int32))):
        assert torch.equal(processor.normalize_image(image, "ct"), processor.normalize_image(hounsfield, "ct"))


def test_an_offset_is_recognized_under_contrast_agent(processor: MedGlipImageProcessor) -> None:
    """Soft tissue of 150 HU and padding of -2000 HU move the estimated window by 90 HU; the offset is still meant."""
    hounsfield = np.full((128, 128), -1000.0)
    hounsfield[10:118, 10:118] = 150
    hounsfield[60:70, 60:70] = 900
    hounsfield += RNG.normal(0, 8, hounsfield.shape)
    hounsfield[:2] = -2000
    hounsfield = hounsfield.round().astype(np.int16)
    stored = (hounsfield.astype(np.int32) + 32768).astype(np.uint16)
    assert torch.equal(processor.normalize_image(stored, "ct"), processor.normalize_image(hounsfield, "ct"))


def test_fat_is_not_taken_for_soft_tissue() -> None:
    """The highest peak is fat at -100 HU; soft tissue at 50 HU lies 1.17 times as far from air."""
    hounsfield = np.full((128, 128), -1000.0)
    hounsfield[10:118, 10:118] = -100
    hounsfield[40:88, 40:88] = 50
    hounsfield += RNG.normal(0, 12, hounsfield.shape)
    window = estimate_window(((hounsfield + 1000) / 2400 * 255).clip(0, 255).round().astype(np.uint8))
    assert window == pytest.approx((-1000, 1400), abs=80)


def test_an_offset_that_nobody_uses_is_estimated(processor: MedGlipImageProcessor) -> None:
    hounsfield = np.full((128, 128), -1000.0)
    hounsfield[10:118, 10:118] = -100
    hounsfield[20:108, 20:108] = 50
    hounsfield[60:70, 60:70] = 900
    hounsfield = (hounsfield + RNG.normal(0, 8, hounsfield.shape)).round()
    found = deduced_hounsfield((hounsfield + 4096).astype(np.uint16)[None])
    assert found is not None and np.abs(found - hounsfield).mean() < 60


def test_ct_images_of_sixteen_bits_may_be_windowed(processor: MedGlipImageProcessor) -> None:
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


def test_gray_images_fill_the_channels_of_color_modalities(processor: MedGlipImageProcessor) -> None:
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
def test_flat_images_give_finite_numbers(processor: MedGlipImageProcessor, modality: str, value: int) -> None:
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
