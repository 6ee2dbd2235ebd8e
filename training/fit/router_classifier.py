# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The linear classifier of the modality router, and the features that it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.image_processing_medglip import ROUTER_CLASSES, MedGlipRouter


# What is added to the features' correlation within classes, and the least share of it in a feature's variance.
RIDGE = 0.1
LEAST_WITHIN = 0.1
# An image's chance is its source's size to this power: 0 treats images alike, -1 sources.
SOURCE_POWER = -0.5

Features = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureTable:
    """What the classifier learns from, one row per sample.

    Attributes:
        features (`np.ndarray` of shape `(n, f)`): of the encoder.
        classes (`np.ndarray` of shape `(n,)`): indices into `ROUTER_CLASSES`.
        sources (`np.ndarray` of shape `(n,)`): `"<class>/<source>"`.
        augmented (`np.ndarray` of shape `(n,)`, bool): of varied copies.
    """

    features: Features
    classes: NDArray[np.int64]
    sources: NDArray[np.str_]
    augmented: NDArray[np.bool_]

    def rows(self, chosen: NDArray[Any]) -> FeatureTable:
        """Return some rows, by index or by mask."""
        return FeatureTable(self.features[chosen], self.classes[chosen], self.sources[chosen], self.augmented[chosen])


class Moments(NamedTuple):
    """The class of one source, and number, sum `(f,)` and sum of outer products `(f, f)` of its features."""

    class_index: int
    size: int
    total: NDArray[np.float64]
    products: NDArray[np.float64]


def moments_of(table: FeatureTable) -> dict[str, Moments]:
    """Return the moments of every source."""
    found = {}
    for source in sorted(set(table.sources.tolist())):
        rows = table.rows(table.sources == source)
        features = rows.features.astype(np.float64)
        found[source] = Moments(int(rows.classes[0]), len(features), features.sum(0), features.T @ features)
    return found


def fit(moments: Sequence[Moments], encoder: dict[str, Any]) -> MedGlipRouter:
    """Return a linear discriminant analysis with a ridge, as a router of one layer.

    It needs no more than the moments of the sources, so that leaving a source out costs one system of equations.
    Classes count alike; within one, a source by its size to the power 1 + `SOURCE_POWER`.

    Args:
        moments (`Sequence[Moments]`): of the sources to learn from.
        encoder (`dict`): what made the features; part of the router.
    """
    width, present = len(moments[0].total), sorted({source.class_index for source in moments})
    centers, products = np.zeros((len(present), width)), np.zeros((width, width))
    for row, index in enumerate(present):
        members = [source for source in moments if source.class_index == index]
        shares = np.array([source.size ** (1 + SOURCE_POWER) for source in members])
        for source, share in zip(members, shares / shares.sum(), strict=True):
            centers[row] += share * source.total / source.size
            products += share * source.products / source.size / len(present)
    within = products - centers.T @ centers / len(present)
    mean, variance = centers.mean(0), np.diag(within)
    scale = np.sqrt(np.maximum(variance, LEAST_WITHIN * (variance + centers.var(0))).clip(1e-6))
    distances = (centers - mean) / scale
    correlation = within / np.outer(scale, scale) + RIDGE * np.eye(width)
    weight = np.linalg.solve(correlation, distances.T).T
    layer = {"weight": weight, "bias": -0.5 * (weight * distances).sum(1)}
    return MedGlipRouter([ROUTER_CLASSES[index] for index in present], mean, scale, [layer], encoder)


def logits_of(router: MedGlipRouter, features: Features) -> NDArray[np.float64]:
    """Return the scores (n, classes) of rows of features, in the order of `ROUTER_CLASSES`."""
    rows = [router.classify(row) for row in features.astype(np.float64)]
    return np.array([[row.get(name, -np.inf) for name in ROUTER_CLASSES] for row in rows])


def with_temperature(router: MedGlipRouter, temperature: float) -> MedGlipRouter:
    """Return a router whose scores are divided by a temperature."""
    *before, last = router.layers
    layers = [*before, {key: table / temperature for key, table in last.items()}]
    return MedGlipRouter(router.classes, router.mean, router.scale, layers, router.encoder)
