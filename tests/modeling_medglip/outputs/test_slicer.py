# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes for other programs: 3D Slicer's markups and NIfTI label maps lie where the boxes lie."""

from __future__ import annotations

import dataclasses
import json
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_medglip.errors import MedGlipError
from modeling_medglip.outputs.nifti import write_label_map
from modeling_medglip.outputs.slicer import oriented_box, write_slicer
from modeling_medglip.outputs.volume_results import VolumeBox, VolumeInfo, VolumeResult
from modeling_medglip.volumes.geometry import Volume, box_voxels, corners_lps, empty_grid
from modeling_medglip.volumes.source import VolumeSource, open_volume


def made_box(grid: Volume, ijk: tuple[float, ...], label: str = "liver", score: float = 0.8) -> VolumeBox:
    corners = tuple((float(x), float(y), float(z)) for x, y, z in corners_lps(grid, ijk))
    i1, j1, k1, i2, j2, k2 = ijk
    return VolumeBox(label, score, (i1, j1, k1, i2, j2, k2), corners, "axial", 3)


def made_result(grid: Volume, *boxes: VolumeBox) -> VolumeResult:
    i, j, k = grid.array.shape
    x, y, z = (float(value) for value in grid.spacing)
    return VolumeResult("m", VolumeInfo("a.nii", (i, j, k), (x, y, z), "ct"), "liver. spleen", boxes)


def rigid(seed: int) -> np.ndarray:
    """A turned, possibly flipped affine with voxels that are not cubes."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = axes * rng.uniform(0.5, 4.0, 3)
    affine[:3, 3] = rng.normal(size=3) * 100
    return affine


@given(seed=st.integers(0, 10**6))
def test_a_region_of_slicer_has_the_box_s_corners(seed: int) -> None:
    grid = empty_grid((20, 22, 24), rigid(seed))
    box = made_box(grid, (2, 3, 4, 9, 12, 20))
    center, axes, size = oriented_box(box)
    assert np.allclose(axes.T @ axes, np.eye(3)) and np.linalg.det(axes) == pytest.approx(1.0)
    corners = {
        tuple(np.round(center + axes @ (np.array(signs) * size / 2), 6)) for signs in product((-1, 1), repeat=3)
    }
    expected = {tuple(np.round(corner, 6)) for corner in np.array(box.corners_lps_mm)}
    assert all(min(np.abs(np.subtract(a, b)).max() for b in expected) < 1e-5 for a in corners)


def test_a_sheared_box_becomes_the_one_round_it() -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.6  # a tilted gantry
    box = made_box(empty_grid((20, 20, 20), affine), (2, 2, 2, 8, 8, 8))
    center, axes, size = oriented_box(box)
    corners = np.array(box.corners_lps_mm)
    np.testing.assert_allclose(center - size / 2, corners.min(axis=0))
    np.testing.assert_allclose(center + size / 2, corners.max(axis=0))
    assert np.array_equal(axes, np.eye(3))


def test_the_markups_are_what_slicer_s_schema_says(tmp_path: Path) -> None:
    grid = empty_grid((20, 22, 24), rigid(1))
    result = made_result(grid, made_box(grid, (2, 3, 4, 9, 12, 20)), made_box(grid, (1, 1, 1, 3, 3, 3), "spleen", 0.5))
    content = json.loads(write_slicer(result, tmp_path / "a.mrk.json").read_text(encoding="utf-8"))
    assert set(content) == {"@schema", "markups"} and content["@schema"].endswith("markups-schema-v1.0.3.json#")
    lengths = {"center": 3, "size": 3, "orientation": 9}
    for markup, label in zip(content["markups"], ["liver", "spleen"], strict=True):
        assert (markup["type"], markup["roiType"]) == ("ROI", "Box")
        assert (markup["coordinateSystem"], markup["coordinateUnits"]) == ("LPS", "mm")
        for name, length in lengths.items():
            assert len(markup[name]) == length and all(isinstance(value, (int, float)) for value in markup[name])
        assert min(markup["size"]) > 0
        (point,) = markup["controlPoints"]
        assert point["label"] == label and point["positionStatus"] == "defined"
        assert point["position"] == markup["center"]
    assert content["markups"][0]["name"] == "liver 0.80"


def test_the_markups_fit_a_schema(tmp_path: Path) -> None:
    """Slicer's rules as put down in `tests/fixtures`; that they can say no is tried as well."""
    import jsonschema

    schema = json.loads((Path(__file__).parents[2] / "fixtures" / "slicer_markups.schema.json").read_text("utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    grid = empty_grid((20, 22, 24), rigid(1))
    result = made_result(grid, made_box(grid, (2, 3, 4, 9, 12, 20)), made_box(grid, (1, 1, 1, 3, 3, 3), "spleen", 0.5))
    content = json.loads(write_slicer(result, tmp_path / "a.mrk.json").read_text(encoding="utf-8"))
    validator.validate(content)
    validator.validate(
        json.loads(write_slicer(made_result(grid), tmp_path / "b.mrk.json").read_text(encoding="utf-8"))
    )
    for field, wrong in (("orientation", [1.0] * 8), ("roiType", "box"), ("size", None), ("coordinateSystem", "lps")):
        broken = json.loads(json.dumps(content))
        broken["markups"][1][field] = wrong
        assert not validator.is_valid(broken), field


def test_nothing_found_is_an_empty_file(tmp_path: Path) -> None:
    grid = empty_grid((4, 4, 4), np.eye(4))
    assert json.loads(write_slicer(made_result(grid), tmp_path / "a.mrk.json").read_text())["markups"] == []
    path = write_label_map(made_result(grid), VolumeSource(grid), ["liver"], tmp_path / "a.nii.gz")
    assert not np.asarray(nibabel.load(path).dataobj).any()


def test_voxels_whose_centers_lie_in_the_box() -> None:
    box = made_box(empty_grid((9, 9, 9), np.eye(4)), (1.4, 1.6, 2.0, 4.4, 4.6, 5.0))
    assert box_voxels(box.box_ijk, (9, 9, 9)) == (slice(1, 4), slice(2, 5), slice(2, 5))
    assert box_voxels(box.box_ijk, (3, 9, 4)) == (slice(1, 3), slice(2, 5), slice(2, 4))


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_label_map_has_the_file_s_own_geometry(ending: str, tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1, 1, 1]) @ rigid(4)
    image = nibabel.Nifti1Image(np.zeros((10, 11, 12), np.int16), affine)
    image.header.set_qform(np.diag([1.5, 1.5, 3, 1]), code=1)  # another one than the sform
    image.header["descrip"] = b"Doe^Jane 1970"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"secret"))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    source = open_volume(tmp_path / "scan.nii.gz")
    result = made_result(
        source.grid,
        made_box(source.grid, (1, 2, 3, 6, 7, 8), "spleen", 0.9),
        made_box(source.grid, (4, 4, 4, 9, 9, 9), "liver", 0.5),
    )
    path = write_label_map(result, source, ["liver", "spleen"], tmp_path / f"out.{ending}")
    found = nibabel.load(path)
    for field in ("pixdim", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_z"):
        assert np.array_equal(found.header[field], nibabel.load(tmp_path / "scan.nii.gz").header[field]), field
    array = np.asarray(found.dataobj)
    assert array.dtype == np.uint8 and set(np.unique(array)) == {0, 1, 2}
    assert (array[1:6, 2:7, 3:8] == 2).all() and (array[6:9, 6:9, 8:9] == 1).all(), "the better box is on top"
    (extension,) = found.header.extensions
    assert b"Doe" not in path.read_bytes() and b"secret" not in extension.content and b"spleen" in extension.content
    assert path.read_bytes() == write_label_map(result, source, ["liver", "spleen"], path).read_bytes()


def test_a_label_map_of_another_format_than_nifti(tmp_path: Path) -> None:
    grid = empty_grid((5, 6, 7), rigid(2))
    path = write_label_map(
        made_result(grid, made_box(grid, (1, 1, 1, 3, 3, 3))), VolumeSource(grid), ["liver"], tmp_path / "a.nii.gz"
    )
    found = nibabel.load(path)
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ found.affine, grid.affine, atol=1e-4)
    assert found.header.get_xyzt_units()[0] == "mm"


def test_more_labels_than_numbers(tmp_path: Path) -> None:
    grid = empty_grid((3, 3, 3), np.eye(4))
    with pytest.raises(MedGlipError, match="more than a label map holds"):
        write_label_map(made_result(grid), VolumeSource(grid), ["a"] * 2**16, tmp_path / "a.nii")
    many = [f"label {number}" for number in range(300)]
    box = dataclasses.replace(made_box(grid, (0, 0, 0, 2, 2, 2)), label="label 299")
    path = write_label_map(made_result(grid, box), VolumeSource(grid), many, tmp_path / "a.nii")
    assert int(np.asarray(nibabel.load(path).dataobj).max()) == 300
