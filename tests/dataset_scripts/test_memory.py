# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The whole command on a CT of 512 x 512 x 1200 voxels stays under 2 GB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from .test_bad_input import VOLUME_FILES


LIMIT_MB = 2000
# Prints its peak in kB last; the one that the system reports to parents begins with theirs.
CHILD = """
import sys
from dataset_scripts.build import main
status = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
sys.exit(status)
"""
RECIPE = f"""
source: long_ct
modality: ct
layout: volume_labelmap
files: {{image: "{VOLUME_FILES["image"]}", labelmap: "{VOLUME_FILES["labelmap"]}"}}
values: {{1: liver}}
labels: {{liver: liver}}
planes: {{axial: 4, coronal: 64, sagittal: 64}}
confirmed: true
"""


def write_long_ct(folder: Path, slices: int = 1200) -> None:
    """Air, a block of noise as the body, and a liver through all slices; written piece by piece."""
    noise = np.random.default_rng(0).normal(40, 20, (512, 512)).astype(np.int16)
    for name, dtype in (("ct", np.int16), ("seg", np.uint8)):
        plane = np.full((512, 512), -1000 if name == "ct" else 0, dtype)
        plane[100:400, 100:400] = noise[100:400, 100:400] if name == "ct" else 1
        header = nibabel.Nifti1Header()
        header.set_data_dtype(dtype)
        header.set_data_shape((512, 512, slices))
        header.set_sform(np.diag([-0.8, -0.8, 1.0, 1.0]), 1)
        header["vox_offset"] = 352
        with nibabel.openers.Opener(str(folder / f"long_{name}.nii.gz"), "wb", compresslevel=1) as stream:
            stream.write(header.binaryblock + bytes(4))
            for _ in range(slices):
                stream.write(plane.tobytes(order="F"))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_a_long_ct(tmp_path: Path) -> None:
    write_long_ct(tmp_path)
    (tmp_path / "long.yaml").write_text(RECIPE, encoding="utf-8")
    arguments = ["--recipe", str(tmp_path / "long.yaml"), "--raw", str(tmp_path), "--out", str(tmp_path / "set")]
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.splitlines()[-1]) / 1024
    assert len(list((tmp_path / "set" / "coco" / "ct").rglob("*.png"))) == 300 + 5 + 5
    assert peak < LIMIT_MB, f"{peak:.0f} MB"
    print(f"peak {peak:.0f} MB")
