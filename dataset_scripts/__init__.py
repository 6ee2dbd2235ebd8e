# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""From raw public sources to one checked, hierarchical grounding data set. Runs from a clone; see README.md here."""
