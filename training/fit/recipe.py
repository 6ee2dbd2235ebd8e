# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Recipes: the YAML file that says how an expert is built and trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from modeling_medglip.configuration_medglip import MODALITIES, MedGlipConfig, MedGlipHeadConfig, resolve_modality
from modeling_medglip.io.text_files import load_yaml

from ..data.augmentation import AugmentationRecipe
from ..data.prompts import PromptRecipe
from ..data.validation import check_recipe
from ..old_names import with_new_names


RECIPES = Path(__file__).parent.parent / "recipes"
EMBEDDED_RECIPE = RECIPES / "embedded.yaml"
ANY = "any"
IMAGE_ENCODER = "image_encoder"
STRIDES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Optimization:
    """Learning rates and schedule, the same for all experts of a recipe.

    Args:
        optimizer (`str`): `"adamw"`, or the paper's `"adam"`.
        head_learning_rate (`float`): peak learning rate of pyramid, fusion and heads. A part with the learning rate 0
            is frozen.
        backbone_learning_rate (`float`): the same of the image encoder.
        language_learning_rate (`float`): the same of the language encoder.
        weight_decay (`float`): none on biases and norms.
        warmup_steps (`int`): linear warm-up; a cosine to `min_learning_rate_ratio` times the peak
            follows.
        gradient_clip (`float`): largest norm of the gradient.
        ema_decay (`float`): decay of the weights' moving average, which becomes the result; 0 leaves the last weights.
        frozen_stages (`int`): the image encoder's stem and first stages that are not trained.
    """

    head_learning_rate: float
    backbone_learning_rate: float
    weight_decay: float
    warmup_steps: int
    min_learning_rate_ratio: float
    gradient_clip: float
    ema_decay: float
    frozen_stages: int
    language_learning_rate: float = 0.0
    optimizer: str = "adamw"


@dataclass(frozen=True)
class ExpertRecipe:
    """Training of one expert.

    Args:
        batch (`int`): images per batch.
        epochs (`float`): how often every image is shown.
        size (`int`, *optional*): side of the input in pixels; the model's own when not given.
        anchor_scale (`float`, *optional*): anchor sizes as multiples of the strides; the model's own when not given.
        accumulate (`int`, *optional*, defaults to 1): batches whose gradients make one step.
        checkpointing (`bool`, *optional*, defaults to `False`): recompute activations to save memory.
    """

    batch: int
    epochs: float
    size: int | None = None
    anchor_scale: float | None = None
    accumulate: int = 1
    checkpointing: bool = False


@dataclass(frozen=True)
class TrainingRecipe:
    """A whole recipe file.

    Args:
        optimization ([`Optimization`]): how every expert is trained.
        experts (`dict`): modality, or `any` for those that are not named, -> [`ExpertRecipe`].
        model (`dict`): the configuration of new experts; empty in recipes that only train further. Its
            `image_encoder` is a folder that [`~training.fit.encoder_distillation`] wrote, in place of the weights that
            go with the name of the backbone.
        head (`dict`): fields of `MedGlipHeadConfig` that a loaded expert gets: losses, and a presence head that it
            lacked.
        balance (`float`): see [`~training.data.dataset.repeat_factors`].
        negative_images (`float`): share of the images that are replaced by one that shows nothing of the modality,
            see [`~training.data.negative_images.NegativeImages`].
        augmentation ([`~training.data.augmentation.AugmentationRecipe`]), prompts
            ([`~training.data.prompts.PromptRecipe`]).
    """

    optimization: Optimization
    experts: dict[str, ExpertRecipe]
    model: dict[str, Any] = field(default_factory=dict)
    augmentation: AugmentationRecipe = AugmentationRecipe()
    prompts: PromptRecipe = PromptRecipe()
    balance: float = 0.0
    head: dict[str, Any] = field(default_factory=dict)
    negative_images: float = 0.0

    def expert(self, modality: str) -> ExpertRecipe:
        """Return the part of the recipe for one modality.

        Raises:
            `ValueError`: the recipe names neither it nor `any`.
        """
        name = resolve_modality(modality)
        expert = self.experts.get(name) or self.experts.get(ANY)
        if expert is None:
            raise ValueError(f"the recipe has no expert for {name}; it has {', '.join(self.experts)}")
        return expert

    def changed(self, modalities: Iterable[str], **values: Any) -> TrainingRecipe:
        """Return the recipe with other fields of [`ExpertRecipe`] for some modalities; `None` keeps a field."""
        given = {name: value for name, value in values.items() if value is not None}
        experts = {name: replace(self.expert(name), **given) for name in map(resolve_modality, modalities)}
        return replace(self, experts={**self.experts, **experts})

    def trained_like(self, other: TrainingRecipe) -> TrainingRecipe:
        """Return this recipe with augmentation, prompts, negative images and head of another one."""
        head = {**self.model.get("head_config", {}), **other.head}
        return replace(
            self,
            model={**self.model, "head_config": head} if self.model else {},
            head={} if self.model else other.head,
            augmentation=other.augmentation,
            prompts=other.prompts,
            negative_images=other.negative_images,
        )

    def config(self, modality: str) -> MedGlipConfig:
        """Return the configuration of a new checkpoint with this one expert.

        Raises:
            `ValueError`: the recipe builds no new experts.
        """
        name = resolve_modality(modality)
        scale = self.expert(name).anchor_scale
        if not self.model or scale is None:
            raise ValueError("this recipe builds no new experts: give --model, or a recipe with a model")
        head = {**self.model["head_config"], "anchor_sizes": [stride * scale for stride in STRIDES]}
        values = {key: value for key, value in self.model.items() if key != IMAGE_ENCODER}
        return MedGlipConfig(**{**values, "head_config": head, "modalities": [name]})

    def image_encoder(self, modality: str) -> Path | None:
        """Return the file of the image encoder that a new expert starts from, if the recipe names one."""
        folder = self.model.get(IMAGE_ENCODER)
        return Path(str(folder)) / f"{resolve_modality(modality)}.safetensors" if folder else None

    def modality_settings(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the image processor for new experts: input sizes, mean and deviation."""
        half = [0.5, 0.5, 0.5]
        return {
            name: {"size": {"height": expert.size, "width": expert.size}, "mean": half, "std": half}
            for name, expert in self.experts.items()
            if expert.size is not None
        }


def load_recipe(path: Path | str = EMBEDDED_RECIPE) -> TrainingRecipe:
    """Read a recipe: a file, or the name of one in `recipes/`.

    Raises:
        `ValueError`: an unknown recipe, unknown or missing keys, or a value out of its range.
    """
    file = Path(path)
    if not file.is_file() and (RECIPES / f"{path}.yaml").is_file():
        file = RECIPES / f"{path}.yaml"
    document = with_new_names(_document(path, file), file.name)
    if isinstance(section := document.get("optimization"), dict):
        document["optimization"] = with_new_names(section, file.name)
    check_recipe(file.name, document)
    try:
        optimization = Optimization(**document.pop("optimization"))
        experts = {
            name if name == ANY else resolve_modality(name): ExpertRecipe(**part)
            for name, part in document.pop("experts").items()
        }
        model = document.pop("model", {})
        augmentation = AugmentationRecipe(**_with_tuples(document.pop("augmentation", {})))
        prompts = PromptRecipe(**_with_tuples(document.pop("prompts", {})))
        balance = float(document.pop("balance", 0.0))
        head = document.pop("head", {})
        if unknown := set(head) - set(MedGlipHeadConfig.__annotations__):
            raise TypeError(f"head has no {', '.join(map(str, unknown))}")
        MedGlipHeadConfig(**head)  # refuses values of other types
        negative_images = float(document.pop("negative_images", 0.0))
        if document:
            raise TypeError(f"unknown keys {', '.join(map(str, document))}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file.name}: not a training recipe ({error})") from None
    ordered = {name: experts[name] for name in (*MODALITIES, ANY) if name in experts}
    return TrainingRecipe(
        optimization, ordered, model, augmentation, prompts, balance, head=head, negative_images=negative_images
    )


def _document(path: Path | str, file: Path) -> dict[str, Any]:
    """Return the content of a recipe file, unchecked."""
    try:
        document = load_yaml(file.read_text(encoding="utf-8"))
    except OSError:
        names = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise ValueError(f"{path}: no such recipe; there are {names}, or give a file") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file.name}: not a training recipe ({error})") from None
    if not isinstance(document, dict):
        raise ValueError(f"{file.name}: not a training recipe (it has no keys)")
    return document


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with YAML's lists as tuples, which frozen dataclasses hold."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
