# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The interface of the readers: list the cases of a raw folder, then read one case."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from stat import S_ISREG
from string import Formatter
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modeling_medglip.errors import MedGlipError, one_line
from modeling_medglip.io.dicom_files import open_plain
from modeling_medglip.io.image import decode_image
from modeling_medglip.io.image_orientation import (
    AmbiguousOrientationError,
    drawn_on_stored,
    upright,
    upright_boxes,
)
from modeling_medglip.io.image_record import ImageSizeError, NotFiniteError, ReadImage

from ..recipe import Recipe
from ..records import AnnotatedImage, Annotation, Case, LabeledVolume, Rejected, Rejection


SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


# What a pattern of a recipe may ask for.
PLACEHOLDERS = ("stem", "name", "folder", "id")
# Each multiplies the time that looking for files takes by the depth of their folder.
MAX_DEEP = 3


class Reader(ABC):
    """Reads the raw files of one source.

    Contract: images come upright by their EXIF tag, and their annotations turn with them; volumes come with their
    affine to LPS mm and are never turned here. Labels are the source's own names. `cases` reads names only and is
    quick; `read` raises [`Rejected`] for what cannot be used.

    Attributes:
        layout: the name that recipes use. needs: keys of a recipe's `files` that must be there. takes: further ones.
        rejections: what `cases` left out.
    """

    layout: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, recipe: Recipe, raw: Path) -> None:
        self.recipe = recipe
        self.root = raw / recipe.root
        self.rejections: list[Rejection] = []
        if not _is_folder(self.root):
            raise ValueError(f"{recipe.source}: there is no folder {recipe.root!r} in the raw folder")
        missing = [name for name in self.needs if name not in recipe.files]
        if missing:
            raise ValueError(f"{recipe.source}: layout {self.layout} needs files: {', '.join(missing)}")
        unknown = sorted(set(map(str, recipe.files)) - {*self.needs, *self.takes})
        if unknown:
            known = ", ".join((*self.needs, *self.takes))
            raise ValueError(
                f"{recipe.source}: layout {self.layout} knows no files {', '.join(unknown)}, only {known}"
            )
        for text in texts_of(recipe.files):
            _check_pattern(text, recipe.source)

    @abstractmethod
    def cases(self) -> list[Case]:
        """All cases, sorted by key; what is left out goes to `rejections`."""

    @abstractmethod
    def read(self, case: Case) -> AnnotatedImage | LabeledVolume:
        """Pixels and annotations of one case.

        Raises:
            `Rejected`: the case cannot be used.
        """

    def files(self, case: Case) -> list[tuple[Path, os.stat_result]]:
        """The files that a case is made of, with their sizes and times: all that its parts name, and the recipe's
        own tables.
        """
        tables = [self.recipe.clinical.get("table"), self.recipe.files.get("values")]
        names = {case.key, *texts_of(case.parts), *(str(name) for name in tables if name)}
        start = f"{self.root.as_posix()}/"
        paths = {Path(name) if name.startswith(start) else self.root / name for name in names if "\0" not in name}
        results = []
        for path in sorted(path for path in paths if path.is_relative_to(self.root)):
            try:
                stat = path.stat()
            except (OSError, ValueError):  # a label, too long for a name, or with characters that no name has
                continue
            if S_ISREG(stat.st_mode):
                results.append((path, stat))
        return results

    def image_count(self, case: Case) -> int:
        """How many images a case can give at most, as far as headers tell."""
        return 1

    # For subclasses --------------------------------------------------------------------------------------------------

    def find(self, pattern: str) -> list[Path]:
        """Files below the root that fit a pattern, sorted; links that lead out of it become rejections."""
        results = []
        try:
            paths = sorted(self.root.glob(pattern))
        except (OSError, ValueError, NotImplementedError, IndexError, RecursionError, re.error):
            raise ValueError(
                f"{self.recipe.source}: files: {one_line(pattern, 80)!r} is not a usable pattern"
            ) from None
        for path in paths:
            if not path.resolve().is_relative_to(self.root.resolve()):
                self.reject("leaves_folder", "link out of the folder", path)
            elif path.is_file():
                results.append(path)
        return results

    def key(self, path: Path) -> str:
        """Relative path of a file, with `/`."""
        return path.relative_to(self.root).as_posix()

    def case(self, path: Path, split: str | None = None, **parts: object) -> Case:
        """A case named by its image or volume, with patient and split as the recipe says."""
        key = self.key(path)
        return Case(key, self.patient(key), split or self.split(key), dict(parts))

    def stated_split(self, word: object, key: str) -> str | None:
        """The split that a list states for a case in its own word, else the recipe's; an unknown word is reported."""
        if word is None or not str(word).strip():
            return self.split(key)
        known = SPLIT_WORDS.get(str(word).strip().lower())
        if known is None:
            self.reject("bad_annotations", "a split other than train, validation, test")
        return known

    def patient(self, key: str) -> str:
        """The patient of a case: group 1 of the recipe's expression, else the whole key."""
        match = re.search(self.recipe.patient, key) if self.recipe.patient else None
        return (match.group(1) if match else None) or key

    def split(self, key: str) -> str | None:
        """The official split of a case: the first pattern that fits its path or its name."""
        name = key.rpartition("/")[2]
        for split, patterns in self.recipe.splits.items():
            if any(fnmatch(key, pattern) or fnmatch(name, pattern) for pattern in patterns):
                return split
        return None

    def reject(self, rule: str, value: str = "", path: Path | None = None) -> None:
        """Record what the listing leaves out."""
        file = "" if path is None else self.key(path)
        self.rejections.append(Rejection(self.recipe.source, "", "listing", rule, value, file))


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
    if text.count("**") > MAX_DEEP:
        raise ValueError(f"{source}: files: {one_line(text, 80)!r} has more than {MAX_DEEP} of **")
    try:
        # A format or an attribute of a placeholder could grow without bounds, or tell of the program.
        plain = all(
            name is None or (name in PLACEHOLDERS and not form and not conversion)
            for _, name, form, conversion in Formatter().parse(text)
        )
    except ValueError:
        plain = False
    if not plain:
        raise ValueError(
            f"{source}: files: {one_line(text, 80)!r} has a placeholder other than {', '.join(PLACEHOLDERS)}"
        )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # no name that a folder can have
        return False


def stem_of(path: Path, pattern: str) -> str:
    """What the wild cards of a pattern's last part stand for in a file's name, joined: `a_image.nii.gz` with
    `*_image.nii.gz` is `a`.
    """
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
    file's folder) are filled in.
    """
    folder = path.parent.relative_to(root).as_posix()
    return template.format(stem=glob_safe(stem_of(path, pattern)), name=glob_safe(path.name), folder=glob_safe(folder))


def glob_safe(text: str) -> str:
    """Text whose characters a pattern takes literally."""
    return re.sub(r"([*?\[])", r"[\1]", text)


@dataclass(frozen=True)
class SourceImage:
    """An upright image, and the orientation of its annotations.

    Attributes:
        pixels: `(h, w)` or `(h, w, 3)`, uint8 or uint16, upright.
        size: width and height of the image that the annotations were drawn on.
        orientation: EXIF orientation that turns the annotations upright; 1 where they are upright already.
    """

    pixels: NDArray
    size: tuple[int, int]
    orientation: int = 1

    def annotated(self, annotations: Iterable[Annotation]) -> AnnotatedImage:
        """The image with its annotations, upright."""
        return AnnotatedImage(self.pixels, tuple(self._upright(annotation) for annotation in annotations))

    def _upright(self, annotation: Annotation) -> Annotation:
        if self.orientation == 1:
            return annotation
        if annotation.box is not None:
            box = upright_boxes(np.array([annotation.box], dtype=np.float64), self.orientation, self.size)[0]
            annotation = replace(annotation, box=tuple(box.tolist()))
        if annotation.mask is None:
            return annotation
        return replace(annotation, mask=upright(annotation.whole(self.size[::-1]), self.orientation), corner=(0, 0))


def read_annotated(path: Path, stated: tuple[int, int] | None = None) -> SourceImage:
    """Read an image whose annotations state the size of the image that they were drawn on, or do not.

    Raises:
        `Rejected`: as in `read_pixels`; `size_mismatch`, `exif_orientation`.
    """
    image = decoded(path)
    size = (image.width, image.height)
    if not on_stored(image, stated):
        return SourceImage(stored_levels(image.pixels), size)
    return SourceImage(stored_levels(image.pixels), size[::-1], image.orientation)


def on_stored(image: ReadImage, stated: tuple[int, int] | None) -> bool:
    """Whether annotations of a stated size were drawn on the stored image rather than on the upright one.

    Raises:
        `Rejected`: `size_mismatch`, `exif_orientation`.
    """
    size = (image.width, image.height)
    fitting = {size} if image.orientation <= 4 else {size, size[::-1]}
    if stated is not None and stated not in fitting:
        raise Rejected("size_mismatch", f"image {size[0]}x{size[1]}, stated {stated[0]}x{stated[1]}")
    try:
        return drawn_on_stored(image.orientation, size, stated)
    except AmbiguousOrientationError:
        raise Rejected("exif_orientation", f"EXIF orientation {image.orientation}") from None


def read_mask(path: Path, image: ReadImage, colors: bool = False) -> NDArray:
    """Read a mask or label map of an image, upright: its own numbers, palettes as their indices.

    A mask with the same EXIF orientation as its image turns with it; one without any is taken by its size.

    Args:
        path: the mask's file.
        image: as [`decoded`] gives it.
        colors (`bool`, *optional*): its colors are labels, so that a palette is looked up.

    Returns:
        `np.ndarray` of shape `(h, w)`, or `(h, w, 3)` for colors.

    Raises:
        `Rejected`: as in `read_pixels`; `size_mismatch`, `exif_orientation`.
    """
    mask = decoded(path, label_map=not colors)
    values = mask.pixels
    if mask.orientation not in (1, image.orientation):
        raise Rejected("exif_orientation", f"image {image.orientation}, mask {mask.orientation}")
    if mask.orientation != image.orientation and on_stored(image, (mask.width, mask.height)):
        values = upright(values, image.orientation)
    if values.shape[:2] != image.pixels.shape[:2]:
        sizes = f"image {image.width}x{image.height}, mask {values.shape[1]}x{values.shape[0]}"
        raise Rejected("size_mismatch", sizes)
    return values


def label_values(values: NDArray) -> NDArray:
    """Return the values `(h, w)` of a label map that [`read_mask`] read, which may have three equal channels.

    Raises:
        `Rejected`: `undefined_label`, for colors.
    """
    if values.ndim == 2:
        return values
    if not (values == values[..., :1]).all():
        raise Rejected("undefined_label", "a label map in color: name its colors (files: colors)")
    return values[..., 0]


def read_pixels(path: Path) -> NDArray:
    """An image file -> (h, w) or (h, w, 3), uint8 or uint16, upright.

    Raises:
        `Rejected`: `unreadable`, `missing_file`, `too_large`, `not_finite`.
    """
    return stored_levels(decoded(path).pixels)


def stored_levels(pixels: NDArray) -> NDArray:
    """Pixels as a data set stores them, uint8 or uint16; fractions of 0 to 1 are a range, which becomes all 16 bits.

    Raises:
        `Rejected`: `unreadable`, for numbers that 16 bits do not hold.
    """
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 65535:
        raise Rejected("unreadable", f"pixel values from {low:g} to {high:g}")
    scale = 65535 if pixels.dtype.kind == "f" and high <= 1 else 1
    return np.rint(pixels * np.float32(scale)).astype(np.uint16)


def decoded(path: Path, label_map: bool = False) -> ReadImage:
    """Decode an image file, upright.

    Raises:
        `Rejected`: as in `read_pixels`.
    """
    try:
        if not path.exists():
            raise Rejected("missing_file")
        with open_plain(path) as stream:
            return decode_image(stream, label_map=label_map)
    except ImageSizeError as error:
        raise Rejected("too_large", one_line(error, 100)) from None
    except NotFiniteError:
        raise Rejected("not_finite") from None
    except MedGlipError as error:
        raise Rejected("unreadable", one_line(error, 100)) from None
    except (OSError, ValueError) as error:
        raise Rejected("unreadable", type(error).__name__) from None


__all__ = [
    "Reader",
    "SourceImage",
    "decoded",
    "glob_safe",
    "label_values",
    "on_stored",
    "read_annotated",
    "read_mask",
    "read_pixels",
    "sibling",
    "stem_of",
    "stored_levels",
]
