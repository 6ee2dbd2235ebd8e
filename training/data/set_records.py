# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Make records of a data set that `dataset_scripts.build` wrote: a folder, or an id on the Hub."""

from __future__ import annotations

import hashlib
import io
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.errors import one_line
from modeling_medglip.io.coco_shapes import Segmentation, parse_segmentation

from .coco_records import decode_upright
from .outlines import outlines_by_box
from .records import SPLITS, GroundingRecord, SourceSettingsTable, as_boxes, join_lungs, with_channels, without_unknown


HINT = (
    "give a folder that dataset_scripts.build made, or one with a whole COCO file, or with one per split that has its "
    "name (train.json, val.json)"
)


def set_records(data: Path | str, modalities: list[str], settings: SourceSettingsTable) -> list[GroundingRecord]:
    """Return all records of some modalities.

    Args:
        data (`Path` or `str`): folder of the data set, or its id on the Hub.
        modalities (`list[str]`): of `MODALITIES`.
        settings (`SourceSettingsTable`): how training treats the sources.

    Raises:
        `ValueError`: no data set of that name, or one without these modalities.
    """
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    folder = Path(data)
    if not folder.exists() and (folder.is_absolute() or str(data).count("/") != 1 or str(data).startswith(".")):
        raise ValueError(f"{data}: no such folder; give a built data set, a COCO JSON file, or an id on the Hub")
    try:
        known = datasets.get_dataset_config_names(str(data))
    except Exception as error:  # the library raises nearly anything for other content
        raise ValueError(f"{data}: cannot be read as a data set ({type(error).__name__}): {HINT}") from None
    if any(folder.glob("*.json")) and not any(folder.rglob("*.parquet")):
        raise ValueError(f"{data}: {HINT}")  # the library takes any JSON for a table
    records: list[GroundingRecord] = []
    cache_dir = _cache_dir(folder) if folder.is_dir() else None
    for modality in modalities:
        if modality in known:
            for split, table in _tables(data, modality, cache_dir).items():
                if split in SPLITS and "objects" in table.column_names:
                    records += _split_records(table, modality, split, settings)
    return records


def _tables(data: Path | str, modality: str, cache_dir: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(str(data), modality, cache_dir=cache_dir)
    except Exception as error:  # as above: damaged tables, other counts than the card's, a full disk
        reason = one_line(f"{type(error).__name__} {error}", 120)
        raise ValueError(f"{data}: {modality} cannot be read: build the data set again ({reason})") from None


def _cache_dir(folder: Path) -> str:
    """Return the cache folder of a data set, which depends on its path and on the sizes and times of its files.

    The library itself knows a folder by its last name and its card: a data set that was built again in the same folder
    would get its older rows.
    """
    import datasets

    digest = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogatepass"))
    for path in sorted(folder.rglob("*.parquet")):
        status = path.stat()
        entry = f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}"
        digest.update(entry.encode("utf-8", "surrogatepass"))
    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"medglip_{digest.hexdigest()[:32]}")


def _split_records(table: Any, modality: str, split: str, settings: SourceSettingsTable) -> list[GroundingRecord]:
    import datasets

    images = table.cast_column("image", datasets.Image(decode=False))
    names = _category_names(table)
    rows = table.remove_columns("image")
    vocabulary: dict[str, set[str]] = {}
    for source, annotated, objects in zip(rows["source"], rows["annotated"], rows["objects"], strict=True):
        vocabulary.setdefault(source, set()).update(annotated, (names[number] for number in objects["category"]))
    records: list[GroundingRecord] = []
    for number, row in enumerate(rows):
        labels = vocabulary[row["source"]]
        record = _record(
            row,
            _Pixels(images, number, (int(row["width"]), int(row["height"]))),
            modality,
            split,
            names,
            settings,
            labels,
        )
        records += with_channels(join_lungs(record, labels))
    return records


def _category_names(table: Any) -> list[str]:
    feature = table.features["objects"]
    category = feature["category"] if isinstance(feature, dict) else feature.feature["category"]
    return list(category.feature.names)


@dataclass(frozen=True)
class _Pixels:
    """Decodes one image of a table; CT of 16 bits becomes Hounsfield units."""

    table: Any
    number: int
    size: tuple[int, int]
    window: tuple[float, float] | None = None

    def __call__(self) -> NDArray:
        content = (self.table[self.number]["image"] or {}).get("bytes")
        if not content:
            raise ValueError("has no image")
        pixels = decode_upright(io.BytesIO(content), self.size)
        if self.window is None:
            return pixels
        low, high = self.window
        return np.rint(low + pixels * ((high - low) / 65535)).clip(-32768, 32767).astype(np.int16)


def _record(
    row: dict[str, Any],
    pixels: _Pixels,
    modality: str,
    split: str,
    names: list[str],
    settings: SourceSettingsTable,
    vocabulary: set[str],
) -> GroundingRecord:
    size, objects = (row["width"], row["height"]), row["objects"]
    source_settings = settings.of(modality, row["source"], vocabulary)
    # Of 8 bits the values beyond the window are lost; such images are treated as any other of a known window.
    deep = modality == "ct" and len(row["window"]) == 2 and row["window"][1] - row["window"][0] > 60000
    # The builder drops a label from `annotated` where it refused some of its annotations, and writes the other boxes.
    all_boxes = as_boxes(objects["bbox"], size)
    labels, boxes, annotated = without_unknown(
        [names[category] for category in objects["category"]], all_boxes, row["annotated"]
    )
    return GroundingRecord(
        modality=modality,
        source=row["source"],
        image_id=f"{row['case']} {row['plane']} {row['index']}" if row["plane"] else row["case"],
        patient=row["patient"],
        split=split,
        boxes=boxes,
        labels=labels,
        annotated=annotated,
        size=size,
        loader=replace(pixels, window=tuple(row["window"])) if deep else pixels,
        is_hounsfield=deep,
        source_labels=tuple(sorted(vocabulary)),
        settings=source_settings,
        weight=source_settings.weight if split == "train" else 1.0,
        in_subset=bool(row["subset_10"]),
        outlines=outlines_by_box(all_boxes, _shapes(objects, size)) if split == "train" else {},
    )


def _shapes(objects: dict[str, Any], size: tuple[int, int]) -> list[Segmentation | None]:
    """Return the masks of a row's objects, `None` where there is none."""
    entries = [
        {"size": [size[1], size[0]], "counts": counts} if counts else None for counts in objects["segmentation"]
    ]
    return [parse_segmentation(entry, size) for entry in entries]
