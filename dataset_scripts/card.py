# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The data set's README.md: configs and features for `load_dataset`, sources with their licenses, counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from modeling_medglip.outputs.markdown import plain

from .catalog import load_catalog
from .hierarchy import Classes
from .recipe import Recipe
from .schema import COLUMNS, OBJECT_COLUMNS, yaml_features, yaml_label_features
from .statistics import Statistics


def write_card(
    out: Path,
    name: str,
    recipes: Sequence[Recipe],
    classes: Classes,
    statistics: Statistics,
    split_hashes: Mapping[str, str],
    content_hash: str,
) -> None:
    """Write `README.md` into a built set."""
    header = yaml.safe_dump(
        metadata(name, classes, statistics, content_hash), sort_keys=False, allow_unicode=True, width=1000
    )
    text = "\n".join(_body(name, recipes, statistics, split_hashes))
    (out / "README.md").write_text(f"---\n{header}---\n\n{text}\n", encoding="utf-8")


def metadata(name: str, classes: Classes, statistics: Statistics, content_hash: str) -> dict[str, Any]:
    """The YAML header: one config per modality, and `labels`.

    `datasets` caches a local folder by its name and its `dataset_info`. The hash of the content is in there, so that a
    set that was built again is not answered with the older one.
    """
    description = f"Medical images with boxes and masks. Content {content_hash}."
    configs: list[dict[str, Any]] = []
    info: list[dict[str, Any]] = []
    modalities = sorted({modality for modality, _ in statistics.split_images})
    for modality in modalities:
        splits = [split for split in ("train", "validation", "test") if statistics.split_images[modality, split]]
        files = [{"split": split, "path": f"{modality}/{split}-*.parquet"} for split in splits]
        configs.append({"config_name": modality, "data_files": files})
        sizes = [
            {
                "name": split,
                "num_bytes": statistics.split_bytes[modality, split],
                "num_examples": statistics.split_images[modality, split],
            }
            for split in splits
        ]
        features = yaml_features(list(classes.names))
        info.append({"config_name": modality, "description": description, "features": features, "splits": sizes})
    configs.append({"config_name": "labels", "data_files": [{"split": "train", "path": "labels/train-*.parquet"}]})
    labels = {"name": "train", "num_bytes": len(str(classes.rows)), "num_examples": len(classes.rows)}
    features = yaml_label_features()
    info.append({"config_name": "labels", "description": description, "features": features, "splits": [labels]})
    configs[0]["default"] = True
    return {
        "pretty_name": name,
        "license": "other",
        "task_categories": ["object-detection", "zero-shot-object-detection"],
        "tags": ["medical", "visual-grounding", *modalities],
        "configs": configs,
        "dataset_info": info,
    }


def _body(name: str, recipes: Sequence[Recipe], statistics: Statistics, split_hashes: Mapping[str, str]) -> list[str]:
    total = statistics.total()
    first = min((modality for modality, _ in statistics.split_images), default="labels")
    lines = [
        f"# {plain(name)}",
        "",
        "Images of medical imaging with boxes and masks under hierarchical labels, for grounding phrases. Made by",
        "`python -m dataset_scripts.build` of MedGLIP. Research use only; each source keeps its own license, see",
        "below.",
        "",
        f"{total['images']:,} images, {total['boxes']:,} boxes, {total['masks']:,} masks; more in",
        "`statistics/README.md`.",
        "What was turned away, and why: `quality/report.json`. The classes: config `labels`. COCO files: `coco/`.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'images = load_dataset({json.dumps(name)}, "{first}", split="train")',
        'classes = images.features["objects"]["category"].feature.names',
        "```",
        "",
        "An object without a box is absent only if its label is in the `annotated` of the image. Left and right are",
        "the patient's. Cases and patients are pseudonyms.",
        "",
        "| source | modality | license | official split | labels confirmed |",
        "|---|---|---|---|---|",
    ]
    catalog = load_catalog()
    for recipe in recipes:
        known = catalog.get(recipe.source)
        title = plain(recipe.card.get("name") or (known.name if known else recipe.source))
        license_ = plain(recipe.license or "not known")
        official = "yes" if recipe.splits or recipe.layout == "manifest" else "no"
        confirmed = "yes" if recipe.confirmed else "no: not to be published"
        lines.append(f"| {title} | {recipe.modality} | {license_} | {official} | {confirmed} |")
    lines += ["", "Patients of each split (hash): " + ", ".join(f"{k} `{v}`" for k, v in split_hashes.items()) + "."]
    lines += ["", "## Columns", "", "| column | holds |", "|---|---|"]
    lines += [f"| `{column}` | {entry[2]} |" for column, entry in COLUMNS.items()]
    lines += [f"| `objects.{column}` | {entry[2]} |" for column, entry in OBJECT_COLUMNS.items()]
    return lines


__all__ = ["metadata", "write_card"]
