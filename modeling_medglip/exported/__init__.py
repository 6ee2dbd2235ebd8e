# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints as graphs of ONNX or OpenVINO: written by `graphs`, run by `runtime`, in eight bits by `quantization`.

A folder holds a graph for each part of the network: `text_encoder`, and for each modality an image encoder and a
decoder. Prompts are encoded once for all images, images once for all prompts. `export.json` lists the files.
"""
