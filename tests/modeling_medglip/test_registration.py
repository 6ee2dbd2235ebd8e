# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Importing the package is quick, and transformers knows MedGLIP in whatever order the two are imported."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import modeling_medglip
from modeling_medglip import configuration_medglip, image_processing_medglip, modalities, registration
from modeling_medglip.io import image as image_io
from modeling_medglip.io import image_record


ROOT = Path(__file__).resolve().parents[2]
CHECK = """
from transformers import AutoConfig, AutoProcessor, AutoModelForZeroShotObjectDetection
from transformers.pipelines import PIPELINE_REGISTRY
import modeling_medglip
config = AutoConfig.from_pretrained(modeling_medglip.default_checkpoint())
assert type(config) is modeling_medglip.MedGlipConfig, type(config)
assert AutoModelForZeroShotObjectDetection._model_mapping[type(config)] is modeling_medglip.MedGlipForObjectDetection
assert "medical-phrase-grounding" in PIPELINE_REGISTRY.get_supported_tasks()
assert not [finder for finder in __import__("sys").meta_path if type(finder).__name__ == "_RegisterAfterImport"]
print("registered")
"""
ORDERS = {
    "package first": "import modeling_medglip",
    "transformers first": "import transformers, modeling_medglip",
    "auto classes first": "from transformers import AutoModel; import modeling_medglip",
    "a lazy name first": "from modeling_medglip import MedGlipForObjectDetection",
    "the model's module first": "from modeling_medglip.modeling_medglip import MedGlipModel",
    "the configuration's module first": "import modeling_medglip.configuration_medglip",
    "the pipeline's module first": "import modeling_medglip.pipeline_medglip",
    "grounding first": "from modeling_medglip.grounding import load_grounder",
}


LIGHT_MODULES = (
    "cli", "cli.tasks", "io.dicom", "io.image", "outputs.results", "taxonomy", "volumes", "volumes.dicom_folder",
    "volumes.source",
)  # fmt: skip


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_transformers_knows_the_classes(order: str) -> None:
    assert run(ORDERS[order] + CHECK) == "registered\n"


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """For each module the network libraries that are there after its import, one module after the other."""
    code = (
        "import importlib, json, sys\n"
        f"for module in {LIGHT_MODULES}:\n"
        "    importlib.import_module(f'modeling_medglip.{module}')\n"
        "    print(json.dumps([module, [n for n in ('torch', 'transformers', 'timm') if n in sys.modules]]))"
    )
    return dict(json.loads(line) for line in run(code).splitlines())


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_modules_without_a_network_import_no_torch(module: str, imported: dict[str, list[str]]) -> None:
    assert imported[module] == []


def test_public_names_exist() -> None:
    for name in modeling_medglip.__all__:
        assert getattr(modeling_medglip, name) is not None
        assert name in dir(modeling_medglip)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = modeling_medglip.nothing


def test_lazy_names_are_what_a_type_checker_sees() -> None:
    """What `__getattr__` imports is what the block for type checkers says."""
    tree = ast.parse(inspect.getsource(modeling_medglip))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    stated = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert stated == {**modeling_medglip._LAZY, "convert_glip_checkpoint": None}


def test_own_modules_are_those_that_import_transformers() -> None:
    """A module with transformers at its top that registration imports must be waited for."""
    used = ast.parse(inspect.getsource(registration.register))
    imported = {node.module for node in ast.walk(used) if isinstance(node, ast.ImportFrom) and node.level}
    assert imported == set(registration.OWN_MODULES)


def test_definitions_that_stand_twice_are_equal() -> None:
    """Remote code travels without `modalities.py` and `io`."""
    assert modalities.MODALITIES == configuration_medglip.MODALITIES
    assert modalities.MODALITY_ALIASES == configuration_medglip.MODALITY_ALIASES
    assert inspect.getsource(modalities.resolve_modality) == inspect.getsource(configuration_medglip.resolve_modality)
    assert image_record.MAX_PIXELS == image_processing_medglip.MAX_PIXELS
    assert image_io.IMAGE_FORMATS == image_processing_medglip.IMAGE_FORMATS
