# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Decide which sources may be redistributed: only those whose statement is a known license and nothing else.

A license with further words ("CC BY 4.0, no redistribution", "MIT license for the code") is not interpreted: the gate
stays closed until a person states the license alone.
"""

from __future__ import annotations

import re


# License in words -> identifier on the Hub. None of them forbids derivatives or redistribution.
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
# Where a license was read, which says nothing more about it.
BEFORE = r"(?:README: |repo |dataset )?"
AFTER = r"(?: in repo| \(attribution file in repo\)| \(as README quotes Kaggle\))?"


def license_id(text: str | None) -> str | None:
    """Return the Hub's identifier of a license in words, or `None` if the words are not exactly a known license."""
    stated = " ".join(str(text or "").split())
    return next((name for words, name in KNOWN if re.fullmatch(f"{BEFORE}(?:{words}){AFTER}", stated)), None)


def reason_to_withhold(license_text: str | None, access: str | None, confirmed: bool) -> str | None:
    """Return why the images of a source are not redistributed, or `None` if they may be.

    Args:
        license_text (`str`, *optional*): As the card of the source or the catalog states it.
        access (`str`, *optional*): Of the catalog: `"open"`, `"registration"`, `"DUA"` or `"unknown"`; `None` for
            other sources.
        confirmed (`bool`): Whether a person has checked the label map.
    """
    if access == "unknown":
        return "how to get it is not known"
    if access not in (None, "open"):
        return "its owners give it only to those who ask"
    if license_id(license_text) is None:
        return "its license is not known to allow it"
    return None if confirmed else "its label map is not confirmed"


__all__ = ["license_id", "reason_to_withhold"]
