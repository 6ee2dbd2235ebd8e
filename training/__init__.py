# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Training and evaluation of MedGLIP experts. Runs from a clone; never part of the installed package."""

from modeling_medglip.moved import redirect


redirect({"training.coco_records": ("training.data.coco_records",), "training.records": ("training.data.records",)})
