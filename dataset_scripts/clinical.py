# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Read clinical facts of a case, by allow-list: only four facts, and of two of them only listed values.

In a recipe:

    clinical:
      table: HAM10000_metadata.csv     # a table of the source, or `dicom` for age and sex out of the slices' headers
      id: image_id                     # its column of identifiers
      matches: '([^/]+)\\.jpg$'         # regular expression on the case's path; group 1 is the identifier
      age: age                         # column of years; becomes a band of ten years, from 90 on one band
      sex: sex                         # column; becomes female, male or other
      diagnosis: {column: dx, values: {mel: melanoma, nv: nevus}}
      history: {column: smoker, values: {"1": smoker, "0": non-smoker}}

Text that is not among the listed values is left out, so that no note of a doctor reaches the data set.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeling_medglip.errors import one_line
from modeling_medglip.io.dicom_files import read_dicom_header
from modeling_medglip.io.text_files import read_text

from .recipe import usable_expression
from .records import Case, Rejected, inside


FACTS = ("age_band", "sex", "diagnosis", "history")
SEXES = {"f": "female", "female": "female", "w": "female", "m": "male", "male": "male", "o": "other", "other": "other"}
OLDEST = 90
DICOM = "dicom"
MAX_TABLE_BYTES = 2**28


def clinical_facts(keys: Mapping[str, Any], root: Path, case: Case) -> dict[str, str]:
    """Return the facts of a case that the recipe allows; unknown facts are missing.

    Args:
        keys (`Mapping`): `clinical` of the recipe, which may be empty, as [`check_clinical_keys`] accepts it.
        root (`Path`): Folder of the source.
        case ([`Case`]): The case.
    """
    if not keys:
        return {}
    if keys.get("table") == DICOM:
        return _from_dicom(case)
    match = re.search(str(keys["matches"]), case.key)
    row = _table(inside(root, str(keys["table"])), str(keys["id"])).get(match.group(1) or "") if match else None
    return {} if row is None else facts_of(keys, row)


def check_clinical_keys(keys: Mapping[str, Any], root: Path) -> None:
    """Check that the clinical table exists and has every column that the recipe names.

    Args:
        keys (`Mapping`): `clinical` of the recipe, which may be empty.
        root (`Path`): Folder of the source.

    Raises:
        `ValueError`: In one line, what is missing.
    """
    if not keys or keys.get("table") == DICOM:
        return
    missing = [key for key in ("table", "id", "matches") if key not in keys]
    if missing:
        raise ValueError(f"clinical: needs {', '.join(missing)}")
    matches = str(keys["matches"])
    if not usable_expression(matches) or re.compile(matches).groups < 1:
        raise ValueError("clinical: matches must be a regular expression with a group, none of them repeated")
    try:
        path = inside(root, str(keys["table"]))
        columns = next(csv.reader(_lines(path), strict=True), [])
    except (Rejected, ValueError, csv.Error):
        name = one_line(keys["table"], 80)
        raise ValueError(f"clinical: {name!r} is not a table below the folder of the source") from None
    named = [keys["id"], *(keys[key] for key in ("age", "sex") if key in keys)]
    for fact in ("diagnosis", "history"):
        if fact in keys:
            given = keys[fact]
            if not isinstance(given, Mapping) or not isinstance(given.get("values"), Mapping) or "column" not in given:
                raise ValueError(f"clinical: {fact} needs column and values")
            named.append(keys[fact]["column"])
    unknown = [str(name) for name in named if name not in columns]
    if unknown:
        message = f"clinical: {path.name} has no column {', '.join(unknown)}: it has {', '.join(columns)}"
        raise ValueError(one_line(message))


def facts_of(keys: Mapping[str, Any], row: Mapping[str, str | None]) -> dict[str, str]:
    """Return the allowed facts of one row of a table.

    Args:
        keys (`Mapping`): `clinical` of the recipe.
        row (`Mapping`): Column -> cell.
    """
    facts = {}
    if "age" in keys:
        facts["age_band"] = age_band(row[keys["age"]] or "")
    if "sex" in keys:
        facts["sex"] = SEXES.get((row[keys["sex"]] or "").strip().lower(), "")
    for fact in ("diagnosis", "history"):
        if fact in keys:
            value = (row[keys[fact]["column"]] or "").strip()
            facts[fact] = str({str(k): v for k, v in keys[fact]["values"].items()}.get(value, ""))
    return {fact: value for fact, value in facts.items() if value}


def age_band(text: str) -> str:
    """Return the band of ten years that an age lies in.

    `"63"`, `"63.0"` and DICOM's `"063Y"` are `"60-69"`; from 90 on `"90+"`; other text gives an empty string.
    """
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*[Yy]?\s*", text)
    if match is None:
        return "0-9" if re.fullmatch(r"\s*\d{1,3}[DdWwMm]\s*", text) else ""
    low = math.floor(float(match.group(1)) / 10) * 10
    return f"{OLDEST}+" if low >= OLDEST else f"{low}-{low + 9}"


@functools.lru_cache(maxsize=8)
def _table(path: Path, id_column: str) -> dict[str, dict[str, str | None]]:
    try:
        return {row[id_column]: row for row in csv.DictReader(_lines(path), strict=True)}
    except (ValueError, KeyError, csv.Error):
        raise Rejected("bad_annotations", "the clinical table cannot be read") from None


def _lines(path: Path) -> io.StringIO:
    return io.StringIO(read_text(path, MAX_TABLE_BYTES), newline="")


def _from_dicom(case: Case) -> dict[str, str]:
    header = read_dicom_header(case.parts["slices"][0], ["PatientAge", "PatientSex"])
    age = age_band(str(header.get("PatientAge") or ""))
    sex = SEXES.get(str(header.get("PatientSex") or "").strip().lower(), "")
    return {fact: value for fact, value in (("age_band", age), ("sex", sex)) if value}


__all__ = ["FACTS", "age_band", "check_clinical_keys", "clinical_facts", "facts_of"]
