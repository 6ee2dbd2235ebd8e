# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The pipeline `medical-phrase-grounding`, and what `zero-shot-object-detection` runs for MedGLIP checkpoints.

The stock pipeline turns every image into 8-bit RGB before a processor sees it, which cuts the levels of 16-bit files
off, and asks for one phrase at a time. So that task is sent to MedGLIP's own processor; other models' are left alone.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, Pipeline, ZeroShotObjectDetectionPipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from .configuration_medglip import MedGlipConfig
from .defaults import UNTRAINED_THRESHOLD
from .detection import join_prompts, prepare_images, run_model
from .modality_choice import known_shares
from .modeling_medglip import MedGlipForObjectDetection
from .processing_medglip import MedGlipProcessor, prompts_per_image
from .questions import Question, encode_groups, make_question
from .trained_labels import TrainedLabels


logger = logging.get_logger(__name__)
TASK = "medical-phrase-grounding"
STOCK_TASK = "zero-shot-object-detection"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
POSTPROCESS_OPTIONS = (
    "threshold",
    "untrained_threshold",
    "top_k",
    "nms_threshold",
    "max_detections",
    "pre_nms_threshold",
    "legacy_boxes",
)
PREPROCESS_OPTIONS = ("modality", "pixel_mask", "photometric_interpretation", "volume_statistics", "size")


class MedicalPhraseGroundingPipeline(Pipeline):
    """Finds what phrases name in medical images, all phrases in one pass.

    transformers runs the three steps apart and moves their tensors itself, so `Grounder.detect` as a whole cannot be
    called; each step calls the functions of `detection` that it calls.

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

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        candidate_labels: Any = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the boxes of phrases in images.

        Args:
            images (`Any`): a PIL image, an array, a tensor or a path; or a list of them. Or, as transformers'
                pipelines take it, a dictionary `{"image", "text" or "candidate_labels", "modality"}`, a list, a
                generator or a data set of them. Paths keep the levels of 16-bit files; addresses on the network are
                refused.
            text (`Any`): in the forms that the processor takes: `"liver. spleen."` for every image, a list of labels
                for a single one, a list with a prompt for each; `"all"` for every label that the expert was trained
                with.
            candidate_labels (`Any`): the same under the name of transformers' own task, where a list of labels is for
                every image.
            batch_size (`int`, *optional*): images in one pass of the model; 1 by default. Results do not depend on it.
            num_workers (`int`, *optional*): has no effect.
            modality (`str` or `list[str]`, *optional*): for all images or for each.
            threshold (`float`, *optional*, defaults to 0.3): lowest score.
            untrained_threshold (`float`, *optional*): the same for labels that the checkpoint was not trained with.
            top_k (`int`, *optional*): most boxes per image.
            kwargs (`Any`): `pixel_mask`, `photometric_interpretation`, `volume_statistics` and `size` of the image
                processor; `nms_threshold`, `max_detections`, `pre_nms_threshold` and `legacy_boxes` of the processor.

        Returns:
            for one image a list of `{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}, "trained"}` in pixels
            of the image, best first; for several images a list of such lists. `trained` says whether the checkpoint
            was trained with the label; `None` if it does not say.

        Raises:
            `ValueError`: what the processor raises, unknown options, or prompts or modalities that are not as many as
            the images.
        """
        images = kwargs.pop("image", None) if images is None else images
        queries = kwargs.pop("text_queries", None)
        for_all = candidate_labels if candidate_labels is not None else queries
        single = isinstance(images, (str, Path, dict, Image.Image)) or hasattr(images, "shape")
        images = [images] if single else _listed(images)
        if text is None and isinstance(for_all, (list, tuple)) and all(isinstance(name, str) for name in for_all):
            for_all = for_all if single else [list(for_all)] * len(images)
        requests = self._requests(images, for_all if text is None else text, kwargs.pop("modality", None), single)
        step = max(batch_size or self._batch_size or 1, 1)
        results = []
        for start in range(0, len(requests), step):
            results.extend(super().__call__({"requests": requests[start : start + step]}, **kwargs))
        return results[0] if single else results

    def _requests(self, images: list[Any], prompt: Any, modality: Any, single: bool) -> list[dict[str, Any]]:
        """Return `{"image", "labels", "modality"}` for each image."""
        if images and all(isinstance(item, dict) for item in images):
            prompts = [item.get("text", item.get("candidate_labels", prompt)) for item in images]
            modalities: Iterable[Any] = [item.get("modality", modality) for item in images]
            images = [item["image"] for item in images]
        else:
            alike = single or prompt is None
            prompts = [prompt] * len(images) if alike else prompts_per_image(prompt, len(images), batched=True)
            modalities = _one_each(modality, len(images))
        if any(text is None for text in prompts):
            raise ValueError('say what to look for: text="liver. spleen."')
        parts = zip(images, prompts, modalities, strict=True)
        return [
            {"image": image, "labels": prompts_per_image(text, 1, batched=False)[0], "modality": name}
            for image, text, name in parts
        ]

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = set(kwargs) - {*PREPROCESS_OPTIONS, *POSTPROCESS_OPTIONS}
        if unknown:
            raise ValueError(f"unknown options: {', '.join(sorted(unknown))}")
        before = {name: kwargs[name] for name in PREPROCESS_OPTIONS if name in kwargs}
        return before, {}, {name: kwargs[name] for name in POSTPROCESS_OPTIONS if name in kwargs}

    @functools.cached_property
    def trained(self) -> TrainedLabels:
        """What the checkpoint states that it was trained with."""
        return TrainedLabels.of(self.model.config.to_dict())

    def preprocess(self, input_: dict[str, Any], modality: Any = None, **options: Any) -> dict[str, Any]:
        """Return the model's batch of requests, and each image's (height, width), question, and whether it is skipped.

        Args:
            input_ (`dict[str, Any]`): `requests`, a list of `{"image", "labels", "modality"}`.
            modality (`Any`, *optional*): where a request has none.
            options (`Any`): of the image processor.
        """
        requests = input_["requests"]
        images = self.processor.image_processor.fetch_images([request["image"] for request in requests])
        routes = [
            self._route(index, image, request["modality"] or modality, request["labels"])
            for index, (image, request) in enumerate(zip(images, requests, strict=True))
        ]
        modalities, skipped = [name for name, _ in routes], [unrecognized for _, unrecognized in routes]
        pixels = prepare_images(self.processor, images, modalities, **options)
        questions = [
            make_question(self.trained, list(dict.fromkeys(request["labels"])), name)
            for request, name in zip(requests, pixels["modality"], strict=True)
        ]
        inputs = join_prompts(
            encode_groups(self.processor, [question.groups for question in questions]), pixels, len(images)
        )
        sizes = [image_size(image) for image in images]
        return {"inputs": inputs, "target_sizes": sizes, "questions": questions, "skipped": skipped}

    def _route(self, index: int, image: Any, modality: str | None, labels: Sequence[str]) -> tuple[str, bool]:
        """Return the modality of an image, and whether it is skipped; errors name the image as its processor does."""
        processor = self.processor.image_processor
        try:
            return processor.route(
                image, modality, known_shares(self.trained, labels, list(processor.modality_settings))
            )
        except ValueError as error:
            raise ValueError(f"image {index}: {error}") from None

    @property
    def fast(self) -> MedGlipForObjectDetection:
        """The form of `model` for inference, see [`~inference.fast_form`]; made once for each model that is set."""
        from .inference import fast_form  # registration imports this module while that one is imported

        made = self.__dict__.get("_fast")
        if made is None or made[0] is not self.model:
            made = self.__dict__["_fast"] = (self.model, fast_form(self.model))
        return cast(MedGlipForObjectDetection, made[1])

    def _forward(self, model_inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        return {"outputs": run_model(self.fast, model_inputs["inputs"]), **model_inputs}

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        threshold: float = 0.3,
        top_k: int | None = None,
        untrained_threshold: float = UNTRAINED_THRESHOLD,
        **options: Any,
    ) -> list[list[dict[str, Any]]]:
        """Return the boxes of each image, best first; none of an image that does not look like a medical one.

        Args:
            model_outputs (`dict[str, Any]`): what `_forward` gave.
            threshold (`float`, *optional*, defaults to 0.3): lowest score.
            top_k (`int`, *optional*): most boxes per image.
            untrained_threshold (`float`, *optional*): lowest score of labels that the checkpoint was not trained with.
            options (`Any`): of the processor's post-processing.
        """
        results = self.processor.post_process_grounded_object_detection(
            model_outputs["outputs"],
            model_outputs["inputs"],
            threshold=threshold,
            target_sizes=model_outputs["target_sizes"],
            **options,
        )
        modalities, skipped = model_outputs["inputs"]["modality"], model_outputs["skipped"]
        parts = list(zip(results, model_outputs["questions"], modalities, skipped, strict=True))
        for _, question, modality, _ in parts:
            for note in question.notes(modality, max(threshold, untrained_threshold)):
                logger.warning_once(note)
        return [
            [] if skip else self._entries(result, question, untrained_threshold)[:top_k]
            for result, question, _, skip in parts
        ]

    @staticmethod
    def _entries(result: dict[str, Any], question: Question, untrained_threshold: float) -> list[dict[str, Any]]:
        return [
            {
                "score": score,
                "label": label,
                "box": dict(zip(CORNERS, box, strict=True)),
                "trained": question.trained[label],
            }
            for label, score, box in question.answers(result, untrained_threshold)
        ]


class MedGlipZeroShotObjectDetectionPipeline(MedicalPhraseGroundingPipeline):
    """The task `zero-shot-object-detection` of a MedGLIP checkpoint.

    It differs from [`MedicalPhraseGroundingPipeline`] by the stock pipeline's threshold of 0.1 and whole pixels.
    """

    def _sanitize_parameters(
        self, timeout: float | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Ignore `timeout`, which transformers passes for downloads: this pipeline downloads nothing."""
        return super()._sanitize_parameters(**kwargs)

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        threshold: float = 0.1,
        top_k: int | None = None,
        untrained_threshold: float = UNTRAINED_THRESHOLD,
        **options: Any,
    ) -> list[list[dict[str, Any]]]:
        """See [`MedicalPhraseGroundingPipeline`]; the threshold is 0.1."""
        return super().postprocess(model_outputs, threshold, top_k, untrained_threshold, **options)

    @staticmethod
    def _entries(result: dict[str, Any], question: Question, untrained_threshold: float) -> list[dict[str, Any]]:
        whole = {**result, "boxes": result["boxes"].int()}
        return MedicalPhraseGroundingPipeline._entries(whole, question, untrained_threshold)


class ZeroShotObjectDetectionTask(ZeroShotObjectDetectionPipeline):
    """transformers' pipeline for every model but MedGLIP's, which gets its own class and its whole processor."""

    _load_processor = None  # where there is one

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Choose the class by the model."""
        model = args[0] if args else kwargs.get("model")
        if not isinstance(getattr(model, "config", None), MedGlipConfig):
            return super().__new__(cls)
        image_processor, tokenizer = kwargs.pop("image_processor", None), kwargs.pop("tokenizer", None)
        if kwargs.get("processor") is None:
            kwargs["processor"] = MedGlipProcessor(image_processor, tokenizer)
        return MedGlipZeroShotObjectDetectionPipeline(*args, **kwargs)


def _listed(images: Any) -> list[Any]:
    """Return a list, tuple, generator or data set as a list."""
    return list(images) if isinstance(images, Iterable) else [images[index] for index in range(len(images))]


def image_size(image: Any) -> tuple[int, int]:
    """Return height and width in pixels of a PIL image, an array or a tensor (channels last or first)."""
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
    """Register `pipeline("medical-phrase-grounding", ...)` with transformers.

    `pipeline("zero-shot-object-detection", ...)` then chooses its class by the model. A second call changes nothing.
    """
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=MedicalPhraseGroundingPipeline,
            pt_model=AutoModelForZeroShotObjectDetection,
            type="multimodal",
        )
    # register_pipeline would warn of a task that exists, and drop its default model.
    PIPELINE_REGISTRY.supported_tasks[STOCK_TASK]["impl"] = ZeroShotObjectDetectionTask


__all__ = ["MedGlipZeroShotObjectDetectionPipeline", "MedicalPhraseGroundingPipeline", "register_pipeline"]
