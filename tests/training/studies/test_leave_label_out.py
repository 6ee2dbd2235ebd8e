# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Experts trained without one of their labels: no prompt asks for it, and what they detect for it is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.evaluate.metrics import Detections
from training.fit.finetune import load_base
from training.studies import cross_source, leave_label_out

from ..tiny_data import make_data, record


BOX, ELSEWHERE = [10.0, 10.0, 30.0, 30.0], [50.0, 40.0, 90.0, 70.0]


def test_answers_count_boxes_and_right_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Detections(("liver",) * 3, np.array([0.6, 0.4, 0.1], np.float32), np.array([BOX, ELSEWHERE, BOX], np.float32)),
        Detections(("liver",), np.array([0.9], np.float32), np.array([ELSEWHERE], np.float32)),
        Detections((), np.zeros(0, np.float32), np.zeros((0, 4), np.float32)),
    ]
    monkeypatch.setattr(leave_label_out, "detect_records", lambda *asked: (found, 0.0))
    records = [record([BOX], ["liver"]), record([BOX], ["liver"]), record([], [], ["liver"])]
    row = leave_label_out.answers((None, None), records, ["liver"] * 3, 4)
    assert row == {
        "images": 3, "boxes": 1.0, "drawn": pytest.approx(2 / 3), "score": pytest.approx(0.5), "right": 0.5,
    }  # fmt: skip
    assert leave_label_out.answers((None, None), [], [], 4)["boxes"] is None


def test_a_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "checkpoint")
    prompts: list[str] = []

    def base(settings: Any, recipe: Any) -> Any:
        settings.model = str(checkpoint)
        return load_base(settings, recipe)

    def make(train: Any, *others: Any, **more: Any) -> Any:
        dataset = dataset_of(train, *others, **more)
        prompts.extend(phrase for index in range(len(dataset)) for phrase in dataset[index]["text_labels"])
        assert not any("left kidney" in r.annotated for r in train) and more["left_out"] == ["left kidney"]
        return dataset

    dataset_of = cross_source.make_dataset
    monkeypatch.setattr(cross_source, "load_base", base)
    monkeypatch.setattr(cross_source, "make_dataset", make)
    out = tmp_path / "out"
    options = ["--data", str(make_data(tmp_path / "data")), "--modality", "CT", "--epochs", "1", "--size", "64"]
    options += ["--out", str(out), "--leave-out"]
    assert leave_label_out.main([*options, "left kidney"]) == 0
    row = json.loads((out / "leave_label_out.json").read_text(encoding="utf-8"))["modalities"]["ct"]["left kidney"]
    counts = {kind: asked["images"] for kind, asked in row["asked"].items()}
    assert counts == {
        "label, there": 1, "label, not there": 0, "nonsense": 1, "never learned": 1, "learned, there": 1,
        "learned, not there": 1,
    }  # fmt: skip
    assert 0 <= row["AP50"] <= 1 and prompts and not any("left" in phrase for phrase in prompts)
    printed = capsys.readouterr().out
    assert "| ct, without left kidney | the label, on images with it | 1 | " in printed
    assert printed == (out / "leave_label_out.md").read_text(encoding="utf-8")
    count = len(prompts)
    assert leave_label_out.main([*options, "left kidney"]) == 0 and len(prompts) == count, "done already"
    assert leave_label_out.main([*options, "spleen"]) == 2
    assert "no validation image of ct has spleen: choose another label" in capsys.readouterr().err
    assert leave_label_out.main([*options, "left kidney", "--seed", "1"]) == 2
    assert "measured with other images or settings before: choose another --out" in capsys.readouterr().err


def test_a_modality_of_one_label_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(make_data(tmp_path / "data"))
    assert leave_label_out.main(["--data", data, "--modality", "dermoscopy", "--out", str(tmp_path)]) == 2
    assert "no label of dermoscopy is left out by default" in capsys.readouterr().err
    options = ["--data", data, "--modality", "fundus", "--leave-out", "optic disc", "--out", str(tmp_path)]
    assert leave_label_out.main(options) == 2
    assert "fundus has no label besides optic disc" in capsys.readouterr().err
    assert leave_label_out.main([*options[:3], "ct", *options[3:]]) == 2
    assert "name a single --modality" in capsys.readouterr().err


def test_the_page_in_docs_holds_what_was_measured() -> None:
    docs = Path(__file__).parents[3] / "docs"
    measured = json.loads((docs / "leave_label_out.json").read_text(encoding="utf-8"))
    assert (docs / "leave_label_out.md").read_text(encoding="utf-8") == leave_label_out.render_page(measured)
