# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The folder that the blocks of Markdown files run in: a copy of the clone, with the images, data sets and Hub that
the text talks about, made in code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import pydicom
from PIL import Image
from pydicom.data import get_testdata_file

from dataset_scripts.build import build
from dataset_scripts.recipe import load_recipes

from .dataset_scripts.raw_data import VOLUME_RECIPE, body, write_volumes
from .hub_server import Hub, client_environment
from .markdown_blocks import ROOT, SOURCE_FOLDERS, Block, blocks
from .modeling_medglip.dicom_files import write_series
from .modeling_medglip.tiny_checkpoint import save_tiny_checkpoint
from .training.tiny_data import CT_SIZE, save_coco, trunk_image


LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
UPLOAD = """
from huggingface_hub import HfApi
HfApi().create_repo("org/med-glip-ct")
HfApi().upload_folder(repo_id="org/med-glip-ct", folder_path="out/base")
"""
# What a file's blocks take from those of others.
AFTER = {"hub_cards/README.md": ("training/README.md",)}


@dataclass
class World:
    """A folder and a Hub; blocks run with the environment's own `python` and `medglip`."""

    folder: Path
    hub: Hub

    def run_file(self, file: str) -> str:
        """Run the blocks of a file in its order, after those of the files that it builds on; what they printed."""
        found = [block for needed in (*AFTER.get(file, ()), file) for block in blocks(needed)]
        runs = [block for block in found if block.not_run is None and block.language in ("bash", "python")]
        return "".join(self.run(block) for block in runs)

    def run(self, block: Block) -> str:
        """Run a block and return what it printed."""
        shell = ["bash", "-euo", "pipefail", "-c", block.text]
        command = shell if block.language == "bash" else [sys.executable, "-c", block.text]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, f"{block}\n{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "grad_fn" not in done.stdout, block
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Variables of its processes: this Hub, this environment, this folder's code."""
        own = client_environment(self.hub, str(self.folder / "out" / "cache"))
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own |= {"PATH": path, "PYTHONPATH": str(self.folder), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "2"}
        return {**own, "HOME": str(self.folder / "out"), "GRADIO_ANALYTICS_ENABLED": "False"}


def make_world(folder: Path, hub: Hub) -> World:
    """Write everything that the blocks name into an empty folder, and the checkpoint `org/med-glip-ct` to the Hub."""
    for name in (*SOURCE_FOLDERS, "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
    for name in ("pyproject.toml", "LICENSE", "README.md", "CITATION.cff", "Makefile"):
        shutil.copyfile(ROOT / name, folder / name)
    _write_images(folder)
    _write_coco(folder / "private" / "coco")
    _write_raw_data(folder)
    save_tiny_checkpoint(folder / "out" / "base")
    world = World(folder, hub)
    world.run(Block("world", 0, "python", UPLOAD, None))
    return world


def _write_images(folder: Path) -> None:
    shutil.copyfile(str(get_testdata_file("CT_small.dcm")), folder / "scan.dcm")
    pixels = pydicom.dcmread(folder / "scan.dcm").pixel_array
    Image.fromarray((pixels / pixels.max() * 255).astype("uint8")).save(folder / "scan.png")
    image, _, affine = body(0)
    nibabel.save(nibabel.Nifti1Image(image, affine), folder / "ct.nii.gz")
    write_series(folder / "study")


def _write_coco(folder: Path) -> None:
    """One CT image to train on and one to measure on."""
    (folder / "images").mkdir(parents=True)
    kidneys = [("left kidney", [30.0, 14.0, 12.0, 12.0]), ("right kidney", [6.0, 14.0, 12.0, 12.0])]
    for number, split in enumerate(("train", "val")):
        pixels = trunk_image(CT_SIZE)
        pixels[0, number] = 99  # no two images are the same
        Image.fromarray(pixels).save(folder / "images" / f"{split}.png")
        entry = {"file_name": f"{split}.png", "width": CT_SIZE[0], "height": CT_SIZE[1]}
        save_coco(folder, f"{split}.json", [entry], [kidneys])


def _write_raw_data(folder: Path) -> None:
    """A raw folder with its recipe, names to propose labels for, and the set that `make data` would have built."""
    recipe = folder / "mine.yaml"
    recipe.write_text(VOLUME_RECIPE.replace("Abdomen of mine}", "Abdomen of mine, license: CC0}"), encoding="utf-8")
    write_volumes(folder / "raw")
    (folder / "names.txt").write_text("liver\nkidney_left\n", encoding="utf-8")
    build(load_recipes(recipe), folder / "raw", folder / "out" / "data", echo=lambda text: None)
