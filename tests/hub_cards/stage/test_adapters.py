# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The repository of an adapter: its files, its card, and the base that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hub_cards.check import check_folder
from hub_cards.stage.adapters import stage_adapter

from ..material import staged_in, write_run


def test_what_goes(tmp_path: Path) -> None:
    made = stage_adapter(write_run(tmp_path / "run"), "clinic/lora", staged_in(tmp_path / "s") / "out")
    assert check_folder("model", made.folder) == [] and made.private
    assert "optimizer.pt" not in made.files() and "adapter_model.safetensors" in made.files()
    text = (made.folder / "README.md").read_text(encoding="utf-8")
    assert "base_model: clinic/med-glip-ct" in text and "<b>" not in text
    assert "| **mean** | 20.0 | 70.0 | 10.0 | 35.0 |" in text and "Labels of the base" in text


def test_missing_measurements_are_stated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    nothing: dict[str, Any] = {"mean": {"AP": None, "AP50": None}, "labels": {}}
    results |= {"before": nothing, "after": nothing}
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    made = stage_adapter(run, "clinic/lora", staged_in(tmp_path / "s") / "out")
    text = (made.folder / "README.md").read_text(encoding="utf-8")
    assert "Not measured: no validation image has a box." in text and "**mean** | - |" not in text


def test_a_local_base_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "checkpoint")
    with pytest.raises(ValueError, match="give it with --base owner/name"):
        stage_adapter(run, "clinic/lora", staged_in(tmp_path / "s") / "out")
    stage_adapter(run, "clinic/lora", staged_in(tmp_path / "s") / "out", base="clinic/med-glip")
    config = json.loads((tmp_path / "s" / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "clinic/med-glip"


def test_the_embedded_base_has_no_id_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub_cards.stage.adapters._base", lambda *_, **__: None)
    stage_adapter(write_run(tmp_path / "run"), "clinic/lora", staged_in(tmp_path / "s") / "out")
    config = json.loads((tmp_path / "s" / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "./embedded", "transformers asks the Hub for anything else"


def test_changed_figures_are_refused(tmp_path: Path) -> None:
    made = stage_adapter(write_run(tmp_path / "run"), "clinic/lora", staged_in(tmp_path / "s") / "out")
    card = made.folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace("70.0", "99.0"), encoding="utf-8")
    (fault,) = check_folder("model", made.folder)
    assert fault.startswith("README.md: ") and "99.0" in fault


def test_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not contain an adapter and"):
        stage_adapter(tmp_path, "clinic/lora", staged_in(tmp_path / "s") / "out")


@pytest.mark.parametrize("part", ["settings", "after", "pictures"])
def test_incomplete_results(part: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / "results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[part]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="does not contain an adapter and its results"):
        stage_adapter(tmp_path / "run", "clinic/lora", staged_in(tmp_path / "s") / "out")
