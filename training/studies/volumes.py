# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Compare boxes in space with masks: IoU in space and AP of the single slices, per label.

    python -m training.studies.volumes --raw ../shared/data --out docs/volumes.json

grounds the volumes of `volume_cases.yaml` with all labels of their masks, and writes the results as JSON and Markdown.
The Markdown includes `volume_benchmark.json` of the same folder; `--page` writes it alone, from both files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.boxes import iou
from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import MedGlipError
from modeling_medglip.grounding import Grounder, load_grounder
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
# AP counts boxes of single slices from the lower score on; boxes in space count from the default threshold on.
SLICE_THRESHOLD, THRESHOLD = 0.1, 0.3
# Orders and directions of axes in which the first volume is also stored.
ORDERS = (((0, 1, 2), (-1, 1, 1)), ((1, 0, 2), (1, 1, 1)), ((2, 1, 0), (1, -1, 1)), ((2, 0, 1), (-1, -1, -1)))


def open_case(image: Path) -> VolumeSource:
    """Open a volume file, or the only series of a folder.

    Args:
        image (`Path`): the file or folder.

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
    """Read label maps.

    Args:
        files (`Mapping[str, Mapping[int, str]]`): file -> value -> label.
        raw (`Path`): folder of the files.
        grid ([`Volume`]): of the image.

    Returns:
        `dict[str, np.ndarray]`: label -> mask on the canonical grid.

    Raises:
        `MedGlipError`: a map that cannot be read, or of another grid.
    """
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, values in files.items():
        placed = on_grid(read_volume(raw / name), grid)
        if placed is None:
            raise MedGlipError(f"{Path(name).name}: is not on the grid of its volume")
        for value, label in values.items():
            mask = placed.array == value
            if mask.any():
                masks[label] = masks[label] | mask if label in masks else mask
    return masks


def box_of_mask(mask: NDArray[np.bool_], grid: Volume) -> tuple[float, ...]:
    """Return the box (i1, j1, k1, i2, j2, k2) around a mask, in voxels of the file.

    Args:
        mask (`np.ndarray`): on the canonical grid.
        grid ([`Volume`]): of the file.
    """
    voxels = np.argwhere(mask)
    return to_file(grid, voxels.min(axis=0), voxels.max(axis=0) + 1)


def single_slices(
    masks: Mapping[str, NDArray[np.bool_]], slice_boxes: Mapping[str, Sequence[SliceBox]], grid: Volume, plane: str
) -> tuple[list[GroundingRecord], list[Detections]]:
    """Return every slice of a plane with the boxes of its masks, one per label, and what was detected in it.

    Args:
        masks (`Mapping[str, np.ndarray]`): label -> mask on the canonical grid.
        slice_boxes (`Mapping[str, Sequence[SliceBox]]`): label -> boxes of all slices.
        grid ([`Volume`]): of the file.
        plane (`str`): one of `PLANES`.
    """
    lps = to_lps(grid)
    records, detections = [], []
    labels = tuple(sorted(masks))
    for index in range(slice_count(lps, plane)):
        boxes, names = [], []
        for label in labels:
            pixels = extract_slice(Volume(masks[label], lps.affine), plane, index)[0]
            rows, columns = np.nonzero(pixels)
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                names.append(label)
        detected = [(label, box) for label in labels for box in slice_boxes.get(label, ()) if box.index == index]
        detected.sort(key=lambda pair: -pair[1].score)
        height, width = pixels.shape
        records.append(_record(index, boxes, names, labels, (width, height)))
        scores = np.array([box.score for _, box in detected], np.float32)
        corners = np.array([box.box for _, box in detected], np.float32).reshape(-1, 4)
        detections.append(Detections(tuple(label for label, _ in detected), scores, corners))
    return records, detections


def _reoriented(mask: NDArray[np.bool_], old: Volume, new: Volume) -> NDArray[np.bool_]:
    """Convert a mask from the canonical grid of a volume to that of the same voxels with other axes."""
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
    identity = ("mri", "volume", str(index), "volume", "validation")
    return GroundingRecord(*identity, array, tuple(names), labels, size, lambda: nothing)


def measure_case(case: Mapping[str, Any], raw: Path, grounder: Grounder) -> dict[str, Any]:
    """Ground one volume.

    Args:
        case (`Mapping[str, Any]`): entry of `volume_cases.yaml`.
        raw (`Path`): folder of the files.
        grounder (`Grounder`): the model and its processor.

    Returns:
        `image`, `seen`, `plane`, `slices`, and `labels`: IoU in space of the best-scored box (0 if there is
        none over the threshold), its score, how many boxes there are, and AP50 and AP of the single slices.
    """
    source = open_case(raw / case["image"])
    # Label maps have the grid of their image, whatever both headers say.
    masks = label_masks(case["labels"], raw, source.grid)
    if "axes" in case:
        stated = with_axcodes(source.grid, case["axes"])
        masks = {label: _reoriented(mask, source.grid, stated) for label, mask in masks.items()}
        source.state_axes(case["axes"])
    prompt = ". ".join(masks)
    result = ground_volume(
        source,
        prompt,
        case["modality"],
        grounder,
        threshold=SLICE_THRESHOLD,
        untrained_threshold=0,
        plane=case.get("plane"),
    )
    records, detections = single_slices(masks, result.slice_boxes[result.plane], source.grid, result.plane)
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
    return {**seen, "slices": result.slices, "labels": labels, **read_back}


def reordered(volume: Volume, order: Sequence[int], signs: Sequence[int]) -> Volume:
    """Return the same voxels at the same positions, stored with other axes.

    Args:
        volume ([`Volume`]): the volume.
        order (`Sequence[int]`): axis of the volume for each new axis.
        signs (`Sequence[int]`): -1 for axes to flip.
    """
    array, affine = volume.array.transpose(order), volume.affine[:, [*order, 3]].copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
            affine[:, axis] *= -1
            array = np.flip(array, axis)
    return replace(volume, array=np.ascontiguousarray(array), affine=affine)


def order_error(case: Mapping[str, Any], raw: Path, grounder: Grounder) -> dict[str, Any]:
    """Ground a volume stored in other orders of its axes.

    Args:
        case (`Mapping[str, Any]`): entry of `volume_cases.yaml`.
        raw (`Path`): folder of the files.
        grounder (`Grounder`): the model and its processor.

    Returns:
        `orders`, `boxes`, and `voxels`: the largest distance of a box's corner in the patient from the one in the
        file's own order, over the longest side of a voxel (`None` if a box is missing or another one is there).
    """
    source = open_case(raw / case["image"])
    if "axes" in case:
        source.state_axes(case["axes"])
    prompt = ". ".join(label for values in case["labels"].values() for label in values.values())
    plane = _searched_plane(source, case)
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
    summary = {"image": _shown_name(case), "orders": len(ORDERS), "boxes": len(first.boxes)}
    return {**summary, "voxels": voxels if np.isfinite(voxels) else None}


def _shown_name(case: Mapping[str, Any]) -> str:
    return "/".join(Path(case["image"]).parts[-2:])


def _searched_plane(source: VolumeSource, case: Mapping[str, Any]) -> str:
    """Return the plane to search in every order of axes."""
    plane: str = case.get("plane") or acquisition_plane(source.grid, source.stacked)
    return plane


def _sorted_corners(result: VolumeResult) -> list[NDArray[np.float64]]:
    """Return the corners (8, 3) of every box, in an order that does not depend on the file's axes."""
    return [np.array(sorted(tuple(np.round(corner, 3)) for corner in box.corners_lps_mm)) for box in result.boxes]


def long_scan(benchmark: Mapping[str, Any]) -> str:
    """Return the results of `tests.benchmarks.bench_volume` as Markdown.

    Args:
        benchmark (`Mapping[str, Any]`): content of `volume_benchmark.json`.
    """
    variants = benchmark["variants"]
    first = next(iter(variants.values()))["seconds"]
    rows = [
        [
            name,
            f"{one['seconds']:.0f}",
            f"{one['slices_per_second']:.2f}",
            f"{first / one['seconds']:.2f}",
            f"{one['peak_bytes'] / 1e9:.2f}",
        ]
        for name, one in variants.items()
    ]
    about = (
        "\n## A long CT\n\nMade by `python -m tests.benchmarks.bench_volume`: a made-up CT of"
        f" {benchmark['slices']} slices of 512 x 512 pixels\nthrough `medglip ground`, from the start of the process"
        " to its end."
    )
    if benchmark["single_slices_per_second"]:
        about += f" A few of its slices, a process each: {benchmark['single_slices_per_second']:.2f} per second."
    header = ["variant", "seconds", "slices per second", f"times as fast as {next(iter(variants))}", "peak memory, GB"]
    return about + "\n\n" + table(header, rows)


def render_page(content: Mapping[str, Any], benchmark: Mapping[str, Any] | None = None) -> str:
    """Return the results as Markdown.

    Args:
        content (`Mapping[str, Any]`): content of the JSON file.
        benchmark (`Mapping[str, Any]`, *optional*): content of `volume_benchmark.json`.
    """
    lines = [
        "# Boxes in space", "",
        "Made by `python -m training.studies.volumes`: every volume is asked for the labels of its masks. **IoU** is",
        "that of the best-scored box in space with the box around the mask; **AP50** and **AP** are those of its",
        "single slices, in percent. The rows of volumes that were trained on only show that boxes of slices become",
        "the right boxes in space.", "",
    ]  # fmt: skip
    rows = []
    for case in content["cases"]:
        mark = " (trained on)" if case["seen"] else ""
        mean = float(np.mean([entry["iou"] for entry in case["labels"].values()]))
        rows.append(
            [
                f"**{case['image']}**{mark}, {case['slices']} {case['plane']}",
                "",
                f"{mean:.2f}",
                "",
                "",
            ]
        )
        for label, entry in case["labels"].items():
            figures = [f"{entry['iou']:.2f}", percent(entry["AP50"]), percent(entry["AP"])]
            rows.append([label, entry["boxes"], *figures])
    orders = content["orders"]
    off = (
        "not the same" if orders["voxels"] is None else f"off by at most {orders['voxels']:.3f} voxels in the patient"
    )
    after = f"\nStored in {orders['orders']} other orders of axes (flipped, transposed), the {orders['boxes']} boxes"
    after += f"\nof {orders['image']} are {off}.\n"
    after += "".join(_read_back(case) for case in content["cases"] if "read_back" in case)
    measured = table(["volume: label", "boxes", "IoU in space", "AP50", "AP"], rows) + after
    return "\n".join(lines) + "\n" + measured + (long_scan(benchmark) if benchmark else "")


def _read_back(case: Mapping[str, Any]) -> str:
    """Return how a series' boxes survived a round trip through DICOM."""
    back = case["read_back"]
    lines = [
        "",
        f"{case['image']}: {back['boxes']} boxes, written as a report (SR) and a segmentation (SEG) and read back by",
        f"highdicom. Outlines are at most {back['report_mm']:.4f} mm from their boxes; segments, which are of whole",
        f"voxels, at most {back['segmentation_voxels']:.2f} voxels.",
    ]
    return "\n".join(lines) + "\n"


@script_main(also=(KeyError,))
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m training.studies.volumes", description=about)
    parser.add_argument("--raw", type=Path, default=Path("../shared/data"), help="folder that the cases lie below")
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--model", help="checkpoint folder or id (default: the embedded one)")
    parser.add_argument("--out", type=Path, help="JSON file; its folder gets the same as Markdown")
    parser.add_argument("--page", action="store_true", help="write the Markdown alone, from the JSON files")
    options = parser.parse_args(argv)
    if options.page and not options.out:
        parser.error("--page needs --out")
    if options.page:
        return _write_page(json.loads(options.out.read_text(encoding="utf-8")), options.out)
    cases = load_yaml(options.cases.read_text(encoding="utf-8"))["cases"]
    grounder = load_grounder(options.model)
    content: dict[str, Any] = {"schema": SCHEMA}
    content["cases"] = [measure_case(case, options.raw, grounder) for case in cases]
    content["orders"] = order_error(cases[0], options.raw, grounder)
    if options.out:
        write_text(options.out, json.dumps(content, indent=1, allow_nan=False) + "\n")
        return _write_page(content, options.out)
    print(render_page(content), end="")
    return 0


def _write_page(content: Mapping[str, Any], out: Path) -> int:
    measured = out.with_name("volume_benchmark.json")
    text = render_page(content, json.loads(measured.read_text(encoding="utf-8")) if measured.is_file() else None)
    write_text(out.with_suffix(".md"), text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
