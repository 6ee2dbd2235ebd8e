# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Detectors with a fixed list of labels, to compare with: same images, epochs, input size and image encoder."""
