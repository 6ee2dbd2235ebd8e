# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Make the examples when the server starts: the images of the package's demo, and a volume."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from modeling_medglip.demo.cases import demo_cases, package_file
from modeling_medglip.errors import MedGlipError
from modeling_medglip.outputs.overlay import display_image
from space_experts import NAMES, Experts
from space_html import text
from space_sources import Source, read_slice_image


THUMBNAIL = 112
BRAIN = "lateral ventricle. left thalamus. right thalamus. brainstem. corpus callosum."
# Every so many slices of the template: a volume that is grounded while somebody waits.
STEP = 3
VOLUME = "mri_volume"


@dataclass(frozen=True)
class Example:
    """An image or volume to show, and the prompt to ground in it."""

    id: str
    source: Source
    modality: str
    prompt: str
    origin: str
    caption: str
    thumbnail: str


def make_examples(experts: Experts, folder: Path) -> dict[str, Example]:
    """Return the examples of the modalities that the checkpoint has experts for, without those of missing packages.

    Args:
        experts ([`Experts`]): the loaded checkpoints.
        folder (`Path`): where the volume is written.
    """
    made: dict[str, Example] = {}
    for case in demo_cases():
        if case.modality not in experts.main.modalities:
            continue
        try:
            image = case.load()
        except MedGlipError:
            continue
        name = NAMES.get(case.modality, case.modality)
        caption = f"{name}, phantom" if case.is_phantom else name
        shown = display_image(image, case.modality, experts.window())
        source = Source(image=image)
        made[case.id] = Example(case.id, source, case.modality, case.prompt, case.source, caption, _thumbnail(shown))
    if "mri" in experts.main.modalities:
        made |= _volume(folder)
    order = {name: position for position, name in enumerate(experts.main.modalities)}
    return dict(sorted(made.items(), key=lambda item: (item[0] == VOLUME, order[item[1].modality])))


def _volume(folder: Path) -> dict[str, Example]:
    """Write every third slice of the MNI152 template as a NIfTI file; return no example without nilearn."""
    try:
        import nibabel

        path = package_file("nilearn", "datasets", "data", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    except (MedGlipError, ModuleNotFoundError):
        return {}
    thinned = nibabel.Nifti1Image.from_filename(path).slicer[:, :, ::STEP]
    target = folder / "mni152_t1_3mm.nii"
    nibabel.save(thinned, target)
    source = Source(target)
    from modeling_medglip.volumes.source import open_volume

    middle = read_slice_image(open_volume(target), "axial", thinned.shape[2] * 4 // 9)
    origin = "MNI152 T1 template (average of 152 brains), shipped with nilearn; every third slice."
    thumbnail = _thumbnail(display_image(middle, "mri"))
    return {VOLUME: Example(VOLUME, source, "mri", BRAIN, origin, "MRI, volume", thumbnail)}


def _thumbnail(image: Image.Image) -> str:
    small = ImageOps.fit(image, (THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def gallery(examples: Mapping[str, Example]) -> str:
    """Return the examples as buttons, as HTML."""
    buttons = "".join(
        f'<button type="button" class="mg-example" data-example="{text(example.id)}" title="{text(example.origin)}">'
        f'<img src="{example.thumbnail}" alt=""><span>{text(example.caption)}</span></button>'
        for example in examples.values()
    )
    return f'<div class="mg-examples">{buttons}</div>'
