# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Train the modality router: a linear classifier of pooled features of the first stages of an ImageNet encoder.

`python -m training.fit.router --data out/data --out router.safetensors` writes the weights that a checkpoint's image
processor reads, and a report with the measured accuracy: on validation images, on sources that a router never saw, and
how honest its probabilities are there. With `--measure` the router of a checkpoint is measured on validation images
instead. See `router_images` for what it learns from, and `router_augmentation` for what differs between hospitals.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoBackbone, TimmBackboneConfig

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import one_line
from modeling_medglip.image_processing_medglip import (
    ROUTER_BACKBONE,
    ROUTER_CLASSES,
    MedGlipImageProcessor,
    MedGlipRouter,
    router_pixels,
    write_router,
)
from modeling_medglip.outputs.files import write_text

from ..data.load import load_records
from ..data.records import DEFAULT_DATA
from ..data.validation import check_options, readable_enough
from .router_images import (
    FAMILIES,
    MADE_UP,
    OTHER,
    RouterImage,
    draw,
    of_packages,
    of_records,
    of_volumes,
    phantoms,
    shown,
)
from .starting_weights import load_image_encoder


# Stages of the encoder that the router keeps: up to a stride of 16.
STAGES = 5
BATCH = 32
# What is added to the features' correlation within classes, and the least share of it in a feature's variance.
RIDGE = 0.1
LEAST_WITHIN = 0.1
# An image's chance is its source's size to this power: 0 treats images alike, -1 sources.
SOURCE_POWER = -0.5
# Most images of a source that join as they are, beside the augmented draws.
MOST_PLAIN = 120
# Probability from which a choice is believed: the image processor's default of `router_warning`.
SURE = 0.7
BINS = 10

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


def imagenet_encoder(stages: int = STAGES) -> dict[str, NDArray[np.float16]]:
    """Return the ImageNet weights of the first stages of EfficientNet-Lite0 by their names in timm."""
    config = TimmBackboneConfig(backbone=ROUTER_BACKBONE, use_pretrained_backbone=False)
    network = cast(Any, AutoBackbone.from_config(config))._backbone
    load_image_encoder(network)
    del network.blocks[stages:]
    tables = {name: table.numpy() for name, table in network.state_dict().items()}
    return {name: table.astype(np.float16) for name, table in tables.items() if table.dtype != np.int64}


def untrained_router(encoder: dict[str, Any]) -> MedGlipRouter:
    """Return a router whose only layer is zero, for the features of its encoder."""
    width = len(
        MedGlipRouter([OTHER], [], [], [{"weight": np.zeros((1, 0)), "bias": [0]}], encoder).features(np.zeros((8, 8)))
    )
    layer = {"weight": np.zeros((len(ROUTER_CLASSES), width)), "bias": np.zeros(len(ROUTER_CLASSES))}
    return MedGlipRouter(ROUTER_CLASSES, np.zeros(width), np.ones(width), [layer], encoder)


def feature_table(
    router: MedGlipRouter,
    images: Sequence[RouterImage],
    samples: Sequence[tuple[int, bool]],
    rng: np.random.Generator,
    log: Callable[[str], None] = lambda line: None,
) -> FeatureTable:
    """Return the features of samples.

    Args:
        router ([`MedGlipRouter`]): whose encoder is used.
        images (`Sequence[RouterImage]`): of any kinds.
        samples (`Sequence[tuple[int, bool]]`): index of the image, and whether it is varied.
        rng (`np.random.Generator`): varies them.
        log (`Callable[[str], None]`, *optional*): called with lines on the progress.
    """
    cache: dict[int, NDArray[Any]] = {}
    rows, start = [], time.time()
    for first in range(0, len(samples), BATCH):
        chosen = [(images[index], augmented) for index, augmented in samples[first : first + BATCH]]
        pixels = [router_pixels(shown(image, rng, augmented, cache)) for image, augmented in chosen]
        rows.append(router.pooled(torch.stack(pixels)).numpy())
        if first // BATCH % 50 == 0:
            log(f"{first} of {len(samples)} samples after {time.time() - start:.0f} s")
    used = [images[index] for index, _ in samples]
    return FeatureTable(
        np.concatenate(rows),
        np.array([ROUTER_CLASSES.index(image.kind) for image in used]),
        np.array([f"{image.kind}/{image.source}" for image in used]),
        np.array([augmented for _, augmented in samples]),
    )


def plain_samples(images: Sequence[RouterImage], rng: np.random.Generator) -> list[tuple[int, bool]]:
    """Return up to `MOST_PLAIN` images of every source, as they are; of phantoms half as many."""
    by_source: dict[tuple[str, str], list[int]] = {}
    for index, image in enumerate(images):
        by_source.setdefault((image.kind, image.source), []).extend([index] * min(image.size, MOST_PLAIN // 2))
    chosen = [rng.permutation(members)[:MOST_PLAIN].tolist() for members in by_source.values()]
    return [(index, False) for members in chosen for index in members]


# The classifier ------------------------------------------------------------------------------------------------------


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


# Measuring -----------------------------------------------------------------------------------------------------------


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


def measured(router: MedGlipRouter, data: Path | str, seed: int) -> dict[str, Any]:
    """Return the accuracy on the validation split of a data set.

    Args:
        router ([`MedGlipRouter`]): of any layout.
        data (`Path` or `str`): as `load_records` takes it.
        seed (`int`): of windows and varied copies.

    Returns:
        `validation`, of the images as they are, and `validation_augmented`, of one varied copy of each.
    """
    records = load_records(data, split="validation")
    records = readable_enough([record for record in records if record.view_of is None], {}, str(data))
    images = of_records(records)
    report = {}
    for name, augmented in {"validation": False, "validation_augmented": True}.items():
        rng = np.random.default_rng(seed)
        scores = [router.scores(shown(image, rng, augmented), "channels_first") for image in images]
        guesses = [max(row, key=row.__getitem__) for row in scores]
        report[name] = accuracy([image.kind for image in images], guesses)
    return report


def router_of(checkpoint: str) -> MedGlipRouter:
    """Return the router of a checkpoint.

    Raises:
        `ValueError`: it has none.
    """
    try:
        router = MedGlipImageProcessor.from_pretrained(checkpoint).router
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint}: no such checkpoint ({one_line(error, 120)})") from None
    if not router:
        raise ValueError(f"{checkpoint}: has no router")
    return cast(MedGlipRouter, router)


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
    shares: dict[str, dict[str, float]] = {}
    for key, varied in {"source_left_out": False, "source_left_out_augmented": True}.items():
        rows = {source: (table.sources == source) & (table.augmented == varied) for source in np.unique(table.sources)}
        shares[key] = {str(source): float(right[mask].mean()) for source, mask in rows.items() if mask.any()}
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


def calibration(table: FeatureTable, logits: NDArray[np.float64]) -> dict[str, Any]:
    """Return the temperature that makes probabilities honest on sources left out, and how honest they are with it.

    Every source counts alike.

    Args:
        table ([`FeatureTable`]): the samples.
        logits (`np.ndarray` of shape `(n, classes)`): by routers that never saw the sample's source.

    Returns:
        `temperature`, `expected_calibration_error` before and after, `bins` (share of the samples, mean probability,
        accuracy), and at the level `SURE` the share of unsure choices and the accuracy of the others.
    """
    sizes = Counter(table.sources.tolist())
    weights = np.array([1 / sizes[source] for source in table.sources.tolist()])
    weights /= weights.sum()
    temperatures = np.exp(np.linspace(np.log(0.3), np.log(6), 121))
    losses = [-(weights * np.log(chosen_probability(logits / t, table.classes))).sum() for t in temperatures]
    temperature = float(temperatures[int(np.argmin(losses))])
    right = logits.argmax(1) == table.classes
    before, after = (softmax(part).max(1) for part in (logits, logits / temperature))
    sure = after >= SURE
    return {
        "temperature": temperature,
        "expected_calibration_error_before": calibration_error(reliability(before, right, weights)),
        "expected_calibration_error": calibration_error(reliability(after, right, weights)),
        "bins": reliability(after, right, weights),
        "level": SURE,
        "unsure": float(weights[~sure].sum()),
        "accuracy_of_sure": float(np.average(right[sure], weights=weights[sure])) if sure.any() else None,
    }


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of rows of scores."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return cast(NDArray[np.float64], powers / powers.sum(1, keepdims=True))


def chosen_probability(logits: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the probability of the right class of every row, at least 1e-6."""
    return softmax(logits)[np.arange(len(classes)), classes].clip(1e-6)


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


# The command ---------------------------------------------------------------------------------------------------------


def training_images(data: Path | str, volumes: Path, packages: Path) -> list[RouterImage]:
    """Return all that the router learns from.

    Args:
        data (`Path` or `str`): built data set, as `load_records` takes it; its train split.
        volumes (`Path`): folder of the raw data, `<modality>/<source>/<file>`.
        packages (`Path`): folder of unpacked Debian packages, see `router_images`.
    """
    built = of_records(load_records(data, split="train"))
    return [*built, *of_volumes(volumes, {image.source for image in built}), *of_packages(packages), *phantoms()]


def train_router(
    images: Sequence[RouterImage],
    encoder: dict[str, Any],
    draws: int = 1100,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> tuple[MedGlipRouter, dict[str, Any]]:
    """Train a router, calibrated on sources left out.

    Args:
        images (`Sequence[RouterImage]`): see [`training_images`].
        encoder (`dict`): see [`imagenet_encoder`].
        draws (`int`, *optional*, defaults to 1100): varied samples per class.
        seed (`int`, *optional*, defaults to 0): of everything random.
        log (`Callable[[str], None]`, *optional*, defaults to `print`): called with lines on the progress.

    Returns:
        the router and the report.
    """
    rng = np.random.default_rng(seed)
    samples = plain_samples(images, rng) + [(index, True) for index in draw(images, draws, SOURCE_POWER, rng)]
    table = feature_table(untrained_router(encoder), images, samples, rng, log)
    report = left_out_report(table, left_out(table, encoder))
    log(f"sources left out: {report['source_left_out_mean']}")
    router = fit(list(moments_of(table).values()), encoder)
    router = with_temperature(router, report["calibration"]["temperature"])
    sources = Counter(image.source for image in images if image.kind == OTHER)
    settings = {"draws_per_class": draws, "samples": len(samples), "seed": seed}
    return router, {"training": {"images": len(images), **settings, "other": dict(sources)}, **report}


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's first lines; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.fit.router", description="Train the modality router.")
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set")
    parser.add_argument("--volumes", type=Path, default=Path("../shared/data"), help="raw data for further planes")
    parser.add_argument(
        "--packages", type=Path, default=Path("none"), help="unpacked Debian packages with photographs"
    )
    parser.add_argument("--out", type=Path, help="default: router.safetensors; with --measure router.json")
    parser.add_argument("--report", type=Path, help="of the training; default: _report.json beside --out")
    parser.add_argument("--draws", type=int, default=1100, help="varied samples per class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", help="measure the router of this checkpoint instead; --out is the report")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    check_options(vars(options))
    options.out = options.out or Path("router.json" if options.measure else "router.safetensors")
    if options.measure:
        report = measured(router_of(options.measure), options.data, options.seed)
        write_text(options.out, json.dumps(report, indent=2) + "\n")
        return 0
    images = training_images(options.data, options.volumes, options.packages)
    router, report = train_router(images, imagenet_encoder(), options.draws, options.seed)
    report = {**measured(router, options.data, options.seed), **report}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_router(options.out, router)
    beside = options.out.with_name(options.out.stem + "_report.json")
    write_text(options.report or beside, json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
