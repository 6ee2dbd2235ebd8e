# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Volumes: their geometry, their readers, and boxes linked across slices."""

from .header import VolumeError
from .reader import read_volume


__all__ = ["VolumeError", "read_volume"]
