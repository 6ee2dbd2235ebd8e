# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The gates of publishing: file names, card headers, licenses, and what must not leave the machine."""
