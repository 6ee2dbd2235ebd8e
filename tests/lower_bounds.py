# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write the lower bounds of pyproject.toml as constraints for pip: `python -m tests.lower_bounds`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
LOWEST = ROOT / "constraints" / "lowest.txt"
# What is installed beside other tools; development, training and the data build follow the newest versions.
EXTRAS = ("demo", "clinical", "video", "adapter")


def lower_bounds() -> str:
    """Return one line `name==version` for every requirement of the package and of `EXTRAS`, sorted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = {*project["dependencies"], *(item for name in EXTRAS for item in extras[name])}
    bounds = (re.match(r"([\w.-]+)>=([\w.]+)", requirement) for requirement in requirements)
    return "".join(f"{bound[1]}=={bound[2]}\n" for bound in sorted(filter(None, bounds), key=lambda b: b[1].lower()))


if __name__ == "__main__":
    LOWEST.write_text(lower_bounds(), encoding="utf-8")
