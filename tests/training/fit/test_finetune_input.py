# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the command that trains does with invalid settings, data and models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.fit import finetune
from training.fit.arguments import HELP, FinetuneArguments
from training.fit.finetune import main, run
from training.fit.run_data import load_data

from ..tiny_data import save_coco, trunk_image
from .commands import command, error_of


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
        for number in range(12):
            path = tmp_path / "images" / f"{number}.png"
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 48), dtype=np.uint8)).save(path)
            images.append({"file_name": path.name, "width": 48, "height": 40, "split": "train", "modality": "ct"})
        save_coco(tmp_path, "list.json", images, [[("liver", [4, 4, 20, 20])]] * 12)
        arguments = command(checkpoint, tmp_path, tmp_path / "out", "--lora", "--epochs", "1", "--batch", "4")
        arguments += ["--workers", workers, "--no_distillation"]
        (tmp_path / "images" / "7.png").write_bytes(b"\x89PNG")
        assert main(arguments) == 0
        assert json.loads((tmp_path / "out" / "results.json").read_text())["images"]["broken"] == 1
        for number in (8, 9):
            (tmp_path / "images" / f"{number}.png").write_bytes(b"\x89PNG")
        capsys.readouterr()
        arguments[arguments.index("--out") + 1] = str(tmp_path / "again")
        assert "2 of 12 images cannot be read: mend the data" in error_of(arguments, capsys)
        arguments.remove("--no_distillation")  # the model looks at all of them before
        assert "3 of 12 images cannot be read: mend the data" in error_of(arguments, capsys)


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
