# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layout `dicom_series`: folders of DICOM slices with DICOM SEG, RTSTRUCT or label map files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from modeling_medglip.volumes.dicom_series import Series, read_series
from modeling_medglip.volumes.geometry import Volume, on_grid
from modeling_medglip.volumes.header import VolumeError
from modeling_medglip.volumes.reader import read_volume
from modeling_medglip.volumes.segmentations import read_segmentation, read_structures

from ..records import Case, LabeledVolume, Rejected
from .base import Reader, glob_safe
from .volumes import read_labelmap


LABEL_KEYS = ("seg", "rtstruct", "labelmap")


class DicomSeriesReader(Reader):
    """Folders of DICOM slices with their label files.

    `files: {slices: "*/ct/*.dcm", seg: "{folder}/../seg/*.dcm"}`. Every folder with slices is a case. Labels come
    from any of `seg` (DICOM SEG), `rtstruct`, and `labelmap` (NIfTI, NRRD, MetaImage): a pattern where `{folder}` is
    the slices' folder; or for `labelmap` `{pattern: {value: label}}`, else the recipe's `values`. `via: dcm2niix`
    reads the slices through dcm2niix instead of pydicom.
    """

    layout = "dicom_series"
    needs = ("slices",)
    takes = (*LABEL_KEYS, "via")

    def cases(self) -> list[Case]:
        """Return one case per folder of slices."""
        folders: dict[Path, list[str]] = {}
        for path in self.find(str(self.recipe.files["slices"])):
            folders.setdefault(path.parent, []).append(path.as_posix())
        results = []
        for folder, slices in sorted(folders.items()):
            labels = {key: self._label_files(key, folder) for key in LABEL_KEYS if key in self.recipe.files}
            taken = {name for files in labels.values() for name, _ in files}
            slices = [name for name in slices if name not in taken]
            if not any(labels.values()) or not slices:
                self.reject("no_mask" if slices else "no_image", "", folder)
                continue
            results.append(self.case(folder, slices=slices, labels=labels))
        return results

    def _label_files(self, key: str, folder: Path) -> list[tuple[str, dict[int, str]]]:
        given: Any = self.recipe.files[key]
        patterns: dict[str, dict[int, str]] = given if isinstance(given, dict) else {str(given): self.recipe.values}
        relative = glob_safe(folder.relative_to(self.root).as_posix())
        results = []
        for pattern, values in patterns.items():
            for path in self.find(_tidy(pattern.format(folder=relative))):
                results.append((path.as_posix(), dict(values)))
        return results

    def image_count(self, case: Case) -> int:
        """Return the number of slices where axial slices are extracted; other planes are unknown before reading."""
        step = self.recipe.planes.get("axial", 0)
        return -(-len(case.parts["slices"]) // step) if step else 0

    def read(self, case: Case) -> LabeledVolume:
        """Read the series and its labels."""
        try:
            series = self._series(case.parts["slices"])
            if series.modality not in (None, self.recipe.modality):
                raise Rejected("modality_mismatch", f"its header says {series.modality}")
            if "mosaic" in dict(series.notes):
                raise Rejected("mosaic")
            labelmaps = [
                labelmap
                for key, files in case.parts["labels"].items()
                for name, values in files
                for labelmap in _labels(key, Path(name), values, series.volume)
            ]
        except VolumeError as error:
            raise Rejected(error.rule) from None
        return LabeledVolume(series.volume, tuple(labelmaps), series.notes)

    def _series(self, slices: list[str]) -> Series:
        if self.recipe.files.get("via") != "dcm2niix":
            return read_series(slices)
        return Series(through_dcm2niix([Path(name) for name in slices]), None)


def _tidy(pattern: str) -> str:
    """Return a pattern without `.` and `..`, which globbing does not take."""
    parts: list[str] = []
    for part in pattern.split("/"):
        if part == "..":
            if not parts:
                raise ValueError(f"pattern {pattern!r} leaves the folder of the source")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _labels(key: str, path: Path, values: dict[int, str], image: Volume) -> list[tuple[Volume, dict[int, str]]]:
    if key == "rtstruct":
        return [(mask, {1: name}) for mask, name in read_structures(path, image)]
    maps = (
        [(read_labelmap(str(path)), values)]
        if key == "labelmap"
        else [(mask, {1: name}) for mask, name in read_segmentation(path)]
    )
    results = []
    for labelmap, names in maps:
        placed = on_grid(labelmap, image)
        if placed is None:
            raise Rejected("affine_mismatch")
        if key == "labelmap" and names:
            # A file of one label often holds the values of others; only the named values count.
            placed = Volume(np.where(np.isin(placed.array, list(names)), placed.array, 0), placed.affine)
        results.append((placed, names))
    return results


def through_dcm2niix(slices: list[Path]) -> Volume:
    """Return the volume that dcm2niix makes of slices, with the axes of its file.

    Raises:
        `VolumeError`: It makes none, or several.
    """
    import subprocess

    import dcm2niix

    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as given:
        for number, path in enumerate(slices):
            (Path(given) / f"{number:06d}.dcm").symlink_to(path.resolve())
        command = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "volume%s", "-o", made, given]
        done = subprocess.run(command, capture_output=True, timeout=600)
        files = sorted(Path(made).glob("*.nii"))
        if done.returncode != 0 or not files:
            raise VolumeError("dcm2niix makes no volume of it", "unreadable")
        if len(files) > 1:
            raise VolumeError("dcm2niix makes several volumes of it", "mixed_series")
        return read_volume(files[0])


__all__ = ["DicomSeriesReader", "through_dcm2niix"]
