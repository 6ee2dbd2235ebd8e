# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Geometry: every axis order and oblique volumes name the same places of the patient."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_medglip.volumes.geometry import (
    PLANES,
    SlicePlane,
    Volume,
    box_voxels,
    closest_axes,
    empty_grid,
    extract_slice,
    on_grid,
    slice_count,
    slices_extent,
    to_file,
    to_lps,
    with_axcodes,
)


ORDERS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def body() -> Volume:
    """An LPS volume with a block that is off center on every axis, oblong voxels and an origin of its own."""
    array = np.zeros((9, 11, 13), np.int16)
    array[5:8, 1:5, 8:12] = 7
    affine = np.diag([0.8, 1.1, 2.5, 1.0])
    affine[:3, 3] = [-40.0, 12.5, 300.0]
    return Volume(array, affine)


def stored(volume: Volume, order: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """The same volume as a file might hold it: axes permuted and reversed."""
    array, affine = volume.array.transpose(order), volume.affine[:, [*order, 3]].copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
            affine[:, axis] *= -1
    return Volume(array[tuple(slice(None, None, sign) for sign in signs)], affine)


def box_in_mm(lps: Volume, plane: str, value: int) -> np.ndarray:
    """Least and largest LPS coordinates (2, 3) over the boxes of a value in all slices of a plane."""
    corners = []
    for index in range(slice_count(lps, plane)):
        pixels, position = extract_slice(lps, plane, index)
        rows, columns = np.nonzero(pixels == value)
        if len(rows):
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            corners.append(position.corners(box))
    points = np.concatenate(corners)
    return np.stack([points.min(0), points.max(0)])


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_all_48_axis_orders_are_the_same_volume(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    original = body()
    found = to_lps(stored(original, order, signs))
    assert np.array_equal(found.array, original.array)
    assert np.allclose(found.affine, original.affine)


@pytest.mark.parametrize("plane", PLANES)
def test_boxes_lie_where_the_block_is(plane: str) -> None:
    volume = body()
    low, high = box_in_mm(volume, plane, 7)
    edges_low = np.array([5, 1, 8]) - 0.5
    edges_high = np.array([8, 5, 12]) - 0.5
    # Across the slices a box has no thickness: the centers of the first and last slice count.
    across = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    edges_low[across], edges_high[across] = edges_low[across] + 0.5, edges_high[across] - 0.5
    assert np.allclose(low, edges_low * [0.8, 1.1, 2.5] + [-40, 12.5, 300])
    assert np.allclose(high, edges_high * [0.8, 1.1, 2.5] + [-40, 12.5, 300])


@given(st.integers(0, 47), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.sampled_from(PLANES))
def test_oblique_volumes_in_any_order_give_the_same_boxes(
    number: int, about_x: float, about_y: float, about_z: float, plane: str
) -> None:
    """Turned by up to 35 degrees about each axis, the boxes in mm do not depend on how the file orders its axes."""
    volume = body()
    turned = Volume(volume.array, rotation(about_x, about_y, about_z) @ volume.affine)
    expected = to_lps(turned)
    found = to_lps(stored(turned, *ORDERS[number]))
    assert np.allclose(found.affine, expected.affine) and np.array_equal(found.array, expected.array)
    assert np.allclose(box_in_mm(found, plane, 7), box_in_mm(expected, plane, 7))


def rotation(about_x: float, about_y: float, about_z: float) -> np.ndarray:
    matrix = np.eye(4)
    for angle, (first, second) in ((about_x, (1, 2)), (about_y, (0, 2)), (about_z, (0, 1))):
        turn = np.eye(4)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_simpleitk_sees_the_same_places(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """An independent library: the physical point of a voxel, and its value after its own reorientation."""
    sitk = pytest.importorskip("SimpleITK")
    volume = stored(Volume(body().array, rotation(0.2, -0.1, 0.3) @ body().affine), order, signs)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.transpose(2, 1, 0)))
    image.SetOrigin(volume.affine[:3, 3].tolist())
    image.SetSpacing(volume.spacing.tolist())
    image.SetDirection((volume.affine[:3, :3] / volume.spacing).ravel().tolist())
    theirs = sitk.DICOMOrient(image, "LPS")
    ours = to_lps(volume)
    assert np.array_equal(sitk.GetArrayFromImage(theirs).transpose(2, 1, 0), ours.array)
    for index in ((0, 0, 0), (3, 4, 5), (8, 10, 12)):
        assert np.allclose(theirs.TransformIndexToPhysicalPoint(index), (ours.affine @ [*index, 1])[:3])


def test_left_is_the_patients_left() -> None:
    """In axial and coronal slices the patient's left is on the right; the front or the head is on top."""
    array = np.zeros((4, 4, 4), np.uint8)
    array[3, 0, 3] = 1  # left, front, head
    volume = Volume(array, np.eye(4))
    assert extract_slice(volume, "axial", 3)[0].tolist()[0] == [0, 0, 0, 1]
    assert extract_slice(volume, "coronal", 0)[0].tolist()[0] == [0, 0, 0, 1]
    assert extract_slice(volume, "sagittal", 3)[0].tolist()[0] == [1, 0, 0, 0]


def test_slices_know_their_spacing() -> None:
    assert extract_slice(body(), "axial", 0)[1].spacing == pytest.approx((0.8, 1.1))
    assert extract_slice(body(), "coronal", 0)[1].spacing == pytest.approx((0.8, 2.5))
    assert extract_slice(body(), "sagittal", 0)[1].spacing == pytest.approx((1.1, 2.5))
    position = SlicePlane(np.zeros(3), np.array([2.0, 0, 0]), np.array([0, 3.0, 0]))
    assert position.corners((0, 0, 1, 1)).tolist() == [[-1, -1.5, 0], [1, -1.5, 0], [1, 1.5, 0], [-1, 1.5, 0]]


@pytest.mark.parametrize(("order", "signs"), ORDERS[::5])
def test_a_label_map_in_another_order_of_axes_is_put_on_the_grid(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    volume = body()
    found = on_grid(stored(volume, order, signs), volume)
    assert found is not None and np.array_equal(found.array, volume.array) and np.allclose(found.affine, volume.affine)


def test_a_label_map_of_some_slices_is_put_on_the_grid() -> None:
    volume = body()
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * 7
    part = Volume(volume.array[:, :, 7:], affine)
    found = on_grid(part, volume)
    assert found is not None and np.array_equal(found.array, volume.array)
    beyond = on_grid(volume, part)
    assert beyond is not None and np.array_equal(beyond.array, part.array)


def test_a_label_map_elsewhere_does_not_match() -> None:
    volume = body()
    moved = volume.affine.copy()
    moved[0, 3] += 0.07 * 0.8
    assert on_grid(Volume(volume.array, moved), volume) is not None
    moved[0, 3] += 0.07 * 0.8
    assert on_grid(Volume(volume.array, moved), volume) is None
    wider = volume.affine.copy()
    wider[:3, 0] *= 1.05
    assert on_grid(Volume(volume.array, wider), volume) is None
    far = volume.affine.copy()
    far[:3, 3] += far[:3, 2] * 100
    assert on_grid(Volume(volume.array, far), volume) is None


def test_a_label_map_that_is_off_by_the_tolerance_matches() -> None:
    volume = empty_grid((4, 4, 4), np.eye(4))
    moved = np.eye(4)
    moved[2, 3] = 0.125
    assert on_grid(empty_grid((4, 4, 4), moved), volume, tolerance=0.125) is not None
    assert on_grid(empty_grid((4, 4, 4), moved), volume, tolerance=0.124) is None


@pytest.mark.parametrize(
    ("plane", "low", "high"),
    [("axial", [1, 2, 3], [4, 6, 6]), ("coronal", [1, 3, 4], [4, 6, 8]), ("sagittal", [3, 1, 4], [6, 4, 8])],
)
def test_a_box_over_slices_spans_them_whole(plane: str, low: list[float], high: list[float]) -> None:
    """The box (1, 2, 4, 6) in slices 3 to 5 of 10 x 10 x 10 voxels; rows of upright planes count from the head."""
    lps = empty_grid((10, 10, 10), np.eye(4))
    assert slices_extent(lps, plane, (1, 2, 4, 6), 3, 5) == (low, high)


def test_boxes_of_the_canonical_grid_in_voxels_of_the_file() -> None:
    """A file of 10 x 8 x 6 voxels that run to the right, the feet and the back."""
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    assert to_file(empty_grid((10, 8, 6), affine), [1, 2, 3], [4, 5, 7]) == (6, 1, 2, 9, 5, 5)


@pytest.mark.parametrize(
    ("codes", "directions"),
    [
        ("LPS", [(1, 0, 0), (0, 1, 0), (0, 0, 1)]),
        ("ras", [(-1, 0, 0), (0, -1, 0), (0, 0, 1)]),
        ("IAL", [(0, 0, -1), (0, -1, 0), (1, 0, 0)]),
    ],
)
def test_axes_that_are_stated(codes: str, directions: list[tuple[int, ...]]) -> None:
    """The columns of the affine are the steps to LPS mm of the axes, by their letters; the first voxel stays."""
    affine = with_axcodes(body(), codes).affine
    assert np.allclose(affine[:3, :3], np.array(directions).T * body().spacing)
    assert np.array_equal(affine[:3, 3], body().affine[:3, 3])


def test_voxels_of_a_box_are_those_with_their_center_in_it() -> None:
    """A center on the lower edge belongs to the box, one on the upper edge does not."""
    assert box_voxels((0.5, 0.4, 0.6, 2.5, 2.6, 2.4), (9, 9, 9)) == (slice(0, 2), slice(0, 3), slice(1, 2))
    assert box_voxels((-3, 7, 8.6, 2, 12, 8.9), (9, 9, 9)) == (slice(0, 2), slice(7, 9), slice(9, 9))


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.zeros((2, 2)), np.eye(4), "three axes"),
        (np.zeros((2, 2, 2)), np.eye(3), "four by four"),
        (np.zeros((2, 2, 2)), np.diag([1, 1, np.nan, 1]), "finite"),
        (np.zeros((2, 2, 2)), np.diag([1.0, 0, 1, 1]), "singular"),
    ],
)
def test_what_is_not_a_volume(array: np.ndarray, affine: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Volume(array, affine)


def test_no_such_slice() -> None:
    with pytest.raises(ValueError, match="choose one of axial, coronal, sagittal"):
        extract_slice(body(), "oblique", 0)
    for index in (-1, 13):
        with pytest.raises(IndexError, match="of 13"):
            extract_slice(body(), "axial", index)


def test_axes_of_a_turned_volume() -> None:
    assert closest_axes(np.diag([1.0, 1, 1, 1])) == ((0, 1), (1, 1), (2, 1))
    assert closest_axes(np.diag([-1.0, -1, 1, 1])) == ((0, -1), (1, -1), (2, 1))
