# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What the Space installs."""

from __future__ import annotations

from hub_cards.stage.space import requirements


def test_what_the_space_installs() -> None:
    lines = requirements().splitlines()
    assert lines[0].startswith("--extra-index-url ") and not any("med-glip" in line for line in lines)
    for name in ("torch", "transformers", "pydicom", "nibabel", "scikit-image"):
        assert any(line.startswith(f"{name}>=") for line in lines)
