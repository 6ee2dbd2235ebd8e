# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The pixels of every kind of PNG, TIFF and JPEG: right, or refused in one line."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from modeling_medglip.errors import MedGlipError
from modeling_medglip.io.image import decode_image

from ..image_files import chunk, composed, png


tifffile = pytest.importorskip("tifffile")

RNG = np.random.default_rng(0)


def decoded(content: bytes, **options: Any) -> NDArray:
    return decode_image(io.BytesIO(content), **options).pixels


def samples(bits: int, channels: int) -> NDArray:
    return RNG.integers(0, 2**bits, (9, 11, channels))


class TestPng:
    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
    @pytest.mark.parametrize("hidden", [False, True])
    def test_gray(self, bits: int, hidden: bool) -> None:
        gray = samples(bits, 1)
        key = chunk(b"tRNS", struct.pack(">H", gray[0, 0, 0])) if hidden else b""
        right = gray[..., 0] * {1: 255, 2: 85, 4: 17}.get(bits, 1)
        right = np.where(hidden & (gray[..., 0] == gray[0, 0, 0]), 0, right)
        pixels = decoded(png(0, bits, gray, key))
        assert pixels.dtype == (np.uint16 if bits == 16 else np.uint8) and np.array_equal(pixels, right)

    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("hidden", [False, True])
    def test_color(self, bits: int, hidden: bool) -> None:
        color = samples(bits, 3)
        color[0, 1] = color[0, 0] ^ [1, 0, 0]  # differs from the hidden color in the lowest bit only
        key = chunk(b"tRNS", struct.pack(">3H", *color[0, 0])) if hidden else b""
        right = np.where(hidden & (color == color[0, 0]).all(axis=2, keepdims=True), 0, color >> (bits - 8))
        assert np.array_equal(decoded(png(2, bits, color, key)), right)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    @pytest.mark.parametrize("hidden", [False, True])
    def test_palettes(self, bits: int, hidden: bool) -> None:
        indices = samples(bits, 1)
        table = RNG.integers(0, 256, (2**bits, 3)).astype(np.uint8)
        alpha = RNG.integers(0, 256, 2**bits).astype(np.uint8)
        between = chunk(b"PLTE", table.tobytes()) + (chunk(b"tRNS", alpha.tobytes()) if hidden else b"")
        seen = alpha[indices] if hidden else np.full(indices.shape, 255)
        assert np.array_equal(decoded(png(3, bits, indices, between)), composed(table[indices[..., 0]], seen, 255))

    @pytest.mark.parametrize("bits", [8, 16])
    def test_gray_with_alpha(self, bits: int) -> None:
        both = samples(bits, 2)
        pixels = decoded(png(4, bits, both))
        assert pixels.dtype.itemsize == bits // 8
        assert np.array_equal(pixels, composed(both[..., 0], both[..., 1], 2**bits - 1))

    @pytest.mark.parametrize("bits", [8, 16])
    def test_color_with_alpha(self, bits: int) -> None:
        values = samples(bits, 4)
        shown = values >> (bits - 8)
        assert np.array_equal(decoded(png(6, bits, values)), composed(shown[..., :3], shown[..., 3:], 255))

    def test_sixteen_bits_with_a_hidden_gray_keep_all_levels(self) -> None:
        ramp = np.arange(64).reshape(8, 8, 1) * 60
        pixels = decoded(png(0, 16, ramp, chunk(b"tRNS", struct.pack(">H", 65535))))
        assert np.array_equal(pixels, ramp[..., 0])

    @pytest.mark.parametrize("bits", [2, 4])
    def test_label_maps_keep_their_numbers(self, bits: int) -> None:
        labels = samples(bits, 1)
        assert np.array_equal(decoded(png(0, bits, labels), label_map=True), labels[..., 0])

    def test_a_text_called_transparency_hides_nothing(self) -> None:
        gray = samples(8, 1)
        assert np.array_equal(decoded(png(0, 8, gray, chunk(b"tEXt", b"transparency\0x"))), gray[..., 0])


def tiff_file(values: NDArray, order: str = "<", **options: Any) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, byteorder=order, bigtiff=options.pop("bigtiff", False)) as writer:
        writer.write(values, **options)
    return stream.getvalue()


def numbers(kind: str, shape: tuple[int, ...] = (48, 64)) -> NDArray:
    if kind.startswith("f"):
        return RNG.random(shape).astype(kind)
    limits = np.iinfo(kind)
    return RNG.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


class TestTiff:
    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize("compression", [None, "zlib"])
    @pytest.mark.parametrize("white_is_zero", [False, True])
    @pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "f2", "f4", "f8"])
    @pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"rowsperstrip": 5}, {"bigtiff": True}])
    def test_gray_is_right_or_refused(
        self, order: str, compression: str | None, white_is_zero: bool, kind: str, layout: dict[str, Any]
    ) -> None:
        values = numbers(kind)
        photometric = "miniswhite" if white_is_zero else "minisblack"
        content = tiff_file(values, order, compression=compression, photometric=photometric, **layout)
        right = np.iinfo(kind).max - values if white_is_zero and kind[0] == "u" else values
        try:
            pixels = decoded(content)
        except MedGlipError as error:
            assert "save it" in str(error) and (order == ">" or kind not in ("u1", "u2"))
            return
        assert not (white_is_zero and kind[0] != "u")
        assert np.array_equal(pixels, right.astype(np.float32) if kind == "u4" else right)

    @pytest.mark.parametrize("predictor", [False, True])
    def test_predictors(self, predictor: bool) -> None:
        values = numbers("u2")
        content = tiff_file(values, compression="zlib", predictor=predictor, photometric="minisblack")
        assert np.array_equal(decoded(content), values)

    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize("compression", [None, "zlib"])
    @pytest.mark.parametrize("planar", ["contig", "separate"])
    @pytest.mark.parametrize("kind", ["u1", "u2"])
    @pytest.mark.parametrize("alpha", [None, "unassalpha", "assocalpha", "unspecified"])
    def test_color_is_right_or_refused(
        self, order: str, compression: str | None, planar: str, kind: str, alpha: str | None
    ) -> None:
        values = numbers(kind, (48, 64, 4 if alpha else 3))
        if alpha == "assocalpha":
            values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
        stored = np.moveaxis(values, -1, 0) if planar == "separate" else values
        extra = [alpha] if alpha else None
        content = tiff_file(
            stored, order, photometric="rgb", planarconfig=planar, extrasamples=extra, compression=compression
        )
        shown = values >> 8 if kind == "u2" else values
        right = composed(shown[..., :3], shown[..., 3:], 255) if alpha == "unassalpha" else shown[..., :3]
        try:
            pixels = decoded(content)
        except MedGlipError as error:
            assert "save it" in str(error) and planar == "separate" and alpha in ("assocalpha", "unspecified")
            return
        # Pillow divides by an associated alpha before it is composed again.
        assert np.abs(pixels.astype(int) - right).max() <= (1 if alpha == "assocalpha" else 0)

    def test_white_is_zero_of_sixteen_bits(self) -> None:
        ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
        assert np.array_equal(decoded(tiff_file(65535 - ramp, photometric="miniswhite")), ramp)

    def test_fractions_stay_a_range_even_without_a_fraction(self) -> None:
        mask = np.zeros((8, 8), np.float32)
        mask[2:5] = 1
        pixels = decoded(tiff_file(mask, photometric="minisblack"))
        assert pixels.dtype == np.float32 and np.array_equal(pixels, mask)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_not_finite(self, value: float) -> None:
        with pytest.raises(MedGlipError, match="NaN or infinite"):
            decoded(tiff_file(np.full((4, 4), value, np.float32), photometric="minisblack"))


class TestJpeg:
    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
    def test_modes(self, mode: str) -> None:
        stream = io.BytesIO()
        image = Image.new("RGB", (16, 8), (200, 30, 40)).convert(mode)
        image.save(stream, "JPEG", quality=95)
        right = np.array(image if mode == "L" else image.convert("RGB"), int)
        assert np.abs(decoded(stream.getvalue()) - right).max() < 6

    def test_twelve_bits_are_named(self) -> None:
        frame = b"\xff\xc1\x00\x0b\x0c\x00\x08\x00\x08\x01\x01\x11\x00"
        with pytest.raises(MedGlipError, match="JPEG of 12 bits: save it as a 16-bit PNG"):
            decoded(b"\xff\xd8" + frame + b"\xff\xd9")

    def test_several_images_in_one_file(self) -> None:
        stream = io.BytesIO()
        pages = [Image.new("L", (8, 8), value) for value in (10, 200)]
        pages[0].save(stream, "MPO", save_all=True, append_images=pages[1:])
        first = decode_image(io.BytesIO(stream.getvalue()))
        assert first.pixels.max() < 20 and "2 frames" in first.warnings[0]
        assert decoded(stream.getvalue(), frame=2).min() > 190


def test_jpeg_2000_is_refused() -> None:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG2000")
    with pytest.raises(MedGlipError, match="not an image of a known format"):
        decoded(stream.getvalue())
