# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The modality router: its features, its arithmetic and its place in the processor."""

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
from modeling_medglip.image_processing_medglip import (
    ROUTER_INPUT,
    MedGlipImageProcessor,
    MedGlipRouter,
    looks_like_hounsfield,
    modality_contradiction,
    read_router,
    router_features,
    router_pixels,
    softmax_of,
    write_router,
)
from modeling_medglip.processing_medglip import MedGlipProcessor
from tests.modeling_medglip.tiny_checkpoint import tiny_encoder
from tests.modeling_medglip.tiny_processor import tiny_tokenizer


RNG = np.random.default_rng(0)
SCANNER = RNG.integers(-1000, 1500, (64, 64)).astype(np.int16)
GRAY = RNG.integers(0, 256, (64, 48), dtype=np.uint8)
RED = np.stack([GRAY, GRAY // 4, GRAY // 4], axis=-1)


def red_router(
    classes: tuple[str, ...] = ("ct", "endoscopy"), strength: float = 50.0, encoder: Any = None
) -> MedGlipRouter:
    """A router by hand: red images are the second class, gray ones the first; `encoder={}` is the older layout."""
    encoder = tiny_encoder() if encoder is None else encoder
    count = 3 * 16 if encoder else len(router_features(GRAY))
    one, nothing = np.ones(count), np.zeros((2, count))
    bare = MedGlipRouter(["ct", "mri"], one, one, [{"weight": nothing, "bias": [0, 0]}], encoder)
    red, gray = bare.features(RED), bare.features(GRAY)
    scale = np.abs(red - gray) + 0.1
    row = (red - gray) / scale
    row = strength * row / (row @ row)
    layers = [
        {"weight": np.eye(count), "bias": 6 * one},
        {"weight": [-row, row], "bias": [6 * row.sum(), -6 * row.sum()]},
    ]
    return MedGlipRouter(classes, (red + gray) / 2, scale, layers, encoder)


@pytest.fixture(scope="module")
def processor() -> MedGlipImageProcessor:
    return MedGlipImageProcessor(modality_settings={"ct": {}, "endoscopy": {}}, router=red_router())


# Features ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["an encoder", "the older layout"])
def router(request: pytest.FixtureRequest) -> MedGlipRouter:
    return red_router(encoder=None if request.param == "an encoder" else {})


@pytest.mark.parametrize("image", [GRAY, RED, SCANNER, np.zeros((1, 1), np.uint8), RED.astype(np.float32) / 255])
def test_features_are_finite_and_repeatable(router: MedGlipRouter, image: np.ndarray) -> None:
    features = router.features(image)
    assert features.shape == router.mean.shape
    assert np.isfinite(features).all() and np.array_equal(features, router.features(image))


def test_features_do_not_depend_on_the_kind_of_input(router: MedGlipRouter) -> None:
    expected = router.features(RED)
    for same in (
        Image.fromarray(RED),
        torch.from_numpy(RED),
        RED.transpose(2, 0, 1),
        np.dstack([RED, RED[..., :1] | 255]),
    ):
        np.testing.assert_array_equal(router.features(same), expected)


def test_features_do_not_depend_on_the_scale_of_the_numbers(router: MedGlipRouter) -> None:
    np.testing.assert_allclose(router.features(GRAY.astype(np.uint16) * 16), router.features(GRAY), atol=1e-4)
    np.testing.assert_allclose(router.features(GRAY / 255.0), router.features(GRAY), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (2, 900), (900, 2), (1200, 1000), (3, 40, 50)])
def test_the_encoder_sees_any_shape_stretched_to_its_input(shape: tuple[int, ...]) -> None:
    array = RNG.integers(100, 200, (1, *shape)[-3:]).astype(np.uint16)
    pixels = router_pixels(array)
    assert pixels.shape == (3, ROUTER_INPUT, ROUTER_INPUT) and pixels.dtype == torch.float32
    assert pixels.min() >= -1 and pixels.max() <= (1 if array.size > 1 else -1)


def test_the_encoder_is_the_start_of_its_network() -> None:
    router, pixels = red_router(), router_pixels(GRAY[None])[None]
    with torch.inference_mode():
        hidden = router.network.bn1(router.network.conv_stem(pixels))
        (level,) = router.network.blocks[0](hidden)
    assert len(router.network.blocks) == 1 and not router.network.training
    expected = torch.cat([level.mean((1, 2)), level.flatten(1).std(1), level.amax((1, 2))])
    torch.testing.assert_close(router.pooled(pixels)[0], expected)


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
    layers = [{"weight": [[1, -1], [0, 1]], "bias": [0, 1]}, {"weight": [[1, 0], [2, 1]], "bias": [0.5, 0]}]
    router = MedGlipRouter(["ct", "MR"], [1.0, 0.0], [2.0, 1.0], layers)
    assert router.classify(np.array([5.0, 3.0])) == {"ct": 0.5, "mri": 4.0}
    assert router.classify(np.array([500.0, 3.0])) == {"ct": 3.5, "mri": 10.0}


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
        assert tensors.get_tensor("encoder.conv_stem.weight").dtype == np.float16
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
    old = red_router(encoder={})
    layers = [{key: table.tolist() for key, table in layer.items()} for layer in old.layers]
    tables = {"classes": old.classes, "mean": old.mean.tolist(), "scale": old.scale.tolist(), "layers": layers}
    file.write_text(json.dumps({**settings, "router": tables}), encoding="utf-8")
    again = MedGlipImageProcessor.from_pretrained(tmp_path)
    expected = MedGlipImageProcessor(modality_settings={"ct": {}, "endoscopy": {}}, router=old)
    assert again.modality_probabilities(RED) == expected.modality_probabilities(RED)
    again.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "router.safetensors").is_file()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (None, "router.safetensors is damaged"),
        ({"classes": np.array([0])}, "router.safetensors is damaged"),
        ({"mean": np.zeros(2)}, "router.safetensors is damaged"),
        ({"classes": np.array([-1]), "mean": np.zeros(2), "scale": np.zeros(2)}, r"router.safetensors is damaged"),
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


def test_router_files_of_older_checkpoints_hold_no_encoder(tmp_path: Path) -> None:
    old = red_router(encoder={})
    write_router(tmp_path / ROUTER_FILE, old)
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / ROUTER_FILE).stat().st_mode == (tmp_path / "other").stat().st_mode
    with safe_open(tmp_path / ROUTER_FILE, framework="np") as tensors:
        assert not any(name.startswith("encoder.") for name in tensors.keys())  # noqa: SIM118
    again = read_router(tmp_path / ROUTER_FILE)
    assert not again.encoder and again.classes == ["ct", "endoscopy"]
    for image in (GRAY, RED):
        assert again.scores(image) == pytest.approx(old.scores(image), abs=1e-3)


@pytest.mark.parametrize(
    "damage",
    [
        {"mean": [np.nan] * 48}, {"mean": [None] * 48}, {"scale": [0.0] * 48}, {"scale": [np.inf] * 48},
        {"layers": [{"weight": np.full((2, 48), np.nan), "bias": [0, 0]}]}, {"layers": "x"}, {"classes": [1, 2]},
        {"encoder": [1]}, {"encoder": {"conv_stem.weight": [np.nan]}}, {"unknown": 1},
    ],
)  # fmt: skip
def test_damaged_tables_are_refused(damage: dict[str, Any]) -> None:
    tables = {"mean": [0.0] * 48, "scale": [1.0] * 48, "layers": [{"weight": np.eye(2, 48), "bias": [0, 0]}]}
    tables = {"classes": ["ct", "mri"], **tables, "encoder": tiny_encoder()}
    assert MedGlipImageProcessor(router=tables).predict_modality(RED)[0] in ("ct", "mri")
    with pytest.raises(ValueError, match="the router's tables are damaged"):
        MedGlipImageProcessor(router={**tables, **damage})
    with pytest.raises(ValueError, match="the router's tables are damaged"):
        MedGlipImageProcessor(router="file")


def test_an_encoder_of_another_network_is_refused() -> None:
    encoder = {**tiny_encoder(), "blocks.one.weight": np.zeros(3, np.float16)}
    with pytest.raises(ValueError, match="the router's encoder lacks weights, or has some of another network"):
        red_router(encoder=encoder)


def test_router_files_have_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_router(tmp_path / "router.safetensors", red_router())
    monkeypatch.setattr(image_processing_medglip, "MAX_ROUTER_BYTES", 100)
    with pytest.raises(ValueError, match="has more than 100 bytes"):
        read_router(tmp_path / "router.safetensors")


def test_the_router_is_not_part_of_the_model_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = weights_sha256(tmp_path)
    write_router(tmp_path / ROUTER_FILE, red_router())
    assert weights_sha256(tmp_path) == before and weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    assert ROUTER_FILE == configuration_medglip.ROUTER_FILE
