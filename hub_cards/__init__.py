# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Cards and publishing: what goes to the Hugging Face Hub, checked before it goes."""
