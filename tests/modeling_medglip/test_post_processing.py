# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes out of the model's output: scores, suppression, thresholds, sizes, calibration."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_medglip import MedGlipProcessor
from modeling_medglip.image_processing_medglip import (
    clip_legacy,
    label_scores,
    nms_per_label,
    phrase_tokens,
    post_process_boxes,
)

from .tiny_processor import made_up_outputs, tiny_processor


IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)
WIDE = np.zeros((50, 100, 3), dtype=np.uint8)
WORDS = ("liver", "spleen", "left kidney", "right kidney", "lung nodule", "pneumothorax", "polyp", "disc", "adenoma")


@pytest.fixture(scope="module")
def processor() -> MedGlipProcessor:
    return tiny_processor({"modality": "endoscopy"})


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Intersection over union of two xyxy boxes."""
    sides = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0)
    areas = [float((box[2:] - box[:2]).prod()) for box in (one, other)]
    return float(sides.prod()) / (sum(areas) - float(sides.prod()))


def test_label_scores_are_means_of_probabilities() -> None:
    logits = torch.tensor([[[0.0, 2.0, -1.0, 5.0]]])
    tokens = torch.tensor([[[False, True, True, False], [True, False, False, False], [False] * 4]])
    expected = [(torch.sigmoid(torch.tensor(2.0)) + torch.sigmoid(torch.tensor(-1.0))) / 2, 0.5, 0]
    torch.testing.assert_close(label_scores(logits, tokens)[0, 0], torch.tensor(expected))


def test_found_boxes_come_back_in_the_original(processor: MedGlipProcessor) -> None:
    inputs = processor(WIDE, ["Liver", "Left kidney, lower pole"], size={"height": 64, "width": 64})
    outputs = made_up_outputs(inputs, [[0, 0, 31, 31], [16, 8, 70, 70]], [1, 0], [0.9, 0.5])
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs, 0.3, target_sizes=[(50, 100)])
    assert result["text_labels"] == ["Left kidney, lower pole", "Liver"] and result["labels"].tolist() == [1, 0]
    torch.testing.assert_close(result["scores"], torch.tensor([0.9, 0.5]))
    torch.testing.assert_close(result["boxes"], torch.tensor([[0.0, 0, 50, 25], [25, 6.25, 100, 50]]))
    as_tensor = processor.post_process_grounded_object_detection(outputs, inputs, 0.3, torch.tensor([[50, 100]]))
    assert torch.equal(as_tensor[0]["boxes"], result["boxes"])


def test_legacy_boxes_and_input_pixels(processor: MedGlipProcessor) -> None:
    inputs = processor(WIDE, "liver", size={"height": 64, "width": 64})
    outputs = made_up_outputs(inputs, [[-3, 8, 70, 31]], [0], [0.9])
    legacy = processor.post_process_grounded_object_detection(outputs, inputs, legacy_boxes=True)
    assert legacy[0]["boxes"].tolist() == [[0, 8, 63, 31]]
    plain = processor.post_process_grounded_object_detection(outputs, inputs)
    assert plain[0]["boxes"].tolist() == [[0, 8, 64, 32]]
    half = processor.post_process_grounded_object_detection(
        outputs, inputs, legacy_boxes=True, target_sizes=[(32, 32)]
    )
    assert half[0]["boxes"].tolist() == [[0, 4, 31.5, 15.5]]


def test_calibrated_scores_are_chances(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver. spleen")
    boxes = [[0, 0, 31, 31], [10, 10, 50, 50], [0, 0, 9, 9]]
    outputs = made_up_outputs(inputs, boxes, [0, 1, 0], [0.9, 0.5, 0.3])
    (plain,) = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0)
    outputs.score_calibration = torch.tensor([[2.0, -1.0]])
    (found,) = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0)
    expected = 1 / (1 + math.e * ((1 - plain["scores"]) / plain["scores"]) ** 2)
    torch.testing.assert_close(found["scores"], expected)
    assert torch.equal(found["boxes"], plain["boxes"]) and found["text_labels"] == plain["text_labels"]
    (few,) = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.3)
    assert len(few["scores"]) == 1, "the threshold counts chances: 0.5 has become 0.27"


def test_each_image_has_its_own_calibration(processor: MedGlipProcessor) -> None:
    inputs = processor([IMAGE, IMAGE], "liver")
    outputs = made_up_outputs(inputs, [[0, 0, 31, 31]], [0], [0.9])
    for field in (outputs.logits, outputs.centerness, outputs.pred_boxes):
        field[1] = field[0]
    outputs.score_calibration = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    first, second = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0)
    assert first["scores"][0].item() == pytest.approx(0.9)
    assert second["scores"][0].item() == pytest.approx(1 / (1 + math.e * (0.1 / 0.9) ** 2))


def test_labels_never_suppress_each_other(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver. spleen")
    box, near = [10.0, 10, 50, 50], [11.0, 10, 50, 50]
    outputs = made_up_outputs(inputs, [box, near, box, near], [0, 0, 1, 1], [0.9, 0.8, 0.7, 0.6])
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs)
    assert result["text_labels"] == ["liver", "spleen"]
    assert len(processor.post_process_grounded_object_detection(outputs, inputs, nms_threshold=1.0)[0]["scores"]) == 4


def test_nms_counts_pixels_as_glip_does() -> None:
    legacy = torch.tensor([[0.0, 0, 9, 9], [0.0, 0, 9, 4]])
    scores, labels = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert nms_per_label(legacy + torch.tensor([0, 0, 1, 1]), scores, labels, 0.5).tolist() == [0, 1]
    assert nms_per_label(legacy + torch.tensor([0, 0, 1, 1]), scores, labels, 0.49).tolist() == [0]
    assert nms_per_label(legacy[:0], scores[:0], labels[:0], 0.6).shape == (0,)


@given(st.integers(0, 2**16), st.integers(1, 30))
def test_nms_equals_the_plain_rule(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 10
    boxes = torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 10], dim=1)
    scores, labels = torch.rand(count, generator=generator), torch.randint(3, (count,), generator=generator)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        others = [other for other in kept if labels[other] == labels[index]]
        if all(overlap(boxes[index], boxes[other]) <= 0.5 for other in others):
            kept.append(index)
    assert nms_per_label(boxes, scores, labels, 0.5).tolist() == kept


def test_thresholds_and_limits(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver")
    boxes = [[20.0 * place, 0, 20 * place + 10, 10] for place in range(10)]
    scores = [0.04, 0.06, 0.2, 0.31, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    outputs = made_up_outputs(inputs, boxes, [0] * 10, scores)

    def found(**options: Any) -> list[float]:
        (result,) = processor.post_process_grounded_object_detection(outputs, inputs, **options)
        return [round(score, 4) for score in result["scores"].tolist()]

    assert found() == scores[:2:-1]
    assert found(threshold=0.0) == scores[:0:-1]
    assert found(threshold=0.0, pre_nms_threshold=0.0)[-2:] != [0.2, 0.06]
    assert found(threshold=0.0, max_detections=2) == [0.9, 0.8]
    assert found(threshold=0.95) == []

    exact = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0)[0]["scores"][0].item()
    assert found(threshold=exact) == [] and found(threshold=exact - 1e-6) == [0.9]
    (label_score,) = label_scores(outputs.logits[0][None, 9:10], inputs["label_tokens"]).flatten().tolist()
    assert found(pre_nms_threshold=label_score) == [] and found(pre_nms_threshold=label_score - 1e-6) == [0.9]


def test_the_candidate_threshold_is_on_the_label_score_alone(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver")
    outputs = made_up_outputs(inputs, [[0, 0, 9, 9]], [0], [0.9])
    outputs.centerness[:] = torch.tensor(0.01).logit()
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0)
    assert result["scores"].tolist() == pytest.approx([(0.9 * 0.01) ** 0.5])


def test_each_level_gives_at_most_a_thousand_candidates() -> None:
    outputs = SimpleNamespace(
        logits=torch.zeros(1, 1504, 1),
        centerness=torch.zeros(1, 1504),
        pred_boxes=torch.tensor([0.0, 0, 9, 9]).expand(1, 1504, 4),
        input_sizes=torch.tensor([[64, 64]]),
        spatial_shapes=torch.tensor([[30, 50], [2, 2]]),
    )
    tokens = torch.ones(1, 1, 1, dtype=torch.bool)
    (result,) = post_process_boxes(outputs, tokens, 0.0, nms_threshold=1.0, max_detections=5000)
    assert len(result["scores"]) == 1004


def test_chunks_of_labels_keep_their_names() -> None:
    processor = tiny_processor({"modality": "endoscopy"}, max_text_tokens=12)
    inputs = processor(IMAGE, list(WORDS))
    first = int(inputs["label_tokens"][0, 0].any(-1).sum())
    outputs = made_up_outputs(inputs, [[0, 0, 20, 20], [30, 30, 60, 60]], [0, 1], [0.9, 0.8], chunk=1)
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs)
    assert result["text_labels"] == list(WORDS[first : first + 2])
    assert result["boxes"].tolist() == [[0, 0, 21, 21], [30, 30, 61, 61]]


def test_results_of_one_image_do_not_leak_into_the_next(processor: MedGlipProcessor) -> None:
    inputs = processor([IMAGE, WIDE], "liver")
    outputs = made_up_outputs(inputs, [[0, 0, 9, 9]], [0], [0.9])
    sizes = [(32, 32), (50, 100)]
    first, second = processor.post_process_grounded_object_detection(outputs, inputs, target_sizes=sizes)
    assert first["text_labels"] == ["liver"] and second["text_labels"] == [] and second["boxes"].shape == (0, 4)


def test_a_mask_over_the_border_does_not_move_the_boxes(processor: MedGlipProcessor) -> None:
    mask = np.ones((50, 100))
    mask[40:] = 0
    inputs = processor(WIDE, "liver", pixel_mask=mask, size={"height": 100, "width": 200})
    outputs = made_up_outputs(inputs, [[0, 0, 99, 49]], [0], [0.9])
    assert outputs.input_sizes.tolist() == [[80, 200]]
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs, target_sizes=[(50, 100)])
    assert result["boxes"].tolist() == [[0, 0, 50, 25]]


def test_half_precision_outputs(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver. spleen")
    outputs = made_up_outputs(inputs, [[0, 0, 31, 31]], [1], [0.9])
    for name in ("logits", "centerness", "pred_boxes"):
        setattr(outputs, name, getattr(outputs, name).to(torch.bfloat16))
    (result,) = processor.post_process_grounded_object_detection(outputs, inputs)
    assert result["text_labels"] == ["spleen"] and result["scores"].dtype == torch.float32


def test_clip_legacy() -> None:
    assert clip_legacy(torch.tensor([[-5.0, -1, 99, 70]]), (64, 96)).tolist() == [[0, 0, 95, 63]]


@pytest.mark.parametrize("field", ["logits", "centerness"])
def test_broken_numbers_are_not_taken_for_nothing_found(processor: MedGlipProcessor, field: str) -> None:
    inputs = processor(WIDE, "polyp.")
    outputs = made_up_outputs(inputs, [[1, 1, 50, 50]], [0], [0.9])
    getattr(outputs, field).flatten()[0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        processor.post_process_grounded_object_detection(outputs, inputs)


def test_outputs_that_do_not_belong_to_the_inputs(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "liver")
    outputs = made_up_outputs(inputs, [[0, 0, 9, 9]], [0], [0.9])
    with pytest.raises(ValueError, match="do not belong"):
        processor.post_process_grounded_object_detection(outputs, processor(IMAGE, "liver. spleen. polyp"))
    with pytest.raises(ValueError, match="1 images but 2 target_sizes"):
        processor.post_process_grounded_object_detection(outputs, inputs, target_sizes=[(1, 1)] * 2)
    with pytest.raises(ValueError, match="hold no label_tokens"):
        processor.post_process_grounded_object_detection(outputs, processor(IMAGE))


def test_phrases_of_the_bare_tokenizer(processor: MedGlipProcessor) -> None:
    outputs = SimpleNamespace(logits=torch.zeros(2, 3, 6))
    assert phrase_tokens(outputs).tolist() == [[[False, True, True, True, True, False]]] * 2
    outputs.label_token_mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    assert phrase_tokens(outputs)[1].tolist() == [[False, True, False, False, False, False]]


def test_image_processor_post_processing(processor: MedGlipProcessor) -> None:
    inputs = processor(IMAGE, "polyp", size={"height": 64, "width": 64})
    outputs = made_up_outputs(inputs, [[0, 0, 31, 31]], [0], [0.5])
    outputs.logits = outputs.logits[..., [0, 1, 3]]
    found = processor.image_processor.post_process_object_detection(outputs, 0.1, torch.tensor([[32, 32]]))
    assert found[0]["boxes"].tolist() == [[0, 0, 16, 16]] and found[0]["scores"].tolist() == pytest.approx([0.5])
    outputs.score_calibration = torch.tensor([[1.0, 1.0]])
    (found,) = processor.image_processor.post_process_object_detection(outputs)
    assert found["scores"].tolist() == pytest.approx([1 / (1 + math.exp(-1))])
