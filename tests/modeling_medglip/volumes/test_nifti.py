# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Headers of NIfTI files: what writers get wrong is read as ITK reads it, or refused; nothing else comes out."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from modeling_medglip.volumes import voxels
from modeling_medglip.volumes.header import UNORIENTED, VolumeError
from modeling_medglip.volumes.inputs import as_source
from modeling_medglip.volumes.nifti import OFFSET_ASSUMED, QFORM_USED
from modeling_medglip.volumes.reader import read_volume
from modeling_medglip.volumes.source import acquisition_plane, open_volume


ARRAY = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
TURNED = np.array([[0, -1.1, 0, -20], [0.8, 0, 0, -18], [0, 0, 2.5, -10], [0, 0, 0, 1]])
FIELDS = {
    "dim": (40, "<8h"), "datatype": (70, "<h"), "bitpix": (72, "<h"), "qfac": (76, "<f"), "pixdim": (80, "<3f"),
    "vox_offset": (108, "<f"), "slope": (112, "<f"), "inter": (116, "<f"), "units": (123, "<B"),
    "qform": (252, "<h"), "sform": (254, "<h"), "quaternion": (256, "<3f"), "qoffset": (268, "<3f"),
    "srow": (280, "<12f"), "magic": (344, "4s"),
}  # fmt: skip


def nifti(path: Path, array: np.ndarray = ARRAY, form: str = "qform", **fields: Any) -> Path:
    """A file with one form, some fields of which are then overwritten."""
    image = nibabel.Nifti1Image(array, TURNED)
    image.set_sform(TURNED if form == "sform" else None, 1 if form == "sform" else 0)
    image.set_qform(TURNED, 1 if form == "qform" else 0)
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    for name, value in fields.items():
        offset, kind = FIELDS[name]
        struct.pack_into(kind, content, offset, *(value if isinstance(value, (tuple, list)) else (value,)))
    path.write_bytes(content)
    return path


def itk_affine(path: Path) -> np.ndarray:
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


@pytest.mark.parametrize("qfac", [0.0, 1.0, -1.0, 0.5, -3.0])
def test_a_flipped_third_axis_follows_from_the_sign_of_qfac(qfac: float, tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", qfac=qfac)
    source = open_volume(path)
    np.testing.assert_allclose(source.grid.affine, itk_affine(path), atol=1e-5)
    assert source.notes == ()


@pytest.mark.parametrize("srow", [[0.0] * 12, [float("nan")] * 12, [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]])
def test_the_qform_steps_in_for_an_sform_that_cannot_be_used(srow: list[float], tmp_path: Path) -> None:
    source = open_volume(nifti(tmp_path / "a.nii", sform=1, srow=srow))
    np.testing.assert_allclose(source.grid.affine, np.diag([-1.0, -1, 1, 1]) @ TURNED, atol=1e-5)
    assert source.notes == (QFORM_USED,)


def test_without_a_form_the_middle_of_the_volume_is_the_origin(tmp_path: Path) -> None:
    """As in nibabel: the first axis runs to the left, the others to the front and the head."""
    path = nifti(tmp_path / "a.nii", form="none")
    expected = np.diag([0.8, -1.1, 2.5, 1.0])
    expected[:3, 3] = (-1.2, 2.2, -6.25)
    np.testing.assert_allclose(open_volume(path).grid.affine, expected, atol=1e-5)
    np.testing.assert_allclose(np.diag([-1.0, -1, 1, 1]) @ nibabel.load(path).affine, expected, atol=1e-5)


def test_the_qform_steps_in_for_an_image_of_nibabel(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", sform=1, srow=[0.0] * 12)
    source = as_source(nibabel.load(path))
    np.testing.assert_allclose(source.grid.affine, open_volume(path).grid.affine, atol=1e-5)
    assert source.notes == (QFORM_USED,)


def test_one_slice_of_nibabel_is_a_volume(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(ARRAY[:, :, 0], TURNED), tmp_path / "a.nii")
    found, expected = as_source(nibabel.load(tmp_path / "a.nii")), open_volume(tmp_path / "a.nii")
    assert found.grid.array.shape == expected.grid.array.shape == (4, 5, 1)
    np.testing.assert_allclose(found.grid.affine, expected.grid.affine, atol=1e-5)


@pytest.mark.parametrize(("number", "index"), [(1, (0, 0)), (2, (1, 0)), (4, (0, 1)), (6, (2, 1))])
def test_volumes_of_a_5d_image_are_counted_along_the_fourth_axis_first(number: int, index: tuple[int, int]) -> None:
    array = np.arange(2 * 3 * 4 * 3 * 2, dtype=np.int16).reshape(2, 3, 4, 3, 2)
    source = as_source(nibabel.Nifti1Image(array, TURNED), number)
    assert np.array_equal(source.volume().array, array[..., *index])


def test_a_sound_sform_stands_beside_a_broken_qform(tmp_path: Path) -> None:
    fields = {"qform": 1, "quaternion": [9.0, 9, 9], "qfac": 0.0, "pixdim": [0.0, -1, float("nan")]}
    source = open_volume(nifti(tmp_path / "a.nii", form="sform", **fields))
    np.testing.assert_allclose(source.grid.affine, np.diag([-1.0, -1, 1, 1]) @ TURNED, atol=1e-5)


def test_a_rotation_that_rounding_made_too_long(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", quaternion=[0.0, 1.0002, 0.0])
    np.testing.assert_allclose(open_volume(path).grid.affine, itk_affine(path), atol=1e-3)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_voxels_do_not_begin_in_the_header(ending: str, tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", vox_offset=0.0)
    if ending == ".nii.gz":
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    source = open_volume(path)
    assert np.array_equal(source.volume().array, ARRAY) and source.notes == (OFFSET_ASSUMED,)
    assert np.array_equal(dict(source.read_slices("axial"))[2].shape, (4, 5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vox_offset": 16.0}, "begin at byte 16, not 352"),
        ({"vox_offset": -352.0}, "begin at byte -352"),
        ({"vox_offset": 352.5}, "begin at byte"),
        ({"vox_offset": float("nan")}, "begin at byte nan"),
        ({"vox_offset": float("inf")}, "begin at byte inf"),
        ({"vox_offset": 1e9}, "begin at byte 1e"),
        ({"vox_offset": 400.0}, "is damaged or cut short"),
        ({"dim": [3, -4, 5, 6, 1, 1, 1, 1]}, "has no voxels"),
        ({"dim": [3, 0, 5, 6, 1, 1, 1, 1]}, "has no voxels"),
        ({"dim": [0, 4, 5, 6, 1, 1, 1, 1]}, "states 0 axes"),
        ({"dim": [8, 4, 5, 6, 1, 1, 1, 1]}, "states 8 axes"),
        ({"dim": [-3, 4, 5, 6, 1, 1, 1, 1]}, "states -3 axes"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "more than 4294967296 bytes"),
        ({"dim": [3, 400, 500, 600, 1, 1, 1, 1]}, "is damaged or cut short"),
        ({"dim": [5, 2, 2, 2, 3, 5, 1, 1]}, "has 5 axes"),
        ({"datatype": 9999}, r"unknown type \(9999\)"),
        ({"datatype": 1}, "unknown type"),
        ({"datatype": 1536, "bitpix": 128}, "voxels: save them as float64|unknown type"),
        ({"datatype": 128, "bitpix": 24}, "not numbers"),
        ({"datatype": 32, "bitpix": 64}, "not numbers"),
        ({"bitpix": 8}, "states 8 bits for int16"),
        ({"quaternion": [1.0, 1.0, 0.0]}, "an invalid rotation"),
        ({"quaternion": [float("nan"), 0, 0]}, "an invalid rotation"),
        ({"qoffset": [float("inf"), 0, 0]}, "finite"),
        ({"qoffset": [1e30, 0, 0]}, "an impossible size or position"),
        ({"pixdim": [1e-30, 1, 1]}, "an impossible size or position"),
        ({"pixdim": [1e30, 1, 1]}, "an impossible size or position"),
        ({"inter": float("nan"), "slope": 2.0}, "not finite"),
        ({"slope": 3e38}, "enormous or not finite"),
        ({"magic": b"ni1\0"}, "header of a pair of files"),
        ({"magic": b"\0\0\0\0"}, "its magic is missing"),
    ],
)
def test_headers_that_are_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", **fields)
    with pytest.raises(VolumeError, match=message):
        open_volume(path)
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(VolumeError, match="b.nii.gz: "):
        read_volume(packed)


@pytest.mark.parametrize("slope", [0.0, float("nan"), float("inf")])
def test_a_slope_that_is_none(slope: float, tmp_path: Path) -> None:
    volume = read_volume(nifti(tmp_path / "a.nii", slope=slope, inter=7.0))
    assert (volume.slope, volume.intercept) == (1.0, 0.0)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", ">u4", "i8", "u8", "f4", ">f8"])
def test_types_of_voxels(dtype: str, tmp_path: Path) -> None:
    array = ARRAY.astype(dtype)
    header = nibabel.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(array.dtype)
    nibabel.save(nibabel.Nifti1Image(array, TURNED, header), tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii").array
    assert np.array_equal(found, array) and found.dtype.isnative and found.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("axes", [4, 5, 6, 7])
def test_more_axes_of_one(axes: int, tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", dim=[axes, 4, 5, 6, 1, 1, 1, 1])
    assert np.array_equal(open_volume(path).volume().array, ARRAY)


@pytest.mark.parametrize(("axes", "plane"), [((0, 1, 2), "axial"), ((0, 2, 1), "coronal"), ((1, 2, 0), "sagittal")])
def test_a_single_slice_is_looked_at_in_its_own_plane(axes: tuple[int, ...], plane: str, tmp_path: Path) -> None:
    affine = np.eye(4)[:, [*axes, 3]]  # the third array axis, of one voxel, runs along another axis of the patient
    for array in (ARRAY[:, :, 0], ARRAY[:, :, :1]):
        image = nibabel.Nifti1Image(array, affine)
        nibabel.save(image, tmp_path / "a.nii")
        source = open_volume(tmp_path / "a.nii")
        assert source.grid.array.shape == (4, 5, 1) and acquisition_plane(source.grid) == plane
        assert len(list(source.read_slices(plane))) == 1
        assert np.array_equal(source.volume().array[:, :, 0], ARRAY[:, :, 0])


@pytest.mark.parametrize("shape", [(1, 64, 64), (64, 1, 64), (64, 64, 1)])
def test_the_axis_of_one_voxel_is_the_one_that_was_cut(shape: tuple[int, ...], tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    expected = ("sagittal", "coronal", "axial")[shape.index(1)]
    assert acquisition_plane(open_volume(tmp_path / "a.nii.gz").grid) == expected


def test_an_unknown_unit_is_noted(tmp_path: Path) -> None:
    assert "unknown unit (5)" in open_volume(nifti(tmp_path / "a.nii", units=5)).notes[0]


def test_voxels_of_half_a_micrometer(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ARRAY, np.array([[-0.5, 0, 0, 1], [0, -0.5, 0, 1], [0, 0, 0.5, 1], [0, 0, 0, 1]]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    assert open_volume(tmp_path / "a.nii").grid.spacing == pytest.approx([5e-4] * 3)


def test_images_of_nibabel_that_say_nothing_of_orientation(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(ARRAY, None), tmp_path / "a.img")
    assert as_source(nibabel.load(tmp_path / "a.img")).notes == (UNORIENTED,)
    for form, expected in (("none", (UNORIENTED,)), ("sform", ()), ("qform", ())):
        path = nifti(tmp_path / f"{form}.nii", form=form)
        assert as_source(nibabel.load(path)).notes == open_volume(path).notes == expected


@pytest.mark.parametrize(
    "extension", [struct.pack("<ii", 0, 6), struct.pack("<ii", -16, 6), struct.pack("<ii", 2**30, 6)]
)
@pytest.mark.parametrize("count", [1, 5000])
def test_extensions_are_not_read(extension: bytes, count: int, tmp_path: Path) -> None:
    content = nifti(tmp_path / "a.nii", vox_offset=352.0 + 16 * count).read_bytes()
    extensions = b"\1\0\0\0" + (extension + b"x" * 8) * count
    (tmp_path / "a.nii").write_bytes(content[:348] + extensions + content[352:])
    assert np.array_equal(read_volume(tmp_path / "a.nii").array, ARRAY)


class TestGzip:
    def packed(self, path: Path, *parts: bytes) -> Path:
        path.write_bytes(b"".join(gzip.compress(part) for part in parts))
        return path

    @pytest.mark.parametrize("library", ["isal", "zlib"])
    def test_members(self, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if library == "zlib":
            monkeypatch.setitem(sys.modules, "isal", None)
        content = nifti(tmp_path / "a.nii").read_bytes()
        parts = [content[start : start + 7] for start in range(0, len(content), 7)]
        path = self.packed(tmp_path / "b.nii.gz", *parts, b"", b"behind it")
        assert np.array_equal(read_volume(path).array, ARRAY)

    def test_nothing_is_inflated_behind_the_voxels(self, tmp_path: Path) -> None:
        content = nifti(tmp_path / "a.nii").read_bytes()
        path = self.packed(tmp_path / "b.nii.gz", content)
        path.write_bytes(path.read_bytes() + b"no gzip at all")
        assert np.array_equal(read_volume(path).array, ARRAY)

    def test_too_many_members(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(voxels, "MAX_MEMBERS", 10)
        with pytest.raises(VolumeError, match="more than 10 gzip members"):
            read_volume(self.packed(tmp_path / "b.nii.gz", *[b""] * 20))

    def test_memory_is_not_taken_for_what_cannot_be_there(self, tmp_path: Path) -> None:
        content = nifti(tmp_path / "a.nii", dim=[3, 1000, 1000, 1000, 1, 1, 1, 1]).read_bytes()
        with pytest.raises(VolumeError, match="cannot hold its 2000000352 of voxels"):
            read_volume(self.packed(tmp_path / "b.nii.gz", content))

    @pytest.mark.parametrize("library", ["isal", "zlib"])
    def test_voxels_that_differ_from_their_checksum(
        self, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if library == "zlib":
            monkeypatch.setitem(sys.modules, "isal", None)
        content = bytearray(gzip.compress(nifti(tmp_path / "a.nii").read_bytes(), compresslevel=0))
        content[-20] ^= 1  # one bit of a voxel, which is stored as it is
        path = tmp_path / "b.nii.gz"
        path.write_bytes(content)
        with pytest.raises(VolumeError, match="b.nii.gz: is damaged"):
            read_volume(path)
        with pytest.raises(VolumeError, match="b.nii.gz: is damaged"):
            list(open_volume(path).read_slices("axial"))

    def test_a_checksum_that_is_cut_off(self, tmp_path: Path) -> None:
        path = self.packed(tmp_path / "b.nii.gz", nifti(tmp_path / "a.nii").read_bytes())
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(VolumeError, match="cut short"):
            read_volume(path)

    @pytest.mark.parametrize("position", [12, 30, 100, 250])
    def test_damage(self, position: int, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16)
        path = self.packed(tmp_path / "b.nii.gz", nifti(tmp_path / "a.nii", noise).read_bytes())
        content = bytearray(path.read_bytes())
        content[position : position + 20] = b"\xff" * 20
        path.write_bytes(content)
        with pytest.raises(VolumeError, match="b.nii.gz: "):
            read_volume(path)
