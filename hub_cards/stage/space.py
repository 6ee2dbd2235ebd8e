# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Stage the repository of the Space: its files and the package, since a Space installs from public indexes only.

The weights stay in the repository of the model, whose id is a variable of the Space.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from dataset_scripts.card import with_header
from modeling_medglip.outputs.files import write_text

from ..gates.front_matter import split_card
from .repository import Repository, empty_folder


ROOT = Path(__file__).parents[2]
SPACE = ROOT / "spaces_demo"
PACKAGE = ROOT / "modeling_medglip"
MODEL_VARIABLE = "MEDGLIP_MODEL"
PROCESSORS = "https://download.pytorch.org/whl/cpu"
# Neither weights nor what Python makes of the code.
LEFT_OUT = ("unified", "__pycache__", "*.pyc", "*.pyi")


def stage_space(repo: str, model: str, folder: Path, private: bool = True, source: Path = SPACE) -> Repository:
    """Write the repository of the Space into an empty folder.

    Args:
        repo (`str`): `owner/name`.
        model (`str`): Id of the checkpoint that it loads.
        folder (`Path`): A folder below a stage.
        private (`bool`, *optional*, defaults to `True`): Whether only the owners see the repository.
        source (`Path`, *optional*): Folder with the files of the Space.

    Raises:
        `ValueError`: The files of the Space do not exist.
    """
    if not (source / "app.py").is_file():
        raise ValueError(f"{source.name}: holds no app.py: publish the Space from a clone")
    shutil.copytree(
        source, empty_folder(folder), ignore=shutil.ignore_patterns(*LEFT_OUT, "__init__.py"), dirs_exist_ok=True
    )
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE.txt")
    write_text(folder / "requirements.txt", requirements())
    readme = folder / "README.md"
    header, body = split_card(readme.read_text(encoding="utf-8"))
    readme.write_text(with_header({**header, "models": [model]}, body), encoding="utf-8")
    notes = [f"loads {model} (variable {MODEL_VARIABLE})"]
    if private:
        notes.append("if that model is private, give the Space a secret HF_TOKEN that may read it")
    variables = {MODEL_VARIABLE: model}
    return Repository(repo, "space", folder, "Apache-2.0", "space", private, variables=variables, notes=notes)


def requirements() -> str:
    """Return the requirements of the package and the examples, as `pyproject.toml` states them.

    The header of the Space brings gradio. The index has builds of PyTorch for CPUs, which are small.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["demo"], *extras["clinical"]]
    return "\n".join([f"--extra-index-url {PROCESSORS}", *dict.fromkeys(requirements)]) + "\n"


__all__ = ["MODEL_VARIABLE", "requirements", "stage_space"]
