# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The imaging modalities and their names, for code that must not import transformers.

`configuration_medglip.py` has the same definitions, because it travels with a checkpoint without this file. A test
keeps them equal.
"""

from __future__ import annotations


MODALITIES: tuple[str, ...] = ("ct", "mri", "ultrasound", "xray", "dermoscopy", "endoscopy", "fundus")

# DICOM defined terms (PS3.3 C.7.3.1.1.1) and everyday names. Keys hold letters and digits only, in lower case.
MODALITY_ALIASES: dict[str, str] = {
    "computedtomography": "ct",
    "cat": "ct",
    "mr": "mri",
    "magneticresonance": "mri",
    "magneticresonanceimaging": "mri",
    "us": "ultrasound",
    "ivus": "ultrasound",
    "sonography": "ultrasound",
    "echocardiography": "ultrasound",
    "echo": "ultrasound",
    "cr": "xray",
    "dx": "xray",
    "dr": "xray",
    "rg": "xray",
    "radiograph": "xray",
    "radiography": "xray",
    "cxr": "xray",
    "mg": "xray",
    "derm": "dermoscopy",
    "dms": "dermoscopy",
    "dermatoscopy": "dermoscopy",
    "dermatology": "dermoscopy",
    "skin": "dermoscopy",
    "es": "endoscopy",
    "colonoscopy": "endoscopy",
    "gastroscopy": "endoscopy",
    "laparoscopy": "endoscopy",
    "op": "fundus",
    "ophthalmicphotography": "fundus",
    "retina": "fundus",
    "cfp": "fundus",
}


def resolve_modality(name: str) -> str:
    """Return the canonical modality for a name, a DICOM code or an everyday alias.

    Args:
        name (`str`): for example `"CT"`, `"MR"`, `"X-ray"`, `"skin"`.

    Raises:
        `ValueError`: the name is not known; the message lists the choices.
    """
    key = "".join(character for character in str(name).lower() if character.isalnum())
    if key in MODALITIES:
        return key
    if key in MODALITY_ALIASES:
        return MODALITY_ALIASES[key]
    raise ValueError(f"unknown modality {str(name)[:60]!r}: choose one of {', '.join(MODALITIES)}")


__all__ = ["MODALITIES", "MODALITY_ALIASES", "resolve_modality"]
