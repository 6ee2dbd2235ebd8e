# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints and adapters: where they are, and how they are loaded."""
