# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Boxes in space against masks: IoU in space and AP of the single pictures, per label.

    python -m training.studies.volumes --raw ../shared/data --out docs/volumes.json

grounds the volumes of `volume_cases.yaml` with all labels of their masks and writes the same as Markdown, with the
figures of `volume_benchmark.json` beside it, if it is there (`--page` writes the Markdown alone, from both files).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.boxes import iou
from modeling_medglip.errors import MedGlipError, one_line
from modeling_medglip.grounding import Grounder, load
from modeling_medglip.io.text_files import load_yaml
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import percent, table
from modeling_medglip.outputs.volume_results import VolumeResult
from modeling_medglip.volume_grounding import ground_volume
from modeling_medglip.volumes.dicom_folder import find_series, open_series
from modeling_medglip.volumes.geometry import (
    Volume,
    extract_slice,
    on_grid,
    slice_count,
    to_file,
    to_lps,
    with_axcodes,
)
from modeling_medglip.volumes.linking import SliceBox
from modeling_medglip.volumes.reader import read_volume
from modeling_medglip.volumes.source import VolumeSource, acquisition_plane, open_volume

from ..data.records import GroundingRecord
from ..evaluate.metrics import Detections, average_precision
from .report_roundtrip import roundtrip


SCHEMA = "medglip/volumes@1"
CASES = Path(__file__).with_name("volume_cases.yaml")
# Single pictures are measured with all boxes; boxes in space count from the default threshold on.
LOW, THRESHOLD = 0.1, 0.3
# Orders of axes that the first volume is stored in as well.
ORDERS = (((0, 1, 2), (-1, 1, 1)), ((1, 0, 2), (1, 1, 1)), ((2, 1, 0), (1, -1, 1)), ((2, 0, 1), (-1, -1, -1)))


def open_case(image: Path) -> VolumeSource:
    """A volume file, or the only series of a folder.

    Raises:
        `MedGlipError`: it cannot be read, or the folder has several series.
    """
    if not image.is_dir():
        return open_volume(image, detached=True)
    series = find_series(image)
    if len(series) > 1:
        raise MedGlipError(f"{image.name}: holds {len(series)} series")
    return open_series(series[0], image.name)


def label_masks(files: Mapping[str, Mapping[int, str]], raw: Path, grid: Volume) -> dict[str, NDArray[np.bool_]]:
    """Label -> mask on the grid of `to_lps(grid)`.

    Raises:
        `MedGlipError`: a map that cannot be read or lies elsewhere.
    """
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, values in files.items():
        placed = on_grid(read_volume(raw / name), grid)
        if placed is None:
            raise MedGlipError(f"{Path(name).name}: does not lie on the grid of its volume")
        for value, label in values.items():
            mask = placed.array == value
            if mask.any():
                masks[label] = masks[label] | mask if label in masks else mask
    return masks


def box_of_mask(mask: NDArray[np.bool_], grid: Volume) -> tuple[float, ...]:
    """(i1, j1, k1, i2, j2, k2) of a mask on the LPS grid, in voxels of the file's own grid."""
    places = np.argwhere(mask)
    return to_file(grid, places.min(axis=0), places.max(axis=0) + 1)


def single_pictures(
    masks: Mapping[str, NDArray[np.bool_]], found: Mapping[str, Sequence[SliceBox]], grid: Volume, plane: str
) -> tuple[list[GroundingRecord], list[Detections]]:
    """Every picture of a plane with the true boxes of its masks (one per label, round all of it), and what was
    found."""
    lps = to_lps(grid)
    records, detections = [], []
    labels = tuple(sorted(masks))
    for index in range(slice_count(lps, plane)):
        boxes, names = [], []
        for label in labels:
            picture = extract_slice(Volume(masks[label], lps.affine), plane, index)[0]
            rows, columns = np.nonzero(picture)
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                names.append(label)
        own = [(label, box) for label in labels for box in found.get(label, ()) if box.index == index]
        own.sort(key=lambda pair: -pair[1].score)
        height, width = picture.shape
        records.append(_record(index, boxes, names, labels, (width, height)))
        scores = np.array([box.score for _, box in own], np.float32)
        corners = np.array([box.box for _, box in own], np.float32).reshape(-1, 4)
        detections.append(Detections(tuple(label for label, _ in own), scores, corners))
    return records, detections


def _turned(mask: NDArray[np.bool_], old: Volume, new: Volume) -> NDArray[np.bool_]:
    """A mask on the LPS grid of a volume, on that of the same voxels with other axes."""
    stored = Volume(mask, to_lps(old).affine)
    back = np.empty(old.array.shape, bool)
    whole = to_lps(replace(old, array=back))
    whole.array[...] = stored.array
    return to_lps(replace(new, array=back)).array


def _record(
    index: int, boxes: list[list[int]], names: list[str], labels: tuple[str, ...], size: tuple[int, int]
) -> GroundingRecord:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    nothing = np.zeros((size[1], size[0]), np.uint8)
    place = ("mri", "volume", str(index), "volume", "validation")
    return GroundingRecord(*place, array, tuple(names), labels, size, lambda: nothing)


def measure_case(case: Mapping[str, Any], raw: Path, grounder: Grounder) -> dict[str, Any]:
    """Ground one volume.

    Returns:
        `image`, `seen`, `plane`, `slices`, `seconds`, and `labels`: IoU in space of the best-scored box (0 if there is
        none over the threshold), its score, how many boxes there are, and AP50 and AP of the single pictures.
    """
    source = open_case(raw / case["image"])
    # The maps lie as their image does, whatever both headers say.
    masks = label_masks(case["labels"], raw, source.grid)
    if "axes" in case:
        stated = with_axcodes(source.grid, case["axes"])
        masks = {label: _turned(mask, source.grid, stated) for label, mask in masks.items()}
        source.state_axes(case["axes"])
    prompt = ". ".join(masks)
    result = ground_volume(
        source, prompt, case["modality"], grounder, threshold=LOW, untrained_threshold=0, plane=case.get("plane")
    )
    records, detections = single_pictures(masks, result.slice_boxes[result.plane], source.grid, result.plane)
    precision = average_precision(records, detections)
    labels = {}
    for label, mask in masks.items():
        boxes = [box for box in result.boxes if box.label == label and box.score >= THRESHOLD]
        overlap = iou(boxes[0].box_ijk, box_of_mask(mask, source.grid)) if boxes else 0.0
        labels[label] = {
            "iou": overlap,
            "score": boxes[0].score if boxes else None,
            "boxes": len(boxes),
            "AP50": precision[label].ap50,
            "AP": precision[label].ap,
        }
    seen = {"image": _shown_name(case), "seen": bool(case["seen"]), "plane": result.plane}
    back = roundtrip(result, source, THRESHOLD)
    read_back = {} if back is None else {"read_back": back}
    return {**seen, "slices": result.slices, "seconds": round(result.seconds, 2), "labels": labels, **read_back}


def reordered(volume: Volume, order: Sequence[int], signs: Sequence[int]) -> Volume:
    """The same voxels in the same places, stored with other axes."""
    array, affine = volume.array.transpose(order), volume.affine[:, [*order, 3]].copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
            affine[:, axis] *= -1
            array = np.flip(array, axis)
    return replace(volume, array=np.ascontiguousarray(array), affine=affine)


def order_error(case: Mapping[str, Any], raw: Path, grounder: Grounder) -> dict[str, Any]:
    """Ground a volume stored in other orders of its axes.

    Returns:
        `orders`, `boxes`, and `voxels`: the largest distance of a box's corner in the patient from the one in the
        file's own order, over the longest side of a voxel (`None` if a box is missing or another one is there).
    """
    source = open_case(raw / case["image"])
    if "axes" in case:
        source.state_axes(case["axes"])
    prompt = ". ".join(label for values in case["labels"].values() for label in values.values())
    plane = _asked_plane(source, case)
    first = ground_volume(source, prompt, case["modality"], grounder, threshold=THRESHOLD, plane=plane)
    worst = 0.0
    for order, signs in ORDERS:
        other = ground_volume(
            reordered(source.volume(), order, signs),
            prompt,
            case["modality"],
            grounder,
            threshold=THRESHOLD,
            plane=plane,
        )
        pairs = zip(_sorted_corners(first), _sorted_corners(other), strict=False)
        same = [box.label for box in first.boxes] == [box.label for box in other.boxes]
        distances = [float(np.linalg.norm(a - b, axis=1).max()) for a, b in pairs]
        worst = max(worst, *distances, 0.0) if same else float("inf")
    voxels = worst / float(source.grid.spacing.max())
    told = {"image": _shown_name(case), "orders": len(ORDERS), "boxes": len(first.boxes)}
    return {**told, "voxels": voxels if np.isfinite(voxels) else None}


def _shown_name(case: Mapping[str, Any]) -> str:
    return "/".join(Path(case["image"]).parts[-2:])


def _asked_plane(source: VolumeSource, case: Mapping[str, Any]) -> str:
    """The plane that is looked at, whatever the axes' order says."""
    plane: str = case.get("plane") or acquisition_plane(source.grid, source.stacked)
    return plane


def _sorted_corners(result: VolumeResult) -> list[NDArray[np.float64]]:
    """The corners (8, 3) of every box, in an order that does not depend on the file's axes."""
    return [np.array(sorted(tuple(np.round(corner, 3)) for corner in box.corners_lps_mm)) for box in result.boxes]


def long_scan(found: Mapping[str, Any]) -> str:
    """What `tests.benchmarks.bench_volume` has measured, as Markdown."""
    rows = [
        ["slices of 512 x 512", str(found["slices"])],
        ["peak memory of the command, GB", f"{found['peak_bytes'] / 1e9:.2f}"],
        ["slices per second as a volume", f"{found['slices_per_second']:.2f}"],
        ["pictures per second one by one", f"{found['single_slices_per_second']:.2f}"],
        ["ratio", f"{found['ratio']:.1f}"],
    ]
    about = (
        "\n## A long CT\n\nMade by `python -m tests.benchmarks.bench_volume`: a made-up CT through `medglip ground`,"
    )
    about += "\nand a few of its slices one by one, a process each, with the same threads.\n\n"
    return about + table(["", "measured"], rows)


def page(found: Mapping[str, Any], benchmark: Mapping[str, Any] | None = None) -> str:
    """The figures as Markdown."""
    lines = [
        "# Boxes in space", "",
        "Made by `python -m training.studies.volumes`: every volume is asked for the labels of its masks. **IoU** is",
        "that of the box with the best score in space with the box round the mask; **AP50** and **AP** are those of",
        "its single pictures, in per cent. Slices of volumes that are marked were trained on, so that their rows only",
        "show that boxes of pictures become the right boxes in space.", "",
    ]  # fmt: skip
    rows = []
    for case in found["cases"]:
        mark = " (trained on)" if case["seen"] else ""
        rate = case["slices"] / max(case["seconds"], 1e-6)
        mean = float(np.mean([entry["iou"] for entry in case["labels"].values()]))
        rows.append(
            [
                f"**{case['image']}**{mark}, {case['slices']} {case['plane']}, {rate:.1f} per s",
                "",
                f"{mean:.2f}",
                "",
                "",
            ]
        )
        for label, entry in case["labels"].items():
            figures = [f"{entry['iou']:.2f}", percent(entry["AP50"]), percent(entry["AP"])]
            rows.append([label, entry["boxes"], *figures])
    orders = found["orders"]
    off = (
        "not the same" if orders["voxels"] is None else f"off by at most {orders['voxels']:.3f} voxels in the patient"
    )
    after = f"\nStored in {orders['orders']} other orders of axes (mirrored, transposed), the {orders['boxes']} boxes"
    after += f"\nof {orders['image']} are {off}.\n"
    after += "".join(_read_back(case) for case in found["cases"] if "read_back" in case)
    measured = table(["volume: label", "boxes", "IoU in space", "AP50", "AP"], rows) + after
    return "\n".join(lines) + "\n" + measured + (long_scan(benchmark) if benchmark else "")


def _read_back(case: Mapping[str, Any]) -> str:
    """What became of a series' boxes in DICOM."""
    back = case["read_back"]
    lines = [
        "",
        f"{case['image']}: {back['boxes']} boxes, written as a report (SR) and a segmentation (SEG) and read back by",
        f"highdicom. Outlines are at most {back['report_mm']:.4f} mm from their boxes; segments, which are of whole",
        f"voxels, at most {back['segmentation_voxels']:.2f} voxels.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m training.studies.volumes", description=about)
    parser.add_argument("--raw", type=Path, default=Path("../shared/data"), help="folder that the cases lie below")
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--model", help="checkpoint folder or id (default: the embedded one)")
    parser.add_argument("--out", type=Path, help="JSON file; the same as Markdown is written beside it")
    parser.add_argument("--page", action="store_true", help="write the Markdown alone, from the JSON files beside it")
    options = parser.parse_args(argv)
    if options.page and not options.out:
        parser.error("--page needs --out")
    try:
        if options.page:
            return _write_page(json.loads(options.out.read_text(encoding="utf-8")), options.out)
        cases = load_yaml(options.cases.read_text(encoding="utf-8"))["cases"]
        grounder = load(options.model)
        found: dict[str, Any] = {"schema": SCHEMA}
        found["cases"] = [measure_case(case, options.raw, grounder) for case in cases]
        found["orders"] = order_error(cases[0], options.raw, grounder)
    except (MedGlipError, OSError, ValueError, KeyError) as error:
        print(f"error: {one_line(error, 300)}", file=sys.stderr)
        return 2
    if options.out:
        write_text(options.out, json.dumps(found, indent=1, allow_nan=False) + "\n")
        return _write_page(found, options.out)
    print(page(found), end="")
    return 0


def _write_page(found: Mapping[str, Any], out: Path) -> int:
    measured = out.with_name("volume_benchmark.json")
    text = page(found, json.loads(measured.read_text(encoding="utf-8")) if measured.is_file() else None)
    write_text(out.with_suffix(".md"), text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
