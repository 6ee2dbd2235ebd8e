# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What tests publish: an evaluation of made-up figures, a small checkpoint, and a small built set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dataset_scripts.build import build
from dataset_scripts.recipe import load_recipes
from hub_cards.stage.repository import open_stage
from modeling_medglip.checkpoints.location import weights_sha256
from tests.dataset_scripts.raw_data import write_polyps, write_recipes, write_volumes
from tests.modeling_medglip.tiny_checkpoint import save_tiny_checkpoint


def label_entry(ap50: float, images: int = 40) -> dict[str, Any]:
    """The figures of one label."""
    counts = {"train_images": images, "train_boxes": images, "validation_images": 5, "validation_boxes": 5}
    return {"AP": ap50 / 2, "AP50": ap50, "AP75": ap50 / 4, "sizes": {}, **counts}


def modality_entry(labels: dict[str, float]) -> dict[str, Any]:
    """The figures of one modality."""
    mean = sum(labels.values()) / len(labels)
    return {
        "images": 12, "train_images": 80, "AP": mean / 2, "AP50": mean, "AP75": mean / 4, "sizes": {},
        "labels": {label: label_entry(value) for label, value in labels.items()},
        "AP_interval": [mean / 3, mean / 1.5], "AP50_interval": [mean / 1.2, mean * 1.02],
        "side_confusion": {"share": 0.25, "labels": {}},
        "negatives": {"images": 4, "boxes_per_image": 0.5, "clean": 0.75},
        "at_threshold": {"threshold": 0.3, "precision": 0.8, "recall": 0.7, "wrong_per_image": 0.25},
    }  # fmt: skip


def evaluation(checkpoint: Path | None = None) -> dict[str, Any]:
    """As `training.evaluate` writes it, for the experts of the small checkpoint."""
    modalities = {
        "ct": modality_entry({"liver": 0.9, "spleen": 0.5}),
        "fundus": modality_entry({"optic disc": 0.95}),
    }
    own = {"weights_sha256": weights_sha256(checkpoint)} if checkpoint else {}
    return {"schema": "medglip/evaluation@1", "model": "tiny", **own, "well_shown": 30, "modalities": modalities}


def calibration() -> dict[str, Any]:
    """As `training.fit.calibration --report` writes it."""
    row = {"images": 51, "slope": 1.5, "intercept": -0.5, "before": 0.21, "after": 0.04, "other_patients": 0.06}
    return {"schema": "medglip/calibration@1", "modalities": {"ct": row, "fundus": {**row, "after": None}}}


def write_results(folder: Path, checkpoint: Path) -> Path:
    """`results.json` of a checkpoint with what lies beside it; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "calibration.json").write_text(json.dumps(calibration()), encoding="utf-8")
    path = folder / "results.json"
    path.write_text(json.dumps(evaluation(checkpoint)), encoding="utf-8")
    return path


def write_checkpoint(folder: Path, *labels: str) -> Path:
    """The small checkpoint with licenses of both experts; more labels may be said to be trained."""
    save_tiny_checkpoint(folder)
    rows = [
        {
            "source": f"set_{name}",
            "upstream": f"Set | {name}",
            "modality": name,
            "license": "CC0",
            "remarks": "made up",
        }
        for name in ("ct", "fundus")
    ]
    (folder / "licenses.json").write_text(json.dumps(rows), encoding="utf-8")
    if labels:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["label_hierarchy"]["trained_labels"]["ct"] += labels
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def staged_in(folder: Path) -> Path:
    """A folder that was taken for staging."""
    open_stage(folder, [])
    return folder


def build_set(folder: Path) -> Path:
    """A built set of two sources: polyps (CC0), and volumes whose license nobody knows."""
    raw = folder / "raw"
    write_volumes(raw)
    write_polyps(raw)
    recipes = [recipe for path in write_recipes(raw) for recipe in load_recipes(path)]
    build(recipes, raw, folder / "set", echo=lambda text: None)
    return folder / "set"


def write_run(folder: Path, base: str = "clinic/med-glip-ct") -> Path:
    """What a run of `training.fit.finetune --lora` leaves, with figures of its own."""
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"a": torch.zeros(2)}, adapter / "adapter_model.safetensors")
    (adapter / "optimizer.pt").write_bytes(b"0")

    def scores(value: float) -> dict[str, Any]:
        return {"mean": {"AP": value / 2, "AP50": value}, "labels": {"a | <b>": {"AP": value / 2, "AP50": value}}}

    results = {
        "schema": "medglip/run@1", "settings": {"modality": "ct"}, "pictures": {"train": 20, "validation": 9},
        "before": scores(0.2), "after": scores(0.7), "known_before": scores(0.8), "known_after": scores(0.79),
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder
