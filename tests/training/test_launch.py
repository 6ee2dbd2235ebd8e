# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The launch files name classes of the model."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.modeling_medglip.tiny_model import tiny_model


LAUNCH = Path(__file__).parents[2] / "training" / "launch" / "fsdp.yaml"


def test_wrapped_layers_are_layers_of_the_model() -> None:
    settings = yaml.safe_load(LAUNCH.read_text(encoding="utf-8"))["fsdp_config"]
    wrapped = set(settings["fsdp_transformer_layer_cls_to_wrap"].split(","))
    model = tiny_model()
    assert wrapped <= {type(module).__name__ for module in model.modules()}
