# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The one command that trains: what it leaves behind, and which runs it goes on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.processing_medglip import MedGlipProcessor
from training.data.dataset import GroundingDataset
from training.fit import finetune, run_data
from training.fit.arguments import FinetuneArguments
from training.fit.finetune import load_base, main, make_dataset, resolved_recipe, run, with_head
from training.fit.recipe import RECIPES, load_recipe
from training.fit.run_data import load_data

from ..tiny_data import make_data
from .commands import command, error_of


@pytest.fixture(scope="module")
def runs(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two runs: of all weights, and of an adapter."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("full", "lora")}
    assert main(command(checkpoint, data, folders["full"])) == 0
    assert main(command(checkpoint, data, folders["lora"], "--lora")) == 0
    return folders


class TestRuns:
    @pytest.mark.parametrize("kind", ["full", "lora"])
    def test_scores_weights_and_a_card(self, runs: dict[str, Path], data: Path, kind: str) -> None:
        out = runs[kind]
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
        assert set(results["after"]["labels"]) == set(results["before"]["labels"]) == {"left kidney", "right kidney"}
        assert results["images"] == {"train": 3, "replayed": 0, "validation": 1, "broken": 0}
        text = json.dumps(results) + (out / "README.md").read_text(encoding="utf-8")
        assert str(out) not in text and str(data) not in text, "no paths of this machine"
        assert "| left kidney |" in text and "| **mean** |" in text
        assert Image.open(out / "history.png").width > 100
        assert (out / ("adapter" if kind == "lora" else "expert")).is_dir()
        if kind == "full":
            model = MedGlipForObjectDetection.from_pretrained(out / "expert")
            assert model.config.modalities == ["ct"]
            MedGlipProcessor.from_pretrained(out / "expert")

    def test_an_interrupted_run_goes_on(
        self, runs: dict[str, Path], checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(finetune, "save", lambda *arguments: (_ for _ in ()).throw(OSError("power cut")))
        assert main(command(checkpoint, data, tmp_path / "cut", "--lora")) == 2
        monkeypatch.undo()
        for path in (tmp_path / "cut").glob("checkpoint-*"):
            assert int(path.name.split("-")[1]) > 0
        assert main(command(checkpoint, data, tmp_path / "cut", "--lora")) == 0
        first, second = (
            load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (runs["lora"], tmp_path / "cut")
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
        assert records.left_out == ("liver", "right kidney")

    def test_labels_that_are_left_out_are_in_no_prompt(self, checkpoint: Path, data: Path) -> None:
        settings = FinetuneArguments(str(data), "ct", str(checkpoint), exclude=["liver"], replay=str(data))
        assert load_data(settings).left_out == (), "the older data have it"
        records = load_data(replace(settings, replay_exclude=["liver"]))
        assert records.left_out == ("liver",)
        recipe = load_recipe("full")
        recipe = replace(recipe, prompts=replace(recipe.prompts, unlearned=4, only_unlearned=0.2))
        _, processor = load_base(settings, recipe)
        dataset = make_dataset(records.train, records.everything, processor, recipe, left_out=records.left_out)
        phrases = {phrase for _ in range(8) for index in range(len(dataset)) for phrase in self._asked(dataset, index)}
        assert not any("liver" in phrase or "hepa" in phrase for phrase in phrases) and len(phrases) > 30

    def test_negative_images_of_other_modalities_are_part_of_the_run(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data, used = make_data(tmp_path / "data"), []
        dataset_of = finetune.make_dataset

        def make(*arguments: Any, **more: Any) -> GroundingDataset:
            used.append([one.image_id for one in arguments[5]])
            return dataset_of(*arguments, **more)

        monkeypatch.setattr(finetune, "make_dataset", make)
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(f"{(RECIPES / 'full.yaml').read_text(encoding='utf-8')}\nnegative_images: 0.5\n")
        options = command(checkpoint, data, tmp_path / "out", "--recipe", str(recipe))
        assert main([*options, "--dry_run"]) == 0 and main(options) == 0
        assert main(command(checkpoint, data, tmp_path / "plain")) == 0
        assert used == [["a.png"], ["a.png"], []]
        (data / "images" / "a.png").rename(data / "images" / "c.png")
        content = (data / "train.json").read_text(encoding="utf-8")
        (data / "train.json").write_text(content.replace("a.png", "c.png"), encoding="utf-8")
        assert error_of(options, capsys) == (
            "error: out: holds a run with other data, settings or weights: choose another --out"
        )
        assert main(command(checkpoint, data, tmp_path / "plain")) == 0, "it has no negative images"
        (data / "train.json").write_text(content.replace('"a.png", "patient": "a"', '"../a.png", "patient": "a"'))
        assert "leaves the data folder" in error_of(options, capsys)

    @staticmethod
    def _asked(dataset: GroundingDataset, index: int) -> list[str]:
        dataset.set_epoch(dataset.epoch + 1)
        asked: list[str] = dataset[index]["text_labels"]
        return asked


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
        assert processor.image_processor.modality == "ct"
        assert processor.image_processor.modality_settings["ct"]["size"] == {"height": 96, "width": 96}
        assert list(model.config.expert_head_config("ct").anchor_sizes) == [16, 32, 64, 128, 256]


class TestHeadOfALoadedExpert:
    def test_a_presence_head_is_added_and_the_rest_stays(self, checkpoint: Path) -> None:
        model, _ = load_base(FinetuneArguments("d", "ct", str(checkpoint)), load_recipe("full"))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        changed = with_head(model, "ct", {"presence_dim": 8, "contrast_loss_weight": 0.5})
        head = changed.config.expert_head_config("ct")
        assert (head.presence_dim, head.contrast_loss_weight) == (8, 0.5)
        added = {name for name in changed.state_dict() if name not in before}
        assert added and all(".presence." in name for name in added)
        assert all(torch.equal(changed.state_dict()[name], tensor) for name, tensor in before.items())

    def test_the_same_command_goes_on_with_a_head_that_starts_at_random(
        self, checkpoint: Path, data: Path, tmp_path: Path
    ) -> None:
        text = (RECIPES / "full.yaml").read_text(encoding="utf-8") + "head: {presence_dim: 8}\nnegative_images: 0.5\n"
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        options = command(checkpoint, data, tmp_path / "run", "--recipe", str(tmp_path / "mine.yaml"))
        assert main(options) == 0 and main(options) == 0
        trained = MedGlipForObjectDetection.from_pretrained(tmp_path / "run" / "expert")
        assert trained.config.expert_head_config("ct").presence_dim == 8
        options = command(tmp_path / "run" / "expert", data, tmp_path / "again", "--presence_only")
        assert main(options) == 0
        again = MedGlipForObjectDetection.from_pretrained(tmp_path / "again" / "expert").state_dict()
        differing = {name for name, value in trained.state_dict().items() if not torch.equal(value, again[name])}
        assert differing and all(".presence." in name for name in differing)

    def test_a_presence_head_alone_is_of_a_whole_expert_that_has_one(
        self, checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(command(checkpoint, data, tmp_path, "--presence_only")) == 2
        assert "the expert has no parameters of presence to train" in capsys.readouterr().err
        assert main(command(checkpoint, data, tmp_path, "--presence_only", "--lora")) == 2
        assert "--presence_only trains the head of a whole expert: leave out --lora" in capsys.readouterr().err

    def test_a_head_of_other_weights_is_refused(self, checkpoint: Path) -> None:
        model, _ = load_base(FinetuneArguments("d", "ct", str(checkpoint)), load_recipe("full"))
        with pytest.raises(ValueError, match="head does not fit the checkpoint"):
            with_head(model, "ct", {"num_blocks": 3})

    def test_an_adapter_keeps_the_head_of_its_base(self, tmp_path: Path) -> None:
        text = (RECIPES / "lora.yaml").read_text(encoding="utf-8") + "head: {presence_dim: 8}\n"
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="leave head out of the recipe"):
            resolved_recipe(FinetuneArguments("d", "ct", recipe=str(tmp_path / "mine.yaml"), lora=True))

    def test_unknown_settings_are_refused(self, tmp_path: Path) -> None:
        text = (RECIPES / "full.yaml").read_text(encoding="utf-8")
        (tmp_path / "mine.yaml").write_text(text + "head: {presence_width: 8}\n", encoding="utf-8")
        with pytest.raises(ValueError, match="presence_width"):
            load_recipe(tmp_path / "mine.yaml")
        (tmp_path / "mine.yaml").write_text(text + "head: {presence_dim: -1}\n", encoding="utf-8")
        with pytest.raises(ValueError, match="presence_dim -1"):
            load_recipe(tmp_path / "mine.yaml")


class TestSameRun:
    """A folder goes on only with the run that it holds."""

    def test_other_data_are_not_taken_for_a_finished_run(self, checkpoint: Path, data: Path, tmp_path: Path) -> None:
        common = {"modality": "ct", "model": str(checkpoint), "epochs": 1, "distillation": False}
        first = FinetuneArguments(str(data), out=str(tmp_path / "run"), **common)  # type: ignore[arg-type]
        run(first)
        run(replace(first, checkpointing=True))  # recomputed activations are the same run, which is finished
        with pytest.raises(ValueError, match="run: holds a run with other data, settings or weights"):
            run(FinetuneArguments(str(data), out=str(tmp_path / "run"), labels=["left kidney"], **common))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="choose another --out"):
            run(FinetuneArguments(str(data), out=str(tmp_path / "run"), lora=True, **common))  # type: ignore[arg-type]

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
        monkeypatch.setattr(run_data, "check_apart", lambda *parts: pytest.fail("a folder is compared with itself"))
        (tmp_path / "link").symlink_to(data)
        for other in (data, data / ".." / data.name, tmp_path / "link"):
            assert load_data(FinetuneArguments(str(data), "ct", replay=str(other))).replayed
        assert run_data._is_same_source("org/a", "org/a") and not run_data._is_same_source("org/a", "org/b")

    def test_a_patient_in_both_splits_stops_the_run(self, data: Path) -> None:
        for split in ("train", "validation"):
            content = json.loads((data / f"{split}.json").read_text(encoding="utf-8"))
            content["images"][0]["patient"] = "same"
            (data / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match="1 patients are in training and validation: divide by patient"):
            load_data(FinetuneArguments(str(data), "ct"))
