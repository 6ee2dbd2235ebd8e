"""Seconds and memory for merging many annotations: splits, statistics, COCO and Parquet.

    python -m tests.benchmarks.bench_merge [--annotations 1000000] [--folder /tmp] [--out docs/merge_benchmark.json]

The cases are made up: volumes of 100 slices with ten boxes each and tiny images, so that what is timed is the merge.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dataset_scripts.merge import merge
from dataset_scripts.process import png, split_key
from dataset_scripts.recipe import Recipe
from modeling_medglip.taxonomy import load_taxonomy


SLICES, BOXES = 100, 10
LABELS = ("liver", "kidney_left", "kidney_right", "spleen", "aorta")


def annotation(number: int) -> dict[str, Any]:
    """A box as `boxes.annotate` describes it."""
    label = load_taxonomy().label(LABELS[number % len(LABELS)])
    box = [float(number), 1.0, 3.0 + number % 3, 4.0]
    return {
        "label_id": label.id, "name": label.name, "source_label": label.name, "category": label.category,
        "region": label.region, "granularity": label.granularity, "side": label.laterality, "open_vocabulary": False,
        "bbox": box, "area": 12.0, "segmentation": {"size": [8, 8], "counts": "0a0" * 20}, "components": [box],
        "area_fraction": 0.1, "instance_index": number // len(LABELS), "instance_count": 2, "parent_label": None,
        "parent_box": None,
    }  # fmt: skip


def write_case(work: Path, number: int, pixels: bytes, boxes: list[dict[str, Any]]) -> Path:
    """A finished case; its folder."""
    name = f"{number:012x}"
    folder = work / name[-2:] / name
    folder.mkdir(parents=True)
    geometry = {"origin": [0, 0, 0], "right": [1, 0, 0], "down": [0, 1, 0]}
    images = []
    for index in range(SLICES):
        file = f"{name}-axial-{index:04d}.png"
        (folder / file).write_bytes(pixels)
        image = {"file": file, "width": 8, "height": 8, "plane": "axial", "index": index, "geometry": geometry}
        hashes = {"sha256": hashlib.sha256(file.encode()).hexdigest(), "perceptual_hash": "0" * 64}
        images.append({**image, **hashes, "window": [-160, 240], "annotated": ["liver"], "annotations": boxes})
    content = {
        "source": "bench",
        "case": name,
        "modality": "ct",
        "patient": name,
        "split_key": split_key("bench", name),
    }
    content |= {"split": None, "clinical": {}, "images": images, "rejected": [], "fingerprint": ""}
    (folder / "case.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to work (some 2 GB for a million)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(argv)
    pixels, _ = png(np.arange(64, dtype=np.uint8).reshape(8, 8))
    boxes = [annotation(number) for number in range(BOXES)]
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        cases = range(options.annotations // (SLICES * BOXES))
        folders = [write_case(Path(made) / "cases", number, pixels, boxes) for number in cases]
        start = time.perf_counter()
        summary = merge(folders, [Recipe("bench", "ct", "manifest")], Path(made) / "out")
        figures = {
            "images": summary.images,
            "annotations": summary.annotations,
            "seconds": round(time.perf_counter() - start, 1),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
    text = json.dumps(figures, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
