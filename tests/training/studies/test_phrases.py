# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The study of phrases: what it asks is untrained indeed, and its page is made of what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from modeling_medglip.checkpoints.location import default_checkpoint
from modeling_medglip.configuration_medglip import MODALITIES
from modeling_medglip.defaults import UNTRAINED_THRESHOLD
from modeling_medglip.outputs.results import GroundedBox
from modeling_medglip.trained_labels import TrainedLabels
from training.studies import phrases as phrase_study
from training.studies.phrases import FORMS, PHRASES, THRESHOLDS, annotated_images, render_page, share, study_sides


ASKED = yaml.safe_load(PHRASES.read_text(encoding="utf-8"))
DOCS = Path(__file__).parents[3] / "docs"


def test_unknown_phrases_are_unknown() -> None:
    trained = TrainedLabels.of(json.loads((Path(default_checkpoint()) / "config.json").read_text(encoding="utf-8")))
    assert list(ASKED["unknown"]) == list(MODALITIES)
    for modality, phrases in ASKED["unknown"].items():
        assert not any(trained.knows(phrase, modality) for phrase in (*phrases, *ASKED["meaningless"]))


def test_the_default_threshold_is_the_lowest_that_keeps_unknown_phrases_rare() -> None:
    results = json.loads((DOCS / "phrases.json").read_text(encoding="utf-8"))
    scores = [score for row in results["unknown"] for score in row["scores"]]
    assert min(least for least in THRESHOLDS if share(scores, least) < 1 / 25) == UNTRAINED_THRESHOLD
    assert not any(row["wrong"] for row in results["sides"])


def test_the_page_is_what_was_measured() -> None:
    results = json.loads((DOCS / "phrases.json").read_text(encoding="utf-8"))
    assert render_page(results) == (DOCS / "phrases.md").read_text(encoding="utf-8")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three images with both kidneys, the last of the validation split."""
    folder = tmp_path / "ct" / "made_up"
    folder.mkdir(parents=True)
    things = [
        {"label": "left kidney", "bbox_xywh": [60, 10, 20, 20]},
        {"label": "right kidney", "bbox_xywh": [10, 10, 20, 20]},
    ]
    entries = []
    for number, split in enumerate(("train", "train", "validation")):
        Image.fromarray(np.full((50, 100), number, np.uint8)).save(folder / f"{number}.png")
        entries.append({"image": f"{number}.png", "objects": things, "split": split})
    (folder / "annotations.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    return folder


def test_validation_images_come_first(source: Path) -> None:
    files = [image.file for image, _ in annotated_images(source, 2)]
    assert files == ["2.png", "0.png"]
    (_, boxes), *_ = annotated_images(source, 1)
    assert boxes["left kidney"] == [[60, 10, 80, 30]]


@pytest.mark.parametrize("wrong", [False, True])
def test_wrong_sides_are_counted(source: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool) -> None:
    def found(grounder: object, image: object, labels: list[str], modality: str) -> dict[str, GroundedBox]:
        left = labels[0].startswith("left") is not wrong
        return {label: GroundedBox(label, 0.9, (60.0 if left else 10.0, 10.0, 20.0, 20.0)) for label in labels}

    monkeypatch.setattr(phrase_study, "best_boxes", found)
    rows = study_sides(None, source.parents[1], ["ct/made_up"], 3)  # type: ignore[arg-type]
    assert len(rows) == len(FORMS)
    assert all((row["asked"], row["found"], row["wrong"]) == (6, 6, 6 * wrong) for row in rows)
