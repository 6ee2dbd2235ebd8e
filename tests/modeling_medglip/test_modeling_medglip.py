# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The model's forward pass: shapes, batching, prompts in chunks, bad input. Tiny networks on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TimmBackboneConfig

import modeling_medglip  # noqa: F401  (registers the Auto classes)
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection

from .tiny_model import DOT, HEAD, SWIN, count_calls, known_model, prompt, tiny_model, wave


# Regions of all levels of `known_model`: logits of the first token, centerness, right borders in pixels, by the code
# that reproduces GLIP's reference outputs.
KNOWN_OUTPUTS = {
    "plain": (
        [-0.328, 0.019, -2.891, -2.001, -0.324, -2.762],
        [-1.541, -0.791, 1.337, -0.289, -0.558, 0.732],
        [7.34, 58.58, 7.63, 60.47, 37.12, 247.47],
    ),
    "deformable": (
        [-2.317, 0.694, -1.524, -2.342, -0.423, -1.781],
        [1.217, 1.874, -0.996, 1.297, -1.515, -0.153],
        [8.5, 61.02, 9.92, 60.52, 35.64, 185.11],
    ),
}


@pytest.fixture(scope="module")
def model() -> MedGlipForObjectDetection:
    return tiny_model()


@pytest.fixture(scope="module")
def two_experts() -> MedGlipForObjectDetection:
    return tiny_model(("ct", "fundus"))


class TestForward:
    @torch.no_grad()
    def test_shapes(self, model: MedGlipForObjectDetection) -> None:
        ids, mask, _ = prompt("liver", "left kidney")
        output = model(torch.randn(2, 3, 64, 96), ids, mask)
        regions = sum(h * w for h, w in [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)])
        assert output.logits.shape == (2, regions, 5)
        assert output.box_deltas.shape == output.pred_boxes.shape == (2, regions, 4)
        assert output.centerness.shape == (2, regions)
        assert output.spatial_shapes.tolist() == [[8, 12], [4, 6], [2, 3], [1, 2], [1, 1]]
        assert output.input_sizes.tolist() == [[64, 96], [64, 96]]
        assert output.loss is None

    @torch.no_grad()
    @pytest.mark.parametrize("conv_type", ["plain", "deformable"])
    def test_outputs_of_known_weights(self, conv_type: str) -> None:
        image = torch.stack([wave((64, 96), channel) for channel in range(3)])[None]
        ids, mask, _ = prompt("left kidney", "liver")
        output = known_model(conv_type)(image, ids, mask)
        regions = [0, 30, 60, 90, 120, 128]
        fields = (output.logits[0, regions, 0], output.centerness[0, regions], output.pred_boxes[0, regions, 2])
        for field, known in zip(fields, KNOWN_OUTPUTS[conv_type], strict=True):
            assert field.tolist() == pytest.approx(known, abs=0.05)

    @torch.no_grad()
    def test_base_model_aligns_features_as_its_logits_say(self, model: MedGlipForObjectDetection) -> None:
        ids, mask, _ = prompt("liver", "spleen")
        output = model.model(torch.randn(1, 3, 64, 64), ids, mask)
        product = output.region_features @ output.token_features.transpose(1, 2)
        bias = output.logits - product
        assert torch.allclose(bias, bias[:, :1].expand_as(bias), atol=1e-5), "S = F T^T plus a bias per token"

    @torch.no_grad()
    def test_tuple_output(self, model: MedGlipForObjectDetection, monkeypatch: pytest.MonkeyPatch) -> None:
        ids, mask, _ = prompt("liver")
        named = model(torch.ones(1, 3, 64, 64), ids, mask)
        plain = model(torch.ones(1, 3, 64, 64), ids, mask, return_dict=False)
        assert isinstance(plain, tuple)
        assert torch.equal(plain[0], named.logits)
        base = model.model(torch.ones(1, 3, 64, 64), ids, mask, return_dict=False)
        assert isinstance(base, tuple) and torch.equal(base[0], named.logits)
        monkeypatch.setattr(model.config, "return_dict", False)
        assert torch.equal(model(torch.ones(1, 3, 64, 64), ids, mask)[0], named.logits)
        assert torch.equal(model(torch.ones(1, 3, 64, 64), ids, mask, return_dict=True).logits, named.logits)

    @torch.no_grad()
    def test_text_padding_changes_nothing(self, model: MedGlipForObjectDetection) -> None:
        ids, mask, _ = prompt("liver", "left kidney")
        images = torch.randn(1, 3, 64, 64)
        padded = torch.nn.functional.pad(ids, (0, 11)), torch.nn.functional.pad(mask, (0, 11))
        short, long = model(images, ids, mask), model(images, *padded)
        assert torch.allclose(short.logits, long.logits[..., : ids.shape[1]], atol=1e-5)
        assert torch.allclose(short.pred_boxes, long.pred_boxes, atol=1e-3)

    @torch.no_grad()
    def test_batch_size_changes_nothing(self, model: MedGlipForObjectDetection) -> None:
        images = torch.randn(3, 3, 64, 64)
        ids, mask, _ = prompt("liver", "spleen")
        together = model(images, ids.repeat(3, 1), mask.repeat(3, 1))
        for index in range(3):
            alone = model(images[index : index + 1], ids, mask)
            assert torch.allclose(together.logits[index], alone.logits[0], atol=1e-5)

    @torch.no_grad()
    def test_different_prompts_in_a_batch(self, model: MedGlipForObjectDetection) -> None:
        images = torch.randn(2, 3, 64, 64)
        first, second = prompt("left kidney", "spleen"), prompt("liver")
        width = first[0].shape[1] - second[0].shape[1]
        ids = torch.cat([first[0], torch.nn.functional.pad(second[0], (0, width))])
        mask = torch.cat([first[1], torch.nn.functional.pad(second[1], (0, width))])
        together = model(images, ids, mask)
        alone = model(images[1:], second[0], second[1])
        assert torch.allclose(together.logits[1, :, :2], alone.logits[0], atol=1e-5)

    @torch.no_grad()
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_with_padded_prompts(self, dtype: torch.dtype) -> None:
        ids, mask, _ = prompt("liver", "left kidney")
        ids, mask = ids.repeat(2, 1), mask.repeat(2, 1)
        mask[1, 2:] = 0
        images = torch.randn(2, 3, 64, 64)
        model = tiny_model()
        exact = model(images, ids, mask)
        half = model.to(dtype)(images.to(dtype), ids, mask)
        assert torch.isfinite(half.logits).all() and torch.isfinite(half.pred_boxes).all()
        assert (half.logits.float() - exact.logits).abs().max() < 0.3

    @torch.no_grad()
    def test_the_outputs_tell_words_from_separators_and_padding(self, model: MedGlipForObjectDetection) -> None:
        ids, mask, _ = prompt("left kidney", "liver")
        assert model(torch.randn(2, 3, 64, 64), ids).label_token_mask.int().tolist() == [[1, 1, 0, 1, 0]] * 2
        mask[0, 3:] = 0
        assert model(torch.randn(1, 3, 64, 64), ids, mask).label_token_mask.int().tolist() == [[1, 1, 0, 0, 0]]
        assert model(torch.randn(1, 3, 64, 64), ids[:, None]).label_token_mask is None
        opened = torch.cat([torch.tensor([[DOT]]), ids], dim=1)
        words = model(torch.randn(1, 3, 64, 64), opened).label_token_mask
        assert words.int().tolist() == [[1, 1, 1, 0, 1, 0]], "post-processing leaves the opening token out itself"

    @torch.no_grad()
    def test_label_order_changes_nothing_with_label_attention(self) -> None:
        opening, closing = 2, 3
        model = tiny_model(text_attention="label", separator_token_ids=[DOT, opening])
        images = torch.randn(1, 3, 64, 64)
        ids = [
            torch.tensor([[opening, *prompt(*labels)[0][0], closing]])
            for labels in (("left kidney", "liver"), ("liver", "left kidney"))
        ]
        first, second = (model(images, rows) for rows in ids)
        order = [0, 4, 5, 1, 2, 3, 6]
        assert torch.allclose(first.logits[..., order], second.logits, atol=1e-5)
        assert torch.allclose(first.pred_boxes, second.pred_boxes, atol=1e-3)

    @torch.no_grad()
    def test_label_attention_ignores_the_neighbors_in_the_language_encoder(self) -> None:
        model = tiny_model(text_attention="label")
        alone = model.get_text_features(prompt("liver")[0]).hidden
        beside = model.get_text_features(prompt("spleen", "liver")[0]).hidden
        assert torch.allclose(alone[0], beside[0, 2:], atol=1e-6)

    @torch.no_grad()
    def test_chunks_equal_separate_prompts(self, model: MedGlipForObjectDetection) -> None:
        images = torch.randn(2, 3, 64, 64)
        first, second = prompt("liver", "spleen"), prompt("polyp", "spleen")
        ids = torch.stack([torch.cat([first[0], second[0]])] * 2)
        mask = torch.ones_like(ids)
        output = model(images, ids, mask)
        regions = output.logits.shape[1] // 2
        assert torch.allclose(output.logits[:, :regions], model(images, first[0]).logits, atol=1e-5)
        assert torch.allclose(output.logits[:, regions:], model(images, second[0]).logits, atol=1e-5)
        assert torch.allclose(output.pred_boxes[:, regions:], model(images, second[0]).pred_boxes, atol=1e-3)

    @torch.no_grad()
    def test_chunks_run_the_image_encoder_once(
        self, model: MedGlipForObjectDetection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = count_calls(monkeypatch, model.model.experts["ct"].backbone)
        model(torch.randn(1, 3, 64, 64), torch.randint(2, 9, (1, 4, 6)))
        assert len(calls) == 1

    @torch.no_grad()
    def test_a_shared_prompt_is_encoded_once(
        self, model: MedGlipForObjectDetection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = count_calls(monkeypatch, model.model.text_model)
        ids, mask, _ = prompt("liver")
        model(torch.randn(3, 3, 64, 64), ids.repeat(3, 1), mask.repeat(3, 1))
        assert [len(call["input_ids"]) for call in calls] == [1]

    @torch.no_grad()
    def test_text_features_stand_for_the_prompt(
        self, model: MedGlipForObjectDetection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids, mask, _ = prompt("liver", "polyp")
        images = torch.randn(2, 3, 64, 64)
        expected = model(images, ids, mask).logits
        features = model.get_text_features(ids, mask)
        calls = count_calls(monkeypatch, model.model.text_model)
        assert torch.allclose(model(images, text_features=features).logits, expected, atol=1e-6)
        assert not calls

    @pytest.mark.parametrize("conv_type", ["plain", "deformable"])
    @pytest.mark.parametrize("backbone", [SWIN, TimmBackboneConfig(backbone="test_resnet", out_indices=[2, 3, 4])])
    @torch.no_grad()
    def test_backbones_and_convolutions(self, backbone: Any, conv_type: str) -> None:
        head = {**HEAD, "conv_type": conv_type, "text_dim": 8, "positions": True, "pyramid_norm": True}
        model = tiny_model(backbone_config=backbone, head_config=head)
        assert torch.isfinite(model(torch.randn(1, 3, 64, 64), prompt("liver")[0]).logits).all()

    @torch.no_grad()
    def test_positions_tell_left_from_right(self) -> None:
        model = tiny_model(head_config={**HEAD, "positions": True})
        level = torch.zeros(1, 16, 4, 6)
        code = model.model.experts["ct"].positions([level])[0]
        assert not torch.allclose(code, code.flip(3), atol=1e-3)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "give input_ids or text_features"),
            ({"input_ids": torch.zeros(3, 4, dtype=torch.long)}, "3 prompts for 2 images"),
            ({"input_ids": torch.ones(1, 4, dtype=torch.long), "modality": ["ct"]}, "1 modalities for 2 images"),
            ({"input_ids": torch.ones(1, 4, dtype=torch.long), "modality": "mri"}, "no expert for mri: it has ct"),
            ({"input_ids": torch.ones(1, 4, dtype=torch.long), "modality": "pet"}, "unknown modality 'pet'"),
            (
                {"input_ids": torch.ones(1, 4, dtype=torch.long), "pixel_mask": torch.ones(2, 64, 32)},
                "pixel_mask .* does not fit",
            ),
            (
                {"input_ids": torch.ones(1, 4, dtype=torch.long), "pixel_mask": torch.zeros(2, 64, 64)},
                "hides all of an image",
            ),
            (
                {"input_ids": torch.ones(1, 4, dtype=torch.long), "image_sizes": [(64, 64)]},
                "image_sizes .* do not fit",
            ),
            (
                {"input_ids": torch.ones(1, 4, dtype=torch.long), "image_sizes": [(64, 64), (65, 64)]},
                "image_sizes .* do not fit",
            ),
            ({"input_ids": torch.ones(1, 4, dtype=torch.long), "output_attentions": True}, "output_attentions is not"),
            (
                {"input_ids": torch.ones(1, 4, dtype=torch.long), "output_hidden_states": True},
                "register a forward hook",
            ),
        ],
    )
    def test_refused_in_one_line(
        self, model: MedGlipForObjectDetection, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message) as error:
            model(torch.randn(2, 3, 64, 64), **arguments)
        assert "\n" not in str(error.value)

    def test_text_features_of_another_number_of_prompts(self, model: MedGlipForObjectDetection) -> None:
        features = model.get_text_features(prompt("liver")[0].repeat(3, 1))
        with pytest.raises(ValueError, match="text_features of 3 prompts for 2 images"):
            model(torch.randn(2, 3, 64, 64), text_features=features)

    def test_several_experts_need_a_modality(self, two_experts: MedGlipForObjectDetection) -> None:
        with pytest.raises(ValueError, match="give the modality of each image: one of ct, fundus"):
            two_experts(torch.randn(1, 3, 64, 64), prompt("liver")[0])
