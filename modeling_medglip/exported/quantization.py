# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Convolutions of exported graphs in eight-bit integers, with ranges learned from images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..detection import prepare_images
from ..modeling_medglip import MedGlipExpert, MedGlipForObjectDetection, TextFeatures
from ..processing_medglip import MedGlipProcessor
from ..trained_labels import trained_labels
from .manifest import LEVELS, parts_of
from .runtime import full_mask


# Most images that ranges are learned from.
MAX_IMAGES = 100
# Operators in eight bits. Activations are named because their bounds then are those of the integers, so that one
# convolution after the other stays in integers. Else the runtimes convert between them, which takes longer.
QUANTIZED = ["Conv", "Clip", "Relu"]


def spread(items: Sequence[Any]) -> list[Any]:
    """Return at most `MAX_IMAGES` items, evenly spread over all."""
    return list(items[:: max(1, -(-len(items) // MAX_IMAGES))])


def quantize(
    model: MedGlipForObjectDetection, processor: MedGlipProcessor, folder: Path, images: Sequence[Any]
) -> None:
    """Replace the convolutions of an expert's ONNX graphs by eight-bit ones.

    Args:
        model ([`MedGlipForObjectDetection`]): the graphs were made of, with one expert.
        processor ([`MedGlipProcessor`]): the model's.
        folder (`Path`): with the graphs.
        images (`Sequence`): of the modality, as the processor takes them; at most `MAX_IMAGES`, evenly spread, count.
    """
    (modality,) = model.config.modalities
    chosen = spread(images)
    encoder, decoder = (folder / f"{part}.onnx" for part in parts_of(modality))
    _quantize(encoder, (inputs for inputs, _ in _inputs(model, processor, chosen)))
    _quantize(decoder, (inputs for _, inputs in _inputs(model, processor, chosen)))


def _quantize(file: Path, inputs: Iterator[dict[str, Any]]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(inputs, None)

    quantize_static(
        str(file), str(file), Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=QUANTIZED, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


@torch.inference_mode()
def _inputs(
    model: MedGlipForObjectDetection, processor: MedGlipProcessor, images: Sequence[Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the inputs of image encoder and decoder for each image, asked for the trained labels of one chunk."""
    (modality,) = model.config.modalities
    expert = cast(MedGlipExpert, model.model.experts[modality])
    labels = trained_labels(model.config.to_dict()).get(modality) or ["organ"]
    encoded, _ = processor.encode_prompts([labels])
    text = model.get_text_features(encoded["input_ids"], encoded["attention_mask"])
    first = TextFeatures(*(part[:, 0] if text.hidden.dim() == 4 else part for part in text))
    first = first._replace(text_mask=full_mask(first.text_mask, first.hidden.shape[1]))
    prompts = first._asdict()
    for image in images:
        pixels = prepare_images(processor, [image], modality)
        height, width = pixels["image_sizes"][0]
        values: Tensor = pixels["pixel_values"][..., :height, :width]
        levels = expert.encode_image(values)
        maps = dict(zip(LEVELS, levels, strict=True))
        yield {"pixel_values": values.numpy()}, {name: tensor.numpy() for name, tensor in {**maps, **prompts}.items()}


__all__ = ["MAX_IMAGES", "quantize", "spread"]
