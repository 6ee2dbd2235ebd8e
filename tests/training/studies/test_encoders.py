# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Image encoders at equal time: what they are trained on and judged by, and that rows are kept."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from training.data.records import GroundingRecord
from training.fit.finetune import load_base
from training.fit.recipe import load_recipe
from training.studies import cross_source, encoder_callbacks, encoders

from ..tiny_data import record
from .test_cross_source import make_sources


def image(source: str, split: str, labels: list[str], name: str = "a", **more: Any) -> GroundingRecord:
    boxes = [[5.0, 5.0, 20.0, 20.0]] * len(labels)
    return replace(record(boxes, labels, source=source, image_id=name), split=split, **more)


def test_a_source_that_is_left_out_is_asked_what_the_others_teach() -> None:
    records = [
        image("known", "train", ["glioma", "left kidney"]),
        image("known", "validation", ["glioma"], "b"),
        image("foreign", "train", ["brain tumor", "spleen"], "c"),
        image("foreign", "train", ["brain tumor"], "c#1", view_of="c"),
        image("foreign", "validation", ["kidney"], "d"),
        image("never trained", "validation", ["glioma"], "e"),
    ]
    train, measured = encoders.divided(records, ["foreign"])
    assert [r.image_id for r in train] == ["a"]
    assert [(r.image_id, r.labels) for r in measured["foreign"]] == [("c", ("brain tumor",)), ("d", ("kidney",))]
    assert [r.image_id for r in measured["validation"]] == ["b"]
    with pytest.raises(ValueError, match="foreign: no other source teaches one of its labels"):
        encoders.divided([records[0], image("foreign", "train", ["spleen"])], ["foreign"])


def test_only_the_image_encoder_and_its_rates_change() -> None:
    recipe = load_recipe("embedded")
    first = encoders.recipe_of(recipe, encoders.ENCODERS["lite0"], "ct", 352)
    assert first.optimization == recipe.optimization and first.model == recipe.model
    assert first.expert("ct").anchor_scale == recipe.expert("ct").anchor_scale
    other = encoders.recipe_of(recipe, encoders.ENCODERS["tiny_vit"], "ct", 176)
    assert other.optimization == replace(recipe.optimization, backbone_learning_rate=5e-5, frozen_stages=1)
    assert other.expert("ct").anchor_scale == recipe.expert("ct").anchor_scale / 2 and other.expert("ct").size == 176
    assert other.config("ct").backbone_config.backbone == "tiny_vit_5m_224"


def test_the_clock_goes_on_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100, 200, 10))
    monkeypatch.setattr(encoder_callbacks.time, "process_time", lambda: next(now))
    step = SimpleNamespace(global_step=0)
    clock = encoder_callbacks.CpuClock(tmp_path / "seconds.json")
    clock.on_train_begin(None, step, None)  # at 100
    clock.on_step_end(None, step, None)
    step.global_step = 5
    clock.on_save(None, step, None)  # at 120
    assert clock.seconds == 30 and clock.steps == [10]
    again = encoder_callbacks.CpuClock(tmp_path / "seconds.json")
    again.on_train_begin(None, step, None)  # at 140
    assert again.seconds == 20 + 10


class Backbone(nn.Module):
    def forward(self, pixels: torch.Tensor) -> Any:
        return SimpleNamespace(feature_maps=(3 * pixels + 7, pixels[:, :1] - 50))


def test_maps_are_standardized_with_fixed_numbers(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    examples = [{"pixel_values": torch.randn(3, 8, 8, generator=generator)} for _ in range(32)]
    dataset = type("Examples", (list,), {"set_epoch": lambda self, epoch: None})(examples)
    expert = nn.Module()
    expert.backbone = Backbone()
    model = SimpleNamespace(model=SimpleNamespace(experts={"ct": expert}), training=True)
    loader, file = SimpleNamespace(dataset=dataset), tmp_path / "ct" / "maps.safetensors"
    encoder_callbacks.StandardizedMaps(32, file).on_train_begin(None, None, None, model=model, train_dataloader=loader)
    pixels = torch.stack([example["pixel_values"] for example in examples])
    for level in expert.backbone(pixels).feature_maps:
        deviation, center = torch.std_mean(level, dim=(0, 2, 3))
        torch.testing.assert_close(center, torch.zeros_like(center), atol=1e-4, rtol=0)
        torch.testing.assert_close(deviation, torch.ones_like(deviation))
    once, alone = expert.backbone(pixels).feature_maps[0][:1], expert.backbone(pixels[:1]).feature_maps[0]
    torch.testing.assert_close(once, alone)
    # A training that goes on has the numbers of its beginning, whatever its maps are by now.
    dataset[:] = [{"pixel_values": example["pixel_values"] * 5 - 3} for example in examples]
    expert.backbone = Backbone()
    encoder_callbacks.StandardizedMaps(32, file).on_train_begin(None, None, None, model=model, train_dataloader=loader)
    torch.testing.assert_close(expert.backbone(pixels[:1]).feature_maps[0], once)


def test_the_page_shows_means_over_sources_and_seeds(tmp_path: Path) -> None:
    def row(unseen: float, other: float) -> dict[str, Any]:
        parts = {"first": unseen, "second": other, "validation": 0.9}
        sources = {name: {"images": 7, "mean": {"AP50": value, "AP": value / 2}} for name, value in parts.items()}
        return {"conditions": {"epochs": 6.5}, "cpu_seconds": 600, "sources": sources}

    cost = {"size": 352, "step_seconds": 2.0, "image_seconds": 0.25, "image_ratio": 1.5, "megabytes": 8.66}
    encoder = {"cost": cost, "rows": {"0": row(0.4, 0.6), "1": row(0.5, 0.7)}}
    better = {"cost": cost, "rows": {"0": row(0.7, 0.6)}}
    content = {
        "schema": encoders.SCHEMA,
        "modalities": {"ct": {"minutes": 10.0, "encoders": {"lite0": encoder, "lite2": better}}},
    }
    (tmp_path / "encoders.json").write_text(json.dumps(content), encoding="utf-8")
    assert encoders.main(["--out", str(tmp_path), "--page"]) == 0
    page = (tmp_path / "encoders.md").read_text(encoding="utf-8")
    assert "| lite0 | 352 | 6.5 | 10.0 | 2.00 | 0.250 | 1.50 | 8.7 |" in page
    figures = "50.0 / 25.0, 60.0 / 30.0 | 55.0 / 27.5 | 45.0 / 22.5 | 65.0 / 32.5 | 90.0 / 45.0"
    assert f"| lite0 | {figures} |" in page and "| first (7 images) |" in page
    assert "by AP50 **lite2**, by AP **lite2**." in page


def test_a_whole_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny network in the place of every encoder: rows, the page, and what a second call refuses."""
    checkpoint = str(save_tiny_checkpoint(tmp_path / "checkpoint"))
    loaded: list[Any] = []

    def base(settings: Any, recipe: Any) -> Any:
        loaded[:] = loaded or [load_base(replace(settings, model=checkpoint), recipe)]
        return deepcopy(loaded[0])

    monkeypatch.setattr(cross_source, "load_base", base)
    monkeypatch.setattr(encoders, "load_base", base)
    monkeypatch.setattr(encoders, "SIZES", {"ct": 64})
    monkeypatch.setattr(encoders, "TIMED_STEPS", 2)
    monkeypatch.setattr(encoders, "TIMED_IMAGES", 1)
    monkeypatch.setattr(encoders, "LEFT_OUT", {"ct": ("second",)})
    monkeypatch.setattr(encoders, "distill", lambda *arguments: ({"distilled": torch.zeros(1)}, 0.5))
    data, out = make_sources(tmp_path / "data"), tmp_path / "out"
    command = ["--data", str(data), "--modality", "ct", "--out", str(out), "--minutes", "0.003", "--seeds", "0"]
    assert encoders.main([*command, "--encoder", "lite0"]) == 0
    row = json.loads((out / "encoders.json").read_text(encoding="utf-8"))["modalities"]["ct"]["encoders"]["lite0"]
    step, first = row["cost"]["step_seconds"], row["rows"]["0"]
    assert set(first["sources"]) == {"second", "validation"} and first["sources"]["second"]["images"] == 2
    assert set(first["sources"]["second"]["labels"]) == {"liver"}
    batch, images = load_recipe("embedded").expert("ct").batch, 2
    assert first["conditions"]["epochs"] == pytest.approx(0.18 / step * batch / images, abs=0.006)
    monkeypatch.setattr(encoders, "step_seconds", lambda *arguments: step)
    capsys.readouterr()
    assert encoders.main(command := [*command, "--encoder", "lite0", "lite0_distilled"]) == 0
    printed, written = capsys.readouterr().out, (out / "encoders.json").read_bytes()
    assert printed == (out / "encoders.md").read_text(encoding="utf-8") and "| lite0_distilled |" in printed
    rows = json.loads(written)["modalities"]["ct"]["encoders"]
    other = rows["lite0_distilled"]["rows"]["0"]
    assert rows["lite0"] == row and 0 == first["pretraining_seconds"] < other["pretraining_seconds"]
    expected = (0.18 - other["pretraining_seconds"]) / step * batch / images
    assert other["conditions"]["epochs"] == pytest.approx(expected, abs=0.006)
    assert list((out / "ct").iterdir()) == []
    assert encoders.main(command) == 0 and (out / "encoders.json").read_bytes() == written, "rows that are done stay"
    with monkeypatch.context() as other_sources:
        other_sources.setattr(encoders, "LEFT_OUT", {"ct": ("first",)})
        assert encoders.main(command) == 2
        assert "ct, lite0: measured under other conditions: choose another --out" in capsys.readouterr().err
    assert encoders.main([*command, "--minutes", "1"]) == 2
    assert "error: ct: 0.003 minutes before: choose another --out" in capsys.readouterr().err
    content = json.loads((data / "train.json").read_text(encoding="utf-8"))
    content["annotations"][0]["bbox"][2] += 1
    (data / "train.json").write_text(json.dumps(content), encoding="utf-8")
    assert encoders.main(command) == 2
    assert "ct, lite0: measured under other conditions: choose another --out" in capsys.readouterr().err
    assert (out / "encoders.json").read_bytes() == written


def test_the_page_in_docs_holds_what_was_measured() -> None:
    docs = Path(__file__).parents[3] / "docs"
    measured = json.loads((docs / "encoders.json").read_text(encoding="utf-8"))
    assert (docs / "encoders.md").read_text(encoding="utf-8") == encoders.render_page(measured)
