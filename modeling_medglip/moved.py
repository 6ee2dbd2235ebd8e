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
# What scripts of users import from, and where its names are now; other modules moved without their old name.
MOVED = {
    f"{PACKAGE}.{old}": tuple(f"{PACKAGE}.{name}" for name in new)
    for old, new in {
        "dicom_folder": ("volumes.dicom_folder",),
        "dicom_outputs": ("outputs.dicom",),
        "geometry": ("volumes.geometry",),
        "phantoms": ("demo.phantoms",),
        "reading": ("io.image",),
        "results": ("outputs.results", "outputs.files"),
        "volume_results": ("outputs.volume_results",),
        "volume_source": ("volumes.source",),
    }.items()
}


class MovedModules(MetaPathFinder, Loader):
    """Gives an old name of a module the content of the modules that took its place.

    Args:
        moved (`Mapping[str, Sequence[str]]`): old name -> new names, with packages.
    """

    def __init__(self, moved: Mapping[str, Sequence[str]]) -> None:
        self.moved = moved

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for an old name, and warn; `None` for other names."""
        if name not in self.moved:
            return None
        new = " and ".join(self.moved[name])
        warnings.warn(f"{name} has moved to {new}; the old name goes with the next release", FutureWarning, 2)
        return ModuleSpec(name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Copy the names of the new modules."""
        for name in self.moved[module.__name__]:
            content = vars(importlib.import_module(name))
            vars(module).update({key: value for key, value in content.items() if not key.startswith("__")})


def redirect(moved: Mapping[str, Sequence[str]]) -> None:
    """Let old names of modules give what their new ones hold."""
    sys.meta_path.append(MovedModules(moved))


__all__ = ["MOVED", "redirect"]
