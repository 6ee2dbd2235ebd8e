# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The interface of all readers: list the cases of a raw folder, then read one case."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from stat import S_ISREG
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from modeling_medglip.reading import MAX_PIXELS, PICTURE_FORMATS

from ..recipe import Recipe
from ..records import Case, LabelledVolume, Picture, Rejected, Rejection


SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


class Reader(ABC):
    """Reads the raw files of one source.

    Contract: pictures come as they are stored, upright by their EXIF tag; volumes come with their affine to LPS mm and
    are never turned here. Labels are the source's own names. `cases` reads names only and is quick; `read` raises
    [`Rejected`] for what cannot be used.

    Attributes:
        layout: the name that recipes use. needs: keys of a recipe's `files` that must be there. takes: further ones.
        problems: what `cases` had to leave out.
    """

    layout: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, recipe: Recipe, raw: Path) -> None:
        self.recipe = recipe
        self.root = raw / recipe.root
        self.problems: list[Rejection] = []
        if not self.root.is_dir():
            raise ValueError(f"{recipe.source}: there is no folder {recipe.root!r} in the raw folder")
        missing = [name for name in self.needs if name not in recipe.files]
        if missing:
            raise ValueError(f"{recipe.source}: layout {self.layout} needs files: {', '.join(missing)}")
        odd = sorted(set(map(str, recipe.files)) - {*self.needs, *self.takes})
        if odd:
            known = ", ".join((*self.needs, *self.takes))
            raise ValueError(f"{recipe.source}: layout {self.layout} knows no files {', '.join(odd)}, only {known}")
        for text in texts_of(recipe.files):
            _check_pattern(text, recipe.source)

    @abstractmethod
    def cases(self) -> list[Case]:
        """All cases, sorted by key; what is left out goes to `problems`."""

    @abstractmethod
    def read(self, case: Case) -> Picture | LabelledVolume:
        """Pixels and marks of one case.

        Raises:
            `Rejected`: the case cannot be used.
        """

    def files(self, case: Case) -> list[tuple[Path, os.stat_result]]:
        """The files that a case is made of, with their sizes and times: all that its parts name, and the recipe's
        own tables."""
        tables = [self.recipe.clinical.get("table"), self.recipe.files.get("values")]
        names = {case.key, *texts_of(case.parts), *(str(name) for name in tables if name)}
        start = f"{self.root.as_posix()}/"
        paths = {Path(name) if name.startswith(start) else self.root / name for name in names if "\0" not in name}
        found = []
        for path in sorted(path for path in paths if path.is_relative_to(self.root)):
            try:
                stat = path.stat()
            except OSError:  # a label, or too long for a name
                continue
            if S_ISREG(stat.st_mode):
                found.append((path, stat))
        return found

    def picture_count(self, case: Case) -> int:
        """How many pictures a case can give at most, as far as headers tell."""
        return 1

    # For subclasses --------------------------------------------------------------------------------------------------

    def find(self, pattern: str) -> list[Path]:
        """Files below the root that fit a pattern, sorted; links that lead out of it become problems."""
        found = []
        for path in sorted(self.root.glob(pattern)):
            if not path.resolve().is_relative_to(self.root.resolve()):
                self.reject("leaves_folder", "link out of the folder", path)
            elif path.is_file():
                found.append(path)
        return found

    def key(self, path: Path) -> str:
        """Relative path of a file, with `/`."""
        return path.relative_to(self.root).as_posix()

    def case(self, path: Path, split: str | None = None, **parts: object) -> Case:
        """A case named by its picture or volume, with patient and split as the recipe says."""
        key = self.key(path)
        return Case(key, self.patient(key), split or self.split(key), dict(parts))

    def stated_split(self, word: object, key: str) -> str | None:
        """The split that a list states for a case in its own word, else the recipe's; an unknown word is reported."""
        if word is None or not str(word).strip():
            return self.split(key)
        known = SPLIT_WORDS.get(str(word).strip().lower())
        if known is None:
            self.reject("bad_annotations", "a split that is none of train, validation, test")
        return known

    def patient(self, key: str) -> str:
        """The patient of a case: group 1 of the recipe's expression, else the whole key."""
        match = re.search(self.recipe.patient, key) if self.recipe.patient else None
        return match.group(1) if match else key

    def split(self, key: str) -> str | None:
        """The official split of a case: the first pattern that fits its path or its name."""
        name = key.rpartition("/")[2]
        for split, patterns in self.recipe.splits.items():
            if any(fnmatch(key, pattern) or fnmatch(name, pattern) for pattern in patterns):
                return split
        return None

    def reject(self, rule: str, value: str = "", path: Path | None = None) -> None:
        """Note a problem of the listing."""
        file = "" if path is None else self.key(path)
        self.problems.append(Rejection(self.recipe.source, "", "listing", rule, value, file))


def texts_of(value: object) -> Iterator[str]:
    """All texts within nested dictionaries and lists, their keys aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts_of(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from texts_of(part)


def _check_pattern(text: str, source: str) -> None:
    """Raise `ValueError` for a file pattern that is absolute or has a placeholder that nothing fills in."""
    if Path(text).is_absolute():
        raise ValueError(f"{source}: files: {text!r} is absolute; patterns are relative to the source's root")
    try:
        text.format(stem="", name="", folder="", id="")
    except (KeyError, IndexError, ValueError):
        raise ValueError(f"{source}: files: {text!r} has a placeholder other than stem, name, folder, id") from None


def stem_of(path: Path, pattern: str) -> str:
    """What the wild cards of a pattern's last part stand for in a file's name, joined: `a_image.nii.gz` with
    `*_image.nii.gz` is `a`."""
    last = pattern.rpartition("/")[2]
    wild = {"*": "(.*)", "?": "(.)"}
    parts = [part for part in re.split(r"(\*|\?|\[[^]]+\])", last) if part]
    expression = "".join(
        wild.get(part) or (f"({_as_set(part)})" if part[0] == "[" else re.escape(part)) for part in parts
    )
    match = re.fullmatch(expression, path.name)
    return "".join(match.groups()) if match else path.stem


def _as_set(part: str) -> str:
    """A pattern's `[...]` as a regular expression's: `!` at its start means not, `[` is a character like others."""
    inner = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
    return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"


def sibling(path: Path, template: str, pattern: str, root: Path) -> str:
    """A pattern for the files that belong to `path`, relative to the root: `{stem}`, `{name}` and `{folder}` (the
    file's folder) are filled in."""
    folder = path.parent.relative_to(root).as_posix()
    return template.format(stem=glob_safe(stem_of(path, pattern)), name=glob_safe(path.name), folder=glob_safe(folder))


def glob_safe(text: str) -> str:
    """Text whose characters a pattern takes literally."""
    return re.sub(r"([*?\[])", r"[\1]", text)


def read_pixels(path: Path) -> NDArray:
    """A picture file -> (h, w) or (h, w, 3), uint8 or uint16, upright.

    Raises:
        `Rejected`: `unreadable`, `too_large`, `not_finite`.
    """
    image = open_picture(path)
    if image.mode in ("LA", "PA", "RGBA", "P", "CMYK", "YCbCr", "1"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    array = np.asarray(image)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Rejected("not_finite")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 65535:
        raise Rejected("unreadable", f"pixel values from {low:g} to {high:g}")
    return array.astype(np.uint16)


def read_mask_values(path: Path) -> NDArray:
    """A mask or label map file -> its own numbers, (h, w) or (h, w, 3) for colours; palettes as their indices."""
    image = open_picture(path)
    if image.mode == "1":  # as numpy sees it, true is 255 there
        image = image.convert("L")
    return np.asarray(image.convert("RGB") if image.mode not in ("L", "P", "I", "F", "I;16", "RGB") else image)


def open_picture(path: Path) -> Image.Image:
    """Open and decode a picture file, upright. Sizes are checked before decoding."""
    Image.init()
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Rejected("too_large", f"{image.width}x{image.height} pixels")
            image.load()
            return ImageOps.exif_transpose(image)
    except (Rejected, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise Rejected("too_large") from None
    except FileNotFoundError:
        raise Rejected("missing_file") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise Rejected("unreadable", type(error).__name__) from None


__all__ = ["Reader", "glob_safe", "open_picture", "read_mask_values", "read_pixels", "sibling", "stem_of"]
