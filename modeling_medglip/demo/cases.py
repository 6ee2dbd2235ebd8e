# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The pictures of `medglip demo`: real ones that PyPI packages ship, and this project's phantoms.

Nothing is downloaded and nothing of the packages is imported but readers of file formats: scikit-image's and
nilearn's own imports take seconds.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import MedGlipError, install_hint
from ..io.image import read_image
from ..io.image_record import ReadImage
from . import phantoms


Box = tuple[float, float, float, float]
# Axial slice of the MNI152 template, counted in voxels from below: basal nuclei, thalami and both lateral ventricles.
MNI_SLICE = 80


@dataclass(frozen=True)
class DemoCase:
    """One picture of the demo.

    Attributes:
        id: short name, used for the output files.
        modality: one of `MODALITIES`.
        prompt: what is asked of the picture.
        source: one sentence on where the picture comes from.
        is_phantom: drawn by this project; not a patient.
        load: reads or draws the picture.
        true_boxes: gives label -> true box (xyxy, pixels): of the drawing, of shipped masks, or measured by hand.
            Empty where nothing that is asked for is in the picture.
    """

    id: str
    modality: str
    prompt: str
    source: str
    load: Callable[[], ReadImage] = field(repr=False)
    is_phantom: bool = False
    true_boxes: Callable[[], dict[str, Box]] = field(default=dict, repr=False)


def package_file(package: str, *parts: str) -> Path:
    """Path of a data file inside an installed package, which is not imported.

    Raises:
        `MedGlipError`: the package is not installed, or does not ship the file.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise MedGlipError(f"demo image of {package}: not installed, {install_hint('demo')}")
    path = Path(folders[0], *parts)
    if not path.is_file():
        raise MedGlipError(f"demo image of {package}: this version does not ship {parts[-1]}")
    return path


def _pydicom_file(name: str) -> Callable[[], ReadImage]:
    return lambda: read_image(package_file("pydicom", "data", "test_files", name), frame=1)


def _retina() -> ReadImage:
    return read_image(package_file("skimage", "data", "retina.jpg"))


def mni_slice(tissue: str = "t1", height: int = MNI_SLICE) -> np.ndarray:
    """An axial slice of nilearn's MNI152 template as radiologists see it: front up, patient's right on the left.

    Args:
        tissue: `"t1"`, or the tissue masks `"gm"` (grey matter) and `"wm"` (white matter).
        height: voxels (1 mm) from below.

    Returns:
        (233, 197) uint8.

    Raises:
        `MedGlipError`: nilearn is not installed.
    """
    path = package_file("nilearn", "datasets", "data", f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz")
    import nibabel

    volume = nibabel.Nifti1Image.from_filename(path)
    # voxels run from left to right and from back to front: turned so that rows run from the front to the back
    return np.ascontiguousarray(np.rot90(np.asarray(volume.dataobj[..., height]))[:, ::-1])


def _brain() -> ReadImage:
    return ReadImage(mni_slice(), "mni152_t1.nii.gz", modality="mri", spacing_mm=(1.0, 1.0))


def _drawn(draw: Callable[[], phantoms.Phantom], name: str) -> Callable[[], ReadImage]:
    return lambda: ReadImage(_phantom(draw).pixels.copy(), f"{name}.png")


@functools.cache
def _phantom(draw: Callable[[], phantoms.Phantom]) -> phantoms.Phantom:
    """A phantom, drawn once."""
    return draw()


# Boxes: of MNI152 measured on the template with its tissue masks (see the tests), of the others by hand.
_REAL = (
    DemoCase(
        "ct_chest", "ct", "aorta. right lung. left lung.",
        "CT of the thoracic spine and descending aorta, a 128 x 128 crop, from pydicom's test files (CT_small.dcm).",
        _pydicom_file("CT_small.dcm"),
        true_boxes=lambda: {"aorta": (71, 0, 110, 27), "right lung": (0, 0, 49, 63), "left lung": (85, 0, 128, 69)},
    ),
    DemoCase(
        "mri_brain", "mri",
        "right lateral ventricle. left lateral ventricle. right thalamus. left thalamus. right caudate. left caudate.",
        "Axial slice of the MNI152 T1 template (average of 152 brains), shipped with nilearn.",
        _brain,
        true_boxes=lambda: {
            "right lateral ventricle": (67, 70, 98, 154), "left lateral ventricle": (99, 70, 130, 154),
            "right thalamus": (70, 97, 98, 132), "left thalamus": (99, 97, 127, 132),
            "right caudate": (78, 73, 93, 99), "left caudate": (104, 73, 119, 99),
        },
    ),
    DemoCase(
        "ultrasound_node", "ultrasound", "fetal head.",
        "Power Doppler ultrasound of a lymph node from pydicom's test files (examples_rgb_color.dcm): no fetal head.",
        _pydicom_file("examples_rgb_color.dcm"),
    ),
    DemoCase(
        "fundus_retina", "fundus", "optic disc. optic cup.",
        "Colour photograph of a retina, shipped with scikit-image (retina.jpg).",
        _retina,
        true_boxes=lambda: {"optic disc": (122, 540, 314, 756)},
    ),
)  # fmt: skip


def _phantom_case(name: str, modality: str, prompt: str, text: str, draw: Callable[[], phantoms.Phantom]) -> DemoCase:
    source = f"Phantom drawn by this project, not a patient: {text}"
    return DemoCase(name, modality, prompt, source, _drawn(draw, name), True, lambda: dict(_phantom(draw).boxes))


_PHANTOMS = (
    _phantom_case(
        "ct_phantom", "ct", "liver. spleen. right kidney. left kidney. aorta. stomach.",
        "a CT slice of the upper abdomen in HU.", phantoms.abdominal_ct,
    ),
    _phantom_case(
        "ultrasound_phantom", "ultrasound", "fetal head.", "a fetal head in a convex probe's sector.",
        phantoms.fetal_head,
    ),
    _phantom_case(
        "xray_phantom", "xray", "right lung. left lung. cardiomediastinum. airways.", "a frontal chest radiograph.",
        phantoms.chest_radiograph,
    ),
    _phantom_case(
        "dermoscopy_phantom", "dermoscopy", "skin lesion.", "a mole under a dermatoscope.", phantoms.dermoscopy_lesion
    ),
    _phantom_case(
        "endoscopy_phantom", "endoscopy", "polyp.", "a polyp on the wall of the bowel.", phantoms.endoscopy_polyp
    ),
)  # fmt: skip


def demo_cases() -> tuple[DemoCase, ...]:
    """All pictures of the demo, real ones first; loading one may need packages of the extra `demo`."""
    return (*_REAL, *_PHANTOMS)


__all__ = ["DemoCase", "demo_cases", "mni_slice", "package_file"]
