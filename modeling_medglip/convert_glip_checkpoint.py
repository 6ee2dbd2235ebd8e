"""Convert tensors of the original GLIP (microsoft/GLIP) into a MedGLIP expert.

The checkpoint's tensors must come as a safetensors file or as a plain dictionary: nothing here unpickles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .configuration_medglip import MedGlipConfig, resolve_modality
from .modeling_medglip import MedGlipForObjectDetection


# GLIP's name -> ours, inside one expert. Tried in order.
_EXPERT_RULES: tuple[tuple[str, str], ...] = (
    (r"backbone\.body\.patch_embed\.proj\.", "backbone.swin.embeddings.patch_embeddings.projection."),
    (r"backbone\.body\.patch_embed\.norm\.", "backbone.swin.embeddings.norm."),
    (r"backbone\.body\.layers\.(\d+)\.downsample\.", r"backbone.swin.encoder.layers.\1.downsample."),
    (r"backbone\.body\.layers\.(\d+)\.blocks\.(\d+)\.", r"backbone.swin.encoder.layers.\1.blocks.\2."),
    (r"backbone\.fpn\.top_blocks\.(p6|p7)\.", r"pyramid.\1."),
    (r"rpn\.head\.dot_product_projection_text\.", "alignment.text_projection."),
    (r"rpn\.head\.bias_lang$", "alignment.token_bias"),
    (r"rpn\.head\.bias0$", "alignment.bias"),
    (r"rpn\.head\.log_scale$", "alignment.log_scale"),
)
_SWIN_BLOCK_NAMES = {
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.proj.": "attention.o_proj.",
    "attn.relative_position_bias_table": "attention.relative_position_bias.relative_position_bias_table",
}
_DYNAMIC_CONV_NAMES = {
    "DyConv.0.conv.": "conv_coarse.",
    "DyConv.1.conv.": "conv_same.",
    "DyConv.2.conv.": "conv_fine.",
    "DyConv.0.bn.": "norm_coarse.",
    "DyConv.1.bn.": "norm_same.",
    "DyConv.2.bn.": "norm_fine.",
    "AttnConv.1.": "scale_attention.",
    "relu.fc.0.": "activation.squeeze.",
    "relu.fc.2.": "activation.excite.",
    "offset.": "offset.",
}
# Buffers that MedGLIP computes, and the frozen classifier that GLIP carries but never uses.
_IGNORED = re.compile(
    r"relative_position_index$|anchor_generator\.cell_anchors|embeddings\.position_ids$|rpn\.head\.cls_logits\."
    r"|rpn\.head\.mlm_head\.|tunable_linear"
)


def config_from_glip(glip_config: Mapping[str, Any], modality: str) -> MedGlipConfig:
    """Return the MedGLIP configuration of a GLIP model.

    Args:
        glip_config (`Mapping[str, Any]`): sizes in the groups of the reference's `config`: `swin`, `head`, `bert` and
            `anchors`.
        modality (`str`): of the expert, by any of its names.
    """
    swin, head = dict(glip_config["swin"]), glip_config["head"]
    bert = glip_config.get("bert", "bert-base-uncased")
    text = {} if isinstance(bert, str) else dict(bert)
    anchors = glip_config.get("anchors", {})
    return MedGlipConfig(
        modalities=[resolve_modality(modality)],
        backbone_config={"model_type": "swin", "out_indices": [2, 3, 4], "drop_path_rate": 0.2, **swin},
        text_config={"model_type": "bert", **text},
        head_config={
            "channels": head["channels"],
            "num_blocks": head["num_convs"],
            "fusion_dim": head["fuse_embed_dim"],
            "fusion_heads": head["fuse_heads"],
            "groups": head.get("group_norm_groups", 16),
            "prior_prob": head.get("prior_prob", 0.01),
            "text_heads": text.get("num_attention_heads", 12),
            "text_intermediate": text.get("intermediate_size", 3072),
            "anchor_sizes": list(anchors.get("sizes", (64, 128, 256, 512, 1024))),
            "anchor_strides": list(anchors.get("strides", (8, 16, 32, 64, 128))),
            "atss_topk": glip_config.get("atss", {}).get("topk", 9),
        },
    )


def convert_state_dict(state_dict: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    """Rename, split and reshape GLIP's tensors.

    Args:
        state_dict (`Mapping[str, Tensor]`): tensors under GLIP's names, with or without the `module.` prefix.
        modality (`str`): of the expert, by any of its names.

    Raises:
        `ValueError`: a tensor has a name that GLIP does not have.
    """
    name = resolve_modality(modality)
    prefix = f"model.experts.{name}."
    converted: dict[str, Tensor] = {}
    scales: dict[int, Tensor] = {}
    for key, value in state_dict.items():
        key = key.removeprefix("module.")
        if _IGNORED.search(key):
            continue
        if match := re.fullmatch(r"rpn\.head\.scales\.(\d+)\.scale", key):
            scales[int(match[1])] = value.reshape(1)
        elif match := re.fullmatch(r"rpn\.head\.(bbox_pred|centerness)\.(weight|bias)", key):
            layer = "box_projection" if match[1] == "bbox_pred" else "centerness_projection"
            converted[f"box_heads.{name}.{layer}.{match[2]}"] = _as_linear(value)
        elif key.startswith("language_backbone.body.model."):
            converted["model.text_model." + key.removeprefix("language_backbone.body.model.")] = value
        else:
            converted.update({prefix + ours: tensor for ours, tensor in _convert_expert_tensor(key, value).items()})
    if scales:
        converted[f"box_heads.{name}.level_scales"] = torch.cat([scales[level] for level in sorted(scales)])
    return converted


def _as_linear(weight: Tensor) -> Tensor:
    """Return the weight of a 1x1 convolution as that of a linear layer."""
    return weight.flatten(1) if weight.dim() == 4 else weight


def _convert_expert_tensor(key: str, value: Tensor) -> dict[str, Tensor]:
    if match := re.fullmatch(r"backbone\.fpn\.fpn_(inner|layer)([234])\.(.+)", key):
        part = "lateral" if match[1] == "inner" else "smooth"
        return {f"pyramid.{part}.{int(match[2]) - 2}.{match[3]}": value}
    if match := re.fullmatch(r"backbone\.body\.norm(\d)\.(.+)", key):
        return {f"backbone.hidden_states_norms.stage{int(match[1]) + 1}.{match[2]}": value}
    if match := re.fullmatch(r"rpn\.head\.dyhead_tower\.(\d+)\.(.+)", key):
        return {f"blocks.{int(match[1]) // 3}.{_tower_name(int(match[1]) % 3, match[2])}": _tower_value(key, value)}
    for pattern, replacement in _EXPERT_RULES:
        if re.match(pattern, key):
            return _convert_swin_block(re.sub(pattern, replacement, key), value)
    raise ValueError(f"tensor {key!r} is not one of GLIP's: this converter reads GLIP with a Swin backbone only")


def _convert_swin_block(key: str, value: Tensor) -> dict[str, Tensor]:
    """Split Swin's joint qkv projection into three; exchange the other names."""
    if match := re.fullmatch(r"(.+)\.attn\.qkv\.(weight|bias)", key):
        parts = value.chunk(3)
        return {f"{match[1]}.attention.{n}_proj.{match[2]}": p for n, p in zip("qkv", parts, strict=True)}
    for theirs, ours in _SWIN_BLOCK_NAMES.items():
        if ".blocks." in key and f".{theirs}" in key + ".":
            return {key.replace(f".{theirs}", f".{ours}"): value}
    return {key: value}


def _tower_name(kind: int, rest: str) -> str:
    if kind == 0:
        rest = rest.removeprefix("b_attn.")
        for theirs, ours in (
            ("attn.", "attention."),
            ("layer_norm_v.", "norm_visual."),
            ("layer_norm_l.", "norm_text."),
            ("gamma_v", "gamma_visual"),
            ("gamma_l", "gamma_text"),
        ):
            if rest.startswith(theirs):
                return "fusion." + ours + rest.removeprefix(theirs)
    if kind == 1:
        return f"text_layer.{rest}"
    for theirs, ours in _DYNAMIC_CONV_NAMES.items():
        if rest.startswith(theirs):
            return "dynamic_conv." + ours + rest.removeprefix(theirs)
    raise ValueError(f"tensor 'rpn.head.dyhead_tower...{rest}' is not one of GLIP's")


def _tower_value(key: str, value: Tensor) -> Tensor:
    return _as_linear(value) if "AttnConv" in key else value


def model_from_glip(
    state_dict: Mapping[str, Tensor], glip_config: Mapping[str, Any], modality: str
) -> MedGlipForObjectDetection:
    """Build a MedGLIP expert from GLIP's tensors.

    Args:
        state_dict (`Mapping[str, Tensor]`): tensors under GLIP's names, with or without the `module.` prefix.
        glip_config (`Mapping[str, Any]`): sizes, as for [`config_from_glip`]; `GLIP_T_CONFIG` for the public GLIP-T.
        modality (`str`): of the expert, by any of its names.

    Raises:
        `ValueError`: a tensor is missing, left over or of another shape.
    """
    model = MedGlipForObjectDetection(config_from_glip(glip_config, modality))
    converted = convert_state_dict(state_dict, modality)
    expected = model.state_dict()
    missing, extra = sorted(expected.keys() - converted.keys()), sorted(converted.keys() - expected.keys())
    wrong = sorted(key for key in expected.keys() & converted.keys() if expected[key].shape != converted[key].shape)
    for problem, keys in (("lacks", missing), ("has unknown", extra), ("has another shape for", wrong)):
        if keys:
            raise ValueError(f"the GLIP checkpoint {problem} {len(keys)} tensors, the first is {keys[0]!r}")
    model.load_state_dict(converted)
    return model.eval()


GLIP_T_CONFIG: dict[str, Any] = {
    "swin": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7, "mlp_ratio": 4},
    "head": {"channels": 256, "num_convs": 6, "fuse_embed_dim": 2048, "fuse_heads": 8},
    "bert": "bert-base-uncased",
}


def convert_file(source: Path, destination: Path, modality: str) -> None:
    """Convert a safetensors file with GLIP-T's tensors into a MedGLIP checkpoint folder.

    Args:
        source (`Path`): the file.
        destination (`Path`): the folder to write.
        modality (`str`): of the expert, by any of its names.
    """
    from safetensors.torch import load_file

    model_from_glip(load_file(source), GLIP_T_CONFIG, modality).save_pretrained(destination)


__all__ = ["GLIP_T_CONFIG", "config_from_glip", "convert_file", "convert_state_dict", "model_from_glip"]
