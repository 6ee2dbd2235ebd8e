# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Render the card of a published data set from the header of the built set and the counts of the staged files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_scripts.card import card_configs, with_header
from modeling_medglip.outputs.markdown import plain, table

from .gates.licenses import license_id


if TYPE_CHECKING:
    from .dataset_counts import Counts

TEMPLATE = Path(__file__).parent / "templates" / "dataset.md"
# Numbers of images from which the Hub's size categories begin.
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))
GATE_TEXT: dict[str, Any] = {
    "extra_gated_prompt": "For research use only. You will keep each source's license, and will not try to find out "
    "who the patients are.",
    "extra_gated_fields": {"Affiliation": "text", "I agree": "checkbox"},
}
# Most labels that the card lists; `statistics` in the built set has all of them.
MOST_LABELS = 40


def render_dataset_card(
    repo: str,
    gated: bool,
    header: Mapping[str, Any],
    counts: Counts,
    shared: Sequence[Mapping[str, Any]],
    withheld: Sequence[tuple[Mapping[str, Any], str]],
    quality: Mapping[str, Any],
) -> str:
    """Return the `README.md` of the repository.

    Args:
        repo (`str`): `owner/name`.
        gated (`bool`): Whether users have to agree to conditions.
        header (`Mapping`): Header of the built set's card, with the features of every config.
        counts ([`Counts`]): Counts of the published files.
        shared (`Sequence[Mapping]`): Rows of the sources whose images are published.
        withheld (`Sequence[tuple[Mapping, str]]`): Rows of the other sources, with the reason.
        quality (`Mapping`): The published part of the quality report.
    """
    first = next((name for name, _ in sorted(counts.splits)), "labels")
    body = TEMPLATE.read_text(encoding="utf-8").format(
        title=plain(repo.rsplit("/", 1)[-1]),
        repo=repo,
        first=first,
        splits=_splits(counts),
        hashes=", ".join(f"{name} `{value}`" for name, value in counts.split_hashes().items()),
        features=_features(header, first),
        hierarchy=f"{len(_labels(counts))} labels occur here.",
        regions=_counted(counts, "region", "body region"),
        sources_counts=_counted(counts, "source", "source"),
        labels_counts=_counted(counts, "label", "label", MOST_LABELS),
        shared=_sources(shared),
        withheld=_withheld(withheld),
        quality=_quality(quality),
        **{kind: f"{counts.total(kind):,}" for kind in ("images", "boxes", "masks")},
    )
    return with_header(dataset_header(repo, header, counts, shared, gated), body)


def dataset_header(
    repo: str, built: Mapping[str, Any], counts: Counts, shared: Sequence[Mapping[str, Any]], gated: bool
) -> dict[str, Any]:
    """Return the YAML header: configs and features of the built set, reduced to what is published.

    Args:
        repo (`str`): `owner/name`.
        built (`Mapping`): Header of the built set's card.
        counts ([`Counts`]): Counts of the published files.
        shared (`Sequence[Mapping]`): Rows of the sources whose images are published.
        gated (`bool`): Whether users have to agree to conditions.
    """
    modalities = sorted({modality for modality, _ in counts.splits})
    info = {row["config_name"]: row for row in built["dataset_info"]}
    sizes = {key: (images, size) for key, (images, size) in counts.splits.items()}
    features = {modality: info[modality]["features"] for modality in modalities}
    ids = {license_id(row.get("license")) for row in shared}
    total = sum(images for images, _ in counts.splits.values())
    one = next(iter(ids)) if len(ids) == 1 else None
    several: dict[str, Any] = {"license": "other", "license_name": "per-source", "license_link": "provenance.json"}
    return {
        "pretty_name": repo.rsplit("/", 1)[-1],
        **({"license": one} if one else several),
        "task_categories": ["object-detection", "zero-shot-object-detection"],
        "language": "en",
        "size_categories": [next((name for top, name in SIZES if total < top), "n>10M")],
        "tags": ["medical", "visual-grounding", *modalities],
        **(GATE_TEXT if gated else {}),
        **card_configs(sizes, features, info["labels"], counts.content.hexdigest()[:16]),
    }


def _labels(counts: Counts) -> list[str]:
    return sorted({value for by, value in counts.boxes if by == "label"})


def _splits(counts: Counts) -> str:
    rows = [
        [modality, part, f"{images:,}", f"{size / 1e6:.1f}"]
        for (modality, part), (images, size) in sorted(counts.splits.items())
    ]
    return table(["config", "split", "images", "MB"], rows)


def _features(header: Mapping[str, Any], config: str) -> str:
    """Return a table with one row per column and its type, as the header states them."""
    info = next(row for row in header["dataset_info"] if row["config_name"] == config)
    columns: list[tuple[str, Any]] = []
    for feature in info["features"]:
        if (parts := feature.get("struct")) is None:
            columns.append((feature["name"], feature))
        else:
            columns += [(f"objects.{part['name']}", part) for part in parts]
    rows = [[plain(name), plain(_type(feature))] for name, feature in columns]
    return table(["column", "holds"], rows, numbers=False)


def _type(feature: Any) -> str:
    if isinstance(feature, str):
        return feature
    inner = feature.get("sequence")
    if inner is not None:
        return f"list of {_type(inner)}"
    return "class label" if "class_label" in feature else str(feature.get("dtype"))


def _counted(counts: Counts, by: str, title: str, most: int | None = None) -> str:
    values = sorted({value for key, value in counts.images if key == by}, key=lambda v: (-counts.boxes[by, v], v))
    rows = [[plain(v), counts.images[by, v], counts.boxes[by, v], counts.masks[by, v]] for v in values[:most]]
    text = table([title, "images", "boxes", "masks"], rows)
    return text if most is None or len(values) <= most else f"{text}\nand {len(values) - most} rarer ones.\n"


def _sources(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [plain(row["name"]), row["modality"], plain(row["license"] or "not known"), str(license_id(row["license"])),
         row["images"]]
        for row in rows
    ]  # fmt: skip
    return table(["source", "modality", "license as it is stated", "identifier", "images"], cells)


def _withheld(rows: Sequence[tuple[Mapping[str, Any], str]]) -> str:
    if not rows:
        return "None.\n"
    cells = [[plain(row["name"]), row["modality"], plain(row["license"] or "not known"), why] for row, why in rows]
    return table(["source", "modality", "license as it is stated", "why"], cells, numbers=False)


def _quality(report: Mapping[str, Any]) -> str:
    rows = [
        [f"{plain(rule)}: {plain(report['rules'][rule]['meaning'])}", sum(by_source.values())]
        for rule, by_source in sorted(report["rejected"].items())
    ]
    return table(["rule", "times"], rows) if rows else "None.\n"


__all__ = ["dataset_header", "render_dataset_card"]
