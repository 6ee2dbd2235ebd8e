# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Tables of measured figures in Markdown, for pages and model cards."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from modeling_medglip.outputs.markdown import percent, plain, table, with_interval


BASELINE = "Grounding DINO tiny"
LABEL_COLUMNS = ("training images", "validation images (boxes)", "AP50", "AP")


def summary_table(modalities: Mapping[str, Any], details: bool = True) -> str:
    """Return a table with one row per modality.

    Args:
        modalities (`Mapping`): Modality -> its figures, as `training.evaluate` writes them.
        details (`bool`, *optional*, defaults to `True`): Add columns on rare labels, sides, best scores and seconds.
    """
    header = ["modality", "training images", "validation images", "AP50 (95 % interval)", "AP (95 % interval)"]
    if details:
        header += ["AP50, 30+ training images", "side confusion %", "best score, present", "absent", "foreign"]
        header += ["s per image"]
    rows = []
    for modality, result in modalities.items():
        scores = [with_interval(result[key], result.get(f"{key}_interval")) for key in ("AP50", "AP")]
        row = [modality, result["train_images"], result["images"], *scores]
        if details:
            row += [percent(result["AP50_well_shown"]), percent(result["side_confusion"]["share"])]
            row += [_plain(result["scores"][key]) for key in ("present", "absent", "foreign")]
            row += [_plain(result["seconds_per_image"])]
        rows.append(row)
    return table(header, rows)


def threshold_table(modalities: Mapping[str, Any]) -> str:
    """Return precision and recall at the default threshold, one row per modality."""
    header = ["modality", "threshold", "boxes that are right %", "true boxes found %", "wrong boxes per image"]
    rows = []
    for modality, result in modalities.items():
        at = result["at_threshold"]
        row = [modality, at["threshold"], percent(at["precision"]), percent(at["recall"])]
        rows.append([*row, _plain(at["wrong_per_image"])])
    return table(header, rows)


def measures_table(modalities: Mapping[str, Any]) -> str:
    """Return the measures besides COCO's mean AP, one row per modality."""
    header = ["modality", "AP75", "AP small", "medium", "large", "Acc@0.5", "mIoU", "pointing", "FROC"]
    header += ["images without anything", "of these without a box %", "calibration error"]
    rows = []
    for modality, result in modalities.items():
        phrases, negatives = result["phrases"], result["negatives"]
        shares = [result["AP75"], *(result["sizes"][size] for size in ("small", "medium", "large"))]
        shares += [phrases["accuracy"], phrases["mean_iou"], phrases["pointing"], result["froc"]["mean"]]
        row = [modality, *map(percent, shares), negatives["images"], percent(negatives["clean"])]
        rows.append([*row, _plain(result["calibration_error"])])
    return table(header, rows)


def hierarchy_table(modalities: Mapping[str, Any]) -> str:
    """Return a table with one row per part and its whole, empty if no prompt has both."""
    header = ["part: whole", "boxes of the part", "inside the whole %", "of the true boxes %", "whole found as well %"]
    rows = [
        [
            f"{plain(name)}, {plain(pair)}",
            row["boxes"],
            *(percent(row[key]) for key in ("inside", "true_inside", "parent_found")),
        ]
        for name, result in modalities.items()
        for pair, row in result["hierarchy"]["pairs"].items()
        if row["boxes"]
    ]
    return table(header, rows) if rows else ""


def label_table(result: dict[str, Any]) -> str:
    """Return a table with one row per source and label, most training images first within a source."""
    rows = []
    for source, part in result["sources"].items():
        counts = [part["train_images"], part["images"]]
        rows.append([f"**{plain(source)}**", *counts, percent(part["AP50"]), percent(part["AP"])])
        labels = sorted(part["labels"].items(), key=lambda item: (-item[1]["train_images"], item[0]))
        rows += [_label_row(plain(label), entry) for label, entry in labels]
    return table(["source: label", *LABEL_COLUMNS], rows)


def best_label_table(modalities: Mapping[str, Any], least_images: int) -> str:
    """Return a table of the labels with enough training images, best first within a modality.

    Args:
        modalities (`Mapping`): Modality -> its figures, as `training.evaluate` writes them.
        least_images (`int`): Labels with fewer training images are left out.
    """
    rows = []
    for modality, result in modalities.items():
        entries = [item for item in result["labels"].items() if item[1]["train_images"] >= least_images]
        entries.sort(key=lambda item: -(item[1]["AP50"] or 0))
        rows += [_label_row(f"{modality}: {plain(label)}", entry) for label, entry in entries]
    return table(["label", *LABEL_COLUMNS], rows)


def _label_row(name: str, entry: Mapping[str, Any]) -> list[Any]:
    """Return the cells of `LABEL_COLUMNS` after the name of a label."""
    shown = f"{entry['validation_images']} ({entry['validation_boxes']})"
    return [name, entry["train_images"], shown, percent(entry["AP50"]), percent(entry["AP"])]


def wording_table(result: dict[str, Any]) -> str:
    """Return a table with one row per wording."""
    rows = [
        [plain(f"{row['source']}: {row['label']}"), plain(row["wording"]), percent(row["AP50"]), percent(row["AP"])]
        for row in result["synonyms"]
    ]
    return table(["source: label", "asked as", "AP50", "AP"], rows)


def side_table(result: dict[str, Any]) -> str:
    """Return a table with one row per label with a side."""
    entries = result["side_confusion"]["labels"].items()
    rows = [[plain(name), entry["images"], entry["wrong"]] for name, entry in entries]
    return table(["label", "images with both sides", "wrong"], rows)


def calibration_table(calibration: Mapping[str, Any]) -> str:
    """Return the calibration error of every expert, and which images it is of."""
    keys = ("before", "after", "other_patients")
    rows = [
        [name, entry["images"], *(_plain(entry[key], 3) for key in keys)]
        for name, entry in calibration["modalities"].items()
    ]
    text = table(["expert", "images", "before", "after", "after, fitted to other patients"], rows)
    if copies := max((entry.get("copies", 0) for entry in calibration["modalities"].values()), default=0):
        text += (
            f"\nThese images are changed copies, {copies} of each validation image, asked as a training recipe asks.\n"
        )
    return text


def router_table(router: Mapping[str, Any]) -> str:
    """Return the accuracy of the router on validation images and on augmented copies, one row per modality."""
    as_is, varied = router["validation"], router["validation_augmented"]
    rows = [["all", sum(entry["images"] for entry in as_is["by_modality"].values())]]
    rows[0] += [percent(as_is["accuracy"]), percent(varied["accuracy"])]
    for name, entry in as_is["by_modality"].items():
        varied_entry = varied["by_modality"][name]
        rows.append([name, entry["images"], percent(entry["accuracy"]), percent(varied_entry["accuracy"])])
    text = table(["modality", "validation images", "right %", "right %, cropped, resized, compressed"], rows)
    if "source_left_out" in router:
        varied = router.get("source_left_out_augmented", {})
        text += "\nOn sources that it never saw, one source left out at a time:\n\n"
        rows = [
            [plain(name), percent(share), percent(varied[name]) if name in varied else "-"]
            for name, share in router["source_left_out"].items()
        ]
        text += table(["source", "right %", "right %, varied"], rows)
    if "calibration" in router:
        text += _router_calibration(router["calibration"])
    return text


def _router_calibration(calibration: Mapping[str, Any]) -> str:
    """Return the calibration of the router on sources left out."""
    before, after = (calibration[f"expected_calibration_error{key}"] for key in ("_before", ""))
    text = (
        f"\nIts probabilities on these sources are off by {percent(after)} points on average (before the temperature "
        f"of {calibration['temperature']:.2f}: {percent(before)}). Below {calibration['level']:.2f}, in "
        f"{percent(calibration['unsure'])} % of the images, a choice is unsure; of the others "
        f"{percent(calibration['accuracy_of_sure'])} % are right.\n\n"
    )
    rows = [[percent(row[key]) for key in ("share", "probability", "accuracy")] for row in calibration["bins"]]
    return text + table(["images %", "mean probability %", "right %"], rows)


def benchmark_table(benchmark: Mapping[str, Any]) -> str:
    """Return median milliseconds, peak memory, and the median ratio to `BASELINE` by round."""
    networks = benchmark["networks"]
    base = networks[BASELINE]["seconds"]
    rows = []
    for name, result in networks.items():
        ratio = statistics.median(seconds / other for seconds, other in zip(result["seconds"], base, strict=True))
        milliseconds = f"{statistics.median(result['seconds']) * 1000:.0f}"
        rows.append([name, milliseconds, f"{result['peak_bytes'] / 1e6:.0f}", f"{ratio:.2f}"])
    return table(["network", "milliseconds", "peak memory, MB", f"time / {BASELINE}"], rows)


def screen_table(results: Mapping[str, Any]) -> str:
    """Return a small table for the screen: images and average precision in per cent of every modality.

    Of a single modality it has every label, too.
    """
    rows = [("", "images", "AP50 %", "AP %")]
    parts = results["modalities"]
    for name, result in parts.items():
        labels = result["labels"].items() if len(parts) == 1 else ()
        rows += [
            (label, str(one["validation_images"]), percent(one["AP50"]), percent(one["AP"])) for label, one in labels
        ]
        rows.append((name, str(result["images"]), percent(result["AP50"]), percent(result["AP"])))
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in rows
    )


def _plain(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
