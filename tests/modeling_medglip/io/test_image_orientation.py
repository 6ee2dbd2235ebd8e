# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Turning pixels and boxes by EXIF orientation, and what size says about annotations."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from modeling_medglip.io.image_orientation import AmbiguousOrientationError, drawn_on_stored, upright, upright_boxes


STORED = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_and_boxes_turn_alike(orientation: int) -> None:
    image, stream = Image.fromarray(STORED), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(stream, "PNG", exif=exif)
    assert np.array_equal(upright(STORED, orientation), ImageOps.exif_transpose(Image.open(stream)))
    mask = np.zeros(STORED.shape, bool)
    mask[1:3, 0:1] = True
    rows, columns = np.nonzero(upright(mask, orientation))
    (box,) = upright_boxes(np.array([[0, 1, 1, 3]], np.float32), orientation, (4, 3))
    assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert upright_boxes(np.zeros((0, 4), np.float32), orientation, (4, 3)).shape == (0, 4)


@pytest.mark.parametrize(
    ("orientation", "size", "stated", "stored"),
    [(1, (4, 3), None, False), (6, (3, 4), (3, 4), False), (6, (3, 4), (4, 3), True), (5, (3, 4), (4, 3), True)],
)
def test_size_decides(orientation: int, size: tuple[int, int], stated: tuple[int, int] | None, stored: bool) -> None:
    assert drawn_on_stored(orientation, size, stated) is stored


@pytest.mark.parametrize(
    ("orientation", "size", "stated"),
    [(2, (4, 3), (4, 3)), (3, (4, 3), (4, 3)), (4, (4, 3), (4, 3)), (6, (3, 3), (3, 3)), (8, (3, 4), None)],
)
def test_what_size_cannot_decide(orientation: int, size: tuple[int, int], stated: tuple[int, int] | None) -> None:
    with pytest.raises(AmbiguousOrientationError, match="save it upright, with annotations to match"):
        drawn_on_stored(orientation, size, stated)
