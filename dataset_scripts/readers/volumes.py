# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layouts `volume_labelmap` and `volume_masks`: NIfTI, NRRD or MetaImage volumes with label maps or masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modeling_medglip.io.text_files import read_json
from modeling_medglip.volumes.geometry import Volume, axcodes_affine, closest_axes, on_grid, to_lps, with_axcodes
from modeling_medglip.volumes.header import UNORIENTED, VolumeError
from modeling_medglip.volumes.reader import open_slices, read_header, stack

from ..recipe import Recipe
from ..records import Case, LabeledVolume, Rejected, inside
from .base import Reader, sibling, stem_of


class LabelmapReader(Reader):
    """A volume and a label map on its grid.

    `files: {image: "*_image.nii.gz", labelmap: "{stem}_label.nii.gz"}` with the recipe's `values`, and before them
    those of a JSON file `{"1": "liver"}` that `values` in `files` names. With `orphans: ignore` label maps without a
    volume are not rejected.
    """

    layout = "volume_labelmap"
    needs = ("image", "labelmap")
    takes = ("values", "orphans")

    def cases(self) -> list[Case]:
        """Return one case per image volume."""
        pattern = str(self.recipe.files["image"])
        cases, used = [], set[Path]()
        for path in self.find(pattern):
            labelmaps = self.find(sibling(path, str(self.recipe.files["labelmap"]), pattern, self.root))
            if not labelmaps:
                self.reject("no_mask", "", path)
                continue
            used.update(labelmaps)
            cases.append(self.case(path, image=path.as_posix(), labelmap=labelmaps[0].as_posix()))
        if self.recipe.files.get("orphans") == "ignore":
            return cases
        for path in self.find(str(self.recipe.files["labelmap"]).format(stem="*", name="*", folder="**")):
            if path not in used and not any(path.as_posix() == case.parts["image"] for case in cases):
                self.reject("no_image", "", path)
        return cases

    def image_count(self, case: Case) -> int:
        """Return the number of slices in the planes of the recipe."""
        return count_slices(case.parts["image"], self.recipe)

    def read(self, case: Case) -> LabeledVolume:
        """Read the volume and its label map."""
        image, notes = _volume(case.parts["image"], self.recipe.axcodes)
        labelmap = whole_grid(read_labelmap(case.parts["labelmap"], self.recipe.axcodes), image)
        return LabeledVolume(image, ((labelmap, self._values()),), notes)

    def _values(self) -> dict[int, str]:
        if "values" not in self.recipe.files:
            return dict(self.recipe.values)
        try:
            content = read_json(inside(self.root, str(self.recipe.files["values"])))
            return {**{int(value): str(name) for value, name in content.items()}, **self.recipe.values}
        except (ValueError, AttributeError):
            raise Rejected(
                "bad_annotations", "the file of values is not a mapping of whole numbers to labels"
            ) from None


class MaskVolumesReader(Reader):
    """A volume with one mask file per label.

    `files: {image: "*/ct.nii.gz", mask: "{folder}/segmentations/*.nii.gz"}`; the mask's file name is the label.
    """

    layout = "volume_masks"
    needs = ("image", "mask")

    def cases(self) -> list[Case]:
        """Return one case per image volume."""
        pattern, template = str(self.recipe.files["image"]), str(self.recipe.files["mask"])
        cases = []
        for path in self.find(pattern):
            mask_pattern = sibling(path, template, pattern, self.root)
            masks = {stem_of(mask, mask_pattern): mask.as_posix() for mask in self.find(mask_pattern) if mask != path}
            if not masks:
                self.reject("no_mask", "", path)
                continue
            cases.append(self.case(path, image=path.as_posix(), masks=masks))
        return cases

    def image_count(self, case: Case) -> int:
        """Return the number of slices in the planes of the recipe."""
        return count_slices(case.parts["image"], self.recipe)

    def read(self, case: Case) -> LabeledVolume:
        """Read the volume and its masks, each as a separate label map, since masks may overlap."""
        image, notes = _volume(case.parts["image"], self.recipe.axcodes)
        labelmaps = []
        for label, file in case.parts["masks"].items():
            mask = whole_grid(read_labelmap(file, self.recipe.axcodes), image)
            if mask.array.any():
                labelmaps.append((Volume((mask.array > 0).astype(np.uint8), mask.affine), {1: label}))
        return LabeledVolume(image, tuple(labelmaps), notes)


def count_slices(path: str, recipe: Recipe) -> int:
    """Return the number of slices in the planes of a recipe, by the header alone; 0 if it cannot be read.

    Args:
        path (`str`): The volume.
        recipe ([`Recipe`]): States planes and axis codes.
    """
    try:
        shape, affine = read_header(path, detached=True)
    except VolumeError:
        return 0
    if recipe.axcodes is not None:
        affine = axcodes_affine(recipe.axcodes, np.linalg.norm(affine[:3, :3], axis=0))
    lengths = dict(
        zip(("sagittal", "coronal", "axial"), (shape[axis] for axis, _ in closest_axes(affine)), strict=True)
    )
    return sum(-(-lengths[plane] // step) for plane, step in recipe.planes.items())


def _volume(path: str, axcodes: str | None) -> tuple[Volume, tuple[tuple[str, str], ...]]:
    """Return a volume, and by rule what its header leaves out, without its words, which may name a person."""
    try:
        slices = open_slices(path, detached=True)
        volume = stack(slices)
    except VolumeError as error:
        raise Rejected(error.rule) from None
    messages = [note for note in slices.header.notes if axcodes is None or note != UNORIENTED]
    notes = tuple(("incomplete_header", message.partition("'")[0].rstrip(" ,")) for message in messages)
    return volume if axcodes is None else with_axcodes(volume, axcodes), notes


def read_labelmap(path: str, axcodes: str | None = None) -> Volume:
    """Read a label map file as whole numbers.

    Args:
        path (`str`): The file.
        axcodes (`str`, *optional*): Axis codes instead of those of the header; see
            [`~modeling_medglip.volumes.geometry.with_axcodes`].

    Raises:
        `Rejected`: The file cannot be read, or holds fractions.
    """
    volume, _ = _volume(path, axcodes)
    if volume.array.dtype.kind in "bui" and volume.slope == 1 and volume.intercept == 0:
        return volume
    values = volume.values(volume.array)
    if not np.isfinite(values).all():
        raise Rejected("not_finite", "label map")
    whole = np.rint(values)
    if np.abs(values - whole).max() > 1e-3 or abs(whole).max() > 32767:
        raise Rejected("undefined_label", "a label map of fractions")
    return Volume(whole.astype(np.int16), volume.affine)


def whole_grid(labelmap: Volume, image: Volume) -> Volume:
    """Return a label map on the canonical grid of an image, all of which it must cover.

    Args:
        labelmap ([`Volume`]): The label map.
        image ([`Volume`]): The image.

    Raises:
        `Rejected`: `size_mismatch`, `affine_mismatch`.
    """
    ours, theirs = to_lps(image), to_lps(labelmap)
    if ours.array.shape != theirs.array.shape:
        raise Rejected("size_mismatch", f"volume {ours.array.shape}, label map {theirs.array.shape}")
    # Tools that write label maps round the affine; a tenth of a voxel is not another position.
    placed = on_grid(labelmap, image)
    moved = np.linalg.inv(ours.affine) @ theirs.affine[:, 3] - [0, 0, 0, 1]
    if placed is None or np.abs(moved).max() > 0.1:
        raise Rejected("affine_mismatch")
    return placed


__all__ = ["LabelmapReader", "MaskVolumesReader", "read_labelmap", "whole_grid"]
