# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""PIL images that `ground_image` takes: the same pixels as from their files, or an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_medglip import ground_image, one_image, read_image
from modeling_medglip.errors import MedGlipError

from .image_files import chunk, png, tiff


GREY = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
DEEP = GREY.astype(np.uint16) * 200
EXIF = Image.Exif()
EXIF[0x0112] = 6


def saved(folder: Path) -> dict[str, Path]:
    """Files of kinds that a plain conversion of the PIL image gets wrong."""
    files = {name: folder / name for name in ("turned.jpg", "hidden.png", "deep.png", "deep_hidden.png")}
    Image.fromarray(GREY).save(files["turned.jpg"], exif=EXIF)
    files["hidden.png"].write_bytes(png(0, 8, GREY[..., None].astype(int), chunk(b"tRNS", b"\0\7")))
    Image.fromarray(DEEP).save(files["deep.png"])
    files["deep_hidden.png"].write_bytes(
        png(0, 16, DEEP[..., None], chunk(b"tRNS", DEEP[:1, 7].astype(">u2").tobytes()))
    )
    return files


def test_pil_images_are_read_as_their_files(tmp_path: Path) -> None:
    for name, path in saved(tmp_path).items():
        with Image.open(path) as image:
            found = one_image._read(image, None).pixels
        expected = read_image(path).pixels
        grey = found if found.ndim == 2 else found[..., 0]
        assert grey.dtype == expected.dtype and np.array_equal(grey, expected), name


def test_what_pillow_gets_wrong_is_refused(tmp_path: Path) -> None:
    tags = {256: 30, 257: 20, 258: 16, 262: 0, 277: 1, 339: 1}
    (tmp_path / "inverted.tif").write_bytes(tiff({tag: (3, [value]) for tag, value in tags.items()}, DEEP.tobytes()))
    message = r"^image: Pillow .* pass modeling_medglip.read_image.path..pixels"
    with Image.open(tmp_path / "inverted.tif") as image, pytest.raises(MedGlipError, match=message):
        ground_image(image, "liver")
    assert np.array_equal(read_image(tmp_path / "inverted.tif").pixels, 65535 - DEEP)
