# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Measure an expert in every form in which it runs: as trained, in its form for inference, exported, in eight bits.

    python -m training.studies.inference_forms --data out/data --exported out/exported [--modality ct ...]

Every form answers the same validation images, one by one. Eight bits are calibrated on training images. A run that is
started again skips the modalities that `docs/inference_forms.json` holds, and uses the exported folders that exist.
`training.studies.speed_page` makes `docs/speed.md` from this file and from measured times.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from modeling_medglip.checkpoints.location import default_checkpoint, weights_sha256
from modeling_medglip.cli.scripts import script_main
from modeling_medglip.exported.graphs import export_model
from modeling_medglip.exported.manifest import FORMATS
from modeling_medglip.exported.quantization import spread
from modeling_medglip.grounding import load_grounder
from modeling_medglip.modalities import MODALITIES
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.outputs.files import write_text
from modeling_medglip.processing_medglip import MedGlipProcessor

from ..data.load import load_records
from ..data.records import DEFAULT_DATA, GroundingRecord
from ..data.validation import readable_enough
from ..evaluate.metrics import annotated_only, average_precision
from ..evaluate.predict import detect_records, source_labels
from .speed_page import ACCURACY, DOCS, EAGER, TRAINED, accuracy_table


SCHEMA = "medglip/inference_forms@1"
EIGHT_BITS = " int8"


class TrainedForm(MedGlipForObjectDetection):
    """A model that runs as it was trained: only the class itself has a form for inference."""


def measure(
    checkpoint: str, records: Sequence[GroundingRecord], formats: Sequence[str], exported: Path
) -> dict[str, Any]:
    """Return number of validation images, and AP50, AP and size of every form of one expert.

    Args:
        checkpoint (`str`): folder.
        records (`Sequence[GroundingRecord]`): of both splits, all of one modality.
        formats (`Sequence[str]`): of `FORMATS`, each also in eight bits.
        exported (`Path`): folder of exported folders, which are made where they are missing.
    """
    (modality,) = {record.modality for record in records}
    shown = readable_enough([record for record in records if record.split == "validation"], {}, checkpoint)
    forms: dict[str, Any] = {}
    for form, model, processor, size in _forms(checkpoint, modality, records, formats, exported):
        forms[form] = {**_precision(model, processor, shown), "bytes": size}
        print(f"{modality} {form}: AP50 {100 * forms[form]['AP50']:.2f}, AP {100 * forms[form]['AP']:.2f}", flush=True)
    return {"images": len(shown), "forms": forms}


def _forms(
    checkpoint: str, modality: str, records: Sequence[GroundingRecord], formats: Sequence[str], exported: Path
) -> Iterator[tuple[str, Any, Any, int | None]]:
    """Yield name, model, processor and size in bytes of every form; the size of those that are folders."""
    trained = TrainedForm.from_pretrained(checkpoint, modalities=[modality]).eval()
    processor = MedGlipProcessor.from_pretrained(checkpoint)
    yield TRAINED, trained, processor, None
    grounder = load_grounder(checkpoint, "cpu", modality)
    yield EAGER, grounder.model, grounder.processor, None
    train = [record for record in records if record.split == "train" and record.view_of is None]
    images = [record.load() for record in spread(train)] if formats else []
    for form, (format, calibration) in exported_forms(formats, images).items():
        folder = exported / modality / form
        if not folder.exists():
            export_model(grounder.model, grounder.processor, folder, format, grounder.name, calibration)
        graphs = load_grounder(folder)
        yield form, graphs.model, graphs.processor, sum(file.stat().st_size for file in folder.iterdir())


def exported_forms(formats: Sequence[str], images: Sequence[Any]) -> dict[str, tuple[str, Sequence[Any] | None]]:
    """Return name -> format and images for the calibration of every exported form.

    Args:
        formats (`Sequence[str]`): of `FORMATS`.
        images (`Sequence`): of the training split.
    """
    in_bits = {"": None, EIGHT_BITS: images}
    return {f"{format}{suffix}": (format, given) for suffix, given in in_bits.items() for format in formats}


def _precision(model: Any, processor: Any, records: Sequence[GroundingRecord]) -> dict[str, float]:
    """Return AP50 and AP, means over labels."""
    asked = source_labels(records)
    prompts = [asked[f"{record.modality}/{record.source}"] for record in records]
    detections, _ = detect_records(model, processor, records, prompts, batch_size=1)
    scores = average_precision(records, annotated_only(records, detections)).values()
    return {"AP50": mean(score.ap50 for score in scores), "AP": mean(score.ap for score in scores)}


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.inference_forms", description=__doc__)
    parser.add_argument("--model", default=str(default_checkpoint()), help="checkpoint folder")
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set")
    parser.add_argument("--modality", nargs="+", choices=MODALITIES, default=list(MODALITIES))
    parser.add_argument("--format", nargs="*", choices=FORMATS, default=list(FORMATS), help="exported, also as int8")
    parser.add_argument("--exported", type=Path, default=Path("out/exported"), help="folder of exported folders")
    parser.add_argument("--out", type=Path, default=DOCS / ACCURACY)
    options = parser.parse_args(argv)
    content = json.loads(options.out.read_text("utf-8")) if options.out.exists() else {}
    weights = weights_sha256(Path(options.model))
    known = content.get("modalities", {}) if content.get("weights_sha256") == weights else {}
    content = {"schema": SCHEMA, "weights_sha256": weights, "modalities": known}
    for modality in options.modality:
        if modality not in content["modalities"]:
            records = load_records(options.data, [modality])
            content["modalities"][modality] = measure(options.model, records, options.format, options.exported)
            write_text(options.out, json.dumps(content, indent=1) + "\n")
    print(accuracy_table(content))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
