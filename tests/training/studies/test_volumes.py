# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes in space against masks: perfect boxes give 1, whatever the file's axes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml

from modeling_medglip import volume_grounding
from modeling_medglip.grounding import Grounder
from tests.modeling_medglip.test_volume_grounding import LABELS, STATES_NOTHING, Bright, body
from training.studies import volumes as evaluate_volumes
from training.studies.volumes import reordered


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bright blocks stand for what the network finds."""
    monkeypatch.setattr(volume_grounding, "_SliceSearch", Bright)
    monkeypatch.setattr(volume_grounding, "_modality", lambda *arguments: ("ct", "given", None, ()))
    grounder = Grounder(STATES_NOTHING, None, "bright", torch.device("cpu"))  # type: ignore[arg-type]
    monkeypatch.setattr(evaluate_volumes, "load_grounder", lambda name: grounder)


def save(folder: Path, order: tuple[int, ...], signs: tuple[int, ...], header: np.ndarray | None = None) -> None:
    volume = reordered(body(), order, signs)
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine if header is None else header
    mask = np.zeros(volume.array.shape, np.uint8)
    for value, brightness in enumerate(LABELS.values(), start=1):
        mask[volume.array == brightness] = value
    folder.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.array, affine), folder / "image.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask, affine), folder / "mask.nii.gz")


def run(folder: Path, **more: Any) -> dict[str, Any]:
    values = {"scan/mask.nii.gz": {1: "left kidney", 2: "right kidney", 3: "liver"}}
    case = {"image": "scan/image.nii.gz", "modality": "ct", "seen": False, "labels": values, **more}
    (folder / "cases.yaml").write_text(yaml.safe_dump({"cases": [case]}), encoding="utf-8")
    arguments = ["--raw", str(folder), "--cases", str(folder / "cases.yaml"), "--out", str(folder / "out.json")]
    assert evaluate_volumes.main(arguments) == 0
    content: dict[str, Any] = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    assert (folder / "out.md").read_text(encoding="utf-8") == evaluate_volumes.render_page(content)
    assert content["orders"].pop("voxels") == pytest.approx(0, abs=1e-6)
    assert content["orders"] == {"image": "scan/image.nii.gz", "orders": 4, "boxes": 2}
    return content["cases"][0]


@pytest.mark.usefixtures("bright")
@pytest.mark.parametrize(
    ("order", "signs"), [((0, 1, 2), (1, 1, 1)), ((0, 1, 2), (-1, -1, 1)), ((2, 0, 1), (1, -1, -1))]
)
def test_right_boxes_have_full_scores(order: tuple[int, ...], signs: tuple[int, ...], tmp_path: Path) -> None:
    save(tmp_path / "scan", order, signs)
    case = run(tmp_path)
    assert set(case["labels"]) == {"left kidney", "right kidney"}, "a label without a voxel is not asked"
    for entry in case["labels"].values():
        assert entry["iou"] == pytest.approx(1.0) and entry["AP50"] == pytest.approx(1.0) and entry["boxes"] == 1
    assert (case["plane"], case["slices"], case["seen"]) == ("axial", 20, False)


@pytest.mark.usefixtures("bright")
def test_stated_axes_go_for_image_and_masks(tmp_path: Path) -> None:
    save(tmp_path / "scan", (0, 1, 2), (1, 1, 1), header=np.diag([0.8, 0.9, 2.5, 1.0]))
    case = run(tmp_path, axes="LPS")
    assert all(entry["iou"] == pytest.approx(1.0) for entry in case["labels"].values())


@pytest.mark.usefixtures("bright")
def test_masks_elsewhere_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "scan", (0, 1, 2), (1, 1, 1))
    nibabel.save(
        nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.diag([9.0, 9, 9, 1])), tmp_path / "scan" / "mask.nii.gz"
    )
    with pytest.raises(AssertionError):
        run(tmp_path)
    assert "mask.nii.gz: is not on the grid of its volume" in capsys.readouterr().err


def test_the_page_in_docs_holds_what_was_measured() -> None:
    docs = Path(__file__).parents[3] / "docs"
    files = ("volumes.json", "volume_benchmark.json")
    content, benchmark = (json.loads((docs / name).read_text("utf-8")) for name in files)
    assert (docs / "volumes.md").read_text("utf-8") == evaluate_volumes.render_page(content, benchmark)
