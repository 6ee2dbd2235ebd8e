# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write the results of a training run: scores before and after, the history of loss and AP, a card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCardData

from modeling_medglip.checkpoints.adapters import example_prompt
from modeling_medglip.outputs.files import write_bytes, write_text
from modeling_medglip.outputs.markdown import percent, plain, table

from ..data.records import GroundingRecord
from ..data.validation import nothing_to_measure
from ..evaluate.metrics import Detections, annotated_only, average_precision
from ..evaluate.plots import png_of
from ..evaluate.predict import detect_records, source_labels
from .processes import gather_values, process_share


SCHEMA = "medglip/finetune@1"


@dataclass(frozen=True)
class Scores:
    """Average precision (0..1) of one model: label -> (AP, AP50)."""

    labels: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def ap(self) -> float | None:
        """Mean AP over labels."""
        return float(np.mean([ap for ap, _ in self.labels.values()])) if self.labels else None

    @property
    def ap50(self) -> float | None:
        """Mean AP50 over labels."""
        return float(np.mean([ap50 for _, ap50 in self.labels.values()])) if self.labels else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        labels = {name: {"AP": ap, "AP50": ap50} for name, (ap, ap50) in self.labels.items()}
        return {"mean": {"AP": self.ap, "AP50": self.ap50}, "labels": labels}


def find_all(model: Any, processor: Any, records: Sequence[GroundingRecord], batch_size: int = 4) -> list[Detections]:
    """Return the detections in every image, of all labels that its source annotates.

    Several processes share the images, and all of them get all detections.

    Args:
        model (`Any`): the detector; its mode (training or evaluation) stays.
        processor (`Any`): the model's.
        records (`Sequence[GroundingRecord]`): the images.
        batch_size (`int`, *optional*, defaults to `4`): images per forward pass.
    """
    training = model.training
    model.eval()
    asked = source_labels(records)
    prompts = [asked[f"{record.modality}/{record.source}"] for record in records]
    share = process_share(len(records))
    detections, _ = detect_records(
        model, processor, [records[i] for i in share], [prompts[i] for i in share], batch_size
    )
    model.train(training)
    return annotated_only(records, gather_values(share, detections))


def scores_of(records: Sequence[GroundingRecord], detections: Sequence[Detections]) -> Scores:
    """Return COCO AP per label over the records of all sources together.

    Args:
        records (`Sequence[GroundingRecord]`): the images.
        detections (`Sequence[Detections]`): one per record.
    """
    return Scores({name: (score.ap, score.ap50) for name, score in average_precision(records, detections).items()})


def measure(model: Any, processor: Any, records: Sequence[GroundingRecord], batch_size: int = 4) -> Scores:
    """Return the scores of [`find_all`], empty without records.

    Args:
        model (`Any`): the detector; its mode (training or evaluation) stays.
        processor (`Any`): the model's.
        records (`Sequence[GroundingRecord]`): the images.
        batch_size (`int`, *optional*, defaults to `4`): images per forward pass.
    """
    return scores_of(records, find_all(model, processor, records, batch_size)) if records else Scores()


def write_run(
    out: Path,
    settings: Any,
    recipe: Any,
    data: Any,
    scores: Mapping[str, Scores],
    history: Sequence[Mapping[str, Any]],
    broken: Mapping[str, str],
) -> dict[str, Any]:
    """Write `results.json`, `history.png` and `README.md` into a run's folder.

    Args:
        out (`Path`): folder of the run.
        settings ([`~training.fit.arguments.FinetuneArguments`]): of the run.
        recipe ([`~training.fit.recipe.TrainingRecipe`]): with the values of the command line.
        data ([`~training.fit.run_data.RunData`]): of the run.
        scores (`Mapping[str, Scores]`): `before` and `after` on the validation images of `--data`, `known_before` and
            `known_after` on those of `--replay`.
        history (`Sequence[Mapping[str, Any]]`): `log_history` of the trainer.
        broken (`Mapping[str, str]`): images that were left out, with the reason.

    Returns:
        what `results.json` holds.
    """
    results = {
        "schema": SCHEMA,
        "settings": {name: value for name, value in asdict(settings).items() if name not in PRIVATE},
        "recipe": asdict(recipe.optimization) | asdict(recipe.expert(settings.modality)),
        "images": {
            "train": data.new_images,
            "replayed": data.replayed,
            "validation": len(data.validation),
            "broken": len(broken),
        },
        **{name: part.as_dict() for name, part in scores.items()},
    }
    write_text(out / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_bytes(out / "history.png", plot(history, scores["before"], scores["after"]))
    write_text(out / "README.md", card(settings, results))
    return results


# Paths of a local machine do not belong into files that are published.
PRIVATE = ("data", "replay", "out", "model", "recipe")


def measured_points(
    history: Sequence[Mapping[str, Any]], before: Scores, after: Scores
) -> list[tuple[float, float, float]]:
    """Return (epoch, AP, AP50) in per cent on the validation images.

    The first is before the training, the others are after every measured epoch, or after the last one. Empty where
    nothing was measured.

    Args:
        history (`Sequence[Mapping[str, Any]]`): `log_history` of the trainer.
        before (`Scores`): scores before the training.
        after (`Scores`): scores after it.
    """
    if before.ap is None or before.ap50 is None or after.ap is None or after.ap50 is None:
        return []
    rows = [
        (float(row["epoch"]), float(row["eval_AP"]), float(row["eval_AP50"])) for row in history if "eval_AP" in row
    ]
    last = max((float(row["epoch"]) for row in history if "epoch" in row), default=1.0)
    points = [(0.0, before.ap, before.ap50), *(rows or [(last, after.ap, after.ap50)])]
    return [(epoch, 100 * ap, 100 * ap50) for epoch, ap, ap50 in points]


def plot(history: Sequence[Mapping[str, Any]], before: Scores, after: Scores) -> bytes:
    """Loss, and AP on the validation images, by epoch; see [`measured_points`].

    Args:
        history (`Sequence[Mapping[str, Any]]`): `log_history` of the trainer.
        before (`Scores`): scores before the training.
        after (`Scores`): scores after it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    losses = [(row["epoch"], float(row["loss"])) for row in history if "loss" in row]
    if losses:
        axes.plot(*zip(*losses, strict=True), color="#3572b0", marker=".", label="loss")
    axes.set(xlabel="epoch", ylabel="loss", title="Training")
    if measured := measured_points(history, before, after):
        right = axes.twinx()
        epochs, ap, ap50 = zip(*measured, strict=True)
        right.plot(epochs, ap50, color="#c06030", marker="o", label="AP50")
        right.plot(epochs, ap, color="#e8a33d", marker="o", label="AP")
        right.set(ylabel="per cent", ylim=(0, 100))
        right.legend(loc="center right")
    if losses:
        axes.legend(loc="upper right")
    return png_of(figure)


def card(settings: Any, results: Mapping[str, Any]) -> str:
    """Return the card of an expert or adapter, with the metadata that the Hub reads.

    Args:
        settings (`Any`): of the run.
        results (`Mapping[str, Any]`): content of `results.json`.
    """
    kind = f"An adapter (LoRA, rank {settings.rank})" if settings.lora else "An expert"
    images = results["images"]
    replayed = ""
    if images["replayed"]:
        replayed = f" and, {settings.replay_share:g} for each of them, older ones drawn from {images['replayed']}"
    lines = [
        f"# MedGLIP, {settings.modality}: trained further", "",
        f"{kind} trained by `python -m training.fit.finetune` on {images['train']} images{replayed}, measured on",
        f"{images['validation']} others, of other patients where the data name patients. For research use; not a",
        "medical device.", "",
    ]  # fmt: skip
    if settings.keep == "best" and images["validation"]:
        lines += ["The best epoch was chosen on these same images: expect a little less on others.", ""]
    if images["broken"]:
        lines += [f"Images that cannot be read and were left out: {images['broken']}.", ""]
    reason = unmeasured(results)
    lines.append(f"**{reason}**" if reason else _label_table(results["before"], results["after"]))
    lines += ["", *_usage(settings, results)]
    if results["known_after"]["labels"]:
        lines += ["", "Labels of the older data, on its validation images:", ""]
        lines.append(_label_table(results["known_before"], results["known_after"]))
    return "\n".join(["---", _header(settings).to_yaml(), "---", "", *lines]) + "\n"


def _usage(settings: Any, results: Mapping[str, Any]) -> list[str]:
    """Return code that uses it, with a folder to fill in where it has no id on the Hub."""
    source, prompt = settings.push_to_hub or "FOLDER", example_prompt(results["after"]["labels"])
    local = settings.lora and settings.model is not None and _base_on_hub(settings) is None
    base = ', base="FOLDER OF THE CHECKPOINT IT WAS TRAINED ON"' if local else ""
    return [
        "```python", "import modeling_medglip", "",
        f'grounder = modeling_medglip.load_grounder("{source}"{base})',
        f'result = modeling_medglip.ground_image("image.png", "{prompt}", "{settings.modality}", grounder)',
        "print([(box.label, box.score, box.bbox) for box in result.boxes])", "```",
    ]  # fmt: skip


def _base_on_hub(settings: Any) -> str | None:
    """Return the id of the base on the Hub, if it was given as one."""
    named = settings.model is not None and settings.model.count("/") == 1 and not Path(settings.model).exists()
    return settings.model if named else None


def _header(settings: Any) -> ModelCardData:
    """Return the metadata. The license is for the owner to state; the base is named if it is an id on the Hub."""
    return ModelCardData(
        license="unknown",
        library_name="peft" if settings.lora else "transformers",
        base_model=_base_on_hub(settings),
        pipeline_tag="zero-shot-object-detection",
        language="en",
        tags=["medical-imaging", "visual-grounding", "glip", settings.modality],
    )


def unmeasured(results: Mapping[str, Any]) -> str:
    """Return why a run measured nothing as a sentence, empty if it measured."""
    reason = nothing_to_measure(results["images"]["validation"], bool(results["after"]["labels"]))
    return f"{reason[0].upper()}{reason[1:]}: nothing was measured." if reason else ""


def _label_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the table of AP50 and AP of every label, before and after."""
    rows = [(plain(name), before["labels"].get(name, {}), after["labels"][name]) for name in after["labels"]]
    return table(
        ["label", "AP50 before", "after", "AP before", "after"],
        (
            [name, *(percent(part.get(key)) for key in ("AP50", "AP") for part in (first, last))]
            for name, first, last in [*rows, ("**mean**", before["mean"], after["mean"])]
        ),
    ).rstrip()
