# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Volumes slice by slice: the same from disk as from memory, and boxes where they are seen."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_medglip import volume_grounding
from modeling_medglip.errors import MedGlipError
from modeling_medglip.grounding import Grounder
from modeling_medglip.io.image_record import ReadImage
from modeling_medglip.modality_choice import ModalityChoice
from modeling_medglip.outputs.montage import draw_montage
from modeling_medglip.volume_grounding import ground_volume
from modeling_medglip.volumes import reader, spool
from modeling_medglip.volumes.geometry import (
    PLANES,
    Volume,
    corners_lps,
    empty_grid,
    extract_slice,
    slices_extent,
    to_file,
    to_lps,
)
from modeling_medglip.volumes.header import UNORIENTED, VolumeError
from modeling_medglip.volumes.source import VolumeSource, acquisition_plane, open_volume, plane_of

from ..test_volume_grounding import STATES_NOTHING, Bright


ORDERS = [
    (order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]  # all 48 orders of axes


def affine_of(
    order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 2.0, 3.0)
) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, lps in enumerate(order):
        affine[lps, axis] = signs[axis] * spacing[axis]
    affine[:3, 3] = [-11.0, 5.0, 30.0]
    return affine


def save(path: Path, array: np.ndarray, lps_affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1, 1, 1]) @ lps_affine), path)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("order", "signs"), ORDERS[::5])
def test_streamed_slices_are_those_of_the_whole(
    ending: str, order: tuple[int, ...], signs: tuple[int, ...], tmp_path: Path
) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    affine = affine_of(order, signs)
    source = open_volume(save(tmp_path / f"a{ending}", array, affine))
    whole = VolumeSource(Volume(array, affine))
    assert source.streams(plane_of(source.grid, 2)) and source.grid.array.shape == array.shape
    streamed = plane_of(source.grid, 2)
    for plane in (streamed, *(name for name in PLANES if name != streamed)):
        expected = dict(whole.read_slices(plane))
        if plane == streamed:
            assert np.array_equal(source.read_slice(plane, 2), expected[2])
        found = dict(source.read_slices(plane))
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[index], expected[index]) for index in expected)


def test_a_streamed_file_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros((8, 9, 20), np.int16), np.eye(4))
    source = open_volume(path)
    monkeypatch.setattr("modeling_medglip.volumes.reader.read_volume", lambda *a: pytest.fail("all of it was read"))
    assert len(list(source.read_slices("axial"))) == 20


def test_slope_and_intercept_are_applied_slice_by_slice(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2.0, -5.0)
    nibabel.save(image, tmp_path / "a.nii")
    expected = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)[:, :, 1]
    pixels = open_volume(tmp_path / "a.nii").read_slice("axial", 1)
    assert sorted(pixels.ravel().tolist()) == pytest.approx(sorted(expected.ravel().tolist()))


def test_packing_goes_by_content_not_by_name(tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 99, (4, 5, 6)).astype(np.int16)
    packed, plain = save(tmp_path / "a.nii.gz", array, np.eye(4)), save(tmp_path / "b.nii", array, np.eye(4))
    shutil.copy(packed, tmp_path / "really_packed.nii")
    shutil.copy(plain, tmp_path / "really_plain.nii.gz")
    for name in ("really_packed.nii", "really_plain.nii.gz"):
        found = dict(open_volume(tmp_path / name).read_slices("axial"))
        assert all(np.array_equal(found[i], p) for i, p in open_volume(plain).read_slices("axial"))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_file_that_is_cut_short_is_named(ending: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = save(tmp_path / f"scan{ending}", rng.integers(0, 999, (16, 16, 16)).astype(np.int16), np.eye(4))
    if ending == ".nii":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    else:
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content[: len(content) // 2]))
    with pytest.raises(VolumeError, match=f"scan{ending}: .*slice|scan{ending}: is damaged"):
        list(open_volume(path).read_slices("axial"))


def test_the_acquisition_plane_is_across_the_longest_voxels() -> None:
    assert acquisition_plane(empty_grid((9, 9, 9), affine_of((0, 1, 2), (1, 1, 1), (1, 1, 5)))) == "axial"
    assert acquisition_plane(empty_grid((9, 9, 9), affine_of((0, 1, 2), (1, 1, 1), (1, 4, 1)))) == "coronal"
    assert acquisition_plane(empty_grid((9, 9, 9), affine_of((2, 1, 0), (1, 1, -1), (1, 1, 4)))) == "sagittal"
    assert acquisition_plane(empty_grid((9, 9, 9), affine_of((2, 1, 0), (1, 1, -1), (1, 1, 1)))) == "axial"
    stacked = empty_grid((9, 9, 9), affine_of((0, 2, 1), (1, 1, 1), (1, 1, 1)))
    assert acquisition_plane(stacked, stacked=True) == "coronal"


@pytest.mark.parametrize(("order", "signs"), ORDERS)
@pytest.mark.parametrize("plane", PLANES)
def test_a_box_seen_in_slices_is_the_box_in_the_array(
    plane: str, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    array = np.zeros((11, 12, 13), np.uint8)
    array[2:5, 3:9, 6:8] = 1
    volume = Volume(array, affine_of(order, signs))
    lps = to_lps(volume)
    boxes = {}
    for index in range(lps.array.shape[{"sagittal": 0, "coronal": 1, "axial": 2}[plane]]):
        rows, columns = np.nonzero(extract_slice(lps, plane, index)[0])
        if len(rows):
            boxes[index] = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    (box,) = {tuple(map(float, found)) for found in boxes.values()}
    found = to_file(volume, *slices_extent(to_lps(volume), plane, box, min(boxes), max(boxes)))
    assert found == (2, 3, 6, 5, 9, 8)


@given(
    seed=st.integers(0, 10**6),
    box=st.tuples(*[st.integers(0, 5)] * 3, *[st.integers(6, 10)] * 3),
)
def test_corners_are_those_of_the_outermost_voxels(seed: int, box: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = rng.normal(size=(3, 3)) + 2 * np.eye(3)  # oblique and sheared
    affine[:3, 3] = rng.normal(size=3) * 50
    grid = empty_grid((10, 10, 10), affine)
    corners = corners_lps(grid, tuple(map(float, box)))
    # brute force: half a voxel around the centers of the box's corner voxels
    points = []
    for k, j, i in product((0, 1), repeat=3):
        ends = [box[axis] if not side else box[axis + 3] - 1 for axis, side in enumerate((i, j, k))]
        away = [-0.5 if not side else 0.5 for side in (i, j, k)]
        points.append(affine[:3, :3] @ (np.array(ends) + away) + affine[:3, 3])
    np.testing.assert_allclose(corners, points, atol=1e-9)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "lia", "SRP"])
def test_axes_can_be_stated_where_a_header_is_wrong(codes: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (5, 6, 7)).astype(np.int16)
    source = open_volume(save(tmp_path / "a.nii", array, affine_of((1, 0, 2), (-1, 1, 1))))
    source.state_axes(codes)
    ras = np.diag([-1.0, -1, 1, 1]) @ source.grid.affine
    # nibabel's letters say where indices grow to, in a frame that is RAS
    assert "".join(nibabel.aff2axcodes(ras)) == codes.upper()
    np.testing.assert_allclose(source.grid.spacing, [1.0, 2.0, 3.0], rtol=1e-5)
    whole = VolumeSource(Volume(array, source.grid.affine))
    plane = plane_of(source.grid, 2)
    found, expected = dict(source.read_slices(plane)), dict(whole.read_slices(plane))
    assert all(np.array_equal(found[index], expected[index]) for index in expected)
    other = next(name for name in PLANES if name != plane)
    assert np.array_equal(source.read_slice(other, 1), whole.read_slice(other, 1))


@pytest.mark.parametrize("codes", ["LP", "LLS", "LPX", "LPSA", ""])
def test_axes_that_are_none(codes: str, tmp_path: Path) -> None:
    source = VolumeSource(Volume(np.zeros((2, 2, 2)), np.eye(4)))
    with pytest.raises(ValueError, match="three letters"):
        source.state_axes(codes)


def test_a_header_that_says_nothing_of_orientation_is_warned_about(tmp_path: Path) -> None:
    array = np.zeros((3, 4, 5), np.int16)
    assert open_volume(save(tmp_path / "a.nii", array, affine_of((0, 1, 2), (-1, -1, 1)))).notes == ()
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1.5, 8.0, 1.0])), tmp_path / "b.nii")
    assert open_volume(tmp_path / "b.nii").notes == (UNORIENTED,)
    image = nibabel.Nifti1Image(array, np.diag([-1.5, 1.5, 8.0, 1.0]))
    image.header["sform_code"] = image.header["qform_code"] = 0
    image.to_filename(tmp_path / "c.nii")
    assert UNORIENTED in open_volume(tmp_path / "c.nii").notes


def test_an_unknown_plane() -> None:
    with pytest.raises(ValueError, match="choose one of"):
        slices_extent(empty_grid((2, 2, 2), np.eye(4)), "slanted", (0, 0, 1, 1), 0, 0)


class TestOnePass:
    """Slices of a compressed file are decoded once."""

    @pytest.fixture
    def decoded(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """First slice of every time that voxels are decoded from a file."""
        starts: list[int] = []
        decode = reader.decode_slices
        monkeypatch.setattr(
            reader, "decode_slices", lambda header, first=0: (starts.append(first), decode(header, first))[1]
        )
        return starts

    def test_read_slices_twice(self, tmp_path: Path, decoded: list[int]) -> None:
        array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
        source = open_volume(save(tmp_path / "a.nii.gz", array, affine_of((0, 1, 2), (1, 1, -1))))
        partial = source.read_slices("axial")
        first = [next(partial), next(partial)]
        both = [*source.read_slices("axial")], [*source.read_slices("axial")]
        rest = [*partial]
        assert decoded == [0]
        for found in (*both, first + rest):
            assert [index for index, _ in found] == [4, 3, 2, 1, 0]
            assert all(np.array_equal(pixels, array[:, :, 4 - index].T) for index, pixels in found)
        assert np.array_equal(source.read_slice("axial", 1), array[:, :, 3].T) and decoded == [0]

    def test_other_axes_are_decoded_anew(self, tmp_path: Path, decoded: list[int]) -> None:
        array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
        source = open_volume(save(tmp_path / "a.nii.gz", array, np.eye(4)))
        list(source.read_slices("axial"))
        source.state_axes("RPS")
        assert all(np.array_equal(pixels, array[::-1, :, k].T) for k, pixels in source.read_slices("axial"))
        assert decoded == [0, 0]

    def test_slices_of_an_uncompressed_file_are_read_where_they_are(self, tmp_path: Path, decoded: list[int]) -> None:
        array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
        source = open_volume(save(tmp_path / "a.nii", array, np.eye(4)))
        assert not source.sequential and np.array_equal(source.read_slice("axial", 3), array[:, :, 3].T)
        assert decoded == [3]

    def test_a_damaged_file_stays_damaged(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.nii", np.random.default_rng(0).random((40, 40, 5)), np.eye(4))
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes())[:-20000])
        source = open_volume(tmp_path / "b.nii.gz")
        for _ in range(2):
            with pytest.raises(VolumeError, match="b.nii.gz: is damaged or cut short"):
                list(source.read_slices("axial"))

    @pytest.mark.parametrize("plane", [None, "all"])
    def test_grounding(
        self, tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch, plane: str | None
    ) -> None:
        """The middle slice for the modality, all slices for the boxes, and the best ones for the montage."""
        array = np.zeros((8, 8, 6), np.int16)
        array[2:6, 2:6, 2:5] = 100
        source = open_volume(save(tmp_path / "a.nii.gz", array, np.eye(4)))
        seen = []

        def choose(grounder: object, image: ReadImage, *stated: object) -> ModalityChoice:
            seen.append(image.pixels)
            return ModalityChoice("ct", "pixels", None, ())

        monkeypatch.setattr(volume_grounding, "choose_modality", choose)
        monkeypatch.setattr(volume_grounding, "_SliceSearch", Bright)
        bright = Grounder(STATES_NOTHING, None, "", torch.device("cpu"))  # type: ignore[arg-type]
        result = ground_volume(source, "left kidney", model=bright, plane=plane)
        assert np.array_equal(seen[0], array[:, :, 3].T)
        assert result.boxes[0].box_ijk == pytest.approx((2, 2, 2, 6, 6, 5))
        assert draw_montage(source, result.boxes, ["left kidney"], "ct") is not None
        assert decoded == [0]


@pytest.mark.parametrize("memory", [0, 10**6])
def test_a_spool_in_memory_or_on_disk(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MAX_MEMORY", memory or 1)
    kinds = (np.dtype("int16"), np.dtype("float32"), np.dtype("uint8"))
    slices = [(9 - n, np.arange(12).reshape(3, 4).astype(kinds[n % 3])[::-1] + n) for n in range(9)]
    stored = spool.SliceSpool(iter(slices))
    assert stored.get(9) is None
    for found in ([*stored], [*stored]):
        assert [index for index, _ in found] == [index for index, _ in slices]
        for (_, pixels), (_, expected) in zip(found, slices, strict=True):
            assert pixels.dtype == expected.dtype and np.array_equal(pixels, expected) and pixels.flags.writeable
    assert np.array_equal(stored.get(4), slices[5][1]) and stored.get(10) is None


def test_an_interrupted_spool_does_not_end_early() -> None:
    def decoded() -> Iterator[tuple[int, np.ndarray]]:
        yield 0, np.zeros((2, 2))
        raise KeyboardInterrupt

    stored = spool.SliceSpool(decoded())
    with pytest.raises(KeyboardInterrupt):
        list(stored)
    with pytest.raises(MedGlipError, match="decoding was interrupted: open the volume again"):
        list(stored)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = spool.SliceSpool(iter([(0, np.zeros((2, 2)))]))

    def full(content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored._file, "write", full)
    with pytest.raises(MedGlipError, match=r"\(No space left on device\): set TMPDIR"):
        list(stored)


def test_old_names_of_slices() -> None:
    source = VolumeSource(Volume(np.arange(24).reshape(2, 3, 4), np.eye(4)))
    with pytest.warns(FutureWarning, match="read_slices; the old name goes with the next release"):
        slices = dict(source.pictures("axial"))
    with pytest.warns(FutureWarning, match="read_slice; the old name goes with the next release"):
        assert np.array_equal(source.picture("axial", 2), slices[2])


@pytest.mark.parametrize(("spacing", "plane"), [(1.25, "axial"), (1.3, "axial"), (1.35, "sagittal")])
def test_slices_were_taken_along_clearly_longer_voxels(spacing: float, plane: str) -> None:
    assert acquisition_plane(empty_grid((9, 9, 9), np.diag([spacing, 1.0, 1.0, 1.0]))) == plane
