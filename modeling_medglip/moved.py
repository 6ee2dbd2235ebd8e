# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Old names of modules, which keep working through one release with a `FutureWarning`."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


PACKAGE = __name__.rpartition(".")[0]
# What scripts of users import from; other modules moved without their old name.
MOVED = {
    f"{PACKAGE}.{old}": f"{PACKAGE}.{new}"
    for old, new in {
        "dicom_folder": "volumes.dicom_folder",
        "dicom_outputs": "outputs.dicom",
        "geometry": "volumes.geometry",
        "phantoms": "demo.phantoms",
        "reading": "io.image",
        "results": "outputs.results",
        "volume_results": "outputs.volume_results",
        "volume_source": "volumes.source",
    }.items()
}


class MovedModules(MetaPathFinder, Loader):
    """Imports the module that took the place of an old name.

    Args:
        moved: old name -> new name, with packages.
    """

    def __init__(self, moved: Mapping[str, str]) -> None:
        self.moved = moved

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for an old name, and warn; `None` for other names."""
        if name not in self.moved:
            return None
        new = self.moved[name]
        warnings.warn(f"{name} has moved to {new}; the old name goes with the next release", FutureWarning, 2)
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the new module; the import system must not rename it."""
        module = importlib.import_module(self.moved[spec.name])
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back; its code has run."""
        module.__spec__ = self.spec


def redirect(moved: Mapping[str, str]) -> None:
    """Let old names of modules import what they are called now."""
    sys.meta_path.append(MovedModules(moved))


__all__ = ["MOVED", "redirect"]
