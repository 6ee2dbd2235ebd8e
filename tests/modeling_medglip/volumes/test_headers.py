# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What headers of volume files say, leave out, and say wrongly; files that hold several volumes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from modeling_medglip.errors import UsageError
from modeling_medglip.outputs.nifti import copy_geometry, write_label_map
from modeling_medglip.outputs.slicer import write_slicer
from modeling_medglip.volumes.header import UNORIENTED, UNSPACED, VolumeError
from modeling_medglip.volumes.inputs import as_source
from modeling_medglip.volumes.reader import read_header, read_volume
from modeling_medglip.volumes.source import open_volume

from ..outputs.test_slicer import made_box, made_result


ARRAY = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
AFFINE = np.array([[-0.8, 0, 0, 40], [0, -1.1, 0, -12], [0, 0, 2.5, 300], [0, 0, 0, 1.0]])
FIELDS = ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
          "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")  # fmt: skip


def refused(path: Path, message: str, rule: str) -> None:
    for read in (read_volume, read_header):
        with pytest.raises(VolumeError, match=message) as error:
            read(path)
        assert error.value.rule == rule and str(error.value).startswith(f"{path.name}: ")


# NIfTI ---------------------------------------------------------------------------------------------------------------


def with_pixdim(path: Path, pixdim: tuple[float, ...], qform: int, sform: int) -> Path:
    nibabel.save(nibabel.Nifti1Image(ARRAY, AFFINE), path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<4f", content, 76, *pixdim)
    struct.pack_into("<hh", content, 252, qform, sform)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("pixdim", [(1, 0, 0, 0), (1, 1, 1, 0), (1, 1, -2, 1), (1, 1, float("nan"), 1)])
@pytest.mark.parametrize("qform", [0, 1])
def test_voxels_without_a_size_are_refused(
    pixdim: tuple[float, ...], qform: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused(
        with_pixdim(tmp_path / "a.nii", pixdim, qform, 0), r"states voxels of .* mm \(pixdim\): correct", "bad_affine"
    )
    assert capfd.readouterr() == ("", "")


def test_an_sform_gives_the_spacing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = with_pixdim(tmp_path / "a.nii", (1, 0, 0, 0), 0, 1)
    source = open_volume(path)
    assert source.grid.spacing == pytest.approx([0.8, 1.1, 2.5]) and capfd.readouterr() == ("", "")
    result = made_result(source.grid, made_box(source.grid, (1, 1, 1, 3, 3, 3)))
    written = write_label_map(result, source, ["liver"], tmp_path / "b.nii").read_bytes()
    assert written[76:108] == path.read_bytes()[76:108], "the spacing as it is stored, not as nibabel mends it"


@pytest.mark.parametrize(
    ("unit", "factor", "notes"),
    [
        ("meter", 1000.0, ("its header counts in meters: 1 of them is taken as 1000 mm",)),
        ("micron", 0.001, ("its header counts in micrometers: 1 of them is taken as 0.001 mm",)),
        ("mm", 1.0, ()),
        ("unknown", 1.0, ()),
    ],
)
def test_units_become_mm(unit: str, factor: float, notes: tuple[str, ...], tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ARRAY, np.diag([1 / factor] * 3 + [1]) @ AFFINE)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii.gz")
    expected = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    source = open_volume(tmp_path / "a.nii.gz")
    assert source.notes == notes and as_source(image).notes == notes
    for found in (source.grid.affine, read_volume(tmp_path / "a.nii.gz").affine, as_source(image).grid.affine):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert next(iter(source.read_slices("axial")))[1].shape == (5, 4)
    box = made_box(source.grid, (1, 1, 1, 3, 3, 3))
    path = write_label_map(made_result(source.grid, box), source, ["liver"], tmp_path / "b.nii.gz")
    for field in FIELDS:
        assert np.array_equal(nibabel.load(path).header[field], image.header[field]), field


def test_a_label_map_of_nifti_2_is_nifti_2(tmp_path: Path) -> None:
    affine = AFFINE * (1 + 1e-9)  # more digits than NIfTI-1 holds
    affine[3] = [0, 0, 0, 1]
    nibabel.save(nibabel.Nifti2Image(ARRAY, affine), tmp_path / "a.nii")
    source = open_volume(tmp_path / "a.nii")
    path = write_label_map(made_result(source.grid), source, ["liver"], tmp_path / "b.nii")
    found = nibabel.load(path)
    assert isinstance(found, nibabel.Nifti2Image) and np.array_equal(
        found.affine, nibabel.load(tmp_path / "a.nii").affine
    )
    assert np.array_equal(copy_geometry(source.nifti_header)["srow_x"], found.header["srow_x"])


def test_big_endian_files(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ARRAY, AFFINE, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "a.nii")
    source = open_volume(tmp_path / "a.nii")
    assert np.array_equal(source.volume().array, ARRAY)
    result = made_result(source.grid, made_box(source.grid, (1, 2, 3, 3, 4, 5)))
    found: Any = nibabel.load(write_label_map(result, source, ["liver"], tmp_path / "b.nii"))
    assert np.array_equal(found.affine, nibabel.load(tmp_path / "a.nii").affine)
    assert np.asarray(found.dataobj)[1:3, 2:4, 3:5].all() and np.asarray(found.dataobj).sum() == 8


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_one_volume_of_several(ending: str, number: int, tmp_path: Path) -> None:
    several = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 3)).astype(np.int16)
    image = nibabel.Nifti1Image(several, AFFINE)
    path = tmp_path / f"a{ending}"
    nibabel.save(image, path)
    expected = several[..., number - 1]
    assert np.array_equal(read_volume(path, number).array, expected)
    for source in (open_volume(path, number), as_source(path, number), as_source(image, number)):
        assert source.grid.array.shape == (4, 5, 6)
        slices = dict(source.read_slices("axial"))
        assert all(np.array_equal(slices[k], expected[:, :, k].T) for k in range(6))
    assert as_source(nibabel.load(path), number).volume().array.shape == (4, 5, 6)


def test_which_of_several_must_be_chosen(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.int16), AFFINE)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(VolumeError, match=r"choose a volume from 1 to 2 \(number=\)"):
        read_volume(tmp_path / "a.nii")
    with pytest.raises(VolumeError, match="has 2 volumes and no volume 3"):
        read_volume(tmp_path / "a.nii", 3)
    with pytest.raises(UsageError, match="has 2 volumes: choose one"):
        as_source(image)
    with pytest.raises(UsageError, match="no volume 3"):
        as_source(image, 3)


@pytest.mark.parametrize("kind", ["nifti", "nrrd"])
def test_stated_axes_move_mm_and_leave_files_over_their_input(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.nii" if kind == "nifti" else "a.nrrd")
    if kind == "nifti":
        nibabel.save(nibabel.Nifti1Image(ARRAY, AFFINE), path)
    else:
        SimpleITK.WriteImage(itk_image(), str(path))
    plain, source = open_volume(path), open_volume(path)
    source.state_axes("RAS")
    np.testing.assert_allclose(source.grid.affine[:3, 3], plain.grid.affine[:3, 3])
    assert not np.allclose(source.grid.affine, plain.grid.affine)
    ijk = (1, 2, 3, 3, 4, 5)
    stated, own = (
        made_result(source.grid, made_box(source.grid, ijk)),
        made_result(plain.grid, made_box(plain.grid, ijk)),
    )
    for ending, write in (("nii", label_map), ("mrk.json", markups)):
        found, expected = (tmp_path / f"{name}.{ending}" for name in ("found", "expected"))
        write(stated, source, found)
        write(own, plain, expected)
        assert found.read_bytes() == expected.read_bytes(), ending
    found_affine = np.asarray(nibabel.load(tmp_path / "found.nii").affine)
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ found_affine, plain.grid.affine, atol=1e-5)


def label_map(result: Any, source: Any, path: Path) -> None:
    write_label_map(result, source, ["liver"], path)


def markups(result: Any, source: Any, path: Path) -> None:
    write_slicer(result, path, source)


# NRRD and MetaImage --------------------------------------------------------------------------------------------------


def itk_image(array: np.ndarray = ARRAY) -> Any:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing([0.8, 1.1, 2.5])
    image.SetOrigin([40.0, -12.0, 300.0])
    return image


def nrrd(path: Path, lines: str, array: np.ndarray = ARRAY) -> Path:
    sizes = " ".join(map(str, array.shape))
    head = f"NRRD0004\ntype: short\ndimension: {array.ndim}\nsizes: {sizes}\nencoding: raw\nendian: little\n{lines}"
    path.write_bytes(head.encode() + b"\n" + array.tobytes("F"))
    return path


def meta(path: Path, lines: str) -> Path:
    head = f"ObjectType = Image\nNDims = 3\nDimSize = 4 5 6\n{lines}ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    path.write_bytes(head.encode() + ARRAY.tobytes("F"))
    return path


SPACE = "space: left-posterior-superior\nspace origin: (0,0,0)\nspace directions: "


@pytest.mark.parametrize(
    ("name", "lines", "notes"),
    [
        ("a.nrrd", SPACE + "(2,0,0) (0,3,0) (0,0,4)\n", ()),
        ("a.nrrd", "spacings: 2 3 4\n", (UNORIENTED,)),
        ("a.nrrd", "content: a=b\n", (UNORIENTED, UNSPACED)),
        ("a.mha", "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementSpacing = 2 3 4\n", ()),
        ("a.mha", "ElementSpacing = 2 3 4\n", (UNORIENTED,)),
        ("a.mha", "", (UNORIENTED, UNSPACED)),
    ],
)
def test_what_a_header_leaves_out_is_reported(name: str, lines: str, notes: tuple[str, ...], tmp_path: Path) -> None:
    path = nrrd(tmp_path / name, lines) if name.endswith("nrrd") else meta(tmp_path / name, lines)
    source = open_volume(path)
    assert source.notes == notes and np.array_equal(source.volume().array, ARRAY)
    assert source.grid.spacing == pytest.approx([1, 1, 1] if UNSPACED in notes else [2, 3, 4])


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.nrrd", "spacings: 0 3 4\n"),
        ("a.nrrd", SPACE + "(0,0,0) (0,3,0) (0,0,4)\n"),
        ("a.mha", "ElementSpacing = 2 0 4\n"),
    ],
)
def test_a_spacing_of_zero_is_not_damage(name: str, lines: str, tmp_path: Path) -> None:
    path = nrrd(tmp_path / name, lines) if name.endswith("nrrd") else meta(tmp_path / name, lines)
    refused(path, "states voxels of 0 mm: correct its header", "bad_affine")


def test_a_file_that_is_cut_short_is_reported_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = meta(tmp_path / "a.mha", "ElementSpacing = 2 3 4\n")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VolumeError, match="a.mha: is damaged or cut short"):
        read_volume(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [1, 2])
def test_one_volume_of_a_nrrd_of_several(number: int, tmp_path: Path) -> None:
    several = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 2)).astype(np.int16)
    path = nrrd(tmp_path / "a.nrrd", "", several)
    assert np.array_equal(read_volume(path, number).array, several[..., number - 1])
    assert read_header(path, number)[0] == (4, 5, 6)
    refused(path, r"choose a volume from 1 to 2 \(number=\)", "not_3d")
    with pytest.raises(VolumeError, match="has 2 volumes and no volume 3"):
        read_volume(path, 3)
