# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Augment the images of a built set by `with_transform`; boxes and masks follow the image.

    images = load_dataset("built/mine", "ct", split="train").with_transform(Augment())

An image is not flipped if the label of one of its objects, or a label that is annotated in it, has a side: the mirror
image of a left kidney is not a right kidney.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from modeling_medglip.taxonomy import means_a_side


# A changed image has neither a position in the patient nor the hash of its pixels.
CLEARED: dict[str, Any] = {"origin": [], "right": [], "down": [], "sha256": ""}
# Of objects: the box of the parent does not move with the image.
WITHOUT_PARENT: dict[str, Any] = {"parent_box": [], "parent_label": ""}


class Augment:
    """Flip, rotate, shift, scale and change brightness and contrast of each image at random.

    Args:
        mirror (`float`, *optional*, defaults to 0.5): Probability of a horizontal flip, where that is allowed.
        degrees (`float`, *optional*, defaults to 10.0): As in torchvision's `RandomAffine`.
        translate (`tuple[float, float]`, *optional*, defaults to `(0.05, 0.05)`): As in `RandomAffine`.
        scale (`tuple[float, float]`, *optional*, defaults to `(0.9, 1.1)`): As in `RandomAffine`.
        shear (`float`, *optional*, defaults to 0.0): As in `RandomAffine`.
        brightness (`float`, *optional*, defaults to 0.15): As in torchvision's `ColorJitter`.
        contrast (`float`, *optional*, defaults to 0.15): As in `ColorJitter`.
        least_area (`float`, *optional*, defaults to 0.3): Objects of which less than this share is left are removed,
            and their labels are removed from `annotated`, since a part of them may still be visible.
        seed (`int`, *optional*): Makes the same images in the same order come out alike.
    """

    def __init__(
        self,
        mirror: float = 0.5,
        degrees: float = 10.0,
        translate: tuple[float, float] = (0.05, 0.05),
        scale: tuple[float, float] = (0.9, 1.1),
        shear: float = 0.0,
        brightness: float = 0.15,
        contrast: float = 0.15,
        least_area: float = 0.3,
        seed: int | None = None,
    ) -> None:
        self.mirror, self.least_area = mirror, least_area
        self.affine = v2.RandomAffine(degrees, translate, scale, shear, interpolation=v2.InterpolationMode.BILINEAR)
        self.jitter = v2.ColorJitter(brightness=brightness, contrast=contrast)
        self.random = None if seed is None else torch.Generator().manual_seed(seed)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return a batch of columns with changed images and objects."""
        count = len(next(iter(batch.values())))
        rows = [self.augment_row({name: column[index] for name, column in batch.items()}) for index in range(count)]
        return {name: [row[name] for row in rows] for name in batch}

    def augment_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a changed copy of one row: an image with its objects."""
        with torch.random.fork_rng(enabled=self.random is not None):
            if self.random is not None:
                torch.manual_seed(int(torch.randint(2**31, (1,), generator=self.random)))
            image, masks, boxes = self._changed(row)
        return self._row(row, image, masks, boxes)

    def _changed(self, row: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return the changed image, masks (objects, h, w) and boxes (objects, 4)."""
        source, objects = row["image"], row["objects"]
        size = (source.height, source.width)
        image = tv_tensors.Image(tvf.pil_to_tensor(source))
        masks = tv_tensors.Mask(torch.from_numpy(decode_masks(objects["segmentation"], size)))
        boxes = tv_tensors.BoundingBoxes(
            torch.tensor(objects["bbox"], dtype=torch.float32).reshape(-1, 4), format="XYWH", canvas_size=size
        )
        if not has_sides(row) and float(torch.rand(1)) < self.mirror:
            image, masks, boxes = (tvf.horizontal_flip(part) for part in (image, masks, boxes))
        image, masks, boxes = self.affine(image, masks, boxes)
        image = self.jitter(image) if image.dtype == torch.uint8 else image
        return image, masks, tvf.clamp_bounding_boxes(boxes)

    def _row(self, row: dict[str, Any], image: Any, masks: Any, boxes: Any) -> dict[str, Any]:
        objects: dict[str, list[Any]] = {name: [] for name in row["objects"]}
        pixels, lost = image.shape[-1] * image.shape[-2], set[str]()
        for number, counts in enumerate(row["objects"]["segmentation"]):
            mask = masks[number].numpy()
            box = tight_box(mask) if counts else [float(value) for value in boxes[number]]
            area = float(mask.sum()) if counts else box[2] * box[3]
            if area < max(1.0, self.least_area * row["objects"]["area"][number]):
                lost.add(row["objects"]["label_id"][number] or row["objects"]["source_label"][number])
                continue
            new = {"bbox": box, "area": area, "area_fraction": area / pixels, **WITHOUT_PARENT,
                   "segmentation": encode_mask(mask) if counts else ""}  # fmt: skip
            for name, column in objects.items():
                column.append(new[name] if name in new else row["objects"][name][number])
        if "instance_count" in objects:
            _count_again(objects)
        changed = {**row, "image": to_pil(image), "objects": objects}
        changed.update({name: value for name, value in CLEARED.items() if name in row})
        if "annotated" in row:
            changed["annotated"] = _without(row["annotated"], lost)
        return changed


def has_sides(row: dict[str, Any]) -> bool:
    """Whether an object of an image, or a label that is annotated in it, carries a side."""
    return any(row["objects"]["side"]) or any(map(means_a_side, row.get("annotated", ())))


def _count_again(objects: dict[str, list[Any]]) -> None:
    """Number what is left of every label from 0."""
    names = objects["category"]
    objects["instance_index"] = [names[:index].count(name) for index, name in enumerate(names)]
    objects["instance_count"] = [names.count(name) for name in names]


def decode_masks(runs: Sequence[str], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode run lengths to masks.

    Args:
        runs (`Sequence[str]`): COCO run lengths, one per object; empty for an object without a mask.
        size (`tuple[int, int]`): Height and width of the image.

    Returns:
        `np.ndarray` of shape `(objects, h, w)`: Uint8, 0 or 1.
    """
    masks = np.zeros((len(runs), *size), np.uint8)
    for number, counts in enumerate(runs):
        if counts:
            masks[number] = coco_mask.decode({"size": list(size), "counts": counts})
    return masks


def encode_mask(mask: NDArray[np.uint8]) -> str:
    """Encode a mask (h, w) as COCO run lengths."""
    return coco_mask.encode(np.asfortranarray(mask))["counts"].decode("ascii")


def tight_box(mask: NDArray[np.uint8]) -> list[float]:
    """Return the box [x, y, width, height] around a mask; zeros if it is empty."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return [0.0] * 4
    left, top = float(columns.min()), float(rows.min())
    return [left, top, float(columns.max()) + 1 - left, float(rows.max()) + 1 - top]


def to_pil(image: Any) -> Image.Image:
    """Convert a tensor (c, h, w) to an image of the same bit depth."""
    array = image.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def _without(annotated: Sequence[str], lost: set[str]) -> list[str]:
    """Return the annotated labels without those of lost objects, which are named by taxonomy id or source label."""
    from modeling_medglip.taxonomy import load_taxonomy

    taxonomy = load_taxonomy()
    known = {**taxonomy.labels, **taxonomy.extensions}
    names = {known[label].name if label in known else label.lower().replace("_", " ") for label in lost}
    return [label for label in annotated if label not in names]


__all__ = ["Augment", "has_sides"]
