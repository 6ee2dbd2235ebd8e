# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Accuracy and calibration of the modality router, also on sources left out of its training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from modeling_medglip.image_processing_medglip import OTHER, ROUTER_CLASSES, ROUTER_WARNING

from .router_classifier import FeatureTable, fit, logits_of, moments_of
from .router_images import FAMILIES, MADE_UP


BINS = 10


def accuracy(expected: Sequence[str], predicted: Sequence[str]) -> dict[str, Any]:
    """Return the share of right answers, overall and by modality, the counts, and the wrong answers.

    Args:
        expected (`Sequence[str]`): the modalities.
        predicted (`Sequence[str]`): the router's classes.
    """
    pairs = list(zip(expected, predicted, strict=True))
    present = [name for name in ROUTER_CLASSES if name in expected]
    right = {name: [name == guess for true, guess in pairs if true == name] for name in present}
    wrong = Counter(f"{true} taken for {guess}" for true, guess in pairs if true != guess)
    return {
        "accuracy": sum(true == guess for true, guess in pairs) / len(pairs),
        "by_modality": {
            name: {"accuracy": sum(hits) / len(hits), "images": len(hits)} for name, hits in right.items()
        },
        "mistakes": dict(wrong.most_common()),
    }


def left_out(table: FeatureTable, encoder: dict[str, Any]) -> NDArray[np.float64]:
    """Return the scores (n, classes) of every row by a router that never saw its source: what another hospital gets.

    Args:
        table ([`FeatureTable`]): the samples.
        encoder (`dict`): what made the features.

    Returns:
        NaN in the rows of a made-up source, and of a class that has no other source.
    """
    moments = moments_of(table)
    logits = np.full((len(table.classes), len(ROUTER_CLASSES)), np.nan)
    for source, part in moments.items():
        alone = source.split("/")[1]
        family = next((names for names in FAMILIES if alone in names), frozenset())
        others = [other for name, other in moments.items() if name != source and name.split("/")[1] not in family]
        if alone in MADE_UP:
            continue
        if part.class_index in {other.class_index for other in others}:
            inside = table.sources == source
            logits[inside] = logits_of(fit(others, encoder), table.features[inside])
    return logits


def left_out_report(table: FeatureTable, logits: NDArray[np.float64]) -> dict[str, Any]:
    """Return the accuracy on each source by a router without it, as it is and varied, and the calibration there.

    Args:
        table ([`FeatureTable`]): the samples.
        logits (`np.ndarray` of shape `(n, classes)`): from [`left_out`]; rows of NaN are not counted.
    """
    known = ~np.isnan(logits[:, 0])
    table, logits = table.rows(known), logits[known]
    right = logits.argmax(1) == table.classes
    kinds = {"source_left_out": False, "source_left_out_augmented": True}
    shares = {key: _shares(table, right, augmented) for key, augmented in kinds.items()}
    medical = {key: [v for k, v in part.items() if not k.startswith(OTHER)] for key, part in shares.items()}
    wrong = Counter(
        f"{source} taken for {ROUTER_CLASSES[guess]}"
        for source, guess in zip(table.sources[~right], logits[~right].argmax(1), strict=True)
    )
    return {
        **shares,
        "source_left_out_mean": {
            "medical": float(np.mean(medical["source_left_out"])),
            "medical_augmented": float(np.mean(medical["source_left_out_augmented"])),
            "all": float(np.mean(list(shares["source_left_out"].values()))),
        },
        "source_left_out_mistakes": dict(wrong.most_common(20)),
        "calibration": calibration(table, logits),
    }


def _shares(table: FeatureTable, right: NDArray[np.bool_], augmented: bool) -> dict[str, float]:
    """Return the share of right rows by source, of varied copies or of the images as they are."""
    rows = {source: (table.sources == source) & (table.augmented == augmented) for source in np.unique(table.sources)}
    return {str(source): float(right[mask].mean()) for source, mask in rows.items() if mask.any()}


def calibration(table: FeatureTable, logits: NDArray[np.float64]) -> dict[str, Any]:
    """Return the temperature that calibrates probabilities on sources left out, and the errors before and after.

    Every source counts alike.

    Args:
        table ([`FeatureTable`]): the samples.
        logits (`np.ndarray` of shape `(n, classes)`): by routers that never saw the sample's source.

    Returns:
        `temperature`, `expected_calibration_error` before and after, `bins` (share of the samples, mean probability,
        accuracy), and at the level `ROUTER_WARNING` the share of unsure choices and the accuracy of the others.
    """
    sizes = Counter(table.sources.tolist())
    weights = np.array([1 / sizes[source] for source in table.sources.tolist()])
    weights /= weights.sum()
    temperatures = np.exp(np.linspace(np.log(0.3), np.log(6), 121))
    losses = [-(weights * np.log(chosen_probability(logits / t, table.classes))).sum() for t in temperatures]
    temperature = float(temperatures[int(np.argmin(losses))])
    right = logits.argmax(1) == table.classes
    before, after = (softmax(part, axis=1).max(1) for part in (logits, logits / temperature))
    sure = after >= ROUTER_WARNING
    return {
        "temperature": temperature,
        "expected_calibration_error_before": calibration_error(reliability(before, right, weights)),
        "expected_calibration_error": calibration_error(reliability(after, right, weights)),
        "bins": reliability(after, right, weights),
        "level": ROUTER_WARNING,
        "unsure": float(weights[~sure].sum()),
        "accuracy_of_sure": float(np.average(right[sure], weights=weights[sure])) if sure.any() else None,
    }


def chosen_probability(logits: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the probability of the right class of every row, at least 1e-6."""
    chosen: NDArray[np.float64] = softmax(logits, axis=1)[np.arange(len(classes)), classes]
    return chosen.clip(1e-6)


def reliability(
    probability: NDArray[np.float64], right: NDArray[np.bool_], weights: NDArray[np.float64]
) -> list[dict[str, float]]:
    """Return share, mean probability and accuracy of the samples in `BINS` equal ranges of the probability.

    Args:
        probability (`np.ndarray` of shape `(n,)`): of the choice.
        right (`np.ndarray` of shape `(n,)`, bool): whether it is right.
        weights (`np.ndarray` of shape `(n,)`): what each sample counts; they sum to 1.
    """
    bins = (probability * BINS).astype(int).clip(0, BINS - 1)
    rows = []
    for number in range(BINS):
        inside = bins == number
        if (share := float(weights[inside].sum())) > 0:
            means = [float(np.average(part[inside], weights=weights[inside])) for part in (probability, right)]
            rows.append({"from": number / BINS, "share": share, "probability": means[0], "accuracy": means[1]})
    return rows


def calibration_error(bins: Sequence[dict[str, float]]) -> float:
    """Return the mean distance of probability and accuracy over the bins, by their shares."""
    return sum(row["share"] * abs(row["probability"] - row["accuracy"]) for row in bins)
