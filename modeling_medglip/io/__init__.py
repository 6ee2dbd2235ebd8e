# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Reading of single images, DICOM frames, videos, COCO, text and YAML files."""
