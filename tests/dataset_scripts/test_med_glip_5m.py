# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The builder gives what `load_dataset` on the folder gives."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from datasets import load_dataset

from dataset_scripts import med_glip_5m
from dataset_scripts.med_glip_5m import MedGlip5M
from modeling_medglip.configuration_medglip import MODALITIES


@pytest.mark.parametrize("modality", ["ct", "endoscopy"])
def test_the_same_as_without_code(small_set: Path, tmp_path: Path, modality: str) -> None:
    builder = MedGlip5M(config_name=modality, data_dir=str(small_set), cache_dir=str(tmp_path / "a"))
    builder.download_and_prepare()
    plain = load_dataset(str(small_set), modality, cache_dir=str(tmp_path / "b"))
    for split in plain:
        ours, theirs = builder.as_dataset(split=split), plain[split]
        assert ours.features == {name: theirs.features[name] for name in ours.features}
        assert len(ours) == len(theirs)
        for first, second in zip(ours, theirs, strict=True):
            assert list(first["image"].getdata()) == list(second["image"].getdata())
            assert {k: v for k, v in first.items() if k != "image"} == {
                k: v for k, v in second.items() if k != "image"
            }


def test_streaming(small_set: Path, tmp_path: Path) -> None:
    builder = MedGlip5M(config_name="ct", data_dir=str(small_set), cache_dir=str(tmp_path))
    row = next(iter(builder.as_streaming_dataset(split="train")))
    assert row["objects"]["bbox"] and row["image"].size == (row["width"], row["height"])


def test_bad_requests(small_set: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give data_dir"):
        MedGlip5M(config_name="ct", cache_dir=str(tmp_path))
    builder = MedGlip5M(config_name="fundus", data_dir=str(small_set), cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="does not have fundus"):
        builder.download_and_prepare()


def test_it_is_a_loading_script_of_datasets_3() -> None:
    """Whose scanner of imports cannot read two modules in one line, and which copies this one file only."""
    assert med_glip_5m.MODALITIES == MODALITIES
    tree = ast.parse(Path(med_glip_5m.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert all(len(node.names) == 1 for node in imports)
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    assert names == {"json", "collections.abc", "pathlib", "typing", "datasets", "pyarrow.parquet"}
