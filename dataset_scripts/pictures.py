# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Old name of `dataset_scripts.previews`, which goes with the next release."""

from __future__ import annotations

import warnings

from .previews import main


warnings.warn(
    "dataset_scripts.pictures is now dataset_scripts.previews; the old name goes with the next release",
    FutureWarning,
    2,
)

if __name__ == "__main__":
    raise SystemExit(main())
