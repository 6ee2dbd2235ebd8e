# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""MedGLIP: finds what words name in medical images.

Importing this package registers its classes with transformers' Auto classes, so that
`AutoModelForZeroShotObjectDetection.from_pretrained` and `pipeline("zero-shot-object-detection")` know MedGLIP
checkpoints. PyTorch and transformers themselves are imported when they are first needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .checkpoints.location import default_checkpoint
from .modalities import MODALITIES, resolve_modality
from .moved import MOVED, redirect
from .registration import register_with_transformers


if TYPE_CHECKING:
    from . import convert_glip_checkpoint
    from .configuration_medglip import MedGlipConfig, MedGlipHeadConfig
    from .grounding import Grounder, ground_image, load_grounder
    from .image_processing_medglip import MedGlipImageProcessor
    from .io.image import read_image
    from .modeling_medglip import MedGlipForObjectDetection, MedGlipModel, TextFeatures
    from .pipeline_medglip import MedicalPhraseGroundingPipeline
    from .processing_medglip import MedGlipProcessor
    from .taxonomy import load_taxonomy
    from .volume_grounding import ground_volume
    from .volumes.reader import read_volume


__version__ = "0.1.0"

# Names that are imported on first use -> the module that defines them.
_LAZY = {
    "Grounder": "grounding",
    "MedGlipConfig": "configuration_medglip",
    "MedGlipForObjectDetection": "modeling_medglip",
    "MedGlipHeadConfig": "configuration_medglip",
    "MedGlipImageProcessor": "image_processing_medglip",
    "MedGlipModel": "modeling_medglip",
    "MedGlipProcessor": "processing_medglip",
    "MedicalPhraseGroundingPipeline": "pipeline_medglip",
    "TextFeatures": "modeling_medglip",
    "ground_image": "grounding",
    "ground_volume": "volume_grounding",
    "load_grounder": "grounding",
    "load_taxonomy": "taxonomy",
    "read_image": "io.image",
    "read_volume": "volumes.reader",
}

register_with_transformers()
redirect(MOVED)


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "convert_glip_checkpoint":
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LAZY:
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted({*globals(), *_LAZY})


__all__ = [
    "MODALITIES",
    "Grounder",
    "MedGlipConfig",
    "MedGlipForObjectDetection",
    "MedGlipHeadConfig",
    "MedGlipImageProcessor",
    "MedGlipModel",
    "MedGlipProcessor",
    "MedicalPhraseGroundingPipeline",
    "TextFeatures",
    "convert_glip_checkpoint",
    "default_checkpoint",
    "ground_image",
    "ground_volume",
    "load_grounder",
    "load_taxonomy",
    "read_image",
    "read_volume",
    "resolve_modality",
]
