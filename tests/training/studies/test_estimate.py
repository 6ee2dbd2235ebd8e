# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What a large training would cost, worked out from one small step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from modeling_medglip import MedGlipForObjectDetection
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint, tiny_config
from training.studies import estimate
from training.studies.estimate import StepCost, hours, measure_step, memory, saved_bytes


COST = StepCost(1_000_000, 2_000_000_000_000, 3_000_000_000, 1_000_000_000, 0.5, "cpu")


def test_hours_are_operations_over_rate() -> None:
    # 1,800 images x 2 epochs x 2 tera-operations = 7,200 tera-operations; 2 cards at 1 per second: 3,600 s
    assert hours(COST, 1800, 2, 2, 1.0) == pytest.approx(1.0)
    assert hours(COST, 1800, 2, 2, 4.0) == pytest.approx(0.25)


def test_memory_is_states_and_images() -> None:
    assert memory(COST, 2) == pytest.approx(0.016 + 6.0)
    assert memory(COST, 2, shards=8, recomputed=True) == pytest.approx(0.002 + 2.0)


def test_a_step_s_operations_grow_with_the_image() -> None:
    torch.manual_seed(0)
    model = MedGlipForObjectDetection(tiny_config(("ct",)))
    small, large = measure_step(model, 64), measure_step(model, 128)
    assert small.parameters == sum(p.numel() for p in model.parameters())
    assert 3 < large.operations / small.operations < 4.2
    assert large.activation_bytes > 2 * small.activation_bytes
    assert 0 < small.recomputed_bytes < small.activation_bytes and small.seconds > 0


def test_what_a_backward_pass_needs() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(10, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.weight).exp()  # keeps x and its own result, not the weight

    assert saved_bytes(Layer(), {"x": torch.ones(5, 10)}) == 2 * 5 * 10 * 4  # type: ignore[arg-type]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "checkpoint")
    out = tmp_path / "full_size.json"
    arguments = ["--model", str(checkpoint), "--size", "64", "--images", "1000", "--out", str(out)]
    assert estimate.main(arguments) == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert content["plan"] == {"size": 64, "batch": 5, "epochs": 30, "processes": 8, "images": 1000}
    assert text == capsys.readouterr().out == estimate.render_page(content)
    expected = hours(StepCost(**content["step"]), 1000, 30, 8, 5.0)
    assert f"| 8 cards, each | 5 | {expected:,.0f} |" in text and "launch/fsdp.yaml" in text


def test_no_such_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate.main(["--model", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert estimate.main(["--model", str(tmp_path / "none"), "--processes", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: --processes 0: choose a whole number of 1 or more (")


def test_the_committed_page_is_what_the_command_writes() -> None:
    docs = Path(__file__).parents[3] / "docs"
    content = json.loads((docs / "full_size.json").read_text(encoding="utf-8"))
    assert (docs / "full_size.md").read_text(encoding="utf-8") == estimate.render_page(content)
