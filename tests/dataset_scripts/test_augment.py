# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Augmentation: boxes and masks follow, sides stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image

from dataset_scripts.augment import Augment, decode_masks, encode_mask, has_sides, tight_box


STILL: dict[str, Any] = {
    "mirror": 0.0, "degrees": 0, "translate": (0, 0), "scale": (1, 1), "brightness": 0, "contrast": 0,
}  # fmt: skip


def row(side: str = "", annotated: tuple[str, ...] = ("polyp",), depth: Any = np.uint8) -> dict[str, Any]:
    """An image whose only bright block is its only object."""
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 8:28] = 1
    objects = {
        "bbox": [[8.0, 10.0, 20.0, 10.0]], "area": [200.0], "area_fraction": [200 / 2400], "side": [side],
        "segmentation": [encode_mask(mask)], "label_id": ["polyp"], "source_label": ["Polyp"], "parent_box": [[]],
        "parent_label": [""], "id": [7], "category": [3], "instance_index": [0], "instance_count": [1],
    }  # fmt: skip
    image = Image.fromarray(mask.astype(depth) * np.iinfo(depth).max)
    return {"image": image, "width": 60, "height": 40, "annotated": list(annotated), "objects": objects}


def bright_box(image: Image.Image) -> list[float]:
    pixels = np.asarray(image).astype(np.float64)
    return tight_box((pixels > pixels.max() / 2).astype(np.uint8))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_no_augmentation_changes_nothing(depth: Any) -> None:
    before = row(depth=depth)
    after = Augment(**STILL).augment_row(before)
    assert np.array_equal(np.asarray(after["image"]), np.asarray(before["image"]))
    assert {k: v for k, v in after["objects"].items()} == before["objects"] and after["annotated"] == ["polyp"]


def test_boxes_and_masks_follow_the_image() -> None:
    augment = Augment(mirror=0.5, degrees=25, translate=(0.1, 0.1), scale=(0.8, 1.2), seed=0)
    for _ in range(20):
        after = augment.augment_row(row())
        (box,) = after["objects"]["bbox"]
        assert np.allclose(box, bright_box(after["image"]), atol=1.5)
        mask = decode_masks(after["objects"]["segmentation"], (40, 60))[0]
        assert tight_box(mask) == box and after["objects"]["area"] == [float(mask.sum())]
        assert after["objects"]["id"] == [7]


def test_only_images_without_sides_are_flipped() -> None:
    always = Augment(**{**STILL, "mirror": 1.0})
    assert always.augment_row(row())["objects"]["bbox"] == [[32, 10, 20, 10]]
    others = ("Kidney_L", "lt lung", "right-sided effusion", "rib 5 (right)", "right kidney")
    for sided in (row(side="left"), *(row(annotated=("polyp", other)) for other in others)):
        assert has_sides(sided) and always.augment_row(sided)["objects"]["bbox"] == [[8, 10, 20, 10]]
    assert not has_sides(row())


def test_objects_that_leave_the_image_leave_their_label_open() -> None:
    away = Augment(**{**STILL, "translate": (0.9, 0.0)}, seed=1)
    result = [away.augment_row(row(annotated=("polyp", "stomach"))) for _ in range(30)]
    gone = [after for after in result if not after["objects"]["bbox"]]
    assert gone and len(gone) < 30
    assert all(after["annotated"] == ["stomach"] and after["objects"]["id"] == [] for after in gone)


def test_boxes_without_masks() -> None:
    before = row()
    before["objects"]["segmentation"] = [""]
    after = Augment(**{**STILL, "mirror": 1.0}).augment_row(before)
    assert after["objects"]["bbox"] == [[32, 10, 20, 10]] and after["objects"]["segmentation"] == [""]


def test_the_same_seed_gives_the_same_and_leaves_the_others_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = (Augment(seed=5), Augment(seed=5))
    for _ in range(3):
        assert first.augment_row(row())["objects"] == second.augment_row(row())["objects"]
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("modality", ["ct", "endoscopy"])
def test_as_a_transform_of_a_built_set(small_set: Path, tmp_path: Path, modality: str) -> None:
    plain = load_dataset(str(small_set), modality, split="train", cache_dir=str(tmp_path))
    changed = plain.with_transform(Augment(seed=0))
    for before, after in zip(plain, changed, strict=True):
        assert after.keys() == before.keys() and after["image"].size == before["image"].size
        for box, counts in zip(after["objects"]["bbox"], after["objects"]["segmentation"], strict=True):
            assert tight_box(decode_masks([counts], (after["height"], after["width"]))[0]) == box


def test_what_a_change_makes_untrue_is_taken_out() -> None:
    before = row()
    before |= {"origin": [1.0, 2.0, 3.0], "right": [1.0, 0, 0], "down": [0, 1.0, 0], "sha256": "ab"}
    both = {name: [*column, *column] for name, column in before["objects"].items()}
    both |= {"bbox": [[8.0, 10.0, 20.0, 10.0], [0.0, 0.0, 5.0, 5.0]], "area": [200.0, 1e9]}
    both |= {"instance_index": [0, 1], "instance_count": [2, 2], "parent_label": ["colon"] * 2}
    both |= {"parent_box": [[0.0, 0.0, 60.0, 40.0]] * 2}
    after = Augment(**STILL).augment_row({**before, "objects": both})
    assert after["origin"] == after["right"] == after["down"] == [] and after["sha256"] == ""
    objects = after["objects"]
    assert objects["instance_count"] == [1] and objects["instance_index"] == [0]
    assert objects["parent_label"] == [""] and objects["parent_box"] == [[]]


def test_columns_that_were_not_selected_are_not_needed() -> None:
    few = {name: value for name, value in row().items() if name in ("image", "objects")}
    assert set(Augment(**STILL).augment_row(few)) == {"image", "objects"}
