# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The readers that are fuzzed: what each is given, and the errors that it may raise."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from random import Random
from typing import Any

from modeling_medglip.errors import MedGlipError
from modeling_medglip.isolation.process import FileReader

from . import corpus, mutators
from .corpus import Files
from .mutators import Mutator


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: for the command line and the table.
        seeds: makes the sound inputs.
        mutate: damages one file.
        damaged: pattern of the files that are damaged; the others stay as they are.
        read: reads a folder that holds one input, with a [`FileReader`] where a file is decoded.
        errors: what `read` may raise; anything else is a fault.
        modules: imported once, before processes are forked.
        decodes: native code decodes the input, and may end or occupy the process. The package therefore reads such
            files in a worker process; an input that only this contains is counted apart.
    """

    name: str
    seeds: Callable[[], Sequence[Files]]
    mutate: Mutator
    damaged: str
    read: Callable[[Path, FileReader], object]
    errors: tuple[type[BaseException], ...] = (MedGlipError,)
    modules: tuple[str, ...] = ()
    decodes: bool = False

    def input(self, seed: int, number: int) -> Files:
        """Make the input of a number; the same for the same seed."""
        random = Random(f"{seed}-{self.name}-{number}")
        files = dict(random.choice(self.seeds()))
        names = [name for name in files if fnmatch(name, self.damaged)]
        for name in random.sample(names, min(len(names), random.choice((1, 1, 2)))):
            files[name] = self.mutate(random, files[name])
        return files


def _only(folder: Path, pattern: str = "*") -> Path:
    return sorted(folder.glob(pattern))[0]


def read_image(folder: Path, reader: FileReader) -> object:
    """Read a 2-D image as the command line does."""
    return reader.read_image(_only(folder))


def read_volume(folder: Path, reader: FileReader) -> object:
    """Open a volume and read its first and last slice in every plane."""
    endings = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd")
    path = next(path for path in sorted(folder.iterdir()) if path.name.endswith(endings))
    return _slices(reader.open_volume(path, 1, detached=True))


def read_series(folder: Path, reader: FileReader) -> object:
    """Find the series of a folder and read slices of each."""
    return [_slices(reader.open_series(series, "folder")) for series in reader.find_series(folder)]


def _slices(source: Any) -> object:
    from modeling_medglip.volumes.geometry import PLANES, slice_count, to_lps

    lps = to_lps(source.grid)
    return [source.read_slice(plane, number) for plane in PLANES for number in {0, slice_count(lps, plane) - 1}]


def build(folder: Path, _: FileReader) -> object:
    """List and read the cases of a source as the data build does; the layout follows from the files."""
    from dataset_scripts.readers import make_reader
    from dataset_scripts.recipe import Recipe
    from dataset_scripts.records import Rejected

    ending = next(kind for kind in (".json", ".xml", ".txt", ".csv") if list(folder.glob(f"*{kind}")))
    files: dict[str, dict[str, Any]] = {
        ".json": {"annotations": "boxes.json", "images": "."},
        ".xml": {"image": "*.png", "annotation": "{stem}.xml"},
        ".txt": {"image": "*.png", "annotation": "{stem}.txt"},
        ".csv": {
            "table": "t.csv",
            "image": "{id}.png",
            "columns": {"id": "id", "label": "label", "box": ["x1", "y1", "x2", "y2"]},
        },
    }
    layout = {".json": "coco", ".xml": "voc", ".txt": "yolo", ".csv": "csv_boxes"}[ending]
    labels = {"liver": "liver", "spleen": "spleen"}
    recipe = Recipe("mysource", "ultrasound", layout, files=files[ending], labels=labels, values={0: "liver"})
    reader = make_reader(recipe, folder)
    for case in reader.cases():
        try:
            reader.read(case)
        except Rejected:
            continue
    return reader.rejections


def read_recipe(folder: Path, _: FileReader) -> object:
    """Read a recipe file."""
    from dataset_scripts.recipe import load_recipes

    return load_recipes(_only(folder))


def read_boxes(folder: Path, _: FileReader) -> object:
    """Read a `*.boxes.json` file."""
    from modeling_medglip.outputs.results import read_boxes as read

    return read(_only(folder))


def read_training_coco(folder: Path, _: FileReader) -> object:
    """Read a COCO file and its images as fine-tuning does."""
    from training.data.coco_records import coco_records
    from training.data.records import SourceSettingsTable

    return [record.loader() for record in coco_records(folder / "boxes.json", ["ultrasound"], SourceSettingsTable({}))]


def read_prompt(folder: Path, _: FileReader) -> object:
    """Look up the labels of a prompt."""
    from modeling_medglip.taxonomy import load_taxonomy

    taxonomy = load_taxonomy()
    text = _only(folder).read_bytes().decode("utf-8", "surrogateescape")
    return [taxonomy.locate(part, "ct") for part in text.split(".")]


NIFTI_FIELDS = mutators.fields(
    (0, "<I"), (40, "<h"), *((42 + 2 * axis, "<h") for axis in range(7)), (70, "<h"), (72, "<h"),
    *((76 + 4 * axis, "<f") for axis in range(8)), (108, "<f"), (112, "<f"), (116, "<f"), (123, "<B"), (252, "<h"),
    (254, "<h"), *((256 + 4 * index, "<f") for index in range(18)), (344, "<I"), (348, "<I"), (352, "<I"), (356, "<I"),
)  # fmt: skip
ANY = mutators.raw_bytes
DICOM = mutators.one_of(ANY, mutators.dicom_elements, mutators.dicom_elements)
PROMPTS = ({"p.txt": b"left kidney. Niere links. liver, spleen; T2 lesion (R). lt lung"},)

TARGETS = (
    Target("image", corpus.images, ANY, "*", read_image, decodes=True),
    Target("dicom", corpus.dicom_images, DICOM, "*",
           read_image, modules=("pydicom", "pydicom.pixels"), decodes=True),
    Target("dicom-folder", corpus.dicom_folders, DICOM,
           "*", read_series, modules=("pydicom", "pydicom.pixels"), decodes=True),
    Target("nifti", corpus.niftis, mutators.one_of(ANY, NIFTI_FIELDS, NIFTI_FIELDS), "v.*", read_volume,
           modules=("nibabel",), decodes=True),
    Target("nrrd-metaimage", corpus.header_volumes, mutators.one_of(ANY, mutators.header_lines, mutators.header_lines),
           "v.[nm]*", read_volume, modules=("SimpleITK",), decodes=True),
    Target("coco-build", corpus.coco_sets, mutators.json_tree, "*.json", build, (ValueError,),
           ("dataset_scripts.readers",)),
    Target("side-build", corpus.side_files, mutators.one_of(ANY, mutators.header_lines), "*.[xtc]*", build,
           (ValueError,), ("dataset_scripts.readers",)),
    Target("recipe", corpus.recipes, mutators.one_of(ANY, mutators.header_lines), "*", read_recipe, (ValueError,),
           ("dataset_scripts.recipe",)),
    Target("boxes-json", corpus.box_files, mutators.one_of(mutators.json_tree, ANY), "*", read_boxes),
    Target("coco-training", corpus.coco_sets, mutators.one_of(mutators.json_tree, mutators.json_tree, ANY), "*",
           read_training_coco, (ValueError,), ("training.data.coco_records",)),
    Target("prompt", lambda: PROMPTS, mutators.one_of(ANY, mutators.header_lines), "*", read_prompt,
           modules=("modeling_medglip.taxonomy",)),
)  # fmt: skip


def load_modules(targets: Sequence[Target]) -> None:
    """Import and read what the targets need, so that forked processes need not."""
    for target in targets:
        for name in target.modules:
            importlib.import_module(name)
        seeds = target.seeds()
        if not target.decodes:  # read once what is read once in a process, such as the taxonomy
            with tempfile.TemporaryDirectory() as folder:
                for name, content in seeds[0].items():
                    Path(folder, name).write_bytes(content)
                target.read(Path(folder), FileReader())
