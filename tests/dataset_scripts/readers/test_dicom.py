# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""DICOM series with segmentations, structure sets and label maps, from files to boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from dataset_scripts.build import build
from dataset_scripts.recipe import Recipe
from tests.modeling_medglip.dicom_files import write_segmentation, write_series, write_structures

from ..raw_data import CANARY
from ..test_build import coco_files, tree
from .reading import save_volume


FILES = {"slices": "*/ct/*.dcm", "seg": "{folder}/../seg.dcm"}
LABELS = {"Liver": "liver", "Left kidney": "kidney_left", "GTV": "liver_tumor"}
# Of the liver in slices 1 to 3 and the kidney in 2 and 3: x, y, width, height.
BOXES = {"liver": [3, 2, 6, 5], "left kidney": [11, 8, 3, 3]}


def patient(raw: Path, name: str = "patient") -> list[Path]:
    """A series with a segmentation; every text of its headers that names somebody is the canary."""
    paths = write_series(raw / name / "ct")
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.PatientName = dataset.PatientID = dataset.InstitutionName = dataset.StudyDescription = CANARY
        dataset.add_new(0x00090010, "LO", CANARY)
        dataset.add_new(0x00091001, "LO", CANARY)
        dataset.save_as(path)
    write_segmentation(raw / name / "seg.dcm", paths)
    return paths


def built(raw: Path, out: Path, files: dict[str, Any], **fields: Any) -> dict[str, Any]:
    recipe = Recipe("mine", "ct", "dicom_series", files=files, labels=LABELS, confirmed=True, **fields)
    build([recipe], raw, out, echo=lambda text: None)
    rows = [json.loads(line) for line in (out / "quality" / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    result: dict[str, Any] = {"rules": {row["rule"] for row in rows}, "rows": rows, "boxes": []}
    for coco in coco_files(out).values():
        names = {entry["id"]: entry["name"] for entry in coco.dataset["categories"]}
        for entry in coco.dataset["annotations"]:
            index = coco.imgs[entry["image_id"]]["index"]
            result["boxes"].append((index, names[entry["category_id"]], entry["bbox"]))
    return result


def test_segmentations_and_no_word_of_the_headers(tmp_path: Path) -> None:
    patient(tmp_path / "raw")
    result = built(tmp_path / "raw", tmp_path / "set", FILES)
    expected = [(index, "liver", BOXES["liver"]) for index in (1, 2, 3)]
    expected += [(index, "left kidney", BOXES["left kidney"]) for index in (2, 3)]
    assert sorted(result["boxes"]) == sorted(expected) and result["rules"] == {"empty_slice"}
    identifier = str(pydicom.dcmread(next((tmp_path / "raw" / "patient" / "ct").iterdir())).SOPInstanceUID).encode()
    for name, content in tree(tmp_path / "set").items():
        assert CANARY.encode() not in content and identifier not in content and CANARY not in name


def test_structure_sets_and_label_maps_beside_a_segmentation(tmp_path: Path) -> None:
    patient(tmp_path / "raw")
    square = np.array([[4, 3], [6, 3], [6, 5], [4, 5]]) * [0.7, 0.9] + [-5 - 0.35, -7 - 0.45]
    contour = np.column_stack([square, np.full(4, 44.0)])
    write_structures(tmp_path / "raw" / "patient" / "rt.dcm", {"GTV": [contour]})
    labels = np.zeros((16, 12, 5), np.uint8)
    labels[0:2, 0:2, 4] = 7
    affine = np.diag([-1.0, -1, 1, 1]) @ np.array([[0.7, 0, 0, -5], [0, 0.9, 0, -7], [0, 0, 2, 40], [0, 0, 0, 1.0]])
    save_volume(tmp_path / "raw" / "patient" / "more.nii.gz", labels, affine)
    files = {**FILES, "rtstruct": "{folder}/../rt.dcm", "labelmap": {"{folder}/../more.nii.gz": {7: "Liver"}}}
    result = built(tmp_path / "raw", tmp_path / "set", files)
    assert (2, "liver tumor", [4, 3, 2, 2]) in result["boxes"] and (4, "liver", [0, 0, 2, 2]) in result["boxes"]
    assert len(result["boxes"]) == 7


def test_through_dcm2niix(tmp_path: Path) -> None:
    pytest.importorskip("dcm2niix")
    patient(tmp_path / "raw")
    direct = built(tmp_path / "raw", tmp_path / "direct", FILES)
    through = built(tmp_path / "raw", tmp_path / "through", {**FILES, "via": "dcm2niix"})
    assert direct["boxes"] == through["boxes"]
    images = [sorted(content for name, content in tree(tmp_path / which).items() if name.endswith(".png"))
                for which in ("direct", "through")]  # fmt: skip
    assert images[0] == images[1]


def test_what_is_wrong_with_one_patient_leaves_the_others(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name in ("good", "gap", "mixed", "no_labels", "mr"):
        patient(raw, name)
    sorted((raw / "gap" / "ct").iterdir())[2].unlink()
    dataset = pydicom.dcmread(next((raw / "mixed" / "ct").iterdir()))
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.save_as(next((raw / "mixed" / "ct").iterdir()))
    (raw / "no_labels" / "seg.dcm").unlink()
    for path in (raw / "mr" / "ct").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.Modality = "MR"
        dataset.save_as(path)
    result = built(raw, tmp_path / "set", FILES)
    assert result["rules"] == {"empty_slice", "mixed_series", "missing_slices", "no_mask", "modality_mismatch"}
    assert len(result["boxes"]) == 5


def test_a_segmentation_at_another_position(tmp_path: Path) -> None:
    patient(tmp_path / "raw")
    elsewhere = write_series(tmp_path / "other")
    for path in elsewhere:
        dataset = pydicom.dcmread(path)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [float(x) + 0.3, y, z]
        dataset.save_as(path)
    write_segmentation(tmp_path / "raw" / "patient" / "seg.dcm", elsewhere)
    result = built(tmp_path / "raw", tmp_path / "set", FILES)
    assert result["rules"] == {"affine_mismatch"} and not result["boxes"]
    assert "0 images, 0 boxes" in (tmp_path / "set" / "README.md").read_text(encoding="utf-8")


def test_patterns_do_not_leave_the_source(tmp_path: Path) -> None:
    patient(tmp_path / "raw")
    result = built(tmp_path / "raw", tmp_path / "set", {**FILES, "seg": "{folder}/../../../seg.dcm"})
    assert result["rules"] == {"bad_annotations"} and not result["boxes"]
