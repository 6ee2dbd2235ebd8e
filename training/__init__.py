# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Training and evaluation of MedGLIP experts. Runs from a clone; never part of the installed package."""
