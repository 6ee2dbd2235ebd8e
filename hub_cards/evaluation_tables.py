# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Render the tables of a model card from its evaluation file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modeling_medglip.outputs.markdown import percent, plain, table
from training.evaluate.tables import best_label_table, calibration_table, summary_table, threshold_table


EVALUATION = "evaluation.json"
SCHEMA = "medglip/evaluation@1"
# Labels in the table of those with the lowest AP50.
WORST = 8


def evaluation_of(results: Mapping[str, Any], modalities: list[str]) -> dict[str, Any]:
    """Return the part of an evaluation that is about some modalities.

    Args:
        results (`Mapping`): As `training.evaluate` writes them.
        modalities (`list[str]`): The modalities.

    Raises:
        `ValueError`: The results are not an evaluation, or a modality was not measured.
    """
    if results.get("schema") != SCHEMA:
        raise ValueError("the results are not an evaluation: make them with python -m training.evaluate")
    missing = [name for name in modalities if name not in results["modalities"]]
    if missing:
        raise ValueError(f"the evaluation does not have {', '.join(missing)}: measure it with training.evaluate")
    return {**results, "modalities": {name: results["modalities"][name] for name in modalities}}


def model_index(name: str, evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the `model-index` of a card's header, with values in percent.

    The images are those of the built set, with sources that may not be redistributed, so no set on a Hub is named.

    Args:
        name (`str`): Name of the model.
        evaluation (`Mapping`): See [`evaluation_of`].
    """
    results: list[dict[str, Any]] = []
    for modality, result in evaluation["modalities"].items():
        about = {"name": f"MedGLIP built data, {modality}, validation split", "type": "med-glip-built"}
        metrics = [
            {"type": kind.lower(), "name": kind, "value": round(100 * result[kind], 2)}
            for kind in ("AP", "AP50", "AP75")
            if result.get(kind) is not None
        ]
        task = {"type": "zero-shot-object-detection", "name": "Phrase grounding"}
        results.append({"task": task, "dataset": {**about, "split": "validation"}, "metrics": metrics})
    return [{"name": name, "results": results}]


def card_sections(evaluation: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> dict[str, str]:
    """Return every block of figures that a card may have, as Markdown by name.

    Args:
        evaluation (`Mapping`): See [`evaluation_of`].
        calibration (`Mapping`, *optional*): As `training.fit.calibration` writes it.
    """
    modalities: dict[str, Any] = evaluation["modalities"]
    least_images = int(evaluation["well_shown"])
    return {
        "summary": summary_table(modalities, details=False),
        "threshold": threshold_table(modalities),
        "calibration": _calibration(modalities, calibration),
        "labels": best_label_table(modalities, least_images),
        "failures": _failures(modalities, least_images),
    }


def _calibration(modalities: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return "Not measured.\n"
    entries = {name: entry for name, entry in calibration["modalities"].items() if name in modalities}
    return calibration_table({"modalities": entries})


def _failures(modalities: Mapping[str, Any], well_shown: int) -> str:
    """Return the well shown labels with the lowest AP50, the number of rare ones, confused sides, and false boxes."""
    entries = [
        (float(entry["AP50"]), name, label, entry)
        for name, result in modalities.items()
        for label, entry in result["labels"].items()
        if entry["AP50"] is not None
    ]
    shown = [item for item in entries if item[3]["train_images"] >= well_shown]
    rows = [
        [f"{name}: {plain(label)}", entry["train_images"], entry["validation_images"], percent(ap50)]
        for ap50, name, label, entry in sorted(shown, key=lambda item: item[:3])[:WORST]
    ]
    text = table(["lowest AP50", "training images", "validation images", "AP50"], rows) + "\n"
    rare = [ap50 for ap50, _, _, entry in entries if entry["train_images"] < well_shown]
    if rare:
        text += f"- labels with fewer than {well_shown} training images: {len(rare)}, of which "
        text += f"{sum(ap50 < 0.1 for ap50 in rare)} are practically never detected (AP50 under 10)\n"
    return text + "".join(_sides_and_false_boxes(modalities))


def _sides_and_false_boxes(modalities: Mapping[str, Any]) -> Iterator[str]:
    for name, result in modalities.items():
        share, empty = result["side_confusion"]["share"], result["negatives"]
        if share is not None:
            yield f"- {name}: best box on the other side of the patient in {percent(share)} % of images\n"
        if empty["images"]:
            text = f"{empty['boxes_per_image']:.2f} false boxes per image without anything"
            yield f"- {name}: {text} ({empty['images']} images)\n"


__all__ = ["EVALUATION", "card_sections", "evaluation_of", "model_index"]
