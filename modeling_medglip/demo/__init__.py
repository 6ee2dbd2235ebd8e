# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The images of `medglip demo`."""
