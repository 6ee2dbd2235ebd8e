# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Registers MedGLIP with transformers' Auto classes, without importing transformers before somebody else does.

Importing transformers and PyTorch takes seconds, which a command line that only prints its version and a process that
only decodes files do not need. So registration waits for the import of transformers, whoever asks for it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


PACKAGE = __name__.rpartition(".")[0]
# Modules that import transformers. Registration imports them too, so it must wait until they are complete.
OWN_MODULES = (
    "configuration_medglip", "modeling_medglip", "image_processing_medglip", "processing_medglip", "pipeline_medglip",
)  # fmt: skip
WATCHED = frozenset({"transformers", *(f"{PACKAGE}.{name}" for name in OWN_MODULES)})


def register() -> None:
    """Register configuration, models, processors and pipeline. Calling it again changes nothing."""
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForZeroShotObjectDetection,
        AutoProcessor,
    )

    from .configuration_medglip import MedGlipConfig
    from .image_processing_medglip import MedGlipImageProcessor
    from .modeling_medglip import MedGlipForObjectDetection, MedGlipModel
    from .pipeline_medglip import register_pipeline
    from .processing_medglip import MedGlipProcessor

    AutoConfig.register("med-glip", MedGlipConfig, exist_ok=True)
    AutoModel.register(MedGlipConfig, MedGlipModel, exist_ok=True)
    AutoModelForZeroShotObjectDetection.register(MedGlipConfig, MedGlipForObjectDetection, exist_ok=True)
    AutoImageProcessor.register(
        MedGlipConfig, image_processor_classes={"torchvision": MedGlipImageProcessor}, exist_ok=True
    )
    AutoProcessor.register(MedGlipConfig, MedGlipProcessor, exist_ok=True)
    register_pipeline()


def register_with_transformers() -> None:
    """Register now if transformers is imported already, else as soon as it is."""
    if "transformers" in sys.modules:
        register()
    elif not any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterImport())


class _RegisterAfterImport(MetaPathFinder):
    """Calls [`register`] when the outermost import of a watched module is complete, then withdraws."""

    def __init__(self) -> None:
        self.running = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that Python itself finds, with `register` after its execution; else `None`."""
        spec = PathFinder.find_spec(name, path, target) if name in WATCHED else None
        if spec is not None and spec.loader is not None:
            self._register_after(spec.loader)
        return spec

    def _register_after(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the class's own method again
            self.running.depth = getattr(self.running, "depth", 0) + 1
            try:
                execute(module)
            finally:
                self.running.depth -= 1
            if self.running.depth == 0 and "transformers" in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        loader.exec_module = exec_module


__all__ = ["register", "register_with_transformers"]
