# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The study of phrases: what it asks, what it counts, and that its page is made of what was measured."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from modeling_medglip.checkpoints.location import default_checkpoint
from modeling_medglip.outputs.results import GroundedBox
from modeling_medglip.trained_labels import TrainedLabels
from training.data.vocabulary import SYNONYMS_FILE
from training.studies import phrases as phrase_study
from training.studies.phrases import FORMS, annotated_images, render_page, study_sides


DOCS = Path(__file__).parents[3] / "docs"


def test_the_checkpoint_does_not_know_wordings_that_training_held_out() -> None:
    trained = TrainedLabels.of(json.loads((Path(default_checkpoint()) / "config.json").read_text(encoding="utf-8")))
    held_out = yaml.safe_load(SYNONYMS_FILE.read_text(encoding="utf-8"))["held_out"]
    wordings = {
        (source.split("/")[0], wording)
        for source, labels in held_out.items()
        for wording in chain.from_iterable(labels.values())
    }
    assert not {(modality, wording) for modality, wording in wordings if trained.knows(wording, modality) is not False}


def test_the_page_is_what_was_measured() -> None:
    results = json.loads((DOCS / "phrases.json").read_text(encoding="utf-8"))
    assert not any(row["wrong"] for row in results["sides"])
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


def test_all_three_studies_are_on_the_page(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(grounder: object, image: object, labels: list[str], modality: str) -> dict[str, GroundedBox]:
        lefts = {label: 60.0 if label.startswith("left") else 10.0 for label in labels}
        score = 0.8 if len(labels) == 1 else 0.9
        return {label: GroundedBox(label, score, (left, 10.0, 20.0, 20.0)) for label, left in lefts.items()}

    trained = TrainedLabels({"ct": ["left kidney", "right kidney"]})
    checkpoint = SimpleNamespace(name="made up", trained=trained)
    sources, words = tmp_path / "sources.yaml", tmp_path / "words.yaml"
    sources.write_text("sides: [ct/made_up]\n", encoding="utf-8")
    words.write_text("held_out: {ct/made_up: {left kidney: [left nephros, L kidney]}}\n", encoding="utf-8")
    monkeypatch.setattr(phrase_study, "load_grounder", lambda model: checkpoint)
    monkeypatch.setattr(phrase_study, "best_boxes", found)
    monkeypatch.setattr(phrase_study, "PHRASES", sources)
    monkeypatch.setattr(phrase_study, "SYNONYMS_FILE", words)
    out = tmp_path / "phrases.json"
    assert phrase_study.main(["--data", str(source.parents[1]), "--images", "3", "--out", str(out)]) == 0
    results = json.loads(out.read_text(encoding="utf-8"))
    assert set(results) == {"model", "images", "sides", "held_out", "companions"}
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "Checkpoint: made up" in page and "up to\n3 per source" in page
    assert "| ct/made_up | left kidney | left nephros | no | 3 | 3 | 3 |" in page
    assert "| ct/made_up | left kidney | L kidney | yes | 3 | 0 | 0 |" in page
    assert "| ct/made_up | 4 | 0.000 (0.000) | 0.000 (0.000) | 0.100 (0.100) |" in page
