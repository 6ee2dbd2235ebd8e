# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Studies: comparisons whose tables are in `docs`."""
