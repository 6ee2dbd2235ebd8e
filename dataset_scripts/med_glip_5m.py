# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Builder of a set that `python -m dataset_scripts.build` made, for code that wants a builder.

    builder = MedGlip5M(config_name="ct", data_dir="built/med-glip")
    builder.download_and_prepare(num_proc=2); images = builder.as_dataset(split="train")

With datasets 5 `load_dataset("built/med-glip", "ct")` needs no code at all. With datasets 3 this file is a loading
script too: `load_dataset("med_glip_5m.py", "ct", data_dir=..., trust_remote_code=True)`. It therefore imports one
module per line and nothing of this project.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as parquet


MODALITIES = ("ct", "mri", "ultrasound", "xray", "dermoscopy", "endoscopy", "fundus")
VERSION = datasets.Version("1.0.0")
SPLITS = ("train", "validation", "test")
ROWS = 100

_TEXT = (
    "source",
    "modality",
    "case",
    "patient",
    "plane",
    "age_band",
    "sex",
    "diagnosis",
    "history",
    "sha256",
)
_NUMBERS = ("origin", "right", "down", "window")
_OBJECT_TEXT = (
    "label_id",
    "source_label",
    "anatomy",
    "region",
    "granularity",
    "side",
    "segmentation",
    "parent_label",
)


def features(names: list[str]) -> datasets.Features:
    """Return the features of a modality.

    Args:
        names (`list[str]`): Names of the classes, in order.

    Returns:
        `datasets.Features`: With plain lists, which datasets 3 and 5 spell alike.
    """
    text = datasets.Value("string")
    number = datasets.Value("float32")
    whole = datasets.Value("int32")
    objects = {
        "id": [datasets.Value("int64")],
        "bbox": [[number]],
        "category": [datasets.ClassLabel(names=names)],
        **{name: [text] for name in _OBJECT_TEXT},
        "area": [number],
        "area_fraction": [number],
        "component_count": [whole],
        "instance_index": [whole],
        "instance_count": [whole],
        "parent_box": [[number]],
    }
    return datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("int64"),
            **{name: text for name in _TEXT},
            **{name: [number] for name in _NUMBERS},
            "width": whole,
            "height": whole,
            "index": whole,
            "subset_10": datasets.Value("bool"),
            "annotated": [text],
            "objects": objects,
        }
    )


class MedGlip5M(datasets.GeneratorBasedBuilder):
    """One config per modality; `data_dir` is the built set."""

    VERSION = VERSION
    BUILDER_CONFIGS = [datasets.BuilderConfig(name=name, version=VERSION) for name in MODALITIES]
    DEFAULT_CONFIG_NAME = "ct"

    def _folder(self) -> Path:
        if self.config.data_dir is None:
            raise ValueError("give data_dir: the folder that `python -m dataset_scripts.build` wrote")
        return Path(self.config.data_dir)

    def _info(self) -> datasets.DatasetInfo:
        text = (self._folder() / "label_hierarchy.json").read_text(encoding="utf-8")
        names = [label["name"] for label in json.loads(text)["labels"]]
        return datasets.DatasetInfo(features=features(names), description="Medical images with boxes of phrases.")

    def _split_generators(self, dl_manager: Any) -> list[Any]:
        folder = self._folder() / self.config.name
        shards = {split: sorted(map(str, folder.glob(f"{split}-*.parquet"))) for split in SPLITS}
        if not any(shards.values()):
            raise ValueError(f"the built set does not have {self.config.name}")
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"shards": paths})
            for split, paths in shards.items()
            if paths
        ]

    def _generate_examples(self, shards: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        for shard in shards:
            for batch in parquet.ParquetFile(shard).iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    yield row["image_id"], row
