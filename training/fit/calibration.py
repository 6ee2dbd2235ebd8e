# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Calibrate the scores of a checkpoint: `python -m training.fit.calibration --model CHECKPOINT --data out/data`.

Fits, per expert, the slope and intercept of Platt scaling (Platt, 1999) on the logit of the final score, so that a
score is the probability that the box overlaps a true box by at least half, and writes them into the checkpoint's
`config.json` (`score_calibration` of the experts' heads). The order of the boxes, and so average precision, stays.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.configuration_medglip import MedGlipConfig
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.outputs.files import write_text
from modeling_medglip.processing_medglip import MedGlipProcessor

from ..data.load import load_records
from ..data.records import DEFAULT_DATA, GroundingRecord, random_key
from ..data.validation import check_options, readable_enough
from ..evaluate.metrics import Detections, annotated_only, right_boxes
from ..evaluate.phrase_metrics import calibration_error, reliability
from ..evaluate.predict import detect_augmented, detect_records, source_labels
from ..loading import EMBEDDED, load_model_and_processor
from .distillation import known_labels
from .finetune import make_dataset
from .recipe import TrainingRecipe, load_recipe
from .run_data import images_elsewhere


SCHEMA = "medglip/calibration@1"
logger = logging.getLogger(__name__)


def fit_platt(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the slope and intercept of maximum likelihood, with Platt's targets, which keep separable data finite.

    Args:
        scores (`np.ndarray` of shape `(n,)`): final scores, strictly between 0 and 1.
        right (`np.ndarray` of shape `(n,)`): whether each box is right.

    Raises:
        `ValueError`: no right or no wrong box, or scores that do not rise with the probability of being right.
    """
    hits, misses = int(right.sum()), int((~right).sum())
    if not hits or not misses:
        raise ValueError(f"{hits} right and {misses} wrong boxes: nothing to calibrate with")
    logits = torch.from_numpy(scores.astype(np.float64)).logit(eps=1e-6)
    targets = torch.from_numpy(np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2)))
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([line], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(line[0] * logits + line[1], targets)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)  # type: ignore[no-untyped-call]
    slope, intercept = line.tolist()
    if not slope > 0:
        raise ValueError("scores do not rise with the probability of being right: train the expert further")
    return slope, intercept


def fit_boxes(records: Sequence[GroundingRecord], detections: Sequence[Detections]) -> tuple[float, float]:
    """Return slope and intercept for the detections of an expert without calibration.

    Args:
        records (`Sequence[GroundingRecord]`): validation images of the expert.
        detections (`Sequence[Detections]`): one per record, with the labels that its source annotates.
    """
    right = np.concatenate([right_boxes(record, boxes) for record, boxes in zip(records, detections, strict=True)])
    return fit_platt(np.concatenate([boxes.scores for boxes in detections]), right)


def calibrated(detections: Sequence[Detections], line: tuple[float, float]) -> list[Detections]:
    """Return the same boxes with calibrated scores.

    Args:
        detections (`Sequence[Detections]`): with scores strictly between 0 and 1.
        line (`tuple[float, float]`): slope and intercept on the logit of the score.
    """
    slope, intercept = line
    return [
        replace(boxes, scores=(slope * torch.from_numpy(boxes.scores).logit(eps=1e-6) + intercept).sigmoid().numpy())
        for boxes in detections
    ]


def errors(
    records: Sequence[GroundingRecord], detections: Sequence[Detections], line: tuple[float, float]
) -> dict[str, float | None]:
    """Return the expected calibration error of one expert.

    Args:
        records (`Sequence[GroundingRecord]`): validation images of the expert.
        detections (`Sequence[Detections]`): one per record, without calibration.
        line (`tuple[float, float]`): slope and intercept that were fitted to these detections.

    Returns:
        `before`; `after`, with a line that was fitted to these very images; and `other_patients`: each half of the
        patients with a line that was fitted to the other half (`None` where a half cannot be fitted).
    """
    patients = sorted({(record.source, record.patient) for record in records}, key=lambda key: random_key(str(key)))
    first = set(patients[: len(patients) // 2])
    halves: list[list[int]] = [[], []]
    for index, record in enumerate(records):
        halves[(record.source, record.patient) in first].append(index)
    crossed: list[Detections] = list(detections)
    try:
        for fitted, measured in (halves, halves[::-1]):
            other = fit_boxes([records[i] for i in fitted], [detections[i] for i in fitted])
            for index in measured:
                crossed[index] = calibrated([detections[index]], other)[0]
    except ValueError:
        crossed = []
    return {
        "before": calibration_error(reliability(records, detections)),
        "after": calibration_error(reliability(records, calibrated(detections, line))),
        "other_patients": calibration_error(reliability(records, crossed)) if crossed else None,
    }


def calibrate(
    model: MedGlipForObjectDetection,
    processor: MedGlipProcessor,
    data: Path | str,
    recipe: TrainingRecipe | None = None,
    copies: int = 1,
) -> dict[str, dict[str, Any]]:
    """Calibrate every expert of a model, whose earlier calibration is cleared first.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): in evaluation mode; its configuration changes.
        processor ([`~modeling_medglip.MedGlipProcessor`]): the model's.
        data (`Path` or `str`): as [`~training.data.load.load_records`] takes it.
        recipe ([`~training.fit.recipe.TrainingRecipe`], *optional*): changes the validation images into what other
            hospitals show, and draws prompts, as it does in training: scores that are right on images of the same
            hospital promise too much elsewhere.
        copies (`int`, *optional*, defaults to 1): how often each image is changed.

    Returns:
        modality -> `slope`, `intercept`, `images` (number of images, with a recipe of their changed copies), with a
        recipe `copies`, and the [`errors`].

    Raises:
        `ValueError`: no validation images of an expert, too many that cannot be read, or too few boxes in them.
    """
    config = model.config
    clear(model)
    fitted: dict[str, dict[str, Any]] = {}
    for name in config.modalities:
        records = readable_enough(load_records(data, [name], split="validation"), {}, f"{data}: {name}")
        if recipe is None:
            asked = source_labels(records)
            prompts = [asked[f"{name}/{record.source}"] for record in records]
            detections, _ = detect_records(model, processor, records, prompts)
            detections = annotated_only(records, detections)
        else:
            elsewhere = images_elsewhere(data, name, recipe)
            records, detections = _augmented(model, processor, records, recipe, copies, elsewhere)
        try:
            slope, intercept = (round(value, 4) for value in fit_boxes(records, detections))
        except ValueError as error:
            raise ValueError(f"{data}: {name}: {error}") from None
        logger.info("%s: slope %.3f, intercept %.3f from %d images", name, slope, intercept, len(records))
        shares = errors(records, detections, (slope, intercept))
        counts = {"images": len(records), **({"copies": copies} if recipe else {})}
        fitted[name] = {"slope": slope, "intercept": intercept, **counts, **shares}
    for name, entry in fitted.items():
        model.update_head_config(name, score_calibration=[entry["slope"], entry["intercept"]])
    return fitted


def _augmented(
    model: MedGlipForObjectDetection,
    processor: MedGlipProcessor,
    records: Sequence[GroundingRecord],
    recipe: TrainingRecipe,
    copies: int,
    elsewhere: Sequence[GroundingRecord],
) -> tuple[list[GroundingRecord], list[Detections]]:
    # A label that only training images show is not one that was never learned.
    known = known_labels(model.config, records[0].modality)
    dataset = make_dataset(records, records, processor, recipe, elsewhere=elsewhere, known=known)
    shown: list[GroundingRecord] = []
    detections: list[Detections] = []
    for epoch in range(copies):
        dataset.set_epoch(epoch)
        for whole, part in zip((shown, detections), detect_augmented(model, processor, dataset), strict=True):
            whole.extend(part)  # type: ignore[attr-defined]
    return shown, detections


def clear(model: MedGlipForObjectDetection) -> None:
    """Remove the score calibration of every expert."""
    for name in model.config.modalities:
        model.update_head_config(name, score_calibration=None)


@script_main(also=(KeyError,))
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.fit.calibration", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--data", default=DEFAULT_DATA)
    parser.add_argument("--report", type=Path, help="JSON file for the calibration errors before and after")
    parser.add_argument("--recipe", help="changes the images and draws prompts as this training recipe does")
    parser.add_argument("--copies", type=int, default=1, help="with --recipe, how often each image is changed")
    options = parser.parse_args(argv)
    check_options({"copies": options.copies})
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_flush_denormal(True)
    model, processor = load_model_and_processor(str(options.model))
    recipe = load_recipe(options.recipe) if options.recipe else None
    fitted = calibrate(model.eval(), processor, options.data, recipe, options.copies)
    _write(options.model / "config.json", model.config)
    if options.report:
        report = {"schema": SCHEMA, "modalities": fitted}
        write_text(options.report, json.dumps(report, indent=1, allow_nan=False) + "\n")
    return 0


def _write(file: Path, config: MedGlipConfig) -> None:
    """Put the experts' lines into a checkpoint's configuration."""
    document = json.loads(file.read_text(encoding="utf-8"))
    document["head_config"]["score_calibration"] = None
    document["expert_overrides"] = config.expert_overrides
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
