# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Clinical facts: only the allowed ones, only in bands and listed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dataset_scripts.build import build
from dataset_scripts.clinical import age_band, check_clinical_keys, clinical_facts, facts_of
from dataset_scripts.recipe import Recipe
from dataset_scripts.records import Case

from .raw_data import CANARY, write_polyps
from .test_build import coco_files, tree


SETTINGS: dict[str, Any] = {
    "table": "facts.csv",
    "id": "name",
    "matches": r"([^/]+)\.png$",
    "age": "years",
    "sex": "gender",
    "diagnosis": {"column": "dx", "values": {"ad": "adenoma"}},
    "history": {"column": "smoker", "values": {1: "smoker"}},
}


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("63", "60-69"), ("63.5", "60-69"), ("063Y", "60-69"), ("0", "0-9"), ("006M", "0-9"), ("89", "80-89"),
        ("90", "90+"), ("103", "90+"), ("", ""), ("unknown", ""), ("-4", ""), ("1963-04-01", ""),
    ],
)  # fmt: skip
def test_ages_are_bands(text: str, band: str) -> None:
    assert age_band(text) == band


def test_only_listed_values_pass() -> None:
    row = {"years": "41", "gender": "F", "dx": "ad", "smoker": "1", "note": "Mr Doe, born 1.4.1963"}
    assert facts_of(SETTINGS, row) == {
        "age_band": "40-49", "sex": "female", "diagnosis": "adenoma", "history": "smoker",
    }  # fmt: skip
    unknown = {**row, "years": "?", "gender": "Doe", "dx": "adenoma of Mr Doe", "smoker": "2"}
    assert facts_of(SETTINGS, unknown) == {}


def test_tables(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text("name,years,gender,dx,smoker\na,50,m,,\n", encoding="utf-8")
    assert clinical_facts(SETTINGS, tmp_path, Case("x/a.png", "p")) == {"age_band": "50-59", "sex": "male"}
    assert clinical_facts(SETTINGS, tmp_path, Case("x/b.png", "p")) == {}
    assert clinical_facts({}, tmp_path, Case("x/a.png", "p")) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "identity"}, "facts.csv has no column identity: it has name, years, gender, dx, smoker"),
        ({"age": "old", "sex": "kind"}, "has no column old, kind"),
        ({"diagnosis": {"column": "result", "values": {}}}, "has no column result"),
        ({"history": "smoker"}, "history needs column and values"),
        ({"table": "none.csv"}, "'none.csv' is not a table"),
        ({"table": "../facts.csv"}, "'../facts.csv' is not a table"),
    ],
)
def test_settings_that_do_not_fit_stop_the_build_before_any_work(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_polyps(tmp_path, 2)
    (tmp_path / "polyps" / "facts.csv").write_text("name,years,gender,dx,smoker\n", encoding="utf-8")
    files = {"image": "images/*.png", "mask": "masks/{stem}_mask.png", "label": "polyp"}
    recipe = Recipe("mine", "endoscopy", "mask_folder", "polyps", files, clinical={**SETTINGS, **change})
    with pytest.raises(ValueError, match=f"mine: clinical: .*{message}"):
        build([recipe], tmp_path, tmp_path / "set", echo=lambda text: None)
    with pytest.raises(ValueError, match="needs table, id"):
        check_clinical_keys({"matches": "(.*)"}, tmp_path)
    check_clinical_keys(SETTINGS, tmp_path / "polyps")


def test_headers(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from tests.modeling_medglip.dicom_files import write_series

    paths = write_series(tmp_path, count=1, PatientAge="077Y", PatientSex="F", PatientName=CANARY)
    case = Case("x", "p", parts={"slices": [str(paths[0])]})
    assert clinical_facts({"table": "dicom"}, tmp_path, case) == {"age_band": "70-79", "sex": "female"}


def test_they_reach_the_data_set_and_nothing_else_does(tmp_path: Path) -> None:
    write_polyps(tmp_path)
    lines = [f"{CANARY}{n // 2}_{n},{40 + 10 * n},f,ad,1,{CANARY}" for n in range(4)]
    table = "name,years,gender,dx,smoker,note\n" + "\n".join(lines)
    (tmp_path / "polyps" / "facts.csv").write_text(table, encoding="utf-8")
    files = {"image": "images/*.png", "mask": "masks/{stem}_mask.png", "label": "polyp"}
    recipe = Recipe("mine", "endoscopy", "mask_folder", "polyps", files, labels={"polyp": "polyp"}, clinical=SETTINGS)
    build([recipe], tmp_path, tmp_path / "set", echo=lambda text: None)
    rows = [row for path in (tmp_path / "set" / "endoscopy").iterdir() for row in pq.read_table(path).to_pylist()]
    assert sorted(row["age_band"] for row in rows) == ["40-49", "50-59", "60-69", "70-79"]
    assert {row["diagnosis"] for row in rows} == {"adenoma"} and {row["history"] for row in rows} == {"smoker"}
    images = [entry for coco in coco_files(tmp_path / "set").values() for entry in coco.dataset["images"]]
    assert {entry["sex"] for entry in images} == {"female"}
    assert not any(CANARY.encode() in content for content in tree(tmp_path / "set").values())
