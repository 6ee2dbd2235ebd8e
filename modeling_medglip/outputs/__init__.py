# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Results as plain data, and the files and images that show them."""
