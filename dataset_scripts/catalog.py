# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read the catalog of public sources, `sources.yaml`, for recipes, cards and this command.

python -m dataset_scripts.catalog                         # all sources
python -m dataset_scripts.catalog --modality ct --region abdomen --label pancreas
python -m dataset_scripts.catalog --redistributable       # license lets derived images be shared
python -m dataset_scripts.catalog --paper                 # the paper's figures beside ours
"""

from __future__ import annotations

import argparse
import functools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.io.text_files import load_yaml
from modeling_medglip.modalities import MODALITIES, resolve_modality
from modeling_medglip.taxonomy import load_taxonomy


CATALOG_FILE = Path(__file__).with_name("sources.yaml")
ACCESS = ("open", "registration", "DUA", "unknown")
# What the paper states (Med-GLIP, arXiv 2508.10528, Section III); it contradicts itself on the number of annotations.
PAPER = {
    "sources": "129",
    "modalities": "7",
    "labels": "198",
    "categories": "38",
    "regions": "6",
    "images": "2,720,979",
    "annotations": "over 5.3 M",
    "masks per image": "4.13",
}


@dataclass(frozen=True)
class CatalogSource:
    """One public data set, with facts as `sources.yaml` states them and what they rest on.

    Attributes:
        id (`str`): Unique within the catalog.
        name (`str`): Title for people.
        family (`str`): Joins sets that share images, which must stay in one split.
        modality (`tuple[str, ...]`): As stated; `modalities` are those of `MODALITIES`.
        labels (`tuple[str, ...]`): Names that the set uses.
        taxonomy_labels (`tuple[str, ...]`): Ids in the taxonomy.
        side_unresolved (`tuple[str, ...]`): Names that have a side in the taxonomy.
        outside_taxonomy (`tuple[str, ...]`): Names that the taxonomy does not have.
        license (`str`, *optional*): `None`: unknown, to be treated as not redistributable.
        access (`str`): One of `ACCESS`.
    """

    id: str
    name: str
    family: str
    modality: tuple[str, ...]
    body_region: tuple[str, ...]
    labels: tuple[str, ...]
    taxonomy_labels: tuple[str, ...]
    access: str
    year: int | None = None
    n: int | None = None
    n_unit: str | None = None
    format: str | None = None
    license: str | None = None
    license_basis: str | None = None
    access_basis: str | None = None
    home_domain: str | None = None
    home_domain_basis: str | None = None
    evidence: tuple[str, ...] = ()
    named_in_med_glip_paper: bool = False
    side_unresolved: tuple[str, ...] = ()
    outside_taxonomy: tuple[str, ...] = ()
    note: str | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return which of the seven modalities this source has."""
        known = []
        for name in self.modality:
            try:
                known.append(resolve_modality(name))
            except ValueError:
                continue
        return tuple(known)

    @property
    def redistributable(self) -> bool:
        """Whether the license lets derived images be shared: it is known, allows derivatives, and access is open."""
        text = (self.license or "").upper()
        return bool(text) and "ND" not in text.replace("-", " ").split() and self.access == "open"


@functools.lru_cache(maxsize=4)
def load_catalog(path: Path = CATALOG_FILE) -> dict[str, CatalogSource]:
    """Return the sources by id, in the order of the file.

    Raises:
        `ValueError`: An unknown or missing key, an id that occurs twice, an unknown label or kind of access.
    """
    document = load_yaml(path.read_text(encoding="utf-8"))
    known_labels = set(load_taxonomy().labels)
    sources: dict[str, CatalogSource] = {}
    for row in document["sources"]:
        source = _source(row, path.name)
        if source.id in sources:
            raise ValueError(f"{path.name}: {source.id} occurs twice")
        unknown = sorted(set(source.taxonomy_labels) - known_labels)
        if unknown:
            raise ValueError(f"{path.name}: {source.id}: the taxonomy has no {', '.join(unknown)}")
        if source.access not in ACCESS:
            raise ValueError(f"{path.name}: {source.id}: access must be one of {', '.join(ACCESS)}")
        sources[source.id] = source
    return sources


def _source(row: dict[str, Any], file: str) -> CatalogSource:
    names = {field.name for field in fields(CatalogSource)}
    unknown = sorted(set(row) - names)
    if unknown:
        raise ValueError(f"{file}: {row.get('id')}: unknown keys {', '.join(unknown)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    try:
        return CatalogSource(**cast(Any, values))
    except TypeError as error:
        raise ValueError(f"{file}: {row.get('id')}: {error}") from None


def select(
    sources: Iterable[CatalogSource],
    modality: str | None = None,
    region: str | None = None,
    label: str | None = None,
    access: str | None = None,
    redistributable: bool = False,
) -> list[CatalogSource]:
    """Return the sources that fit every given filter.

    Args:
        sources (`Iterable[CatalogSource]`): The sources to choose from.
        modality (`str`, *optional*): One of `MODALITIES` or a synonym.
        region (`str`, *optional*): Body region.
        label (`str`, *optional*): Taxonomy id or phrase.
        access (`str`, *optional*): One of `ACCESS`.
        redistributable (`bool`, *optional*, defaults to `False`): Only sources whose license lets images be shared.

    Raises:
        `ValueError`: An unknown modality, region or label.
    """
    sources = list(sources)
    known = {name for source in sources for name in source.body_region}
    if region is not None and region not in known:
        raise ValueError(f"no source is of region {region[:40]!r}: choose one of {', '.join(sorted(known))}")
    name = None if modality is None else resolve_modality(modality)
    label_id = None if label is None else _label_id(label)
    return [
        source
        for source in sources
        if (name is None or name in source.modalities)
        and (region is None or region in source.body_region)
        and (label_id is None or label_id in source.taxonomy_labels)
        and (access is None or source.access == access)
        and (not redistributable or source.redistributable)
    ]


def _label_id(label: str) -> str:
    taxonomy = load_taxonomy()
    if label in taxonomy.labels:
        return label
    entry = taxonomy.resolve(label)
    if entry is None:
        raise ValueError(f"the taxonomy has no label {label[:60]!r}")
    return entry.id


def paper_rows(sources: Sequence[CatalogSource], built: Path | None = None) -> list[tuple[str, str, str]]:
    """Return (quantity, figure in the paper, figure here) for everything that the paper counts.

    Args:
        sources (`Sequence[CatalogSource]`): The catalog.
        built (`Path`, *optional*): A built set, for its images and boxes.

    Raises:
        `ValueError`: The folder is not a built set.
    """
    taxonomy = load_taxonomy()
    ours = {
        "sources": f"{len(sources)} ({len({source.family for source in sources})} families)",
        "modalities": str(len(MODALITIES)),
        "labels": str(len(taxonomy.labels)),
        "categories": str(len(taxonomy.categories)),
        "regions": str(len(taxonomy.regions)),
    }
    if built is not None:
        ours |= _built_counts(built)
    rows = [(what, figure, ours.get(what, "give a set with --built")) for what, figure in PAPER.items()]
    counts = Counter(modality for source in sources for modality in source.modalities)
    rows += [(f"sources with {modality}", "not stated", str(counts[modality])) for modality in MODALITIES]
    named = [source.id for source in sources if source.named_in_med_glip_paper]
    return [*rows, ("named in the paper", "", ", ".join(named))]


def _built_counts(built: Path) -> dict[str, str]:
    import pyarrow.parquet as pq

    path = built / "statistics" / "counts.parquet"
    if not path.is_file():
        raise ValueError(f"{built.name}: is not a data set that this project built")
    rows = [row for row in pq.read_table(path).to_pylist() if row["by"] == "modality"]
    totals = {name: sum(row[name] for row in rows) for name in ("images", "boxes", "masks")}
    return {
        "images": f"{totals['images']:,}",
        "annotations": f"{totals['boxes']:,} boxes, {totals['masks']:,} masks",
        "masks per image": f"{totals['masks'] / max(totals['images'], 1):.2f}",
    }


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m dataset_scripts.catalog", description="The public sources.")
    parser.add_argument("--modality", help="ct, mri, ultrasound, xray, dermoscopy, endoscopy, fundus")
    parser.add_argument("--region", help="head, chest, abdomen, pelvis ...")
    parser.add_argument("--label", help="a label of the taxonomy, by id or phrase")
    parser.add_argument("--access", choices=ACCESS)
    parser.add_argument("--redistributable", action="store_true", help="license lets derived images be shared")
    parser.add_argument("--paper", action="store_true", help="the paper's figures beside ours")
    parser.add_argument("--built", type=Path, help="with --paper: a built set, for its images and boxes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    catalog = list(load_catalog().values())
    if options.paper:
        _print(("", "Med-GLIP", "ours"), paper_rows(catalog, options.built))
        return 0
    chosen = select(catalog, options.modality, options.region, options.label, options.access, options.redistributable)
    if options.json:
        print(json.dumps([asdict(source) for source in chosen], indent=1, ensure_ascii=False))
        return 0
    columns = ("id", "modality", "count", "format", "license", "access", "labels")
    _print(columns, [_row(source) for source in chosen])
    print(f"{len(chosen)} of {len(catalog)} sources")
    return 0


def _row(source: CatalogSource) -> tuple[str, ...]:
    count = "" if source.n is None else f"{source.n} {source.n_unit or ''}".strip()
    labels = ", ".join(source.labels)
    short = labels if len(labels) <= 60 else f"{labels[:57]}..."
    modality = ", ".join(source.modalities) or ", ".join(source.modality)
    return source.id, modality, count, source.format or "?", source.license or "not known", source.access, short


def _print(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 200).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
