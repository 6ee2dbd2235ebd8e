# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The model card: rendered from files, and the committed one is what its command writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from training import card, report
from training.assemble import EMBEDDED

from .test_report import RESULT, ROUTER


RESULTS: dict[str, Any] = {"well_shown": 30, "modalities": {"endoscopy": RESULT}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = {
        "modalities": ["endoscopy"],
        "text_config": {"num_hidden_layers": 3},
        "head_config": {"num_blocks": 2, "channels": 96, "conv_type": "plain"},
        "backbone_config": {"backbone": "efficientnet_lite0"},
        "label_hierarchy": {"trained_labels": {"endoscopy": ["gallbladder", "polyp"]}},
    }
    source = {"source": "kvasir_seg", "upstream": "Kvasir-SEG", "modality": "endoscopy", "license": "research"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "licenses.json").write_text(json.dumps([source]), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"0" * 2_500_000)
    (tmp_path / "results.json").write_text(json.dumps(RESULTS), encoding="utf-8")
    (tmp_path / "router.json").write_text(json.dumps(ROUTER), encoding="utf-8")
    return tmp_path


def test_every_part_comes_from_a_file(checkpoint: Path) -> None:
    text = card.render_card(checkpoint, RESULTS, ROUTER)
    assert "| endoscopy: polyp | 40 | 3 | 90.0 | 45.0 |" in text and "| tensors | 2.5 MB of safetensors |" in text
    assert (
        "| kvasir_seg | Kvasir-SEG | endoscopy | research |" in text and "- **endoscopy**: gallbladder, polyp" in text
    )
    assert "| all | 20 | 90.0 | 80.0 |" in text and "not a medical device" in text.lower() and "{" not in text


def test_front_matter_is_yaml(checkpoint: Path) -> None:
    _, front, _ = card.render_card(checkpoint, RESULTS, ROUTER).split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "zero-shot-object-detection"


def test_labels_with_few_pictures_stay_out_of_the_short_table() -> None:
    rare = {**RESULT["labels"]["polyp"], "train_images": 3}
    result = {**RESULT, "labels": {"polyp": RESULT["labels"]["polyp"], "rare": rare}}
    assert "rare" not in card.label_table({**RESULTS, "modalities": {"endoscopy": result}})


def test_the_command(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--results", str(checkpoint / "results.json")]
    assert card.main(arguments) == 0 and (checkpoint / "README.md").is_file()
    (checkpoint / "config.json").unlink()
    assert card.main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_committed_pages_are_what_the_commands_write(tmp_path: Path) -> None:
    folder = card.RESULTS.parent
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    router = json.loads((folder / "router.json").read_text(encoding="utf-8"))
    assert (EMBEDDED / "README.md").read_text(encoding="utf-8") == card.render_card(EMBEDDED, results, router)
    again = tmp_path / "results.md"
    report.write_page(folder / "results.json", again)
    assert (folder / "results.md").read_text(encoding="utf-8") == again.read_text(encoding="utf-8")
