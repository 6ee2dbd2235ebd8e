# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write the card of a built set: configs and features for `load_dataset`, sources with their licenses, counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CardData

from modeling_medglip.outputs.markdown import plain, table

from .catalog import load_catalog
from .hierarchy import Classes
from .recipe import SPLITS, Recipe
from .schema import COLUMNS, OBJECT_COLUMNS, yaml_features, yaml_label_features
from .statistics import Statistics


TEMPLATE = """# {title}

Images of medical imaging with boxes and masks under hierarchical labels, for grounding phrases. Made by
`python -m dataset_scripts.build` of MedGLIP. Research use only; each source keeps its license, see below.

{images} images, {boxes} boxes, {masks} masks; more in `statistics/README.md`. What was rejected, and why:
`quality/report.json`. The classes: config `labels`. COCO files: `coco/`.

```python
from datasets import load_dataset

images = load_dataset({path}, "{first}", split="train")
classes = images.features["objects"]["category"].feature.names
```

An object without a box is absent only if its label is in the `annotated` of the image. Left and right are the
patient's. Cases and patients are pseudonyms.

{sources}
Patients of each split (hash): {hashes}.

## Columns

{columns}"""


def write_card(
    out: Path,
    name: str,
    recipes: Sequence[Recipe],
    classes: Classes,
    statistics: Statistics,
    split_hashes: Mapping[str, str],
    content_hash: str,
) -> None:
    """Write `README.md` into a built set.

    Args:
        out (`Path`): Folder of the set.
        name (`str`): Name of the set.
        recipes (`Sequence[Recipe]`): The sources.
        classes ([`Classes`]): The classes of the set.
        statistics ([`Statistics`]): Counts of the set.
        split_hashes (`Mapping[str, str]`): Split -> hash of its patients.
        content_hash (`str`): Short hash of the content.
    """
    header = metadata(name, classes, statistics, content_hash)
    card = with_header(header, _body(name, recipes, statistics, split_hashes))
    (out / "README.md").write_text(card, encoding="utf-8")


def with_header(header: Mapping[str, Any], body: str) -> str:
    """Return a card: a YAML header and Markdown text.

    `CardData` keeps every key; `ModelCardData` would drop the split of results in `model-index`, and `RepoCard` joins
    header and text by a Jinja template only.

    Args:
        header (`Mapping`): Keys in the order in which they are written.
        body (`str`): Markdown.
    """
    return f"---\n{CardData(**header).to_yaml()}\n---\n\n{body.strip()}\n"


def metadata(name: str, classes: Classes, statistics: Statistics, content_hash: str) -> dict[str, Any]:
    """Return the YAML header: one config per modality, and `labels`.

    `datasets` caches a local folder by its name and its `dataset_info`. The content hash in it makes a rebuilt set
    distinct.

    Args:
        name (`str`): Name of the set.
        classes ([`Classes`]): The classes of the set.
        statistics ([`Statistics`]): Counts of the set.
        content_hash (`str`): Short hash of the content.
    """
    sizes = {key: (count, statistics.split_bytes[key]) for key, count in statistics.split_images.items()}
    modalities = sorted({modality for modality, _ in sizes})
    features = {modality: yaml_features(list(classes.names)) for modality in modalities}
    labels = {"name": "train", "num_bytes": len(str(classes.rows)), "num_examples": len(classes.rows)}
    label_info = {"features": yaml_label_features(), "splits": [labels]}
    return {
        "pretty_name": name,
        "license": "other",
        "task_categories": ["object-detection", "zero-shot-object-detection"],
        "tags": ["medical", "visual-grounding", *modalities],
        **card_configs(sizes, features, label_info, content_hash),
    }


def card_configs(
    sizes: Mapping[tuple[str, str], tuple[int, int]],
    features: Mapping[str, Any],
    label_info: Mapping[str, Any],
    content_hash: str,
) -> dict[str, Any]:
    """Return `configs` and `dataset_info` of a card.

    Args:
        sizes (`Mapping`): (modality, split) -> number of images and of bytes.
        features (`Mapping`): Modality -> the `features` of its config.
        label_info (`Mapping`): `features` and `splits` of the config `labels`.
        content_hash (`str`): Short hash of the content.
    """
    description = f"Medical images with boxes and masks. Content {content_hash}."
    configs: list[dict[str, Any]] = []
    info: list[dict[str, Any]] = []
    for modality in sorted({modality for modality, _ in sizes}):
        splits = [split for split in SPLITS if sizes.get((modality, split), (0, 0))[0]]
        files = [{"split": split, "path": f"{modality}/{split}-*.parquet"} for split in splits]
        configs.append({"config_name": modality, "data_files": files})
        counts = [
            {"name": split, "num_bytes": sizes[modality, split][1], "num_examples": sizes[modality, split][0]}
            for split in splits
        ]
        config = {"config_name": modality, "description": description}
        info.append({**config, "features": features[modality], "splits": counts})
    configs.append({"config_name": "labels", "data_files": [{"split": "train", "path": "labels/train-*.parquet"}]})
    labels = {"config_name": "labels", "description": description}
    info.append({**labels, "features": label_info["features"], "splits": label_info["splits"]})
    configs[0]["default"] = True
    return {"configs": configs, "dataset_info": info}


def _body(name: str, recipes: Sequence[Recipe], statistics: Statistics, split_hashes: Mapping[str, str]) -> str:
    total = statistics.total()
    first = min((modality for modality, _ in statistics.split_images), default="labels")
    columns = [[f"`{column}`", entry[2]] for column, entry in COLUMNS.items()]
    columns += [[f"`objects.{column}`", entry[2]] for column, entry in OBJECT_COLUMNS.items()]
    return TEMPLATE.format(
        title=plain(name),
        images=f"{total['images']:,}",
        boxes=f"{total['boxes']:,}",
        masks=f"{total['masks']:,}",
        path=json.dumps(name),
        first=first,
        sources=_source_table(recipes),
        hashes=", ".join(f"{split} `{digest}`" for split, digest in split_hashes.items()),
        columns=table(["column", "holds"], columns, numbers=False),
    )


def _source_table(recipes: Sequence[Recipe]) -> str:
    catalog = load_catalog()
    rows = []
    for recipe in recipes:
        known = catalog.get(recipe.source)
        title = plain(recipe.card.get("name") or (known.name if known else recipe.source))
        official = "yes" if recipe.splits or recipe.layout == "manifest" else "no"
        confirmed = "yes" if recipe.confirmed else "no: not to be published"
        rows.append([title, recipe.modality, plain(recipe.license or "not known"), official, confirmed])
    return table(["source", "modality", "license", "official split", "labels confirmed"], rows, numbers=False)


__all__ = ["card_configs", "metadata", "with_header", "write_card"]
