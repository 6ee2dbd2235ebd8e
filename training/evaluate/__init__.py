# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Evaluation of checkpoints on annotated images: `python -m training.evaluate`."""
