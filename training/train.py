"""Train one expert: `python -m training.train --modality endoscopy --data out/data --out runs/endoscopy`.

Interrupted runs go on from their last checkpoint when the same command is given again. The expert, with averaged
weights, is saved in `OUT/expert`. `--start EXPERT` trains an expert further: the schedule begins anew on its weights.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch

from modeling_medglip.configuration_medglip import MedGlipConfig, resolve_modality
from modeling_medglip.image_processing_medglip import MedGlipImageProcessor
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.processing_medglip import MedGlipProcessor

from .dataset import GroundingCollator, GroundingDataset, foreign_labels, phrase_length
from .recipe import EMBEDDED_RECIPE, Recipe, load_recipe
from .records import DEFAULT_DATA, load_records
from .starting_weights import build_starting_model, load_tokenizer
from .trainer import train_expert


logger = logging.getLogger(__name__)


def build_processor(recipe: Recipe, modality: str) -> MedGlipProcessor:
    """The processor of an expert: the recipe's input sizes and the language encoder's tokenizer."""
    image_processor = MedGlipImageProcessor(modality=modality, modality_settings=recipe.modality_settings())
    return MedGlipProcessor(image_processor=image_processor, tokenizer=load_tokenizer())


def starting_model(recipe: Recipe, modality: str, start: Path | None) -> MedGlipForObjectDetection:
    """The recipe's model: with pre-trained encoders, or with all the weights of the expert in the folder `start`.

    Sizes and anchors are always the recipe's.

    Raises:
        `ValueError`: the expert in `start` is of another modality.
        `RuntimeError`: its tensors do not fit the recipe's model.
    """
    config = recipe.config(modality)
    if start is None:
        return build_starting_model(config)
    found = MedGlipConfig.from_pretrained(start).modalities
    if found != [modality]:
        raise ValueError(f"{start}: an expert for {', '.join(found)}, not for {modality}")
    return MedGlipForObjectDetection.from_pretrained(start, config=config)


def run(modality: str, data: Path | str, out: Path, recipe: Recipe, seed: int, start: Path | None = None) -> Path:
    """Train one expert and return the folder of its checkpoint."""
    processor = build_processor(recipe, modality)
    records = load_records(data, split="train")
    own = [record for record in records if record.modality == modality]
    if not own:
        raise ValueError(f"{data}: no training pictures of modality {modality}")
    dataset = GroundingDataset(
        own,
        processor.image_processor,
        seed=seed,
        foreign=foreign_labels(records),
        token_length=phrase_length(processor.tokenizer),
    )
    logger.info("%s: %d pictures, %d presentations per epoch", modality, len(own), len(dataset))
    torch.manual_seed(seed)
    model = starting_model(recipe, modality, start)
    expert = recipe.experts[modality]
    ema = train_expert(model, dataset, GroundingCollator(processor), expert, recipe.optimisation, out, seed)
    with ema.applied():
        model.to(memory_format=torch.contiguous_format).save_pretrained(out / "expert")
    processor.save_pretrained(out / "expert")
    return out / "expert"


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modality", required=True, type=resolve_modality)
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set, its id on the Hub, or a COCO file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=EMBEDDED_RECIPE)
    parser.add_argument("--start", type=Path, help="expert to start from (default: pre-trained encoders)")
    for name, kind in (("size", int), ("anchor-scale", float), ("epochs", int)):
        parser.add_argument(f"--{name}", type=kind, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    recipe = load_recipe(options.recipe)
    given = {name: vars(options)[name] for name in ("size", "anchor_scale", "epochs") if vars(options)[name]}
    recipe.experts[options.modality] = replace(recipe.experts[options.modality], **given)
    folder = run(options.modality, options.data, options.out, recipe, options.seed, options.start)
    logger.info("saved %s", folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
