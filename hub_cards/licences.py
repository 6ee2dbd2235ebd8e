# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Which sources may be passed on. Only a licence that is stated, known and allows derivatives opens the gate."""

from __future__ import annotations

import re


# What says that nobody knows, or that passing on is not allowed. It outweighs a licence beside it.
DOUBTS = re.compile(
    r"unverified|unknown|not stated|not quoted|not known|none in|licence none|readme none|research|education|terms|"
    r"registration|not separately|per[- ]image|per source|other\b|proprietary|all rights|upstream|\bND\b|"
    r"(?<!\bin) repo\b",  # "MIT repo": the licence of the code beside the pictures
    re.IGNORECASE,
)
# Licence in words -> identifier on the Hub.
KNOWN = (
    (r"\bCC0\b|public domain", "cc0-1.0"),
    (r"\bCC[ -]BY[ -]NC[ -]SA[ -]4\.0", "cc-by-nc-sa-4.0"),
    (r"\bCC[ -]BY[ -]NC[ -]4\.0", "cc-by-nc-4.0"),
    (r"\bCC[ -]BY[ -]SA[ -]4\.0", "cc-by-sa-4.0"),
    (r"\bCC[ -]BY[ -]4\.0", "cc-by-4.0"),
    (r"\bCC[ -]BY[ -]3\.0", "cc-by-3.0"),
    (r"\bCDLA[ -]Sharing[ -]1\.0", "cdla-sharing-1.0"),
    (r"\bCDLA[ -]Permissive[ -]2\.0", "cdla-permissive-2.0"),
    (r"\bApache[ -]2\.0", "apache-2.0"),
    (r"\bMIT\b", "mit"),
    (r"3-clause BSD|\bBSD[ -]3", "bsd-3-clause"),
    (r"\bGPL[ -]3\.0", "gpl-3.0"),
)


def license_id(text: str | None) -> str | None:
    """The identifier of a licence in words; `None` if it is not known for sure, or allows no derivatives."""
    if not text or DOUBTS.search(text):
        return None
    return next((name for pattern, name in KNOWN if re.search(pattern, text, re.IGNORECASE)), None)


def why_not(license_text: str | None, access: str | None, confirmed: bool) -> str | None:
    """Why a source's pictures are not passed on; `None` if they may be.

    Args:
        license_text: as the source's card or the catalogue states it.
        access: of the catalogue: `"open"`, `"registration"`, `"DUA"`, `"unknown"`; `None` outside it.
        confirmed: whether a person has looked at the label map.
    """
    if access not in (None, "open"):
        return f"its owners give it only after {access}" if access != "unknown" else "how to get it is not known"
    if license_id(license_text) is None:
        return "its licence is not known to allow it"
    return None if confirmed else "its label map is not confirmed"


__all__ = ["license_id", "why_not"]
