# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""YAML as plain data, by libyaml where PyYAML has it: ten times as fast."""

from __future__ import annotations

from typing import Any

import yaml


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(text: str) -> Any:
    """The one document of a text; only plain data, nothing that is run.

    Raises:
        `yaml.YAMLError`: it is none.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


__all__ = ["load_yaml"]
