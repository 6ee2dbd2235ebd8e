# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Evaluation through the public interface: an oracle instead of a model, and a tiny real checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.data.load import load_records
from training.data.records import GroundingRecord, SourceSettings
from training.data.vocabulary import Vocabulary
from training.evaluate import __main__ as command
from training.evaluate import evaluation, report
from training.evaluate.evaluation import SCHEMA, evaluate_model, label_counts
from training.evaluate.predict import detect_records, source_labels

from ..tiny_data import make_data, record, settings


class Oracle(torch.nn.Module):
    """Processor and model in one that knows the answers: an image's first pixel is the number of its record.

    It calls things by `words`: a phrase it knows gets the boxes of these labels, with score 0.9; unknown ones nothing.
    """

    def __init__(self, records: list[GroundingRecord], words: dict[str, set[str]]) -> None:
        super().__init__()
        self.records, self.words, self.prompts = records, words, []
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode_prompts(self, text: list) -> tuple[dict[str, Any], None]:
        self.prompts += text
        return {"text_labels": text}, None

    @staticmethod
    def image_processor(images: list, **settings: Any) -> dict[str, Any]:
        return {"numbers": [int(image.flat[0]) for image in images]}

    def forward(self, numbers: list[int], text_labels: list[list[str]]) -> SimpleNamespace:
        assert not self.training
        return SimpleNamespace(numbers=numbers, text=text_labels)

    def post(self, outputs: Any, inputs: Any, threshold: float, target_sizes: list) -> list[dict[str, Any]]:
        results = []
        for number, prompt in zip(outputs.numbers, outputs.text, strict=True):
            item = self.records[number]
            post_processed = [
                (p, b)
                for p in prompt
                for b, n in zip(item.boxes, item.labels, strict=True)
                if n in self.words.get(p, {p})
            ]
            boxes = torch.tensor(np.array([box for _, box in post_processed], dtype=np.float32).reshape(-1, 4))
            results.append(
                {
                    "scores": torch.full((len(post_processed),), 0.9),
                    "boxes": boxes,
                    "text_labels": [p for p, _ in post_processed],
                }
            )
        return results


@pytest.fixture
def oracle() -> tuple[Oracle, Any, list[GroundingRecord]]:
    records = []
    for number in range(3):
        pixels = np.full((80, 100), number, np.uint8)
        boxes, labels = [[60, 20, 80, 40], [20, 20, 40, 40]], ["left kidney", "right kidney"]
        annotated = ["left kidney", "liver", "right kidney"]
        records.append(record(boxes, labels, annotated, pixels=pixels, source="organs", image_id=str(number)))
    words = {
        "renal organs": {"left kidney", "right kidney"},
        "left renal organ": {"left kidney"},
        "left one": {"right kidney"},
    }
    model = Oracle(records, words)

    class Processor:
        encode_prompts = staticmethod(model.encode_prompts)
        image_processor = staticmethod(model.image_processor)
        post_process_grounded_object_detection = staticmethod(model.post)

    return model, Processor(), records


HELP = " (python -m training.evaluate --help explains the options)"
CHECKS = {
    "ct": [
        {"source": "organs", "label": "left kidney", "wordings": ["left renal organ", "left one"]},
        {"source": "organs", "label": "left kidney", "wordings": ["renal organs"], "with": ["right kidney"]},
        {"source": "not there", "label": "liver", "wordings": ["hepar"]},
    ]
}


def test_an_oracle_gets_full_scores(oracle: tuple[Oracle, Any, list[GroundingRecord]]) -> None:
    model, processor, records = oracle
    model.train()
    results = evaluate_model(model, processor, records, records[:2], CHECKS, batch_size=2)
    assert model.training, "the mode is put back"
    ct = results["modalities"]["ct"]
    assert ct["AP"] == pytest.approx(1) and ct["AP50"] == pytest.approx(1) and ct["AP50_well_shown"] is None
    assert ct["images"] == 3 and ct["train_images"] == 2
    expected = {"train_images": 2, "train_boxes": 2, "validation_images": 3, "validation_boxes": 3}
    assert expected.items() <= ct["sources"]["organs"]["labels"]["left kidney"].items()
    assert ct["side_confusion"]["share"] == 0 and ct["side_confusion"]["labels"]["left kidney"]["images"] == 3
    assert ct["scores"] == {"present": pytest.approx(0.9), "absent": 0.0, "foreign": 0.0}
    assert ct["at_threshold"] == {"threshold": 0.3, "precision": 1.0, "recall": 1.0, "wrong_per_image": 0.0}
    assert ct["seconds_per_image"] > 0
    assert json.loads(json.dumps(results)) == results


def test_boxes_are_asked_in_pixels_of_the_image(oracle: tuple[Oracle, Any, list[GroundingRecord]]) -> None:
    model, processor, records = oracle
    asked: list[Any] = []

    def post(outputs: Any, inputs: Any, threshold: float, target_sizes: list) -> list[dict[str, Any]]:
        asked.append((threshold, target_sizes))
        return model.post(outputs, inputs, threshold, target_sizes)

    processor.post_process_grounded_object_detection = post
    detect_records(model.eval(), processor, records, [["liver"]] * 3, 2)
    height, width = 80, 100
    assert asked == [(0.0, [(height, width)] * 2), (0.0, [(height, width)])]


def test_every_image_of_a_source_gets_the_same_full_prompt(
    oracle: tuple[Oracle, Any, list[GroundingRecord]],
) -> None:
    model, processor, records = oracle
    evaluate_model(model, processor, records, checks={})
    assert model.prompts[:3] == [["left kidney", "liver", "right kidney"]] * 3
    foreign = model.prompts[3:]
    assert foreign and all(
        "abdomen" not in Vocabulary.load().words[name].regions for prompt in foreign for name in prompt
    )


def test_no_label_of_the_source_is_asked_as_one_of_another_part_of_the_body(
    oracle: tuple[Oracle, Any, list[GroundingRecord]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor, records = oracle
    monkeypatch.setattr(evaluation, "FOREIGN_LABELS", 1000)
    opened = [replace(record, source_labels=("optic disc",)) for record in records]
    for images, asked in ((records, True), (opened, False)):
        evaluate_model(model, processor, images, checks={})
        foreign = {name for prompt in model.prompts[3:] for name in prompt}
        assert "optic cup" in foreign and ("optic disc" in foreign) is asked
        model.prompts.clear()


def test_wordings_are_measured_against_the_labels_they_cover(
    oracle: tuple[Oracle, Any, list[GroundingRecord]],
) -> None:
    model, processor, records = oracle
    rows = evaluate_model(model, processor, records, checks=CHECKS)["modalities"]["ct"]["synonyms"]
    assert [(row["wording"], round(row["AP50"], 3)) for row in rows] == [
        ("left kidney", 1.0),
        ("left renal organ", 1.0),
        ("left one", 0.0),
        ("left kidney", 1.0),
        ("renal organs", 1.0),
    ]


def test_a_limit_counts_per_source(oracle: tuple[Oracle, Any, list[GroundingRecord]]) -> None:
    model, processor, records = oracle
    results = evaluate_model(model, processor, records, checks={}, limit=1)
    assert results["modalities"]["ct"]["images"] == 1


def test_labels_and_counts_per_source() -> None:
    first = record([[0, 0, 5, 5], [5, 5, 9, 9]], ["lung nodule"] * 2, source="a", image_id="x")
    view = record([[0, 0, 5, 5]], ["lung nodule"], source="a", image_id="x#1", view_of="x")
    other = record([[0, 0, 5, 5]], ["lung nodule"], source="a", image_id="case #1")
    assert label_counts([other]) == {"lung nodule": (1, 1)}, "a name may have any letters"
    assert label_counts([first, view, record([], [], ["liver"])]) == {"lung nodule": (1, 2)}
    assert source_labels([first, record([], [], ["liver"], source="b")]) == {
        "ct/a": ["lung nodule"],
        "ct/b": ["liver"],
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


def test_the_command_writes_json_and_tables(checkpoint: Path, tmp_path: Path) -> None:
    make_data(tmp_path / "data")
    arguments = ["--model", str(checkpoint), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert command.main(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["schema"] == SCHEMA and set(results["modalities"]) == {"ct", "fundus"}
    labels = results["modalities"]["ct"]["sources"]["organs"]["labels"]
    assert labels["left kidney"]["train_images"] == 2 and 0 <= labels["left kidney"]["AP50"] <= 1
    tables = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "## fundus" in tables and "| left kidney | 2 | 1 (1) |" in tables
    assert "flip_tta" not in results and "flipped image" not in tables
    assert results["embedded"] is False, "only --shipped sets it"
    assert results["broken"] == 0 and "Left out" not in tables
    (tmp_path / "out" / "results.md").unlink()
    assert report.main([str(tmp_path / "out" / "results.json")]) == 0
    assert (tmp_path / "out" / "results.md").read_text(encoding="utf-8") == tables


def test_flipped_images_count_only_where_a_source_may_be_flipped(
    oracle: tuple[Oracle, Any, list[GroundingRecord]],
) -> None:
    model, processor, records = oracle  # which gives the same boxes for the flipped image
    free = [replace(item, settings=SourceSettings(horizontal_flip=True)) for item in records]
    for chosen, flip_tta, perfect in ((records, True, True), (free, False, True), (free, True, False)):
        model.records = chosen
        ct = evaluate_model(model, processor, chosen, checks={}, flip_tta=flip_tta)["modalities"]["ct"]
        assert (ct["AP"] == pytest.approx(1)) is perfect


@pytest.mark.parametrize(("way", "words"), [("flip", "the flipped image"), ("scale", "a smaller and a larger input")])
def test_a_page_states_what_was_averaged(way: str, words: str, checkpoint: Path, tmp_path: Path) -> None:
    make_data(tmp_path / "data")
    arguments = ["--model", str(checkpoint), "--data", str(tmp_path / "data"), "--out", str(tmp_path), f"--{way}-tta"]
    assert command.main([*arguments, "--modality", "fundus"]) == 0
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))[f"{way}_tta"] is True
    assert f"Averaged with {words}" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_one_line_errors(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert command.main(["--model", str(tmp_path / "none"), *rest]) == 2
    assert command.main(["--model", str(checkpoint), *rest]) == 2
    (tmp_path / "torn").mkdir()
    for file in checkpoint.iterdir():
        (tmp_path / "torn" / file.name).write_bytes(
            file.read_bytes()[: 2000 if file.suffix == ".safetensors" else None]
        )
    assert command.main(["--model", str(tmp_path / "torn"), *rest]) == 2
    assert command.main(["--adapter", str(tmp_path / "none"), "--model", str(checkpoint), *rest]) == 2
    messages = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    first, second, torn, adapter = messages
    assert "none: cannot be loaded" in first and "cannot be read as a data set" in second
    assert "torn: cannot be loaded" in torn and "none: holds no adapter" in adapter


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("--limit", "0", "choose a whole number of 1 or more"),
        ("--batch-size", "-1", "choose a whole number of 1 or more"),
    ],
)
def test_options_out_of_range(
    option: str, value: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out"), option, value]) == 2
    assert capsys.readouterr().err == f"error: {option} {value}: {hint}{HELP}\n" and not (tmp_path / "out").exists()


def test_the_shipped_page_is_asked_for_and_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["--shipped", "--out", str(tmp_path / "out")]
    for name, values in (
        ("data", ["private/coco"]),
        ("limit", ["1"]),
        ("flip-tta", []),
        ("scale-tta", []),
        ("modality", ["ct"]),
        ("model", ["x"]),
        ("adapter", ["x"]),
    ):
        assert command.main([*rest, f"--{name}", *values]) == 2
        message = capsys.readouterr().err
        assert (
            message
            == f"error: --shipped: the page of the embedded checkpoint is of all of it: leave out --{name}{HELP}\n"
        )


def measured(images: int, modality: str = "ct", broken: int = 0, boxes: bool = True) -> list[GroundingRecord]:
    """Validation images of which the first ones cannot be read."""

    def refuse() -> Any:
        raise OSError("cut short")

    annotations = ([[4, 4, 20, 20]], ["liver"]) if boxes else ([], [])
    records = [record(*annotations, ["liver"], modality=modality, image_id=str(n)) for n in range(images)]  # type: ignore[arg-type]
    return [replace(item, loader=refuse) if number < broken else item for number, item in enumerate(records)]


def test_broken_images_are_counted_and_many_stop_it() -> None:
    readable, broken = command._validation(measured(20, broken=1), "data", None)
    assert len(readable) == 19 and broken == 1
    with pytest.raises(ValueError, match="^data: 2 of 20 images cannot be read: mend the data$"):
        command._validation([*measured(20, broken=2), *measured(300, "mri")], "data", None)


@pytest.mark.parametrize(
    ("records", "asked", "message"),
    [
        ([], None, "data: no validation images: add some"),
        (measured(2), ["ct", "MRI"], "data: mri: no validation images: add some, or choose others with --modality"),
        ([*measured(2), *measured(2, "mri", boxes=False)], None, "data: mri: no validation image has a box"),
        (measured(1, broken=1), None, "data: ct: no validation images"),
    ],
)
def test_nothing_to_measure(records: list[GroundingRecord], asked: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        command._validation(records, "data", asked)
    command._validation(measured(2), "data", asked[:1] if asked else None)


def test_the_command_tells_what_it_left_out(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path / "data")
    content = json.loads((data / "validation.json").read_text(encoding="utf-8"))
    first = content["images"][0]
    content["images"].append({**first, "id": 99, "file_name": "broken.png", "patient": "other"})
    (data / "images" / "broken.png").write_bytes(b"\x89PNG")
    (data / "validation.json").write_text(json.dumps(content), encoding="utf-8")
    arguments = ["--model", str(checkpoint), "--data", str(data), "--out", str(tmp_path / "out"), "--modality", "ct"]
    assert command.main(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["broken"] == 1 and results["modalities"]["ct"]["images"] == 1
    assert "Left out, as they cannot be read: 1." in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    del results["broken"]  # as older ones are
    assert "Left out" not in report.render_markdown(results)
    content["annotations"] = []
    (data / "validation.json").write_text(json.dumps(content), encoding="utf-8")
    arguments[5] = str(tmp_path / "other")
    assert command.main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "ct: no validation image has a box" in line and not (tmp_path / "other").exists()


def test_records_for_the_command_are_the_validation_split(tmp_path: Path) -> None:
    records = load_records(make_data(tmp_path), split="validation", settings=settings())
    assert len(records) == 2 and all(item.split == "validation" for item in records)
