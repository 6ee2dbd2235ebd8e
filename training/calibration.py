# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Make scores mean something: `python -m training.calibration --model CHECKPOINT --data out/data`.

Fits, per expert, the slope and intercept of Platt scaling (Platt, 1999) on the logit of the final score, so that a
score is the chance that the box overlaps the truth by at least half, and writes them into the checkpoint's
`config.json` (`score_calibration` of the experts' heads). The order of the boxes, and so average precision, stays.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_medglip.configuration_medglip import MedGlipConfig, MedGlipHeadConfig
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.processing_medglip import MedGlipProcessor

from .assemble import EMBEDDED
from .evaluate import detect, source_labels
from .metrics import right_boxes
from .records import DEFAULT_DATA, GroundingRecord, load_records


logger = logging.getLogger(__name__)


def fit_platt(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of most likelihood, with Platt's targets (which keep separable data finite).

    Args:
        scores: `(n,)` final scores, strictly between 0 and 1. right: `(n,)`.

    Raises:
        `ValueError`: no right or no wrong box, or scores that do not rise with the chance of being right.
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
        raise ValueError("scores do not rise with the chance of being right: train the expert further")
    return slope, intercept


def fit_expert(
    model: MedGlipForObjectDetection, processor: MedGlipProcessor, records: Sequence[GroundingRecord]
) -> tuple[float, float]:
    """Slope and intercept for one expert without a calibration, from pictures of its modality."""
    asked = source_labels(records)
    prompts = [asked[f"{record.modality}/{record.source}"] for record in records]
    found, _ = detect(model, processor, records, prompts)
    right = np.concatenate([right_boxes(record, boxes) for record, boxes in zip(records, found, strict=True)])
    return fit_platt(np.concatenate([boxes.scores for boxes in found]), right)


def calibrate(model: MedGlipForObjectDetection, processor: MedGlipProcessor, data: Path | str) -> MedGlipConfig:
    """The model's configuration with every expert's calibration; the model's own is cleared before measuring."""
    config = model.config
    clear(config)
    fitted = {}
    for name in config.modalities:
        records = load_records(data, [name], split="validation")
        slope, intercept = fit_expert(model, processor, records)
        logger.info("%s: slope %.3f, intercept %.3f from %d pictures", name, slope, intercept, len(records))
        fitted[name] = [round(slope, 4), round(intercept, 4)]
    overrides = cast(dict[str, Any], config.expert_overrides)
    for name, line in fitted.items():
        overrides.setdefault(name, {}).setdefault("head_config", {})["score_calibration"] = line
    return config


def clear(config: MedGlipConfig) -> None:
    """Forget all calibrations."""
    cast(MedGlipHeadConfig, config.head_config).score_calibration = None
    for changes in cast(dict[str, Any], config.expert_overrides).values():
        changes.get("head_config", {}).pop("score_calibration", None)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--data", default=DEFAULT_DATA)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_flush_denormal(True)
    model = MedGlipForObjectDetection.from_pretrained(options.model).eval()
    config = calibrate(model, MedGlipProcessor.from_pretrained(options.model), options.data)
    document = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
    document["head_config"]["score_calibration"] = None
    document["expert_overrides"] = config.expert_overrides
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (options.model / "config.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
