# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Training of the modality router on made-up data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_medglip.configuration_medglip import MODALITIES
from modeling_medglip.image_processing_medglip import MedGlipImageProcessor, read_router
from modeling_medglip.volumes.geometry import Volume
from tests.modeling_medglip.test_router import GRAY, RED, RNG, SCANNER
from training.data.records import GroundingRecord
from training.fit import router as training_router


def record(modality: str, number: int, split: str) -> GroundingRecord:
    """A made-up image: red squares are endoscopy, gray stripes are ultrasound, Hounsfield noise is CT."""
    rng = np.random.default_rng(number)
    pixels = {
        "endoscopy": lambda: np.clip(RED + rng.integers(0, 20, RED.shape), 0, 255).astype(np.uint8),
        "ultrasound": lambda: np.tile((np.arange(40) % 8 * 30 + rng.integers(0, 30)).astype(np.uint8), (50, 1)),
        "ct": lambda: (SCANNER + rng.integers(0, 50, SCANNER.shape)).astype(np.int16),
    }[modality]
    return GroundingRecord(
        modality=modality,
        source=f"source_{number % 2}",
        image_id=str(number),
        patient=str(number),
        split=split,
        boxes=np.zeros((0, 4), np.float32),
        labels=(),
        annotated=(),
        size=pixels().shape[1::-1],
        loader=pixels,
        is_hounsfield=modality == "ct",
    )


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(data: Any, split: str) -> list[GroundingRecord]:
        names = ("ct", "endoscopy", "ultrasound")
        return [record(name, number, split) for name in names for number in range(4)]

    monkeypatch.setattr(training_router, "load_records", load)


def test_training_writes_weights_that_the_processor_takes(
    tmp_path: Path, made_up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "router.safetensors"
    arguments = [
        "--data",
        "none",
        "--volumes",
        "none",
        "--out",
        str(out),
        "--draws",
        "12",
        "--steps",
        "60",
        "--leave-one-out",
    ]
    assert training_router.main(arguments) == 0
    router, report = read_router(out), json.loads((out.parent / "router_report.json").read_text())
    processor = MedGlipImageProcessor(router=router)
    assert processor.predict_modality(RED)[0] == "endoscopy"
    assert processor.predict_modality(record("ultrasound", 0, "train").load())[0] == "ultrasound"
    assert report["validation"]["accuracy"] == 1 and report["validation"]["by_modality"]["ct"]["images"] == 4
    left_out = {f"{name}/source_{n}" for name in ("ct", "endoscopy", "ultrasound") for n in (0, 1)}
    assert set(report["source_left_out"]) == left_out
    assert out.stat().st_size < 30_000
    processor.save_pretrained(tmp_path / "checkpoint")
    again = ["--data", "none", "--measure", str(tmp_path / "checkpoint"), "--out", str(tmp_path / "report.json")]
    assert training_router.main(again) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found == {name: report[name] for name in ("validation", "validation_augmented")}
    monkeypatch.chdir(tmp_path)
    assert training_router.main(again[:-2]) == 0 and not Path("router.safetensors").exists()
    assert json.loads(Path("router.json").read_text()) == found
    MedGlipImageProcessor().save_pretrained(tmp_path / "checkpoint")
    assert training_router.main(again) == 2, "a checkpoint without a router"


def test_training_repeats_itself(made_up: None) -> None:
    first, _ = training_router.train_router("none", Path("none"), draws=6, steps=5, log=lambda line: None)
    again, _ = training_router.train_router("none", Path("none"), draws=6, steps=5, log=lambda line: None)
    assert first == again and first["classes"] == list(MODALITIES)


def test_every_modality_is_drawn_as_often() -> None:
    records = [record("ct", number, "train") for number in range(9)] + [record("endoscopy", 0, "train")]
    drawn = training_router.draw(records, 20, np.random.default_rng(0))
    assert [records[index].modality for index in drawn] == ["ct"] * 20 + ["endoscopy"] * 20


def test_display_values() -> None:
    rng = np.random.default_rng(0)
    shown = training_router.to_bytes(SCANNER[None].astype(np.float32), True, rng)
    assert shown.dtype == np.uint8 and shown.min() == 0 and shown.max() == 255
    stretched = training_router.to_bytes(GRAY[None].astype(np.float32) * 8, False, rng)
    assert stretched.max() == 255 and np.abs(stretched - GRAY[None].astype(float)).max() <= 3
    assert np.array_equal(training_router.to_bytes(GRAY[None].astype(np.float32), False, rng), GRAY[None])


@pytest.mark.parametrize("image", [GRAY[None], RED.transpose(2, 0, 1)])
def test_augmented_images_stay_images(image: np.ndarray) -> None:
    for seed in range(8):
        varied = training_router.augment(image, np.random.default_rng(seed))
        assert varied.dtype == np.uint8 and len(varied) == len(image) and min(varied.shape[1:]) >= 24
    again = [training_router.augment(image, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*again)


def test_a_fan_is_black_outside_and_untouched_inside() -> None:
    bright = np.full((1, 60, 80), 200, dtype=np.uint8)
    for seed in range(5):
        shape = training_router.fan(bright, np.random.default_rng(seed))
        assert set(np.unique(shape)) == {0, 200} and 0.2 < (shape > 0).mean() < 1 and shape[0, 30, 40] == 200


def test_flow_colors_are_spots_on_gray() -> None:
    colored = training_router.flow_colors(GRAY[None], np.random.default_rng(1))
    changed = (colored != GRAY).any(0)
    assert colored.shape == (3, *GRAY.shape) and 0 < changed.mean() < 0.3
    assert (colored[:, changed].max(0) > colored[:, changed].min(0)).all()


def test_slices_of_extra_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = RNG.integers(0, 900, (8, 12, 20)).astype(np.int16)
    monkeypatch.setattr(training_router, "read_volume", lambda path: Volume(array, np.eye(4)))
    assert training_router.sagittal_and_coronal(tmp_path) == []
    modality, source, name = training_router.EXTRA_VOLUMES[1]
    (tmp_path / modality / source).mkdir(parents=True)
    (tmp_path / modality / source / name).touch()
    records = training_router.sagittal_and_coronal(tmp_path)
    assert [record.load().shape for record in records] == [(20, 12)] * 2 + [(20, 8)] * 3
    assert np.array_equal(records[0].load(), array[2, :, ::-1].T) and records[0].is_hounsfield


def test_the_command_refuses_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out" / "router.json")]
    assert training_router.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "none" in line
    assert training_router.main([*arguments, "--draws", "0"]) == 2
    line = "error: --draws 0: choose a whole number of 1 or more"
    assert capsys.readouterr().err == f"{line} (python -m training.fit.router --help explains the options)\n"
    assert not (tmp_path / "out").exists()


def test_accuracy() -> None:
    report = training_router.accuracy(["ct", "ct", "mri"], ["ct", "mri", "mri"])
    assert report["accuracy"] == pytest.approx(2 / 3)
    assert report["by_modality"]["ct"] == {"accuracy": 0.5, "images": 2}
    assert report["mistakes"] == {"ct taken for mri": 1} and "xray" not in report["by_modality"]


def test_significant_digits() -> None:
    assert training_router.significant(np.array([[1.23456789, -0.000123456789]])) == [[1.235, -0.0001235]]
