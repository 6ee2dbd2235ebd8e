# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Detectors with fixed labels: what they compute, and that one routine measures them like grounding models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from tests.modeling_medglip.tiny_checkpoint import tiny_config, tiny_processor
from training.evaluate.predict import detect_records
from training.studies.baselines.closed_vocabulary import ClosedVocabularyDetector
from training.studies.baselines.deformable_detr import DeformableDetrDetector
from training.studies.baselines.fixed_labels import FixedLabelCollator, FixedLabelProcessor

from ..tiny_data import record


LABELS = ("left kidney", "liver", "spleen")


def closed() -> ClosedVocabularyDetector:
    torch.manual_seed(0)
    return ClosedVocabularyDetector(MedGlipForObjectDetection(tiny_config(("ct",))), LABELS)


def deformable() -> DeformableDetrDetector:
    torch.manual_seed(0)
    return DeformableDetrDetector(LABELS, width=64, layers=1, queries=10, pretrained=False)


def batch(images: int = 2) -> dict[str, Any]:
    examples = []
    for number in range(images):
        left = 8.0 + 6 * number
        box = torch.tensor([[left, 8.0, left + 30, 40.0]])
        image = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(number))
        target = {"boxes": box, "class_labels": torch.tensor([0])}
        examples.append(
            {"pixel_values": image, "text_labels": ["liver", "spleen"], "labels": target, "modality": "ct"}
        )
    return FixedLabelCollator(LABELS)(examples)


def test_batches_speak_of_rows() -> None:
    made = batch()
    assert made["known"].tolist() == [[False, True, True]] * 2
    assert [target["class_labels"].tolist() for target in made["labels"]] == [[1], [1]]


def test_scores_are_features_times_a_matrix() -> None:
    """Eq. 3: S = F W^T (+ the prior's bias), for every region and label."""
    model = closed().eval()
    seen: list[torch.Tensor] = []
    handle = model.classes.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    logits = model(batch()["pixel_values"]).logits
    handle.remove()
    assert torch.allclose(logits, seen[0] @ model.classes.weight.T + model.classes.bias, atol=1e-6)
    assert logits.shape[-1] == len(LABELS) and abs(float(logits.sigmoid().mean()) - 0.4) < 0.1, (
        "the prior of the tiny head"
    )


def test_language_takes_no_part() -> None:
    model = closed()
    loss = model(**batch()).loss
    loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name in trained if "text" in name or "fusion" in name or "alignment" in name]
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not [name for name in without if "backbone" not in name], without


def test_labels_that_are_not_known_are_not_negatives() -> None:
    model, made = closed(), batch()
    model(**made).loss.backward()
    gradient = model.classes.bias.grad
    assert gradient is not None and gradient[0] == 0 and (gradient[1:] != 0).all()


@pytest.mark.parametrize("make", [closed, deformable])
def test_they_learn_a_image_by_heart(make: Any) -> None:
    model: nn.Module = make().train()
    made = batch()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(25):
        loss = model(**made).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.parametrize("make", [closed, deformable])
def test_one_routine_measures_all(make: Any, tmp_path: Path) -> None:
    model = make().eval()
    processor = FixedLabelProcessor(tiny_processor(tmp_path, ("ct",)), LABELS)
    records = [record([[10, 10, 40, 40]], ["liver"], ["liver", "unheard of"]) for _ in range(3)]
    detections, _ = detect_records(model, processor, records, [["liver", "unheard of"]] * 3)
    assert len(detections) == 3
    for result in detections:
        assert set(result.labels) <= {"liver"}, "a label without a row is never found"
        assert len(result.labels) and (result.boxes >= 0).all() and result.boxes[:, 2].max() <= 100.001


def test_boxes_of_deformable_detr_are_pixels_of_the_input() -> None:
    model = deformable().eval()
    pixels = batch(1)["pixel_values"]
    with torch.no_grad():
        ours, theirs = model(pixels), model.detector(pixels)
    center, extent = theirs.pred_boxes[..., :2] * 64, theirs.pred_boxes[..., 2:] * 64
    assert torch.allclose(ours.pred_boxes[..., :2], center - extent / 2, atol=1e-4)
    assert torch.allclose(ours.pred_boxes[..., 2:] + 1, center + extent / 2, atol=1e-4)


def test_a_phrase_without_a_row_is_left_out() -> None:
    example = {
        "pixel_values": torch.zeros(3, 8, 8),
        "text_labels": ["somewhere else", "b"],
        "labels": {"boxes": torch.tensor([[1.0, 1, 4, 4]]), "class_labels": torch.tensor([1])},
        "modality": "ct",
    }
    batch = FixedLabelCollator(["a", "b"])([example])
    assert batch["known"].tolist() == [[False, True]] and batch["labels"][0]["class_labels"].tolist() == [1]
