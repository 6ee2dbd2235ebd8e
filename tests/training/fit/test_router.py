# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Training of the modality router on made-up data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from modeling_medglip.image_processing_medglip import ROUTER_CLASSES, MedGlipImageProcessor, read_router
from tests.modeling_medglip.test_router import GRAY, RED, SCANNER
from tests.modeling_medglip.tiny_checkpoint import biased_router, tiny_encoder
from training.data.records import GroundingRecord
from training.fit import router as training_router
from training.fit import router_classifier, router_images, router_measures, router_phantoms
from training.fit.router_classifier import FeatureTable
from training.fit.router_images import RouterImage


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
    monkeypatch.setattr(training_router, "imagenet_encoder", tiny_encoder)
    monkeypatch.setattr(router_images, "sample_images", list)
    monkeypatch.setattr(router_images, "augment", lambda image, kind, rng: image)
    page = RouterImage("other", "page", router_phantoms.NOT_MEDICAL["page"], size=4)
    monkeypatch.setattr(training_router, "phantoms", lambda: [page])


def test_training_writes_weights_that_the_processor_takes(
    tmp_path: Path, made_up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "router.safetensors"
    arguments = ["--data", "none", "--volumes", "none", "--out", str(out), "--draws", "12"]
    assert training_router.main(arguments) == 0
    router, report = read_router(out), json.loads((out.parent / "router_report.json").read_text())
    assert router.classes == ["ct", "ultrasound", "endoscopy", "other"]
    processor = MedGlipImageProcessor(router=router)
    for name in ("endoscopy", "ultrasound"):
        assert processor.predict_modality(record(name, 0, "train").load())[0] == name
    assert report["validation"]["accuracy"] == 1 and report["validation"]["by_modality"]["ct"]["images"] == 4
    sources = {f"{name}/source_{n}" for name in ("ct", "endoscopy", "ultrasound") for n in (0, 1)}
    assert set(report["source_left_out"]) == set(report["source_left_out_augmented"]) == sources
    assert 0 <= report["calibration"]["expected_calibration_error"] <= 1
    assert report["training"]["other"] == {"page": 1} and report["training"]["samples"] == 4 * 12 + 12 + 4
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
    def train() -> tuple[Any, dict[str, Any]]:
        images = training_router.training_images("none", Path("none"), Path("none"))
        return training_router.train_router(images, tiny_encoder(), 6, log=lambda line: None)

    first, again = train(), train()
    assert first[1] == again[1]
    np.testing.assert_array_equal(first[0].layers[-1]["weight"], again[0].layers[-1]["weight"])


def table(sources: Sequence[str], features: Any, augmented: Any = False) -> FeatureTable:
    """A table whose classes are the beginnings of the sources' names."""
    classes = np.array([ROUTER_CLASSES.index(source.split("/")[0]) for source in sources])
    varied = np.broadcast_to(augmented, len(sources))
    return FeatureTable(np.asarray(features, np.float32), classes, np.array(sources), np.array(varied))


def test_a_source_left_out_is_not_learned_from() -> None:
    rng = np.random.default_rng(0)
    sources = ["ct/a"] * 30 + ["ct/b"] * 30 + ["mri/a"] * 30 + ["mri/b"] * 30 + ["xray/a"] * 5
    centers = {"ct/a": (4, 0), "ct/b": (4, 0), "mri/a": (-4, 0), "mri/b": (4, 4), "xray/a": (0, -9)}
    width = 3 * 16
    features = np.zeros((len(sources), width))
    features[:, :2] = [centers[source] for source in sources] + rng.normal(0, 0.1, (len(sources), 2))
    rows = table(sources, features, np.arange(len(sources)) % 2 == 0)
    report = router_measures.left_out_report(rows, router_measures.left_out(rows, tiny_encoder()))
    shares = report["source_left_out"]
    assert shares["ct/a"] == shares["ct/b"] == 1 and shares["mri/b"] == 0, "without mri/b, (4, 4) looks like CT"
    assert "xray/a" not in shares, "its class has no other source"
    assert report["source_left_out_mean"]["medical"] == pytest.approx(np.mean(list(shares.values())))
    assert "mri/b taken for ct" in report["source_left_out_mistakes"]


def test_a_temperature_makes_boasting_honest() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, (4000, len(ROUTER_CLASSES)))
    classes = [rng.choice(len(ROUTER_CLASSES), p=row) for row in softmax(honest, axis=1)]
    rows = table([f"{ROUTER_CLASSES[index]}/a" for index in classes], np.zeros((4000, 1)))
    found = router_measures.calibration(rows, 3 * honest)
    assert found["temperature"] == pytest.approx(3, rel=0.1)
    assert found["expected_calibration_error"] < 0.05 < found["expected_calibration_error_before"]
    assert sum(row["share"] for row in found["bins"]) == pytest.approx(1)
    assert found["accuracy_of_sure"] > 0.7 and 0 < found["unsure"] < 1


def test_reliability_and_its_error() -> None:
    bins = router_measures.reliability(
        np.array([0.95, 0.95, 0.35, 1.0]), np.array([1, 0, 1, 1], bool), np.full(4, 0.25)
    )
    assert [(row["from"], row["share"]) for row in bins] == [(0.3, 0.25), (0.9, 0.75)]
    assert bins[1]["accuracy"] == pytest.approx(2 / 3) and bins[0]["probability"] == pytest.approx(0.35)
    assert router_measures.calibration_error(bins) == pytest.approx(0.25 * 0.65 + 0.75 * (2.9 / 3 - 2 / 3))


def test_a_temperature_divides_the_scores() -> None:
    router = biased_router("ct", 0.9)
    features = np.zeros(len(router.mean))
    cooler = router_classifier.with_temperature(router, 2.0).classify(features)
    assert cooler == pytest.approx({name: score / 2 for name, score in router.classify(features).items()})


def test_the_encoder_is_the_start_of_efficientnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_router, "load_image_encoder", lambda network: None)
    encoder = training_router.imagenet_encoder(2)
    assert {name.split(".")[1] for name in encoder if name.startswith("blocks.")} == {"0", "1"}
    assert all(table.dtype == np.float16 for table in encoder.values())
    assert training_router.untrained_router(encoder).mean.shape == (3 * (16 + 24),)


def test_plain_samples_are_bounded() -> None:
    images = [RouterImage("ct", "a", lambda rng: GRAY[None])] * 130 + [
        RouterImage("other", "b", lambda rng: GRAY[None], size=100)
    ]
    samples = training_router.plain_samples(images, np.random.default_rng(0))
    assert len(samples) == 120 + 60 and not any(augmented for _, augmented in samples)


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
    report = router_measures.accuracy(["ct", "ct", "mri"], ["ct", "mri", "mri"])
    assert report["accuracy"] == pytest.approx(2 / 3)
    assert report["by_modality"]["ct"] == {"accuracy": 0.5, "images": 2}
    assert report["mistakes"] == {"ct taken for mri": 1} and "xray" not in report["by_modality"]
