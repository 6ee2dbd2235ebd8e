# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Settings that hold unless the caller gives others, for code that must start without the modules that use them."""

from __future__ import annotations


# Lowest score of labels that a checkpoint was not trained with; see docs/phrases.md.
UNTRAINED_THRESHOLD = 0.9
# The prompt that asks for every label that the expert of the input's modality was trained with.
ALL_LABELS = "all"

__all__ = ["ALL_LABELS", "UNTRAINED_THRESHOLD"]
