"""Join trained experts into one checkpoint in half precision: `python -m training.fit.assemble --runs runs`.

Reads `RUNS/<modality>/expert` and writes the checkpoint that the package embeds: tensors in float16 (loaded as
float32), the processor with the modality router, and the licenses of the training sources from their `MANIFEST.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modeling_medglip.checkpoints.licenses import LICENSES_FILE
from modeling_medglip.checkpoints.location import weight_files
from modeling_medglip.cli.scripts import script_main
from modeling_medglip.image_processing_medglip import MedGlipImageProcessor, read_router
from modeling_medglip.modalities import MODALITIES
from modeling_medglip.modeling_medglip import MedGlipForObjectDetection
from modeling_medglip.processing_medglip import MedGlipProcessor

from ..data.load import load_records
from ..data.records import DEFAULT_DATA
from ..data.wordings import trained_wordings
from ..loading import EMBEDDED
from .shards import save_shards
from .starting_weights import load_tokenizer


# Label-wise attention counts positions inside one label, so the language encoder's later positions are never used.
LABEL_POSITIONS = 64
# all-MiniLM-L6-v2's word pieces from here on are single letters of scripts other than Latin and Greek, inside words.
WORD_PIECES = 29740


def assemble(runs: Path, data: Path | str, manifest: Path, out: Path, router: Path | None) -> list[str]:
    """Write the checkpoint and return the modalities in it.

    Args:
        runs (`Path`): folder with `<modality>/expert`.
        data (`Path` or `str`): what the experts were trained on.
        manifest (`Path`): Markdown table of the sources with their licenses.
        out (`Path`): folder of the checkpoint.
        router (`Path`): file that `training.fit.router` wrote; no router without it.

    Raises:
        `ValueError`: no trained expert in `runs`, or no data set. `OSError`: no manifest.
    """
    experts = {
        name: runs / name / "expert" for name in MODALITIES if (runs / name / "expert" / "config.json").is_file()
    }
    if not experts:
        raise ValueError(f"{runs}: no <modality>/expert folder there; run training.fit.finetune first")
    rows, processor = manifest_sources(manifest), build_processor(experts, router)  # before anything is written
    model = MedGlipForObjectDetection.from_experts(experts)
    shorten_embeddings(model)
    labels = labels_with_boxes(data, list(experts))
    model.config.set_label_hierarchy(labels, wordings=trained_wordings(labels))
    save_shards(model.half(), out)
    processor.save_pretrained(out)
    tidy(out)
    (out / LICENSES_FILE).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return list(experts)


@torch.no_grad()
def shorten_embeddings(model: MedGlipForObjectDetection) -> None:
    """Drop positions of the language encoder beyond any label's length, and word pieces that English never needs."""
    text: Any = model.model.text_model
    config, embeddings = text.config, text.embeddings
    config.max_position_embeddings = min(config.max_position_embeddings, LABEL_POSITIONS)
    config.vocab_size = min(config.vocab_size, WORD_PIECES)
    lengths = {"position_embeddings": config.max_position_embeddings, "word_embeddings": config.vocab_size}
    for name, length in lengths.items():
        embedding = getattr(embeddings, name)
        embedding.weight = torch.nn.Parameter(embedding.weight[:length].clone())
        embedding.num_embeddings = length


def labels_with_boxes(data: Path | str, modalities: list[str]) -> dict[str, list[str]]:
    """Return the sorted labels with boxes in the training split, by modality.

    Args:
        data (`Path` or `str`): as [`~training.data.load.load_records`] takes it.
        modalities (`list[str]`): of `MODALITIES`.
    """
    labels: dict[str, set[str]] = {name: set() for name in modalities}
    for record in load_records(data, modalities, split="train"):
        labels[record.modality].update(record.labels)
    return {name: sorted(names) for name, names in labels.items()}


def build_processor(experts: Mapping[str, Path], router: Path | None) -> MedGlipProcessor:
    """Return a processor with the settings (input size, normalization) of every expert, chosen by the router.

    Args:
        experts (`Mapping[str, Path]`): folder of each expert's processor, by modality.
        router (`Path`): file of the router; no router without it.
    """
    processors = {name: MedGlipImageProcessor.from_pretrained(folder) for name, folder in experts.items()}
    settings = {name: processor.modality_settings[name] for name, processor in processors.items()}
    weights = read_router(router) if router else None
    image_processor = MedGlipImageProcessor(modality="auto", modality_settings=settings, router=weights)
    return MedGlipProcessor(image_processor=image_processor, tokenizer=load_tokenizer())


def manifest_sources(manifest: Path) -> list[dict[str, Any]]:
    """Return source, upstream set, modality, license and remarks of every row of the manifest's table."""
    rows = []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 8 and cells[0].startswith("`"):
            modality, _, source = cells[0].strip("`").partition("/")
            row = {"source": source, "upstream": cells[1], "modality": modality, "license": cells[6]}
            rows.append({**row, "remarks": "training data" if cells[2] != "-" else "volumes"})
    return rows


def tidy(folder: Path) -> None:
    """Prepare a checkpoint folder for the package: without copies of its code, and loaded as float32."""
    for copy in folder.glob("*.py"):
        copy.unlink()
    for path in set(folder.glob("*.json")) - {folder / LICENSES_FILE}:
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("auto_map", None)
        if path.name == "config.json":
            content["dtype"] = "float32"
        if path.name == "tokenizer.json":
            vocabulary = content["model"]["vocab"]
            content["model"]["vocab"] = {word: row for word, row in vocabulary.items() if row < WORD_PIECES}
            content |= {"truncation": None, "padding": None}
        readable = path.name in ("config.json", "tokenizer_config.json")
        layout: dict[str, Any] = {"indent": 2} if readable else {"separators": (",", ":")}
        path.write_text(json.dumps(content, ensure_ascii=False, **layout) + "\n", encoding="utf-8")


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    task = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m training.fit.assemble", description=task)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--data", default=DEFAULT_DATA, help="what the experts were trained on")
    parser.add_argument("--manifest", type=Path, default=Path("../shared/data/MANIFEST.md"), help="table of licenses")
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    parser.add_argument("--router", type=Path, help="file that training.fit.router wrote")
    options = parser.parse_args(argv)
    names = assemble(options.runs, options.data, options.manifest, options.out, options.router)
    size = sum(path.stat().st_size for path in weight_files(options.out)) / 1e6
    print(f"{options.out}: {', '.join(names)}; {size:.1f} MB of tensors")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
