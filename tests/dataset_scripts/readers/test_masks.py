# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layout `mask_folder`: good folders, and every way in which a folder is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_scripts.records import AnnotatedImage

from .reading import GRAY, MASK, read_all, save


class TestMaskFolder:
    FILES = {"image": "images/*.png", "mask": "masks/{stem}.png", "label": "polyp"}

    @pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
    def test_binary_masks_of_every_kind(self, tmp_path: Path, mode: str) -> None:
        save(tmp_path / "images" / "a.png", GRAY)
        save(tmp_path / "masks" / "a.png", MASK * 255, mode)
        (image,), rejections = read_all(tmp_path, "mask_folder", self.FILES)
        assert isinstance(image, AnnotatedImage) and not rejections
        assert np.array_equal(image.pixels, GRAY)
        (annotation,) = image.annotations
        assert (
            annotation.label == "polyp" and annotation.mask is not None and np.array_equal(annotation.mask, MASK == 1)
        )
        assert annotation.mask.dtype == np.bool_ and set(np.unique(annotation.mask.view(np.uint8))) == {0, 1}

    def test_label_maps_and_values_without_a_name(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.png", GRAY)
        save(tmp_path / "masks" / "a.png", MASK * 3)
        (image,), _ = read_all(tmp_path, "mask_folder", self.FILES, values={3: "disc"})
        assert [annotation.label for annotation in image.annotations] == ["disc"]
        (image,), _ = read_all(tmp_path, "mask_folder", self.FILES, values={4: "disc"})
        assert [annotation.label for annotation in image.annotations] == ["value 3"]

    def test_a_mask_file_for_each_label(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.png", GRAY)
        save(tmp_path / "disc" / "a.png", MASK)
        save(tmp_path / "cup" / "a_1.png", MASK)
        save(tmp_path / "cup" / "a_2.png", MASK[::-1])
        files = {"image": "images/*.png", "mask": {"disc": "disc/{stem}.png", "cup": "cup/{stem}_*.png"}}
        (image,), _ = read_all(tmp_path, "mask_folder", files)
        assert [annotation.label for annotation in image.annotations] == ["disc", "cup", "cup"]

    @pytest.mark.parametrize("key", ["colors", "colours"])
    def test_colors_are_labels(self, tmp_path: Path, key: str) -> None:
        colors = np.zeros((20, 30, 3), np.uint8)
        colors[2:4, 2:4], colors[9:12, 9:12], colors[15, 15] = (255, 0, 0), (0, 255, 0), (1, 2, 3)
        save(tmp_path / "images" / "a.png", GRAY)
        save(tmp_path / "masks" / "a.png", colors)
        files = {**self.FILES, key: {"255,0,0": "disc", "0,255,0": "cup"}}
        (image,), _ = read_all(tmp_path, "mask_folder", files)
        assert [(annotation.label, int(annotation.mask.sum())) for annotation in image.annotations] == [
            ("disc", 4), ("cup", 9), ("other colours", 1),
        ]  # fmt: skip

    def test_colors_of_a_palette(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.png", GRAY)
        image = Image.fromarray(MASK)
        image.putpalette([0, 0, 0, 255, 0, 0])
        (tmp_path / "masks").mkdir()
        image.save(tmp_path / "masks" / "a.png")
        files = {**self.FILES, "colours": {"255,0,0": "polyp"}}
        (image,), _ = read_all(tmp_path, "mask_folder", files)
        assert [annotation.label for annotation in image.annotations] == ["polyp"]
        assert np.array_equal(image.annotations[0].mask, MASK == 1)

    def test_a_label_map_in_color_has_no_values(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.png", GRAY)
        save(tmp_path / "masks" / "a.png", np.dstack([MASK, MASK * 2, MASK * 0]))
        files = {"image": "images/*.png", "mask": "masks/{stem}.png"}
        assert read_all(tmp_path, "mask_folder", files, values={1: "polyp"})[0] == ["undefined_label"]
        save(tmp_path / "masks" / "a.png", np.dstack([MASK] * 3))
        (image,), _ = read_all(tmp_path, "mask_folder", files, values={1: "polyp"})
        assert [annotation.label for annotation in image.annotations] == ["polyp"]

    def test_unmatched_files(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save(tmp_path / "images" / f"{name}.png", GRAY)
        for name in ("a", "c"):
            save(tmp_path / "masks" / f"{name}.png", MASK)
        result, rejections = read_all(tmp_path, "mask_folder", self.FILES)
        assert len(result) == 1 and sorted(rejections) == ["no_image", "no_mask"]

    def test_wrong_sizes_and_damaged_files(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            save(tmp_path / "images" / f"{name}.png", GRAY)
            save(tmp_path / "masks" / f"{name}.png", MASK)
        save(tmp_path / "masks" / "a.png", MASK[:-1])
        (tmp_path / "images" / "b.png").write_bytes(b"nothing")
        content = (tmp_path / "masks" / "c.png").read_bytes()
        (tmp_path / "masks" / "c.png").write_bytes(content[: len(content) // 2])
        result, _ = read_all(tmp_path, "mask_folder", self.FILES)
        assert result == ["size_mismatch", "unreadable", "unreadable"]

    def test_stars_in_names_are_taken_literally(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a[1].png", GRAY)
        save(tmp_path / "masks" / "a[1].png", MASK)
        assert len(read_all(tmp_path, "mask_folder", self.FILES)[0]) == 1

    def test_links_out_of_the_folder(self, tmp_path: Path) -> None:
        save(tmp_path / "elsewhere.png", GRAY)
        (tmp_path / "raw" / "images").mkdir(parents=True)
        (tmp_path / "raw" / "images" / "a.png").symlink_to(tmp_path / "elsewhere.png")
        assert read_all(tmp_path / "raw", "mask_folder", self.FILES) == ([], ["leaves_folder"] * 2)
