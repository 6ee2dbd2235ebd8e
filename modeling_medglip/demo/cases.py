# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The images of `medglip demo`: files of this package and of packages on PyPI.

Nothing is downloaded. Of the packages only data files are read: importing scikit-image or nilearn takes seconds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import MedGlipError, install_hint
from ..io.image import read_image
from ..io.image_record import ReadImage


Box = tuple[float, float, float, float]
# Axial slice of the MNI152 template, counted in voxels from below: basal nuclei, thalami and both lateral ventricles.
MNI_SLICE = 80
# `LICENSES.md` beside the files states the source and license of each.
IMAGES = Path(__file__).parent / "images"


@dataclass(frozen=True)
class DemoCase:
    """One image of the demo.

    Attributes:
        id (`str`): Short name, used for the output files.
        modality (`str`): One of `MODALITIES`.
        prompt (`str`): Labels to look for, separated by dots.
        source (`str`): One sentence on where the image comes from.
        load (`Callable`): Reads the image.
        is_phantom (`bool`): Whether this project drew the image, so that it shows no patient.
        true_boxes (`dict[str, Box]`): Label -> true box (xyxy, pixels), from published annotations or measured by
            hand. Empty where the image shows nothing of the prompt.
    """

    id: str
    modality: str
    prompt: str
    source: str
    load: Callable[[], ReadImage] = field(repr=False)
    is_phantom: bool = False
    true_boxes: dict[str, Box] = field(default_factory=dict, repr=False)


def package_file(package: str, *parts: str) -> Path:
    """Return the path of a data file inside an installed package, without importing the package.

    Args:
        package (`str`): Name of the package.
        parts (`str`): Folders and file name below the package's folder.

    Raises:
        `MedGlipError`: The package is not installed, or does not ship the file.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise MedGlipError(f"demo image of {package}: not installed, {install_hint('demo')}")
    path = Path(folders[0], *parts)
    if not path.is_file():
        raise MedGlipError(f"demo image of {package}: this version does not ship {parts[-1]}")
    return path


def mni_slice() -> np.ndarray:
    """Read an axial slice of nilearn's MNI152 T1 template, front up, the patient's right on the left.

    Returns:
        `np.ndarray`: (233, 197) uint8.

    Raises:
        `MedGlipError`: nilearn is not installed.
    """
    path = package_file("nilearn", "datasets", "data", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    import nibabel

    volume = nibabel.Nifti1Image.from_filename(path)
    # Voxels run from left to right and from back to front; rows of an image run from the front to the back.
    return np.ascontiguousarray(np.rot90(np.asarray(volume.dataobj[..., MNI_SLICE]))[:, ::-1])


def _brain() -> ReadImage:
    """Read the slice of the MNI152 template as an image of 1 mm pixels."""
    return ReadImage(mni_slice(), "mni152_t1.nii.gz", modality="mri", spacing_mm=(1.0, 1.0))


def _image(name: str) -> Callable[[], ReadImage]:
    """Return a reader of a file of this package."""
    return lambda: read_image(IMAGES / name)


_CASES = (
    DemoCase(
        "ct_abdomen", "ct", "liver. spleen. stomach. aorta. left kidney.",
        "CT slice of the upper abdomen, above the kidneys, from dcmqi's test data (BSD license).",
        _image("ct_abdomen.dcm"),
        true_boxes={"liver": (79, 145, 351, 367), "spleen": (343, 307, 412, 351), "aorta": (256, 305, 288, 338)},
    ),
    DemoCase(
        "mri_brain", "mri",
        "right lateral ventricle. left lateral ventricle. right thalamus. left thalamus. right caudate. left caudate.",
        "Axial slice of the MNI152 T1 template (average of 152 brains), shipped with nilearn.",
        _brain,
        true_boxes={
            "right lateral ventricle": (67, 70, 98, 154), "left lateral ventricle": (99, 70, 130, 154),
            "right thalamus": (70, 97, 98, 132), "left thalamus": (99, 97, 127, 132),
            "right caudate": (78, 73, 93, 99), "left caudate": (104, 73, 119, 99),
        },
    ),
    DemoCase(
        "ultrasound_head", "ultrasound", "fetal head.",
        "Ultrasound of a fetal head, from HC18 (CC BY 4.0).",
        _image("ultrasound_fetal_head.jpg"),
        true_boxes={"fetal head": (191, 150, 430, 350)},
    ),
    DemoCase(
        "xray_chest", "xray", "right lung. left lung. cardiomediastinum. airways.",
        "Chest radiograph, from the COVID-19 Image Repository of Hannover Medical School (CC BY 3.0).",
        _image("xray_chest.jpg"),
        true_boxes={"right lung": (27, 16, 239, 430), "left lung": (249, 9, 455, 442)},
    ),
    DemoCase(
        "fundus_retina", "fundus", "optic disc. optic cup.",
        "Color photograph of a retina, shipped with scikit-image (retina.jpg).",
        lambda: read_image(package_file("skimage", "data", "retina.jpg")),
        true_boxes={"optic disc": (122, 540, 314, 756)},
    ),
    DemoCase(
        "dermoscopy_lesion", "dermoscopy", "skin lesion.",
        "Dermoscopy image ISIC_0000510 of the ISIC Archive (CC0).",
        _image("dermoscopy_lesion.jpg"),
        true_boxes={"skin lesion": (141, 103, 494, 445)},
    ),
    DemoCase(
        "endoscopy_phantom", "endoscopy", "polyp.",
        "Phantom drawn by this project, not a patient: a polyp on the wall of the bowel.",
        _image("endoscopy_phantom.png"),
        is_phantom=True,
        true_boxes={"polyp": (204, 188, 366, 338)},
    ),
)  # fmt: skip


def demo_cases() -> tuple[DemoCase, ...]:
    """Return all images of the demo; loading one may need packages of the extra `demo`."""
    return _CASES


__all__ = ["DemoCase", "demo_cases", "mni_slice", "package_file"]
