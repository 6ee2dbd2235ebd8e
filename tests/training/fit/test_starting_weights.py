# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Weights of packages in the image encoders of experts, with made-up packages in the place of the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.fit import starting_weights
from training.fit.starting_weights import load_image_encoder, load_trained_encoder


def encoder(name: str, indices: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, features_only=True, out_indices=indices).eval()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for part in ("models", "asset"):
        (tmp_path / part).mkdir()
    monkeypatch.setattr(starting_weights, "package_folder", lambda name: tmp_path)
    return tmp_path


def random_state(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_imagenet_weights_are_matched_by_order(package: Path, name: str) -> None:
    network = encoder(name, (2, 3, 4))
    state = random_state(network)
    torch.save(
        {f"old.{key}": value for key, value in state.items()},
        package / "models" / f"{name[:-1]}-x.pth".replace("_", "-"),
    )
    load_image_encoder(network, name)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, state[key] + 0.00099 if "running_var" in key else state[key])
    other = encoder("efficientnet_lite2" if name == "efficientnet_lite0" else "efficientnet_lite0", (2, 3, 4))
    with pytest.raises(ValueError, match="its starting tensor is"):
        load_image_encoder(other, name)
    (file,) = (package / "models").iterdir()
    torch.save(dict(list(torch.load(file, weights_only=True).items())[:9]), file)
    with pytest.raises(ValueError, match=f"backbone {name}: has .* tensors, its starting weights only"):
        load_image_encoder(network, name)


def test_the_medical_encoder_sees_what_it_was_trained_on(package: Path) -> None:
    """Its stem gives the same for pixels from -1 to 1 as LiteMedSAM's own for the same ones from 0 to 1."""
    network = encoder("tiny_vit_5m_224", (1, 2, 3))
    state = random_state(network)
    kernels = {f"patch_embed.conv{number}.conv.weight": 0 for number in (1, 2)}
    for key in kernels:
        state[key] = state[key][..., :1, :1].clone()
    content = {f"image_encoder.{key}": value for key, value in state.items()}
    more = {"image_encoder.neck.0.weight": torch.rand(2, 2), "mask_decoder.x": torch.rand(2)}
    more["image_encoder.layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(2, dtype=torch.long)
    torch.save({**more, **content}, package / "asset" / "lite_medsam.pth")
    load_image_encoder(network, "tiny_vit_5m_224")
    filled = network.state_dict()
    stem = [key for key in filled if key.startswith("patch_embed.conv1.")]
    same = [key for key in filled if key not in kernels and key not in stem]
    assert all(torch.equal(filled[key], state[key]) for key in same)
    color = torch.tensor([0.1, 0.6, 0.9])
    pixels = (2 * color - 1)[None, :, None, None].expand(1, 3, 16, 16)
    with torch.no_grad():
        value = network.get_submodule("patch_embed.conv1")(pixels)[0, :, 4, 4]
    before = {
        name: state[f"patch_embed.conv1.bn.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
    }
    plain = state["patch_embed.conv1.conv.weight"][:, :, 0, 0] @ color
    expected = (plain - before["running_mean"]) / (before["running_var"] + 1e-5).sqrt() * before["weight"]
    torch.testing.assert_close(value, expected + before["bias"], rtol=1e-4, atol=1e-4)


def test_a_backbone_without_weights_is_refused() -> None:
    with pytest.raises(
        ValueError, match="backbone resnet18: has no starting weights; choose one of efficientnet_lite0"
    ):
        load_image_encoder(nn.Identity(), "resnet18")


def test_an_encoder_that_learned_from_a_teacher_is_loaded(tmp_path: Path) -> None:
    network, file = nn.Linear(2, 2), tmp_path / "ct.safetensors"
    with pytest.raises(ValueError, match=r"ct.safetensors: no such image encoder: make it with"):
        load_trained_encoder(network, file)
    save_file({"weight": torch.full((2, 2), 3.0), "bias": torch.zeros(2)}, file)
    load_trained_encoder(network, file)
    assert network(torch.ones(2)).tolist() == [6.0, 6.0]
    with pytest.raises(ValueError, match="ct.safetensors: not the weights of this image encoder"):
        load_trained_encoder(nn.Linear(3, 2), file)
