# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Evaluate a checkpoint on the validation images.

    python -m training.evaluate [--model DIR] [--data DIR] [--modality ct ...] [--out DIR]

writes `results.json` and, made from it, `results.md` and plots; with `--worst-cases DIR` also the worst images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import cached_file

from modeling_medglip.checkpoints.loading import outcome_folder
from modeling_medglip.checkpoints.location import default_checkpoint, weights_sha256
from modeling_medglip.cli.scripts import script_main
from modeling_medglip.errors import one_line
from modeling_medglip.modalities import resolve_modality
from modeling_medglip.processing_medglip import MedGlipProcessor

from ..data.load import load_records
from ..data.records import DEFAULT_DATA, GroundingRecord, shared_patients
from ..data.validation import check_options, nothing_to_measure, readable_enough
from ..loading import load_model_and_processor
from ..old_names import EVALUATE_OPTIONS, new_options
from .evaluation import evaluate_model
from .plots import write_plots
from .report import write_page
from .tables import screen_table
from .tta import AVERAGED


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--model", help="checkpoint folder or Hub id; default: the embedded checkpoint")
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set, its id on the Hub, or a COCO file")
    parser.add_argument("--modality", nargs="+", default=None, help="only these; default: all that the checkpoint has")
    parser.add_argument("--out", default="out/evaluation", help="folder for results.json, results.md and plots")
    parser.add_argument("--adapter", help="adapter of training.fit.finetune, for --model: folder or Hub id")
    parser.add_argument("--worst-cases", type=Path, help="folder for the worst images; they show the data")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--flip-tta", action="store_true", help="average with flipped images if no label has a side")
    ways.add_argument("--scale-tta", action="store_true", help="average a smaller and a larger input")
    parser.add_argument(
        "--shipped", action="store_true", help="the page of the embedded checkpoint, for `make results`"
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--limit", type=int, default=None, help="at most so many images per source")
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(new_options(words, EVALUATE_OPTIONS))
    check_options({"batch-size": arguments.batch_size, "limit": arguments.limit})
    if arguments.shipped and (option := _narrowed(arguments)):
        raise ValueError(f"--shipped: the page of the embedded checkpoint is of all of it: leave out --{option}")
    results = _evaluate_folder(arguments)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(out / "results.json", out / "results.md")
    write_plots(results, out)
    print(screen_table(results), flush=True)
    return 0


def _narrowed(arguments: argparse.Namespace) -> str | None:
    """Return the first option that would make the page one of something else than the embedded checkpoint."""
    if arguments.data != DEFAULT_DATA:
        return "data"
    names = ("model", "modality", "adapter", "flip-tta", "scale-tta", "limit")
    return next((name for name in names if getattr(arguments, name.replace("-", "_"))), None)


def _validation(
    records: Sequence[GroundingRecord], data: str, asked: Sequence[str] | None
) -> tuple[list[GroundingRecord], int]:
    """Return the validation images that can be read, and how many cannot.

    Args:
        records (`Sequence[GroundingRecord]`): of all splits.
        data (`str`): name of the data, for errors.
        asked (`Sequence[str]`, *optional*): modalities that must be there; without any, those that have validation
            images.

    Raises:
        `ValueError`: too many images of a modality are broken, or none of it has a box.
    """
    held_out = [record for record in records if record.split == "validation"]
    names = [resolve_modality(name) for name in asked or ()] or list(dict.fromkeys(r.modality for r in held_out))
    readable: list[GroundingRecord] = []
    for name in dict.fromkeys(names):
        of_modality = readable_enough([r for r in held_out if r.modality == name], {}, data)
        if reason := nothing_to_measure(len(of_modality), any(record.labels for record in of_modality)):
            raise ValueError(f"{data}: {name}: {reason}: add some, or choose others with --modality")
        readable += of_modality
    if not readable:
        raise ValueError(f"{data}: no validation images: add some, or divide the data by patient")
    return readable, len(held_out) - len(readable)


def _evaluate_folder(arguments: argparse.Namespace) -> dict[str, Any]:
    name = str(arguments.model or default_checkpoint())
    model, processor = load_model_and_processor(name)
    asked = [resolve_modality(modality) for modality in arguments.modality or model.config.modalities]
    adapter: dict[str, Any] = {}
    if arguments.adapter:
        if Path(arguments.adapter).is_dir():
            arguments.adapter = str(outcome_folder(Path(arguments.adapter)))
        model, processor, asked = _adapted(model, arguments.adapter, asked if arguments.modality else None)
        adapter = {"adapter": {"name": Path(arguments.adapter).name, "weights_sha256": _sha256(arguments.adapter)}}
    records = load_records(arguments.data, asked)
    train = [record for record in records if record.split == "train"]
    valid, broken = _validation(records, arguments.data, asked if arguments.modality else None)
    results = evaluate_model(
        model,
        processor,
        valid,
        train,
        batch_size=arguments.batch_size,
        limit=arguments.limit,
        worst_folder=arguments.worst_cases,
        flip_tta=arguments.flip_tta,
        scale_tta=arguments.scale_tta,
    )
    is_folder = Path(name).is_dir() and not arguments.adapter
    about: dict[str, Any] = {
        "model": Path(name).name,
        "weights_sha256": weights_sha256(Path(name)) if is_folder else None,
    }
    about |= {way: True for way in AVERAGED if getattr(arguments, way)}
    about |= {"broken": broken, "shared_patients": shared_patients(records)}
    about["embedded"] = arguments.shipped
    return {**about, **adapter, "torch_threads": torch.get_num_threads(), **results}


def _adapted(model: Any, folder: str, asked: Sequence[str] | None) -> tuple[Any, Any, list[str]]:
    """Return a model with an adapter, its processor, and the modalities to measure.

    Raises:
        `ValueError`: the adapter is not for this model, or not for the asked modalities.
    """
    from modeling_medglip.checkpoints.adapters import adapted_experts, load_adapter

    model = load_adapter(model, folder).get_base_model()
    experts = adapted_experts(model)
    if other := sorted(set(asked or ()) - set(experts)):
        raise ValueError(f"{folder}: an adapter for {', '.join(experts)}, not for {', '.join(other)}")
    try:
        return model, MedGlipProcessor.from_pretrained(folder), list(asked or experts)
    except Exception as error:  # broken files make transformers raise nearly anything
        raise ValueError(f"{folder}: its processor cannot be loaded: {one_line(error, 120)}") from None


def _sha256(adapter: str) -> str:
    """Return the SHA-256 of the weights of an adapter, from its folder or the cache of the Hub."""
    file = cached_file(adapter, "adapter_model.safetensors")
    return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
