# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Habits of users of transformers' other detectors: they work as meant, or the error says what is expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from modeling_medglip import MedGlipForObjectDetection, MedGlipProcessor
from modeling_medglip.image_processing_medglip import looks_normalized

from .tiny_checkpoint import tiny_config
from .tiny_processor import made_up_outputs, tiny_processor


PICTURE = np.random.default_rng(0).integers(0, 256, (50, 80), dtype=np.uint8)
LABELS = ["liver", "left kidney"]


@pytest.fixture(scope="module")
def processor() -> MedGlipProcessor:
    small = {name: {"size": {"height": 64, "width": 64}} for name in ("ct", "fundus")}
    return tiny_processor({"modality_settings": small})


@pytest.fixture(scope="module")
def model() -> MedGlipForObjectDetection:
    torch.manual_seed(0)
    return MedGlipForObjectDetection(tiny_config()).eval()


class TestPostProcessing:
    """Names and positions of Grounding DINO's arguments."""

    def found(self, processor: MedGlipProcessor) -> tuple[Any, Any]:
        inputs = processor(PICTURE, [LABELS], modality="ct")
        return made_up_outputs(inputs, [[4, 4, 20, 20], [30, 30, 50, 50]], [0, 1], [0.9, 0.5]), inputs

    def test_box_threshold(self, processor: MedGlipProcessor) -> None:
        outputs, inputs = self.found(processor)
        with pytest.warns(FutureWarning, match="use threshold"):
            (result,) = processor.post_process_grounded_object_detection(outputs, inputs, box_threshold=0.7)
        assert result["text_labels"] == ["liver"]

    def test_text_threshold_changes_nothing(self, processor: MedGlipProcessor) -> None:
        outputs, inputs = self.found(processor)
        with pytest.warns(FutureWarning, match="text_threshold has no effect"):
            (result,) = processor.post_process_grounded_object_detection(outputs, inputs, text_threshold=0.99)
        assert result["text_labels"] == LABELS

    @pytest.mark.parametrize("named", [False, True])
    def test_input_ids_instead_of_the_batch(self, processor: MedGlipProcessor, named: bool) -> None:
        outputs, inputs = self.found(processor)
        sizes = torch.tensor([[50, 80]])
        (expected,) = processor.post_process_grounded_object_detection(outputs, inputs, target_sizes=sizes)
        given: dict[str, Any] = {"input_ids": inputs.input_ids} if named else {"inputs": inputs.input_ids}
        (result,) = processor.post_process_grounded_object_detection(outputs, **given, target_sizes=sizes)
        assert result["text_labels"] == expected["text_labels"] == LABELS
        assert torch.equal(result["boxes"], expected["boxes"]) and torch.equal(result["scores"], expected["scores"])

    def test_input_ids_of_chunks(self) -> None:
        short = tiny_processor({"modality_settings": {"ct": {"size": {"height": 64, "width": 64}}}}, max_text_tokens=8)
        inputs = short(PICTURE, [["liver", "left kidney", "spleen", "lung"]], modality="ct")
        assert inputs.input_ids.ndim == 3
        outputs = made_up_outputs(inputs, [[4, 4, 20, 20]], [0], [0.9], chunk=1)
        results = [
            short.post_process_grounded_object_detection(outputs, given)[0]["text_labels"]
            for given in (inputs, inputs.input_ids)
        ]
        assert results[0] == results[1] != []

    def test_nothing_to_read_labels_from(self, processor: MedGlipProcessor) -> None:
        outputs, _ = self.found(processor)
        with pytest.raises(ValueError, match="pass the batch that the processor made"):
            processor.post_process_grounded_object_detection(outputs)

    def test_a_number_in_the_place_of_the_sizes(self, processor: MedGlipProcessor) -> None:
        outputs, inputs = self.found(processor)
        with pytest.raises(ValueError, match="target_sizes holds .height, width. for each image"):
            processor.post_process_grounded_object_detection(outputs, inputs, 0.4, 0.3)

    def test_results_carry_no_gradients(self, processor: MedGlipProcessor, model: MedGlipForObjectDetection) -> None:
        inputs = processor(PICTURE, [LABELS], modality="ct")
        (result,) = processor.post_process_grounded_object_detection(
            model(**inputs), inputs, threshold=0.0, pre_nms_threshold=0.0, target_sizes=[(50, 80)]
        )
        assert len(result["scores"]) and not result["scores"].requires_grad and not result["boxes"].requires_grad
        assert "grad_fn" not in repr(result) and result["boxes"].numpy().shape[1] == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_need_no_cast(processor: MedGlipProcessor, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = MedGlipForObjectDetection(tiny_config()).eval().to(dtype)
    inputs = processor(PICTURE, [LABELS], modality="ct")
    with torch.no_grad():
        outputs = model(**inputs)
    assert outputs.logits.dtype == dtype
    processor.post_process_grounded_object_detection(outputs, inputs, threshold=0.0)


class TestNormalizedBoxes:
    """DETR's (center x, center y, width, height) in 0..1."""

    def test_in_labels(self, processor: MedGlipProcessor, model: MedGlipForObjectDetection) -> None:
        inputs = processor(PICTURE, [LABELS], modality="ct")
        labels = [{"boxes": torch.tensor([[0.5, 0.5, 0.25, 0.5]]), "class_labels": torch.tensor([0])}]
        with pytest.raises(
            ValueError, match="labels of image 0: the boxes all lie within 0..1.*x1, y1, x2, y2 in pix"
        ):
            model(**inputs, labels=labels)

    def test_in_annotations(self, processor: MedGlipProcessor) -> None:
        annotation = {"boxes": [[0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 1.0, 1.0]], "class_labels": [0, 1]}
        with pytest.raises(ValueError, match="image 0: the boxes all lie within 0..1"):
            processor(PICTURE, [LABELS], modality="ct", annotations=annotation)

    @pytest.mark.parametrize(
        ("boxes", "normalized"),
        [
            ([[0.5, 0.5, 1.0, 1.0]], True),
            ([[0.0, 0.0, 1.0, 1.0]], False),  # one whole pixel
            ([[10.2, 10.2, 10.7, 10.6]], False),  # a tiny box elsewhere
            ([[0.1, 0.1, 0.9, 0.9], [3, 3, 40, 40]], False),
            ([], False),
        ],
    )
    def test_tiny_boxes_are_none(self, boxes: list[list[float]], normalized: bool) -> None:
        assert looks_normalized(torch.tensor(boxes).reshape(-1, 4)) is normalized


@pytest.mark.parametrize("images", [PICTURE, None])
def test_unknown_arguments_are_refused(processor: MedGlipProcessor, images: Any) -> None:
    with pytest.raises(ValueError, match="unknown modality 'banana': choose one of ct"):
        processor(images=images, text="liver", modality="banana")
    with pytest.raises(TypeError, match="modalitty"):
        processor(images=images, text="liver", modalitty="ct")
