# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Stage the repository of the data set: images of sources that may be redistributed, only recipes of the others.

The files that `dataset_scripts.build` wrote are read row group by row group; no image is opened.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dataset_scripts.parquet_writer import ParquetWriter
from modeling_medglip.errors import one_line
from modeling_medglip.modalities import MODALITIES
from modeling_medglip.outputs.files import to_json, write_text

from ..dataset_card import render_dataset_card
from ..dataset_counts import count_files
from ..gates.file_names import SOURCE
from ..gates.front_matter import split_card
from ..gates.licenses import license_id, reason_to_withhold
from .repository import Repository, empty_folder


SOURCES = "sources.json"
PROVENANCE = "provenance.json"
SCHEMA = "medglip/published-sources@1"
SPLITS = ("train", "validation", "test")
# Keys of a recipe that may hold file names or names of patients.
PRIVATE_KEYS = ("splits", "root")
Pair = tuple[str, str]


def stage_dataset(
    built: Path, repo: str, folder: Path, private: bool = True, gated: str = "no", with_all: bool = False
) -> Repository:
    """Write the repository of the data set into an empty folder.

    Args:
        built (`Path`): Folder that `dataset_scripts.build` wrote.
        repo (`str`): `owner/name`.
        folder (`Path`): A folder below a stage.
        private (`bool`, *optional*, defaults to `True`): Whether only the owners see the repository.
        gated (`str`, *optional*, defaults to `"no"`): One of `GATES`.
        with_all (`bool`, *optional*, defaults to `False`): Take every source, for a private archive.

    Raises:
        `ValueError`: Not a built set, no source that may be redistributed, or `with_all` for a public repository.
    """
    if with_all and not private:
        raise ValueError("--all-sources is for private repositories only: some licenses do not allow redistribution")
    rows = read_sources(built)
    shared, withheld = separate_sources(rows, with_all)
    if not shared:
        raise ValueError(f"{built.name}: none of its sources may be redistributed")
    header, _ = split_card((built / "README.md").read_text(encoding="utf-8"))
    empty_folder(folder)
    _copy(built, folder, {(row["source"], row["modality"]) for row in shared}, header)
    shutil.copytree(built / "labels", folder / "labels")
    shutil.copyfile(built / "label_hierarchy.json", folder / "label_hierarchy.json")
    _quality(built, folder, {row["source"] for row in shared})
    _write_recipes(folder, rows)
    stated = [{key: row[key] for key in row if key != "recipe"} for row in rows]
    provenance = {"schema": SCHEMA, "repo": repo, "gated": gated != "no", "all_sources": with_all, "sources": stated}
    write_text(folder / PROVENANCE, to_json(provenance))
    write_text(folder / "README.md", card_of_folder(folder, header))
    notes = [f"{len(shared)} sources with images, {len(withheld)} as recipes only"]
    notes += [f"published: {_named(row)}, identifier {license_id(row['license'])}" for row in shared]
    notes += [f"recipe only: {_named(row)}: {why}" for row, why in withheld]
    return Repository(repo, "dataset", folder, "per source", "dataset", private, gated, notes=notes)


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['source']} ({row['modality']}), license {one_line(row['license'] or 'not known', 80)!r}"


def read_sources(built: Path) -> list[dict[str, Any]]:
    """Read the rows of `sources.json` and check them: valid names, no missing key.

    Raises:
        `ValueError`: The file is missing, or not what the builder writes.
    """
    text = "is not a built data set, or one of an older version: build it with python -m dataset_scripts.build"
    try:
        rows = json.loads((built / SOURCES).read_text(encoding="utf-8"))["sources"]
        checked = [_source_row(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{built.name}: {text}") from None
    return checked


def _source_row(row: Mapping[str, Any]) -> dict[str, Any]:
    if not re.fullmatch(SOURCE, row["source"]) or row["modality"] not in MODALITIES:
        raise ValueError("a source's name or modality")
    accesses = (None, "open", "registration", "DUA", "unknown")
    if not isinstance(row["license"], str | None) or row["access"] not in accesses:
        raise ValueError("a license")
    stated = {key: row[key] for key in ("source", "modality", "license", "access")}
    counts = {"confirmed": row["confirmed"] is True, "images": int(row["images"])}
    return {**stated, "name": str(row["name"]), **counts, "recipe": str(row.get("recipe", ""))}


def separate_sources(
    rows: Sequence[Mapping[str, Any]], with_all: bool = False
) -> tuple[list[Mapping[str, Any]], list[tuple[Mapping[str, Any], str]]]:
    """Return the sources whose images are published, and the others with the reason.

    Args:
        rows (`Sequence[Mapping]`): See [`read_sources`].
        with_all (`bool`, *optional*, defaults to `False`): Publish the images of every source.
    """
    reasons = [
        (row, None if with_all else reason_to_withhold(row["license"], row["access"], row["confirmed"]))
        for row in rows
    ]
    return [row for row, why in reasons if why is None], [(row, why) for row, why in reasons if why is not None]


def shared_modalities(built: Path) -> set[str]:
    """Return the modalities of which a published set would have images."""
    return {str(row["modality"]) for row in separate_sources(read_sources(built))[0]}


def card_of_folder(folder: Path, header: Mapping[str, Any]) -> str:
    """Return the `README.md` of a staged or published folder, from its other files.

    Args:
        folder (`Path`): The folder.
        header (`Mapping`): Header of a card, of which only the features are taken.
    """
    provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    shared, withheld = separate_sources(provenance["sources"], provenance["all_sources"])
    quality = json.loads((folder / "quality" / "report.json").read_text(encoding="utf-8"))
    repo, gated = str(provenance["repo"]), bool(provenance["gated"])
    return render_dataset_card(repo, gated, header, count_files(folder, header), shared, withheld, quality)


def check_sources(folder: Path) -> list[str]:
    """Return one line for every source of a folder that may not be redistributed or is not named."""
    provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    if provenance.get("schema") != SCHEMA:
        return [f"{PROVENANCE}: is not what this command writes"]
    shared, _ = separate_sources(provenance["sources"], provenance["all_sources"])
    allowed = {(row["source"], row["modality"]) for row in shared}
    header, _ = split_card((folder / "README.md").read_text(encoding="utf-8"))
    unknown = sorted(count_files(folder, header).pairs - allowed)
    return [
        f"{modality}: holds images of {source[:40]}, which may not be redistributed" for source, modality in unknown
    ]


# Files ---------------------------------------------------------------------------------------------------------------


def _copy(built: Path, folder: Path, pairs: set[Pair], header: Mapping[str, Any]) -> None:
    """Write the rows of these sources of every modality's Parquet files."""
    for modality in MODALITIES:
        sources = {source for source, stated in pairs if stated == modality}
        for part in SPLITS:
            files = sorted((built / modality).glob(f"{part}-*.parquet"))
            if files and sources:
                _filter(files, folder / modality, part, sources)


def _filter(files: Sequence[Path], folder: Path, part: str, sources: set[str]) -> None:
    """Copy the rows of some sources of a split, row group by row group, into shards of the same form."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    names = pa.array(sorted(sources))
    writer: ParquetWriter | None = None
    for file in files:
        reader = pq.ParquetFile(file)
        for group in range(reader.num_row_groups):
            table = reader.read_row_group(group)
            table = table.filter(pc.is_in(table["source"], value_set=names))
            if table.num_rows:
                writer = writer or ParquetWriter(folder, part, table.schema)
                writer.add_table(table)
    if writer is not None:
        writer.close()


def _quality(built: Path, folder: Path, sources: set[str]) -> None:
    """Write the part of the quality report that is about published sources, without single rows."""
    try:
        report = json.loads((built / "quality" / "report.json").read_text(encoding="utf-8"))
        rejected = {
            str(rule): numbers
            for rule, by_source in report["rejected"].items()
            if (numbers := {name: int(number) for name, number in by_source.items() if name in sources})
        }
        rules = {rule: {"meaning": str(report["rules"][rule]["meaning"])} for rule in rejected}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{built.name}: its quality report cannot be read: build it again") from None
    (folder / "quality").mkdir()
    write_text(folder / "quality" / "report.json", to_json({"rules": rules, "rejected": rejected}))


def _write_recipes(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write how each source is read, without its folder and its splits."""
    (folder / "recipes").mkdir()
    for row in rows:
        stated = yaml.safe_load(str(row["recipe"])) or {}
        shared = {key: stated[key] for key in stated if key not in PRIVATE_KEYS}
        text = yaml.safe_dump(shared, sort_keys=False, allow_unicode=True, width=1000)
        write_text(folder / "recipes" / f"{row['source']}_{row['modality']}.yaml", text)


__all__ = ["card_of_folder", "check_sources", "read_sources", "separate_sources", "shared_modalities", "stage_dataset"]
