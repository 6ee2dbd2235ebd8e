# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Volumes: their geometry, their readers, and boxes linked across slices."""

from .reader import VolumeError, read_volume


__all__ = ["VolumeError", "read_volume"]
