# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Render the model card of a checkpoint; of the embedded one: `python -m hub_cards.model_card`.

The card is made from the files of the checkpoint and the measured results, so that no number in it is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dataset_scripts.card import with_header
from modeling_medglip.checkpoints.licenses import LICENSES_FILE, read_licenses
from modeling_medglip.checkpoints.location import default_checkpoint, weight_files, weights_sha256
from modeling_medglip.cli.scripts import script_main
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import plain, table
from modeling_medglip.taxonomy import load_taxonomy
from modeling_medglip.trained_labels import trained_labels
from training.evaluate.tables import router_table
from training.old_names import with_new_keys
from training.studies.speed_page import forms_table

from .evaluation_tables import card_sections, evaluation_of, model_index


ROOT = Path(__file__).parent.parent
TEMPLATES = Path(__file__).parent / "templates"
RESULTS = ROOT / "docs" / "results.json"
# Files beside an evaluation, where they were measured.
MEASURED = ("calibration", "router", "speed", "inference_forms")
PLAIN_USAGE = """import modeling_medglip
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

checkpoint = modeling_medglip.default_checkpoint()
processor = AutoProcessor.from_pretrained(checkpoint)
model = AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint)  # all experts
expert = AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint, modalities=["ct"])  # one of them"""
HUB_USAGE = """import modeling_medglip  # without the package: read the code here, then pass trust_remote_code=True
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

image = Image.open("scan.png")  # or an array
processor = AutoProcessor.from_pretrained("{repo}")
model = AutoModelForZeroShotObjectDetection.from_pretrained("{repo}")
inputs = processor(images=image, text="{prompt}", modality="{first}", return_tensors="pt")
results = processor.post_process_grounded_object_detection(
    model(**inputs), inputs, threshold=0.3, target_sizes=[(image.height, image.width)]
)"""


def render_card(checkpoint: Path, evaluation: Mapping[str, Any]) -> str:
    """Return the card of a checkpoint folder.

    Args:
        checkpoint (`Path`): Folder with `config.json` and `licenses.json`.
        evaluation (`Mapping`): Of its modalities, see [`~hub_cards.evaluation_tables.evaluation_of`]; if measured,
            with `calibration` and `router`, and for a repository with `publication`: its id (`repo`), the id of its
            data set, and whether it is gated.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    modalities = [str(name) for name in config["modalities"]]
    publication = evaluation.get("publication") or {}
    repo = publication.get("repo")
    title = f"MedGLIP, {modalities[0]}" if len(modalities) == 1 else "MedGLIP, all experts"
    known = trained_labels(config)
    vocabulary = {name: known.get(name, []) for name in modalities}
    router = evaluation.get("router")
    body = (TEMPLATES / "model.md").read_text(encoding="utf-8").format(
        title=title if repo else "MedGLIP, embedded checkpoint",
        about=_about(modalities, repo),
        usage=_usage(repo, modalities[0], vocabulary),
        taxonomy=taxonomy_table(vocabulary),
        size=_taxonomy_size(),
        parts=architecture_table(config, sum(path.stat().st_size for path in weight_files(checkpoint))),
        shown=evaluation["well_shown"],
        speed=_speed_text(evaluation, modalities),
        router=_router_text(router) if router and len(modalities) > 1 else "",
        model=f"--model {repo} " if repo else "",
        first=modalities[0],
        sources=sources_table(training_sources(checkpoint, modalities)),
        citation=citation(),
        **card_sections(evaluation, evaluation.get("calibration")),
    )  # fmt: skip
    return with_header(_header(modalities, evaluation, publication), body)


def _taxonomy_size() -> str:
    taxonomy = load_taxonomy()
    counts = {"labels": taxonomy.labels, "categories": taxonomy.categories, "regions": taxonomy.regions}
    return ", ".join(f"{len(entries)} {name}" for name, entries in counts.items())


def _header(
    modalities: Sequence[str], evaluation: Mapping[str, Any], publication: Mapping[str, Any]
) -> dict[str, Any]:
    dataset = publication.get("dataset")
    header: dict[str, Any] = {
        "license": "other",
        "license_name": "research-only",
        "license_link": "LICENSE.md",
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-object-detection",
        "language": "en",
        "tags": ["medical-imaging", "visual-grounding", "glip", *modalities],
        **({"datasets": [dataset]} if dataset else {}),
        "model-index": model_index(str(publication.get("repo") or "med-glip").rsplit("/", 1)[-1], evaluation),
    }
    return {**header, **GATE_TEXT} if publication.get("gated") else header


GATE_TEXT: dict[str, Any] = {
    "extra_gated_prompt": "For research use only, not for clinical use. State what you will use it for.",
    "extra_gated_fields": {
        "Affiliation": "text",
        "Intended use": "text",
        "I will use this for research only and not for the care of patients": "checkbox",
    },
}


def _about(modalities: Sequence[str], repo: str | None) -> str:
    if len(modalities) == 1:
        return f"One image expert for {modalities[0]} and the language encoder that all experts of MedGLIP share."
    text = f"One image expert for each of {', '.join(modalities)}, and one language encoder for all of them."
    carried = (
        "\nIt is the small checkpoint that the package `med-glip` carries, so that nothing has to be downloaded;"
        "\nit was trained on two processor cores, from ImageNet weights and layers of all-MiniLM-L6-v2 (frozen)."
    )
    return text if repo else text + carried


def _usage(repo: str | None, first: str, vocabulary: Mapping[str, Sequence[str]]) -> str:
    if repo is None:
        return PLAIN_USAGE
    harmless = [label for label in vocabulary.get(first, ()) if re.fullmatch(r"[\w ,-]+", label)]
    prompt = " ".join(f"{label}." for label in harmless[:2]) or "lesion."
    return HUB_USAGE.format(repo=repo, first=first, prompt=prompt)


def taxonomy_table(vocabulary: Mapping[str, Sequence[str]]) -> str:
    """Return a table with category and region of every label; a dash for labels outside the taxonomy."""
    taxonomy = load_taxonomy()
    rows = []
    for modality, labels in vocabulary.items():
        for label in labels:
            entry = taxonomy.locate(label, modality)
            cells = [None] * 3 if entry is None else [entry.label_id, entry.category, entry.region]
            rows.append([f"{modality}: {plain(label)}", *(cell or "-" for cell in cells)])
    return table(["label", "id", "category", "region"], rows, numbers=False)


def architecture_table(config: Mapping[str, Any], size: int) -> str:
    """Return a table of the architecture.

    Args:
        config (`Mapping`): Content of `config.json`.
        size (`int`): Bytes of all weight files.
    """
    text, head, backbone = config["text_config"], config["head_config"], config["backbone_config"]
    encoder = backbone.get("backbone") or backbone.get("model_type")
    rows = [
        ["image encoders", plain(encoder)],
        ["language encoder", f"{text.get('model_type', 'bert')}, {text['num_hidden_layers']} layers, shared"],
        ["fusion", f"{head['num_blocks']} blocks of {head['channels']} channels, {head['conv_type']} convolutions"],
        ["tensors", f"{size / 1e6:.1f} MB of safetensors"],
    ]
    return table(["part", "value"], rows, numbers=False)


def training_sources(checkpoint: Path, modalities: Sequence[str]) -> list[dict[str, str]]:
    """Return the training sources of some modalities of a checkpoint.

    Args:
        checkpoint (`Path`): Folder with `licenses.json`.
        modalities (`Sequence[str]`): The modalities.

    Raises:
        `ValueError`: No source is named for one of them.
    """
    if not (checkpoint / LICENSES_FILE).is_file():
        hint = "a list of {source, upstream, modality, license} of its training data"
        raise ValueError(f"{checkpoint.name}: has no {LICENSES_FILE}: write one, {hint}")
    rows = read_licenses(checkpoint / LICENSES_FILE)
    sources = [row for row in rows if row.get("modality") in modalities]
    missing = [name for name in modalities if name not in {row["modality"] for row in sources}]
    if missing:
        raise ValueError(f"{checkpoint.name}: {LICENSES_FILE} names no source of {', '.join(missing)}")
    return sources


def sources_table(rows: Iterable[Mapping[str, str]]) -> str:
    """Return a table with upstream set, modality and license of every source."""
    cells = [[plain(row[key]) for key in ("source", "upstream", "modality", "license")] for row in rows]
    return table(["source", "upstream set", "modality", "license"], cells, numbers=False)


def _router_text(router: Mapping[str, Any]) -> str:
    """Return the accuracy of the router on validation images as they are, and on varied copies."""
    about = "## Modality from the pixels\n\nMade by `python -m training.fit.router` for all modalities of the embedded"
    about += ' checkpoint; `modality="auto"` uses it:\n\n'
    return f"{about}{router_table(router)}\n"


SPEED = """## Forms, sizes and times

An expert runs on a CPU in a form for inference (eager); `medglip export` makes the others, in folders of the given
size, language encoder included. Milliseconds of a demo image with {threads} threads, made by
`tests.benchmarks.bench_speed`; average precision by `training.studies.inference_forms`.

{rows}
"""


def _speed_text(evaluation: Mapping[str, Any], modalities: Sequence[str]) -> str:
    """Return time, size and accuracy of the forms of the experts, where they were measured."""
    times, content = evaluation.get("speed"), evaluation.get("inference_forms")
    if not times or not content:
        return ""
    rows = forms_table(times, content, modalities)
    return SPEED.format(threads=times["threads"], rows=rows) if rows else ""


def citation() -> str:
    """Return the references of CITATION.cff, one line each."""
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    lines = []
    for entry in content["references"]:
        authors = [f"{person['given-names']} {person['family-names']}" for person in entry["authors"]]
        listed = f"{authors[0]} and others" if len(authors) > 2 else " and ".join(authors)
        where = ", ".join(str(item["value"]) for item in entry.get("identifiers", ()))
        lines.append(f"- {listed}: {entry['title']}. {entry['year']}. {where}")
    return "\n".join(lines)


def render_license(checkpoint: Path, modalities: Sequence[str]) -> str:
    """Return the `LICENSE.md` of a checkpoint folder.

    Args:
        checkpoint (`Path`): Folder with `licenses.json`.
        modalities (`Sequence[str]`): The modalities whose sources are named.
    """
    text = (TEMPLATES / "license.md").read_text(encoding="utf-8")
    return text.format(sources=sources_table(training_sources(checkpoint, modalities)))


def read_measured(results: Path) -> dict[str, Any]:
    """Read an evaluation, and what else was measured beside it.

    Raises:
        `OSError`, `ValueError`: The evaluation cannot be read.
    """
    evaluation = with_new_keys(json.loads(results.read_text(encoding="utf-8")))
    if not isinstance(evaluation, dict):
        raise ValueError(f"{results.name}: is not an evaluation: make it with python -m training.evaluate")
    for name in MEASURED:
        path = results.with_name(f"{name}.json")
        evaluation[name] = with_new_keys(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
    return evaluation


def check_weights(checkpoint: Path, evaluation: Mapping[str, Any]) -> None:
    """Check that an evaluation is of the weights of a checkpoint, measured in the way they are used.

    Args:
        checkpoint (`Path`): Folder with the weights.
        evaluation (`Mapping`): As `training.evaluate` writes it.

    Raises:
        `ValueError`: It is of other weights, does not name the weights, or averages several predictions of an image.
    """
    for way in ("flip_tta", "scale_tta"):
        if evaluation.get(way):
            hint = f"measure it without --{way.replace('_', '-')}"
            raise ValueError(f"{checkpoint.name}: the evaluation averages several predictions of an image: {hint}")
    if evaluation.get("weights_sha256") != weights_sha256(checkpoint):
        hint = f"measure it with python -m training.evaluate --model {checkpoint.name}"
        raise ValueError(f"{checkpoint.name}: the evaluation is not of these weights: {hint}, and give --results")


def write_card(checkpoint: Path, results: Path) -> Path:
    """Write `README.md` and `LICENSE.md` into the folder of a checkpoint that is part of the package.

    Args:
        checkpoint (`Path`): The folder.
        results (`Path`): `results.json` of the evaluation.

    Raises:
        `OSError`, `ValueError`: A file cannot be read, or the evaluation is of other weights.
    """
    evaluation = read_measured(results)
    check_weights(checkpoint, evaluation)
    modalities = list(evaluation["modalities"])
    card = checkpoint / "README.md"
    write_text(card, render_card(checkpoint, evaluation_of(evaluation, modalities)))
    write_text(checkpoint / "LICENSE.md", render_license(checkpoint, modalities))
    return card


@script_main(status=1, also=(KeyError,))
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m hub_cards.model_card", description="Write a checkpoint's card.")
    parser.add_argument("--checkpoint", type=Path, default=Path(default_checkpoint()))
    parser.add_argument("--results", type=Path, default=RESULTS, help="results.json; what else was measured beside it")
    options = parser.parse_args(argv)
    print(write_card(options.checkpoint, options.results).name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
