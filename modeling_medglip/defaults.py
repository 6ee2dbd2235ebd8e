# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Settings that hold unless the caller gives others, for code that must start without the modules that use them."""

from __future__ import annotations


# Lowest score of labels that a checkpoint was not trained with; docs/listening.md measures what it hides.
UNTRAINED_THRESHOLD = 0.9
# The prompt that asks for every label that the expert of the input's modality was trained with.
ALL_LABELS = "all"
# (center, width) in HU of the window through which CT is shown: soft tissue. The image processor has the same.
CT_WINDOW = (40.0, 400.0)

__all__ = ["ALL_LABELS", "CT_WINDOW", "UNTRAINED_THRESHOLD"]
