# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Recipes: how one source's raw folder is read. A new source is a YAML file, not code.

A file holds one recipe, or several under `recipes:` with `defaults:` for all of them:

    source: acdc                 # id in sources.yaml, or any new one with `card:` below
    modality: mri                # needed where the catalogue names several or none
    layout: nifti_labelmap       # how the files are read; `python -m dataset_scripts.build --layouts` lists them
    root: acdc                   # folder below --raw (default: --raw itself)
    files: {image: "*_image.nii.gz", labelmap: "{stem}_label.nii.gz"}
    values: {1: right ventricle, 2: myocardium, 3: left ventricle}
    labels:                      # own name -> taxonomy id, `open` (kept, outside the taxonomy) or `exclude`
      right ventricle: heart_ventricle_right
    patient: '(patient\\d+)'      # regular expression on the case's relative path; group 1 is the patient
    splits: {validation: ["patient024*"], train: ["*"]}     # official split, first match counts
    planes: {axial: 1}           # for volumes: plane -> step
    window: [-160, 240]          # values shown from black to white; default by modality
    bits: 16                     # depth of pictures cut from volumes; default 8. With 16 all Hounsfield units of a CT
                                 # are kept: grey level = HU + 1024
    instances: [polyp]           # labels with one box per connected component; default: lesions
    min_pixels: 10               # smaller marks are left open
    specks: 0.02                 # parts of a mask under this share of its largest part are taken out
    clinical: {...}              # age band, sex, diagnosis, history by allow-list; see clinical.py
    confirmed: true              # a person has looked at the label map
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from modeling_medglip.configuration_medglip import resolve_modality
from modeling_medglip.geometry import PLANES
from modeling_medglip.taxonomy import load_taxonomy
from modeling_medglip.yaml_files import load_yaml

from .catalog import load_catalog


RECIPES_FOLDER = Path(__file__).with_name("recipes")
OPEN, EXCLUDE = "open", "exclude"
SPLITS = ("train", "validation", "test")
# Values shown from black to white. CT: soft tissue. MRI: percentiles of the volume's voxels that are not zero.
WINDOWS: dict[str, tuple[float, float]] = {"ct": (-160.0, 240.0)}
# With 16 bits nothing is cut off: one grey level is one Hounsfield unit, and 1024 of them lie below water.
DEEP_WINDOWS: dict[str, tuple[float, float]] = {"ct": (-1024.0, 64511.0)}
SOURCE_ID = re.compile(r"^[a-z0-9][a-z0-9_]{0,63}$")


@dataclass(frozen=True)
class Recipe:
    """One source's recipe; see the module's text for the keys."""

    source: str
    modality: str
    layout: str
    root: str = "."
    files: dict[str, Any] = field(default_factory=dict)
    values: dict[int, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    patient: str | None = None
    splits: dict[str, list[str]] = field(default_factory=dict)
    planes: dict[str, int] = field(default_factory=lambda: {"axial": 1})
    window: tuple[float, float] | None = None
    bits: int = 8
    instances: tuple[str, ...] | None = None
    min_pixels: int = 1
    specks: float = 0.0
    axcodes: str | None = None
    clinical: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    confirmed: bool = False

    @property
    def shown_window(self) -> tuple[float, float] | None:
        """Values shown from black to white; `None`: the percentiles of each volume."""
        return self.window or (WINDOWS if self.bits == 8 else DEEP_WINDOWS).get(self.modality)

    @property
    def family(self) -> str:
        """Sources of one family share pictures and never lie on both sides of a split."""
        known = load_catalog().get(self.source)
        return str(self.card.get("family") or (known.family if known else self.source))

    @property
    def license(self) -> str | None:
        """The licence as the card or the catalogue has it; `None`: not known, not to be published."""
        known = load_catalog().get(self.source)
        return self.card.get("license") or (known.license if known else None)

    @property
    def fingerprint(self) -> str:
        """Short hash of everything that decides what a case becomes."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_recipes(path: str | Path) -> list[Recipe]:
    """The recipes of a file.

    Raises:
        `ValueError`: one line that names the file, the source and what is wrong.
    """
    file = Path(path)
    try:
        document = load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or getattr(error, "problem", None) or error).split())
        raise ValueError(f"{file.name}: cannot be read ({reason})") from None
    if not isinstance(document, dict):
        raise ValueError(f"{file.name}: is no recipe")
    rows = document.get("recipes", [document])
    defaults = document.get("defaults", {})
    recipes = [_recipe({**defaults, **row}, file.name) for row in rows]
    names = [recipe.source for recipe in recipes]
    if len(set(names)) != len(names):
        raise ValueError(f"{file.name}: {next(name for name in names if names.count(name) > 1)} occurs twice")
    return recipes


def _recipe(row: dict[str, Any], file: str) -> Recipe:
    source = str(row.get("source", ""))
    where = f"{file}: {source[:60] or 'a recipe'}"
    odd = sorted(set(row) - {entry.name for entry in fields(Recipe)})
    if odd:
        raise ValueError(f"{where}: unknown keys {', '.join(map(str, odd))}")
    if not SOURCE_ID.match(source):
        raise ValueError(f"{where}: source must be lower-case letters, digits and underscores")
    if "layout" not in row:
        raise ValueError(f"{where}: says no layout")
    values = dict(row)
    values["modality"] = _modality(row, where)
    for key in ("window", "instances"):
        values[key] = None if row.get(key) is None else tuple(row[key])
    try:
        recipe = Recipe(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
    _check(recipe, where)
    return recipe


def _modality(row: dict[str, Any], where: str) -> str:
    known = load_catalog().get(str(row.get("source")))
    given = row.get("modality") or (known.modalities[0] if known and len(known.modalities) == 1 else None)
    if given is None:
        raise ValueError(f"{where}: say which modality")
    try:
        return resolve_modality(str(given))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check(recipe: Recipe, where: str) -> None:
    taxonomy = load_taxonomy()
    for name, target in recipe.labels.items():
        if target not in (OPEN, EXCLUDE) and target not in taxonomy.labels and target not in taxonomy.extensions:
            raise ValueError(f"{where}: label {name!r}: the taxonomy has no {target!r}; use its ids, open or exclude")
    unknown = [split for split in recipe.splits if split not in SPLITS]
    if unknown or any(plane not in PLANES for plane in recipe.planes):
        raise ValueError(f"{where}: splits are {', '.join(SPLITS)}; planes are {', '.join(PLANES)}")
    if any(not isinstance(step, int) or step < 1 for step in recipe.planes.values()):
        raise ValueError(f"{where}: the step of a plane is a whole number from 1")
    if recipe.window is not None and not (len(recipe.window) == 2 and recipe.window[0] < recipe.window[1]):
        raise ValueError(f"{where}: window must be two growing numbers")
    if recipe.bits not in (8, 16):
        raise ValueError(f"{where}: bits are 8 or 16")
    if recipe.patient is not None and re.compile(recipe.patient).groups < 1:
        raise ValueError(f"{where}: patient needs a group in its regular expression")


__all__ = ["EXCLUDE", "OPEN", "RECIPES_FOLDER", "SPLITS", "WINDOWS", "Recipe", "load_recipes"]
