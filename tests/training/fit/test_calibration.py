# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Scores that are chances: the fit and the command on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_medglip import MedGlipConfig, MedGlipForObjectDetection, MedGlipProcessor
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.data.records import GroundingRecord
from training.evaluate.metrics import Detections
from training.fit import calibration
from training.fit.calibration import calibrate, clear, fit_platt
from training.fit.finetune import make_dataset

from ..tiny_data import make_data, record


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (5.0, -2.0), (0.5, 1.0)])
def test_the_fit_finds_the_line_that_made_the_data(slope: float, intercept: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 40_000)
    right = rng.random(40_000) < 1 / (1 + np.exp(-slope * logits - intercept))
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    assert fit_platt(scores, right) == pytest.approx((slope, intercept), rel=0.06, abs=0.06)


def test_separable_scores_give_finite_numbers() -> None:
    slope, intercept = fit_platt(np.array([0.1, 0.2, 0.7, 0.8], np.float32), np.array([False, False, True, True]))
    assert 0 < slope < 100 and abs(intercept) < 100


@pytest.mark.parametrize(
    ("right", "message"),
    [([True] * 4, "4 right and 0 wrong"), ([False] * 4, "0 right and 4 wrong"), ([True, True, False, False], "rise")],
)
def test_what_cannot_be_calibrated(right: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_platt(np.array([0.1, 0.2, 0.7, 0.8], np.float32), np.array(right))


def overconfident(count: int) -> tuple[list[GroundingRecord], list[Detections]]:
    """Images in which every box has the score 0.9 or 0.8, of which six and two in ten are right."""
    rng, records, detections = np.random.default_rng(0), [], []
    for number in range(count):
        score = 0.9 if number % 2 else 0.8
        right = rng.random() < (0.6 if number % 2 else 0.2)
        box = [10.0, 10.0, 30.0, 30.0] if right else [50.0, 50.0, 70.0, 70.0]
        records.append(record([[10.0, 10.0, 30.0, 30.0]], ["polyp"], patient=f"P{number // 2}"))
        detections.append(Detections(("polyp",), np.array([score], np.float32), np.array([box], np.float32)))
    return records, detections


def test_errors_shrink_also_on_other_patients() -> None:
    records, detections = overconfident(400)
    line = calibration.fit_boxes(records, detections)
    shares = calibration.errors(records, detections, line)
    assert shares["before"] == pytest.approx(0.45, abs=0.05)
    assert shares["after"] is not None and shares["after"] < 0.02
    assert shares["other_patients"] is not None and shares["after"] <= shares["other_patients"] < 0.1


def test_one_patient_cannot_be_divided() -> None:
    records, detections = overconfident(2)
    assert calibration.errors(records, detections, (1.0, 0.0))["other_patients"] is None


def test_a_calibration_keeps_the_order() -> None:
    boxes = Detections(("a",) * 3, np.array([0.2, 0.5, 0.9], np.float32), np.zeros((3, 4), np.float32))
    (changed,) = calibration.calibrated([boxes], (2.0, -1.0))
    expected = 1 / (1 + np.exp(-(2.0 * np.log(boxes.scores / (1 - boxes.scores)) - 1.0)))
    np.testing.assert_allclose(changed.scores, expected, rtol=1e-5)
    assert changed.labels == boxes.labels


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    make_data(tmp_path / "data")
    return save_tiny_checkpoint(tmp_path / "checkpoint")


def test_the_command_writes_the_experts_lines(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter([(2.0, -1.0), (3.0, 0.5)])
    monkeypatch.setattr(calibration, "fit_platt", lambda scores, right: next(lines))
    monkeypatch.setattr(
        calibration, "errors", lambda records, detections, line: {"before": 0.5, "after": line[0] / 10}
    )
    report = tmp_path / "calibration.json"
    before = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    arguments = ["--model", str(checkpoint), "--data", str(tmp_path / "data"), "--report", str(report)]
    assert calibration.main(arguments) == 0
    after = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert {key for key in after if after[key] != before.get(key)} == {"expert_overrides"}
    config = MedGlipConfig.from_pretrained(checkpoint)
    assert list(config.expert_head_config("ct").score_calibration) == [2.0, -1.0]
    assert list(config.expert_head_config("fundus").score_calibration) == [3.0, 0.5]
    entries = json.loads(report.read_text(encoding="utf-8"))["modalities"]
    assert entries["ct"] == {"slope": 2.0, "intercept": -1.0, "images": 1, "before": 0.5, "after": 0.2}


def test_bad_input_changes_nothing(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (checkpoint / "config.json").read_bytes()

    def error(model: Path, data: str) -> str:
        assert calibration.main(["--model", str(model), "--data", str(tmp_path / data)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    assert "none" in error(tmp_path / "none", "data") and "nothing" in error(checkpoint, "nothing")
    content = json.loads((tmp_path / "data" / "validation.json").read_text(encoding="utf-8"))
    (tmp_path / "data" / "validation.json").write_text(json.dumps({**content, "annotations": []}), encoding="utf-8")
    assert "data: ct: 0 right and" in error(checkpoint, "data")
    for number in range(2):
        content["images"].append({**content["images"][0], "id": 90 + number, "file_name": f"broken{number}.png"})
        (tmp_path / "data" / "images" / f"broken{number}.png").write_bytes(b"\x89PNG")
    (tmp_path / "data" / "validation.json").write_text(json.dumps(content), encoding="utf-8")
    assert "data: ct: 2 of 3 images cannot be read: mend the data" in error(checkpoint, "data")
    assert (checkpoint / "config.json").read_bytes() == before


def test_an_older_calibration_plays_no_part(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores: list[list[float]] = []

    def record_scores(detections: np.ndarray, right: np.ndarray) -> tuple[float, float]:
        scores.append(detections.tolist())
        return 4.0, 1.0

    monkeypatch.setattr(calibration, "fit_platt", record_scores)
    monkeypatch.setattr(calibration, "errors", lambda records, detections, line: {})
    model = MedGlipForObjectDetection.from_pretrained(checkpoint).eval()
    processor = MedGlipProcessor.from_pretrained(checkpoint)
    calibrate(model, processor, tmp_path / "data")
    calibrate(model, processor, tmp_path / "data")
    assert len(scores) == 4 and scores[0] == scores[2] and scores[1] == scores[3] and scores[0]
    clear(model)
    ids = torch.ones(1, 3, dtype=torch.long)
    assert model(torch.zeros(1, 3, 64, 64), ids, modality="ct").score_calibration is None


def test_images_changed_as_in_training(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every copy of a validation image is asked for a drawn prompt, whose phrases without a box are wrong."""
    shown: list[GroundingRecord] = []

    def record_boxes(records: list[GroundingRecord], detections: list[Detections]) -> tuple[float, float]:
        shown.extend(records)
        assert all(set(boxes.labels) <= set(one.annotated) for one, boxes in zip(records, detections, strict=True))
        assert all(len(boxes.scores) for boxes in detections)
        return 4.0, 1.0

    known: list[list[str]] = []
    negatives: list[tuple[str, str]] = []

    def make(*arguments: Any, **more: Any) -> Any:
        known.append(list(more["known"]))
        negatives.extend((one.modality, one.image_id) for one in more["elsewhere"])
        return make_dataset(*arguments, **more)

    monkeypatch.setattr(calibration, "make_dataset", make)
    monkeypatch.setattr(calibration, "fit_boxes", record_boxes)
    monkeypatch.setattr(calibration, "errors", lambda records, detections, line: {})
    recipe = "optimization: {head_learning_rate: 1, backbone_learning_rate: 0, weight_decay: 0, warmup_steps: 0, "
    recipe += "min_learning_rate_ratio: 0, gradient_clip: 1, ema_decay: 0, frozen_stages: 0}\n"
    recipe += "experts: {any: {batch: 1, epochs: 1}}\nprompts: {unlearned: 4}\naugmentation: {scale: [0.5, 0.5]}\n"
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    options = ["--model", str(checkpoint), "--data", str(tmp_path / "data"), "--report", str(tmp_path / "report.json")]
    assert calibration.main([*options, "--recipe", str(tmp_path / "recipe.yaml"), "--copies", "3"]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["modalities"]
    assert {name: (entry["images"], entry["copies"]) for name, entry in report.items()} == {
        "ct": (3, 3), "fundus": (3, 3),
    }  # fmt: skip
    assert known == [["spleen", "liver"], ["optic disc"]], "never asked for as if they had not been learned"
    assert len(shown) == 6, "three copies of one validation image of CT and one of fundus"
    assert all(one.size == (64, 64) for one in shown) and any(len(one.boxes) for one in shown)
    assert all(side <= 64 for one in shown for side in one.boxes.flatten())
    assert not negatives, "the recipe has none"
    (tmp_path / "recipe.yaml").write_text(f"negative_images: 0.5\n{recipe}", encoding="utf-8")
    assert calibration.main([*options, "--recipe", str(tmp_path / "recipe.yaml")]) == 0
    organs = [("ct", f"P{number}.png") for number in range(3)]
    assert sorted(negatives) == [*organs, ("fundus", "a.png")], "of CT the fundus image, of fundus those of CT"
    assert calibration.main([*options, "--recipe", "none"]) == 2
