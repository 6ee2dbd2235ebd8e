# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Train the modality router: a small perceptron on simple features of the raw image.

`python -m training.fit.router --data out/data --out router.safetensors` writes the weights that a checkpoint's image
processor reads, and `router_report.json` with the measured accuracy. With `--measure` the router of a checkpoint is
measured instead.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import one_line
from modeling_medglip.image_processing_medglip import (
    MedGlipImageProcessor,
    channels_first,
    resize_image,
    router_features,
    router_scores,
    write_router,
)
from modeling_medglip.modalities import MODALITIES
from modeling_medglip.outputs.files import write_text
from modeling_medglip.volumes.geometry import extract_slice, slice_count, to_lps
from modeling_medglip.volumes.reader import read_volume

from ..data.load import load_records
from ..data.records import DEFAULT_DATA, GroundingRecord
from ..data.validation import check_options, readable_enough


LARGEST_SIDE = 256
HIDDEN = 24
SIGNIFICANT_DIGITS = 4
# An image's chance is its source's size to this power: 0 treats images alike, -1 sources.
SOURCE_POWER = -0.35
# Shares of the varied ultrasound images that are cut to a sector, and that get colored spots.
FAN_SHARE, FLOW_SHARE = 0.3, 0.2
# Volumes whose slices in further planes join the training: modality, source, file. The brain's header says RAS where
# its axes run left, down, front: what is axial there by the header is coronal.
EXTRA_VOLUMES = (
    ("mri", "voxelmorph_brain", "brain_t1_image.nii.gz"),
    ("ct", "totalsegmentator_example", "example_ct.nii.gz"),
)
PLANES = {"mri": ("sagittal", "axial"), "ct": ("sagittal", "coronal")}
# Displays of Hounsfield units that an image of a CT slice may come in: center and width.
CT_WINDOWS = ((40, 400), (-600, 1500), (400, 1800), (40, 80), (50, 350), (0, 2000))

Pixels = NDArray[Any]


# Images and their augmentation -------------------------------------------------------------------------------------


def load_image(record: GroundingRecord) -> Pixels:
    """Pixels of a record as float32 (c, h, w), at most `LARGEST_SIDE` long, in its own units."""
    array = torch.from_numpy(channels_first(record.load()).astype(np.float32))
    factor = min(1.0, LARGEST_SIDE / max(array.shape[1:]))
    return resize_image(array, (round(array.shape[1] * factor), round(array.shape[2] * factor))).numpy()


def to_bytes(image: Pixels, is_hounsfield: bool, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Display values: a random window for Hounsfield units, all of the range for other measured units."""
    if is_hounsfield:
        center, width = CT_WINDOWS[rng.integers(len(CT_WINDOWS))]
        image = (image - center) / width * 255 + 127.5
    elif image.max() > 255 or image.min() < 0:
        low, high = np.percentile(image, [0, 99.5 + 0.5 * rng.random()])
        image = (image - low) / max(high - low, 1e-6) * 255
    return image.clip(0, 255).round().astype(np.uint8)


def augment(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A varied copy of a display image (c, h, w): crop or border, flip, size, gray levels, noise, JPEG."""
    values = _crop_or_pad(image.astype(np.float32), rng)
    values = values[:, :, ::-1] if rng.random() < 0.5 else values
    if rng.random() < 0.1:
        values = np.rot90(values, int(rng.integers(1, 4)), axes=(1, 2))
    height, width = values.shape[1:]
    factor, aspect = rng.uniform(0.3, 1.1), rng.uniform(0.85, 1.18)
    size = max(24, round(height * factor * aspect)), max(24, round(width * factor / aspect))
    values = resize_image(torch.from_numpy(values.copy()), size).numpy()
    values = 255 * (values / 255).clip(0, 1) ** np.exp(rng.normal(0, 0.2))
    values = (values - 128) * rng.uniform(0.75, 1.25) + 128 + rng.uniform(-20, 20)
    if len(values) == 3:
        values = values * np.exp(rng.normal(0, 0.05, (3, 1, 1)))
    if rng.random() < 0.3:
        values = values + rng.normal(0, rng.uniform(1, 6), values.shape)
    values = values.clip(0, 255).astype(np.uint8)
    return jpeg(values, int(rng.integers(35, 96))) if rng.random() < 0.6 else values


def _crop_or_pad(values: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = values.shape[1:]
    if rng.random() < 0.5:
        rows, columns = (int(side * rng.uniform(0.65, 1)) for side in (height, width))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        return values[:, top : top + rows, left : left + columns]
    if rng.random() < 0.3:
        around = rng.integers(0, max(height, width) // 6 + 1, 4)
        return np.pad(values, ((0, 0), (around[0], around[1]), (around[2], around[3])))
    return values


def jpeg(values: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """(c, h, w) through a JPEG file of the given quality."""
    buffer = io.BytesIO()
    Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
    return channels_first(Image.open(buffer))


# Samples -------------------------------------------------------------------------------------------------------------


def draw(records: Sequence[GroundingRecord], count: int, rng: np.random.Generator) -> list[int]:
    """Indices of `count` records of every modality; large sources count less than their size."""
    sizes = Counter((record.modality, record.source) for record in records)
    drawn: list[int] = []
    for modality in MODALITIES:
        members = [index for index, record in enumerate(records) if record.modality == modality]
        if members:
            weight = np.array([sizes[modality, records[index].source] ** SOURCE_POWER for index in members])
            drawn += rng.choice(members, count, p=weight / weight.sum()).tolist()
    return drawn


def fan(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(c, h, w) cut to a random sector on black, the shape in which curved ultrasound probes show their images."""
    height, width = image.shape[1:]
    y, x = np.mgrid[0:height, 0:width]
    tip = -rng.uniform(0, 0.35) * height, rng.uniform(0.4, 0.6) * width
    angle, radius = np.arctan2(x - tip[1], y - tip[0]), np.hypot(x - tip[1], y - tip[0])
    inside = (np.abs(angle) < rng.uniform(0.45, 0.85)) & (radius < rng.uniform(0.9, 1.05) * (height - tip[0]))
    return image * (inside & (radius > -tip[0] * rng.uniform(1.0, 1.15))).astype(np.uint8)


def flow_colors(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(c, h, w) -> (3, h, w) with one or two colored spots, such as those of Doppler ultrasound."""
    colored = np.array(np.broadcast_to(image, (3, *image.shape[1:])))
    y, x = np.mgrid[0 : image.shape[1], 0 : image.shape[2]] / np.array(image.shape[1:])[:, None, None]
    for _ in range(rng.integers(1, 3)):
        center, radius = rng.uniform(0.15, 0.85, 2), rng.uniform(0.02, 0.15, 2)
        spot = np.hypot((y - center[0]) / radius[0], (x - center[1]) / radius[1]) < 1
        color = np.array([(220, 40, 20), (20, 60, 220), (230, 200, 40)])[rng.integers(3)]
        colored[:, spot] = (colored[:, spot] * 0.4 + color[:, None] * 0.6).astype(np.uint8)
    return colored


def sagittal_and_coronal(volumes: Path) -> list[GroundingRecord]:
    """Return slices of `EXTRA_VOLUMES` in the two planes that built data sets hold few of.

    Args:
        volumes (`Path`): folder of the raw volumes, `<modality>/<source>/<file>`; absent files give none.
    """
    records = []
    for modality, source, name in EXTRA_VOLUMES:
        path = volumes / modality / source / name
        if not path.is_file():
            continue
        volume = to_lps(read_volume(path))
        for plane in PLANES[modality]:
            length = slice_count(volume, plane)
            for index in range(length // 4, 3 * length // 4, 2):
                pixels = volume.values(extract_slice(volume, plane, index)[0])
                records.append(_slice_record(modality, source, f"{name} {plane} {index}", pixels))
    return records


def _slice_record(modality: str, source: str, name: str, pixels: NDArray[Any]) -> GroundingRecord:
    nothing: Any = np.zeros((0, 4), np.float32)
    return GroundingRecord(
        modality=modality,
        source=f"{source}_planes",
        image_id=name,
        patient=source,
        split="train",
        boxes=nothing,
        labels=(),
        annotated=(),
        size=(pixels.shape[1], pixels.shape[0]),
        loader=lambda: pixels.copy(),
        is_hounsfield=modality == "ct",
    )


def feature_table(
    records: Sequence[GroundingRecord], indices: Sequence[int], rng: np.random.Generator, plain_share: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features (n, f) and classes (n,) of the chosen records; `plain_share` of them without augmentation."""
    cache: dict[int, Pixels] = {}
    rows = []
    for index in indices:
        if index not in cache:
            cache[index] = load_image(records[index])
        image = to_bytes(cache[index], records[index].is_hounsfield, rng)
        plain = rng.random() < plain_share
        if not plain and records[index].modality == "ultrasound":
            image = fan(image, rng) if rng.random() < FAN_SHARE else image
            image = flow_colors(image, rng) if rng.random() < FLOW_SHARE else image
        rows.append(router_features(image if plain else augment(image, rng), "channels_first"))
    return np.stack(rows), np.array([MODALITIES.index(records[index].modality) for index in indices])


# The classifier ------------------------------------------------------------------------------------------------------


def significant(values: NDArray[np.float64]) -> Any:
    """Nested lists of numbers with `SIGNIFICANT_DIGITS` significant digits."""
    rounded = np.vectorize(lambda value: float(f"{value:.{SIGNIFICANT_DIGITS}g}"))
    return rounded(values).tolist()


def fit(features: NDArray[np.float64], classes: NDArray[np.int64], steps: int, seed: int) -> dict[str, Any]:
    """Train the perceptron on features (n, f) and classes (n,); returns the router's dictionary."""
    torch.manual_seed(seed)
    mean, scale = features.mean(0), features.std(0).clip(1e-3)
    inputs = torch.from_numpy(((features - mean) / scale).clip(-6, 6)).float()
    targets = torch.from_numpy(classes)
    network = torch.nn.Sequential(
        torch.nn.Linear(features.shape[1], HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(HIDDEN, len(MODALITIES)),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (256,))
        noisy = inputs[batch] + 0.1 * torch.randn(256, inputs.shape[1])
        loss = torch.nn.functional.cross_entropy(network(noisy), targets[batch], label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    return {
        "classes": list(MODALITIES),
        "mean": significant(mean),
        "scale": significant(scale),
        "layers": [
            {key: significant(getattr(layer, key).detach().double().numpy()) for key in ("weight", "bias")}
            for layer in layers
        ],
    }


def predict(router: dict[str, Any], features: NDArray[np.float64]) -> list[str]:
    """The likeliest modality of every row of features."""
    scores = [router_scores(row, router) for row in features]
    return [max(row, key=row.__getitem__) for row in scores]


def accuracy(expected: Sequence[str], predicted: Sequence[str]) -> dict[str, Any]:
    """Share of right answers, overall and by modality, the counts, and the wrong answers."""
    pairs = list(zip(expected, predicted, strict=True))
    present = [name for name in MODALITIES if name in expected]
    right = {name: [name == guess for true, guess in pairs if true == name] for name in present}
    wrong = Counter(f"{true} taken for {guess}" for true, guess in pairs if true != guess)
    return {
        "accuracy": sum(true == guess for true, guess in pairs) / len(pairs),
        "by_modality": {
            name: {"accuracy": sum(hits) / len(hits), "images": len(hits)} for name, hits in right.items()
        },
        "mistakes": dict(wrong.most_common()),
    }


def measure(router: dict[str, Any], records: Sequence[GroundingRecord], augmented: bool, seed: int) -> dict[str, Any]:
    """Accuracy on records, as they are or once augmented each."""
    rng = np.random.default_rng(seed)
    features, classes = feature_table(records, range(len(records)), rng, plain_share=0.0 if augmented else 1.0)
    return accuracy([MODALITIES[index] for index in classes], predict(router, features))


def measured(router: dict[str, Any], data: Path | str, seed: int) -> dict[str, Any]:
    """Accuracy on the validation split of a data set: `validation`, and `validation_augmented`."""
    records = load_records(data, split="validation")
    records = readable_enough([record for record in records if record.view_of is None], {}, str(data))
    kinds = {"validation": False, "validation_augmented": True}
    return {name: measure(router, records, augmented, seed) for name, augmented in kinds.items()}


def router_of(checkpoint: str) -> dict[str, Any]:
    """The router of a checkpoint.

    Raises:
        `ValueError`: it has none.
    """
    try:
        router = MedGlipImageProcessor.from_pretrained(checkpoint).router
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint}: no such checkpoint ({one_line(error, 120)})") from None
    if not router:
        raise ValueError(f"{checkpoint}: has no router")
    return dict(router)


def left_out(
    records: Sequence[GroundingRecord],
    indices: Sequence[int],
    features: NDArray[np.float64],
    classes: NDArray[np.int64],
    steps: int,
    seed: int,
) -> dict[str, float]:
    """Accuracy on each source by a router that never saw that source: what to expect of another hospital."""
    sources = np.array([f"{records[index].modality}/{records[index].source}" for index in indices])
    shares = {}
    for source in sorted(set(sources.tolist())):
        inside = sources == source
        router = fit(features[~inside], classes[~inside], steps, seed)
        guesses = predict(router, features[inside])
        shares[source] = float(np.mean([MODALITIES.index(guess) for guess in guesses] == classes[inside]))
    return shares


def train_router(
    data: Path | str,
    volumes: Path,
    draws: int = 1000,
    steps: int = 2500,
    seed: int = 0,
    leave_one_out: bool = False,
    log: Callable[[str], None] = print,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train on the train split of a data set and measure on its validation split.

    Args:
        data (`Path` or `str`): as `load_records` takes it.
        volumes (`Path`): folder of the raw volumes, `<modality>/<source>/<file>`.
        draws (`int`, *optional*, defaults to 1000): samples per modality.
        steps (`int`, *optional*, defaults to 2500): of AdamW.
        seed (`int`, *optional*, defaults to 0): of everything random.
        leave_one_out (`bool`, *optional*, defaults to `False`): also measure on every source by a router without it.
        log (`Callable[[str], None]`, *optional*, defaults to `print`): called with lines on the progress.

    Returns:
        the router's dictionary and the report.
    """
    start, rng = time.time(), np.random.default_rng(seed)
    train = load_records(data, split="train") + sagittal_and_coronal(volumes)
    indices = draw(train, draws, rng)
    features, classes = feature_table(train, indices, rng, plain_share=0.3)
    log(f"{len(features)} samples with {features.shape[1]} features after {time.time() - start:.0f} s")
    router = fit(features, classes, steps, seed)
    report: dict[str, Any] = {
        "training": {"images": len(train), "draws_per_modality": draws, "steps": steps, "seed": seed},
        **measured(router, data, seed),
    }
    if leave_one_out:
        report["source_left_out"] = left_out(train, indices, features, classes, steps, seed)
    log(f"validation accuracy {report['validation']['accuracy']:.4f} after {time.time() - start:.0f} s")
    return router, report


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's first lines; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.fit.router", description="Train the modality router.")
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set")
    parser.add_argument("--volumes", type=Path, default=Path("../shared/data"), help="raw volumes for further planes")
    parser.add_argument("--out", type=Path, help="default: router.safetensors; with --measure router.json")
    parser.add_argument("--draws", type=int, default=1000, help="samples per modality")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave-one-out", action="store_true", help="measure on unseen sources too")
    parser.add_argument("--measure", help="measure the router of this checkpoint instead; --out is the report")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    check_options(vars(options))
    options.out = options.out or Path("router.json" if options.measure else "router.safetensors")
    if options.measure:
        report = measured(router_of(options.measure), options.data, options.seed)
        write_text(options.out, json.dumps(report, indent=2) + "\n")
        return 0
    router, report = train_router(
        options.data, options.volumes, options.draws, options.steps, options.seed, options.leave_one_out
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_router(options.out, router)
    options.out.with_name(options.out.stem + "_report.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
