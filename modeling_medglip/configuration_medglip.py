# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""MedGLIP configuration: the imaging modalities and the sizes of the networks."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import cached_file


MODALITIES: tuple[str, ...] = ("ct", "mri", "ultrasound", "xray", "dermoscopy", "endoscopy", "fundus")

# DICOM defined terms (PS3.3 C.7.3.1.1.1) and everyday names. Keys hold letters and digits only, in lower case.
MODALITY_ALIASES: dict[str, str] = {
    "computedtomography": "ct",
    "cat": "ct",
    "mr": "mri",
    "magneticresonance": "mri",
    "magneticresonanceimaging": "mri",
    "us": "ultrasound",
    "ivus": "ultrasound",
    "sonography": "ultrasound",
    "echocardiography": "ultrasound",
    "echo": "ultrasound",
    "cr": "xray",
    "dx": "xray",
    "dr": "xray",
    "rg": "xray",
    "radiograph": "xray",
    "radiography": "xray",
    "cxr": "xray",
    "mg": "xray",
    "derm": "dermoscopy",
    "dms": "dermoscopy",
    "dermatoscopy": "dermoscopy",
    "dermatology": "dermoscopy",
    "skin": "dermoscopy",
    "es": "endoscopy",
    "colonoscopy": "endoscopy",
    "gastroscopy": "endoscopy",
    "laparoscopy": "endoscopy",
    "op": "fundus",
    "ophthalmicphotography": "fundus",
    "retina": "fundus",
    "cfp": "fundus",
}


def resolve_modality(name: str) -> str:
    """Return the canonical modality for a name, a DICOM code or an everyday alias.

    Args:
        name (`str`): for example `"CT"`, `"MR"`, `"X-ray"`, `"skin"`.

    Raises:
        `ValueError`: the name is not known; the message lists the choices.
    """
    key = "".join(character for character in str(name).lower() if character.isalnum())
    if key in MODALITIES:
        return key
    if key in MODALITY_ALIASES:
        return MODALITY_ALIASES[key]
    raise ValueError(f"unknown modality {str(name)[:60]!r}: choose one of {', '.join(MODALITIES)}")


# Files of a checkpoint: checked before any of them is read -----------------------------------------------------------

# Arguments of `from_pretrained` that say where a folder or Hub id is looked up.
HUB_OPTIONS = ("cache_dir", "revision", "token", "subfolder", "local_files_only", "force_download", "proxies")
# Files that the loaders read, and the most bytes that a JSON file may have (a tokenizer's vocabulary is the largest).
READ_SUFFIXES = (".json", ".safetensors", ".txt", ".jinja", ".model")
MAX_JSON_BYTES, MAX_TOKENIZER_BYTES = 2**24, 2**25
# The weights of the image processor's modality router.
ROUTER_FILE = "router.safetensors"
# Tokenizers read config.json too, without this module's configuration class.
SETTINGS_FILES = ("config.json", "processor_config.json", "preprocessor_config.json")
# What a processor would load from elsewhere, or read without bounds; MedGLIP has no use for either.
REFUSED_FILES = ("audio_tokenizer_config.json", "additional_chat_templates")
# Lists of tokens that are added to a tokenizer one by one, in Python.
TOKEN_FILES = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
MAX_ADDED_TOKENS = 10_000
SHARD_NAME = re.compile(r"[\w.-]+\.safetensors")


def check_checkpoint_files(source: Any, names: Iterable[str] = ("config.json",), **hub: Any) -> Path | None:
    """Refuse a checkpoint whose files lie elsewhere, never end, or name weights that are not safetensors.

    Args:
        source (`str` or `Path`): a folder or a Hub id.
        names (`Iterable[str]`, *optional*): of a Hub id, the files to fetch and to check.
        hub (`Any`): the arguments of `from_pretrained` that say where to look; others are ignored.

    Returns:
        the folder that holds the files; `None` if there is none yet, which the loader reports in its own words.

    Raises:
        `ValueError`: naming the file and what is wrong with it.
    """
    subfolder = hub.get("subfolder") or ""
    if Path(str(source)).is_dir():
        folder = Path(str(source), subfolder)
    else:
        options = {key: value for key, value in hub.items() if key in HUB_OPTIONS and value is not None}
        files = [file for name in names if (file := _fetched(source, name, options))]
        if not files:
            return None
        folder = Path(files[0]).parent
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.name in REFUSED_FILES:
            raise ValueError(f"{entry.name} is not allowed in a checkpoint: remove it")
        if entry.name.endswith(READ_SUFFIXES):
            _check_file(entry, folder)
            if ".index" in entry.name and entry.suffix == ".json":
                _check_index(entry)
            elif entry.name in SETTINGS_FILES:
                check_settings(read_json(entry), entry.name)
            elif entry.name in TOKEN_FILES:
                _check_added_tokens(entry)
    return folder


def _fetched(source: Any, name: str, options: dict[str, Any]) -> str | None:
    """Return a file of a Hub id in the cache; `None` where it cannot be had."""
    try:
        return cached_file(str(source), name, _raise_exceptions_for_missing_entries=False, **options)
    except (OSError, ValueError):
        return None


def _check_file(file: Path, folder: Path) -> None:
    """Check that a file is regular, inside its folder and of a bounded size."""
    try:
        status = os.stat(file)
    except OSError:
        raise ValueError(f"{file.name} cannot be read: a broken link, or no permission") from None
    if stat.S_ISDIR(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{file.name} is not a regular file")
    home, target = folder.resolve(), file.resolve()
    # The Hub's cache holds the contents beside its snapshots and links to them.
    caches = (parent.parent / "blobs" for parent in home.parents if parent.name == "snapshots")
    if not any(target.is_relative_to(parent) for parent in (home, *caches)):
        raise ValueError(f"{file.name} is a link out of the folder: put the file itself there")
    limit = MAX_TOKENIZER_BYTES if file.name == "tokenizer.json" else MAX_JSON_BYTES
    if file.suffix != ".safetensors" and status.st_size > limit:
        raise ValueError(f"{file.name} has {status.st_size} bytes, more than {limit}")


def read_json(file: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        `ValueError`: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"{file.name} cannot be read as JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} cannot be read: it does not hold a JSON object")
    return content


def _check_index(file: Path) -> None:
    """Check that the shards which an index names are safetensors files of the same folder."""
    try:
        shards = set(read_json(file)["weight_map"].values())
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{file.name} is not an index of a checkpoint") from None
    for shard in shards:
        if not isinstance(shard, str) or not SHARD_NAME.fullmatch(shard):
            raise ValueError(
                f"{file.name} names {str(shard)[:60]!r}: only plain names of .safetensors files in the same folder"
            )


def _check_added_tokens(file: Path) -> None:
    """Check that a tokenizer has no more added tokens than can be added in a second."""
    content = read_json(file)
    lists = [content, *content.values()]  # a vocabulary lies one level deeper
    count = max(len(part) for part in lists if isinstance(part, (list, dict)))
    if count > MAX_ADDED_TOKENS:
        raise ValueError(f"{file.name} adds {count} tokens, more than {MAX_ADDED_TOKENS}")


# Sizes and settings of a configuration file: checked before anything is built from them ------------------------------

MAX_DEPTH, MAX_VALUES, MAX_NUMBER = 16, 300_000, 2**20
SIZE_LIMITS = {"window_size": 128, "num_labels": 10_000}
# Layers of all networks of a file together: each is built before the weights are looked at.
LAYER_COUNT = re.compile(r"(layers?|blocks?|depths?|experts?)$")
MAX_LAYERS = 256
# Settings that make transformers or timm read pickles, fetch code or go to the network.
REFUSED_SETTINGS = (
    "transformers_weights", "quantization_config", "fusion_config", "kernel_config", "model_args", "checkpoint_path",
    "use_pretrained_backbone", "experts_implementation", "_experts_implementation", "audio_tokenizer",
)  # fmt: skip
ATTENTION = ("eager", "sdpa", "flex_attention")
PRECISION = re.compile(r"(torch\.)?(auto|half|double|b?float(16|32|64)?)")
PLAIN_NAME = re.compile(r"[\w.-]+")


def check_settings(settings: Any, file: str = "config.json") -> None:
    """Refuse settings of a checkpoint that are out of all proportion or that reach beyond its folder.

    Args:
        settings (`Any`): what the JSON file holds.
        file (`str`, *optional*, defaults to `"config.json"`): the name for messages.

    Raises:
        `ValueError`: naming the setting and its value.
    """
    layers = 0.0
    for count, (key, value) in enumerate(_settings_in(settings, file)):
        if count > MAX_VALUES:
            raise ValueError(f"{file} holds more than {MAX_VALUES} values")
        if problem := _setting_problem(key, value):
            raise ValueError(f"{file}: {key[:60]} {problem}")
        if LAYER_COUNT.search(key) and isinstance(value, (int, float)):
            layers += max(abs(value), 1)
            if layers > MAX_LAYERS:
                raise ValueError(f"{file}: {key[:60]} is out of range: {layers:.6g} layers, more than {MAX_LAYERS}")


def _settings_in(settings: Any, file: str) -> Iterator[tuple[str, Any]]:
    """Yield the key and value of every number and text, and of every dictionary; items of a list have its key."""
    waiting = [(settings, "", 0)]
    while waiting:
        value, key, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"{file} is nested more than {MAX_DEPTH} deep")
        if isinstance(value, dict):
            waiting.extend((part, str(name), depth + 1) for name, part in value.items())
        if isinstance(value, (list, tuple)):
            waiting.extend((part, key, depth + 1) for part in value)
        else:
            yield key, value


def _setting_problem(key: str, value: Any) -> str | None:
    """Return what is wrong with one value of a configuration file, or `None`."""
    if value is None or (isinstance(value, bool) and not value):
        return None
    if key in REFUSED_SETTINGS:
        return "is not allowed in a checkpoint: it can load or run what is not in the folder"
    if key in ("attn_implementation", "_attn_implementation") and value not in ATTENTION:
        return f"must be one of {', '.join(ATTENTION)}, not {str(value)[:60]!r}"
    if key in ("dtype", "torch_dtype") and not PRECISION.fullmatch(str(value)):
        return f"is not a floating-point type: {str(value)[:60]!r}"
    if key == "backbone" and isinstance(value, str) and not PLAIN_NAME.fullmatch(value):
        return f"must be the name of an architecture, not {value[:60]!r}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is not finite: {value}"
    limit = SIZE_LIMITS.get(key, MAX_NUMBER)
    if isinstance(value, (int, float)) and abs(value) > limit:
        return f"is out of range: {value:.6g} is more than {limit}"
    return None


@strict
class MedGlipHeadConfig(PreTrainedConfig):
    r"""Sizes of the feature pyramid, the deep-fusion tower and the prediction layers.

    Defaults are GLIP-T's (microsoft/GLIP, `glip_Swin_T_O365_GoldG.yaml`).

    Args:
        channels (`int`, defaults to 256): width of the pyramid and of the region features.
        num_blocks (`int`, defaults to 6): fusion blocks (cross-attention, text layer, dynamic convolution).
        fusion_dim (`int`, defaults to 2048): width of the bi-directional cross-attention, all heads together.
        fusion_heads (`int`, defaults to 8): heads of the cross-attention.
        fusion_dropout (`float`, defaults to 0.1): dropout on both attention maps.
        text_dim (`int`, *optional*): width of the text inside the tower. `None` keeps the language encoder's own
            width (GLIP); a number puts a linear projection before the tower.
        text_heads (`int`, defaults to 12): attention heads of the BERT layer inside each block.
        text_intermediate (`int`, defaults to 3072): width of that layer's feed-forward part.
        text_dropout (`float`, defaults to 0.1): dropout of that layer.
        conv_type (`str`, defaults to `"deformable"`): `"deformable"` (modulated, DCNv2) or `"plain"` 3x3 convolutions.
        groups (`int`, defaults to 16): groups of every GroupNorm.
        pyramid_norm (`bool`, defaults to `False`): GroupNorm after the pyramid's 3x3 convolutions.
        drop_block (`float`, defaults to 0.3): DropBlock probability on P3 and P4 while training.
        positions (`bool`, defaults to `False`): add a projected 2-D sine code of the position to the pyramid, so that
            regions know left from right. GLIP has none.
        anchor_sizes (`list[float]`, defaults to `(64, 128, 256, 512, 1024)`): side in pixels of the one square anchor
            per cell, for P3..P7.
        anchor_strides (`list[int]`, defaults to `(8, 16, 32, 64, 128)`): pixels between cells, for P3..P7.
        prior_prob (`float`, defaults to 0.01): prior of the focal loss; sets the alignment's starting bias.
        log_scale_init (`float`, defaults to 0.0): starting logarithm of the temperature that the alignment is divided
            by. GLIP's 0 suits long training; a negative one lets a short one tell labels apart from the start.
        region_norm (`bool`, defaults to `False`): LayerNorm on the region features before the prediction layers. GLIP
            has none.
        box_scale_init (`float`, defaults to 1.0): starting factor of the box deltas on every level; 10 undoes the
            box coder's weights, so that boxes move early in a short training.
        atss_topk (`int`, defaults to 9): candidates per level in the assignment.
        focal_alpha (`float`, defaults to 0.25): weight of the positives in the focal loss of the alignment.
        focal_gamma (`float`, defaults to 2.0): how strongly that loss weighs easy pairs down.
        box_loss_weight (`float`, defaults to 2.0): weight of the GIoU loss.
        presence_dim (`int`, defaults to 0): width of the head that answers whether the image shows a label at all, by
            whose probability, where it is low, the scores of boxes are multiplied. 0 (GLIP): there is none.
        presence_loss_weight (`float`, defaults to 1.0): weight of its cross-entropy.
        contrast_loss_weight (`float`, defaults to 0.0): weight of the cross-entropy over the labels of a prompt in
            regions that show one of them. GLIP has none.
        score_calibration (`list[float]`, *optional*): slope and intercept, on the logit of the final score, that turn
            it into the chance that the box is right (Platt, 1999). `None` (GLIP) keeps the score as it is.
        initializer_range (`float`, defaults to 0.02): standard deviation of the other layers' initial weights.
    """

    model_type = "med-glip-head"

    channels: int = 256
    num_blocks: int = 6
    fusion_dim: int = 2048
    fusion_heads: int = 8
    fusion_dropout: float | int = 0.1
    text_dim: int | None = None
    text_heads: int = 12
    text_intermediate: int = 3072
    text_dropout: float | int = 0.1
    conv_type: str = "deformable"
    groups: int = 16
    pyramid_norm: bool = False
    drop_block: float | int = 0.3
    positions: bool = False
    anchor_sizes: list[float | int] | tuple[float | int, ...] = (64, 128, 256, 512, 1024)
    anchor_strides: list[int] | tuple[int, ...] = (8, 16, 32, 64, 128)
    prior_prob: float = 0.01
    region_norm: bool = False
    log_scale_init: float | int = 0.0
    box_scale_init: float | int = 1.0
    atss_topk: int = 9
    focal_alpha: float = 0.25
    focal_gamma: float | int = 2.0
    box_loss_weight: float | int = 2.0
    presence_dim: int = 0
    presence_loss_weight: float | int = 1.0
    contrast_loss_weight: float | int = 0.0
    score_calibration: list[float | int] | tuple[float | int, ...] | None = None
    initializer_range: float = 0.02

    def validate_architecture(self) -> None:
        """Check that the sizes fit together."""
        if self.conv_type not in ("deformable", "plain"):
            raise ValueError(f"conv_type must be 'deformable' or 'plain', got {self.conv_type!r}")
        if self.fusion_dim % self.fusion_heads:
            raise ValueError(f"fusion_dim {self.fusion_dim} is not a multiple of fusion_heads {self.fusion_heads}")
        if self.channels % self.groups:
            raise ValueError(f"channels {self.channels} is not a multiple of groups {self.groups}")
        if len(self.anchor_sizes) != len(self.anchor_strides):
            raise ValueError("anchor_sizes and anchor_strides need one number per level")
        calibration = self.score_calibration
        if calibration is not None and (len(calibration) != 2 or not calibration[0] > 0):
            raise ValueError(f"score_calibration must be a positive slope and an intercept, got {calibration}")


@strict
class MedGlipConfig(PreTrainedConfig):
    r"""Configuration of a MedGLIP checkpoint: one language encoder shared by one or several experts.

    Each expert has its own image encoder, pyramid, fusion tower and prediction layers. Defaults are GLIP-T's.

    Args:
        text_config (`dict` or config, *optional*): the language encoder; a BERT by default.
        backbone_config (`dict` or config, *optional*): anything `AutoBackbone` builds with maps at strides 8, 16, 32;
            a Swin by default.
        head_config (`dict` or `MedGlipHeadConfig`, *optional*): see [`MedGlipHeadConfig`].
        modalities (`list[str]`, defaults to `["ct"]`): the experts in this checkpoint; aliases are resolved.
        expert_overrides (`dict`, *optional*): what single experts have different, for example
            `{"ct": {"head_config": {"anchor_sizes": [24, 48, 96, 192, 384]}}}`.
        text_attention (`str`, defaults to `"prompt"`): `"prompt"`: every token sees the whole prompt (GLIP);
            `"label"`: a token sees only its own label, so the order of the labels changes nothing.
        separator_token_ids (`list[int]`, defaults to `[101, 1012]`): the tokens that end a label ("." in BERT's
            vocabulary), and the one that opens a prompt ("[CLS]"), which belongs to no label; used by
            `text_attention="label"`.
        label_hierarchy (`dict`, *optional*): free data on the labels the checkpoint was trained with. Dictionaries in
            it that are keyed by modality follow the experts when some are taken out or joined.

    Example:
    ```python
    >>> from modeling_medglip import MedGlipConfig, MedGlipForObjectDetection
    >>> model = MedGlipForObjectDetection(MedGlipConfig.glip_t(modalities=("ct", "mri")))
    ```
    """

    model_type = "med-glip"
    sub_configs = {"text_config": AutoConfig, "backbone_config": AutoConfig, "head_config": MedGlipHeadConfig}
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig, model_type="swin", init_kwargs={"out_indices": [2, 3, 4], "drop_path_rate": 0.2}
        ),
        "head_config": SubConfigSpec(config_class=MedGlipHeadConfig),
    }
    keys_to_ignore_at_inference = [
        "region_features", "token_features", "spatial_shapes", "input_sizes", "score_calibration", "label_token_mask",
        "presence_logits",
    ]  # fmt: skip

    text_config: dict | PreTrainedConfig | None = None
    backbone_config: dict | PreTrainedConfig | None = None
    head_config: dict | PreTrainedConfig | None = None
    modalities: list[str] | tuple[str, ...] = ("ct",)
    expert_overrides: dict | None = None
    text_attention: str = "prompt"
    separator_token_ids: list[int] | tuple[int, ...] = (101, 1012)
    label_hierarchy: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.modalities, str):
            self.modalities = [self.modalities]
        self.modalities = list(dict.fromkeys(resolve_modality(name) for name in self.modalities))
        self.expert_overrides = {resolve_modality(k): v for k, v in (self.expert_overrides or {}).items()}
        if not isinstance(self.head_config, PreTrainedConfig):
            self.head_config = MedGlipHeadConfig(**{k: v for k, v in (self.head_config or {}).items()})
        super().__post_init__(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a configuration as `PreTrainedConfig.from_pretrained` does, after its files are checked.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): a folder or a Hub id.
            kwargs (`Any`): see `PreTrainedConfig.from_pretrained`, and `modalities` of `from_dict`.

        Raises:
            `ValueError`: see [`check_checkpoint_files`].
        """
        check_checkpoint_files(pretrained_model_name_or_path, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a configuration of its settings as `PreTrainedConfig.from_dict` does.

        Args:
            config_dict (`dict[str, Any]`): the settings.
            modalities (`str` or `list[str]`, *optional*): the experts to choose, by any of their names.
            kwargs (`Any`): settings that go before them.

        Raises:
            `ValueError`: a setting is of a wrong type, out of all proportion, or reaches beyond the checkpoint.
        """
        requested = kwargs.pop("modalities", None)
        check_settings(config_dict)
        try:
            loaded = super().from_dict(config_dict, **kwargs)
        except ValueError:
            raise
        except Exception as error:  # a wrong type makes validators and sub-configurations raise nearly anything
            raise ValueError(f"config.json does not describe a MedGLIP model: {error}") from error
        if requested is None:
            return loaded
        names = [requested] if isinstance(requested, str) else list(requested)
        if isinstance(loaded, tuple):
            return loaded[0].for_modalities(names), *loaded[1:]
        return loaded.for_modalities(names)

    def validate_architecture(self) -> None:
        """Check the modalities and that all experts give features of one width."""
        if not self.modalities:
            raise ValueError(f"a checkpoint needs at least one modality of {', '.join(MODALITIES)}")
        if not all(isinstance(token, int) and token >= 0 for token in self.separator_token_ids):
            raise ValueError(f"separator_token_ids must be token ids, got {self.separator_token_ids!r}")
        if self.text_attention not in ("prompt", "label"):
            raise ValueError(f"text_attention must be 'prompt' or 'label', got {self.text_attention!r}")
        heads = [self.expert_head_config(name) for name in self.modalities]
        widths, strides = {head.channels for head in heads}, {tuple(head.anchor_strides) for head in heads}
        for field, values in (("head channels", widths), ("anchor_strides", strides)):
            if len(values) > 1:
                raise ValueError(f"all experts of a checkpoint need the same {field}, got {sorted(values)}")

    def expert_head_config(self, modality: str) -> MedGlipHeadConfig:
        """Return the head configuration of one expert, its overrides applied."""
        return self._overridden("head_config", modality)

    def expert_backbone_config(self, modality: str) -> PreTrainedConfig:
        """Return the image encoder's configuration of one expert, its overrides applied."""
        return self._overridden("backbone_config", modality)

    def _overridden(self, name: str, modality: str) -> Any:
        base = getattr(self, name)
        changes = (self.expert_overrides or {}).get(modality, {}).get(name)
        if not changes:
            return base
        if not isinstance(changes, dict):
            raise ValueError(f"expert_overrides of {modality}: {name} must be a dictionary of settings")
        if changes.get("model_type", base.model_type) != base.model_type:
            return AutoConfig.for_model(**changes)
        return type(base).from_dict({**base.to_dict(), **changes})

    def require_modalities(self, modalities: Iterable[str]) -> list[str]:
        """Return the canonical names of experts.

        Raises:
            `ValueError`: one of them is not in this checkpoint.
        """
        names = [resolve_modality(name) for name in modalities]
        absent = [name for name in dict.fromkeys(names) if name not in self.modalities]
        if absent or not names:
            raise ValueError(
                f"this checkpoint has no expert for {', '.join(absent) or 'an empty list'}: it has "
                f"{', '.join(self.modalities)}"
            )
        return names

    def for_modalities(self, modalities: Iterable[str]) -> MedGlipConfig:
        """Return a copy that holds only some experts.

        Raises:
            `ValueError`: one of them is not in this checkpoint.
        """
        names = list(dict.fromkeys(self.require_modalities(modalities)))
        chosen = copy.deepcopy(self)
        chosen.modalities = names
        chosen.expert_overrides = {k: v for k, v in (chosen.expert_overrides or {}).items() if k in names}
        chosen.label_hierarchy = _only_modalities(chosen.label_hierarchy, names)
        return chosen

    def set_label_hierarchy(self, trained_labels: Mapping[str, Iterable[str]], **more: Any) -> None:
        """State the labels that the checkpoint was trained with; replaces what was stated before.

        Args:
            trained_labels (`dict[str, list[str]]`): labels by modality, as the training data name them.
            more (`Any`): further entries of `label_hierarchy`, such as `wordings`.
        """
        self.label_hierarchy = {
            **more,
            "trained_labels": {name: list(names) for name, names in trained_labels.items()},
        }

    @classmethod
    def glip_t(cls, modalities: Iterable[str] = ("ct",), **kwargs: Any) -> MedGlipConfig:
        """Return a configuration of GLIP-T's size: Swin-T, BERT-base, six fusion blocks.

        Args:
            modalities (`Iterable[str]`, *optional*, defaults to `("ct",)`): the experts.
            kwargs (`Any`): other settings.
        """
        return cls(modalities=list(modalities), **kwargs)


def _only_modalities(data: Any, modalities: list[str]) -> Any:
    """Return a copy of nested dictionaries without the keys of other modalities."""
    if not isinstance(data, dict):
        return data
    others = set(MODALITIES) - set(modalities)
    return {key: _only_modalities(value, modalities) for key, value in data.items() if key not in others}


def merge_hierarchies(parts: Iterable[Any]) -> Any:
    """Return the union of nested dictionaries; where several have a key, the first one's value counts."""
    known = [part for part in parts if part is not None]
    if not known or not all(isinstance(part, dict) for part in known):
        return known[0] if known else None
    keys = dict.fromkeys(key for part in known for key in part)
    return {key: merge_hierarchies([part[key] for part in known if key in part]) for key in keys}


MedGlipHeadConfig.register_for_auto_class()
MedGlipConfig.register_for_auto_class()

__all__ = ["MODALITIES", "MODALITY_ALIASES", "MedGlipConfig", "MedGlipHeadConfig", "resolve_modality"]
