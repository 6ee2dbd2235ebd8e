# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Whether an image shows a label at all: the presence head, the losses of labels, and scores at low presence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from modeling_medglip import Grounder, MedGlipProcessor, ground_image, ground_volume
from modeling_medglip.errors import MedGlipError
from modeling_medglip.image_processing_medglip import presence_scores
from modeling_medglip.modeling_medglip import PRESENT_LOGIT, MedGlipForObjectDetection
from modeling_medglip.outputs.results import GroundingResult, ImageInfo, read_boxes, validate_boxes, write_boxes

from . import tiny_checkpoint
from .tiny_model import HEAD, prompt, tiny_model, training_batch
from .tiny_processor import made_up_outputs, tiny_processor


WITH_PRESENCE: dict[str, Any] = {**HEAD, "conv_type": "plain", "presence_dim": 8, "contrast_loss_weight": 0.5}


@pytest.fixture(scope="module")
def model() -> MedGlipForObjectDetection:
    return tiny_model(head_config=WITH_PRESENCE)


@pytest.fixture(scope="module")
def processor() -> MedGlipProcessor:
    return tiny_processor({"modality": "endoscopy"})


class TestOutputs:
    def test_one_logit_for_each_token(self, model: MedGlipForObjectDetection) -> None:
        batch = training_batch()
        output = model(batch["pixel_values"], batch["input_ids"])
        assert output.presence_logits.shape == batch["input_ids"].shape
        assert not torch.equal(output.presence_logits[0], output.presence_logits[1]), "it looks at the image"

    def test_chunks_have_their_own(self, model: MedGlipForObjectDetection) -> None:
        batch, ids = training_batch(), prompt("liver", "spleen")[0]
        chunks = torch.stack([ids, ids.flip(1)], dim=1)
        output = model(batch["pixel_values"], chunks)
        assert output.presence_logits.shape == (2, 2, ids.shape[1])
        alone = model(batch["pixel_values"], ids).presence_logits
        torch.testing.assert_close(output.presence_logits[:, 0], alone, rtol=1e-4, atol=1e-5)

    def test_without_a_head_there_is_none(self) -> None:
        output = tiny_model()(training_batch()["pixel_values"], prompt("liver")[0])
        assert output.presence_logits is None and "presence_logits" not in output

    def test_an_expert_without_a_head_counts_everything_as_present(self) -> None:
        override = {"mri": {"head_config": {"presence_dim": 8}}}
        both = tiny_model(("ct", "mri"), expert_overrides=override)
        output = both(training_batch()["pixel_values"], prompt("liver")[0], modality=["ct", "mri"])
        assert output.presence_logits[0].tolist() == [PRESENT_LOGIT] * 2
        assert output.presence_logits[1].abs().max() < PRESENT_LOGIT
        assert both.expert("ct")(training_batch()["pixel_values"], prompt("liver")[0]).presence_logits is None

    def test_it_is_saved_and_joined(self, model: MedGlipForObjectDetection, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        loaded = MedGlipForObjectDetection.from_pretrained(tmp_path)
        joined = MedGlipForObjectDetection.from_experts({"ct": tmp_path})
        batch = training_batch()
        expected = model(batch["pixel_values"], batch["input_ids"]).presence_logits
        for other in (loaded, joined):
            torch.testing.assert_close(other(batch["pixel_values"], batch["input_ids"]).presence_logits, expected)


class TestLosses:
    def test_presence_is_a_cross_entropy_over_the_labels(self, model: MedGlipForObjectDetection) -> None:
        """The first image shows the first of two labels, the second image none."""
        output = model(**training_batch())
        logits = output.presence_logits[:, [0, 2]]  # each label is one word, followed by a dot
        present = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, present)
        assert output.loss_dict["loss_presence"].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_contrast_is_a_cross_entropy_over_the_labels_of_shown_regions(
        self, model: MedGlipForObjectDetection
    ) -> None:
        scores = torch.tensor([[2.0, 0.5], [-1.0, 3.0]])
        batch = training_batch(1)
        output = model(**batch)
        (target,) = model._assign(
            *assignment(model, batch), [{key: value for key, value in batch["labels"][0].items()}],
            batch["label_tokens"], output.logits,
        )  # fmt: skip
        output.logits = output.logits.detach().clone()
        assert len(target.positive) > 0
        output.logits[0, :, 0], output.logits[0, :, 2] = scores[0]
        losses = model._label_losses(
            output, [target], [model.head_configs["ct"]], batch["labels"], batch["label_tokens"]
        )
        expected = -math.log(math.exp(2.0) / (math.exp(2.0) + math.exp(0.5)))
        assert losses["loss_contrast"].item() == pytest.approx(0.5 * expected, rel=1e-5)

    def test_labels_that_pad_a_prompt_do_not_count(self, model: MedGlipForObjectDetection) -> None:
        batch = training_batch()
        expected = {name: loss.item() for name, loss in model(**batch).loss_dict.items()}
        batch["label_tokens"] = torch.nn.functional.pad(batch["label_tokens"], (0, 0, 0, 3))
        losses = {name: loss.item() for name, loss in model(**batch).loss_dict.items()}
        assert losses == pytest.approx(expected, rel=1e-5)

    def test_the_step_can_give_the_number_of_labels(self, model: MedGlipForObjectDetection) -> None:
        batch = training_batch()
        alone = model(**batch).loss_dict["loss_presence"].item()
        totals = model.loss_totals((64, 64), None, batch["labels"], batch["label_tokens"])
        assert totals[2].item() == 4
        doubled = model(**batch, num_items_in_batch=totals * torch.tensor([1, 1, 2])).loss_dict["loss_presence"]
        assert doubled.item() == pytest.approx(alone / 2, rel=1e-5)

    def test_every_process_takes_part_in_the_mean_of_a_loss(self) -> None:
        """Also one whose batch is of an expert without that loss."""
        override = {"mri": {"head_config": {"contrast_loss_weight": 0.5}}}
        model = tiny_model(("ct", "mri"), expert_overrides=override)
        assert model(**training_batch(), modality="ct").loss_dict["loss_contrast"].item() == 0
        assert model(**training_batch(), modality="mri").loss_dict["loss_contrast"].item() > 0

    def test_gradients_reach_every_tensor_of_the_head(self) -> None:
        model = tiny_model(head_config=WITH_PRESENCE)
        model(**training_batch()).loss_dict["loss_presence"].backward()
        head = model.model.experts["ct"].presence
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())
        assert model.model.experts["ct"].alignment.log_scale.grad is None, "what boxes say is only read"


def assignment(model: MedGlipForObjectDetection, batch: dict[str, Any]) -> tuple[Any, ...]:
    """Anchors, heads, shapes and sizes of a batch of one image of 64 x 64 pixels."""
    from modeling_medglip.modeling_medglip import make_anchors, pyramid_shapes

    head = model.head_configs["ct"]
    shapes = pyramid_shapes((64, 64), head.anchor_strides)
    return [make_anchors(shapes, head, torch.device("cpu"))], [head], shapes, [(64, 64)]


class TestScores:
    def test_the_probability_of_a_label_is_that_of_its_mean_logit(self) -> None:
        tokens = torch.tensor([[[True, True, False], [False, False, True]]])
        scores = presence_scores(torch.tensor([[1.0, 3.0, -2.0]]), tokens)
        assert scores.tolist() == [pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))])]

    def test_scores_of_boxes_fall_with_low_presence(self, processor: MedGlipProcessor) -> None:
        inputs = processor(np.zeros((32, 32, 3), np.uint8), ["liver", "polyp"], size={"height": 64, "width": 64})
        outputs = made_up_outputs(inputs, [[0, 0, 31, 31], [16, 8, 60, 60]], [0, 1], [0.9, 0.8])
        outputs.presence_logits = torch.where(inputs["label_tokens"][:, 1], -4.0, 4.0)
        (result,) = processor.post_process_grounded_object_detection(outputs, inputs, 0.0)
        certain = 1 / (1 + math.exp(-4))
        assert dict(zip(result["text_labels"], result["scores"].tolist(), strict=True)) == pytest.approx(
            {"liver": 0.9, "polyp": 0.8 * (1 - certain) / 0.1}, rel=1e-4
        )
        assert result["presence"] == pytest.approx({"liver": certain, "polyp": 1 - certain}, rel=1e-4)
        (result,) = processor.post_process_grounded_object_detection(outputs, inputs, 0.3)
        assert result["text_labels"] == ["liver"]

    def test_labels_of_all_chunks_have_a_presence(self, processor: MedGlipProcessor) -> None:
        labels = [f"label {number}" for number in range(40)]
        processor = tiny_processor({"modality": "endoscopy"}, max_text_tokens=40)
        inputs = processor(np.zeros((32, 32, 3), np.uint8), labels, size={"height": 64, "width": 64})
        outputs = made_up_outputs(inputs, [[0, 0, 31, 31]], [0], [0.9])
        outputs.presence_logits = torch.full(inputs["input_ids"].shape, 2.0)
        (result,) = processor.post_process_grounded_object_detection(outputs, inputs, 0.3)
        assert inputs["input_ids"].ndim == 3 and list(result["presence"]) == labels

    def test_an_expert_without_a_head_says_nothing(self, processor: MedGlipProcessor) -> None:
        inputs = processor(np.zeros((32, 32, 3), np.uint8), ["liver"], size={"height": 64, "width": 64})
        outputs = made_up_outputs(inputs, [[0, 0, 31, 31]], [0], [0.9])
        outputs.presence_logits = torch.full_like(inputs["input_ids"], PRESENT_LOGIT, dtype=torch.float16)
        (result,) = processor.post_process_grounded_object_detection(outputs, inputs, 0.3)
        assert "presence" not in result and result["scores"].tolist() == pytest.approx([0.9], rel=1e-4)

    def test_numbers_that_are_not_finite_are_refused(self, processor: MedGlipProcessor) -> None:
        inputs = processor(np.zeros((32, 32, 3), np.uint8), ["liver"], size={"height": 64, "width": 64})
        outputs = made_up_outputs(inputs, [[0, 0, 31, 31]], [0], [0.9])
        outputs.presence_logits = torch.full_like(inputs["input_ids"], math.nan, dtype=torch.float32)
        with pytest.raises(ValueError, match="not finite"):
            processor.post_process_grounded_object_detection(outputs, inputs)


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    config = tiny_checkpoint.tiny_config(("ct",))
    config.head_config.presence_dim = 8
    torch.manual_seed(0)
    model = MedGlipForObjectDetection(config).eval()
    return Grounder(model, tiny_processor({"modality": "ct"}, max_text_tokens=128), "tiny", torch.device("cpu"))


class TestResults:
    def test_an_image_states_the_presence_of_every_label(self, grounder: Grounder, tmp_path: Path) -> None:
        result = ground_image(np.zeros((64, 64), np.uint8), "Liver. banana.", model=grounder, threshold=0.999)
        assert list(result.presence) == ["Liver", "banana"] and result.boxes == ()
        assert all(0 < value < 1 for value in result.presence.values())
        assert f"Liver (presence {result.presence['Liver']:.2f})" in str(result)
        stored = read_boxes(write_boxes(result, tmp_path / "a.boxes.json"))
        assert stored.presence == {label: round(value, 4) for label, value in result.presence.items()}

    def test_a_volume_states_the_highest_of_its_slices(self, grounder: Grounder, tmp_path: Path) -> None:
        values = np.random.default_rng(0).normal(0, 100, (32, 32, 3)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 5.0, 1.0])), tmp_path / "volume.nii")
        result = ground_volume(tmp_path / "volume.nii", "liver.", "ct", grounder, threshold=0.3)
        assert 0 < result.presence["liver"] < 1 and result.to_dict()["presence"]["liver"] > 0

    def test_presence_in_a_file_is_checked(self, tmp_path: Path) -> None:
        content = GroundingResult("m", ImageInfo("a.png", 8, 8, "ct"), "liver.", trained={"liver": True}).to_dict()
        validate_boxes({**content, "presence": {"liver": 0.5}})
        for wrong in ({"liver": 1.5}, {"liver": "much"}, [0.5]):
            with pytest.raises(MedGlipError, match="presence must be"):
                validate_boxes({**content, "presence": wrong})
