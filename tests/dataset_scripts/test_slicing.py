# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Volumes -> images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dataset_scripts.recipe import Recipe
from dataset_scripts.records import AnnotatedImage, LabeledVolume
from dataset_scripts.slicing import annotated_slices, extract_images, to_gray_levels, value_range, with_square_pixels
from modeling_medglip.volumes.geometry import Volume


def labeled(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), **fields: Any) -> LabeledVolume:
    array = np.random.default_rng(0).integers(-200, 300, (8, 10, 6)).astype(np.int16)
    labels = np.zeros(array.shape, np.uint8)
    labels[5:7, 2:4, 1:3] = 1
    affine = np.diag([*spacing, 1.0])
    return LabeledVolume(Volume(array, affine, **fields), ((Volume(labels, affine), {1: "liver"}),))


def images(volume: LabeledVolume, **fields: Any) -> tuple[list[AnnotatedImage], list[str]]:
    recipe = Recipe("mine", "ct", "volume_labelmap", **fields)
    result = list(extract_images(volume, recipe))
    return [p for p in result if isinstance(p, AnnotatedImage)], [p for p in result if isinstance(p, str)]


def test_annotated_slices_and_the_planes_of_the_others() -> None:
    result, empty = images(labeled(), planes={"axial": 1, "coronal": 2})
    assert [image.item for image in result] == ["axial 1", "axial 2", "coronal 2"]
    assert empty == ["axial"] * 4 + ["coronal"] * 4
    assert result[0].pixels.shape == (10, 8) and result[2].pixels.shape == (6, 8)
    rows, columns = np.nonzero(result[0].annotations[0].whole((10, 8)))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (5, 6, 2, 3)


def test_values_are_shown_through_the_window() -> None:
    volume = labeled()
    (image, *_), _ = images(volume, window=(-100, 155))
    values = volume.volume.array[:, :, 1].T
    assert np.array_equal(image.pixels, (values + 100).clip(0, 255))
    (scaled, *_), _ = images(labeled(slope=2.0, intercept=-1000.0), window=(-1200, -945))
    assert np.array_equal(scaled.pixels, (values.astype(int) * 2 - 1000 + 1200).clip(0, 255))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_shown_is_the_formula_for_every_type(dtype: Any) -> None:
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "ui" else None
    low, high = (max(info.min, -3000), min(info.max, 3000)) if info else (-3000, 3000)
    values = np.linspace(low, high, 501).astype(dtype).reshape(3, 167)
    expected = np.rint((values.astype(np.float32) + 160) * np.float32(255 / 400)).clip(0, 255)
    assert np.array_equal(to_gray_levels(values, (-160, 240)), expected)


def test_16_bits_keep_every_hounsfield_unit() -> None:
    (image, *_), _ = images(labeled(slope=2.0, intercept=-1000.0), bits=16)
    values = (labeled().volume.array[:, :, 1].T.astype(int) * 2 - 1000).clip(-1024)
    assert image.pixels.dtype == np.uint16 and np.array_equal(image.pixels.astype(int) - 1024, values)
    assert image.window == (-1024, 64511)
    low, high = image.window
    assert np.allclose(low + image.pixels * ((high - low) / 65535), values)
    assert to_gray_levels(np.array([[np.nan, 5]], np.float32), (0, 10), bits=16).tolist() == [[0, 32768]]


def test_not_finite_values_are_black() -> None:
    assert to_gray_levels(np.array([[np.nan, -np.inf, 240]], np.float32), (-160, 240)).tolist() == [[0, 0, 255]]


def test_annotated_slices_of_each_plane() -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, 3] = 1
    result = annotated_slices(labels)
    assert {plane: np.nonzero(flags)[0].tolist() for plane, flags in result.items()} == {
        "sagittal": [1], "coronal": [2], "axial": [3],
    }  # fmt: skip


def test_value_range_leaves_out_zeros() -> None:
    array = np.zeros((20, 20, 20), np.int16)
    array[5:15, 5:15, 5:15] = np.random.default_rng(0).integers(100, 200, (10, 10, 10))
    low, high = value_range(Volume(array, np.eye(4)))
    assert 99 < low < 102 and 197 < high < 200
    assert value_range(Volume(np.zeros((3, 3, 3)), np.eye(4))) == (0.0, 1.0)
    assert value_range(Volume(np.full((3, 3, 3), 7), np.eye(4))) == (7.0, 8.0)


def test_square_pixels_keep_positions_in_the_patient() -> None:
    (image, *_), _ = images(labeled((2.0, 1.0, 5.0)))
    square = with_square_pixels(image)
    assert image.geometry is not None and square.geometry is not None
    assert square.pixels.shape == (10, 16) and square.geometry.spacing == pytest.approx((1.0, 1.0))
    assert np.allclose(image.geometry.corners((0, 0, 8, 10)), square.geometry.corners((0, 0, 16, 10)))
    rows, columns = np.nonzero(square.annotations[0].whole((10, 16)))
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.allclose(square.geometry.corners(box), image.geometry.corners((5, 2, 7, 4)))
    assert with_square_pixels(square) is square
