# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The pipeline `medical-phrase-grounding`: all labels of a picture in one pass of the model."""

from collections.abc import Iterable
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .processing_medglip import prompts_per_image


TASK = "medical-phrase-grounding"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
POSTPROCESS_OPTIONS = ("threshold", "top_k", "nms_threshold", "max_detections", "pre_nms_threshold", "legacy_boxes")
PREPROCESS_OPTIONS = ("modality", "pixel_mask", "photometric_interpretation", "volume_statistics", "size")


class MedicalPhraseGroundingPipeline(Pipeline):
    """
    Finds what phrases name in medical pictures, all phrases in one pass.

    ```python
    grounder = pipeline("medical-phrase-grounding", model=modeling_medglip.default_checkpoint())
    grounder("slice.png", text="liver. spleen.", modality="ct", threshold=0.3)
    # [{"score": 0.91, "label": "liver", "box": {"xmin": 40.2, "ymin": 61.0, "xmax": 310.8, "ymax": 288.4}}, ...]
    ```
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, images: Any, text: Any = None, candidate_labels: Any = None, **kwargs: Any) -> list[Any]:
        """
        Ground phrases.

        Args:
            images: a PIL picture, an array, a tensor or a path; or a list of them.
            text, candidate_labels: the same thing under two names, in the forms that the processor takes:
                `"liver. spleen."` for every image, a list of labels for a single one, a list with a prompt for each.
            modality (`str` or `list[str]`, *optional*): for all images or for each.
            threshold (`float`, defaults to 0.3): lowest score. top_k (`int`, *optional*): most boxes per image.
            pixel_mask, photometric_interpretation, volume_statistics, size (*optional*): see the image processor.
            nms_threshold, max_detections, pre_nms_threshold, legacy_boxes (*optional*): see the processor.

        Returns:
            for one image a list of `{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}` in pixels of the
            picture, best first; for a list of images a list of such lists.

        Raises:
            `ValueError`: what the processor raises, or prompts or modalities that are not as many as the images.
        """
        prompt = text if text is not None else candidate_labels
        if prompt is None:
            raise ValueError('say what to look for: text="liver. spleen."')
        if not isinstance(images, (list, tuple)):
            return super().__call__({"image": images, "text": prompt}, **kwargs)
        prompts = prompts_per_image(prompt, len(images), batched=True)
        modalities = _one_each(kwargs.pop("modality", None), len(images))
        requests = [
            {"image": image, "text": labels, "modality": modality}
            for image, labels, modality in zip(images, prompts, modalities, strict=True)
        ]
        return [super(MedicalPhraseGroundingPipeline, self).__call__(request, **kwargs) for request in requests]

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = set(kwargs) - {*PREPROCESS_OPTIONS, *POSTPROCESS_OPTIONS}
        if unknown:
            raise ValueError(f"unknown options: {', '.join(sorted(unknown))}")
        before = {name: kwargs[name] for name in PREPROCESS_OPTIONS if name in kwargs}
        return before, {}, {name: kwargs[name] for name in POSTPROCESS_OPTIONS if name in kwargs}

    def preprocess(self, input_: dict[str, Any], **options: Any) -> dict[str, Any]:
        """One request -> the model's batch of one, with the picture's (height, width)."""
        (image,) = self.processor.image_processor.fetch_images([input_["image"]])
        modality = input_.get("modality") or options.pop("modality", None)
        text = input_["text"]
        if isinstance(text, (list, tuple)) and all(isinstance(part, str) for part in text):
            (text,) = prompts_per_image(text, 1, batched=False)
        # nested, so that no label is taken for a prompt again
        labels = text if isinstance(text, str) or not all(isinstance(part, str) for part in text) else [list(text)]
        inputs = self.processor([image], labels, modality=modality, **options)
        return {"inputs": inputs.to(self.dtype), "target_size": picture_size(image)}

    def _forward(self, model_inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        return {"outputs": self.model(**model_inputs["inputs"]), **model_inputs}

    def postprocess(
        self, model_outputs: dict[str, Any], threshold: float = 0.3, top_k: int | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """The model's output -> boxes of the picture, best first."""
        (result,) = self.processor.post_process_grounded_object_detection(
            model_outputs["outputs"],
            model_outputs["inputs"],
            threshold=threshold,
            target_sizes=[model_outputs["target_size"]],
            **options,
        )
        boxes = [dict(zip(CORNERS, box, strict=True)) for box in result["boxes"].tolist()]
        found = zip(result["scores"].tolist(), result["text_labels"], boxes, strict=True)
        return [{"score": score, "label": label, "box": box} for score, label, box in found][:top_k]


def picture_size(image: Any) -> tuple[int, int]:
    """Height and width in pixels of a PIL picture, an array or a tensor (channels last or first)."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    shape = tuple(image.shape)
    if len(shape) == 2:
        return shape[0], shape[1]
    first = shape[0] in (1, 3, 4) and (isinstance(image, torch.Tensor) or shape[-1] not in (1, 3, 4))
    return (shape[1], shape[2]) if first else (shape[0], shape[1])


def _one_each(modality: Any, count: int) -> Iterable[Any]:
    if modality is None or isinstance(modality, str):
        return [modality] * count
    if len(modality) != count:
        raise ValueError(f"{count} images but {len(modality)} modalities: pass one for each")
    return modality


def register_pipeline() -> None:
    """Make `pipeline("medical-phrase-grounding", ...)` known to transformers; calling it again changes nothing."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=MedicalPhraseGroundingPipeline,
            pt_model=AutoModelForZeroShotObjectDetection,
            type="multimodal",
        )


__all__ = ["MedicalPhraseGroundingPipeline", "register_pipeline"]
