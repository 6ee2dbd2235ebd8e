# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Train the modality router: a linear classifier of pooled features of the first stages of an ImageNet encoder.

`python -m training.fit.router --data out/data --out router.safetensors` writes the weights that a checkpoint's image
processor reads, and a report with the measured accuracy: on validation images, and on sources that were left out of
training, with the calibration of its probabilities there. With `--measure` the router of a checkpoint is measured on
validation images instead. See `router_images` for what it learns from, and `router_augmentation` for what differs
between hospitals.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoBackbone, TimmBackboneConfig

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import one_line
from modeling_medglip.image_processing_medglip import (
    OTHER,
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
from .router_classifier import SOURCE_POWER, FeatureTable, fit, moments_of, with_temperature
from .router_images import RouterImage, draw, of_packages, of_records, of_volumes, phantoms, shown
from .router_measures import accuracy, left_out, left_out_report
from .starting_weights import load_image_encoder


# Stages of the encoder that the router keeps: up to a stride of 16.
STAGES = 5
BATCH = 32
# Most images of a source that join as they are, beside the augmented draws.
MOST_PLAIN = 120


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


# Measuring -----------------------------------------------------------------------------------------------------------


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
    options = _parser().parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
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
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
