# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""DICOM images in every way of storing them: the right numbers and colors, or what the header lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modeling_medglip.errors import MedGlipError
from modeling_medglip.io.image import read_image


pydicom = pytest.importorskip("pydicom")

from ..dicom_files import dicom_image, save  # noqa: E402


NATIVE, BIG = pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ExplicitVRBigEndian
J2K, JPEG_LS, RLE = pydicom.uid.JPEG2000Lossless, pydicom.uid.JPEGLSLossless, pydicom.uid.RLELossless
Y, X = np.mgrid[0:48, 0:64]
GRAY = (X * 60 + Y * 4).astype(np.uint16)  # 12 bits, up to 3968
CHECKED = ((X // 8 + Y // 8) % 2).astype(np.uint16)
INDEX = np.arange(256, dtype=np.uint8).reshape(16, 16)
RAMPS = (np.arange(256), 255 - np.arange(256), np.zeros(256, int))


@pytest.mark.parametrize("syntax", [NATIVE, BIG, J2K, JPEG_LS, RLE])
def test_overlays_in_unused_bits_are_not_gray_levels(tmp_path: Path, syntax: Any) -> None:
    dataset = dicom_image(GRAY | CHECKED << 12, bits=(16, 16, 15))
    dataset.BitsStored, dataset.HighBit = 12, 11
    assert np.array_equal(read_image(save(dataset, tmp_path, syntax)).pixels, GRAY)


@pytest.mark.parametrize("syntax", [NATIVE, J2K, RLE])
def test_the_sign_of_numbers_with_unused_bits(tmp_path: Path, syntax: Any) -> None:
    values = GRAY.astype(np.int16) - 2000
    stored = (values & 0xFFF | 0x5000).astype(np.uint16)
    dataset = dicom_image(stored, bits=(16, 16, 15))
    file = save(dataset, tmp_path, syntax, BitsStored=12, HighBit=11, PixelRepresentation=1)
    assert np.array_equal(read_image(file).pixels, values)


@pytest.mark.parametrize("syntax", [NATIVE, J2K, RLE])
def test_bits_in_use_that_are_not_the_lowest(tmp_path: Path, syntax: Any) -> None:
    dataset = dicom_image(GRAY << 4 | CHECKED, bits=(16, 16, 15))
    file = save(dataset, tmp_path, syntax, BitsStored=12, HighBit=15)
    assert np.array_equal(read_image(file).pixels, GRAY)


@pytest.mark.parametrize("syntax", [NATIVE, BIG])
def test_one_bit_images_are_black_and_white(tmp_path: Path, syntax: Any) -> None:
    frames = np.stack([(X + Y * number) % 3 == 0 for number in (1, 2, 3)])[:, :5, :5]  # 25 bits: no whole bytes
    dataset = dicom_image(frames.astype(np.uint8), bits=(1, 1, 0), NumberOfFrames=3)
    dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
    file = save(dataset, tmp_path, syntax)
    for number, frame in enumerate(frames, start=1):
        assert np.array_equal(read_image(file, frame=number).pixels, frame * np.uint8(255))


def with_palette(big: bool = False, bits: int = 16, first: int = 0, **data: bytes) -> Any:
    dataset = dicom_image(INDEX, photometric="PALETTE COLOR")
    for color, values in zip(("Red", "Green", "Blue"), RAMPS, strict=True):
        word = (values << 8 if bits == 16 else values).astype(">u2" if big else "<u2").tobytes()
        setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [256, first, bits])
        setattr(dataset, f"{color}PaletteColorLookupTableData", data.get(color, word))
        dataset[f"{color}PaletteColorLookupTableData"].VR = "OW"
    return dataset


EXPECTED = np.stack([INDEX, 255 - INDEX, np.zeros_like(INDEX)], axis=-1)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_of_words(tmp_path: Path, big: bool, bits: int) -> None:
    file = save(with_palette(big, bits), tmp_path, BIG if big else NATIVE)
    assert np.array_equal(read_image(file).pixels, EXPECTED)


@pytest.mark.parametrize("big", [False, True])
def test_palettes_of_bytes(tmp_path: Path, big: bool) -> None:
    packed = {}
    for color, values in zip(("Red", "Green", "Blue"), RAMPS, strict=True):
        content = values.astype(np.uint8)
        packed[color] = (content.reshape(-1, 2)[:, ::-1] if big else content).tobytes()
    file = save(with_palette(big, 8, **packed), tmp_path, BIG if big else NATIVE)
    assert np.array_equal(read_image(file).pixels, EXPECTED)


def test_palettes_with_alpha_a_first_index_and_full_length(tmp_path: Path) -> None:
    dataset = with_palette(first=10)
    dataset.AlphaPaletteColorLookupTableDescriptor = [256, 0, 16]
    dataset.AlphaPaletteColorLookupTableData = bytes(512)
    shifted = np.clip(INDEX.astype(int) - 10, 0, 255)
    assert np.array_equal(read_image(save(dataset, tmp_path)).pixels[..., 0], shifted)
    long = dicom_image(GRAY, bits=(16, 16, 15), photometric="PALETTE COLOR")
    for color in ("Red", "Green", "Blue"):
        setattr(long, f"{color}PaletteColorLookupTableDescriptor", [0, 0, 16])  # 0 stands for 65536
        setattr(long, f"{color}PaletteColorLookupTableData", np.arange(65536).astype("<u2").tobytes())
    assert np.array_equal(read_image(save(long, tmp_path)).pixels, np.stack([GRAY >> 8] * 3, axis=-1))


@pytest.mark.parametrize("big", [False, True])
def test_segmented_palettes(tmp_path: Path, big: bool) -> None:
    """A discrete segment of one entry, a line to the 200th, and an indirect segment that draws the line again."""
    codes = np.array([0, 1, 1000, 1, 199, 51000, 2, 1, 6, 0]).astype(">u2" if big else "<u2")
    dataset = with_palette(big)
    for color in ("Red", "Green", "Blue"):
        delattr(dataset, f"{color}PaletteColorLookupTableData")
        setattr(dataset, f"Segmented{color}PaletteColorLookupTableData", codes.tobytes())
        dataset[f"Segmented{color}PaletteColorLookupTableData"].VR = "OW"
        setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [399, 0, 16])
    table = np.concatenate([np.linspace(1000, 51000, 200), np.full(199, 51000)]).round().astype(int) >> 8
    found = read_image(save(dataset, tmp_path, BIG if big else NATIVE)).pixels
    assert np.array_equal(found[..., 1], table[INDEX])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RedPaletteColorLookupTableDescriptor": [256, 0]}, "RedPaletteColorLookupTableDescriptor is missing"),
        ({"GreenPaletteColorLookupTableData": None}, "GreenPaletteColorLookupTableData is missing"),
        ({"BluePaletteColorLookupTableData": b""}, "BluePaletteColorLookupTableData is missing"),
    ],
)
def test_damaged_palettes(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(MedGlipError, match=message):
        read_image(save(with_palette(), tmp_path, **change))


COLORS = np.stack([X * 4, Y * 5, (X + Y) * 2], axis=-1).astype(np.uint8)


def ybr(colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """RGB -> YBR_FULL (PS3.3 C.7.6.3.1.2)."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return colors @ matrix.T + (0, 128, 128)


@pytest.mark.parametrize("depth", [8, 12, 16])
@pytest.mark.parametrize(
    ("photometric", "planar", "syntax"),
    [
        ("RGB", 0, NATIVE), ("RGB", 1, NATIVE), ("YBR_FULL", 0, NATIVE), ("YBR_FULL", 1, NATIVE), ("RGB", 0, RLE),
        ("RGB", 0, J2K),
    ],
)  # fmt: skip
def test_colors_of_any_depth(tmp_path: Path, depth: int, photometric: str, planar: int, syntax: Any) -> None:
    stored = COLORS.astype(float) if photometric == "RGB" else ybr(COLORS)
    kind = np.uint8 if depth == 8 else np.uint16
    deep = (stored * 2 ** (depth - 8)).round().clip(0, 2**depth - 1).astype(kind)
    dataset = dicom_image(deep, bits=(kind().itemsize * 8, depth, depth - 1), photometric=photometric)
    dataset.PlanarConfiguration = planar
    if planar:
        dataset.PixelData = deep.transpose(2, 0, 1).tobytes()
    found = read_image(save(dataset, tmp_path, syntax)).pixels
    assert found.dtype == np.uint8 and np.abs(found.astype(int) - COLORS).max() <= 2


def test_halved_colors(tmp_path: Path) -> None:
    smooth = np.repeat(COLORS[:, ::2], 2, axis=1)  # the chroma of two neighbors is the same
    full = ybr(smooth).round().clip(0, 255).astype(np.uint8)
    halved = np.stack([full[:, ::2, 0], full[:, 1::2, 0], full[:, ::2, 1], full[:, ::2, 2]], axis=-1)
    dataset = dicom_image(full, photometric="YBR_FULL_422")
    dataset.PixelData = halved.tobytes()
    assert np.abs(read_image(save(dataset, tmp_path)).pixels.astype(int) - smooth).max() <= 2


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        ({"PhotometricInterpretation": None}, "no PhotometricInterpretation of 1 samples: taken as MONOCHROME2"),
        ({"SamplesPerPixel": None}, "no SamplesPerPixel: taken as 1"),
        ({"BitsStored": None, "HighBit": None}, "no valid BitsStored: taken as 16"),
        ({"BitsStored": 40}, "no valid BitsStored: taken as 16"),
        ({"HighBit": 3}, "no valid HighBit: taken as 11"),
        ({"PixelRepresentation": None}, "no valid PixelRepresentation"),
        ({"PixelRepresentation": 7}, "no valid PixelRepresentation"),
    ],
)
def test_what_a_header_lacks_is_assumed_and_reported(tmp_path: Path, change: dict[str, Any], warned: str) -> None:
    image = read_image(save(dicom_image(GRAY), tmp_path, **change))
    assert np.array_equal(image.pixels, GRAY) and any(warned in text for text in image.warnings)


def test_three_samples_without_a_color_space_are_rgb(tmp_path: Path) -> None:
    dataset = dicom_image(COLORS, photometric="RGB")
    del dataset.PhotometricInterpretation
    image = read_image(save(dataset, tmp_path))
    assert np.array_equal(image.pixels, COLORS) and any("taken as RGB" in text for text in image.warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"BitsAllocated": None}, "its BitsAllocated is missing"),
        ({"BitsAllocated": 12}, "its BitsAllocated is 12"),
        ({"SamplesPerPixel": 4}, "its SamplesPerPixel is 4"),
        ({"PhotometricInterpretation": "HSV"}, "its PhotometricInterpretation is not supported"),
        ({"Rows": 0}, "its Rows is missing, zero or negative"),
        ({"NumberOfFrames": -3}, "its NumberOfFrames is missing, zero or negative"),
        ({"PixelData": None}, "holds no pixel data"),
    ],
)
def test_what_cannot_be_done_without_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(MedGlipError, match=rf"^a.dcm: {message}[^\n]*$"):
        read_image(save(dicom_image(GRAY), tmp_path, **change))
