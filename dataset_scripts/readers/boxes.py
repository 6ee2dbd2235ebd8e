# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Layouts of boxes without masks: `voc` (Pascal VOC XML), `yolo` (text files) and `csv_boxes` (one table)."""

from __future__ import annotations

import csv
import io
import math
import re
from abc import abstractmethod
from pathlib import Path
from xml.etree import ElementTree

from modeling_medglip.errors import one_line
from modeling_medglip.io.text_files import read_text

from ..records import AnnotatedImage, Annotation, Case, Rejected, inside
from .base import Reader, read_annotated, sibling


# Enough for a few thousand objects of one image.
MAX_TEXT_BYTES = 2**22
MAX_TABLE_BYTES = 2**29
# Formats of the four numbers of a box in a table.
FORMS = ("xyxy", "xywh", "shares")


class SideFileReader(Reader):
    """Images with one annotation file each, matched by name: `files: {image: ..., annotation: ...}`."""

    needs = ("image", "annotation")

    def cases(self) -> list[Case]:
        """Return one case per image."""
        pattern, template = str(self.recipe.files["image"]), str(self.recipe.files["annotation"])
        results, used = [], set[Path]()
        for path in self.find(pattern):
            files = self.find(sibling(path, template, pattern, self.root))
            if not files:
                self.reject("no_mask", "", path)
                continue
            used.update(files)
            results.append(self.case(path, image=path.as_posix(), annotation=files[0].as_posix()))
        for path in self.find(template.format(stem="*", name="*", folder="**")):
            if path not in used:
                self.reject("no_image", "", path)
        return results

    def read(self, case: Case) -> AnnotatedImage:
        """Read pixels and boxes."""
        path = Path(case.parts["annotation"])
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise Rejected("too_large", "annotation file")
        try:
            text = path.read_bytes().decode("utf-8-sig")
            image = read_annotated(Path(case.parts["image"]), self.stated_size(text))
            return image.annotated(self.annotations(text, image.size))
        except (ValueError, LookupError, TypeError, AttributeError, ElementTree.ParseError) as error:
            raise Rejected("bad_annotations", type(error).__name__) from None

    def stated_size(self, text: str) -> tuple[int, int] | None:
        """Return width and height of the image that the annotations were drawn on, where the file states them."""
        return None

    @abstractmethod
    def annotations(self, text: str, size: tuple[int, int]) -> list[Annotation]:
        """Parse an annotation file.

        Args:
            text (`str`): Its content.
            size (`tuple[int, int]`): Width and height of the image that the annotations were drawn on.
        """


class VocReader(SideFileReader):
    """Pascal VOC XML files, one per image.

    `files: {image: "JPEGImages/*.jpg", annotation: "Annotations/{stem}.xml"}`.

    VOC counts pixels from 1 and includes the last one: `xmin` 1, `xmax` 10 are ten pixels from the left border.
    """

    layout = "voc"

    def stated_size(self, text: str) -> tuple[int, int] | None:
        """Return `size`, unless it is left at 0."""
        stated = [_xml(text).findtext(f"size/{key}") for key in ("width", "height")]
        size = (int(stated[0] or 0), int(stated[1] or 0))
        return size if all(stated) and size != (0, 0) else None

    def annotations(self, text: str, size: tuple[int, int]) -> list[Annotation]:
        """Parse the `object` elements; see [`SideFileReader.annotations`]."""
        root = _xml(text)
        results = []
        for item in root.iter("object"):
            x1, y1, x2, y2 = (
                float(item.findtext(f"bndbox/{key}") or "nan") for key in ("xmin", "ymin", "xmax", "ymax")
            )
            results.append(Annotation((item.findtext("name") or "").strip(), box=(x1 - 1, y1 - 1, x2, y2)))
        return results


def _xml(text: str) -> ElementTree.Element:
    # Entities are how XML is made to swallow memory or files; no annotation needs them.
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise Rejected("bad_annotations", "XML with a document type")
    return ElementTree.fromstring(text)


class YoloReader(SideFileReader):
    """YOLO text files, one per image.

    `files: {image: "images/*.jpg", annotation: "labels/{stem}.txt"}` and the recipe's `values` (number -> label).

    A line holds class, center x, center y, width and height as shares of the image; or class and a polygon.
    """

    layout = "yolo"

    def annotations(self, text: str, size: tuple[int, int]) -> list[Annotation]:
        """Parse the lines; see [`SideFileReader.annotations`]."""
        width, height = size
        results = []
        for line in filter(None, map(str.strip, text.splitlines())):
            number, *values = line.split()
            shares = [float(value) for value in values]
            if len(shares) == 4:
                x, y, w, h = shares
                box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            elif len(shares) >= 6 and len(shares) % 2 == 0:
                # A minimum may hide what is not a number.
                whole = all(map(math.isfinite, shares))
                xs, ys = (shares[0::2], shares[1::2]) if whole else ([math.nan], [math.nan])
                box = (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)
            else:
                raise Rejected("bad_annotations", f"a line of {len(values) + 1} numbers")
            results.append(Annotation(self.recipe.values.get(int(number), f"value {int(number)}"), box=box))
        return results


class CsvBoxesReader(Reader):
    """One table of boxes.

    `files: {table: boxes.csv, image: "images/{id}.png", columns: {...}}`.

    `columns` names columns of the table: `id`, `label` (or a fixed `label:` in `files`), `box` as four names, and
    `form`: `xyxy` (default), `xywh`, or `shares` (xyxy as shares of the image); `split` and `patient` where present.
    Rows with an empty box mean an image without objects.
    """

    layout = "csv_boxes"
    needs = ("table", "image", "columns")
    takes = ("label",)

    def cases(self) -> list[Case]:
        """Return one case per id."""
        self._check_columns()
        path = inside(self.root, str(self.recipe.files["table"]))
        results: dict[str, Case] = {}
        try:
            # Strict, since a quote that is never closed would swallow the rows after it.
            rows = csv.DictReader(io.StringIO(read_text(path, MAX_TABLE_BYTES), newline=""), strict=True)
            unplaced = {label for row in rows if (label := self._add(row, results)) is not None}
        except (KeyError, ValueError, csv.Error) as error:
            reason = one_line(f"{type(error).__name__} {error}", 120)
            raise ValueError(f"{self.recipe.source}: {path.name}: {reason}") from None
        for case in results.values():  # a row without an id may be of any image
            missing = unplaced - {label for label, _ in case.parts["rows"]}
            case.parts["rows"].extend((label, None) for label in sorted(missing))
        return [results[key] for key in sorted(results)]

    def _check_columns(self) -> None:
        """Raise `ValueError` unless the recipe names the columns that are needed."""
        columns = self.recipe.files["columns"]
        texts = isinstance(columns, dict) and all(isinstance(columns[key], str) for key in columns if key != "box")
        box = columns.get("box") if texts else None
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(name, str) for name in box):
            raise ValueError(f"{self.recipe.source}: columns must name id and, as a list, the four of box")
        if columns.get("form", FORMS[0]) not in FORMS:
            raise ValueError(f"{self.recipe.source}: form must be one of {', '.join(FORMS)}")

    def _add(self, row: dict[str, str | None], results: dict[str, Case]) -> str | None:
        """Add a row to its case; return its label if it has no id. Of a short row some columns are `None`."""
        columns = self.recipe.files["columns"]
        image_id = row[columns["id"]]
        label = str(self.recipe.files.get("label", "")) or row[columns["label"]] or ""
        if not image_id or not image_id.strip():
            self.reject("bad_annotations", "a row without an id")
            return label
        key = str(self.recipe.files["image"]).format(id=image_id)
        if key not in results:
            patient = row[columns["patient"]] if "patient" in columns else None
            split = self.stated_split(row[columns["split"]] if "split" in columns else None, key)
            results[key] = Case(key, patient or self.patient(key), split, {"rows": []})
        results[key].parts["rows"].append((label, [row[name] for name in columns["box"]]))
        return None

    def read(self, case: Case) -> AnnotatedImage:
        """Read pixels and boxes."""
        image = read_annotated(inside(self.root, case.key))
        form = self.recipe.files["columns"].get("form", "xyxy")
        width, height = image.size
        annotations = []
        for label, texts in case.parts["rows"]:
            if texts is None:
                annotations.append(
                    Annotation(label, issue=("bad_annotations", "a row without an id may be of this image"))
                )
                continue
            if not any(text is None or text.strip() for text in texts):
                continue
            try:
                x1, y1, x2, y2 = (float(text or "") for text in texts)
            except ValueError:
                annotations.append(Annotation(label, issue=("bad_annotations", "a box without four numbers")))
                continue
            if form == "xywh":
                x2, y2 = x1 + x2, y1 + y2
            elif form == "shares":
                x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
            annotations.append(Annotation(label, box=(x1, y1, x2, y2)))
        return image.annotated(annotations)


__all__ = ["CsvBoxesReader", "VocReader", "YoloReader"]
