# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Compare image encoders of an expert at equal CPU time, on sources that were left out of training.

    python -m training.studies.encoders --data out/data --threads 1 --out runs/encoders

Every encoder is trained with the recipe's settings to the end of its learning rate schedule. The number of epochs
follows from the CPU time of a step, so that every training takes `--minutes`, distillation from a teacher included.
`OUT/encoders.json` and `OUT/encoders.md` hold the results so far; a run that is started again skips them.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.outputs.files import write_text
from modeling_medglip.taxonomy.phrases import normalize_phrase

from ..data.load import load_records
from ..data.records import DEFAULT_DATA, GroundingRecord, chosen_labels
from ..data.validation import readable_enough
from ..data.vocabulary import Vocabulary
from ..fit.arguments import FinetuneArguments
from ..fit.encoder_distillation import distill
from ..fit.finetune import load_base
from ..fit.recipe import IMAGE_ENCODER, TrainingRecipe, load_recipe
from ..fit.run_results import measure
from .cross_source import trained_on
from .encoder_callbacks import CpuClock, StandardizedMaps
from .encoder_tables import FIRST, VALIDATION, best, costs_table, figures_table
from .protocol import agree, conditions, prepare


SCHEMA = "medglip/encoders@1"
RESULTS, PAGE = "encoders.json", "encoders.md"
SIZES = {"ct": 352, "mri": 288}
# Sources left out of training. They are measured with those of their labels that other sources annotate too.
LEFT_OUT = {
    "ct": ("ircadb_liver", "chaos_ct_liver", "lungsegdb", "totalsegmentator_example"),
    "mri": ("brain_tumor_mri50", "pyradiomics_brain", "oasis_trt_dkt31_slices", "pardoe_hippo_amygdala"),
}
# Longest time per image of an encoder, as a multiple of that of `FIRST`.
SLOWEST = 1.5
SIZE_STEP = 32
TIMED_STEPS = 8
TIMED_IMAGES = 6
# The teacher is slow: distillation uses at most about this number of images, for this number of epochs.
DISTILLED_IMAGES = 450
DISTILLED_EPOCHS = 3.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoder:
    """One of the encoders that are compared.

    Args:
        about (`str`): description for the page.
        backbone (`str`): timm's name of the network.
        indices (`tuple[int, ...]`): of its feature maps at strides 8, 16 and 32.
        optimization (`dict`): learning rates and frozen stages that differ from the recipe's.
        standardize (`bool`): whether its feature maps are standardized before the feature pyramid.
        distilled (`bool`): whether it is trained to predict the teacher's features first.
    """

    about: str
    backbone: str
    indices: tuple[int, ...] = (2, 3, 4)
    optimization: Mapping[str, Any] = field(default_factory=dict)
    standardize: bool = False
    distilled: bool = False


ENCODERS = {
    FIRST: Encoder("EfficientNet-Lite0 from ImageNet, as in the embedded checkpoint", "efficientnet_lite0"),
    "lite2": Encoder("EfficientNet-Lite2 from ImageNet", "efficientnet_lite2"),
    "lite0_distilled": Encoder(
        "EfficientNet-Lite0 from ImageNet, first trained to predict the patch features of DINOv2-S on the training"
        " images",
        "efficientnet_lite0",
        distilled=True,
    ),
    "tiny_vit": Encoder(
        "TinyViT from LiteMedSAM, at the largest input whose time per image is within the limit",
        "tiny_vit_5m_224",
        (1, 2, 3),
        {"backbone_learning_rate": 5e-5, "frozen_stages": 1},
        standardize=True,
    ),
}


def divided(
    records: Sequence[GroundingRecord], left_out: Sequence[str]
) -> tuple[list[GroundingRecord], dict[str, list[GroundingRecord]]]:
    """Divide the images into those to train on, and those to measure on by source.

    A source that is left out is measured on all of its images, with the labels that training prompts could have named.
    The other sources are measured on their validation images together, under the name `validation`.

    Args:
        records (`Sequence[GroundingRecord]`): of one modality.
        left_out (`Sequence[str]`): names of sources.

    Raises:
        `ValueError`: a source that is left out has no label in common with the others.
    """
    train = [record for record in records if record.split == "train" and record.source not in left_out]
    known = learned_phrases({label for record in train for label in record.labels})
    seen = {record.source for record in train}
    measured = {}
    for source in left_out:
        images = [record for record in records if record.source == source and record.view_of is None]
        asked = sorted(
            label
            for label in {name for record in images for name in record.labels}
            if normalize_phrase(label) in known
        )
        if not asked:
            raise ValueError(f"{source}: no other source teaches one of its labels")
        measured[source] = chosen_labels(images, asked, None)
    measured[VALIDATION] = [record for record in records if record.split == "validation" and record.source in seen]
    return train, measured


def learned_phrases(labels: set[str]) -> set[str]:
    """Return the phrases of training prompts for some labels: names, synonyms and parent terms, normalized."""
    vocabulary = Vocabulary.load()
    general = {normalize_phrase(word) for label in labels for word in vocabulary.of(label).parents}
    return general.union(*(vocabulary.wordings(label) for label in labels))


def recipe_of(recipe: TrainingRecipe, encoder: Encoder, modality: str, size: int) -> TrainingRecipe:
    """Return the recipe with another image encoder and input size; anchors keep their size relative to the image.

    Args:
        recipe ([`TrainingRecipe`]): of [`FIRST`].
        encoder ([`Encoder`]): the encoder to train.
        modality (`str`): one of `SIZES`.
        size (`int`): side of the input in pixels.
    """
    backbone = {"backbone": encoder.backbone, "out_indices": list(encoder.indices)}
    expert = recipe.expert(modality)
    scale = (expert.anchor_scale or 0) * size / SIZES[modality]
    changed = replace(
        recipe,
        model={**recipe.model, "backbone_config": {"model_type": "timm_backbone", **backbone}},
        optimization=replace(recipe.optimization, **encoder.optimization),
    )
    return changed.changed([modality], size=size, anchor_scale=scale)


def callbacks_of(encoder: Encoder, clock: CpuClock) -> tuple[TrainerCallback, ...]:
    """Return the callbacks of a training.

    Args:
        encoder ([`Encoder`]): the encoder to train.
        clock ([`CpuClock`]): of the training.
    """
    file = clock.file.with_name("maps.safetensors") if clock.file else None
    return (clock, StandardizedMaps(file=file)) if encoder.standardize else (clock,)


def step_seconds(
    train: Sequence[GroundingRecord], data: str, modality: str, recipe: TrainingRecipe, encoder: Encoder
) -> float:
    """Return the median CPU time of a few training steps, in seconds.

    Args:
        train (`Sequence[GroundingRecord]`): training images.
        data (`str`): as [`~training.data.load.load_records`] takes it.
        modality (`str`): one of `SIZES`.
        recipe ([`TrainingRecipe`]): of the encoder.
        encoder ([`Encoder`]): the encoder to train.
    """
    clock = CpuClock()
    few = recipe.changed([modality], epochs=0.01)
    with tempfile.TemporaryDirectory() as folder:
        trained_on(
            train, data, modality, few, Path(folder), 0, callbacks_of(encoder, clock),
            max_steps=TIMED_STEPS, save_strategy="no",
        )  # fmt: skip
    return median(last - first for first, last in zip(clock.steps[:-1], clock.steps[1:], strict=True))


def built(data: str, modality: str, recipe: TrainingRecipe) -> tuple[Any, Any]:
    """Return a new expert and its processor.

    Args:
        data (`str`): as [`~training.data.load.load_records`] takes it.
        modality (`str`): one of `SIZES`.
        recipe ([`TrainingRecipe`]): of the encoder.
    """
    model, processor = load_base(FinetuneArguments(data, modality, recipe="embedded"), recipe)
    return model.eval(), processor


@torch.no_grad()
def image_seconds(model: Any, processor: Any, labels: Sequence[str]) -> float:
    """Return the shortest CPU time of a few forward passes for one image, in seconds.

    Args:
        model ([`~modeling_medglip.MedGlipForObjectDetection`]): with one expert.
        processor ([`~modeling_medglip.MedGlipProcessor`]): the model's.
        labels (`Sequence[str]`): of the prompt.
    """
    (modality,) = model.config.modalities
    size = processor.image_processor.modality_settings[modality]["size"]
    image = torch.rand(1, 3, size["height"], size["width"], generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoded, _ = processor.encode_prompts([list(labels)])
    times = []
    for _ in range(TIMED_IMAGES):
        start = time.process_time()
        model(pixel_values=image, modality=[modality], **encoded)
        times.append(time.process_time() - start)
    return min(times)


def megabytes(model: Any) -> float:
    """Return the size of an expert in half precision, without the language encoder, in MB."""
    return 2e-6 * sum(value.numel() for name, value in model.state_dict().items() if "text_model." not in name)


@dataclass(frozen=True)
class Study:
    """One modality of the comparison.

    Args:
        modality (`str`): one of `SIZES`.
        data (`str`): as [`~training.data.load.load_records`] takes it.
        recipe ([`TrainingRecipe`]): of [`FIRST`].
        records (`list[GroundingRecord]`): of the modality.
        left_out (`tuple[str, ...]`): sources left out of training.
        minutes (`float`): CPU time of every training.
        out (`Path`): folder of the run.
    """

    modality: str
    data: str
    recipe: TrainingRecipe
    records: list[GroundingRecord]
    left_out: tuple[str, ...]
    minutes: float
    out: Path

    def time(self, name: str, first: Mapping[str, float] | None) -> dict[str, float]:
        """Measure the cost of an encoder: input size, CPU time per step and per image, MB.

        Times on a shared machine vary. A step of [`FIRST`] is therefore measured again with every other encoder, whose
        time is scaled by the ratio of the two measurements.

        Args:
            name (`str`): of the encoder.
            first (`dict`, *optional*): cost of [`FIRST`]; without it times are not scaled.
        """
        train, _ = divided(self.records, self.left_out)
        labels = sorted({label for record in train for label in record.labels})[:6]
        size, encoder = SIZES[self.modality], ENCODERS[name]
        reference = built(self.data, self.modality, recipe_of(self.recipe, ENCODERS[FIRST], self.modality, size))
        while True:
            recipe = recipe_of(self.recipe, encoder, self.modality, size)
            model, processor = built(self.data, self.modality, recipe)
            pairs = [(image_seconds(*reference, labels), image_seconds(model, processor, labels)) for _ in range(3)]
            ratio = min(pair[1] for pair in pairs) / min(pair[0] for pair in pairs)
            if ratio <= SLOWEST or not encoder.standardize:
                break
            size -= SIZE_STEP
        seconds = self._step(encoder, size)
        if first is not None:
            around = [self._step(ENCODERS[FIRST], SIZES[self.modality]) for _ in range(2)]
            seconds *= first["step_seconds"] / mean(around)
        return {
            "size": size,
            "step_seconds": seconds,
            "image_seconds": min(pair[1] for pair in pairs),
            "image_ratio": ratio,
            "megabytes": megabytes(model),
        }

    def _step(self, encoder: Encoder, size: int) -> float:
        train, _ = divided(self.records, self.left_out)
        recipe = recipe_of(self.recipe, encoder, self.modality, size)
        return step_seconds(train, self.data, self.modality, recipe, encoder)

    def row(self, name: str, cost: Mapping[str, float], seed: int, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Train an encoder and measure it.

        Args:
            name (`str`): of the encoder.
            cost (`dict`): as [`Study.time`] returns it.
            seed (`int`): of everything random.
            before (`dict`, *optional*): an earlier result, which is returned as it is.

        Raises:
            `ValueError`: the earlier result is of other images or settings.
        """
        train, measured = divided(self.records, self.left_out)
        folder, encoder = self.out / self.modality / f"{name}_{seed}", ENCODERS[name]
        recipe = recipe_of(self.recipe, encoder, self.modality, int(cost["size"]))
        if before:
            recipe = recipe.changed([self.modality], epochs=before["conditions"]["epochs"])
            if not agree(before["conditions"], self._conditions(recipe, seed)):
                raise ValueError(f"{self.modality}, {name}: measured under other conditions: choose another --out")
            return dict(before)
        logger.info("%s: %s, seed %d", self.modality, name, seed)
        pretraining = self._distilled(train, recipe, folder, seed, cost["step_seconds"]) if encoder.distilled else 0.0
        steps = (60 * self.minutes - pretraining) / cost["step_seconds"]
        presentations = steps * recipe.expert(self.modality).batch
        recipe = recipe.changed([self.modality], epochs=round(presentations / sum(r.weight for r in train), 2))
        now = self._conditions(recipe, seed)
        logger.info("%.0f steps, %.1f epochs", steps, now["epochs"])
        if encoder.distilled:
            recipe = replace(recipe, model={**recipe.model, IMAGE_ENCODER: str(folder)})
        clock = CpuClock(folder / "cpu_seconds.json")
        callbacks = callbacks_of(encoder, clock)
        model = trained_on(train, self.data, self.modality, recipe, folder / "training", seed, callbacks)
        seconds, sources = clock.seconds, {}
        for source, images in measured.items():
            whole = readable_enough(images, {}, f"{self.data}: {source}")
            sources[source] = {"images": len(whole), **measure(*model, whole).as_dict()}
        shutil.rmtree(folder)
        return {
            "conditions": now,
            "pretraining_seconds": pretraining,
            "cpu_seconds": pretraining + seconds,
            "sources": sources,
        }

    def _conditions(self, recipe: TrainingRecipe, seed: int) -> dict[str, Any]:
        return {**conditions(self.records, recipe, self.modality, seed), "left_out": list(self.left_out)}

    def _distilled(
        self, train: Sequence[GroundingRecord], recipe: TrainingRecipe, folder: Path, seed: int, step: float
    ) -> float:
        """Write the weights of a distilled image encoder; returns the CPU time of the distillation in seconds.

        The time is scaled to a machine on which a training step of the encoder takes `step` seconds.
        """
        file, clock = folder / f"{self.modality}.safetensors", folder / "pretraining.json"
        if not clock.is_file():
            start = time.process_time()
            images = [record for record in train if record.view_of is None]
            chosen = images[:: math.ceil(len(images) / DISTILLED_IMAGES)]
            weights, error = distill(chosen, self.data, self.modality, recipe, DISTILLED_EPOCHS, seed)
            seconds = time.process_time() - start
            now = step_seconds(train, self.data, self.modality, recipe, ENCODERS[FIRST])
            folder.mkdir(parents=True, exist_ok=True)
            save_file(weights, file)
            content = {"cpu_seconds": seconds * step / now, "images": len(chosen), "error": error}
            write_text(clock, json.dumps(content) + "\n")
            logger.info("pre-trained: %s", content)
        return float(json.loads(clock.read_text(encoding="utf-8"))["cpu_seconds"])


def measured_before(out: Path) -> dict[str, Any]:
    """Return the results of earlier runs in a folder, or only the schema before the first run."""
    path = out / RESULTS
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content or {"schema": SCHEMA, "modalities": {}}


def compare(studies: Sequence[Study], names: Sequence[str], seeds: Sequence[int], out: Path) -> dict[str, Any]:
    """Train and measure the encoders that have no result yet, seed by seed; returns all results.

    Args:
        studies (`Sequence[Study]`): one per modality.
        names (`Sequence[str]`): of `ENCODERS`.
        seeds (`Sequence[int]`): every encoder is trained once with each.
        out (`Path`): folder of the run.
    """
    measured = measured_before(out)

    def write() -> None:
        write_text(out / RESULTS, json.dumps(measured, indent=1, allow_nan=False) + "\n")
        write_text(out / PAGE, render_page(measured))

    for seed in seeds:
        for study in studies:
            entry = measured["modalities"].setdefault(study.modality, {"minutes": study.minutes, "encoders": {}})
            if entry["minutes"] != study.minutes:
                raise ValueError(f"{study.modality}: {entry['minutes']:g} minutes before: choose another --out")
            for name in names:
                encoder = entry["encoders"].setdefault(name, {"rows": {}})
                if "cost" not in encoder:
                    encoder["cost"] = study.time(name, entry["encoders"].get(FIRST, {}).get("cost"))
                    write()
                encoder["rows"][str(seed)] = study.row(name, encoder["cost"], seed, encoder["rows"].get(str(seed)))
                write()
    return measured


def render_page(measured: Mapping[str, Any]) -> str:
    """Return the page of figures in Markdown."""
    lines = [
        "# Image encoders at equal CPU time", "",
        "Made by `python -m training.studies.encoders`. Every encoder was trained for the same CPU time, on one",
        "thread, to the end of its learning rate schedule. AP50 / AP in per cent, mean over labels, then over sources",
        "and seeds. The named sources were left out of training; `validation` is the validation split of the others.",
        "The machine also ran other jobs: of `s per step` and `s per image`, in CPU seconds, only ratios count.", "",
        *(f"- **{name}**: {encoder.about}." for name, encoder in ENCODERS.items()), "",
        "DINOv2-S itself takes part as a teacher only: one of its size for each of seven modalities would not fit the",
        "98 MB of all weights.", "",
    ]  # fmt: skip
    for modality, entry in measured["modalities"].items():
        lines += [
            f"## {modality}, {entry['minutes']:g} CPU minutes",
            "",
            costs_table(entry),
            figures_table(entry),
            best(entry),
        ]
    return "\n".join(lines)


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m training.studies.encoders", description=about)
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set, its id on the Hub, or a COCO file")
    parser.add_argument("--modality", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--encoder", nargs="+", choices=list(ENCODERS), default=list(ENCODERS), help="only these")
    parser.add_argument("--recipe", default="embedded", help="file, or the name of one in training/recipes")
    parser.add_argument("--minutes", type=float, default=22.0, help="CPU time of every training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("runs/encoders"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", action="store_true", help="only write the page of earlier results")
    options = parser.parse_args(argv)
    if options.page:
        write_text(options.out / PAGE, render_page(measured_before(options.out)))
        return 0
    prepare(options)
    recipe = load_recipe(options.recipe)
    studies = [
        Study(
            modality, options.data, recipe, load_records(options.data, modality), LEFT_OUT[modality],
            options.minutes, options.out,
        )
        for modality in options.modality
    ]  # fmt: skip
    print(render_page(compare(studies, options.encoder, options.seeds, options.out)), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
