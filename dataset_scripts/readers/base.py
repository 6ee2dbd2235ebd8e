# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The interface of the readers: list the cases of a raw folder, then read them one by one."""

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


# Placeholders that a pattern of a recipe may have.
PLACEHOLDERS = ("stem", "name", "folder", "id")
# Most `**` of a pattern. Each multiplies the time of the search by the depth of the folder.
MAX_DEEP = 3


class Reader(ABC):
    """Read the raw files of one source.

    Images come upright by their EXIF tag, and their annotations turn with them; volumes come with their affine to LPS
    mm and are never turned here. Labels are the names that the source uses. `cases` reads names only and is quick;
    `read` raises [`Rejected`] for what cannot be used.

    Attributes:
        layout (`str`): Name that recipes use.
        needs (`tuple[str, ...]`): Required keys of a recipe's `files`.
        takes (`tuple[str, ...]`): Further keys.
        rejections (`list[Rejection]`): What `cases` left out.
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
        """Return all cases, sorted by key; what is left out goes to `rejections`."""

    @abstractmethod
    def read(self, case: Case) -> AnnotatedImage | LabeledVolume:
        """Read pixels and annotations of one case.

        Raises:
            `Rejected`: The case cannot be used.
        """

    def files(self, case: Case) -> list[tuple[Path, os.stat_result]]:
        """Return the files that parts and tables of a case name, with their sizes and times."""
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
        """Return the largest number of images that a case can give, according to its headers."""
        return 1

    # For subclasses --------------------------------------------------------------------------------------------------

    def find(self, pattern: str) -> list[Path]:
        """Return the files below the root that fit a pattern, sorted; links that lead out of it become rejections."""
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
        """Return the relative path of a file, with `/`."""
        return path.relative_to(self.root).as_posix()

    def case(self, path: Path, split: str | None = None, **parts: object) -> Case:
        """Return a case named by its image or volume, with patient and split as the recipe says.

        Args:
            path (`Path`): The image or volume.
            split (`str`, *optional*): Instead of the split that the recipe says.
            **parts (`object`): What `read` needs, by name.
        """
        key = self.key(path)
        return Case(key, self.patient(key), split or self.split(key), dict(parts))

    def stated_split(self, word: object, key: str) -> str | None:
        """Return the split that a list states for a case, or the recipe's; an unknown word becomes a rejection.

        Args:
            word (`object`): What the list states, such as `"val"`, or `None`.
            key (`str`): Key of the case.
        """
        if word is None or not str(word).strip():
            return self.split(key)
        known = SPLIT_WORDS.get(str(word).strip().lower())
        if known is None:
            self.reject("bad_annotations", "a split other than train, validation, test")
        return known

    def patient(self, key: str) -> str:
        """Return the patient of a case: group 1 of the recipe's expression, or the whole key."""
        match = re.search(self.recipe.patient, key) if self.recipe.patient else None
        return (match.group(1) if match else None) or key

    def split(self, key: str) -> str | None:
        """Return the official split of a case: the first pattern that fits its path or its name."""
        name = key.rpartition("/")[2]
        for split, patterns in self.recipe.splits.items():
            if any(fnmatch(key, pattern) or fnmatch(name, pattern) for pattern in patterns):
                return split
        return None

    def reject(self, rule: str, value: str = "", path: Path | None = None) -> None:
        """Record what the listing leaves out.

        Args:
            rule (`str`): One of `quality.RULES`.
            value (`str`, *optional*): The reason in few words.
            path (`Path`, *optional*): The file, for the private report.
        """
        file = "" if path is None else self.key(path)
        self.rejections.append(Rejection(self.recipe.source, "", "listing", rule, value, file))


def texts_of(value: object) -> Iterator[str]:
    """Yield all texts within nested dictionaries and lists, but not their keys."""
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
        # A format or an attribute of a placeholder could grow without bounds, or reveal internals.
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
    except (OSError, ValueError):  # not a valid name of a folder
        return False


def stem_of(path: Path, pattern: str) -> str:
    """Return what the wild cards of a pattern's last part stand for in a file's name, joined.

    `a_image.nii.gz` with `*_image.nii.gz` gives `a`.

    Args:
        path (`Path`): The file.
        pattern (`str`): The pattern that it fits.
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
    """Convert the `[...]` of a pattern to a regular expression: `!` at its start means not, `[` stands for itself."""
    inner = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
    return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"


def sibling(path: Path, template: str, pattern: str, root: Path) -> str:
    """Return a pattern, relative to the root, for the files that belong to an image or volume.

    Args:
        path (`Path`): The image or volume.
        template (`str`): Of the recipe, with `{stem}`, `{name}` and `{folder}` (the folder of the file).
        pattern (`str`): The pattern that `path` fits.
        root (`Path`): Folder of the source.
    """
    folder = path.parent.relative_to(root).as_posix()
    return template.format(stem=glob_safe(stem_of(path, pattern)), name=glob_safe(path.name), folder=glob_safe(folder))


def glob_safe(text: str) -> str:
    """Escape the characters of a text that are special in patterns."""
    return re.sub(r"([*?\[])", r"[\1]", text)


@dataclass(frozen=True)
class SourceImage:
    """An upright image, and the orientation of its annotations.

    Attributes:
        pixels (`np.ndarray` of shape `(h, w)` or `(h, w, 3)`): Uint8 or uint16, upright.
        size (`tuple[int, int]`): Width and height of the image that the annotations were drawn on.
        orientation (`int`): EXIF orientation that turns the annotations upright; 1 where they are upright already.
    """

    pixels: NDArray
    size: tuple[int, int]
    orientation: int = 1

    def annotated(self, annotations: Iterable[Annotation]) -> AnnotatedImage:
        """Return the image with its annotations, upright."""
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
    """Read an image whose annotations may state the size of the image that they were drawn on.

    Args:
        path (`Path`): The image.
        stated (`tuple[int, int]`, *optional*): Width and height that the annotations state.

    Raises:
        `Rejected`: As in `read_pixels`; `size_mismatch`, `exif_orientation`.
    """
    image = decoded(path)
    size = (image.width, image.height)
    if not on_stored(image, stated):
        return SourceImage(stored_levels(image.pixels), size)
    return SourceImage(stored_levels(image.pixels), size[::-1], image.orientation)


def on_stored(image: ReadImage, stated: tuple[int, int] | None) -> bool:
    """Return whether annotations were drawn on the stored image rather than on the upright one.

    Args:
        image ([`ReadImage`]): The image.
        stated (`tuple[int, int]`, *optional*): Width and height that the annotations state.

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
    """Read a mask or label map of an image, upright: the stored numbers, palettes as their indices.

    A mask with the same EXIF orientation as its image turns with it; one without any is taken by its size.

    Args:
        path (`Path`): The mask.
        image ([`ReadImage`]): As [`decoded`] returns it.
        colors (`bool`, *optional*, defaults to `False`): Whether colors are labels, so that a palette is looked up.

    Returns:
        `np.ndarray` of shape `(h, w)`, or `(h, w, 3)` for colors.

    Raises:
        `Rejected`: As in `read_pixels`; `size_mismatch`, `exif_orientation`.
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
    """Read an image file as (h, w) or (h, w, 3), uint8 or uint16, upright.

    Raises:
        `Rejected`: `unreadable`, `missing_file`, `too_large`, `not_finite`.
    """
    return stored_levels(decoded(path).pixels)


def stored_levels(pixels: NDArray) -> NDArray:
    """Convert pixels to uint8 or uint16; fractions from 0 to 1 are scaled to all 16 bits.

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

    Args:
        path (`Path`): The image.
        label_map (`bool`, *optional*, defaults to `False`): Keep the indices of a palette.

    Raises:
        `Rejected`: As in `read_pixels`.
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
