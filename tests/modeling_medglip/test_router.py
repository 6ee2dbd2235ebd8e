# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The modality router: its features, its arithmetic, its place in the processor, and its training on made-up data."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoProcessor

from modeling_medglip import configuration_medglip, image_processing_medglip
from modeling_medglip.checkpoints.location import ROUTER_FILE, weight_files, weights_sha256
from modeling_medglip.configuration_medglip import MODALITIES
from modeling_medglip.image_processing_medglip import (
    MedGlipImageProcessor,
    looks_like_hounsfield,
    modality_contradiction,
    read_router,
    router_features,
    router_scores,
    softmax_of,
    write_router,
)
from modeling_medglip.processing_medglip import MedGlipProcessor
from modeling_medglip.volumes.geometry import Volume
from tests.modeling_medglip.tiny_processor import tiny_tokenizer
from training.data.records import GroundingRecord
from training.fit import router as training_router


RNG = np.random.default_rng(0)
SCANNER = RNG.integers(-1000, 1500, (64, 64)).astype(np.int16)
GRAY = RNG.integers(0, 256, (64, 48), dtype=np.uint8)
RED = np.stack([GRAY, GRAY // 4, GRAY // 4], axis=-1)


def red_router(classes: tuple[str, ...] = ("ct", "endoscopy"), strength: float = 50.0) -> dict[str, Any]:
    """A router by hand: the more the mean of red minus green exceeds 0.1, the more it is the second class."""
    count = len(router_features(GRAY))
    position = int(np.argmax(np.abs(router_features(RED) - router_features(GRAY)) * (np.arange(count) == 8)))
    row = np.zeros(count)
    row[position] = strength
    layers = [
        {"weight": np.eye(count).tolist(), "bias": [0.0] * count},
        {"weight": [(-row).tolist(), row.tolist()], "bias": [0.1 * strength, -0.1 * strength]},
    ]
    return {"classes": list(classes), "mean": [0.0] * count, "scale": [1.0] * count, "layers": layers}


@pytest.fixture(scope="module")
def processor() -> MedGlipImageProcessor:
    return MedGlipImageProcessor(modality_settings={"ct": {}, "endoscopy": {}}, router=red_router())


# Features ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [GRAY, RED, SCANNER, np.zeros((5, 7), np.uint8), RED.astype(np.float32) / 255])
def test_features_are_finite_and_repeatable(image: np.ndarray) -> None:
    features = router_features(image)
    assert features.ndim == 1 and len(features) == len(router_features(GRAY))
    assert np.isfinite(features).all() and np.array_equal(features, router_features(image))


def test_features_do_not_depend_on_the_kind_of_input() -> None:
    expected = router_features(RED)
    for same in (
        Image.fromarray(RED),
        torch.from_numpy(RED),
        RED.transpose(2, 0, 1),
        np.dstack([RED, RED[..., :1] | 255]),
    ):
        np.testing.assert_array_equal(router_features(same), expected)


def test_features_do_not_depend_on_the_scale_of_the_numbers() -> None:
    np.testing.assert_allclose(router_features(GRAY.astype(np.uint16) * 16), router_features(GRAY), atol=1e-4)
    np.testing.assert_allclose(router_features(GRAY / 255.0), router_features(GRAY), atol=1e-4)


def test_hounsfield_units_give_themselves_away() -> None:
    assert looks_like_hounsfield(SCANNER[None]) and looks_like_hounsfield(SCANNER[None].astype(np.float32))
    for other in (
        GRAY[None],
        np.zeros((1, 4, 4), np.int16),
        (GRAY[None] - 150.0),
        SCANNER[None].clip(0).astype(np.uint16),
    ):
        assert not looks_like_hounsfield(other)
    few = np.zeros((1, 10, 10), np.int16)
    few[0, 0, :2] = -500
    assert not looks_like_hounsfield(few), "2 % of the pixels"
    few[0, 0, :3] = -500
    assert looks_like_hounsfield(few)


# In the processor ----------------------------------------------------------------------------------------------------


def test_scores_are_those_of_a_perceptron() -> None:
    router = {
        "classes": ["ct", "mri"],
        "mean": [1.0, 0.0],
        "scale": [2.0, 1.0],
        "layers": [{"weight": [[1, -1], [0, 1]], "bias": [0, 1]}, {"weight": [[1, 0], [2, 1]], "bias": [0.5, 0]}],
    }
    assert router_scores(np.array([5.0, 3.0]), router) == {"ct": 0.5, "mri": 4.0}
    assert router_scores(np.array([500.0, 3.0]), router) == {"ct": 3.5, "mri": 10.0}


def test_softmax() -> None:
    assert softmax_of({"a": 1000.0, "b": 1000.0}) == {"a": 0.5, "b": 0.5}
    assert sum(softmax_of({"a": 1.0, "b": -3.0, "c": 0.2}).values()) == pytest.approx(1)


def test_predictions(processor: MedGlipImageProcessor) -> None:
    assert processor.predict_modality(SCANNER) == ("ct", 1.0)
    name, probability = processor.predict_modality(Image.fromarray(RED))
    assert name == "endoscopy" and 0.9 < probability <= 1
    assert processor.predict_modality(GRAY)[0] == "ct"
    assert sum(processor.modality_probabilities(GRAY).values()) == pytest.approx(1)


def test_auto_uses_the_router_for_every_image(processor: MedGlipImageProcessor) -> None:
    assert processor([RED, SCANNER, GRAY])["modality"] == ["endoscopy", "ct", "ct"]
    assert processor([RED, RED], modality=["auto", "ct"])["modality"] == ["endoscopy", "ct"]
    with_default = MedGlipImageProcessor("ct", {"ct": {}, "endoscopy": {}}, router=red_router())
    assert with_default(RED)["modality"] == ["ct"]


def test_only_experts_at_hand_are_chosen() -> None:
    processor = MedGlipImageProcessor(modality_settings={"ct": {}, "mri": {}}, router=red_router())
    assert processor.modality_probabilities(RED) == {"ct": 1.0}


@pytest.mark.parametrize(
    ("modalities", "strength", "chosen", "warning"),
    [
        (("ct", "endoscopy"), 0.01, "endoscopy", "taken for endoscopy with a probability of only 0.5"),
        (("ct",), None, "ct", "only expert is for ct: taken as ct, but the pixels look like endoscopy"),
    ],
    ids=["an unsure router", "the only expert"],
)
def test_unsure_predictions_are_logged(
    caplog: pytest.LogCaptureFixture, modalities: tuple[str, ...], strength: float | None, chosen: str, warning: str
) -> None:
    router = red_router() if strength is None else red_router(strength=strength)
    doubtful = MedGlipImageProcessor(modality_settings={name: {} for name in modalities}, router=router)
    logger = logging.getLogger("modeling_medglip.image_processing_medglip")
    logger.addHandler(caplog.handler)
    try:
        assert doubtful.choose_modality(RED) == chosen
    finally:
        logger.removeHandler(caplog.handler)
    assert warning in caplog.text


def test_contradictions(processor: MedGlipImageProcessor) -> None:
    assert modality_contradiction("CT", RED, processor) == (
        f"taken as ct, but the pixels look like endoscopy (probability {processor.predict_modality(RED)[1]:.2f})"
    )
    assert modality_contradiction("ES", RED, processor) is None
    assert modality_contradiction("ct", RED, processor, sure=1.1) is None
    probability = processor.predict_modality(RED)[1]
    assert modality_contradiction("ct", RED, processor, sure=probability) is not None
    assert modality_contradiction("ct", RED, MedGlipImageProcessor()) is None


# The file ------------------------------------------------------------------------------------------------------------


def saved(kind: str, processor: MedGlipImageProcessor, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Save an image processor alone or in a whole processor; return the loader and the image processor's settings."""
    if kind == "image processor":
        processor.save_pretrained(folder)
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        return lambda: MedGlipImageProcessor.from_pretrained(folder), settings
    MedGlipProcessor(processor, tiny_tokenizer()).save_pretrained(folder)
    settings = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))["image_processor"]
    return lambda: AutoProcessor.from_pretrained(folder).image_processor, settings


@pytest.mark.parametrize("kind", ["image processor", "processor"])
def test_the_router_is_a_file_beside_the_settings(tmp_path: Path, processor: Any, kind: str) -> None:
    load, settings = saved(kind, processor, tmp_path)
    assert "router" not in settings
    with safe_open(tmp_path / "router.safetensors", framework="np") as tensors:
        assert {"classes", "mean", "scale", "layers.0.weight", "layers.1.bias"} < set(tensors.keys())
        assert tensors.get_tensor("classes").tolist() == [0, 5] and not tensors.metadata()
    again = load()
    assert again.predict_modality(RED)[0] == "endoscopy"
    assert again.modality_probabilities(RED) == pytest.approx(processor.modality_probabilities(RED), abs=1e-6)
    MedGlipImageProcessor().to_json_file(tmp_path / "settings.json")
    assert (tmp_path / "router.safetensors").is_file()
    load, _ = saved(kind, MedGlipImageProcessor(), tmp_path)
    assert load().router is None


def test_routers_of_older_checkpoints_are_read_from_their_json(tmp_path: Path, processor: Any) -> None:
    processor.save_pretrained(tmp_path)
    (tmp_path / "router.safetensors").unlink()
    file = tmp_path / "preprocessor_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "router": red_router()}), encoding="utf-8")
    again = MedGlipImageProcessor.from_pretrained(tmp_path)
    assert again.modality_probabilities(RED) == processor.modality_probabilities(RED)
    again.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "router.safetensors").is_file()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (None, "router.safetensors is damaged"),
        ({"classes": np.array([0])}, "router.safetensors is damaged"),
        ({"mean": np.zeros(2)}, "router.safetensors is damaged"),
        ({"classes": np.array([99]), "mean": np.zeros(2), "scale": np.zeros(2)}, "router.safetensors is damaged"),
        ({"classes": np.array([0]), "mean": np.zeros(2), "scale": np.zeros(3)}, "tables do not fit together"),
    ],
)
def test_damaged_router_files(tmp_path: Path, processor: Any, tensors: Any, message: str) -> None:
    processor.save_pretrained(tmp_path)
    file = tmp_path / "router.safetensors"
    if tensors is None:
        file.write_bytes(b"torn")
    else:
        save_file(tensors, file)
    with pytest.raises(ValueError, match=message):
        MedGlipImageProcessor.from_pretrained(tmp_path)


def test_router_files_have_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_router(tmp_path / "router.safetensors", red_router())
    monkeypatch.setattr(image_processing_medglip, "MAX_ROUTER_BYTES", 100)
    with pytest.raises(ValueError, match="has more than 100 bytes"):
        read_router(tmp_path / "router.safetensors")


def test_the_router_is_no_part_of_the_model_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = weights_sha256(tmp_path)
    write_router(tmp_path / ROUTER_FILE, red_router())
    assert weights_sha256(tmp_path) == before and weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    assert ROUTER_FILE == configuration_medglip.ROUTER_FILE


# Training ------------------------------------------------------------------------------------------------------------


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
