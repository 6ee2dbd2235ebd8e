# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Which licenses open the gate."""

from __future__ import annotations

import pytest

from hub_cards.gates.licenses import license_id, reason_to_withhold


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("CC BY 4.0", "cc-by-4.0"),
        ("README: CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0"),
        ("dataset CC BY 4.0 in repo", "cc-by-4.0"),
        ("README: Apache 2.0", "apache-2.0"),
        ("CC0 (attribution file in repo)", "cc0-1.0"),
        ("README: CDLA Sharing 1.0", "cdla-sharing-1.0"),
        ("MIT", "mit"),
        *((text, None) for text in (
            "CC BY-ND 4.0", "CC BY-NC-ND 4.0", "none in repo; CC BY 4.0 upstream (unverified)", "SUBMIT", "", None,
            "MIT repo; data research/education only", "Apache-2.0 repo (data not separately licensed)", "mit",
            'README: "Unknown"', "Kaggle competition terms", "nur mit Genehmigung der Klinik", "not CC BY 4.0",
            "CC BY 4.0, no redistribution", "images not public domain", "CC BY-NC-SA 3.0; code MIT",
            "MIT license for code, images belong to the hospital", "Data use agreement; CC BY 4.0", "CC BY 4.0x",
        )),
    ],
)  # fmt: skip
def test_only_known_licenses_open(text: str | None, known: str | None) -> None:
    assert license_id(text) == known
    assert (reason_to_withhold(text, None, True) is None) == (known is not None)


def test_access_and_confirmation_count_too() -> None:
    assert reason_to_withhold("CC BY 4.0", "open", True) is None
    assert "only to those who ask" in str(reason_to_withhold("CC BY 4.0", "registration", True))
    assert "not confirmed" in str(reason_to_withhold("CC BY 4.0", None, False))
    assert "not known" in str(reason_to_withhold("CC BY 4.0", "unknown", True))
