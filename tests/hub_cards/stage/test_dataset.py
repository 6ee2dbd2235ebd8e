# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The data set's repository: only sources that may be redistributed, with a header and figures that say so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset

from hub_cards.check import check_folder
from hub_cards.gates.front_matter import split_card
from hub_cards.stage.dataset import separate_sources, stage_dataset
from tests.dataset_scripts.raw_data import CANARY

from ..material import build_set, staged_in


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_set(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def staged(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = staged_in(tmp_path_factory.mktemp("staged")) / "set"
    stage_dataset(built, "clinic/set", folder)
    return folder


def test_the_license_decides(built: Path, staged: Path) -> None:
    shared, withheld = separate_sources(json.loads((built / "sources.json").read_text(encoding="utf-8"))["sources"])
    assert [row["source"] for row in shared] == ["polyps_of_mine"]
    assert [(row["source"], why) for row, why in withheld] == [
        ("abdomen_of_mine", "its license is not known to allow it")
    ]
    assert not (staged / "ct").exists() and (staged / "endoscopy").is_dir()
    assert (staged / "recipes" / "abdomen_of_mine_ct.yaml").is_file()


def test_rows_are_those_of_the_built_set(built: Path, staged: Path) -> None:
    for path in sorted((staged / "endoscopy").glob("*.parquet")):
        assert pq.read_table(path).equals(pq.read_table(built / "endoscopy" / path.name))


def test_the_gates_are_passed_and_datasets_loads_it(staged: Path, tmp_path: Path) -> None:
    assert check_folder("dataset", staged) == []
    rows = load_dataset(str(staged), "endoscopy", split="train", cache_dir=str(tmp_path))
    labels = load_dataset(str(staged), "labels", split="train", cache_dir=str(tmp_path))
    assert rows.features["objects"]["category"].feature.names == labels["name"]
    header, _ = split_card((staged / "README.md").read_text(encoding="utf-8"))
    (info,) = [row for row in header["dataset_info"] if row["config_name"] == "endoscopy"]
    assert {row["name"]: row["num_examples"] for row in info["splits"]}["train"] == len(rows)


def test_the_card_counts_what_is_there(staged: Path) -> None:
    header, body = split_card((staged / "README.md").read_text(encoding="utf-8"))
    assert header["license"] == "cc0-1.0" and header["size_categories"] == ["n<1K"]
    assert "4 images, 8 boxes, 8 masks" in body and "| polyp | 4 | 8 | 8 |" in body
    assert "| Polyps of mine | endoscopy | CC0 | cc0-1.0 | 4 |" in body
    assert "| Abdomen of mine | ct | not known | its license is not known to allow it |" in body
    assert "| objects.category | list of class label |" in body and "pseudonyms" in body
    assert 'load_dataset("clinic/set", "endoscopy", split="train")' in body


def test_no_canary_leaves(staged: Path) -> None:
    for path in staged.rglob("*"):
        if path.is_file():
            assert CANARY.lower().encode() not in path.read_bytes().lower(), path


def test_what_the_report_says_of_others_stays_here(staged: Path) -> None:
    report = json.loads((staged / "quality" / "report.json").read_text(encoding="utf-8"))
    assert "abdomen_of_mine" not in json.dumps(report) and not (staged / "quality" / "rows.jsonl").exists()


def test_all_sources_are_for_private_archives(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="private repositories only"):
        stage_dataset(built, "clinic/set", staged_in(tmp_path / "s") / "a", private=False, with_all=True)
    stage_dataset(built, "clinic/set", staged_in(tmp_path / "s") / "b", with_all=True)
    assert (tmp_path / "s" / "b" / "ct").is_dir() and check_folder("dataset", tmp_path / "s" / "b") == []


def test_a_gate_for_those_who_download(built: Path, tmp_path: Path) -> None:
    made = stage_dataset(built, "clinic/set", staged_in(tmp_path / "s") / "set", gated="auto")
    header, _ = split_card((tmp_path / "s" / "set" / "README.md").read_text(encoding="utf-8"))
    assert made.gated == "auto" and "find out" in header["extra_gated_prompt"]


def hostile(built: Path, folder: Path, name: str) -> Path:
    """A copy of a built set whose first source is named by somebody hostile."""
    shutil.copytree(built, folder)
    content = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    for row in content["sources"]:
        row["name"] = name
    (folder / "sources.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["<script>1</script>", "a | b", "[x](javascript:1)", "x\n---\nlicense: mit\n---"])
def test_names_of_sources_are_text(name: str, built: Path, tmp_path: Path) -> None:
    stage_dataset(hostile(built, tmp_path / "set", name), "clinic/set", staged_in(tmp_path / "s") / "out")
    text = (tmp_path / "s" / "out" / "README.md").read_text(encoding="utf-8")
    header, body = split_card(text)
    assert header["license"] == "cc0-1.0" and "<script" not in text and "](javascript" not in body
    assert check_folder("dataset", tmp_path / "s" / "out") == []
    row = next(line for line in body.splitlines() if "| cc0-1.0 |" in line)
    assert row.replace("\\|", "").count("|") == 6


def test_bad_input(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a built data set"):
        stage_dataset(tmp_path, "clinic/set", staged_in(tmp_path / "s") / "out")
    folder = tmp_path / "set"
    shutil.copytree(built, folder)
    content = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    content["sources"] = [{**row, "license": "all rights reserved"} for row in content["sources"]]
    (folder / "sources.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="none of its sources may be redistributed"):
        stage_dataset(folder, "clinic/set", staged_in(tmp_path / "s") / "out")


def test_recipes_are_published_without_names_of_files(staged: Path) -> None:
    for path in (staged / "recipes").iterdir():
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert recipe["labels"] and not {"splits", "root"} & set(recipe)


def changed(staged: Path, folder: Path) -> Path:
    shutil.copytree(staged, folder)
    return folder


def test_the_gate_goes_by_source_and_modality(built: Path, tmp_path: Path) -> None:
    """The same source may be redistributed for one modality and not for another."""
    folder = tmp_path / "set"
    shutil.copytree(built, folder)
    shutil.copytree(folder / "endoscopy", folder / "dermoscopy")
    content = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    own = next(row for row in content["sources"] if row["source"] == "polyps_of_mine")
    content["sources"].append({**own, "modality": "dermoscopy", "license": "hospital only"})
    (folder / "sources.json").write_text(json.dumps(content), encoding="utf-8")
    stage_dataset(folder, "clinic/set", staged_in(tmp_path / "s") / "out")
    assert not (tmp_path / "s" / "out" / "dermoscopy").exists() and (tmp_path / "s" / "out" / "endoscopy").is_dir()


def test_the_check_looks_at_sources_again(staged: Path, tmp_path: Path) -> None:
    folder = changed(staged, tmp_path / "set")
    path = folder / "provenance.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["sources"] = [{**row, "license": "hospital only"} for row in content["sources"]]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert any(
        "holds images of polyps_of_mine, which may not be redistributed" in line
        for line in check_folder("dataset", folder)
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [("4 images, 8 boxes", "4,000,000 images, 8 boxes"), ("num_examples: ", "num_examples: 9"), ("CC0", "MIT"),
     ("license: cc0-1.0", "license: mit"), ("train `", "train `0")],
)  # fmt: skip
def test_a_card_that_its_files_do_not_give(old: str, new: str, staged: Path, tmp_path: Path) -> None:
    folder = changed(staged, tmp_path / "set")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new), encoding="utf-8")
    assert any(line.startswith("README.md: ") for line in check_folder("dataset", folder))


@pytest.mark.parametrize(
    "change",
    [
        {"source": "../../../escaped"},
        {"source": "a b"},
        {"modality": "<b>"},
        {"access": "<img src=x>"},
        {"license": ["x"]},
    ],
)
def test_hostile_rows_of_sources(change: dict, built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(built, folder)
    content = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    content["sources"][0] |= change
    (folder / "sources.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="is not a built data set"):
        stage_dataset(folder, "clinic/set", staged_in(tmp_path / "s") / "out")
    assert not list(tmp_path.rglob("*escaped*"))


def test_hostile_rules_of_the_quality_report(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(built, folder)
    path = folder / "quality" / "report.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["rules"]["<b>|x"] = {"tier": 1, "meaning": "<img src=x> https://evil.example"}
    content["rejected"]["<b>|x"] = {"polyps_of_mine": 3}
    path.write_text(json.dumps(content), encoding="utf-8")
    stage_dataset(folder, "clinic/set", staged_in(tmp_path / "s") / "out")
    text = (tmp_path / "s" / "out" / "README.md").read_text(encoding="utf-8")
    assert "<b>" not in text and "<img" not in text and "https://evil" not in text
