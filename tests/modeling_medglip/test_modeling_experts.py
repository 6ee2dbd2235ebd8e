# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Several experts in one checkpoint: mixed batches, joining, taking apart, loading some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForZeroShotObjectDetection, TimmBackboneConfig

import modeling_medglip  # noqa: F401  (registers the Auto classes)
from modeling_medglip.configuration_medglip import MedGlipConfig
from modeling_medglip.modeling_medglip import (
    OUTSIDE_LOGIT,
    MedGlipForObjectDetection,
    MedGlipModel,
    grid_indices,
    pyramid_shapes,
)

from .tiny_model import HEAD, prompt, tiny_config, tiny_model


@pytest.fixture(scope="module")
def two_experts() -> MedGlipForObjectDetection:
    return tiny_model(("ct", "fundus"))


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
        timm = TimmBackboneConfig(backbone="test_resnet", out_indices=[2, 3, 4])
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
        unlabeled = MedGlipForObjectDetection.from_experts({"ct": tiny_model(("ct",))})
        assert unlabeled.config.label_hierarchy is None

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

    def test_one_expert_is_looked_up_offline_on_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
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
