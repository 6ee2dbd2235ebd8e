# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Merge the finished cases into the data set: duplicates, splits, numbers, COCO, Parquet, labels, report, card.

Two passes over the `case.json` files in a fixed order: the first for what concerns all of them (duplicates, splits,
open labels), the second writes. Memory holds a few numbers per image, never images or masks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modeling_medglip.outputs.files import to_json, write_text

from .card import write_card
from .clinical import FACTS
from .coco_writer import CocoWriter
from .hierarchy import Classes, make_classes
from .parquet_writer import ParquetWriter
from .previews import write_previews
from .process import CASE_FILE
from .provenance import write_provenance
from .quality import EXPECTED, RULES, count_rejections
from .recipe import Recipe
from .records import Rejection
from .schema import arrow_schema, label_schema
from .splits import Patient, SplitImage, Splits, make_splits, split_hash
from .statistics import Statistics


MARKER = ".medglip-dataset"
# Rules whose value is a name out of a file or its headers, which may be that of a person: not in the public report.
TEXT_OF_FILES = frozenset({"undefined_label"})
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass(frozen=True)
class Summary:
    """What a merge wrote.

    Attributes:
        images (`int`): Number of images.
        annotations (`int`): Number of annotations.
        content_hash (`str`): Hash of all rows and pixels.
        rejected (`dict[str, dict[str, int]]`): Rule -> source -> number of rejections.
    """

    images: int
    annotations: int
    content_hash: str
    rejected: dict[str, dict[str, int]]

    @property
    def failed(self) -> bool:
        """Whether something was rejected that should have been usable."""
        return any(rule not in EXPECTED for rule in self.rejected)


@dataclass(frozen=True)
class _Plan:
    """The results of the first pass."""

    splits: Splits
    dropped: set[tuple[str, str]]
    classes: Classes
    rejections: list[Rejection]
    pseudonyms: dict[Patient, str]

    def public_name(self, patient: Patient) -> str:
        """Return a patient as reports name it."""
        return f"{patient[0]}/{self.pseudonyms[patient]}"


def merge(
    folders: Sequence[Path],
    recipes: Sequence[Recipe],
    out: Path,
    listing_rejections: Sequence[Rejection] = (),
    seed: int = 0,
    name: str = "med-glip",
    progress: Progress | None = None,
    previews: bool = False,
    private: Path | None = None,
) -> Summary:
    """Write the data set.

    Args:
        folders (`Sequence[Path]`): The finished cases, in the order that decides all numbers.
        recipes (`Sequence[Recipe]`): Of all sources.
        out (`Path`): The folder to write; one that a merge wrote before is replaced as a whole.
        listing_rejections (`Sequence[Rejection]`, *optional*): What the readers rejected.
        seed (`int`, *optional*, defaults to 0): For splits that no source decides.
        name (`str`, *optional*, defaults to `"med-glip"`): Name of the repository, for the card.
        progress (`Callable`, *optional*): Wraps an iterable and shows its progress.
        previews (`bool`, *optional*, defaults to `False`): Draw plots and contact sheets.
        private (`Path`, *optional*): File for all rows of the report with the texts that the public one leaves out.

    Raises:
        `ValueError`: `out` holds something else.
    """
    require_built_set(out)
    watch = progress or (lambda items, text, total: items)
    plan = _first_pass(watch(_cases(folders), "indexing", len(folders)), recipes, seed, listing_rejections)
    if private is not None:
        write_text(private, "".join(json.dumps(asdict(row)) + "\n" for row in plan.rejections))
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    summary, statistics = _write(watch(_cases(folders), "writing", len(folders)), plan, recipes, new)
    _write_labels(new, plan.classes)
    _write_report(new, plan, recipes, summary)
    statistics.write(new / "statistics")
    hashes = _split_hashes(plan.splits)
    write_card(new, name, recipes, plan.classes, statistics, hashes, summary.content_hash)
    write_provenance(new, recipes, statistics, hashes, summary.content_hash)
    if previews and summary.images:
        write_previews(new)
    (new / MARKER).write_text("medglip/dataset@1\n", encoding="utf-8")
    _swap(new, out)
    return summary


def require_built_set(out: Path) -> None:
    """Raise `ValueError` unless a folder is empty, not there, or a set that was merged before."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out.name}: is a file: choose a folder")
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise ValueError(f"{out.name}: is not empty and was not made by this command: choose another folder")


def _swap(new: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(out, old)
    os.replace(new, out)
    shutil.rmtree(old, ignore_errors=True)


def _cases(folders: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for folder in folders:
        yield folder, json.loads((folder / CASE_FILE).read_text(encoding="utf-8"))


# First pass ----------------------------------------------------------------------------------------------------------


def _first_pass(
    cases: Iterable[tuple[Path, dict[str, Any]]],
    recipes: Sequence[Recipe],
    seed: int,
    listing_rejections: Sequence[Rejection],
) -> _Plan:
    families = {recipe.source: recipe.family for recipe in recipes}
    of_family = [recipe.family for recipe in recipes]
    shared = frozenset(family for family in of_family if of_family.count(family) > 1)
    seen: list[SplitImage] = []
    known: dict[tuple[str, str], str] = {}
    dropped: set[tuple[str, str]] = set()
    open_labels: set[str] = set()
    rejections = [*listing_rejections]
    pseudonyms: dict[Patient, str] = {}
    for _, content in cases:
        source, case = content["source"], content["case"]
        rejections += [Rejection(**row) for row in content["rejected"]]
        for image in content["images"]:
            first = known.setdefault((source, _content_hash(image)), case)
            if first != case:
                dropped.add((case, image["file"]))
                rejections.append(Rejection(source, case, _item(image), "exact_duplicate", f"of {first}"))
                continue
            open_labels.update(a["name"] for a in image["annotations"] if a["label_id"] is None)
            patient = (families[source], content["split_key"])
            pseudonyms[patient] = content["patient"]
            flat = image["geometry"] is None
            seen.append(SplitImage(patient, content["split"], image["sha256"], image["perceptual_hash"], flat))
    splits = make_splits(seen, seed, shared)
    return _Plan(splits, dropped, make_classes(open_labels), rejections, pseudonyms)


def _content_hash(image: dict[str, Any]) -> str:
    """Hash the pixels and annotations of an image; images with other annotations are not duplicates."""
    annotations = sorted((a["source_label"], json.dumps(a["segmentation"] or a["bbox"])) for a in image["annotations"])
    return hashlib.sha256(f"{image['sha256']} {annotations}".encode()).hexdigest()


def _item(image: dict[str, Any]) -> str:
    return "" if image["plane"] is None else f"{image['plane']} {image['index']}"


# Second pass ---------------------------------------------------------------------------------------------------------


def _write(
    cases: Iterable[tuple[Path, dict[str, Any]]], plan: _Plan, recipes: Sequence[Recipe], out: Path
) -> tuple[Summary, Statistics]:
    families = {recipe.source: recipe.family for recipe in recipes}
    licenses = {recipe.source: recipe.license for recipe in recipes}
    numbers = {name: number for number, name in enumerate(plan.classes.names)}
    statistics, content_hash = Statistics(), hashlib.sha256()
    image_count = annotation_count = 0
    writers: dict[tuple[str, str], tuple[CocoWriter, ParquetWriter]] = {}
    with ExitStack() as stack:
        for folder, content in cases:
            patient = (families[content["source"]], content["split_key"])
            for image in content["images"]:
                if (content["case"], image["file"]) in plan.dropped:
                    continue
                split, modality = plan.splits.split[patient], content["modality"]
                if (modality, split) not in writers:
                    writers[modality, split] = _open_writers(out, modality, split, plan.classes, stack)
                coco, parquet = writers[modality, split]
                image_count += 1
                first = annotation_count + 1
                annotation_count += len(image["annotations"])
                row = _row(image, content, image_count, first, numbers, patient in plan.splits.subset)
                data = (folder / image["file"]).read_bytes()
                coco.add(
                    _coco_image(row, image, licenses[content["source"]]),
                    _coco_annotations(row, image),
                    folder / image["file"],
                )
                parquet.add({**row, "image": {"bytes": data, "path": image["file"]}}, len(data))
                content_hash.update(json.dumps([split, row], separators=(",", ":")).encode())
                statistics.add(content, image, split, len(data))
    summary = Summary(image_count, annotation_count, content_hash.hexdigest()[:16], count_rejections(plan.rejections))
    return summary, statistics


def _open_writers(
    out: Path, modality: str, split: str, classes: Classes, stack: ExitStack
) -> tuple[CocoWriter, ParquetWriter]:
    info = {"description": f"MedGLIP grounding data, {modality}, {split}", "version": "1"}
    coco = CocoWriter(out / "coco" / modality, split, classes, info)
    parquet = ParquetWriter(out / modality, split, arrow_schema())
    stack.callback(coco.close)
    stack.callback(parquet.close)
    return coco, parquet


def _row(
    image: dict[str, Any], content: dict[str, Any], image_id: int, first: int, numbers: dict[str, int], subset: bool
) -> dict[str, Any]:
    """Return one row of the Parquet files, without the image."""
    annotations = image["annotations"]
    geometry = image["geometry"] or {"origin": [], "right": [], "down": []}

    def column(key: str, empty: Any = "") -> list[Any]:
        return [empty if entry[key] is None else entry[key] for entry in annotations]

    objects = {
        "id": list(range(first, first + len(annotations))),
        "bbox": column("bbox"),
        "category": [numbers[entry["name"]] for entry in annotations],
        "label_id": column("label_id"),
        "source_label": column("source_label"),
        "anatomy": column("category"),
        "region": column("region"),
        "granularity": column("granularity"),
        "side": column("side"),
        "area": column("area"),
        "area_fraction": column("area_fraction"),
        "segmentation": [(entry["segmentation"] or {}).get("counts", "") for entry in annotations],
        "component_count": [len(entry["components"]) for entry in annotations],
        "instance_index": column("instance_index"),
        "instance_count": column("instance_count"),
        "parent_label": column("parent_label"),
        "parent_box": column("parent_box", []),
    }
    return {
        "image_id": image_id,
        **{key: content[key] for key in ("source", "modality", "case", "patient")},
        **{key: image[key] for key in ("width", "height", "annotated", "sha256")},
        "plane": image["plane"] or "",
        "index": -1 if image["index"] is None else image["index"],
        **geometry,
        **{fact: content["clinical"].get(fact, "") for fact in FACTS},
        "window": image["window"] or [],
        "subset_10": subset,
        "objects": objects,
    }


def _coco_image(row: dict[str, Any], image: dict[str, Any], license_: str | None) -> dict[str, Any]:
    keys = ("source", "case", "patient", "plane", "index", "origin", "right", "down", "window", "annotated", "sha256")
    values = {key: row[key] for key in (*keys, *FACTS)}
    return {
        "id": row["image_id"],
        "file_name": image["file"],
        "width": row["width"],
        "height": row["height"],
        **{key: value for key, value in values.items() if value not in ("", [], -1)},
        "perceptual_hash": image["perceptual_hash"],
        "subset_10": row["subset_10"],
        "license": license_ or "not known",
    }


def _coco_annotations(row: dict[str, Any], image: dict[str, Any]) -> list[dict[str, Any]]:
    annotations = []
    for number, category, entry in zip(
        row["objects"]["id"], row["objects"]["category"], image["annotations"], strict=True
    ):
        values = {key: value for key, value in entry.items() if key not in ("category", "name") and value is not None}
        if entry["segmentation"] is None:  # pycocotools needs one: the outline of the box, and a key that says so
            values |= {"segmentation": [_outline(entry["bbox"])], "box_only": True}
        base = {"id": number, "image_id": row["image_id"], "category_id": category, "iscrowd": 0}
        annotations.append({**base, **values, "anatomy": entry["category"]})
    return annotations


def _outline(box: list[float]) -> list[float]:
    """Return a box [x, y, width, height] as a polygon."""
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


# Beside the data -----------------------------------------------------------------------------------------------------


def _write_labels(out: Path, classes: Classes) -> None:
    folder = out / "labels"
    folder.mkdir()
    table = pa.Table.from_pylist([dict(row) for row in classes.rows], schema=label_schema())
    pq.write_table(table, folder / "train-00000-of-00001.parquet", compression="zstd")
    (out / "label_hierarchy.json").write_text(to_json({"labels": list(classes.rows)}), encoding="utf-8")


def _write_report(out: Path, plan: _Plan, recipes: Sequence[Recipe], summary: Summary) -> None:
    """Write `quality/report.json` (counts by rule and source) and `quality/rows.jsonl` (rows without file names)."""
    folder = out / "quality"
    folder.mkdir()
    splits = plan.splits
    content = {
        "schema": "medglip/quality@1",
        "rules": {rule: {"tier": RULES[rule][0], "meaning": RULES[rule][1]} for rule in summary.rejected},
        "rejected": summary.rejected,
        "patients_that_share_pictures": [
            {"first": plan.public_name(first), "second": plan.public_name(second), "why": why}
            for first, second, why in splits.joined
        ],
        "patients_moved_out_of_their_official_split": [plan.public_name(patient) for patient in splits.moved],
        "label_maps_not_confirmed": [recipe.source for recipe in recipes if not recipe.confirmed],
        "images": summary.images,
        "annotations": summary.annotations,
    }
    (folder / "report.json").write_text(to_json(content), encoding="utf-8")
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
        for rejection in plan.rejections:
            row = {key: value for key, value in asdict(rejection).items() if key != "file"}
            if rejection.rule in TEXT_OF_FILES:
                row["value"] = ""
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _split_hashes(splits: Splits) -> dict[str, str]:
    names = sorted(set(splits.split.values()))
    hashes = {name: split_hash(patient for patient, split in splits.split.items() if split == name) for name in names}
    return {**hashes, "subset_10": split_hash(splits.subset)}


__all__ = ["Summary", "merge", "require_built_set"]
