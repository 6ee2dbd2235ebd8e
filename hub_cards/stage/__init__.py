# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Staging: write each repository into a separate folder, before anything is checked or sent."""
