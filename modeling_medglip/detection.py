# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The steps from images and encoded prompts to boxes, which `Grounder.detect` and the pipelines run.

Each step needs the one before: [`prepare_images`], then [`join_prompts`], [`run_model`] and the processor's
`post_process_grounded_object_detection`. The prompts come second because their words depend on the modality, which the
image processor may recognize. The caller moves the batch to the device of the model in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from transformers.image_processing_utils import BatchFeature

    from .modeling_medglip import MedGlipForObjectDetection, MedGlipObjectDetectionOutput, TextFeatures
    from .processing_medglip import MedGlipProcessor


PROMPT_INPUTS = ("input_ids", "attention_mask", "label_tokens", "text_labels")


def prepare_images(
    processor: MedGlipProcessor, images: Sequence[Any], modality: str | Sequence[str | None] | None, **options: Any
) -> BatchFeature:
    """Return the image part of the model's batch, with the name of each image's modality.

    Args:
        processor ([`MedGlipProcessor`]): of the checkpoint.
        images (`Sequence`): arrays, PIL images or tensors, as the image processor takes them.
        modality (`str` or `Sequence[str]`, *optional*): of all images or of each; the processor's own where `None`.
        options (`Any`): of the image processor.

    Raises:
        `ValueError`: an image that the image processor refuses.
    """
    return processor.image_processor(list(images), modality=modality, return_tensors="pt", **options)


def join_prompts(prompts: Mapping[str, Any], pixels: Mapping[str, Any], count: int) -> BatchFeature:
    """Return the model's batch: prompts and images.

    Args:
        prompts (`Mapping[str, Any]`): as [`MedGlipProcessor.encode_prompts`] returns them, one for each image or one
            for all.
        pixels (`Mapping[str, Any]`): from [`prepare_images`].
        count (`int`): number of images.
    """
    from transformers.image_processing_utils import BatchFeature  # the pipelines, which import this, register with it

    if len(prompts["text_labels"]) != count:
        prompts = {
            key: value.expand(count, *value.shape[1:]) if isinstance(value, torch.Tensor) else list(value) * count
            for key, value in prompts.items()
        }
    return BatchFeature({**prompts, **pixels})


def run_model(
    model: MedGlipForObjectDetection, inputs: Mapping[str, Any], text_features: TextFeatures | None = None
) -> MedGlipObjectDetectionOutput:
    """Return what the model finds, without gradients.

    Args:
        model ([`MedGlipForObjectDetection`]): in evaluation mode.
        inputs (`Mapping[str, Any]`): from [`join_prompts`], on the device of the model.
        text_features ([`TextFeatures`], *optional*): of the prompt, if the model has encoded it before.
    """
    if text_features is not None:
        inputs = {key: value for key, value in inputs.items() if key not in PROMPT_INPUTS}
        inputs["text_features"] = text_features
    with torch.inference_mode():
        return model(**inputs)


__all__ = ["join_prompts", "prepare_images", "run_model"]
