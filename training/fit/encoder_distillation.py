# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Pre-train the image encoder of an expert on images without boxes, to predict the features of a larger encoder.

    python -m training.fit.encoder_distillation --data out/data --modality ct --out runs/image_encoders

The teacher is a frozen DINOv2-S/14, whose patch features are computed once per image. The image encoder is trained to
predict them from all its feature maps. The experts of a recipe whose `model` names `image_encoder: OUT` then start
from the weights in `OUT/MODALITY.safetensors`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.modalities import resolve_modality

from ..data.dataset import GroundingDataset
from ..data.load import load_records
from ..data.records import DEFAULT_DATA, GroundingRecord
from ..data.validation import check_options, readable_enough
from .arguments import FinetuneArguments
from .finetune import load_base
from .recipe import Optimization, TrainingRecipe, load_recipe
from .teacher import WIDTH, load_teacher, patch_features
from .trainer import freeze


# Input pixels per patch of the teacher: its features are as large as the feature map of this stride.
STRIDE = 16
BATCH = 8
EPOCHS = 8.0
# Largest relative change of contrast, and largest change of brightness in units of the image.
CONTRAST, BRIGHTNESS = 0.3, 0.2
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherFeatures:
    """Images with the teacher's patch features.

    Args:
        images (`Tensor` of shape `(images, 3, height, width)`): uint8.
        features (`Tensor` of shape `(images, channels, side, side)`): float16, every channel with mean 0 and standard
            deviation 1.
    """

    images: Tensor
    features: Tensor

    def batches(self, epochs: float, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of pixels from -1 to 1 and of features, with random flips, contrast and brightness.

        Args:
            epochs (`float`): how often every image is shown.
            generator (`torch.Generator`): of everything random.
        """
        order = torch.cat([torch.randperm(len(self.images), generator=generator) for _ in range(int(epochs) + 1)])
        for index in order[: steps_of(len(self.images), epochs) * BATCH].split(BATCH):
            pixels, features = self.images[index].float() / 127.5 - 1, self.features[index].float()
            if torch.rand((), generator=generator) < 0.5:
                pixels, features = pixels.flip(-1), features.flip(-1)
            gain, offset = torch.rand(2, len(index), 1, 1, 1, generator=generator) * 2 - 1
            yield (pixels * (1 + CONTRAST * gain) + 2 * BRIGHTNESS * offset).clamp(-1, 1), features


def steps_of(images: int, epochs: float) -> int:
    """Return the number of training steps.

    Args:
        images (`int`): number of images.
        epochs (`float`): how often every image is shown.
    """
    return max(1, round(images * epochs / BATCH))


class Student(nn.Module):
    """An image encoder with a layer that predicts the features of the teacher from all its feature maps.

    Args:
        backbone (`nn.Module`): the image encoder.
        channels (`Sequence[int]`): of its feature maps.
    """

    def __init__(self, backbone: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.norms = nn.ModuleList(nn.BatchNorm2d(count, affine=False) for count in channels)
        self.projections = nn.ModuleList(nn.Conv2d(count, WIDTH, 1) for count in channels)
        for parameter in self.projections.parameters():  # so that it begins with the mean of the features
            nn.init.zeros_(parameter)

    def forward(self, pixel_values: Tensor, side: int) -> Tensor:
        """Return the predicted features `(batch, channels, side, side)`.

        Args:
            pixel_values (`Tensor` of shape `(batch, 3, height, width)`): from -1 to 1.
            side (`int`): number of patches in a row.
        """
        maps = zip(self.backbone(pixel_values).feature_maps, self.norms, self.projections, strict=True)
        predicted = [projection(norm(level)) for level, norm, projection in maps]
        return torch.stack([resized(level, side) for level in predicted]).sum(dim=0)


def resized(level: Tensor, side: int) -> Tensor:
    """Return a feature map `(batch, channels, height, width)` resized to a square.

    Args:
        level (`Tensor`): the feature map.
        side (`int`): height and width of the result.
    """
    return interpolate(level, (side, side), mode="bilinear", antialias=level.shape[-1] > side)


def teacher_features(records: Sequence[GroundingRecord], processor: Any) -> TeacherFeatures:
    """Return the images as the image processor prepares them, with the teacher's patch features.

    Args:
        records (`Sequence[GroundingRecord]`): of one modality; their boxes are not used.
        processor ([`~modeling_medglip.MedGlipProcessor`]): of the expert.
    """
    dataset, teacher = GroundingDataset(records, processor.image_processor, train=False), load_teacher()
    side = dataset.size[0] // STRIDE
    images, features = [], []
    for index in range(len(dataset)):
        image = (dataset[index]["pixel_values"] + 1) / 2
        images.append((image * 255).round().byte())
        features.append(patch_features(teacher, image[None], side)[0].half())
    raw = torch.stack(features)
    deviation, center = torch.std_mean(raw.float(), dim=(0, 2, 3), keepdim=True)
    return TeacherFeatures(torch.stack(images), ((raw - center) / deviation).half())


def distill(
    records: Sequence[GroundingRecord], data: str, modality: str, recipe: TrainingRecipe, epochs: float, seed: int = 0
) -> tuple[dict[str, Tensor], float]:
    """Train an image encoder to predict the teacher's features; returns its weights and its mean error at the end.

    The error is the share of the variance of the features that is not predicted. Stages that the recipe freezes keep
    their weights.

    Args:
        records (`Sequence[GroundingRecord]`): of one modality; their boxes are not used.
        data (`str`): where they come from, for errors.
        modality (`str`): one of `MODALITIES`.
        recipe ([`TrainingRecipe`]): of the expert.
        epochs (`float`): how often every image is shown.
        seed (`int`, *optional*, defaults to 0): of everything random.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, processor = load_base(FinetuneArguments(data, modality, recipe="embedded"), recipe)
    freeze(model, recipe.optimization)
    expert = model.model.experts[modality].train()  # BatchNorm of the image encoder keeps its statistics
    backbone: Any = expert.backbone
    targets = teacher_features(records, processor)
    student = Student(backbone, backbone.channels).to(memory_format=torch.channels_last)
    steps = steps_of(len(records), epochs)
    optimizer, schedule = _optimizer(student, recipe.optimization, steps)
    errors = []
    for pixels, features in targets.batches(epochs, generator):
        loss = mse_loss(student(pixels.contiguous(memory_format=torch.channels_last), features.shape[-1]), features)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), recipe.optimization.gradient_clip)
        optimizer.step()
        schedule.step()
        errors.append(loss.item())
        if len(errors) % 50 == 0:
            logger.info("step %d of %d: error %.3f", len(errors), steps, sum(errors[-50:]) / 50)
    weights = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in backbone.state_dict().items()
    }
    last = errors[-min(50, len(errors)) :]
    return weights, sum(last) / len(last)


def _optimizer(
    student: Student, settings: Optimization, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return the optimizer of what is trained, with the learning rates of the recipe, and their schedule."""
    rates = [settings.backbone_learning_rate, settings.head_learning_rate]
    parameters = (
        [parameter for parameter in student.backbone.parameters() if parameter.requires_grad],
        [*student.norms.parameters(), *student.projections.parameters()],
    )
    groups = [{"params": part, "lr": rate} for part, rate in zip(parameters, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.1)


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m training.fit.encoder_distillation", description=about)
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set, its id on the Hub, or a COCO file")
    parser.add_argument("--modality", type=resolve_modality, required=True)
    parser.add_argument("--recipe", default="embedded", help="file, or the name of one in training/recipes")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="how often every image is shown")
    parser.add_argument("--out", type=Path, default=Path("runs/image_encoders"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    check_options(vars(options))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    records = [
        record for record in load_records(options.data, options.modality, split="train") if record.view_of is None
    ]
    records = readable_enough(records, {}, options.data)
    recipe = load_recipe(options.recipe)
    weights, error = distill(records, options.data, options.modality, recipe, options.epochs, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{options.modality}.safetensors"
    save_file(weights, file)
    print(f"{file}: {len(records)} images, {error:.3f} of the variance is not explained")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
