# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Training of experts."""
