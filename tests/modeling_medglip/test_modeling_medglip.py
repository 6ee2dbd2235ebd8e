"""The model: shapes, batching, experts, training, saving. Tiny networks with random weights on the CPU."""

from __future__ import annotations

import inspect
import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import infer_auto_device_map
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import deform_conv2d
from transformers import AutoModel, AutoModelForZeroShotObjectDetection, BertConfig, SwinConfig, TimmBackboneConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

import modeling_medglip  # noqa: F401  (registers the Auto classes)
from modeling_medglip.configuration_medglip import MedGlipConfig
from modeling_medglip.modeling_medglip import (
    OUTSIDE_LOGIT,
    MedGlipForObjectDetection,
    MedGlipModel,
    MedGlipPreTrainedModel,
    assign_atss,
    decode_boxes,
    deform_conv_by_sampling,
    grid_indices,
    group_images,
    label_segments,
    mask_extents,
    pyramid_shapes,
    resolve_image_sizes,
    segment_positions,
)


DOT, WORDS = 1, {"liver": 5, "spleen": 6, "left": 7, "kidney": 8, "polyp": 9}
HEAD: dict[str, Any] = {
    "channels": 16,
    "num_blocks": 2,
    "fusion_dim": 16,
    "fusion_heads": 2,
    "groups": 4,
    "text_heads": 2,
    "text_intermediate": 16,
    "anchor_sizes": [16, 32, 64, 128, 256],
    "prior_prob": 0.3,
}
SWIN = SwinConfig(
    image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
)


def tiny_config(modalities: tuple[str, ...] = ("ct",), **changes: Any) -> MedGlipConfig:
    """Two fusion blocks of 16 channels."""
    text = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64,
    )  # fmt: skip
    fields = {"text_config": text, "backbone_config": SWIN, "head_config": HEAD, "separator_token_ids": [DOT]}
    return MedGlipConfig(modalities=modalities, **{**fields, **changes})


def tiny_model(modalities: tuple[str, ...] = ("ct",), **changes: Any) -> MedGlipForObjectDetection:
    torch.manual_seed(0)
    return MedGlipForObjectDetection(tiny_config(modalities, **changes)).eval()


def prompt(*labels: str) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and label tokens of "a. b." for labels of one or two known words."""
    ids: list[int] = []
    spans = []
    for label in labels:
        words = [WORDS[word] for word in label.split()]
        spans.append(range(len(ids), len(ids) + len(words)))
        ids += [*words, DOT]
    tokens = torch.zeros(1, len(labels), len(ids), dtype=torch.bool)
    for row, span in enumerate(spans):
        tokens[0, row, list(span)] = True
    return torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long), tokens


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
    @pytest.mark.parametrize("backbone", [SWIN, TimmBackboneConfig(backbone="resnet10t", out_indices=[2, 3, 4])])
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


class NoValuesOnTheHost(TorchDispatchMode):
    """Refuses what `item`, `tolist` and `bool` do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class TestConventions:
    """What users of transformers expect of any model."""

    @torch.no_grad()
    def test_forward_reads_no_value_of_a_tensor(self, model: MedGlipForObjectDetection) -> None:
        """So that a GPU never waits for Python; `torch.unique` is called for several prompts only."""
        ids, mask, _ = prompt("liver", "left kidney")
        with NoValuesOnTheHost(), pytest.raises(AssertionError):
            torch.ones(1).item()
        pixel_mask = torch.ones(2, 64, 64, dtype=torch.long)
        pixel_mask[1, :, 40:] = 0
        for padding in ({}, {"pixel_mask": pixel_mask, "image_sizes": [(64, 64), (64, 40)]}):
            with NoValuesOnTheHost():
                output = model(torch.randn(2, 3, 64, 64), ids, mask, modality="ct", **padding)
            assert output.pred_boxes.shape[0] == 2

    def test_losses_read_values_to_check_the_targets_only(
        self, model: MedGlipForObjectDetection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("modeling_medglip.modeling_medglip.target_problem", lambda *targets: None)
        batch = training_batch()
        pixel_mask = torch.ones(2, 64, 64, dtype=torch.long)
        pixel_mask[1, :, 40:] = 0
        with NoValuesOnTheHost():
            loss = model(**batch, pixel_mask=pixel_mask, image_sizes=[(64, 64), (64, 40)]).loss
        assert loss == model(**batch, pixel_mask=pixel_mask).loss

    @torch.no_grad()
    def test_sizes_must_be_the_extents_of_the_mask(self, model: MedGlipForObjectDetection) -> None:
        arguments = {"input_ids": prompt("liver")[0], "pixel_mask": torch.ones(1, 64, 64)}
        with pytest.raises(RuntimeError, match="pixel_mask needs its extents as image_sizes"):
            model(torch.randn(1, 3, 64, 64), **arguments, image_sizes=[(64, 40)])

    @pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states"])
    @torch.no_grad()
    def test_states_asked_for_by_the_configuration_are_refused(
        self, model: MedGlipForObjectDetection, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model.config, f"_{name}" if name == "output_attentions" else name, True)
        arguments = {"pixel_values": torch.zeros(1, 3, 64, 64), "input_ids": prompt("liver")[0]}
        for network in (model, model.model):
            with pytest.raises(ValueError, match=f"^{name} is not supported"):
                network(**arguments)
            assert network(**arguments, **{name: False}).logits is not None

    def test_every_argument_is_documented(self) -> None:
        """By `auto_docstring`, which fills in what it knows of other models where a text is missing."""
        for function in (MedGlipModel.forward, MedGlipForObjectDetection.forward):
            text = inspect.getdoc(function) or ""
            names = set(inspect.signature(function).parameters) - {"self", "kwargs"}
            assert names <= set(re.findall(r"^    (\w+) \(\[?`", text, re.MULTILINE))
            assert "_class`]" not in text and "image_size, image_size" not in text
            assert "Returns:\n" in text and "Raises:\n" in text
        for kind in (MedGlipModel, MedGlipForObjectDetection):
            text = inspect.getdoc(kind) or ""
            assert text.startswith(("The bare MedGLIP model", "MedGLIP with box"))
            assert "None" not in text and "config ([`MedGlipConfig`])" in text
        assert (inspect.getdoc(MedGlipPreTrainedModel) or "").startswith("Base class of the MedGLIP models")

    @torch.no_grad()
    @pytest.mark.slow
    @pytest.mark.parametrize("way", ["compile", "export"])
    @pytest.mark.parametrize("padding", ["whole", "padded"])
    def test_one_expert_is_traced_without_graph_breaks(self, way: str, padding: str) -> None:
        backbone = TimmBackboneConfig(backbone="test_convnext", out_indices=[1, 2, 3])
        head = {**HEAD, "num_blocks": 1, "conv_type": "plain", "anchor_strides": [8, 16, 32, 64, 128]}
        model = tiny_model(backbone_config=backbone, head_config=head, text_attention="label")
        ids, mask, _ = prompt("liver", "left kidney")
        batch = {
            "pixel_values": torch.randn(2, 3, 64, 64), "pixel_mask": torch.ones(2, 64, 64, dtype=torch.long),
            "input_ids": ids.repeat(2, 1), "attention_mask": mask.repeat(2, 1), "modality": ["ct", "ct"],
        }  # fmt: skip
        if padding == "padded":
            batch["pixel_mask"][1, :, 32:] = 0
            batch["image_sizes"] = [(64, 64), (64, 32)]
        expected = model(**batch)
        if way == "compile":
            traced: Any = torch.compile(model, fullgraph=True, backend="eager")
        else:
            traced = torch.export.export(model, (), batch, strict=False).module()
        output = traced(**batch)
        assert torch.allclose(output.logits, expected.logits, atol=1e-5)
        assert torch.allclose(output.pred_boxes, expected.pred_boxes, atol=1e-4)
        with pytest.raises(RuntimeError, match="pixel_mask needs its extents as image_sizes"):
            traced(**{**batch, "pixel_mask": torch.zeros_like(batch["pixel_mask"])})

    @torch.no_grad()
    def test_head_configurations_are_resolved_once(
        self, two_experts: MedGlipForObjectDetection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(MedGlipConfig, "expert_head_config")
        monkeypatch.delattr(MedGlipConfig, "for_modalities")
        assert two_experts(torch.randn(1, 3, 64, 64), prompt("liver")[0], modality="fundus").logits is not None

    def test_settings_of_a_head_can_be_changed(self) -> None:
        model = tiny_model()
        before = model(torch.zeros(1, 3, 64, 64), prompt("liver")[0])
        model.update_head_config("CT", score_calibration=[2.0, -1.0], anchor_sizes=[8, 16, 32, 64, 128])
        after = model(torch.zeros(1, 3, 64, 64), prompt("liver")[0])
        assert before.score_calibration is None and after.score_calibration.tolist() == [[2, -1]]
        sizes = [(box[..., 2] - box[..., 0] + 1).mean() for box in (before.pred_boxes, after.pred_boxes)]
        assert sizes[0].item() == pytest.approx(2 * sizes[1].item(), rel=1e-4)
        assert model.config.expert_head_config("ct").anchor_sizes == [8, 16, 32, 64, 128]

    @torch.no_grad()
    def test_misspelled_arguments_are_refused(self, model: MedGlipForObjectDetection) -> None:
        arguments = {"pixel_values": torch.randn(1, 3, 64, 64), "input_ids": prompt("liver")[0]}
        for network in (model, model.model):
            with pytest.raises(TypeError, match=r"forward\(\) got an unexpected keyword argument 'modalty'"):
                network(**arguments, modalty="ct")
            known = {"output_attentions": False, "output_hidden_states": None, "text_labels": [["liver"]]}
            assert torch.isfinite(network(**arguments, **known, return_dict=True).logits).all()

    @torch.no_grad()
    def test_every_attention_follows_the_chosen_implementation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny_model(("ct", "fundus"), expert_overrides={"fundus": {"backbone_config": {"window_size": 2}}})
        images, (ids, mask, _) = torch.randn(2, 3, 64, 64), prompt("liver", "left kidney")
        mask = torch.nn.functional.pad(mask, (0, 3))
        batch = {"input_ids": torch.nn.functional.pad(ids, (0, 3)), "attention_mask": mask}
        seen: list[str] = []

        def counted(module: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(type(module).__name__)
            return sdpa_attention_forward(module, *args, **kwargs)

        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", counted)
        outputs = {}
        for implementation in ("eager", "sdpa"):
            model.set_attn_implementation(implementation)
            seen.clear()
            outputs[implementation] = model(images, **batch, modality=["ct", "fundus"])
            layers = {"MedGlipBiDirectionalAttention": 8, "BertSelfAttention": 5, "SwinAttention": 8}
            assert Counter(seen) == ({} if implementation == "eager" else layers)
        model.config._attn_implementation = "eager"
        seen.clear()
        model(images, **batch, modality="ct")
        assert not seen
        assert torch.allclose(outputs["eager"].logits, outputs["sdpa"].logits, atol=1e-5)
        assert torch.allclose(outputs["eager"].pred_boxes, outputs["sdpa"].pred_boxes, atol=1e-4)

    def test_initial_weights(self) -> None:
        """Uniform weights of Kaiming and Xavier reach up to their bound, normal ones have their deviation."""
        model = tiny_model(head_config={**HEAD, "positions": True, "text_dim": 8, "box_scale_init": 10.0})
        expert, head = model.model.experts["ct"], model.box_heads["ct"]
        pyramid, block = expert.pyramid, expert.blocks[0]
        dynamic = block.dynamic_conv
        default = [
            expert.positions.projection, expert.text_adapter, expert.alignment.text_projection, dynamic.offset,
            dynamic.conv_same, dynamic.activation.excite,
        ]  # fmt: skip
        bounds = {weight: weight[0].numel() ** -0.5 for weight in (layer.weight for layer in default)}
        bounds |= {conv.weight: (3 / conv.weight[0].numel()) ** 0.5 for conv in (pyramid.p6, pyramid.lateral[0])}
        bounds |= {layer.weight: (6 / sum(layer.weight.shape)) ** 0.5 for layer in block.fusion.attention.children()}
        for weight, bound in bounds.items():
            assert 0.8 * bound < weight.abs().max() <= bound
        for layer in (head.box_projection, dynamic.scale_attention):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.5) and not layer.bias.any()
        assert (block.fusion.gamma_visual == 0.5).all() and (head.level_scales == 10).all()
        assert expert.alignment.bias.item() == pytest.approx(math.log(0.3 / 0.7)) and expert.alignment.log_scale == 0

    def test_loaded_weights_are_not_initialized_again(self, tmp_path: Path) -> None:
        model = tiny_model()
        model.save_pretrained(tmp_path)
        again = MedGlipForObjectDetection.from_pretrained(tmp_path)
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())

    @pytest.mark.filterwarnings("ignore:Current model requires")
    def test_modules_with_sums_over_their_layers_stay_on_one_device(self) -> None:
        model = tiny_model(head_config={**HEAD, "positions": True})
        total = sum(tensor.numel() * 4 for tensor in model.parameters())
        whole = ("pyramid", "positions", "blocks.0", "blocks.1", "alignment", "box_heads.ct")
        for share in range(1, 12):
            memory = {0: total * share // 12, "cpu": total}
            devices = infer_auto_device_map(model, memory, no_split_module_classes=model._no_split_modules)
            inside = [name for name in devices if any(f"{part}." in name for part in whole)]
            assert not [name for name in inside if "backbone" not in name]


def count_calls(monkeypatch: pytest.MonkeyPatch, module: torch.nn.Module) -> list[dict[str, Any]]:
    """Record the keyword arguments of every forward of `module`."""
    calls: list[dict[str, Any]] = []
    forward = module.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", counted)
    return calls


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


class TestExperts:
    @torch.no_grad()
    def test_mixed_batch_of_sizes_and_modalities_equals_one_by_one(
        self, two_experts: MedGlipForObjectDetection
    ) -> None:
        sizes = [("ct", 64, 96), ("fundus", 96, 64), ("ct", 64, 64)]
        batch, mask = torch.zeros(3, 3, 96, 96), torch.zeros(3, 96, 96, dtype=torch.long)
        for index, (_, height, width) in enumerate(sizes):
            batch[index, :, :height, :width] = torch.randn(3, height, width)
            mask[index, :height, :width] = 1
        ids, text_mask, _ = prompt("liver", "spleen")
        together = two_experts(batch, ids, text_mask, [name for name, _, _ in sizes], mask)
        whole = pyramid_shapes((96, 96), (8, 16, 32, 64, 128))
        for index, (name, height, width) in enumerate(sizes):
            alone = two_experts(batch[index : index + 1, :, :height, :width], ids, text_mask, name)
            places = grid_indices(pyramid_shapes((height, width), (8, 16, 32, 64, 128)), whole, torch.device("cpu"))
            assert torch.allclose(together.logits[index, places], alone.logits[0], atol=1e-5)
            assert torch.allclose(together.pred_boxes[index, places], alone.pred_boxes[0], atol=1e-3)
            outside = torch.ones(together.logits.shape[1], dtype=torch.bool)
            outside[places] = False
            assert (together.logits[index, outside] == OUTSIDE_LOGIT).all()
            assert together.input_sizes[index].tolist() == [height, width]

    @torch.no_grad()
    def test_join_and_take_apart(self) -> None:
        ct = tiny_model(("ct",))
        fundus = tiny_model(("fundus",), head_config={**HEAD, "anchor_sizes": [8, 16, 32, 64, 128]})
        joined = MedGlipForObjectDetection.from_experts({"CT": ct, "retina": fundus})
        assert joined.config.modalities == ["ct", "fundus"]
        assert joined.config.expert_head_config("fundus").anchor_sizes == [8, 16, 32, 64, 128]
        assert joined.config.expert_head_config("ct").anchor_sizes == [16, 32, 64, 128, 256]
        images, ids = torch.randn(1, 3, 64, 64), prompt("liver")[0]
        for name, single in (("ct", ct), ("fundus", fundus)):
            expected = single(images, ids)
            for candidate in (joined, joined.expert(name)):
                output = candidate(images, ids, modality=name)
                assert torch.equal(output.logits, expected.logits)
                assert torch.equal(output.pred_boxes, expected.pred_boxes)

    @torch.no_grad()
    def test_joined_experts_with_other_kinds_of_image_encoders_are_saved_whole(self, tmp_path: Path) -> None:
        timm = TimmBackboneConfig(backbone="resnet10t", out_indices=[2, 3, 4])
        parts = {"ct": tiny_model(("ct",)), "fundus": tiny_model(("fundus",), backbone_config=timm)}
        MedGlipForObjectDetection.from_experts(parts).save_pretrained(tmp_path)
        loaded = MedGlipForObjectDetection.from_pretrained(tmp_path)
        assert loaded.config.expert_backbone_config("fundus").model_type == "timm_backbone"
        images, ids = torch.randn(1, 3, 64, 64), prompt("liver")[0]
        for name, single in parts.items():
            for candidate in (loaded, MedGlipForObjectDetection.from_pretrained(tmp_path, modalities=[name])):
                logits = candidate(images, ids, modality=name).logits
                assert torch.allclose(logits, single(images, ids).logits, atol=1e-6)

    def test_frozen_tensors_stay_frozen_and_shared(self) -> None:
        whole = tiny_model(("ct", "fundus"))
        whole.model.text_model.requires_grad_(False)
        alone = whole.expert("ct")
        frozen = {name for name, tensor in alone.named_parameters() if not tensor.requires_grad}
        assert frozen and all(".text_model." in f".{name}" for name in frozen)
        again = MedGlipForObjectDetection.from_experts({"ct": alone, "fundus": whole.expert("fundus")})
        ours, theirs = dict(again.named_parameters()), dict(whole.named_parameters())
        assert ours.keys() == theirs.keys()
        assert all(ours[name].requires_grad == theirs[name].requires_grad for name in ours)
        assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)

    def test_labels_follow_their_experts(self) -> None:
        parts = {
            name: tiny_model((name,), label_hierarchy={"trained_labels": {name: [label]}, "source": "made up"})
            for name, label in (("ct", "liver"), ("fundus", "optic disc"))
        }
        joined = MedGlipForObjectDetection.from_experts(parts)
        assert joined.config.label_hierarchy == {
            "trained_labels": {"ct": ["liver"], "fundus": ["optic disc"]}, "source": "made up",
        }  # fmt: skip
        assert joined.expert("fundus").config.label_hierarchy == parts["fundus"].config.label_hierarchy
        unlabelled = MedGlipForObjectDetection.from_experts({"ct": tiny_model(("ct",))})
        assert unlabelled.config.label_hierarchy is None

    def test_one_pyramid_for_all_experts(self) -> None:
        other = {"fundus": {"head_config": {"anchor_strides": [4, 8, 16, 32, 64]}}}
        with pytest.raises(StrictDataclassClassValidationError, match="the same anchor_strides"):
            tiny_config(("ct", "fundus"), expert_overrides=other)

    @torch.no_grad()
    def test_each_expert_keeps_its_calibration(self) -> None:
        ct = tiny_model(("ct",), head_config={**HEAD, "score_calibration": [2.0, -1.0]})
        joined = MedGlipForObjectDetection.from_experts({"ct": ct, "fundus": tiny_model(("fundus",))})
        ids = prompt("liver")[0].repeat(2, 1)
        output = joined(torch.randn(2, 3, 64, 64), ids, modality=["fundus", "ct"])
        assert output.score_calibration.tolist() == [[1, 0], [2, -1]]
        alone = joined.expert("ct")(torch.randn(1, 3, 64, 64), ids[:1])
        assert alone.score_calibration.tolist() == [[2, -1]]
        assert joined.expert("fundus")(torch.randn(1, 3, 64, 64), ids[:1]).score_calibration is None

    @pytest.mark.parametrize("wrong", [[1.0], [0.0, 1.0], [-1.0, 0.0]])
    def test_calibrations_that_are_none(self, wrong: list[float]) -> None:
        with pytest.raises(StrictDataclassClassValidationError, match="a positive slope and an intercept"):
            tiny_config(head_config={**HEAD, "score_calibration": wrong})

    def test_one_expert_is_looked_up_offline_when_told_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class AskedError(Exception):
            pass

        def config_of(path: str, **options: Any) -> None:
            raise AskedError(options)

        monkeypatch.setattr(MedGlipConfig, "from_pretrained", config_of)
        with pytest.raises(AskedError) as asked:
            MedGlipForObjectDetection.from_pretrained("org/name", modalities=["ct"], local_files_only=True)
        assert asked.value.args[0]["local_files_only"] is True

    def test_another_reading_of_labels_cannot_be_joined(self) -> None:
        with pytest.raises(ValueError, match="expert for mri was trained with another language encoder"):
            MedGlipForObjectDetection.from_experts(
                {"ct": tiny_model(("ct",)), "mri": tiny_model(("mri",), text_attention="label")}
            )

    @pytest.mark.parametrize("names", ["OP", ["retina"]])
    def test_the_auto_classes_choose_experts_by_any_name(
        self, two_experts: MedGlipForObjectDetection, tmp_path: Path, names: Any
    ) -> None:
        two_experts.save_pretrained(tmp_path)
        one = AutoModelForZeroShotObjectDetection.from_pretrained(tmp_path, modalities=names)
        assert one.config.modalities == ["fundus"]
        with pytest.raises(ValueError, match="modality"):
            AutoModelForZeroShotObjectDetection.from_pretrained(tmp_path, modalities=["pet"])

    def test_another_language_encoder_cannot_be_joined(self) -> None:
        first, second = tiny_model(("ct",)), tiny_model(("mri",))
        with torch.no_grad():
            next(second.model.text_model.parameters()).add_(1)
        with pytest.raises(ValueError, match="expert for mri was trained with another language encoder"):
            MedGlipForObjectDetection.from_experts({"ct": first, "mri": second})

    def test_no_experts(self) -> None:
        with pytest.raises(ValueError, match="at least one expert"):
            MedGlipForObjectDetection.from_experts({})

    def test_one_expert_of_a_saved_checkpoint(self, two_experts: MedGlipForObjectDetection, tmp_path: Path) -> None:
        two_experts.save_pretrained(tmp_path)
        one = MedGlipForObjectDetection.from_pretrained(tmp_path, modalities=["OP"])
        assert one.config.modalities == ["fundus"]
        assert not [key for key in one.state_dict() if ".ct." in key]
        ids = prompt("liver")[0]
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            whole = two_experts(images, ids, modality="fundus").logits
            assert torch.allclose(one.eval()(images, ids).logits, whole, atol=1e-5)
        automatic = AutoModelForZeroShotObjectDetection.from_pretrained(tmp_path, modalities=["ct"])
        assert automatic.config.modalities == ["ct"]
        with pytest.raises(ValueError, match="no expert for mri: it has ct, fundus"):
            MedGlipForObjectDetection.from_pretrained(tmp_path, modalities=["mri"])

    def test_experts_that_were_not_asked_for_are_passed_over_in_silence(
        self, two_experts: MedGlipForObjectDetection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        two_experts.save_pretrained(tmp_path)
        said: list[str] = []
        monkeypatch.setattr("transformers.modeling_utils.logger.warning", lambda text, *rest: said.append(str(text)))
        for kind in (MedGlipForObjectDetection, MedGlipModel):
            _, info = kind.from_pretrained(tmp_path, modalities=["ct"], output_loading_info=True)
            assert not info["unexpected_keys"] and not info["missing_keys"]
        assert not said
        state = load_file(tmp_path / "model.safetensors")
        save_file({**state, "box_heads.ct.more": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="has unknown 1 tensors, the first is 'box_heads.ct.more'"):
            MedGlipForObjectDetection.from_pretrained(tmp_path, modalities=["ct"])
        save_file({**state, "model.experts.bogus.x": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=r"has unknown 1 tensors, the first is '(model\.)?experts.bogus.x'"):
            MedGlipForObjectDetection.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match="only safetensors are read"):
            MedGlipForObjectDetection.from_pretrained(tmp_path, use_safetensors=False)

    def test_experts_of_another_width_do_not_fit(self) -> None:
        overrides = {"fundus": {"head_config": {"channels": 32}}}
        with pytest.raises(StrictDataclassClassValidationError, match="need the same head channels"):
            tiny_config(("ct", "fundus"), expert_overrides=overrides)


def training_batch(count: int = 2) -> dict[str, Any]:
    """Images with a bright square to be found as "liver"; the second has no target."""
    torch.manual_seed(1)
    images = torch.zeros(count, 3, 64, 64)
    images[0, :, 16:40, 8:32] = 1.0
    ids, mask, tokens = prompt("liver", "spleen")
    labels = [{"boxes": torch.tensor([[8.0, 16.0, 31.0, 39.0]]), "class_labels": torch.tensor([0])}]
    labels += [{"boxes": torch.zeros(0, 4), "class_labels": torch.zeros(0, dtype=torch.long)}] * (count - 1)
    return {
        "pixel_values": images,
        "input_ids": ids.repeat(count, 1),
        "attention_mask": mask.repeat(count, 1),
        "label_tokens": tokens.repeat(count, 1, 1),
        "labels": labels,
    }


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
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(25):
            output = model(**batch)
            optimiser.zero_grad()
            output.loss.backward()
            optimiser.step()
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
        """Two experts of equal weights, one with boxes counting more: the same picture through both gives the mean."""
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
        backbone = TimmBackboneConfig(backbone="resnet10t", out_indices=[2, 3, 4])
        model = tiny_model(backbone_config=backbone)
        model.model.text_model.requires_grad_(False)
        model.train()
        before = {key: value.clone() for key, value in model.state_dict().items() if "running_mean" in key}
        model(**training_batch())
        assert before and all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
        assert not model.model.text_model.training


class TestSaving:
    def test_round_trip_keeps_names_and_outputs(self, model: MedGlipForObjectDetection, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
        again = AutoModelForZeroShotObjectDetection.from_pretrained(tmp_path)
        assert type(again) is MedGlipForObjectDetection
        images, ids = torch.randn(1, 3, 64, 64), prompt("liver")[0]
        with torch.no_grad():
            assert torch.equal(again(images, ids).logits, model(images, ids).logits)
        base = AutoModel.from_pretrained(tmp_path)
        assert type(base) is MedGlipModel
        with torch.no_grad():
            assert torch.equal(base(images, ids).logits, model(images, ids).logits)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda state: state.pop("model.experts.ct.alignment.bias"), "lacks 1 tensors"),
            (lambda state: state.update({"model.more": torch.zeros(1)}), "has unknown 1 tensors"),
        ],
    )
    def test_incomplete_checkpoint_is_refused(
        self, model: MedGlipForObjectDetection, tmp_path: Path, damage: Any, message: str
    ) -> None:
        model.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        damage(state)
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message) as error:
            MedGlipForObjectDetection.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)

    def test_pickled_checkpoint_is_not_opened(self, model: MedGlipForObjectDetection, tmp_path: Path) -> None:
        model.config.save_pretrained(tmp_path)
        (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
        with pytest.raises(ValueError, match="pytorch_model.bin is a pickled checkpoint and is not opened"):
            MedGlipForObjectDetection.from_pretrained(tmp_path)

    @pytest.mark.slow  # starts a process
    def test_remote_code_works_without_the_package(self, model: MedGlipForObjectDetection, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path / "hub")
        config = json.loads((tmp_path / "hub" / "config.json").read_text())
        assert config["auto_map"]["AutoModel"] == "modeling_medglip.MedGlipModel"
        for name in ("configuration", "modeling"):
            assert (tmp_path / "hub" / f"{name}_medglip.py").is_file()
        with torch.no_grad():
            expected = model(torch.ones(1, 3, 64, 64), prompt("liver")[0]).logits.sum().item()
        code = (
            "import sys, torch\n"
            "from transformers import AutoModelForZeroShotObjectDetection as A\n"
            "m = A.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
            "assert 'modeling_medglip' not in sys.modules\n"
            "ids = torch.tensor([[5, 1]])\n"
            "with torch.no_grad():\n"
            "    print(m(torch.ones(1, 3, 64, 64), ids).logits.sum().item())\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "hub")],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
            env={**clean_environment(), "HF_HOME": str(tmp_path / "home")},
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert float(run.stdout.split()[-1]) == pytest.approx(expected, rel=1e-5)


def clean_environment() -> dict[str, str]:
    """The environment without a path to this repository."""
    import os

    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


class TestParts:
    @pytest.mark.parametrize("stride", [1, 2])
    def test_sampled_deformable_convolution_equals_torchvision(self, stride: int) -> None:
        torch.manual_seed(0)
        feature = torch.randn(2, 40, 7, 9, requires_grad=True)
        height, width = -(-7 // stride), -(-9 // stride)
        offset = torch.randn(2, 18, height, width) * 3
        mask = torch.rand(2, 9, height, width)
        weight, bias = torch.randn(40, 40, 3, 3), torch.randn(40)
        ours = deform_conv_by_sampling(feature, offset, mask, weight, bias, stride)
        theirs = deform_conv2d(feature, offset, weight, bias, stride=stride, padding=1, mask=mask)
        assert torch.allclose(ours, theirs, atol=1e-4)
        first = torch.autograd.grad(ours.square().sum(), feature)[0]
        second = torch.autograd.grad(theirs.square().sum(), feature)[0]
        assert torch.allclose(first, second, atol=1e-2, rtol=1e-3)

    def test_single_row_maps_are_sampled(self) -> None:
        feature = torch.randn(1, 4, 1, 1)
        offset, mask = torch.zeros(1, 18, 1, 1), torch.ones(1, 9, 1, 1)
        weight, bias = torch.randn(4, 4, 3, 3), torch.zeros(4)
        expected = torch.nn.functional.conv2d(feature, weight, padding=1)
        assert torch.allclose(deform_conv_by_sampling(feature, offset, mask, weight, bias, 1), expected, atol=1e-5)

    def test_folded_attention_equals_the_textbook_form(self, model: MedGlipForObjectDetection) -> None:
        attention = model.model.experts["ct"].blocks[0].fusion.attention
        visual, text = torch.randn(2, 9, 16), torch.randn(2, 5, 16)
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        with torch.no_grad():
            for linear in attention.children():
                linear.bias.normal_()
            ours = attention(visual, text, mask)
            theirs = textbook_attention(attention, visual, text, mask)
            for linear in attention.children():
                linear.bias.zero_()
        for mine, reference in zip(ours, theirs, strict=True):
            assert torch.allclose(mine, reference, atol=1e-5)

    def test_segments_and_positions(self) -> None:
        ids = torch.tensor([[7, 8, DOT, 5, DOT, 0]])
        segments = label_segments(ids, [DOT])
        assert segments.tolist() == [[0, 0, 0, 1, 1, 2]]
        assert segment_positions(segments).tolist() == [[1, 2, 3, 1, 2, 1]]

    def test_assignment_takes_the_fitting_anchor(self) -> None:
        anchors = torch.tensor([[0.0, 0, 9, 9], [10, 0, 19, 9], [0, 0, 19, 9], [40, 40, 49, 49]])
        assigned = assign_atss(anchors, [3, 1], torch.tensor([[10.0, 0, 19, 9]]), topk=2)
        assert assigned.tolist() == [-1, 0, -1, -1]
        assert assign_atss(anchors, [3, 1], torch.zeros(0, 4), topk=2).tolist() == [-1] * 4

    def test_image_sizes_and_groups(self) -> None:
        mask = torch.zeros(2, 32, 64)
        mask[0, :32, :64], mask[1, :20, :40] = 1, 1
        assert mask_extents(mask).tolist() == [[32, 64], [20, 40]]
        images = torch.zeros(2, 3, 32, 64)
        assert resolve_image_sizes(images) == [(32, 64), (32, 64)]
        assert resolve_image_sizes(images, mask) == [(32, 64), (20, 40)]
        assert resolve_image_sizes(images, mask, [(32, 64), [20, 40]]) == [(32, 64), (20, 40)]
        assert resolve_image_sizes(images, None, [(8, 16), (32, 64)]) == [(8, 16), (32, 64)]
        groups = group_images(["ct", "ct", "mri"], [(8, 8), (4, 4), (8, 8)])
        assert groups == {("ct", 8, 8): [0], ("ct", 4, 4): [1], ("mri", 8, 8): [2]}


def textbook_attention(attention: Any, visual: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """GLIP's formulation, with all projections of the regions."""
    split = attention._split
    query, key = split(attention.v_proj(visual)), split(attention.l_proj(text))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    to_text = scores.transpose(2, 3).softmax(-1) @ split(attention.values_v_proj(visual))
    allowed = scores.masked_fill(~mask.bool()[:, None, None], float("-inf"))
    to_visual = allowed.softmax(-1) @ split(attention.values_l_proj(text))
    merge = [part.transpose(1, 2).flatten(2) for part in (to_visual, to_text)]
    return attention.out_v_proj(merge[0]), attention.out_l_proj(merge[1])


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
