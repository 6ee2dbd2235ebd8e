# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layout `manifest`: good files, and every way in which a file is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .reading import GRAY, MASK, read_all, save


class TestManifest:
    def manifest(self, folder: Path, *entries: dict[str, Any]) -> tuple[list[Any], list[str]]:
        save(folder / "a.png", GRAY)
        save(folder / "m.png", MASK * 255)
        save(folder / "map.png", MASK * 9)
        (folder / "list.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
        return read_all(folder, "manifest", {"manifest": "list.json"})

    def test_masks_values_and_boxes(self, tmp_path: Path) -> None:
        objects = [
            {"label": "x", "mask": "m.png"},
            {"label": "y", "labelmap_value": 9},
            {"label": "z", "bbox_xywh": [1, 2, 3, 4]},
        ]
        entry = {"image": "a.png", "split": "train", "labelmap": "map.png", "objects": objects}
        (image,), _ = self.manifest(tmp_path, entry)
        assert [annotation.label for annotation in image.annotations] == ["x", "y", "z"]
        assert np.array_equal(image.annotations[0].mask, MASK == 1) and np.array_equal(
            image.annotations[1].mask, MASK == 1
        )
        assert image.annotations[2].mask is None and image.annotations[2].box == (1, 2, 4, 6)

    @pytest.mark.parametrize(
        ("entry", "rule"),
        [
            ({"image": "b.png", "objects": []}, "missing_file"),
            ({"image": "../a.png", "objects": []}, "leaves_folder"),
            ({"image": "/etc/passwd", "objects": []}, "leaves_folder"),
            ({"image": "a.png"}, "bad_annotations"),
            ({"image": "a.png", "objects": [{"mask": "m.png"}]}, "bad_annotations"),
            ({"image": "a.png", "objects": [{"label": "x", "mask": "../m.png"}]}, "leaves_folder"),
            ({"image": "a.png", "objects": [{"label": "x", "bbox_xywh": [1, 2]}]}, "bad_annotations"),
        ],
    )
    def test_bad_entries(self, tmp_path: Path, entry: dict[str, Any], rule: str) -> None:
        assert self.manifest(tmp_path, entry)[0] == [rule]

    def test_one_bad_entry_leaves_the_others(self, tmp_path: Path) -> None:
        result, rejections = self.manifest(tmp_path, {"objects": []}, {"image": "a.png", "objects": []})
        assert len(result) == 1 and rejections == ["bad_annotations"]

    def test_images_that_are_listed_twice(self, tmp_path: Path) -> None:
        result, rejections = self.manifest(tmp_path, *[{"image": "a.png", "objects": []}] * 2)
        assert len(result) == 1 and rejections == ["duplicate_id"]

    @pytest.mark.parametrize("name", [3, 1.5, ["m.png"], {"a": 1}, None])
    def test_names_that_are_not_text(self, tmp_path: Path, name: Any) -> None:
        assert self.manifest(tmp_path, {"image": "a.png", "labelmap": name, "objects": []})[0] == ["bad_annotations"]
        masked = {"image": "a.png", "objects": [{"label": "polyp", "mask": name}]}
        assert self.manifest(tmp_path, masked)[0] == ["bad_annotations"]

    def test_objects_of_a_second_entry_are_in_the_image(self, tmp_path: Path) -> None:
        box = {"label": "polyp", "bbox_xywh": [1, 1, 5, 5]}
        (image,), rejections = self.manifest(
            tmp_path, {"image": "a.png", "objects": []}, {"image": "a.png", "objects": [box]}
        )
        assert [annotation.label for annotation in image.annotations] == ["polyp"] and rejections == ["duplicate_id"]

    def test_a_listed_object_with_an_empty_mask(self, tmp_path: Path) -> None:
        save(tmp_path / "none.png", MASK * 0)
        (image,), _ = self.manifest(tmp_path, {"image": "a.png", "objects": [{"label": "polyp", "mask": "none.png"}]})
        assert image.annotations[0].mask is None and image.annotations[0].issue is not None

    @pytest.mark.parametrize("text", ["{", "[]", '{"images": 3}'])
    def test_invalid_manifests(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "list.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="mine: list.json is not a valid manifest"):
            read_all(tmp_path, "manifest", {"manifest": "list.json"})
