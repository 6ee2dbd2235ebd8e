# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The page of results, made from measured files alone: `python -m training.evaluate.report docs/results.json`.

Beside `results.json` (of `training.evaluate`) it takes, where they lie in the same folder, `router.json` (of
`training.fit.router`), `calibration.json` (of `training.evaluate.calibration`), and `benchmark.json`,
`training_benchmark.json` and `embedded.json` (of the benchmarks). No number is typed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_medglip.errors import one_line
from modeling_medglip.outputs.markdown import percent, plain, table, with_interval


BASELINE = "Grounding DINO tiny"
BESIDE = ("router", "benchmark", "embedded", "calibration", "training_benchmark")
TEMPLATES = Path(__file__).parent.parent / "templates"


def render_page(
    results: dict[str, Any],
    router: dict[str, Any] | None = None,
    benchmark: dict[str, Any] | None = None,
    embedded: dict[str, Any] | None = None,
    calibration: dict[str, Any] | None = None,
    training_benchmark: dict[str, Any] | None = None,
) -> str:
    """The whole page `docs/results.md`, where a part that was not measured says so; of other data or weights than the
    embedded checkpoint's what was measured alone."""
    measures = (TEMPLATES / "measures.md").read_text(encoding="utf-8")
    if not results.get("embedded", True):  # results of before November 2026 do not say
        text = (TEMPLATES / "evaluation.md").read_text(encoding="utf-8")
        return text.format(measures=measures, tables=render_markdown(results), **_told(results))
    return (
        (TEMPLATES / "results.md")
        .read_text(encoding="utf-8")
        .format(
            measures=measures,
            tables=render_markdown(results),
            calibration=calibration_table(calibration) if calibration else "Not measured.\n",
            router=router_table(router) if router else "Not measured.\n",
            benchmark=benchmark_table(benchmark) if benchmark else "Not measured.\n",
            training_benchmark=benchmark_table(training_benchmark) if training_benchmark else "Not measured.\n",
            embedded=embedded_table(embedded) if embedded else "Not measured.\n",
        )
    )


def _told(results: Mapping[str, Any]) -> dict[str, str]:
    """What was measured: the checkpoint, and the adapter on it."""
    model, adapter = plain(str(results["model"])), results.get("adapter")
    if adapter is None:
        digest = results["weights_sha256"]
        return {"name": model, "weights": f"weights {digest[:12]}" if digest else "weights as the Hub has them"}
    name = f"{model} with the adapter {plain(adapter['name'])}"
    return {"name": name, "weights": f"adapter {adapter['weights_sha256'][:12]}"}


def render_markdown(results: dict[str, Any]) -> str:
    """All tables of an evaluation: the summary, then labels, wordings and sides of every modality."""
    told = "Averaged with what is found in the mirror image where no label has a side.\n\n"
    told = told if results.get("mirror") else ""
    if broken := results.get("broken"):  # results of before November 2026 do not say
        told += f"Left out, as they cannot be read: {broken}.\n\n"
    if both := results.get("shared_patients"):
        told += f"Patients that are in the training split of the data, too: {both}; the figures flatter.\n\n"
    parts = [
        "## Summary\n\n" + told + summary_table(results),
        f"At the default threshold{_fitted(results)}:\n\n" + threshold_table(results),
    ]
    measured = {name: part for name, part in results["modalities"].items() if "hierarchy" in part}
    if measured:
        parts.append("Other measures:\n\n" + measures_table(measured))
        pairs = hierarchy_table(measured)
        parts += ["Parts and wholes among the boxes over the threshold:\n\n" + pairs] if pairs else []
    for modality, result in results["modalities"].items():
        parts.append(f"## {modality}\n\n" + label_table(result))
        if result["synonyms"]:
            parts.append("Other words for the same thing, and parent terms:\n\n" + wording_table(result))
        if result["side_confusion"]["labels"]:
            parts.append("Best box on the other side:\n\n" + side_table(result))
    return "\n".join(parts)


def _fitted(results: Mapping[str, Any]) -> str:
    own = results.get("embedded", True)
    return ", on the images that the two calibration numbers per expert were fitted on" if own else ""


def summary_table(results: dict[str, Any]) -> str:
    """One row per modality."""
    header = ["modality", "train images", "validation images", "AP50", "AP", "AP50, 30+ train images"]
    header += ["side confusion %", "best score, present", "absent", "foreign", "s per image"]
    rows = []
    for modality, result in results["modalities"].items():
        found = with_interval(result["AP50"], result.get("AP50_interval"))
        row = [modality, result["train_images"], result["images"], found, percent(result["AP"])]
        row += [percent(result["AP50_well_shown"]), percent(result["side_confusion"]["share"])]
        row += [_plain(result["scores"][key]) for key in ("present", "absent", "foreign")]
        rows.append([*row, _plain(result["seconds_per_image"])])
    return table(header, rows)


def threshold_table(results: dict[str, Any]) -> str:
    """One row per modality: what the default threshold gives."""
    header = ["modality", "threshold", "boxes that are right %", "true boxes found %", "wrong boxes per image"]
    rows = []
    for modality, result in results["modalities"].items():
        at = result["at_threshold"]
        row = [modality, at["threshold"], percent(at["precision"]), percent(at["recall"])]
        rows.append([*row, _plain(at["wrong_per_image"])])
    return table(header, rows)


def measures_table(modalities: Mapping[str, Any]) -> str:
    """One row per modality: what COCO's mean AP does not say."""
    header = ["modality", "AP75", "AP small", "medium", "large", "Acc@0.5", "mIoU", "pointing", "FROC"]
    header += ["pictures without anything", "of these without a box %", "calibration error"]
    rows = []
    for modality, result in modalities.items():
        phrases, negatives = result["phrases"], result["negatives"]
        shares = [result["AP75"], *(result["sizes"][size] for size in ("small", "medium", "large"))]
        shares += [phrases["accuracy"], phrases["mean_iou"], phrases["pointing"], result["froc"]["mean"]]
        row = [modality, *map(percent, shares), negatives["pictures"], percent(negatives["clean"])]
        rows.append([*row, _plain(result["calibration_error"])])
    return table(header, rows)


def hierarchy_table(modalities: Mapping[str, Any]) -> str:
    """One row per part and its whole; empty if nowhere both were asked."""
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
    """One row per source and label, best shown labels first within a source."""
    header = ["source: label", "train images", "validation images (boxes)", "AP50", "AP"]
    rows = []
    for source, part in result["sources"].items():
        counts = [part["train_images"], part["images"]]
        rows.append([f"**{plain(source)}**", *counts, percent(part["AP50"]), percent(part["AP"])])
        for label, entry in sorted(part["labels"].items(), key=lambda item: (-item[1]["train_images"], item[0])):
            shown = f"{entry['validation_images']} ({entry['validation_boxes']})"
            rows.append([plain(label), entry["train_images"], shown, percent(entry["AP50"]), percent(entry["AP"])])
    return table(header, rows)


def wording_table(result: dict[str, Any]) -> str:
    """One row per wording."""
    rows = [
        [plain(f"{row['source']}: {row['label']}"), plain(row["wording"]), percent(row["AP50"]), percent(row["AP"])]
        for row in result["synonyms"]
    ]
    return table(["source: label", "asked as", "AP50", "AP"], rows)


def side_table(result: dict[str, Any]) -> str:
    """One row per sided label."""
    entries = result["side_confusion"]["labels"].items()
    rows = [[plain(name), entry["pictures"], entry["wrong"]] for name, entry in entries]
    return table(["label", "pictures with both sides", "wrong"], rows)


def calibration_table(calibration: Mapping[str, Any]) -> str:
    """One row per expert: by how much scores differ from the share of right boxes."""
    keys = ("before", "after", "other_patients")
    rows = [
        [name, entry["pictures"], *(_plain(entry[key], 3) for key in keys)]
        for name, entry in calibration["modalities"].items()
    ]
    return table(["expert", "pictures", "before", "after", "after, fitted to other patients"], rows)


def router_table(router: dict[str, Any]) -> str:
    """One row per modality: accuracy on validation pictures as they are, and on varied copies."""
    as_is, varied = router["validation"], router["validation_augmented"]
    rows = [["all", sum(entry["pictures"] for entry in as_is["by_modality"].values())]]
    rows[0] += [percent(as_is["accuracy"]), percent(varied["accuracy"])]
    for name, entry in as_is["by_modality"].items():
        varied_entry = varied["by_modality"][name]
        rows.append([name, entry["pictures"], percent(entry["accuracy"]), percent(varied_entry["accuracy"])])
    text = table(["modality", "validation pictures", "right %", "right %, cropped, resized, compressed"], rows)
    if "source_left_out" in router:
        text += "\nOn sources that it never saw, one source left out at a time:\n\n"
        text += table(["source", "right %"], [[plain(k), percent(v)] for k, v in router["source_left_out"].items()])
    return text


def benchmark_table(benchmark: dict[str, Any]) -> str:
    """Median milliseconds, peak memory, and the median ratio to `BASELINE` round by round."""
    networks = benchmark["networks"]
    base = networks[BASELINE]["seconds"]
    rows = []
    for name, result in networks.items():
        ratio = statistics.median(own / other for own, other in zip(result["seconds"], base, strict=True))
        milliseconds = f"{statistics.median(result['seconds']) * 1000:.0f}"
        rows.append([name, milliseconds, f"{result['peak_bytes'] / 1e6:.0f}", f"{ratio:.2f}"])
    return table(["network", "milliseconds", "peak memory, MB", f"time / {BASELINE}"], rows)


def embedded_table(embedded: dict[str, Any]) -> str:
    """Seconds to import, to load, and per demo picture."""
    rows = [["importing the package", _plain(embedded["import_seconds"])]]
    rows += [["loading model and processor", _plain(embedded["load_seconds"])]]
    rows += [[f"demo picture {name}", _plain(seconds)] for name, seconds in embedded["picture_seconds"].items()]
    return table(["what", f"seconds, {embedded['threads']} threads"], rows)


def _plain(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def write_page(results_file: Path, page: Path) -> None:
    """Write the page made of `results_file` and of what was measured beside it.

    Raises:
        `OSError`, `ValueError`: a file cannot be read.
    """
    results = _json(results_file)
    if results is None:
        raise FileNotFoundError("no such file")
    beside = [_json(results_file.with_name(f"{name}.json")) for name in BESIDE]
    page.write_text(render_page(results, *beside), encoding="utf-8")


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    name, task = "python -m training.evaluate.report", "Make the page of results."
    parser = argparse.ArgumentParser(prog=name, description=task)
    parser.add_argument("results", type=Path, help="results.json of training.evaluate")
    parser.add_argument("--out", type=Path, help="file to write; default: results.md beside it")
    arguments = parser.parse_args(argv)
    try:
        write_page(arguments.results, arguments.out or arguments.results.with_suffix(".md"))
    except (OSError, ValueError) as error:
        print(f"error: {arguments.results}: {one_line(error, 200)}", file=sys.stderr)
        return 2
    except (KeyError, TypeError, AttributeError):
        print(f"error: {arguments.results}: is no file that training.evaluate writes", file=sys.stderr)
        return 2
    return 0


def screen_table(results: Mapping[str, Any]) -> str:
    """A small table for the screen: images and average precision in per cent of every modality, and of every label
    where there is one modality."""
    rows = [("", "images", "AP50 %", "AP %")]
    parts = results["modalities"]
    for name, found in parts.items():
        labels = found["labels"].items() if len(parts) == 1 else ()
        rows += [
            (label, str(one["validation_images"]), percent(one["AP50"]), percent(one["AP"])) for label, one in labels
        ]
        rows.append((name, str(found["images"]), percent(found["AP50"]), percent(found["AP"])))
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in rows
    )


if __name__ == "__main__":
    raise SystemExit(main())
