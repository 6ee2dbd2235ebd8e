# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Which images of other modalities a run takes its negative images from."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from training.data.negative_images import chosen_records
from training.fit import run_data
from training.fit.recipe import load_recipe
from training.fit.run_data import images_elsewhere
from training.fit.run_identity import run_identity

from ..tiny_data import make_data, record


RECIPE = replace(load_recipe("full"), negative_images=0.5)


def edit_train(data: Path, **fields: str | None) -> None:
    """Change fields of every image of the training split; `None` takes a field out."""
    content = json.loads((data / "train.json").read_text(encoding="utf-8"))
    for image in content["images"]:
        image |= fields
        for name in [name for name, value in fields.items() if value is None]:
            del image[name]
    (data / "train.json").write_text(json.dumps(content), encoding="utf-8")


class TestImagesElsewhere:
    def test_training_images_of_other_modalities(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        data = make_data(tmp_path)
        with caplog.at_level(logging.INFO):
            images = images_elsewhere(data, "ct", RECIPE)
        assert [(one.modality, one.image_id) for one in images] == [("fundus", "a.png")]
        assert "ct: negative images are taken from 1 images of other modalities" in caplog.messages
        assert chosen_records(images, "ct") == images, "choosing among the chosen ones changes nothing"
        organs = {one.image_id for one in images_elsewhere(str(data), "fundus", RECIPE)}
        assert organs == {"P0.png", "P1.png", "P2.png"}

    def test_a_recipe_without_them_reads_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run_data, "load_records", lambda *arguments, **more: pytest.fail("other modalities"))
        assert images_elsewhere(tmp_path, "ct", replace(RECIPE, negative_images=0.0)) == []

    def test_images_that_state_no_modality_are_of_the_run(self, tmp_path: Path) -> None:
        data = make_data(tmp_path)
        content = json.loads((data / "train.json").read_text(encoding="utf-8"))
        del content["images"][0]["modality"]
        (data / "train.json").write_text(json.dumps(content), encoding="utf-8")
        assert [one.image_id for one in images_elsewhere(data, "ct", RECIPE)] == ["a.png"]
        edit_train(data, modality=None)
        assert images_elsewhere(data, "ct", RECIPE) == []

    def test_images_of_validation_alone(self, tmp_path: Path) -> None:
        data = make_data(tmp_path)
        (data / "train.json").unlink()
        assert images_elsewhere(data, "ct", RECIPE) == []

    def test_damage_in_another_modality_is_an_error(self, tmp_path: Path) -> None:
        data = make_data(tmp_path)
        content = json.loads((data / "train.json").read_text(encoding="utf-8"))
        content["images"][3]["split"] = "trian"
        (data / "train.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match="train.json: unknown split 'trian'"):
            images_elsewhere(data, "ct", RECIPE)


class TestIdentity:
    @staticmethod
    def identity(elsewhere: list[str]) -> str:
        model = nn.Linear(1, 1)
        torch.nn.init.ones_(model.weight)
        torch.nn.init.zeros_(model.bias)
        images = [replace(record([], [], ["optic disc"], modality="fundus"), image_id=name) for name in elsewhere]
        return run_identity({"seed": 0}, [record([[1, 2, 3, 4]], ["liver"])], model, images)

    def test_it_stays_without_images_of_other_modalities(self) -> None:
        assert self.identity([]) == "4af650a2d65517c1980b94d3782511d815a4fd5b1b6ba70748a1543c8c6e41e6"

    def test_other_images_make_another_run(self) -> None:
        assert len({self.identity(names) for names in ([], ["a"], ["b"], ["a", "b"])}) == 4
