# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The stock pipeline and the project's own, on a tiny checkpoint with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_medglip.pipeline_medglip import (
    TASK,
    MedicalPhraseGroundingPipeline,
    picture_size,
    register_pipeline,
)

from .tiny_checkpoint import save_tiny_checkpoint


PICTURE = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
LOW = {"threshold": 0.0, "pre_nms_threshold": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def grounder(folder: Path) -> MedicalPhraseGroundingPipeline:
    register_pipeline()
    return pipeline(TASK, model=str(folder), dtype=torch.float32)


def test_registering_twice_changes_nothing() -> None:
    register_pipeline()
    register_pipeline()
    assert TASK in PIPELINE_REGISTRY.get_supported_tasks()


def test_own_pipeline_equals_processor_and_model(grounder: MedicalPhraseGroundingPipeline) -> None:
    found = grounder(PICTURE, text="liver. left kidney", modality="ct", **LOW)
    inputs = grounder.processor(PICTURE, "liver. left kidney", modality="ct")
    with torch.no_grad():
        outputs = grounder.model(**inputs)
    (expected,) = grounder.processor.post_process_grounded_object_detection(
        outputs, inputs, target_sizes=[PICTURE.shape[:2]], **LOW
    )
    assert len(found) == len(expected["scores"]) > 0
    assert [entry["score"] for entry in found] == pytest.approx(expected["scores"].tolist())
    assert [entry["label"] for entry in found] == expected["text_labels"]
    assert list(found[0]["box"].values()) == pytest.approx(expected["boxes"][0].tolist())
    assert set(found[0]["box"]) == {"xmin", "ymin", "xmax", "ymax"}


@pytest.mark.parametrize("text", [["liver, left."], [["liver, left."]]])
def test_labels_in_lists_come_back_as_they_are(grounder: MedicalPhraseGroundingPipeline, text: Any) -> None:
    images = [PICTURE] if isinstance(text[0], list) else PICTURE
    found = grounder(images, text=text, modality="ct", **LOW)
    assert {entry["label"] for entry in (found[0] if isinstance(images, list) else found)} == {"liver, left."}


def test_one_pass_for_many_labels(grounder: MedicalPhraseGroundingPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = grounder.model.forward

    def counted(**inputs: Any) -> Any:
        calls.append(len(inputs["pixel_values"]))
        return forward(**inputs)

    monkeypatch.setattr(grounder.model, "forward", counted)
    grounder(PICTURE, candidate_labels=["liver", "spleen", "left kidney"], modality="fundus")
    assert calls == [1]


def test_lists_of_images(grounder: MedicalPhraseGroundingPipeline, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(path)
    prompts = ["liver. spleen", ["polyp"], "liver"]
    modalities = ["ct", "retina", "ct"]
    found = grounder([PICTURE, Image.fromarray(PICTURE), path], text=prompts, modality=modalities, **LOW)
    for result, prompt, modality in zip(found, prompts, modalities, strict=True):
        alone = grounder(PICTURE, text=prompt, modality=modality, **LOW)
        assert [entry["score"] for entry in result] == pytest.approx([entry["score"] for entry in alone])
        assert {entry["label"] for entry in result} <= {"liver", "spleen", "polyp"}
    assert len(grounder([path], text="liver", modality="ct", top_k=1, **LOW)[0]) == 1


def test_auto_asks_the_router(grounder: MedicalPhraseGroundingPipeline) -> None:
    routed = grounder(PICTURE, text="liver", **LOW)
    assert routed == grounder(PICTURE, text="liver", modality="fundus", **LOW)


def test_stock_pipeline(folder: Path) -> None:
    detector = pipeline("zero-shot-object-detection", model=str(folder), dtype=torch.float32)
    found = detector(Image.fromarray(PICTURE), candidate_labels=["liver", "left kidney"], threshold=0.01)
    assert {entry["label"] for entry in found} <= {"liver", "left kidney"} and found
    scores = [entry["score"] for entry in found]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] < 1
    for entry in found:
        assert 0 <= entry["box"]["xmin"] <= entry["box"]["xmax"] <= 80
        assert 0 <= entry["box"]["ymin"] <= entry["box"]["ymax"] <= 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "say what to look for"),
        ({"text": "", "modality": "ct"}, "the prompt is empty"),
        ({"text": "liver", "modality": "pet"}, "unknown modality"),
        ({"text": "liver", "modality": "ct", "colour": 3}, "unknown options: colour"),
    ],
)
def test_bad_requests(grounder: MedicalPhraseGroundingPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grounder(PICTURE, **arguments)


def test_lists_that_do_not_fit(grounder: MedicalPhraseGroundingPipeline) -> None:
    with pytest.raises(ValueError, match="2 images but 3 prompts"):
        grounder([PICTURE, PICTURE], text=["a", "b", "c"])
    with pytest.raises(ValueError, match="2 images but 1 modalities"):
        grounder([PICTURE, PICTURE], text="liver", modality=["ct"])


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (np.zeros((4, 5)), (4, 5)),
        (np.zeros((4, 5, 3)), (4, 5)),
        (np.zeros((3, 4, 5)), (4, 5)),
        (np.zeros((3, 5, 3)), (3, 5)),
        (torch.zeros(3, 5, 3), (5, 3)),
        (Image.new("L", (5, 4)), (4, 5)),
    ],
)
def test_picture_size(image: Any, size: tuple[int, int]) -> None:
    assert picture_size(image) == size
