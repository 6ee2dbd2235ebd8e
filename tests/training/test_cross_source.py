# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""One source left out at a time: which are, what they are judged by, and that nothing of them is trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training import cross_source
from training.finetune import load_base
from training.records import GroundingRecord

from .tiny_data import record, save_coco, trunk_picture


def _record(source: str, split: str, labels: list[str], name: str = "a") -> GroundingRecord:
    boxes = [[5.0, 5.0, 20.0, 20.0]] * len(labels)
    return replace(record(boxes, labels, source=source, image_id=name), split=split)


def test_only_labels_that_another_source_trains_are_shared() -> None:
    records = [
        _record("first", "train", ["liver", "spleen"]),
        _record("second", "train", ["liver", "aorta"]),
        _record("third", "validation", ["aorta", "spleen"]),
        _record("fourth", "train", ["pancreas"]),
    ]
    assert cross_source.shared_labels(records) == {
        "first": ("liver",),
        "second": ("liver",),
        "third": ("aorta", "spleen"),
    }


def test_a_source_is_judged_by_its_validation_pictures() -> None:
    records = [
        _record("first", "train", ["liver", "spleen"], "a"),
        _record("first", "train", ["liver"], "a#1"),
        _record("first", "validation", ["liver", "spleen"], "b"),
        _record("first", "validation", ["spleen"], "c"),
        _record("second", "train", ["liver"], "d"),
    ]
    found = cross_source.judged(records, "first", ["liver"])
    assert [(r.image_id, r.labels, r.annotated) for r in found] == [("b", ("liver",), ("liver",))]
    assert [r.image_id for r in cross_source.judged(records[:2], "first", ["liver"])] == ["a"]


def make_sources(folder: Path) -> Path:
    """Two sources of CT that share the liver; the second has no validation pictures."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    pictures = {"train": ["first", "first", "second", "second"], "validation": ["first"]}
    for split, sources in pictures.items():
        images, found = [], []
        for number, source in enumerate(sources):
            name = f"{split}{number}.png"
            Image.fromarray(trunk_picture((48, 40))).save(folder / "images" / name)
            labels = ["liver"] if source == "second" else ["liver", "spleen"]
            entry = {"file_name": name, "width": 48, "height": 40, "modality": "ct", "patient": name}
            images.append({**entry, "source": source, "annotated": labels})
            found.append([(label, [5.0, 5.0, 20.0, 20.0]) for label in labels])
        save_coco(folder, f"{split}.json", images, found)
    return folder


def test_a_whole_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, trained = save_tiny_checkpoint(tmp_path / "checkpoint"), []

    def base(settings: Any, recipe: Any) -> Any:
        settings.model = str(checkpoint)
        return load_base(settings, recipe)

    def make(train: Any, *others: Any) -> Any:
        trained.append({r.source for r in train})
        return cross_source_dataset(train, *others)

    cross_source_dataset = cross_source.make_dataset
    monkeypatch.setattr(cross_source, "load_base", base)
    monkeypatch.setattr(cross_source, "make_dataset", make)
    out = tmp_path / "out"
    arguments = ["--data", str(make_sources(tmp_path / "data")), "--modality", "CT", "--epochs", "1"]
    arguments += ["--size", "64", "--out", str(out)]
    assert cross_source.main(arguments) == 0
    assert trained == [{"second"}, {"first", "second"}, {"first"}]
    rows = json.loads((out / "cross_source.json").read_text(encoding="utf-8"))["modalities"]["ct"]["sources"]
    assert rows["first"]["labels"] == ["liver"] and rows["first"]["pictures"] == 1
    assert set(rows["first"]["seen"]["labels"]) == set(rows["first"]["unseen"]["labels"]) == {"liver"}
    assert rows["second"]["pictures"] == 2 and "seen" not in rows["second"]
    printed = capsys.readouterr().out
    assert "| ct: second | 1 | 2 | 1 |" in printed and printed == (out / "cross_source.md").read_text(encoding="utf-8")
    assert cross_source.main(arguments) == 0 and len(trained) == 3


def test_sources_without_a_common_label_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from .tiny_data import make_data

    data = make_data(tmp_path / "data")
    assert cross_source.main(["--data", str(data), "--modality", "ct", "--out", str(tmp_path / "out")]) == 2
    assert "no two sources of ct share a label" in capsys.readouterr().err
