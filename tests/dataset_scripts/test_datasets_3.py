# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""datasets 3.6, in a separate environment, reads what was built: the folder, and through the loading script."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .test_build import ROOT, coco_files


READ = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
folder, script = sys.argv[1:]
result = {}
for name in get_dataset_config_names(folder):
    for split, table in load_dataset(folder, name).items():
        result[f"{name} {split}"] = len(table)
first = load_dataset(folder, "endoscopy", split="train")[0]
scripted = load_dataset(script, "endoscopy", data_dir=folder, split="train", trust_remote_code=True)[0]
result["size"] = list(first["image"].size)
result["same"] = first["objects"] == scripted["objects"] and first["image"].tobytes() == scripted["image"].tobytes()
print(json.dumps(result))
"""


@pytest.mark.slow
def test_folder_and_script(small_set: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = ["datasets==3.6.0", "Pillow", "setuptools"]
    installed = subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"datasets 3.6 cannot be installed here: {installed.stderr.splitlines()[-1][:200]}")
    script = tmp_path / "med_glip_5m.py"
    shutil.copy(ROOT / "dataset_scripts" / "med_glip_5m.py", script)
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run(
        [python, "-c", READ, str(small_set), str(script)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    for name, coco in coco_files(small_set).items():
        assert result[name.replace("/", " ")] == len(coco.imgs)
    assert result["labels train"] > 198 and result["same"] and result["size"] == [60, 40]
