# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The columns of the data set, stated once: for Parquet, for the card's YAML and for the builder.

Readable by datasets 3.6 and 5.2 alike: a structure of lists (as COCO-like sets on the Hub have it), no feature types
that one of them lacks, and no `huggingface` key in the Parquet files, so that the card's YAML is what counts.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa


# Column -> (Arrow type, how the YAML of a card says it, what it holds).
Column = tuple[pa.DataType, dict[str, Any], str]


def _value(arrow: pa.DataType, name: str, text: str) -> Column:
    return arrow, {"dtype": name}, text


def _list(arrow: pa.DataType, name: str, text: str) -> Column:
    return pa.list_(arrow), {"sequence": name}, text


def _boxes(text: str) -> Column:
    return pa.list_(pa.list_(pa.float32())), {"sequence": {"sequence": "float32"}}, text


COLUMNS: dict[str, Column] = {
    "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"dtype": "image"}, "the image"),
    "image_id": _value(pa.int64(), "int64", "unique number, as in the COCO files"),
    "source": _value(pa.string(), "string", "id in the catalog of sources"),
    "modality": _value(pa.string(), "string", "one of the seven"),
    "case": _value(pa.string(), "string", "pseudonym of the image or volume"),
    "patient": _value(pa.string(), "string", "pseudonym of the patient"),
    "width": _value(pa.int32(), "int32", "pixels"),
    "height": _value(pa.int32(), "int32", "pixels"),
    "plane": _value(pa.string(), "string", "axial, coronal, sagittal, or empty for 2-D images"),
    "index": _value(pa.int32(), "int32", "number of the image along its plane, -1 for 2-D images"),
    "origin": _list(pa.float32(), "float32", "LPS mm of the first pixel's center; empty for 2-D images"),
    "right": _list(pa.float32(), "float32", "LPS mm from one column to the next"),
    "down": _list(pa.float32(), "float32", "LPS mm from one row to the next"),
    "window": _list(pa.float32(), "float32", "values shown as black and white; empty where pixels are as stored"),
    "age_band": _value(pa.string(), "string", "ten years of age, or empty"),
    "sex": _value(pa.string(), "string", "female, male, other, or empty"),
    "diagnosis": _value(pa.string(), "string", "one of the recipe's listed values, or empty"),
    "history": _value(pa.string(), "string", "one of the recipe's listed values, or empty"),
    "subset_10": _value(pa.bool_(), "bool", "in the 10 % subset of the training split"),
    "annotated": _list(
        pa.string(), "string", "labels that are annotated wherever they occur here; others are unknown"
    ),
    "sha256": _value(pa.string(), "string", "of the pixels"),
}
# The same for each object of an image; every column is a list with one entry per object.
OBJECT_COLUMNS: dict[str, Column] = {
    "id": _list(pa.int64(), "int64", "unique number, as in the COCO files"),
    "bbox": _boxes("x, y, width, height in pixels"),
    "category": (pa.list_(pa.int64()), {"sequence": {"class_label": {}}}, "the label, see the config `labels`"),
    "label_id": _list(pa.string(), "string", "id in the taxonomy, empty for an open label"),
    "source_label": _list(pa.string(), "string", "name that the source uses"),
    "anatomy": _list(pa.string(), "string", "one of the 38 anatomical categories, or empty"),
    "region": _list(pa.string(), "string", "one of the 6 body regions, or empty"),
    "granularity": _list(pa.string(), "string", "organ, substructure, lesion or other"),
    "side": _list(pa.string(), "string", "left or right of the patient, or empty"),
    "area": _list(pa.float32(), "float32", "pixels of the mask, or of the box without one"),
    "area_fraction": _list(pa.float32(), "float32", "share of the image"),
    "segmentation": _list(
        pa.string(), "string", "run lengths of the mask as in COCO (size is height, width), or empty"
    ),
    "component_count": _list(pa.int32(), "int32", "connected parts of the mask"),
    "instance_index": _list(pa.int32(), "int32", "which of the objects of this label"),
    "instance_count": _list(pa.int32(), "int32", "how many objects of this label the image has"),
    "parent_label": _list(pa.string(), "string", "label whose box contains this one (a lesion's organ), or empty"),
    "parent_box": _boxes("its box, or an empty list"),
}
LABEL_COLUMNS: dict[str, Column] = {
    "class_id": _value(pa.int64(), "int64", "number in `objects.category`"),
    "name": _value(pa.string(), "string", "the phrase to ask for"),
    "label_id": _value(pa.string(), "string", "id in the taxonomy, empty for an open label"),
    "anatomy": _value(pa.string(), "string", "anatomical category"),
    "region": _value(pa.string(), "string", "body region"),
    "granularity": _value(pa.string(), "string", "organ, substructure, lesion or other"),
    "side": _value(pa.string(), "string", "left, right or empty"),
    "parent": _value(pa.string(), "string", "label that this one is a part of or found in"),
    "kind_of": _value(pa.string(), "string", "label that this one is a special case of"),
    "extension": _value(pa.bool_(), "bool", "outside the 198"),
    "synonyms": _list(pa.string(), "string", "other phrases"),
    "codes": _list(pa.string(), "string", "identifiers in terminologies; unchecked ones end with `?`"),
}


def arrow_schema() -> pa.Schema:
    """Return the schema of a modality's Parquet files."""
    objects = pa.struct([(name, column[0]) for name, column in OBJECT_COLUMNS.items()])
    fields = [(name, column[0]) for name, column in COLUMNS.items()]
    return pa.schema([*fields, ("objects", objects)])


def label_schema() -> pa.Schema:
    """Return the schema of the config `labels`."""
    return pa.schema([(name, column[0]) for name, column in LABEL_COLUMNS.items()])


def yaml_features(names: list[str]) -> list[dict[str, Any]]:
    """Return the `features` of a modality's config in a card; `names` are those of the classes, in order."""
    classes = {"sequence": {"class_label": {"names": {str(number): name for number, name in enumerate(names)}}}}
    objects = [
        {"name": name, **(classes if name == "category" else column[1])} for name, column in OBJECT_COLUMNS.items()
    ]
    return [*({"name": name, **column[1]} for name, column in COLUMNS.items()), {"name": "objects", "struct": objects}]


def yaml_label_features() -> list[dict[str, Any]]:
    """Return the `features` of the config `labels` in a card."""
    return [{"name": name, **column[1]} for name, column in LABEL_COLUMNS.items()]


__all__ = [
    "COLUMNS",
    "LABEL_COLUMNS",
    "OBJECT_COLUMNS",
    "arrow_schema",
    "label_schema",
    "yaml_features",
    "yaml_label_features",
]
