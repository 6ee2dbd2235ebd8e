# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What users of transformers expect of any model: tracing, attention, documentation, initial weights, devices."""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import infer_auto_device_map
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TimmBackboneConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import modeling_medglip  # noqa: F401  (registers the Auto classes)
from modeling_medglip.configuration_medglip import MedGlipConfig
from modeling_medglip.modeling_medglip import (
    MedGlipForObjectDetection,
    MedGlipModel,
    MedGlipPreTrainedModel,
    resolve_image_sizes,
)

from .tiny_model import HEAD, prompt, tiny_model, training_batch


@pytest.fixture(scope="module")
def model() -> MedGlipForObjectDetection:
    return tiny_model()


@pytest.fixture(scope="module")
def two_experts() -> MedGlipForObjectDetection:
    return tiny_model(("ct", "fundus"))


class NoValuesOnTheHost(TorchDispatchMode):
    """Refuses what `item`, `tolist` and `bool` do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class NoWaiting(TorchFunctionMode):
    """Refuses the copies of numbers from the host for which a GPU ends its work first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options, name = kwargs or {}, getattr(func, "__name__", "")
        assert func is not torch.tensor or str(options.get("device") or "cpu") == "cpu"
        assert name != "new_tensor"
        if name in ("__getitem__", "__setitem__"):
            assert not any(isinstance(part, list) for part in (args[1] if isinstance(args[1], tuple) else args[1:2]))
        result = func(*args, **options)
        if name == "to" and result.device != args[0].device:
            assert options.get("non_blocking")
        return result


class TestConventions:
    """What users of transformers expect of any model."""

    @torch.no_grad()
    def test_forward_reads_no_value_of_a_tensor(self, model: MedGlipForObjectDetection) -> None:
        """So that a GPU never waits for Python; `torch.unique` is called for several prompts only."""
        ids, mask, _ = prompt("liver", "left kidney")
        with NoValuesOnTheHost(), pytest.raises(AssertionError):
            torch.ones(1).item()
        for padding in ({}, {"image_sizes": [(64, 64), (64, 40)]}):
            with NoValuesOnTheHost():
                output = model(torch.randn(2, 3, 64, 64), ids, mask, modality="ct", **padding)
            assert output.pred_boxes.shape[0] == 2

    @torch.no_grad()
    @pytest.mark.parametrize("given", ["prompts", "text features"])
    def test_forward_waits_for_nothing_on_a_device(self, given: str) -> None:
        """A device without values, for a batch of two experts, three prompts and two sizes."""
        model = tiny_model(("ct", "fundus")).to("meta")
        calls: list[str] = []
        for name, expert in model.model.experts.items():
            expert.backbone.register_forward_hook(lambda *_, name=name: calls.append(name))
        ids, mask = (part.repeat(3, 1).to("meta") for part in prompt("liver", "left kidney")[:2])
        batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if given == "text features":
            batch = {"text_features": model.get_text_features(**batch)}
        sizes = {"image_sizes": [(64, 64), (64, 40), (64, 64)]}
        with pytest.raises(AssertionError), NoWaiting():
            torch.tensor([1], device="meta")
        with NoWaiting():
            images = torch.zeros(3, 3, 64, 64, device="meta")
            whole = model(images, **batch, modality=["ct", "fundus", "ct"])
            padded = model(images, **batch, modality=["ct", "fundus", "ct"], **sizes)
        assert whole.logits.shape == padded.logits.shape
        assert calls == ["ct", "fundus"] * 2

    def test_losses_read_values_to_check_the_targets_only(
        self, model: MedGlipForObjectDetection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("modeling_medglip.modeling_medglip.target_problem", lambda *targets: None)
        batch = training_batch()
        pixel_mask = torch.ones(2, 64, 64, dtype=torch.long)
        pixel_mask[1, :, 40:] = 0
        with NoValuesOnTheHost():
            loss = model(**batch, image_sizes=[(64, 64), (64, 40)]).loss
        assert loss == model(**batch, pixel_mask=pixel_mask).loss

    @torch.no_grad()
    def test_sizes_must_be_the_extents_of_the_mask(self, model: MedGlipForObjectDetection) -> None:
        batch = {"pixel_values": torch.randn(1, 3, 64, 64), "input_ids": prompt("liver")[0], "image_sizes": [(64, 64)]}
        pixel_mask = torch.ones(1, 64, 64)
        pixel_mask[..., 40:] = 0
        message = (
            r"^image_sizes \[\(64, 64\)\] are not the extents \[\(64, 40\)\] of pixel_mask: leave image_sizes out"
        )
        for network in (model, model.model):
            with pytest.raises(ValueError, match=message):
                network(**{**batch, "pixel_mask": pixel_mask})
        masked = model(**{**batch, "pixel_mask": pixel_mask, "image_sizes": None})
        assert torch.equal(masked.logits, model(**{**batch, "image_sizes": [(64, 40)]}).logits)

    def test_sizes_win_over_a_mask_that_is_not_on_the_cpu(self) -> None:
        """Where the host would wait for the mask, and an assertion would end the use of the device."""
        images, pixel_mask = torch.zeros(1, 3, 64, 64, device="meta"), torch.ones(1, 64, 64, device="meta")
        assert resolve_image_sizes(images, pixel_mask, [(64, 40)]) == [(64, 40)]

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
