# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read recipes, which say how the raw folder of a source is read. A new source is a YAML file, not code.

A file holds one recipe, or several under `recipes:` with `defaults:` for all of them:

    source: acdc                 # id in sources.yaml, or any new one with `card:` below
    modality: mri                # needed where the catalog names several or none
    layout: volume_labelmap      # how the files are read; `python -m dataset_scripts.build --layouts` lists them
    root: acdc                   # folder below --raw (default: --raw itself)
    files: {image: "*_image.nii.gz", labelmap: "{stem}_label.nii.gz"}
    values: {1: right ventricle, 2: myocardium, 3: left ventricle}
    labels:                      # name in the source -> taxonomy id, `open` (outside the taxonomy) or `exclude`
      right ventricle: heart_ventricle_right
    patient: '(patient\\d+)'      # regular expression on the case's relative path; group 1 is the patient
    splits: {validation: ["patient024*"], train: ["*"]}     # official split, first match counts
    planes: {axial: 1}           # for volumes: plane -> step
    window: [-160, 240]          # values shown from black to white; default by modality
    bits: 16                     # depth of images cut from volumes; default 8. With 16 all Hounsfield units of a CT
                                 # remain: gray level = HU + 1024
    instances: [polyp]           # labels with one box per connected component; default: lesions
    min_pixels: 10               # smaller annotations are left open
    min_component_fraction: 0.02 # parts of a mask under this share of its largest part are removed
    clinical: {...}              # age band, sex, diagnosis, history by allow-list; see clinical.py
    confirmed: true              # a person has looked at the label map
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from modeling_medglip.errors import MedGlipError, one_line
from modeling_medglip.io.text_files import load_yaml, read_text
from modeling_medglip.modalities import resolve_modality
from modeling_medglip.taxonomy import load_taxonomy
from modeling_medglip.volumes.geometry import PLANES

from .catalog import load_catalog


RECIPES_FOLDER = Path(__file__).with_name("recipes")
OPEN, EXCLUDE = "open", "exclude"
SPLITS = ("train", "validation", "test")
# Values shown from black to white. CT: soft tissue. MRI: percentiles of the volume's voxels that are not zero.
WINDOWS: dict[str, tuple[float, float]] = {"ct": (-160.0, 240.0)}
# With 16 bits nothing is cut off: one gray level is one Hounsfield unit, and 1024 of them lie below water.
DEEP_WINDOWS: dict[str, tuple[float, float]] = {"ct": (-1024.0, 64511.0)}
SOURCE_ID = re.compile(r"^[a-z0-9][a-z0-9_]{0,63}$")


@dataclass(frozen=True)
class Recipe:
    """The recipe of one source; see the module's text for the keys."""

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
    min_component_fraction: float = 0.0
    axcodes: str | None = None
    clinical: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    confirmed: bool = False

    @property
    def display_window(self) -> tuple[float, float] | None:
        """Return the values shown from black to white; `None`: the percentiles of each volume."""
        return self.window or (WINDOWS if self.bits == 8 else DEEP_WINDOWS).get(self.modality)

    @property
    def family(self) -> str:
        """Return the family of the source. Sources of one family share images and stay in one split."""
        known = load_catalog().get(self.source)
        return str(self.card.get("family") or (known.family if known else self.source))

    @property
    def license(self) -> str | None:
        """Return the license as the card or the catalog states it; `None`: unknown, not to be published."""
        known = load_catalog().get(self.source)
        return self.card.get("license") or (known.license if known else None)

    @property
    def fingerprint(self) -> str:
        """Return a short hash of everything that decides the outcome of a case."""
        text = json.dumps(_text_keys(asdict(self)), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text_keys(value: Any) -> Any:
    """Return a value with text as keys of all mappings, which can be sorted."""
    if isinstance(value, dict):
        return {str(key): _text_keys(part) for key, part in value.items()}
    return [_text_keys(part) for part in value] if isinstance(value, (list, tuple)) else value


def load_recipes(path: str | Path) -> list[Recipe]:
    """Return the recipes of a file.

    Raises:
        `RecipeError`: In one line, the file, the source and what is wrong.
    """
    recipes, errors = read_recipes(path)
    for error in errors:
        raise error
    return recipes


class RecipeError(MedGlipError):
    """A recipe that cannot be used.

    Attributes:
        source (`str`): Id of the source, or the name of the file where the recipe has no valid id.
    """

    def __init__(self, message: str, source: str) -> None:
        super().__init__(one_line(message))
        self.source = source


def read_recipes(path: str | Path) -> tuple[list[Recipe], list[RecipeError]]:
    """Return the usable recipes of a file, and why the others cannot be used."""
    file = Path(path)
    name = one_line(file.name, 120)
    recipes: list[Recipe] = []
    errors: list[RecipeError] = []
    try:
        rows = _rows(file)
    except ValueError as error:
        return [], [RecipeError(str(error), name)]
    for row in rows:
        try:
            recipe = _recipe(row, name)
            if any((recipe.source, recipe.modality) == (other.source, other.modality) for other in recipes):
                raise ValueError(f"{name}: {recipe.source} {recipe.modality} occurs twice")
            recipes.append(recipe)
        except ValueError as error:
            source = str(row.get("source"))
            errors.append(RecipeError(str(error), source if SOURCE_ID.match(source) else name))
    return recipes, errors


def _rows(file: Path) -> list[dict[str, Any]]:
    name = one_line(file.name, 120)
    try:
        document = load_yaml(read_text(file))
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: cannot be read ({one_line(getattr(error, 'problem', None) or error)})") from None
    if not isinstance(document, dict):
        raise ValueError(f"{name}: is not a recipe")
    rows = document.get("recipes", [document])
    defaults = document.get("defaults", {})
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in [defaults, *rows]):
        raise ValueError(f"{name}: recipes are a list of mappings, defaults a mapping")
    return [{**_with_new_keys(defaults), **_with_new_keys(row)} for row in rows]


def _with_new_keys(row: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with the present names of its keys, and warn about old ones."""
    for old in set(RENAMED) & set(row):
        warnings.warn(
            f"recipe key {old} is now {RENAMED[old]}; the old name goes with the next release", FutureWarning, 2
        )
    return {RENAMED.get(key, key): value for key, value in row.items()}


def _recipe(row: dict[str, Any], file: str) -> Recipe:
    source = str(row.get("source", ""))
    where = f"{file}: {source[:60] or 'a recipe'}"
    unknown = sorted(map(str, set(row) - {entry.name for entry in fields(Recipe)}))
    if unknown:
        raise ValueError(f"{where}: unknown keys {', '.join(unknown)}")
    if not SOURCE_ID.match(source):
        raise ValueError(f"{where}: source must be lower-case letters, digits and underscores")
    if "layout" not in row:
        raise ValueError(f"{where}: layout is missing")
    _check_types(row, where)
    values = {**row, "source": source}
    values["modality"] = _modality(row, where)
    for key in ("window", "instances"):
        values[key] = None if row.get(key) is None else tuple(row[key])
    try:
        recipe = Recipe(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
    _check(recipe, where)
    return recipe


# What the values of a recipe's keys are, in words and as a check. Not `huggingface_hub.dataclasses.strict`: its errors
# name Python types where a recipe's author needs words, and the bounds below would be validators of their own.
FORMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "layout": ("text", lambda v: isinstance(v, str)),
    "root": ("text", lambda v: isinstance(v, str)),
    "files": ("a mapping with text (or whole numbers, in values) as keys", lambda v: _texts_as_keys(v) and _plain(v)),
    "values": ("a mapping of whole numbers to text", lambda v: _mapping(v, int, str) and _plain(v)),
    "labels": ("a mapping of text to text (quote numbers, yes and no)", lambda v: _mapping(v, str, str)),
    "patient": ("a regular expression without repeated groups", lambda v: isinstance(v, str) and usable_expression(v)),
    "splits": (
        "a mapping of splits to lists of patterns",
        lambda v: _mapping(v, str, list) and all(_list(patterns, str) for patterns in v.values()),
    ),
    "planes": ("a mapping of planes to whole numbers", lambda v: _mapping(v, str, int)),
    "window": ("two numbers", lambda v: _list(v, (int, float)) and len(v) == 2 and _plain(v)),
    "bits": ("8 or 16", lambda v: type(v) is int and v in (8, 16)),
    "instances": ("a list of labels", lambda v: _list(v, str)),
    "min_pixels": ("a whole number from 0", lambda v: type(v) is int and v >= 0 and _plain(v)),
    "min_component_fraction": ("a number from 0 to 1", lambda v: type(v) in (int, float) and 0 <= v <= 1),
    "axcodes": ("text", lambda v: isinstance(v, str)),
    "clinical": ("a mapping of plain values", lambda v: isinstance(v, dict) and _plain(v)),
    "card": ("a mapping of plain values, with name, license and family as text", lambda v: _card(v)),
    "confirmed": ("true or false", lambda v: isinstance(v, bool)),
}
# Whole numbers up to this one are exact as floating-point numbers, which JSON readers may use.
LARGEST = 2**53
# Old keys of recipes, which are still read.
RENAMED = {"specks": "min_component_fraction"}
OPTIONAL = ("patient", "window", "instances", "axcodes")


def _mapping(value: Any, key: type, content: type) -> bool:
    return isinstance(value, dict) and all(type(k) is key and type(v) is content for k, v in value.items())


def _texts_as_keys(value: Any) -> bool:
    """Return whether the keys of `files` are text; in mappings of mappings the innermost keys may be whole numbers."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return False
    inner = [part for part in value.values() if isinstance(part, dict)]
    return all(isinstance(key, str) for part in inner for key in part)


def _plain(value: Any) -> bool:
    """Return whether a value is text, a number up to `LARGEST`, or lists and mappings of them."""
    if isinstance(value, dict):
        return all(type(key) in (str, int) and _plain(key) and _plain(part) for key, part in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    if isinstance(value, (int, float)):
        return abs(value) <= LARGEST
    return value is None or (isinstance(value, str) and "\0" not in value)


def _card(value: Any) -> bool:
    texts = isinstance(value, dict) and [value[key] for key in ("name", "license", "family") if key in value]
    return isinstance(texts, list) and _plain(value) and all(isinstance(text, str | None) for text in texts)


def _list(value: Any, content: type | tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(isinstance(v, content) and not isinstance(v, bool) for v in value)


def usable_expression(pattern: str) -> bool:
    """Return whether a text is a regular expression without repeated groups, such as `(a+)+`, which take too long."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return not re.search(r"(?<!\\)\)[*+{]", pattern)


def _check_types(row: dict[str, Any], where: str) -> None:
    for key, (words, fits) in FORMS.items():
        if key in row and not (row[key] is None and key in OPTIONAL) and not fits(row[key]):
            raise ValueError(f"{where}: {key} must be {words}")


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
    if recipe.patient is not None and re.compile(recipe.patient).groups < 1:
        raise ValueError(f"{where}: patient needs a group in its regular expression")


__all__ = [
    "EXCLUDE",
    "OPEN",
    "RECIPES_FOLDER",
    "SPLITS",
    "WINDOWS",
    "Recipe",
    "RecipeError",
    "load_recipes",
    "read_recipes",
]
