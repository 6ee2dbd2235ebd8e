# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""MedGLIP: finds what words name in medical images.

Importing this package registers its classes with transformers' Auto classes, so that
`AutoModelForZeroShotObjectDetection.from_pretrained` and `pipeline("zero-shot-object-detection")` know MedGLIP
checkpoints.
"""

import importlib
from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
)

from .checkpoint import default_checkpoint
from .configuration_medglip import MODALITIES, MedGlipConfig, MedGlipHeadConfig, resolve_modality
from .image_processing_medglip import MedGlipImageProcessor
from .modeling_medglip import MedGlipForObjectDetection, MedGlipModel, TextFeatures
from .pipeline_medglip import MedicalPhraseGroundingPipeline, register_pipeline
from .processing_medglip import MedGlipProcessor
from .taxonomy import load_taxonomy


__version__ = "0.1.0"

AutoConfig.register("med-glip", MedGlipConfig, exist_ok=True)
AutoModel.register(MedGlipConfig, MedGlipModel, exist_ok=True)
AutoModelForZeroShotObjectDetection.register(MedGlipConfig, MedGlipForObjectDetection, exist_ok=True)
AutoImageProcessor.register(
    MedGlipConfig, image_processor_classes={"torchvision": MedGlipImageProcessor}, exist_ok=True
)
AutoProcessor.register(MedGlipConfig, MedGlipProcessor, exist_ok=True)
register_pipeline()


def __getattr__(name: str) -> Any:
    """The converter and volumes are imported when they are asked for."""
    if name == "convert_glip_checkpoint":
        return importlib.import_module(f"{__name__}.{name}")
    if name == "ground_volume":
        return importlib.import_module(f"{__name__}.volume_grounding").ground_volume
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "MODALITIES",
    "MedGlipConfig",
    "MedGlipForObjectDetection",
    "MedGlipHeadConfig",
    "MedGlipImageProcessor",
    "MedGlipModel",
    "MedGlipProcessor",
    "MedicalPhraseGroundingPipeline",
    "TextFeatures",
    "default_checkpoint",
    "ground_volume",
    "load_taxonomy",
    "resolve_modality",
]
