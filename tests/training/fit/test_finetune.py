# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The one command that trains: what it makes of settings, data and models, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modeling_medglip.checkpoints.adapters import BASE_FILE, load_adapter
from modeling_medglip.checkpoints.location import ADAPTED_HEADS
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.processing_medglip import MedGlipProcessor
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.evaluate import __main__ as evaluate
from training.fit import finetune
from training.fit.finetune import HELP, FinetuneArguments, load_base, load_data, main, resolved_recipe, run
from training.fit.lora import adapted_layers, add_adapter, save_adapter
from training.fit.recipe import load_recipe

from ..tiny_data import make_data, save_coco, trunk_image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def command(checkpoint: Path, data: Path, out: Path, *more: str) -> list[str]:
    base = ["--model", str(checkpoint), "--data", str(data), "--modality", "ct", "--out", str(out)]
    return [*base, "--epochs", "2", "--batch", "2", *more]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


class TestRuns:
    @pytest.mark.parametrize("kind", ["full", "lora"])
    def test_scores_weights_and_a_card(self, checkpoint: Path, data: Path, tmp_path: Path, kind: str) -> None:
        more = ["--lora"] if kind == "lora" else []
        assert main(command(checkpoint, data, tmp_path, *more)) == 0
        results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
        assert set(results["after"]["labels"]) == set(results["before"]["labels"]) == {"left kidney", "right kidney"}
        assert results["images"] == {"train": 3, "replayed": 0, "validation": 1, "broken": 0}
        text = json.dumps(results) + (tmp_path / "README.md").read_text(encoding="utf-8")
        assert str(tmp_path) not in text and str(data) not in text, "no paths of this machine"
        assert "| left kidney |" in text and "| **mean** |" in text
        assert Image.open(tmp_path / "history.png").width > 100
        assert (tmp_path / ("adapter" if more else "expert")).is_dir()
        if not more:
            model = MedGlipForObjectDetection.from_pretrained(tmp_path / "expert")
            assert model.config.modalities == ["ct"]
            MedGlipProcessor.from_pretrained(tmp_path / "expert")

    def test_an_interrupted_run_goes_on(
        self, checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert main(command(checkpoint, data, tmp_path / "whole", "--lora")) == 0
        monkeypatch.setattr(finetune, "save", lambda *arguments: (_ for _ in ()).throw(OSError("power cut")))
        assert main(command(checkpoint, data, tmp_path / "cut", "--lora")) == 2
        monkeypatch.undo()
        for path in (tmp_path / "cut").glob("checkpoint-*"):
            assert int(path.name.split("-")[1]) > 0
        assert main(command(checkpoint, data, tmp_path / "cut", "--lora")) == 0
        first, second = (
            load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "cut")
        )
        assert first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())

    def test_a_dry_run_shows_and_trains_nothing(
        self, checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(command(checkpoint, data, tmp_path, "--dry_run")) == 0
        printed = capsys.readouterr().out
        assert "3 training images, 1 for validation" in printed
        assert "left kidney   train 2 images, 2 boxes; validation 1, 1; taxonomy: kidney_left" in printed
        assert "[" in printed.split("prompts")[1]
        assert [path.name for path in tmp_path.iterdir()] == ["training_images.png"]
        assert len(np.unique(np.asarray(Image.open(tmp_path / "training_images.png")))) > 20

    def test_the_best_epoch(self, checkpoint: Path, data: Path, tmp_path: Path) -> None:
        assert main(command(checkpoint, data, tmp_path, "--lora", "--keep", "best")) == 0
        state = json.loads(next(tmp_path.glob("checkpoint-*/trainer_state.json")).read_text(encoding="utf-8"))
        assert [row for row in state["log_history"] if "eval_AP50" in row]

    def test_older_data_are_mixed_in(self, checkpoint: Path, data: Path, tmp_path: Path) -> None:
        settings = FinetuneArguments(str(data), "ct", str(checkpoint), replay=str(data), replay_share=0.5)
        records = load_data(settings)
        weight = sum(record.weight for record in records.train[:3])
        assert len(records.train) == 6 and sum(r.weight for r in records.train[3:]) == pytest.approx(weight / 2)

    def test_what_was_known_is_measured_too(self, checkpoint: Path, data: Path, tmp_path: Path) -> None:
        options = ["--labels", "liver", "--replay", str(data), "--replay_exclude", "liver"]
        assert main(command(checkpoint, data, tmp_path, "--lora", *options)) == 0
        results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
        assert set(results["known_before"]["labels"]) == set(results["known_after"]["labels"])
        assert set(results["known_after"]["labels"]) == {"left kidney", "right kidney"}
        assert results["images"]["train"] == results["images"]["replayed"] == 3
        card = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert "Labels of the older data" in card and "| right kidney |" in card

    def test_only_some_labels_and_images(self, data: Path) -> None:
        records = load_data(FinetuneArguments(str(data), "ct", exclude=["liver"]))
        assert all("liver" not in record.annotated for record in records.train + records.validation)
        records = load_data(FinetuneArguments(str(data), "ct", labels=["left kidney"], max_images=1))
        assert len(records.train) == 1 and records.train[0].annotated == ("left kidney",)


class TestBadInput:
    def test_data(self, checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        image = {"file_name": "a.png", "width": 48, "height": 40, "split": "train", "modality": "ct"}
        save_coco(tmp_path / "none", "list.json", [], [], labels=["liver"])
        save_coco(tmp_path / "negative", "list.json", [image], [[]], labels=["liver"])
        save_coco(tmp_path / "held", "list.json", [{**image, "split": "validation"}], [[]], labels=["liver"])
        for folder, message in (
            ("none", "no labeled images of ct there"),
            ("negative", "no training image has a box"),
            ("held", "no training images of ct"),
            ("missing", "no such folder"),
        ):
            assert message in error_of(command(checkpoint, tmp_path / folder, tmp_path / "out"), capsys)
        assert "no image has the label kidny; there are left kidney" in error_of(
            command(checkpoint, data, tmp_path / "out", "--labels", "kidny"), capsys
        )

    def test_models(self, checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rest = ["--data", str(data), "--out", str(tmp_path / "out")]
        for arguments, message in (
            (["--model", str(tmp_path / "no"), "--modality", "ct"], "cannot be loaded"),
            (["--model", str(checkpoint), "--modality", "mri"], "no labeled images of mri"),
            (["--model", str(checkpoint), "--modality", "x"], "'x'"),
            (["--model", str(checkpoint), "--modality", "ct", "--recipe", "unknown"], "no such recipe; there are"),
            (["--model", str(checkpoint), "--modality", "ct", "--fraction", "2"], "fraction 2: choose a number"),
        ):
            assert message in error_of([*rest, *arguments], capsys)

    def test_a_checkpoint_of_another_architecture(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "bert").mkdir()
        (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
        assert "cannot be loaded" in error_of(command(tmp_path / "bert", data, tmp_path / "out"), capsys)

    @pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
    def test_one_broken_image_is_named_and_many_stop_the_run(
        self, workers: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "images").mkdir()
        images = []
        for number in range(120):
            path = tmp_path / "images" / f"{number}.png"
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 48), dtype=np.uint8)).save(path)
            images.append({"file_name": path.name, "width": 48, "height": 40, "split": "train", "modality": "ct"})
        save_coco(tmp_path, "list.json", images, [[("liver", [4, 4, 20, 20])]] * 120)
        arguments = command(checkpoint, tmp_path, tmp_path / "out", "--lora", "--epochs", "1", "--batch", "30")
        arguments += ["--workers", workers, "--no_distillation"]
        (tmp_path / "images" / "7.png").write_bytes(b"\x89PNG")
        assert main(arguments) == 0
        assert json.loads((tmp_path / "out" / "results.json").read_text())["images"]["broken"] == 1
        for number in (8, 9):
            (tmp_path / "images" / f"{number}.png").write_bytes(b"\x89PNG")
        capsys.readouterr()
        arguments[arguments.index("--out") + 1] = str(tmp_path / "again")
        assert "2 of 120 images cannot be read: mend the data" in error_of(arguments, capsys)
        arguments.remove("--no_distillation")  # the model looks at all of them before
        assert "3 of 120 images cannot be read: mend the data" in error_of(arguments, capsys)


class TestRanges:
    """Refused before anything is read or written."""

    @pytest.mark.parametrize(
        ("option", "value", "hint"),
        [
            ("epochs", "0", "choose a number above 0"),
            ("epochs", "-1", "choose a number above 0"),
            ("epochs", "nan", "choose a number above 0"),
            ("batch", "0", "choose a whole number of 1 or more"),
            ("accumulate", "0", "choose a whole number of 1 or more"),
            ("size", "0", "choose a multiple of 32 from 32 to 4096"),
            ("size", "17", "choose a multiple of 32 from 32 to 4096"),
            ("size", "100000", "choose a multiple of 32 from 32 to 4096"),
            ("rank", "0", "choose a whole number from 1 to 1024"),
            ("max_images", "0", "choose a whole number of 1 or more"),
            ("replay_share", "-1", "choose a number of 0 or more"),
            ("anchor_scale", "0", "choose a number above 0"),
            ("head_learning_rate", "-1", "choose a number above 0"),
            ("head_learning_rate", "nan", "choose a number above 0"),
            ("threads", "-1", "choose a whole number from 0 to 1024"),
            ("workers", "-1", "choose a whole number from 0 to 1024"),
            ("seed", "-1", "choose a whole number from 0 to 4294967295"),
        ],
    )
    def test_options(
        self, option: str, value: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = command(tmp_path / "no model", tmp_path / "no data", tmp_path / "out", f"--{option}", value)
        assert error_of(arguments, capsys) == f"error: --{option} {value}: {hint}{HELP}"
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("old", "new"), [("--head_rate", "--head_learning_rate"), ("--head-rate=-1", "--head_learning_rate")]
    )
    def test_the_old_name_of_an_option(
        self, old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = [old] if "=" in old else [old, "-1"]
        arguments = command(tmp_path, tmp_path, tmp_path / "out", *given)
        with pytest.warns(FutureWarning, match=f"{old.partition('=')[0]} is now {new}"):
            assert finetune.main(arguments) == 2
        assert capsys.readouterr().err.startswith(f"error: {new} -1: choose a number above 0")

    def test_an_empty_label(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = command(tmp_path, tmp_path, tmp_path / "out", "--labels", "")
        assert error_of(arguments, capsys) == f"error: --labels ['']: name at least one label{HELP}"
        with pytest.raises(ValueError, match=r"^--labels \[\]: name at least one label$"):
            run(FinetuneArguments("no data", "ct", labels=[]))

    def test_a_recipe(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shipped = (Path(finetune.__file__).parents[1] / "recipes" / "full.yaml").read_text(encoding="utf-8")
        (tmp_path / "own.yaml").write_text(shipped.replace("epochs: 12", "epochs: 0"), encoding="utf-8")
        arguments = command(tmp_path, data, tmp_path / "out", "--recipe", str(tmp_path / "own.yaml"))
        assert error_of(arguments, capsys) == "error: own.yaml: epochs 0: choose a number above 0"
        assert not (tmp_path / "out").exists()

    def test_an_adapter_of_a_model_that_nobody_has(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--data", str(data), "--modality", "ct", "--lora", "--recipe", "embedded"]
        assert "an adapter needs a base: give --model" in error_of(arguments, capsys)


class TestValidation:
    def folder(self, path: Path, validation: int, broken: int = 0, boxes: bool = True) -> Path:
        """Two training images of CT, and some for validation of which the first ones are broken."""
        for split, count in (("train", 2), ("validation", validation)):
            images = []
            for number in range(count):
                file = path / "images" / f"{split}{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = trunk_image((48, 40))
                pixels[0, number] = 1 + (split == "train")  # no two images are the same
                Image.fromarray(pixels).save(file)
                if split == "validation" and number < broken:
                    file.write_bytes(b"\x89PNG")
                images.append(
                    {"file_name": file.name, "width": 48, "height": 40, "modality": "ct", "patient": file.name}
                )
            objects = [[("liver", [4.0, 4.0, 20.0, 20.0])] if boxes or split == "train" else []] * count
            if count:
                save_coco(path, f"{split}.json", images, objects, labels=["liver"])
        return path

    def test_one_broken_image_is_left_out_and_many_stop_the_run(self, data: Path, tmp_path: Path) -> None:
        one, two = (self.folder(tmp_path / str(count), 20, count) for count in (1, 2))
        records = load_data(FinetuneArguments(str(one), "ct"))
        assert len(records.validation) == 19 and len(records.broken) == 1
        with pytest.raises(ValueError, match="2 of 20 images cannot be read: mend the data"):
            load_data(FinetuneArguments(str(two), "ct"))
        with pytest.raises(ValueError, match=f"^{two}: 2 of 20 images cannot be read: mend the data"):
            load_data(FinetuneArguments(str(data), "ct", replay=str(two)))
        assert len(load_data(FinetuneArguments(str(data), "ct", replay=str(one))).older) == 19

    def test_a_share_of_nothing_replays_nothing(self, data: Path) -> None:
        assert load_data(FinetuneArguments(str(data), "ct", replay=str(data), replay_share=0.0)).replayed == 0

    @pytest.mark.parametrize(("count", "reason"), [(0, "no validation images"), (2, "no validation image has a box")])
    def test_nothing_measured_is_logged_once(
        self, count: int, reason: str, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(finetune.logging, "basicConfig", lambda **settings: None)  # it would take caplog away
        folder = self.folder(tmp_path / "data", count, boxes=False)
        arguments = command(checkpoint, folder, tmp_path / "out", "--lora", "--epochs", "1")
        assert f"{reason}, so no epoch is the best" in error_of([*arguments, "--keep", "best"], capsys)
        assert not (tmp_path / "out").exists()
        assert main(arguments) == 0
        warnings = [row for row in caplog.records if row.getMessage().startswith(f"{reason}: nothing is measured")]
        assert len(warnings) == 1 and warnings[0].levelname == "WARNING"
        card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
        assert f"{reason[0].upper()}{reason[1:]}: nothing was measured." in card and "mean" not in card
        assert ("add val.json" in warnings[0].getMessage()) == (not count)


class TestAdapters:
    def base(self, checkpoint: Path) -> MedGlipForObjectDetection:
        return MedGlipForObjectDetection.from_pretrained(checkpoint, modalities=["ct"]).eval()

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

    def test_scores_are_no_chances_any_more(self, checkpoint: Path, data: Path, tmp_path: Path) -> None:
        base = self.base(checkpoint)
        base.config.expert_overrides = {"ct": {"head_config": {"score_calibration": [1.2, -0.3]}}}
        base.save_pretrained(tmp_path / "base")
        MedGlipProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "base")
        save_adapter(add_adapter(base, "ct"), tmp_path / "adapter")
        again = MedGlipForObjectDetection.from_pretrained(tmp_path / "base")
        assert list(again.config.expert_head_config("ct").score_calibration) == [1.2, -0.3]
        load_adapter(again, tmp_path / "adapter")
        assert again.config.expert_head_config("ct").score_calibration is None
        assert main(command(tmp_path / "base", data, tmp_path / "run")) == 0
        trained = MedGlipForObjectDetection.from_pretrained(tmp_path / "run" / "expert")
        assert trained.config.expert_head_config("ct").score_calibration is None


class TestRecipes:
    def test_the_command_line_goes_before_the_recipe(self) -> None:
        recipe = resolved_recipe(
            FinetuneArguments("d", "ct", recipe="embedded", epochs=3, size=128, head_learning_rate=0.5)
        )
        expert, shipped = recipe.expert("ct"), load_recipe("embedded").expert("ct")
        assert (expert.epochs, expert.size, expert.batch) == (3, 128, shipped.batch)
        assert recipe.optimization.head_learning_rate == 0.5

    @pytest.mark.parametrize("name", ["lora", "full", "paper", "embedded"])
    def test_shipped_recipes(self, name: str) -> None:
        assert load_recipe(name).expert("fundus").epochs > 0

    def test_sizes_and_anchors_of_a_loaded_expert(self, checkpoint: Path) -> None:
        settings = FinetuneArguments("d", "ct", str(checkpoint), size=96, anchor_scale=2.0)
        model, processor = load_base(settings, resolved_recipe(settings))
        assert processor.image_processor.modality_settings["ct"]["size"] == {"height": 96, "width": 96}
        assert list(model.config.expert_head_config("ct").anchor_sizes) == [16, 32, 64, 128, 256]


class TestSameRun:
    """A folder goes on only with the run that it holds."""

    def test_other_data_are_not_taken_for_a_finished_run(self, checkpoint: Path, data: Path, tmp_path: Path) -> None:
        common = {"modality": "ct", "model": str(checkpoint), "epochs": 1, "distillation": False}
        first = FinetuneArguments(str(data), out=str(tmp_path / "run"), **common)  # type: ignore[arg-type]
        run(first)
        run(first)  # the same again is fine
        with pytest.raises(ValueError, match="run: holds a run with other data, settings or weights"):
            run(FinetuneArguments(str(data), out=str(tmp_path / "run"), labels=["left kidney"], **common))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="choose another --out"):
            run(FinetuneArguments(str(data), out=str(tmp_path / "run"), lora=True, **common))  # type: ignore[arg-type]

    def test_recomputed_activations_are_the_same_run(self, checkpoint: Path, data: Path, tmp_path: Path) -> None:
        common = {"modality": "ct", "model": str(checkpoint), "epochs": 1, "distillation": False}
        run(FinetuneArguments(str(data), out=str(tmp_path), **common))  # type: ignore[arg-type]
        run(FinetuneArguments(str(data), out=str(tmp_path), checkpointing=True, **common))  # type: ignore[arg-type]

    def test_replay_holds_out_the_same_patients(self, data: Path, tmp_path: Path) -> None:
        older = make_data(tmp_path / data.name)
        train, held = (older / f"{name}.json" for name in ("train", "validation"))
        load_data(FinetuneArguments(str(data), "ct", replay=str(older)))
        first, second = train.read_bytes(), held.read_bytes()
        train.write_bytes(second), held.write_bytes(first)
        with pytest.raises(ValueError, match="4 patients are trained on in one of --data and --replay and held out"):
            load_data(FinetuneArguments(str(data), "ct", replay=str(older)))

    def test_the_same_folder_in_another_spelling(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(finetune, "check_apart", lambda *parts: pytest.fail("a folder is compared with itself"))
        (tmp_path / "link").symlink_to(data)
        for other in (data, data / ".." / data.name, tmp_path / "link"):
            assert load_data(FinetuneArguments(str(data), "ct", replay=str(other))).replayed
        assert finetune._same_place("org/a", "org/a") and not finetune._same_place("org/a", "org/b")

    def test_a_patient_in_both_splits_stops_the_run(self, data: Path) -> None:
        for split in ("train", "validation"):
            content = json.loads((data / f"{split}.json").read_text(encoding="utf-8"))
            content["images"][0]["patient"] = "same"
            (data / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match="1 patients are in training and validation: divide by patient"):
            load_data(FinetuneArguments(str(data), "ct"))
