# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Small raw folders for the tests of the data set builder: images with masks, and volumes with label maps."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


CANARY = "CANARYDOE"
POLYP_RECIPE = """
source: polyps_of_mine
modality: endoscopy
layout: mask_folder
root: polyps
files: {image: "images/*.png", mask: "masks/{stem}_mask.png", label: polyp}
patient: 'images/([a-zA-Z]+\\d+)'
card: {name: Polyps of mine, license: CC0}
labels: {polyp: polyp}
confirmed: true
"""
VOLUME_RECIPE = """
source: abdomen_of_mine
modality: ct
layout: volume_labelmap
root: abdomen
files: {image: "*_ct.nii.gz", labelmap: "{stem}_seg.nii.gz"}
values: {1: liver, 2: left kidney, 3: liver tumour, 4: thing}
labels: {liver: liver, left kidney: kidney_left, liver tumour: liver_tumor, thing: open}
planes: {axial: 1, coronal: 4}
splits: {validation: ["*_2_ct.nii.gz"]}
card: {name: Abdomen of mine}
confirmed: true
"""


def write_polyps(raw: Path, count: int = 4) -> None:
    """Endoscopy frames of patients CANARYDOE0, CANARYDOE1 ... with two polyps each; names, EXIF and PNG texts hold the
    canary."""
    folder = raw / "polyps"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        random = np.random.default_rng(number)
        pixels = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        mask = np.zeros((40, 60), np.uint8)
        mask[5:15, 10:30], mask[25:35, 40 : 45 + number] = 255, 255
        text = PngInfo()
        text.add_text("PatientName", CANARY)
        exif = Image.Exif()
        exif[0x010E] = CANARY
        stem = f"{CANARY}{number // 2}_{number}"
        Image.fromarray(pixels).save(folder / "images" / f"{stem}.png", pnginfo=text, exif=exif)
        Image.fromarray(mask).save(folder / "masks" / f"{stem}_mask.png", pnginfo=text)


def write_volumes(raw: Path, count: int = 3) -> None:
    """CT volumes of oblong voxels, stored in another order of axes, with liver, tumour in it and left kidney;
    the headers' texts hold the canary."""
    folder = raw / "abdomen"
    folder.mkdir(parents=True)
    for number in range(count):
        image, labels, affine = body(number)
        for array, name in ((image, "ct"), (labels, "seg")):
            file = nibabel.Nifti1Image(array, affine)
            file.header["descrip"] = CANARY.encode()
            file.header["aux_file"] = CANARY.encode()
            file.header["db_name"] = CANARY.encode()
            nibabel.save(file, folder / f"{CANARY}_{number}_{name}.nii.gz")


def body(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image in HU, label map and RAS affine: 24 x 20 x 12 voxels in LPS order, other axes every second time."""
    random = np.random.default_rng(100 + number)
    image = random.normal(-60, 20, (24, 20, 12)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[2:12, 4:14, 2:9] = 1  # low x: the patient's right, where the liver is
    labels[5:8, 7:10, 4:7] = 3
    labels[16:20, 12:17, 3:8] = 2
    labels[20:22, 2:4, 5] = 4
    image[labels > 0] += 120
    affine = np.diag([-1.5, -1.5, 3.0, 1.0])
    if number % 2:
        image, labels, affine = image.transpose(2, 0, 1), labels.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels), affine


def write_recipes(folder: Path) -> list[Path]:
    """The recipes of both folders."""
    paths = [folder / "polyps.yaml", folder / "abdomen.yaml"]
    for path, text in zip(paths, (POLYP_RECIPE, VOLUME_RECIPE), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
