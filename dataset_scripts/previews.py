# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Draw previews of a built set: plots of its statistics, and a contact sheet of annotated images for every source.

    python -m dataset_scripts.previews built/med-glip

writes `statistics/*.png` and `contact_sheets/<source>.png` into the set. Only the rows that are drawn are read.
"""

from __future__ import annotations

import argparse
import functools
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageFont
from pycocotools import mask as coco_mask

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.outputs.files import write_bytes
from modeling_medglip.outputs.overlay import (
    PALETTE,
    DrawnBox,
    contact_sheet,
    draw_boxes,
    overlay_png,
    scaled,
    with_caption,
)

from .recipe import WINDOWS
from .statistics import AREA_EDGES


PER_SOURCE = 12
SHEET_COLUMNS = 4
CELL = 380
TOP_LABELS = 40
# Of images with more boxes, such as an atlas of the brain, not all are named.
MOST_NAMES = 14


def write_previews(out: Path) -> list[Path]:
    """Write all plots and sheets of a built set, and return their paths.

    Raises:
        `ValueError`: The folder is not a built set.
    """
    if not (out / "statistics" / "counts.parquet").is_file():
        raise ValueError(f"{out.name}: is not a data set that this project built")
    return [*_plots(out / "statistics"), *_sheets(out)]


# Plots ---------------------------------------------------------------------------------------------------------------


def _plots(folder: Path) -> list[Path]:
    from matplotlib.figure import Figure

    rows = pq.read_table(folder / "counts.parquet").to_pylist()
    written = []
    for by, title in (("modality", "Modality"), ("region", "Body region"), ("source", "Source"), ("name", "Label")):
        chosen = [row for row in rows if row["by"] == by][:TOP_LABELS]
        figure = Figure(figsize=(8, 1.4 + 0.3 * len(chosen)), layout="constrained")
        axes = figure.add_subplot()
        names = [row["value"] for row in chosen][::-1]
        axes.barh(names, [row["boxes"] for row in chosen][::-1], color="#3572b0", label="boxes")
        axes.barh(names, [row["images"] for row in chosen][::-1], color="#e8a33d", height=0.35, label="images")
        axes.set_xscale("log")
        axes.set_xlim(left=0.8)
        axes.margins(y=0.01)
        axes.set_title(title + (f" (the {TOP_LABELS} largest)" if len(chosen) == TOP_LABELS else ""))
        axes.legend(loc="lower right")
        written.append(_save(figure, folder / f"by_{by}.png"))
    return [*written, _area_plot(folder), _per_image_plot(folder)]


def _area_plot(folder: Path) -> Path:
    from matplotlib.figure import Figure

    rows = pq.read_table(folder / "areas.parquet").to_pylist()
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for modality in sorted({row["modality"] for row in rows}):
        counts = {round(row["from"], 9): row["boxes"] for row in rows if row["modality"] == modality}
        values = [counts.get(round(low, 9), 0) for low in (0.0, *AREA_EDGES[:-1])]
        values[-1] += counts.get(1.0, 0)
        axes.stairs(values, (AREA_EDGES[0] / 10**0.5, *AREA_EDGES), label=modality, baseline=0.7, linewidth=1.5)
    axes.set(xscale="log", yscale="log", xlabel="share of the image", ylabel="boxes", title="Size of the annotations")
    axes.axvline(0.015, color="gray", linestyle=":")
    axes.text(0.015, axes.get_ylim()[1], "the paper's 1.5 % ", rotation=90, va="top", ha="right", color="gray")
    axes.legend()
    return _save(figure, folder / "areas.png")


def _per_image_plot(folder: Path) -> Path:
    from matplotlib.figure import Figure

    rows = pq.read_table(folder / "masks_per_image.parquet").to_pylist()
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for modality in sorted({row["modality"] for row in rows}):
        counts = {row["masks"]: row["images"] for row in rows if row["modality"] == modality}
        last = max(counts)
        axes.stairs(
            [counts.get(n, 0) for n in range(last + 1)], np.arange(last + 2) - 0.5, label=modality, linewidth=1.5
        )
    axes.set(yscale="log", xlabel="masks in an image", ylabel="images", title="Masks per image")
    axes.legend()
    return _save(figure, folder / "masks_per_image.png")


def _save(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return write_bytes(path, buffer.getvalue())


# Sheets --------------------------------------------------------------------------------------------------------------


def _sheets(out: Path) -> list[Path]:
    chosen: dict[str, list[tuple[Path, int, int]]] = {}
    names: dict[int, str] = {}
    for row in pq.read_table(out / "labels" / "train-00000-of-00001.parquet").to_pylist():
        names[row["class_id"]] = row["name"]
    for path, group, number, source in _rows_with_objects(out):
        chosen.setdefault(source, []).append((path, group, number))
    written = []
    for source, positions in sorted(chosen.items()):
        step = max(1, len(positions) // PER_SOURCE)
        images = [draw_annotations(_row(*position), names) for position in positions[::step][:PER_SOURCE]]
        sheet = contact_sheet(images, columns=min(SHEET_COLUMNS, len(images)), cell=CELL)
        written.append(write_bytes(out / "contact_sheets" / f"{source}.png", overlay_png(sheet)))
    return written


def _rows_with_objects(out: Path) -> Iterator[tuple[Path, int, int, str]]:
    """Yield shard, row group, row and source of every image with objects."""
    for path in sorted(out.glob("*/*.parquet")):
        if path.parent.name in ("labels", "statistics"):
            continue
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["source", "objects.id"]).to_pylist()
            for number, row in enumerate(table):
                if row["objects"]["id"]:
                    yield path, group, number, row["source"]


def _row(path: Path, group: int, number: int) -> dict[str, Any]:
    return _group(path, group).slice(number, 1).to_pylist()[0]


@functools.lru_cache(maxsize=2)
def _group(path: Path, number: int) -> Any:
    return pq.ParquetFile(path).read_row_group(number)


def draw_annotations(row: dict[str, Any], names: dict[int, str]) -> Image.Image:
    """Return an image with its masks tinted, its boxes, their names, and a line that names its case.

    Args:
        row (`dict`): Of the Parquet files.
        names (`dict[int, str]`): Class number -> name of the label.
    """
    image: Image.Image = Image.open(io.BytesIO(row["image"]["bytes"]))
    if image.mode.startswith("I"):
        image = Image.fromarray(_displayed(np.asarray(image).astype(np.float32), row))
    factor = (CELL - 12) / max(image.size)
    objects = row["objects"]
    tinted = np.asarray(image.convert("RGB")).astype(np.float32)
    for category, counts in zip(objects["category"], objects["segmentation"], strict=True):
        if counts:
            mask = np.asarray(coco_mask.decode({"size": [row["height"], row["width"]], "counts": counts})) > 0
            color = np.array([int(_color(category)[start : start + 2], 16) for start in (1, 3, 5)], dtype=np.float32)
            tinted[mask] = 0.7 * tinted[mask] + 0.3 * color
    preview = Image.fromarray(tinted.astype(np.uint8))
    preview = preview.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    boxes = [scaled((x, y, x + w, y + h), (factor, factor)) for x, y, w, h in objects["bbox"]]
    # Small boxes first: their names have least room.
    order = sorted(range(len(boxes)), key=lambda number: objects["bbox"][number][2] * objects["bbox"][number][3])
    named = set(order[:: max(1, -(-len(order) // MOST_NAMES))])
    drawn = [
        DrawnBox(boxes[number], _color(category), names[category] if number in named else "")
        for number in order
        for category in [objects["category"][number]]
    ]
    draw_boxes(preview, drawn, ImageFont.load_default(size=11), 1)
    position = f"{row['plane']} {row['index']}" if row["plane"] else ""
    return with_caption(preview, f"{row['case']} {position}", height=16)


def _displayed(gray: NDArray[np.float32], row: dict[str, Any]) -> NDArray[np.uint8]:
    """Convert a 16-bit image for display: CT through the usual window, other modalities up to their maximum."""
    low, high = 0.0, max(float(gray.max()), 1.0)
    if row["window"] and row["modality"] in WINDOWS:
        zero, top = row["window"]
        low, high = ((value - zero) * (65535 / (top - zero)) for value in WINDOWS[row["modality"]])
    return ((gray - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def _color(category: int) -> str:
    """Return the color of a label, the same in all images."""
    return PALETTE[category % len(PALETTE)]


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset_scripts.previews", description="Plots and contact sheets."
    )
    parser.add_argument("out", type=Path, help="a built data set")
    options = parser.parse_args(argv)
    written = write_previews(options.out)
    print(f"{len(written)} images in {options.out / 'statistics'} and {options.out / 'contact_sheets'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
