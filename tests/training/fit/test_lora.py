# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Adapters: which layers they have, and how they are saved, loaded, merged and evaluated."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_medglip.checkpoints.adapters import BASE_FILE, load_adapter
from modeling_medglip.checkpoints.location import ADAPTED_HEADS
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.processing_medglip import MedGlipProcessor
from training.evaluate import __main__ as evaluate
from training.fit.finetune import main, with_head
from training.fit.lora import adapted_layers, add_adapter, save_adapter

from .commands import command, error_of


@lru_cache(maxsize=1)
def loaded(checkpoint: Path) -> MedGlipForObjectDetection:
    return MedGlipForObjectDetection.from_pretrained(checkpoint, modalities=["ct"])


class TestAdapters:
    def base(self, checkpoint: Path) -> MedGlipForObjectDetection:
        return copy.deepcopy(loaded(checkpoint)).eval()

    def outputs(self, model: Any, checkpoint: Path) -> torch.Tensor:
        processor = MedGlipProcessor.from_pretrained(checkpoint)
        pixels = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)
        inputs = processor(images=pixels, text="liver. left kidney.", modality="ct", return_tensors="pt")
        with torch.inference_mode():
            results = model(**inputs)
        return torch.cat([results.logits.flatten(), results.pred_boxes.flatten()])

    def changed(self, checkpoint: Path) -> Any:
        """An adapter that is not the identity."""
        model = add_adapter(self.base(checkpoint), "ct", rank=2)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.02 * torch.randn_like(parameter))
        return model.eval()

    def test_only_pyramid_fusion_and_heads_are_trained(self, checkpoint: Path) -> None:
        model = add_adapter(self.base(checkpoint), "ct")
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained and all("lora_" in name or any(head in name for head in ADAPTED_HEADS) for name in trained)
        assert not [name for name in trained if "backbone" in name or "text_model" in name]
        layers = adapted_layers(self.base(checkpoint), "ct")
        assert any("lateral" in name for name in layers) and any("fusion" in name for name in layers)

    def test_a_presence_head_is_adapted_too(self, checkpoint: Path) -> None:
        base = with_head(self.base(checkpoint), "ct", {"presence_dim": 16})
        layers = {name.partition(".presence.")[2] for name in adapted_layers(base, "ct") if ".presence." in name}
        assert layers == {f"{part}_projection" for part in ("phrase", "token", "region", "evidence")} | {"hidden"}
        trained = [name for name, parameter in add_adapter(base, "ct").named_parameters() if parameter.requires_grad]
        assert any("presence_projection" in name and "lora_" not in name for name in trained)

    def test_saved_loaded_merged_and_taken_off(self, checkpoint: Path, tmp_path: Path) -> None:
        model = self.changed(checkpoint)
        plain, adapted = self.outputs(self.base(checkpoint), checkpoint), self.outputs(model, checkpoint)
        assert not torch.allclose(plain, adapted, atol=1e-3)
        model.save_pretrained(tmp_path)
        again = load_adapter(self.base(checkpoint), tmp_path).eval()
        assert torch.equal(self.outputs(again, checkpoint), adapted)
        with again.disable_adapter():
            torch.testing.assert_close(self.outputs(again, checkpoint), plain, rtol=0, atol=1e-5)
        again.merge_adapter()
        torch.testing.assert_close(self.outputs(again, checkpoint), adapted, rtol=1e-4, atol=1e-4)
        again.unmerge_adapter()
        torch.testing.assert_close(self.outputs(again, checkpoint), adapted, rtol=1e-4, atol=1e-4)
        merged = again.merge_and_unload()
        merged.save_pretrained(tmp_path / "merged")
        loaded = MedGlipForObjectDetection.from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(self.outputs(loaded, checkpoint), adapted, rtol=1e-4, atol=1e-4)

    def test_an_adapter_for_another_base(self, checkpoint: Path, tmp_path: Path) -> None:
        self.changed(checkpoint).save_pretrained(tmp_path)
        other = MedGlipForObjectDetection.from_pretrained(checkpoint, modalities=["fundus"])
        with pytest.raises(ValueError, match="an adapter for another base"):
            load_adapter(other, tmp_path)
        save_adapter(self.changed(checkpoint), tmp_path / "mine")
        same = self.base(checkpoint)
        load_adapter(same, tmp_path / "mine")
        retrained = self.base(checkpoint)
        with torch.no_grad():
            retrained.get_submodule(adapted_layers(retrained, "ct")[0]).weight.add_(1e-3)
        with pytest.raises(ValueError, match="its layers or weights are not this model's"):
            load_adapter(retrained, tmp_path / "mine")
        with torch.no_grad():  # of parts that have no adapter, too
            (encoder := self.base(checkpoint)).model.text_model.embeddings.word_embeddings.weight.add_(1e-3)
            next((image := self.base(checkpoint)).model.experts["ct"].backbone.parameters()).add_(1e-3)
        for changed in (encoder, image):
            with pytest.raises(ValueError, match="its layers or weights are not this model's"):
                load_adapter(changed, tmp_path / "mine")
        whole = MedGlipForObjectDetection.from_pretrained(checkpoint)
        load_adapter(whole, tmp_path / "mine")  # other experts beside its own change nothing
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="empty: holds no adapter"):
            load_adapter(self.base(checkpoint), tmp_path / "empty")
        (tmp_path / "mine" / BASE_FILE).unlink()
        settings = json.loads((tmp_path / "mine" / "adapter_config.json").read_text(encoding="utf-8"))
        (tmp_path / "mine" / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": "*"}))
        with pytest.raises(ValueError, match="mine: holds no adapter .its target_modules are not a pattern"):
            load_adapter(self.base(checkpoint), tmp_path / "mine")
        with pytest.raises(ValueError, match="no expert for mri"):
            adapted_layers(self.base(checkpoint), "mri")

    @pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
    def test_a_base_is_known_in_half_precision(self, precision: torch.dtype, checkpoint: Path, tmp_path: Path) -> None:
        save_adapter(self.changed(checkpoint), tmp_path)
        load_adapter(self.base(checkpoint).to(precision), tmp_path)
        other = self.base(checkpoint)
        with torch.no_grad():
            other.model.text_model.embeddings.word_embeddings.weight.mul_(1.1)
        with pytest.raises(ValueError, match="an adapter for another base"):
            load_adapter(other.to(precision), tmp_path)

    def test_a_base_with_other_anchors(self, checkpoint: Path, tmp_path: Path) -> None:
        save_adapter(self.changed(checkpoint), tmp_path)
        other = self.base(checkpoint)
        other.config.expert_overrides = {"ct": {"head_config": {"anchor_sizes": [9, 18, 36, 72, 144]}}}
        with pytest.raises(ValueError, match="an adapter for another base"):
            load_adapter(other, tmp_path)

    def test_only_its_own_expert_is_evaluated(
        self, checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_adapter(self.changed(checkpoint), tmp_path / "adapter")
        MedGlipProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "adapter")
        arguments = ["--model", str(checkpoint), "--data", str(data), "--adapter", str(tmp_path / "adapter")]
        arguments += ["--out", str(tmp_path / "out")]
        assert evaluate.main([*arguments, "--modality", "fundus"]) == 2
        assert "adapter: an adapter for ct, not for fundus" in capsys.readouterr().err
        assert evaluate.main(arguments) == 0
        results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
        assert list(results["modalities"]) == ["ct"] and results["adapter"]["name"] == "adapter"
        assert not results["embedded"] and len(results["adapter"]["weights_sha256"]) == 64
        arguments[1] = str(tmp_path / "adapter")
        assert evaluate.main(arguments) == 2
        assert "is an adapter: give the checkpoint that it was trained on" in capsys.readouterr().err

    def test_a_damaged_adapter(self, checkpoint: Path, tmp_path: Path) -> None:
        save_adapter(self.changed(checkpoint), tmp_path)
        (tmp_path / BASE_FILE).write_text('{"schema": "medglip/adapter@1"}', encoding="utf-8")
        with pytest.raises(ValueError, match="is not of medglip/adapter@2: train the adapter again"):
            load_adapter(self.base(checkpoint), tmp_path)
        save_adapter(self.changed(checkpoint), tmp_path)
        (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
        with pytest.raises(ValueError, match="its weights cannot be read"):
            load_adapter(self.base(checkpoint), tmp_path)

    def test_anchors_stay_the_base_s(
        self, checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = command(checkpoint, data, tmp_path, "--lora", "--anchor_scale", "2.5")
        assert "an adapter keeps the anchors of its base" in error_of(arguments, capsys)

    def test_scores_are_not_chances_any_more(self, checkpoint: Path, data: Path, tmp_path: Path) -> None:
        base = self.base(checkpoint)
        base.config.expert_overrides = {"ct": {"head_config": {"score_calibration": [1.2, -0.3]}}}
        base.save_pretrained(tmp_path / "base")
        MedGlipProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "base")
        save_adapter(add_adapter(base, "ct"), tmp_path / "adapter")
        again = MedGlipForObjectDetection.from_pretrained(tmp_path / "base")
        assert list(again.config.expert_head_config("ct").score_calibration) == [1.2, -0.3]
        load_adapter(again, tmp_path / "adapter")
        assert again.config.expert_head_config("ct").score_calibration is None
        assert main(command(tmp_path / "base", data, tmp_path / "run", "--epochs", "1")) == 0
        trained = MedGlipForObjectDetection.from_pretrained(tmp_path / "run" / "expert")
        assert trained.config.expert_head_config("ct").score_calibration is None
