# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The same files through serving, the reader process of the Space, data build, training, image processor and pipeline
give the same pixels, or the same refusal."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dataset_scripts.readers.base import read_pixels
from dataset_scripts.records import Rejected
from modeling_medglip.image_processing_medglip import MedGlipImageProcessor, channels_first, unit_range
from modeling_medglip.io.image import read_image
from modeling_medglip.io.image_orientation import upright
from modeling_medglip.isolation.worker import Operations
from training.data.coco_records import read_image_file

from ..image_files import chunk, png, tiff


RNG = np.random.default_rng(1)
HEIGHT, WIDTH = 24, 36
GRAY = RNG.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
COLOR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
# Transparent, half transparent and opaque thirds.
ALPHA = np.repeat(np.array([0, 128, 255], np.uint8), WIDTH // 3)[None].repeat(HEIGHT, axis=0)


def saved(values: NDArray, kind: str = "PNG", mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(stream, kind)
    return stream.getvalue()


def deep_tiff(values: NDArray, sample_format: int, white_is_zero: bool = False) -> bytes:
    bits = values.dtype.itemsize * 8
    numbers = {256: WIDTH, 257: HEIGHT, 258: bits, 262: 0 if white_is_zero else 1, 277: 1, 339: sample_format}
    return tiff({tag: (3, [value]) for tag, value in numbers.items()}, values.tobytes())


DEEP = RNG.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
# What the processor cannot read through Pillow, it refuses.
FILES: dict[str, tuple[bytes, bool]] = {
    "rgba.png": (saved(np.dstack([COLOR, ALPHA])), True),
    "la.png": (saved(np.dstack([GRAY, ALPHA])), True),
    "palette.png": (
        png(3, 8, GRAY[..., None] % 16, chunk(b"PLTE", COLOR.tobytes()[:48]) + chunk(b"tRNS", ALPHA.tobytes()[:16])),
        True,
    ),
    "hidden_gray.png": (png(0, 16, DEEP[..., None], chunk(b"tRNS", DEEP[:1, 0].astype(">u2").tobytes())), True),
    "deep.png": (saved(DEEP), True),
    "deep_alpha.png": (png(4, 16, np.dstack([DEEP, ALPHA * np.uint16(257)])), False),
    "deep_color.png": (png(2, 16, RNG.integers(0, 65536, (HEIGHT, WIDTH, 3))), True),
    "fractions.tif": (saved(RNG.random((HEIGHT, WIDTH)).astype(np.float32), "TIFF"), True),
    "white_is_zero.tif": (deep_tiff(DEEP, 1, white_is_zero=True), False),
    "whole_32_bits.tif": (deep_tiff(DEEP.astype(np.uint32), 1), False),
    "text.png": (png(0, 8, GRAY[..., None].astype(int), chunk(b"tEXt", b"transparency\x00255")), True),
    "cmyk.jpg": (saved(COLOR, "JPEG", "CMYK"), True),
    "cmyk.tif": (saved(COLOR, "TIFF", "CMYK"), True),
    "bits.png": (saved(GRAY > 99), True),
    "bits.tif": (saved(GRAY > 99, "TIFF"), True),
    "color.webp": (saved(np.dstack([COLOR, ALPHA]), "WEBP"), True),
    "gray.bmp": (saved(GRAY, "BMP"), True),
    "palette.gif": (saved(GRAY, "GIF"), True),
    "deep.pgm": (saved(DEEP.astype(np.int32), "PPM"), True),
}


@pytest.mark.parametrize("name", FILES)
def test_all_read_the_same_pixels(name: str, tmp_path: Path) -> None:
    content, processor_reads = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    served = read_image(path).pixels
    assert np.array_equal(read_image_file(path, (WIDTH, HEIGHT)), served)
    built = read_pixels(path)
    assert built.dtype in (np.uint8, np.uint16) and built.shape == served.shape
    planes = np.moveaxis(np.atleast_3d(served), -1, 0)
    range_of = unit_range(planes)
    assert np.abs(unit_range(np.moveaxis(np.atleast_3d(built), -1, 0)) - range_of).max() < 1e-4
    read = through_processor(path)
    if processor_reads:
        assert all(np.abs(unit_range(image()) - range_of).max() < 1e-6 for image in read.values())
        return
    for entry, image in read.items():
        with pytest.raises(
            ValueError, match=f"{'' if entry == 'PIL image' else f'{name}: '}Pillow changes the pixels"
        ):
            image()


def through_processor(path: Path) -> dict[str, Callable[[], NDArray]]:
    """What the image processor makes of a path, of a PIL image, and of a path as the pipeline passes it."""
    return {
        "path": lambda: channels_first(path),
        "PIL image": lambda: channels_first(Image.open(path)),
        "pipeline": lambda: channels_first(MedGlipImageProcessor().fetch_images([str(path)])[0]),
    }


@pytest.mark.parametrize("name", FILES)
def test_the_reader_process_decodes_with_the_same_function(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name][0])
    _, pixels = Operations(None).read_image(str(tmp_path / name), None)  # type: ignore[arg-type]
    assert np.array_equal(pixels, read_image(tmp_path / name).pixels)


@pytest.mark.parametrize("name", ["rgba.png", "la.png", "color.webp", "deep_alpha.png"])
def test_transparent_parts_are_black_and_half_transparent_ones_dark(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name][0])
    pixels = np.atleast_3d(read_image(tmp_path / name).pixels)
    third = WIDTH // 3
    assert pixels[:, :third].max() == 0
    assert 0 < pixels[:, third : 2 * third].max() <= pixels[:, 2 * third :].max() * 0.52


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_upright_everywhere(kind: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "a.image"
    corner = np.zeros((HEIGHT, WIDTH), np.uint8)
    corner[:8, :4] = 240
    image = Image.fromarray(corner)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, kind, exif=exif, **({} if kind == "TIFF" else {"quality": 100}))
    read = read_image(path)
    right = [image, *map(image.transpose, (
        Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
    ))][orientation - 1]  # fmt: skip
    pixels = read.pixels if read.pixels.ndim == 2 else read.pixels[..., 0]
    assert read.orientation == orientation and pixels.shape == np.array(right).shape
    assert np.array_equal(pixels > 120, np.array(right) > 120)
    read_by_processor = through_processor(path)
    assert np.array_equal(read_by_processor["path"]()[0], pixels)
    assert np.array_equal(read_by_processor["pipeline"]()[0], pixels)
    assert np.array_equal(np.atleast_3d(read_pixels(path))[..., 0], pixels)
    if orientation in (2, 3, 4):  # nothing says whether annotations belong to the upright image
        assert "EXIF orientation" in refusal(lambda: read_image_file(path, (WIDTH, HEIGHT)))
    else:
        size = (HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT)
        assert np.array_equal(np.atleast_3d(read_image_file(path, size))[..., 0], pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_profile_of_imagemagick(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = exif.tobytes()
    profile = f"\nexif\n{len(content):8}\n{content.hex()}\n".encode()
    path = tmp_path / "a.png"
    path.write_bytes(png(0, 8, GRAY[..., None].astype(int), chunk(b"tEXt", b"Raw profile type exif\0" + profile)))
    read = read_image(path)
    assert read.orientation == orientation and np.array_equal(read.pixels, upright(GRAY, orientation))
    assert np.array_equal(channels_first(path)[0], read.pixels)


def test_planes_of_gray_and_alpha_are_refused_where_pillow_mixes_them_up(tmp_path: Path) -> None:
    planes = zlib.compress(GRAY.tobytes()) + zlib.compress(np.full_like(GRAY, 255).tobytes())
    first = len(zlib.compress(GRAY.tobytes()))
    tags = {256: WIDTH, 257: HEIGHT, 259: 8, 262: 1, 277: 2, 278: HEIGHT, 284: 2, 338: 2}
    both = {258: (3, [8, 8]), 273: (4, [8, 8 + first]), 279: (4, [first, len(planes) - first])}
    path = tmp_path / "a.tif"
    path.write_bytes(tiff({**{tag: (3, [value]) for tag, value in tags.items()}, **both}, planes))
    assert "in separate planes" in refusal(lambda: read_image(path).pixels)
    assert "Pillow changes the pixels" in refusal(lambda: channels_first(path))


def refusal(read: Callable[[], NDArray]) -> str:
    with pytest.raises((ValueError, Rejected)) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("end", [20, 60, 200])
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_refused_alike(name: str, end: int, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name][0][:end])
    try:
        served = read_image(path).pixels
    except ValueError:
        assert refusal(lambda: read_image_file(path, (WIDTH, HEIGHT))).startswith(name)
        assert refusal(lambda: read_pixels(path))
        assert refusal(lambda: channels_first(path)).startswith(name)
    else:  # enough of it is there
        assert np.array_equal(read_image_file(path, (WIDTH, HEIGHT)), served)
