# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The catalog of public sources and its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from dataset_scripts.catalog import CATALOG_FILE, load_catalog, main, paper_rows, select
from modeling_medglip.taxonomy import load_taxonomy


CATALOG = load_catalog()


def test_counts_are_those_the_file_states() -> None:
    meta = yaml.safe_load(CATALOG_FILE.read_text(encoding="utf-8"))["meta"]
    assert len(CATALOG) == meta["count"] == 159
    assert len({source.family for source in CATALOG.values()}) == meta["families"] == 135


def test_every_source_is_complete() -> None:
    taxonomy = load_taxonomy()
    for source in CATALOG.values():
        assert source.labels and source.name and source.family and source.modality, source.id
        assert set(source.taxonomy_labels) <= set(taxonomy.labels), source.id
        assert source.modalities or source.modality == ("PET",), source.id
        assert source.year is None or 1990 < source.year < 2027


def test_labels_that_resolve_are_listed_as_such() -> None:
    """A label whose phrase means one of the 198 stands among the source's taxonomy labels."""
    taxonomy = load_taxonomy()
    for source in CATALOG.values():
        for name in source.labels:
            label = taxonomy.resolve(name)
            if label is not None and not label.extension:
                assert label.id in source.taxonomy_labels, (source.id, name)


def test_redistributable_needs_a_known_license_that_allows_derivatives() -> None:
    for source in select(CATALOG.values(), redistributable=True):
        assert source.license and "ND" not in source.license and source.access == "open"
    assert not CATALOG["mosmed_plus"].redistributable  # ND
    assert not CATALOG["acdc"].redistributable  # no license known


def test_filters() -> None:
    assert {"kvasir_seg", "cvc_clinicdb"} <= {source.id for source in select(CATALOG.values(), "endoscopy")}
    pancreas = select(CATALOG.values(), "CT", "abdomen", "pancreas")
    assert "abdomenct1k" in {source.id for source in pancreas}
    assert select(CATALOG.values(), label="left hippocampus") == select(CATALOG.values(), label="hippocampus_left")
    with pytest.raises(ValueError, match="no label 'nonsense'"):
        select(CATALOG.values(), label="nonsense")


def test_the_papers_figures_stand_beside_ours() -> None:
    rows = {row[0]: row[1:] for row in paper_rows(list(CATALOG.values()))}
    assert rows["sources"] == ("129", "159 (135 families)") and rows["labels"] == ("198", "198")
    assert rows["categories"] == ("38", "38") and rows["regions"] == ("6", "6")


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--modality", "fundus", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows and all("fundus" in row["modality"] for row in rows)
    assert main(["--label", "polyp"]) == 0
    assert "kvasir_seg" in capsys.readouterr().out
    assert main(["--paper"]) == 0
    assert "2,720,979" in capsys.readouterr().out
    assert main(["--modality", "pet"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taxonomy_labels": ["nonsense"]}, "the taxonomy has no nonsense"),
        ({"access": "yes"}, "access must be one of"),
        ({"licence": "CC0"}, "unknown keys licence"),
        ({"family": None, "id": None, "name": None}, "acdc"),
    ],
)
def test_broken_catalogs(tmp_path: Path, change: dict[str, object], message: str) -> None:
    row = next(
        row for row in yaml.safe_load(CATALOG_FILE.read_text(encoding="utf-8"))["sources"] if row["id"] == "acdc"
    )
    row = {**row, **change}
    rows = [row, row] if "family" in change else [row]
    if "family" in change:
        rows = [{**row, "id": "acdc", "name": "a", "family": "b"}] * 2
        message = "acdc occurs twice"
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump({"sources": rows}), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_catalog(path)


def test_a_built_sets_counts_stand_beside_the_papers(small_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row[0]: row[1:] for row in paper_rows(list(CATALOG.values()), small_set)}
    images = sum(len(json.loads(p.read_text())["images"]) for p in small_set.glob("coco/*/*.json"))
    assert rows["images"] == ("2,720,979", str(images)) and "boxes" in rows["annotations"][1]
    assert main(["--paper", "--built", str(small_set)]) == 0 and str(images) in capsys.readouterr().out
    assert main(["--paper", "--built", "nowhere"]) == 2
    assert "nowhere: is not a data set" in capsys.readouterr().err


def test_a_region_that_no_source_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--region", "nowhere"]) == 2
    assert "no source is of region 'nowhere': choose one of " in capsys.readouterr().err
