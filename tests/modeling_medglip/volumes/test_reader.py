# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Volume files, good and bad."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_medglip.volumes import header as volume_header
from modeling_medglip.volumes.geometry import Volume
from modeling_medglip.volumes.header import VolumeError
from modeling_medglip.volumes.reader import read_volume, stack


nibabel = pytest.importorskip("nibabel")
AFFINE = np.array([[-0.8, 0, 0, 40], [0, 1.1, 0, -12], [0, 0, 2.5, 300], [0, 0, 0, 1.0]])
ARRAY = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def save_nifti(path: Path, array: np.ndarray = ARRAY, affine: np.ndarray = AFFINE, kind: Any = None) -> Path:
    nibabel.save((kind or nibabel.Nifti1Image)(array, affine), path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_nifti(tmp_path: Path, name: str) -> None:
    volume = read_volume(save_nifti(tmp_path / name))
    assert np.array_equal(volume.array, ARRAY) and volume.array.dtype == np.int16
    assert np.allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ AFFINE)
    assert volume.spacing == pytest.approx([0.8, 1.1, 2.5])


def test_nifti_2_and_an_empty_fourth_axis(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", ARRAY[..., None], kind=nibabel.Nifti2Image)
    assert np.array_equal(read_volume(path).array, ARRAY)


def test_scaled_numbers_are_kept_as_stored(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ARRAY, AFFINE)
    image.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    stored = volume.array[1]
    assert volume.array.dtype == np.int16 and volume.values(stored).dtype == np.float32
    assert np.allclose(volume.values(stored), np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj)[1], atol=1e-3)


def test_without_isal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    assert np.array_equal(read_volume(save_nifti(tmp_path / "a.nii.gz")).array, ARRAY)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd", "a.nhdr"])
def test_itk_formats(tmp_path: Path, name: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.ascontiguousarray(ARRAY.transpose(2, 1, 0)))
    image.SetSpacing([0.8, 1.1, 2.5])
    image.SetOrigin([40.0, -12.0, 300.0])
    image.SetDirection([0, -1, 0, 1, 0, 0, 0, 0, 1])
    sitk.WriteImage(image, str(tmp_path / name))
    volume = read_volume(tmp_path / name)
    assert np.array_equal(volume.array, ARRAY)
    assert np.allclose((volume.affine @ [2, 3, 4, 1])[:3], image.TransformIndexToPhysicalPoint((2, 3, 4)))


class TestBadFiles:
    def refused(self, path: Path, rule: str) -> str:
        with pytest.raises(VolumeError) as caught:
            read_volume(path)
        assert caught.value.rule == rule and str(caught.value).startswith(f"{path.name}: ")
        assert "\n" not in str(caught.value) and str(path.parent) not in str(caught.value)
        return str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        assert "No such file" in self.refused(tmp_path / "a.nii.gz", "unreadable")

    def test_another_kind(self, tmp_path: Path) -> None:
        assert "unsupported volume format" in self.refused(tmp_path / "a.png", "unreadable")

    @pytest.mark.parametrize("content", [b"", b"no volume at all" * 40])
    def test_wrong_magic(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.nii").write_bytes(content)
        self.refused(tmp_path / "a.nii", "unreadable")
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content))
        self.refused(tmp_path / "b.nii.gz", "unreadable")
        (tmp_path / "c.nii.gz").write_bytes(content)
        self.refused(tmp_path / "c.nii.gz", "unreadable")

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
    def test_cut_short(self, tmp_path: Path, share: float) -> None:
        noise = np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16)
        path = save_nifti(tmp_path / "a.nii.gz", noise)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        self.refused(path, "unreadable")

    def test_four_axes(self, tmp_path: Path) -> None:
        self.refused(save_nifti(tmp_path / "a.nii", np.zeros((3, 3, 3, 2), np.int16)), "not_3d")
        self.refused(save_nifti(tmp_path / "b.nii", np.zeros(3, np.int16)), "not_3d")

    def test_color(self, tmp_path: Path) -> None:
        color = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        self.refused(save_nifti(tmp_path / "a.nii", color), "colour_volume")
        self.refused(save_nifti(tmp_path / "b.nii", np.zeros((3, 3, 3), np.complex64)), "colour_volume")

    @pytest.mark.parametrize("affine", [np.diag([1.0, 0, 1, 1]), np.diag([np.nan, 1, 1, 1])])
    def test_affines(self, tmp_path: Path, affine: np.ndarray) -> None:
        image = nibabel.Nifti1Image(ARRAY, np.eye(4))
        image.header["qform_code"] = 0
        for row, name in zip(affine, ("srow_x", "srow_y", "srow_z"), strict=False):
            image.header[name] = row
        image._affine = None
        image.header["sform_code"] = 1
        path = tmp_path / "a.nii"
        with path.open("wb") as stream:
            image.header.write_to(stream)
            stream.write(b"\0" * 4 + ARRAY.tobytes(order="F"))
        self.refused(path, "bad_affine")

    def test_a_bomb_is_refused_from_the_header(self, tmp_path: Path) -> None:
        image = nibabel.Nifti1Image(ARRAY, AFFINE)
        image.header["dim"] = [3, 30000, 30000, 30000, 1, 1, 1, 1]
        path = tmp_path / "a.nii.gz"
        with gzip.open(path, "wb") as stream:
            image.header.write_to(stream)
            stream.write(b"\0" * 1000)
        assert "more than 4294967296 bytes" in self.refused(path, "too_large")

    @pytest.mark.parametrize("target", ["../secret.raw", "/etc/passwd", "LIST", "link.raw"])
    def test_voxels_elsewhere(self, tmp_path: Path, target: str) -> None:
        pytest.importorskip("SimpleITK")
        folder = tmp_path / "in"
        folder.mkdir()
        (tmp_path / "secret.raw").write_bytes(b"\1" * 27)
        (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
        header = "ObjectType = Image\nNDims = 3\nDimSize = 3 3 3\nElementType = MET_UCHAR\nElementDataFile = {}\n"
        (folder / "a.mhd").write_text(header.format(target), encoding="utf-8")
        assert "outside its folder" in self.refused(folder / "a.mhd", "leaves_folder")
        nrrd = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 3 3 3\nencoding: raw\ndata file: {}\n"
        (folder / "b.nhdr").write_text(nrrd.format(target), encoding="utf-8")
        self.refused(folder / "b.nhdr", "leaves_folder")

    def test_a_missing_package_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = save_nifti(tmp_path / "a.nii")
        monkeypatch.setitem(sys.modules, "nibabel", None)
        assert "needs nibabel: pip install" in self.refused(path, "unreadable")


def test_memory_is_bounded_by_the_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(volume_header, "MAX_BYTES", ARRAY.nbytes - 1)
    with pytest.raises(VolumeError, match="more than"):
        read_volume(save_nifti(tmp_path / "a.nii"))


class _Slices:
    """A reader of slices in memory."""

    sequential = False
    affine = np.eye(4)

    def __init__(self, *slices: Volume) -> None:
        self._slices, self.shape = slices, (2, 3, len(slices))

    def read(self, first: int = 0) -> Iterator[Volume]:
        yield from self._slices[first:]


def one_slice(values: int, dtype: str, slope: float = 1.0, intercept: float = 0.0) -> Volume:
    return Volume(np.full((2, 3, 1), values, dtype), np.eye(4), slope, intercept)


def test_slices_of_one_rescaling_are_stacked_as_stored() -> None:
    volume = stack(_Slices(one_slice(1, "int16", 2, -3), one_slice(5, "int16", 2, -3)))
    assert volume.array.dtype == np.int16 and volume.array[0, 0].tolist() == [1, 5]
    assert (volume.slope, volume.intercept) == (2, -3) and volume.array.flags.f_contiguous


@pytest.mark.parametrize("dtype", ["int16", "int32"])
@pytest.mark.parametrize(
    "rescalings", [((2, -3), (2, -3), (4, 1)), ((1, 0), (4, 1), (1, 0)), ((4, 1), (1, 0), (2, 2))]
)
def test_slices_of_several_rescalings_are_stacked_as_values(
    rescalings: tuple[tuple[float, float], ...], dtype: str
) -> None:
    volume = stack(_Slices(*(one_slice(10 * n, dtype, *line) for n, line in enumerate(rescalings))))
    assert volume.array.dtype == np.float32 and (volume.slope, volume.intercept) == (1, 0)
    assert volume.array[1, 2].tolist() == [10 * n * slope + more for n, (slope, more) in enumerate(rescalings)]


def test_signed_and_unsigned_slices_keep_their_numbers() -> None:
    volume = stack(_Slices(one_slice(-7, "int16"), one_slice(65000, "uint16"), one_slice(3, "uint8")))
    assert volume.array.dtype == np.int32 and volume.array[0, 0].tolist() == [-7, 65000, 3]
