# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the image processor accepts as an image, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_medglip.image_processing_medglip import (
    MAX_PIXELS,
    MedGlipImageProcessor,
    channels_first,
    has_gray_levels,
    luminance,
    unit_range,
)


RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (40, 30), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def processor() -> MedGlipImageProcessor:
    return MedGlipImageProcessor(modality="xray")


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
    path = tmp_path / "image.png"
    Image.fromarray(GRAY).save(path)
    assert torch.equal(processor(path)["pixel_values"], processor(GRAY)["pixel_values"])
    (fetched,) = processor.fetch_images([str(path)])
    assert np.array_equal(np.asarray(fetched), GRAY)


def test_exif_turns_the_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GRAY).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(channels_first(tmp_path / "turned.png")[0], np.rot90(GRAY, -1))


def test_gray_levels_and_units_are_distinguished() -> None:
    assert has_gray_levels(np.zeros((1, 2, 2), np.uint8)) and has_gray_levels(np.array([0.0, 1.0]))
    assert has_gray_levels(np.zeros((1, 2, 2), np.uint16))
    assert not has_gray_levels(np.array([0.0, 40.0])) and not has_gray_levels(np.zeros((1, 2, 2), np.int16))
    assert unit_range(np.array([0, 51, 255], dtype=np.int32)).tolist() == pytest.approx([0, 0.2, 1])
    assert unit_range(np.array([0.0, 51, 255])).tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_whole_numbers_go_by_the_bits_they_need(bits: int) -> None:
    values = np.array([0, 2 ** (bits - 1), 2**bits - 1], dtype=np.uint16)
    assert unit_range(values).tolist() == pytest.approx([0, 0.5, 1], abs=2 / 2**bits)


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
def test_what_is_not_an_image(processor: MedGlipImageProcessor, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"image 1: .*{message}") as error:
        processor([GRAY, image])
    assert "\n" not in str(error.value)


def test_too_many_pixels(processor: MedGlipImageProcessor) -> None:
    huge = np.broadcast_to(np.uint8(0), (MAX_PIXELS // 1024 + 1, 1024))
    with pytest.raises(ValueError, match="more than 67108864"):
        processor(huge)


def test_only_plain_image_formats_are_opened(tmp_path: Path, processor: MedGlipImageProcessor) -> None:
    """EPS would start Ghostscript; its content is refused under another name too."""
    Image.fromarray(COLOR).save(tmp_path / "drawing.eps")
    (tmp_path / "drawing.png").write_bytes((tmp_path / "drawing.eps").read_bytes())
    for name in ("drawing.eps", "drawing.png"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read as an image") as error:
            processor(tmp_path / name)
        assert str(tmp_path) not in str(error.value)


def test_files_that_are_not_images(tmp_path: Path, processor: MedGlipImageProcessor) -> None:
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
