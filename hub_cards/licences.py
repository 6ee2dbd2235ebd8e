# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Which sources may be passed on. Only a statement that is a licence, and nothing else, opens the gate.

A licence beside other words ("CC BY 4.0, no redistribution", "MIT licence for the code") is not read: the gate stays
shut, and a person has to write the licence by itself.
"""

from __future__ import annotations

import re


# Licence in words -> identifier on the Hub. None of them forbids derivatives or passing on.
KNOWN = (
    (r"CC0(?:[ -]1\.0)?", "cc0-1.0"),
    (r"CC[ -]BY[ -]NC[ -]SA[ -]4\.0", "cc-by-nc-sa-4.0"),
    (r"CC[ -]BY[ -]NC[ -]4\.0", "cc-by-nc-4.0"),
    (r"CC[ -]BY[ -]SA[ -]4\.0", "cc-by-sa-4.0"),
    (r"CC[ -]BY[ -]4\.0", "cc-by-4.0"),
    (r"CC[ -]BY[ -]3\.0", "cc-by-3.0"),
    (r"CDLA[ -]Sharing[ -]1\.0", "cdla-sharing-1.0"),
    (r"CDLA[ -]Permissive[ -]2\.0", "cdla-permissive-2.0"),
    (r"Apache[ -]2\.0", "apache-2.0"),
    (r"MIT", "mit"),
    (r"3-clause BSD|BSD[ -]3[ -]clause", "bsd-3-clause"),
    (r"GPL[ -]3\.0", "gpl-3.0"),
)
# Where a licence was read, which says nothing more about it.
BEFORE = r"(?:README: |repo |dataset )?"
AFTER = r"(?: in repo| \(attribution file in repo\)| \(as README quotes Kaggle\))?"


def license_id(text: str | None) -> str | None:
    """The identifier of a licence in words; `None` if the words are anything but one of the known licences."""
    stated = " ".join(str(text or "").split())
    return next((name for words, name in KNOWN if re.fullmatch(f"{BEFORE}(?:{words}){AFTER}", stated)), None)


def why_not(license_text: str | None, access: str | None, confirmed: bool) -> str | None:
    """Why a source's pictures are not passed on; `None` if they may be.

    Args:
        license_text: as the source's card or the catalogue states it.
        access: of the catalogue: `"open"`, `"registration"`, `"DUA"`, `"unknown"`; `None` outside it.
        confirmed: whether a person has looked at the label map.
    """
    if access == "unknown":
        return "how to get it is not known"
    if access not in (None, "open"):
        return "its owners give it only to those who ask"
    if license_id(license_text) is None:
        return "its licence is not known to allow it"
    return None if confirmed else "its label map is not confirmed"


__all__ = ["license_id", "why_not"]
