# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The stock pipeline and the project's own, on a tiny checkpoint with random weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ZeroShotObjectDetectionPipeline, pipeline
from transformers.image_utils import load_image
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_medglip.detection import join_prompts
from modeling_medglip.grounding import Grounder
from modeling_medglip.image_processing_medglip import MedGlipImageProcessor
from modeling_medglip.pipeline_medglip import (
    TASK,
    MedicalPhraseGroundingPipeline,
    ZeroShotObjectDetectionTask,
    image_size,
    register_pipeline,
)
from modeling_medglip.trained_labels import TrainedLabels

from .tiny_checkpoint import biased_router, save_tiny_checkpoint


IMAGE = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
LOW: dict[str, Any] = {"threshold": 0.0, "pre_nms_threshold": 0.0}
ALL: dict[str, Any] = {**LOW, "untrained_threshold": 0.0}


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
    found = grounder(IMAGE, text="liver. spleen", modality="ct", **LOW)
    inputs = grounder.processor(IMAGE, "liver. spleen", modality="ct")
    with torch.no_grad():
        outputs = grounder.model(**inputs)
    (expected,) = grounder.processor.post_process_grounded_object_detection(
        outputs, inputs, target_sizes=[IMAGE.shape[:2]], **LOW
    )
    assert len(found) == len(expected["scores"]) > 0
    assert [entry["score"] for entry in found] == pytest.approx(expected["scores"].tolist())
    assert [entry["label"] for entry in found] == expected["text_labels"]
    assert list(found[0]["box"].values()) == pytest.approx(expected["boxes"][0].tolist())
    assert set(found[0]["box"]) == {"xmin", "ymin", "xmax", "ymax"} and found[0]["trained"] is True


def test_own_pipeline_equals_detect(grounder: MedicalPhraseGroundingPipeline) -> None:
    images, names = [IMAGE, IMAGE[:30]], ["ct", "fundus"]
    found = grounder(images, text=[["liver"], ["liver"]], modality=names, batch_size=2, **ALL)
    detector = Grounder(grounder.model, grounder.processor, "tiny", grounder.device)
    sizes = [(50, 80), (30, 80)]
    expected = detector.detect(images, [["liver"], ["liver"]], names, threshold=0.05, target_sizes=sizes)
    for entries, result in zip(found, expected, strict=True):
        boxes = [list(entry["box"].values()) for entry in entries if entry["score"] >= 0.05]
        assert len(boxes) == len(result["scores"]) > 0
        assert boxes == [pytest.approx(box) for box in result["boxes"].tolist()]


def test_one_prompt_is_joined_to_every_image() -> None:
    prompts = {"input_ids": torch.tensor([[7, 8]]), "text_labels": [["liver"]]}
    pixels = {"pixel_values": torch.zeros(3, 3, 4, 4)}
    joined = join_prompts(prompts, pixels, 3)
    assert joined["input_ids"].tolist() == [[7, 8]] * 3 and joined["text_labels"] == [["liver"]] * 3
    each = join_prompts({"input_ids": torch.arange(3)[:, None], "text_labels": [["a"], ["b"], ["c"]]}, pixels, 3)
    assert each["input_ids"].tolist() == [[0], [1], [2]] and each["text_labels"] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("text", [["liver, left."], [["liver, left."]]])
def test_labels_in_lists_come_back_as_they_are(grounder: MedicalPhraseGroundingPipeline, text: Any) -> None:
    images = [IMAGE] if isinstance(text[0], list) else IMAGE
    found = grounder(images, text=text, modality="ct", **ALL)
    assert {entry["label"] for entry in (found[0] if isinstance(images, list) else found)} == {"liver, left."}


def test_untrained_labels_need_more_and_sides_are_understood(grounder: MedicalPhraseGroundingPipeline) -> None:
    found = grounder(IMAGE, text="kidney (L). left kidney", modality="ct", **ALL)
    boxes = [[entry["box"] for entry in found if entry["label"] == name] for name in ("kidney (L)", "left kidney")]
    assert boxes[0] and boxes[0] == boxes[1] and not any(entry["trained"] for entry in found)
    assert not grounder(IMAGE, text="kidney (L). left kidney", modality="ct", untrained_threshold=1, **LOW)


def test_one_pass_for_many_labels(grounder: MedicalPhraseGroundingPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = grounder.fast.forward

    def counted(**inputs: Any) -> Any:
        calls.append(len(inputs["pixel_values"]))
        return forward(**inputs)

    monkeypatch.setattr(grounder.fast, "forward", counted)
    grounder(IMAGE, candidate_labels=["liver", "spleen", "left kidney"], modality="fundus")
    assert calls == [1]


def test_lists_of_images(grounder: MedicalPhraseGroundingPipeline, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    prompts = ["liver. spleen", ["polyp"], "liver"]
    modalities = ["ct", "retina", "ct"]
    found = grounder([IMAGE, Image.fromarray(IMAGE), path], text=prompts, modality=modalities, **ALL)
    for result, prompt, modality in zip(found, prompts, modalities, strict=True):
        alone = grounder(IMAGE, text=prompt, modality=modality, **ALL)
        assert [entry["score"] for entry in result] == pytest.approx([entry["score"] for entry in alone])
        assert {entry["label"] for entry in result} <= {"liver", "spleen", "polyp"}
    assert len(grounder([path], text="liver", modality="ct", top_k=1, **LOW)[0]) == 1


def test_candidate_labels_are_for_every_image(grounder: MedicalPhraseGroundingPipeline) -> None:
    asked = ["liver", "spleen"]
    for images in ([IMAGE] * 2, [IMAGE] * 3):  # as many as labels, and more
        found = grounder(images, candidate_labels=asked, modality="ct", **ALL)
        assert [{box["label"] for box in boxes} for boxes in found] == [set(asked)] * len(images)


def test_all_asks_what_the_checkpoint_was_trained_with(
    grounder: MedicalPhraseGroundingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grounder, "trained", TrainedLabels({}))
    with pytest.raises(ValueError, match="does not state its labels for ct: name them instead of all"):
        grounder(IMAGE, text="all", modality="ct")
    monkeypatch.setattr(grounder, "trained", TrainedLabels({"ct": ["liver", "spleen"]}))
    for asked in ({"text": "all"}, {"text": ["All"]}, {"candidate_labels": ["all"]}):
        assert {box["label"] for box in grounder(IMAGE, **asked, modality="ct", **ALL)} == {"liver", "spleen"}


def test_untrained_labels_are_warned_of_once(
    grounder: MedicalPhraseGroundingPipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(grounder, "trained", TrainedLabels({"ct": ["liver"]}))
    for _ in range(2):
        grounder([IMAGE] * 2, text="liver. unicorn. Lt. kidney", modality="ct")
    shown = "boxes for them may mean nothing and are shown from a score of 0.9 on"
    assert [record.message for record in caplog.records] == [f"not trained in ct: unicorn, Lt. kidney: {shown}"]


def test_auto_asks_the_router(grounder: MedicalPhraseGroundingPipeline) -> None:
    routed = grounder(IMAGE, text="optic disc", **LOW)
    assert routed and routed == grounder(IMAGE, text="optic disc", modality="fundus", **LOW)


def test_the_prompt_counts_where_the_router_is_not_sure(
    grounder: MedicalPhraseGroundingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = grounder.processor.image_processor
    for probability, expert in ((0.6, "fundus"), (0.75, "ct")):
        monkeypatch.setattr(processor, "router", biased_router("ct", probability))
        low = {**LOW, "untrained_threshold": 0.0}
        routed = grounder(IMAGE, text="optic disc", **low)
        assert routed and routed == grounder(IMAGE, text="optic disc", modality=expert, **low)


def test_nothing_is_found_in_what_is_not_a_medical_image(
    grounder: MedicalPhraseGroundingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = biased_router("other", 0.95, ("ct", "fundus", "other"))
    monkeypatch.setattr(grounder.processor.image_processor, "router", router)
    unknown, stated = grounder([IMAGE, IMAGE], text="optic disc", modality=["auto", "fundus"], **LOW)
    assert unknown == [] and stated
    monkeypatch.setattr(grounder.processor.image_processor, "router_warning", 0.99)
    assert grounder(IMAGE, text="liver", **LOW), "unsure"


def test_an_image_is_recognized_once(
    grounder: MedicalPhraseGroundingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, seen = grounder.processor.image_processor, []
    probabilities = processor.modality_probabilities
    monkeypatch.setattr(
        processor, "modality_probabilities", lambda *args, **kwargs: seen.append(1) or probabilities(*args, **kwargs)
    )
    grounder(IMAGE, text="liver", modality="auto", **LOW)
    assert len(seen) == 1
    with pytest.raises(ValueError, match="image 0: the image holds NaN"):
        grounder(np.full((30, 30), np.nan, np.float32), text="liver", modality="auto", **LOW)


def test_stock_pipeline(folder: Path) -> None:
    detector = pipeline("zero-shot-object-detection", model=str(folder), dtype=torch.float32)
    labels = ["liver", "left kidney"]
    found = detector(Image.fromarray(IMAGE), candidate_labels=labels, threshold=0.01, untrained_threshold=0)
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
        ({"text": "liver", "modality": "ct", "color": 3}, "unknown options: color"),
    ],
)
def test_bad_requests(grounder: MedicalPhraseGroundingPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grounder(IMAGE, **arguments)


def test_lists_that_do_not_fit(grounder: MedicalPhraseGroundingPipeline) -> None:
    with pytest.raises(ValueError, match="2 images but 3 prompts"):
        grounder([IMAGE, IMAGE], text=["a", "b", "c"])
    with pytest.raises(ValueError, match="2 images but 1 modalities"):
        grounder([IMAGE, IMAGE], text="liver", modality=["ct"])


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
def test_image_size(image: Any, size: tuple[int, int]) -> None:
    assert image_size(image) == size


@pytest.fixture(scope="module")
def detector(folder: Path) -> Any:
    return pipeline("zero-shot-object-detection", model=str(folder), dtype=torch.float32)


class TestStockTask:
    """`zero-shot-object-detection`, which goes to the processor for MedGLIP and to transformers for others."""

    def test_16_bit_files_keep_their_levels(self, detector: Any, tmp_path: Path) -> None:
        gray = IMAGE[..., 0]
        Image.fromarray(gray).save(tmp_path / "8.png")
        Image.fromarray(gray.astype(np.uint16) * 16).save(tmp_path / "12.png")
        eight, twelve = (
            detector(str(tmp_path / f"{bits}.png"), candidate_labels=["liver"], modality="ct", threshold=0.0)
            for bits in (8, 12)
        )
        assert len(eight) == len(twelve) > 0
        assert [box["score"] for box in eight] == pytest.approx([box["score"] for box in twelve], abs=0.02)
        assert list(eight[0]["box"].values()) == pytest.approx(list(twelve[0]["box"].values()), abs=3)

    def test_equals_the_own_pipeline(self, detector: Any, grounder: MedicalPhraseGroundingPipeline) -> None:
        own = grounder(IMAGE, text=["liver", "left kidney"], modality="ct", **ALL)
        stock = detector(IMAGE, candidate_labels=["liver", "left kidney"], modality="ct", **ALL)
        assert [box["score"] for box in stock] == pytest.approx([box["score"] for box in own])
        assert [box["box"]["xmin"] for box in stock] == [int(box["box"]["xmin"]) for box in own]
        assert all(isinstance(side, int) for side in stock[0]["box"].values())

    def test_batches_change_nothing(self, detector: Any) -> None:
        small = Image.fromarray(IMAGE[:30])
        asked = [
            {"image": Image.fromarray(IMAGE), "candidate_labels": ["liver", "left kidney"]},
            {"image": small, "candidate_labels": "polyp"},
            {"image": small, "candidate_labels": ["liver"], "modality": "ct"},
        ]
        one, two, three = (detector(asked, **ALL, batch_size=size) for size in (1, 2, 3))
        for other in (two, three, detector(iter(asked), **ALL, batch_size=2)):
            for first, second in zip(one, other, strict=True):
                assert [box["label"] for box in first] == [box["label"] for box in second]
                assert [box["score"] for box in first] == pytest.approx([box["score"] for box in second], abs=1e-5)

    def test_images_are_upright_as_paths_and_as_pil_images(self, detector: Any, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        path = tmp_path / "turned.png"
        Image.fromarray(IMAGE).save(path, exif=exif)
        options: dict[str, Any] = {"candidate_labels": ["liver"], "modality": "ct", **ALL}
        upright = detector(np.rot90(IMAGE, -1).copy(), **options)
        assert upright and detector(str(path), **options) == detector(Image.open(path), **options) == upright

    def test_a_flat_list_is_for_all_images(self, detector: Any) -> None:
        found = detector([Image.fromarray(IMAGE)] * 2, candidate_labels=["liver", "left kidney"], **ALL)
        assert [{box["label"] for box in boxes} for boxes in found] == [{"liver", "left kidney"}] * 2

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"modality": "banana"}, "unknown modality 'banana': choose one of ct"), ({"modalitty": "ct"}, "modalitty")],
    )
    def test_nothing_is_swallowed(self, detector: Any, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            detector(IMAGE, candidate_labels=["liver"], **options)
        with pytest.raises(ValueError, match="images are read from files only"):
            detector("https://example.org/a.png", candidate_labels=["liver"])

    def test_parts_instead_of_a_folder(self, detector: Any) -> None:
        parts = {"image_processor": detector.processor.image_processor, "tokenizer": detector.processor.tokenizer}
        made = pipeline("zero-shot-object-detection", model=detector.model, **parts)
        assert made(IMAGE, candidate_labels=["liver"], threshold=0.01, untrained_threshold=0)

    def test_other_models_get_transformers_own(self) -> None:
        task = ZeroShotObjectDetectionTask.__new__(ZeroShotObjectDetectionTask, model=torch.nn.Identity())
        assert isinstance(task, ZeroShotObjectDetectionPipeline)
        assert type(task).preprocess is ZeroShotObjectDetectionPipeline.preprocess


def test_lost_levels_are_reported(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this package imported, transformers' own pipeline hands over what `load_image` made of a 16-bit file."""
    deep = Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 16)
    processor = MedGlipImageProcessor()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    processor(deep, modality="xray")
    assert not caplog.records
    processor(load_image(deep), modality="xray")
    assert "cut the levels of 16-bit files" in caplog.text
