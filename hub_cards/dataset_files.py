# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The data set's repository: the pictures of sources that may be passed on, and the recipes alone of the others.

Works on what `dataset_scripts.build` left, file by file and row group by row group; no picture is opened.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modeling_medglip.results import to_json, write_text

from .dataset_card import render_dataset_card
from .front_matter import split
from .licences import why_not
from .repository import Repository


SOURCES = "sources.json"
SPLITS = ("train", "validation", "test")


@dataclass
class Counts:
    """What is in the published part.

    Attributes:
        images, boxes, masks: ("modality" | "source" | "region" | "label", value) -> number.
        splits: (modality, split) -> [pictures, bytes]. patients: split -> set of pseudonyms.
    """

    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    boxes: Counter[tuple[str, str]] = field(default_factory=Counter)
    masks: Counter[tuple[str, str]] = field(default_factory=Counter)
    splits: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    patients: dict[str, set[str]] = field(default_factory=dict)
    content: Any = field(default_factory=hashlib.sha256)

    def add(self, row: Mapping[str, Any], modality: str, part: str, names: Sequence[str]) -> None:
        """Count one row of a Parquet file, whose picture is left out but for its size."""
        counted = self.splits.setdefault((modality, part), [0, 0])
        counted[0] += 1
        counted[1] += int(row["bytes"])
        self.patients.setdefault(part, set()).add(f"{row['source']}\0{row['patient']}")
        self.content.update(f"{part} {row['image_id']} {row['sha256']}".encode())
        keys = [("modality", modality), ("source", str(row["source"]))]
        seen = set(keys)
        objects = row["objects"]
        for number, region, mask in zip(objects["category"], objects["region"], objects["segmentation"], strict=True):
            own = [*keys, ("label", names[number]), ("region", region or "outside the taxonomy")]
            seen |= set(own)
            self.boxes.update(own)
            self.masks.update(own if mask else ())
        self.images.update(seen)

    def split_hashes(self) -> dict[str, str]:
        """Short hash of the patients of each split."""
        return {
            part: hashlib.sha256("\n".join(sorted(patients)).encode()).hexdigest()[:16]
            for part, patients in sorted(self.patients.items())
        }


def stage_dataset(
    built: Path, repo: str, folder: Path, private: bool = True, gated: str = "no", with_all: bool = False
) -> Repository:
    """Write the data set's repository into an empty folder.

    Args:
        built: a folder that `dataset_scripts.build` made. repo: `owner/name`.
        with_all: take every source, whatever its licence: for an archive that only its owners see.

    Raises:
        `ValueError`: no built set, no source that may be passed on, or `with_all` for something public.
    """
    if with_all and not private:
        raise ValueError("--all-sources is for private repositories only: some licences do not allow passing on")
    listed = _read(built / SOURCES, built)["sources"]
    shared, withheld = gate(listed)
    if with_all:
        shared, withheld = [*shared, *(row for row, _ in withheld)], []
    if not shared:
        raise ValueError(f"{built.name}: no source of it may be passed on")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    header, _ = split((built / "README.md").read_text(encoding="utf-8"))
    counts = _copy(built, folder, {row["source"] for row in shared}, header)
    shutil.copytree(built / "labels", folder / "labels")
    shutil.copyfile(built / "label_hierarchy.json", folder / "label_hierarchy.json")
    quality = _quality(built, folder, {row["source"] for row in shared})
    _write_recipes(folder, [*shared, *(row for row, _ in withheld)])
    write_text(
        folder / "README.md", render_dataset_card(repo, header, counts, shared, withheld, quality, gated != "no")
    )
    note = f"{len(shared)} sources with pictures, {len(withheld)} as recipes only"
    return Repository(repo, "dataset", folder, "per source", private, gated, notes=[note])


def gate(listed: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[tuple[Mapping[str, Any], str]]]:
    """Sources whose pictures go, and the others with the reason."""
    reasons = [(row, why_not(row.get("license"), row.get("access"), bool(row.get("confirmed")))) for row in listed]
    return [row for row, why in reasons if why is None], [(row, why) for row, why in reasons if why is not None]


def _copy(built: Path, folder: Path, sources: set[str], header: Mapping[str, Any]) -> Counts:
    """Every modality's Parquet files with the rows of these sources."""
    info = {row["config_name"]: row for row in header["dataset_info"]}
    counts = Counts()
    for modality in sorted(set(info) - {"labels"}):
        names = _class_names(info[modality])
        for part in SPLITS:
            files = sorted((built / modality).glob(f"{part}-*.parquet"))
            if files:
                _filter(files, folder / modality, part, sources, counts, names)
    return counts


def _filter(
    files: Sequence[Path], folder: Path, part: str, sources: set[str], counts: Counts, names: Sequence[str]
) -> None:
    """Rows of some sources out of a split's shards, row group by row group, into shards of the same kind."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = pa.array(sorted(sources))
    written: list[Path] = []
    for file in files:
        writer: Any = None
        reader = pq.ParquetFile(file)
        for group in range(reader.num_row_groups):
            table = reader.read_row_group(group)
            table = table.filter(pc.is_in(table["source"], value_set=wanted))
            if not table.num_rows:
                continue
            if writer is None:
                folder.mkdir(exist_ok=True)
                written.append(folder / f".{part}-{len(written):05d}")
                packed = {"objects.segmentation.list.element": "zstd"}
                writer = pq.ParquetWriter(written[-1], table.schema, compression=packed, write_page_index=True)
            writer.write_table(table)
            _count(table, folder.name, part, counts, names)
        if writer is not None:
            writer.close()
    for number, path in enumerate(written):
        path.rename(folder / f"{part}-{number:05d}-of-{len(written):05d}.parquet")


def _count(table: Any, modality: str, part: str, counts: Counts, names: Sequence[str]) -> None:
    import pyarrow.compute as pc

    sizes = pc.binary_length(pc.struct_field(table["image"], "bytes")).to_pylist()
    rows = table.select(["source", "patient", "image_id", "sha256", "objects"]).to_pylist()
    for row, size in zip(rows, sizes, strict=True):
        counts.add({**row, "bytes": size or 0}, modality, part, names)


def _class_names(info: Mapping[str, Any]) -> list[str]:
    """The classes of a config, out of its features in the card's header."""
    objects = next(feature for feature in info["features"] if feature["name"] == "objects")
    category = next(part for part in objects["struct"] if part["name"] == "category")
    names = category["sequence"]["class_label"]["names"]
    return [str(names[key]) for key in sorted(names, key=int)]


def _quality(built: Path, folder: Path, sources: set[str]) -> dict[str, Any]:
    """The part of the quality report that is about published sources; without single rows."""
    report = _read(built / "quality" / "report.json", built)
    rejected = {
        rule: own
        for rule, by_source in report["rejected"].items()
        if (own := {name: number for name, number in by_source.items() if name in sources})
    }
    content = {"schema": report["schema"], "rules": report["rules"], "rejected": rejected}
    (folder / "quality").mkdir()
    write_text(folder / "quality" / "report.json", to_json(content))
    return content


def _write_recipes(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """How each source is read; with it, whoever has the source builds the same pictures."""
    (folder / "recipes").mkdir()
    for row in rows:
        write_text(folder / "recipes" / f"{row['source']}_{row['modality']}.yaml", str(row["recipe"]))


def _read(path: Path, built: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        text = "is no built data set, or one of an older version: build it with python -m dataset_scripts.build"
        raise ValueError(f"{built.name}: {text}") from None


__all__ = ["Counts", "gate", "stage_dataset"]
