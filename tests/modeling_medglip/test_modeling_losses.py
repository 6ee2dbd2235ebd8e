# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Targets and losses: assignment, boxes, gradients, batches of several experts, what stays frozen."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss
from transformers import TimmBackboneConfig
from transformers.modeling_utils import PreTrainedModel

import modeling_medglip  # noqa: F401  (registers the Auto classes)
from modeling_medglip.configuration_medglip import MedGlipHeadConfig
from modeling_medglip.modeling_medglip import (
    MedGlipForObjectDetection,
    alignment_focal_loss,
    assign_atss,
    centerness_targets,
    decode_boxes,
    make_anchors,
    pixel_iou,
)

from .tiny_model import HEAD, known_model, tiny_config, tiny_model, training_batch


# Of `known_model("plain")`, by the code that reproduces GLIP's reference outputs.
KNOWN_LOSSES = {"loss_alignment": 319.1921, "loss_box": 1.4931, "loss_centerness": 0.8098}


@pytest.fixture(scope="module")
def model() -> MedGlipForObjectDetection:
    return tiny_model()


class TestTraining:
    @pytest.mark.parametrize("conv_type", ["plain", "deformable"])
    def test_gradients_reach_every_tensor(self, conv_type: str) -> None:
        model = tiny_model(head_config={**HEAD, "conv_type": conv_type, "positions": True})
        model(**training_batch()).loss.backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # A constant added to all scores of a softmax changes nothing; neither do places and kinds that no prompt has.
        indifferent = (".key.bias", "k_proj.bias", "fusion.attention.l_proj.bias")
        assert not [name for name in without if not name.endswith(indifferent)]

    def test_loss_goes_down_on_one_batch(self) -> None:
        model = tiny_model(head_config={**HEAD, "conv_type": "plain", "drop_block": 0.0}).train()
        batch = training_batch()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(10):
            output = model(**batch)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            losses.append(output.loss.item())
        assert losses[-1] < 0.6 * losses[0]
        assert set(output.loss_dict) == {"loss_alignment", "loss_box", "loss_centerness"}
        assert output.loss.item() == pytest.approx(sum(part.item() for part in output.loss_dict.values()), rel=1e-5)

    def test_no_box_at_all(self, model: MedGlipForObjectDetection) -> None:
        batch = training_batch(1)
        batch["labels"] = [{"boxes": torch.zeros(0, 4), "class_labels": torch.zeros(0, dtype=torch.long)}]
        output = model(**batch)
        assert output.loss_dict["loss_box"] == 0 and output.loss_dict["loss_centerness"] == 0
        assert output.loss_dict["loss_alignment"] > 0
        output.loss.backward()
        model.zero_grad()

    def test_loss_of_a_batch_is_that_of_its_parts(self, model: MedGlipForObjectDetection) -> None:
        """With the same number of positives in each image the batch's loss is the mean of the single ones."""
        batch = training_batch(1)
        images = torch.cat([batch["pixel_values"], batch["pixel_values"].flip(1) * 0.5])
        both = {
            key: value.repeat(2, *[1] * (value.dim() - 1)) for key, value in batch.items() if torch.is_tensor(value)
        }
        both |= {"pixel_values": images, "labels": batch["labels"] * 2}
        singles = [model(**{**batch, "pixel_values": images[index : index + 1]}).loss_dict for index in range(2)]
        for name, value in model(**both).loss_dict.items():
            assert value.item() == pytest.approx(sum(part[name].item() for part in singles) / 2, rel=1e-4), name

    def test_padding_takes_no_part_in_the_loss(self, model: MedGlipForObjectDetection) -> None:
        batch = training_batch(1)
        alone = model(**batch).loss
        mask = torch.zeros(1, 96, 96, dtype=torch.long)
        mask[:, :64, :64] = 1
        padded = torch.nn.functional.pad(batch["pixel_values"], (0, 32, 0, 32), value=9.0)
        assert model(**{**batch, "pixel_values": padded}, pixel_mask=mask).loss.item() == pytest.approx(
            alone.item(), rel=1e-5
        )

    def test_padding_of_prompts_takes_no_part_in_the_loss(self, model: MedGlipForObjectDetection) -> None:
        batch = training_batch()
        padded = {
            key: torch.nn.functional.pad(batch[key], (0, 5)) for key in ("input_ids", "attention_mask", "label_tokens")
        }
        expected = {name: loss.item() for name, loss in model(**batch).loss_dict.items()}
        losses = {name: loss.item() for name, loss in model(**{**batch, **padded}).loss_dict.items()}
        assert losses == pytest.approx(expected, rel=1e-5)

    def test_divisors_of_a_whole_step(self, model: MedGlipForObjectDetection) -> None:
        """The first divides alignment and centerness, the second the boxes' loss."""
        batch = training_batch()
        alone = {name: loss.item() for name, loss in model(**batch).loss_dict.items()}
        totals = model.loss_totals((64, 64), None, batch["labels"], batch["label_tokens"])
        for factors, parts in (((1, 1, 1), (1, 1, 1)), ((2, 4, 1), (0.5, 0.25, 0.5))):
            losses = model(**batch, num_items_in_batch=totals * torch.tensor(factors)).loss_dict
            expected = [alone[name] * part for name, part in zip(losses, parts, strict=True)]
            assert [loss.item() for loss in losses.values()] == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"label_tokens": None}, "labels need label_tokens"),
            ({"labels": []}, "do not fit logits"),
            ({"labels": [{"boxes": torch.ones(1, 4), "class_labels": torch.tensor([5])}] * 2}, "labels of image 0"),
            ({"labels": [{"boxes": torch.ones(2, 4), "class_labels": torch.tensor([0])}] * 2}, "2 boxes but 1"),
            ({"labels": [{"annotations": [{"bbox": [1, 2, 3, 4]}]}] * 2}, "labels of image 0: expected is {'boxes'"),
            ({"labels": [{"boxes": torch.ones(1, 4), "class_labels": torch.tensor([-1])}] * 2}, "from -1 to -1"),
            (
                {"labels": [{"boxes": torch.full((1, 4), math.nan), "class_labels": torch.tensor([0])}] * 2},
                "not finite",
            ),
            (
                {"labels": [{"boxes": torch.tensor([[9.0, 9, 5, 20]]), "class_labels": torch.tensor([0])}] * 2},
                "has no area",
            ),
        ],
    )
    def test_targets_that_do_not_fit(
        self, model: MedGlipForObjectDetection, change: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            model(**{**training_batch(), **change})

    def test_each_expert_is_trained_with_its_own_settings(self) -> None:
        changes = {"focal_alpha": 0.6, "focal_gamma": 1.0, "box_loss_weight": 5.0, "atss_topk": 3}
        together = tiny_model(("ct", "fundus"), expert_overrides={"fundus": {"head_config": changes}})
        batch = training_batch()
        for name, head in (("ct", HEAD), ("fundus", {**HEAD, **changes})):
            alone = tiny_model((name,), head_config=head)
            alone.load_state_dict(together.expert(name).state_dict())
            expected, found = alone(**batch).loss_dict, together(**batch, modality=name).loss_dict
            assert {k: v.item() for k, v in found.items()} == pytest.approx({k: v.item() for k, v in expected.items()})

    def test_a_mixed_batch_weighs_each_image_by_its_own_expert(self) -> None:
        """Two experts of equal weights, one with boxes counting more: the same image through both gives the mean."""
        head = {"fundus": {"head_config": {"box_loss_weight": 5.0}}}
        together = tiny_model(("ct", "fundus"), expert_overrides=head)
        state = together.state_dict()
        state.update({key.replace("fundus", "ct"): value for key, value in state.items() if ".fundus." in key})
        together.load_state_dict(state)
        batch = training_batch()
        twice = {key: [value[0]] * 2 if isinstance(value, list) else value[:1].repeat(2, *[1] * (value.dim() - 1))
                 for key, value in batch.items()}  # fmt: skip
        each = {name: together(**twice, modality=name).loss_dict for name in ("ct", "fundus")}
        mixed = together(**twice, modality=["ct", "fundus"]).loss_dict
        assert each["fundus"]["loss_box"].item() == pytest.approx(2.5 * each["ct"]["loss_box"].item())
        mean = (each["ct"]["loss_box"] + each["fundus"]["loss_box"]).item() / 2
        assert mixed["loss_box"].item() == pytest.approx(mean)
        assert mixed["loss_alignment"].item() == pytest.approx(each["ct"]["loss_alignment"].item())

    @pytest.mark.skipif(
        not hasattr(PreTrainedModel, "activation_checkpointing_enable"), reason="this transformers is older"
    )
    def test_gradient_checkpointing_changes_nothing(self) -> None:
        head = {**HEAD, "drop_block": 0.0, "fusion_dropout": 0.0, "text_dropout": 0.0}
        text = tiny_config().text_config.to_dict() | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        gradients = []
        for checkpointing in (False, True):
            model = tiny_model(head_config=head, text_config=text).train()
            if checkpointing:
                model.activation_checkpointing_enable()
            model(**training_batch()).loss.backward()
            gradients.append(model.model.experts["ct"].pyramid.p6.weight.grad)
        assert torch.allclose(*gradients, atol=1e-6)

    def test_frozen_statistics_and_frozen_language(self) -> None:
        backbone = TimmBackboneConfig(backbone="test_resnet", out_indices=[2, 3, 4])
        model = tiny_model(backbone_config=backbone)
        model.model.text_model.requires_grad_(False)
        model.train()
        before = {key: value.clone() for key, value in model.state_dict().items() if "running_mean" in key}
        model(**training_batch())
        assert before and all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
        assert not model.model.text_model.training


class TestArithmetic:
    """Against numbers by hand."""

    def test_losses_of_known_weights(self) -> None:
        losses = known_model("plain")(**training_batch()).loss_dict
        assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(KNOWN_LOSSES, rel=1e-3)

    def test_focal_loss_is_that_of_torchvision(self) -> None:
        logits, targets = torch.randn(2, 5, 3) * 3, torch.randint(0, 2, (2, 5, 3)).float()
        expected = sigmoid_focal_loss(logits, targets, alpha=0.3, gamma=1.5)
        assert torch.allclose(alignment_focal_loss(logits, targets, 0.3, 1.5), expected, atol=1e-6)

    def test_centerness(self) -> None:
        """The anchor's center is (4.5, 4.5): 1 in the middle, sqrt(2/8) off it, 0 on a border and outside."""
        anchors = torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 4)
        boxes = torch.tensor([[0.0, 2, 9, 7], [2.5, 0, 12.5, 9], [4.5, 0, 9, 9], [5, 0, 9, 9]])
        assert centerness_targets(anchors, boxes).tolist() == pytest.approx([1, 0.5, 0, 0])

    def test_anchors_are_those_of_glip(self) -> None:
        config = MedGlipHeadConfig(anchor_sizes=[64, 128], anchor_strides=[8, 16])
        anchors = make_anchors([(2, 2), (1, 1)], config, torch.device("cpu"))
        assert anchors[0].tolist() == [-28, -28, 35, 35] and anchors[4].tolist() == [-56, -56, 71, 71]
        assert (anchors[1] - anchors[0]).tolist() == [8, 0, 8, 0], "along a row first"
        assert (anchors[2] - anchors[0]).tolist() == [0, 8, 0, 8]

    def test_boxes_are_decoded_as_in_glip(self) -> None:
        """An anchor of 8 x 16 pixels at (3.5, 7.5), moved by half a width and a quarter height, twice as wide."""
        anchors = torch.tensor([[0.0, 0.0, 7.0, 15.0]])
        deltas = torch.tensor([[10 * 0.5, 10 * 0.25, 5 * math.log(2), 0.0]])
        assert decode_boxes(deltas, anchors)[0].tolist() == pytest.approx([0, 4, 15, 19])
        assert decode_boxes(torch.zeros(1, 4), anchors).tolist() == anchors.tolist()

    def test_overlaps_count_the_last_pixel(self) -> None:
        boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4], [10, 0, 19, 9]])
        assert pixel_iou(boxes[:1], boxes)[0].tolist() == pytest.approx([1, 0.5, 0])

    def test_anchors_centered_outside_their_target_are_background(self) -> None:
        """An overlap of 0.43 exceeds mean and deviation of 0.43, 0 and 0, which are 0.39."""
        box = torch.tensor([[0.0, 0, 9, 9]])
        anchors = torch.tensor([[-5.0, 0, 5, 9], [80, 80, 89, 89], [90, 90, 99, 99]])
        assert assign_atss(anchors, [3], box, topk=3).tolist() == [-1, -1, -1], "centered on the border"
        anchors[0, 0::2] += 1
        assert assign_atss(anchors, [3], box, topk=3).tolist() == [0, -1, -1]


class TestBoxes:
    def test_atss_takes_the_unbiased_standard_deviation(self) -> None:
        """Overlaps 1, 0.7 and 0.01: mean and deviation are 1.08, the biased ones would be 0.99 and take the first."""
        box = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
        anchors = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 6.0], [4.0, 4.0, 4.0, 4.0]])
        assert assign_atss(anchors, [3], box, topk=3).tolist() == [-1, -1, -1]
        anchors[1] = torch.tensor([0.0, 0.0, 9.0, 1.0])
        assert assign_atss(anchors, [3], box, topk=3).tolist() == [0, -1, -1]

    def test_decoded_boxes_stay_finite(self) -> None:
        """The logarithm of a size ratio is clamped at 1000/16, as in GLIP."""
        anchors = torch.tensor([[0.0, 0.0, 7.0, 15.0]])
        x1, y1, x2, y2 = decode_boxes(torch.tensor([[0.0, 0.0, 1e4, 1e4]]), anchors)[0].tolist()
        assert x2 - x1 + 1 == pytest.approx(8 * 1000 / 16) and y2 - y1 + 1 == pytest.approx(16 * 1000 / 16)
