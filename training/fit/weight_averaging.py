# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Average the weights of two experts: of one that was trained further, and of the one that it started from.

    python -m training.fit.weight_averaging --first runs/first/ct --last runs/further/ct --share 0.65 --out runs/ct

Both must be of the same architecture; what only the last one has, such as a presence head, stays as it is. The first
one may be a checkpoint of several experts, such as `modeling_medglip/checkpoints/unified`. The outcome keeps the
settings (input size) of the last one. Weights along one training can be averaged without harm, and the mean often does
better on images of other hospitals (Wortsman et al., model soups, 2022).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.configuration_medglip import MedGlipConfig
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.processing_medglip import MedGlipProcessor


@torch.no_grad()
def average(first: Path, last: Path, share: float) -> tuple[MedGlipForObjectDetection, MedGlipProcessor]:
    """Return the weighted mean of two experts; layers that only the last one has, such as a presence head, stay.

    Args:
        first (`Path`): folder of the expert that was trained first, or of a checkpoint that has it.
        last (`Path`): folder of the expert that went on from it.
        share (`float`): weight of the last one, 0 to 1. `torch.optim.swa_utils` averages with equal weights only.

    Raises:
        `ValueError`: experts of different modalities, sizes or layers, or a share out of range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share {share:g}: choose a number from 0 to 1")
    model = MedGlipForObjectDetection.from_pretrained(last, dtype=torch.float32)
    names = list(model.config.modalities)
    weights, target = _weights_of(first, names), model.state_dict()
    if weights is None or any(key not in target or target[key].shape != weights[key].shape for key in weights):
        raise ValueError(
            f"{first.name} and {last.name}: experts of different modalities or architectures cannot be averaged"
        )
    for key, value in weights.items():
        if value.is_floating_point():
            target[key].copy_(torch.lerp(value, target[key], share))
    return model, MedGlipProcessor.from_pretrained(last)


def _weights_of(folder: Path, modalities: Sequence[str]) -> dict[str, torch.Tensor] | None:
    """Return the weights of the experts for these modalities; `None` where the checkpoint lacks one."""
    known = MedGlipConfig.from_pretrained(folder).modalities
    if not set(modalities) <= set(known):
        return None
    model = MedGlipForObjectDetection.from_pretrained(folder, dtype=torch.float32, modalities=list(modalities))
    return dict(model.state_dict())


@script_main(also=(RuntimeError,))
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m training.fit.weight_averaging", description=about)
    parser.add_argument(
        "--first", type=Path, required=True, help="folder of a run, of an expert, or of a checkpoint with it"
    )
    parser.add_argument("--last", type=Path, required=True, help="the same, of the one that went on from it")
    parser.add_argument("--share", type=float, default=0.5, help="of the last one in the mean")
    parser.add_argument("--out", type=Path, required=True, help="folder; the expert is written to OUT/expert")
    options = parser.parse_args(argv)
    folders = [path / "expert" if (path / "expert").is_dir() else path for path in (options.first, options.last)]
    model, processor = average(folders[0], folders[1], options.share)
    model.save_pretrained(options.out / "expert")
    processor.save_pretrained(options.out / "expert")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
