"""Recipes: the YAML file that says how each expert is built and trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modeling_medglip.configuration_medglip import MODALITIES, MedGlipConfig, resolve_modality


EMBEDDED_RECIPE = Path(__file__).parent / "recipes" / "embedded.yaml"


@dataclass(frozen=True)
class Optimisation:
    """Rates and schedule, the same for all experts of a recipe.

    Args:
        head_rate, backbone_rate (`float`): peak learning rates of the new layers and of the image encoder.
        weight_decay (`float`): AdamW's; none on biases and norms.
        warmup_steps (`int`): linear warm-up; a cosine to `min_rate` times the peak follows.
        gradient_clip (`float`): largest norm of the gradient.
        ema_decay (`float`): of the averaged weights that are kept.
        frozen_stages (`int`): the image encoder's stem and first stages that are not trained.
    """

    head_rate: float
    backbone_rate: float
    weight_decay: float
    warmup_steps: int
    min_rate: float
    gradient_clip: float
    ema_decay: float
    frozen_stages: int


@dataclass(frozen=True)
class ExpertRecipe:
    """Input size in pixels, anchors as multiples of the strides, batch size and number of epochs of one expert."""

    size: int
    anchor_scale: float
    batch: int
    epochs: int


@dataclass(frozen=True)
class Recipe:
    """A whole recipe file."""

    model: dict[str, Any]
    optimisation: Optimisation
    experts: dict[str, ExpertRecipe]

    def config(self, modality: str) -> MedGlipConfig:
        """The configuration of a checkpoint with this one expert."""
        name = resolve_modality(modality)
        head = dict(self.model["head_config"])
        head["anchor_sizes"] = [stride * self.experts[name].anchor_scale for stride in (8, 16, 32, 64, 128)]
        return MedGlipConfig(**{**self.model, "head_config": head, "modalities": [name]})

    def modality_settings(self) -> dict[str, dict[str, Any]]:
        """The image processor's settings: input sizes, and the mean and deviation of the ImageNet weights used
        here."""
        half = [0.5, 0.5, 0.5]
        return {
            name: {"size": {"height": expert.size, "width": expert.size}, "mean": half, "std": half}
            for name, expert in self.experts.items()
        }


def load_recipe(path: Path = EMBEDDED_RECIPE) -> Recipe:
    """Read a recipe.

    Raises:
        `ValueError`: the file has unknown or missing keys.
    """
    document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    try:
        optimisation = Optimisation(**document.pop("optimisation"))
        experts = {resolve_modality(name): ExpertRecipe(**part) for name, part in document.pop("experts").items()}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a training recipe ({error})") from None
    ordered = {name: experts[name] for name in MODALITIES if name in experts}
    return Recipe(document, optimisation, ordered)
