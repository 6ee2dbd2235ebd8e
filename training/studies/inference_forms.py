# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Measure an expert in every form in which it runs: as trained, in its form for inference, exported, in eight bits.

    python -m training.studies.inference_forms --data out/data --exported out/exported [--modality ct ...]

Every form answers the same validation images, one by one. Eight bits are calibrated on training images. A run that is
started again skips the modalities that `docs/inference_forms.json` holds, and uses the exported folders that exist.
`--page` makes `docs/speed.md` from this file and from the times that `tests.benchmarks.bench_speed` measured.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
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
from modeling_medglip.outputs.markdown import percent, table
from modeling_medglip.processing_medglip import MedGlipProcessor

from ..data.load import load_records
from ..data.records import DEFAULT_DATA, GroundingRecord
from ..data.validation import readable_enough
from ..evaluate.metrics import annotated_only, average_precision
from ..evaluate.predict import detect_records, source_labels


SCHEMA = "medglip/inference_forms@1"
DOCS = Path(__file__).parents[2] / "docs"
TIMES, PAGE = "speed.json", "speed.md"
TRAINED, EAGER, EIGHT_BITS = "as trained", "eager", " int8"
logger = logging.getLogger(__name__)


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
        logger.info("%s %s: AP50 %.2f, AP %.2f", modality, form, 100 * forms[form]["AP50"], 100 * forms[form]["AP"])
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


# The page ------------------------------------------------------------------------------------------------------------


def accuracy_table(content: Mapping[str, Any]) -> str:
    """Return a table of AP50, AP and size of every form.

    Args:
        content (`Mapping`): of `inference_forms.json`.
    """
    rows = []
    for modality, part in content["modalities"].items():
        first = part["forms"][TRAINED]
        for form, entry in part["forms"].items():
            off = max(abs(entry[name] - first[name]) for name in ("AP50", "AP"))
            size = "" if entry["bytes"] is None else f"{entry['bytes'] / 1e6:.0f}"
            figures = [percent(entry["AP50"]), percent(entry["AP"]), f"{100 * off:.2f}", size]
            rows.append([f"{modality} ({part['images']})", form, *figures])
    return table(["expert (images)", "form", "AP50", "AP", "off by", "MB"], rows)


def times_table(times: Mapping[str, Any]) -> str:
    """Return a table of milliseconds per image, ratio to the first form, and peak memory.

    Args:
        times (`Mapping`): of `speed.json`.
    """
    rows = []
    for forms in times["modalities"].values():
        first = next(iter(forms.values()))["seconds"]
        for form, values in forms.items():
            for case, seconds in values["seconds"].items():
                peak = f"{values['peak_bytes'] / 2**20:.0f}"
                rows.append([case, form, f"{1000 * seconds:.0f}", f"{first[case] / seconds:.2f}", peak])
    return table(["demo image", "form", "ms per image", "times as fast", "peak memory, MB"], rows)


def forms_table(times: Mapping[str, Any], content: Mapping[str, Any], modalities: Sequence[str]) -> str:
    """Return a table of time, size and accuracy of every form of some experts; empty where nothing was measured.

    Args:
        times (`Mapping`): of `speed.json`.
        content (`Mapping`): of `inference_forms.json`.
        modalities (`Sequence[str]`): the experts.
    """
    rows = []
    for modality in modalities:
        forms = content["modalities"].get(modality, {"forms": {}})["forms"]
        measured = times["modalities"].get(modality, {})
        for form in (name for name in forms if name in measured):
            entry, seconds = forms[form], mean(measured[form]["seconds"].values())
            size = "" if entry["bytes"] is None else f"{entry['bytes'] / 1e6:.0f}"
            figures = [f"{1000 * seconds:.0f}", size, percent(entry["AP50"]), percent(entry["AP"])]
            rows.append([modality, form, *figures])
    header = ["expert", "form", "ms per image", "MB", "AP50", "AP"]
    return table(header, rows) if rows else ""


INTRODUCTION = """# Speed

An expert runs on a CPU in a form for inference (**eager**): batch norms and activations are part of the
convolutions, maps lie in memory with their channels last, positions and prompts are kept. Saved and trained
weights stay as they are. `medglip export` writes graphs for ONNX Runtime and OpenVINO, with `--int8` in eight
bits. Times of volumes are in [volumes.md](volumes.md), those of the full size in [results.md](results.md)."""
TIMES_SECTION = """## Milliseconds per image

Made by `python -m tests.benchmarks.bench_speed --before CHECKOUT --exported out/exported --out docs/speed.json`,
with {threads} threads: from the decoded pixels of a demo image to its boxes, with the prompt of the demo.
The forms take turns in {rounds} rounds; medians. **before** is the version before this work."""
ACCURACY_SECTION = """## The same boxes

Made by `python -m training.studies.inference_forms --data out/data`: AP50 and AP on the validation images, in
percent, means over labels. **off by** is the larger of the two differences to the expert as it was trained, in
points. **MB** is the size of an exported folder, language encoder included."""


def render_page(times: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Return `docs/speed.md`.

    Args:
        times (`Mapping`): of `speed.json`.
        content (`Mapping`): of `inference_forms.json`.
    """
    measured = TIMES_SECTION.format(threads=times["threads"], rounds=times["rounds"])
    parts = (INTRODUCTION, measured, times_table(times), ACCURACY_SECTION, accuracy_table(content))
    return "\n\n".join(part.strip() for part in parts) + "\n"


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.inference_forms", description=__doc__)
    parser.add_argument("--model", default=str(default_checkpoint()), help="checkpoint folder")
    parser.add_argument("--data", default=DEFAULT_DATA, help="built data set")
    parser.add_argument("--modality", nargs="+", choices=MODALITIES, default=list(MODALITIES))
    parser.add_argument("--format", nargs="*", choices=FORMATS, default=list(FORMATS), help="exported, also as int8")
    parser.add_argument("--exported", type=Path, default=Path("out/exported"), help="folder of exported folders")
    parser.add_argument("--out", type=Path, default=DOCS / "inference_forms.json")
    parser.add_argument("--page", action="store_true", help="only write docs/speed.md from the measured files")
    options = parser.parse_args(argv)
    if options.page:
        times, content = (json.loads(file.read_text("utf-8")) for file in (DOCS / TIMES, options.out))
        write_text(DOCS / PAGE, render_page(times, content))
        return 0
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
