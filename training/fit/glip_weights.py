# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The starting point of the full-size recipe: an expert with the weights of the public GLIP-T, and its processor.

    python -m training.fit.glip_weights --weights glip_tiny_model_o365_goldg.safetensors --modality ct \
        --out runs/glip_t/ct

Nothing here unpickles: a `.pth` has to be made a safetensors file first (README.md). Without `--weights` the weights
are random ones of the same size, for a rehearsal.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import BertTokenizerFast

from modeling_medglip import convert_glip_checkpoint
from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import one_line
from modeling_medglip.image_processing_medglip import MedGlipImageProcessor
from modeling_medglip.modalities import resolve_modality
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.processing_medglip import MedGlipProcessor

from ..data.validation import check_options
from .starting_weights import language_folder


logger = logging.getLogger(__name__)
# What GLIP's Swin was trained to see: blue, green, red of 0..255 minus the mean, over the deviation.
MEAN, STD = (103.530, 116.280, 123.675), (57.375, 57.120, 58.395)


def glip_processor(modality: str, size: int, tokenizer: Any) -> MedGlipProcessor:
    """Return a processor that normalizes images of one modality as GLIP does, at `size` x `size` pixels.

    Args:
        modality (`str`): one of `MODALITIES`.
        size (`int`): side of the input in pixels.
        tokenizer (`Any`): BERT's.
    """
    settings = {
        "size": {"height": size, "width": size},
        "mean": [value / 255 for value in MEAN],
        "std": [value / 255 for value in STD],
        "channel_order": "BGR",
    }
    image_processor = MedGlipImageProcessor(modality=modality, modality_settings={modality: settings})
    return MedGlipProcessor(image_processor=image_processor, tokenizer=tokenizer)


def glip_model(weights: Path | None, modality: str) -> MedGlipForObjectDetection:
    """Return the expert, with random weights without a file.

    Args:
        weights (`Path`): file of GLIP weights.
        modality (`str`): one of `MODALITIES`.

    Raises:
        `ValueError`: the file cannot be read, or its tensors are not GLIP-T's.
    """
    if weights is None:
        config = convert_glip_checkpoint.config_from_glip(convert_glip_checkpoint.GLIP_T_CONFIG, modality)
        return MedGlipForObjectDetection(config)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        hint = "; a .pth must be made a safetensors file first" if weights.suffix == ".pth" else ""
        raise ValueError(f"{weights}: not a readable safetensors file ({one_line(error, 100)}){hint}") from None
    return convert_glip_checkpoint.model_from_glip(tensors, convert_glip_checkpoint.GLIP_T_CONFIG, modality)


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.fit.glip_weights", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--weights", type=Path, help="safetensors file with GLIP-T's tensors (default: random ones)")
    parser.add_argument("--modality", type=resolve_modality, required=True)
    parser.add_argument("--size", type=int, default=800, help="side of the input images in pixels")
    parser.add_argument("--tokenizer", help="folder or id of an uncased BERT tokenizer (default: the one installed)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    check_options({"size": options.size})
    tokenizer = BertTokenizerFast.from_pretrained(options.tokenizer or language_folder())
    model = glip_model(options.weights, options.modality)
    model.save_pretrained(options.out)
    glip_processor(options.modality, options.size, tokenizer).save_pretrained(options.out)
    logger.info("saved %s: %.1f million parameters", options.out, sum(p.numel() for p in model.parameters()) / 1e6)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
