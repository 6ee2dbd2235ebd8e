"""A long CT through `ground_volume`: peak memory, and slices per second beside the 2-D command slice by slice.

    python -m tests.benchmarks.bench_volume [--before CHECKOUT] [--model GRAPHS ...] [--out docs/volume_benchmark.json]

A made-up 512x512 CT of so many slices is written as `.nii.gz` and grounded by `medglip ground` in a process of its
own; a few of its slices are written as 16-bit TIFF images and grounded one by one by the same command, a process
each, as somebody without volumes would do. Both run with the same threads, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


ROOT = Path(__file__).parents[2]
SIDE = 512
PROMPT = "liver. spleen. left kidney. right kidney. aorta. stomach. pancreas."
WATCH = (
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=2).returncode; "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
)


def slice_of(index: int, slices: int) -> np.ndarray:
    """A trunk with a few organs in Hounsfield units, int16; it changes slowly from slice to slice."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE - 0.5
    place = index / slices
    image = np.full((SIDE, SIDE), -1000.0, np.float32)
    image[(x / 0.42) ** 2 + (y / 0.3) ** 2 < 1] = -90
    image[(x / 0.38) ** 2 + (y / 0.26) ** 2 < 1] = 40
    for center, radius, value in ((-0.18, 0.13, 95), (0.2, 0.07, 110), (-0.12, 0.05, 150), (0.12, 0.05, 150)):
        wave = radius * (0.6 + 0.4 * np.sin(6 * place + center))
        image[(x - center) ** 2 + (y - 0.05 * np.cos(9 * place)) ** 2 < wave**2] = value
    image[x**2 + (y - 0.16) ** 2 < 0.04**2] = 600
    noise = np.random.default_rng(index).normal(0, 15, image.shape)
    return (image + noise).astype(np.int16)


def write_volume(path: Path, slices: int) -> None:
    """Slice by slice, so that this process does not need the memory either."""
    import gzip

    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape((SIDE, SIDE, slices))
    header.set_data_dtype(np.int16)
    affine = np.diag([-0.8, -0.8, 1.0, 1.0])
    affine[:3, 3] = [205, 205, -500]
    header.set_sform(affine, 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header.binaryblock + b"\0" * 4)
        for index in range(slices):
            stream.write(slice_of(index, slices).tobytes())


def run(arguments: list[str], root: Path = ROOT) -> tuple[float, int]:
    """Seconds and peak memory (bytes) of a command of the package in a checkout.

    Raises:
        `subprocess.CalledProcessError`: it failed.
    """
    start = time.perf_counter()
    command = [sys.executable, "-c", WATCH, sys.executable, "-m", "modeling_medglip.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root, env=environment)
    return time.perf_counter() - start, int(done.stdout) * 1024


def measure(slices: int, single: int, before: Path | None, models: list[str]) -> dict[str, Any]:
    """The volume with every variant, then single slices."""
    variants: dict[str, tuple[Path, list[str]]] = {"now": (ROOT, [])}
    variants = {"before": (before, []), **variants} if before else variants
    variants |= {Path(model).name: (ROOT, ["--model", str(Path(model).absolute())]) for model in models}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_volume(folder / "long.nii.gz", slices)
        common = ["--prompt", PROMPT, "--modality", "ct", "--out", str(folder / "out")]
        found = {}
        for variant, (root, options) in variants.items():
            seconds, peak = run(["ground", str(folder / "long.nii.gz"), *common, *options], root)
            found[variant] = {"seconds": seconds, "slices_per_second": slices / seconds, "peak_bytes": peak}
        apart = []
        for number in range(single):
            image = slice_of(number * slices // single, slices)
            Image.fromarray((image.astype(np.int32) + 1024).astype(np.uint16)).save(folder / f"{number}.tif")
            apart.append(run(["ground", str(folder / f"{number}.tif"), *common])[0])
    return {"slices": slices, "variants": found, "single_slices_per_second": single / sum(apart) if apart else None}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--single", type=int, default=6)
    parser.add_argument("--before", type=lambda name: Path(name).absolute(), help="checkout of an earlier commit")
    parser.add_argument("--model", nargs="*", default=[], help="exported folders that are measured too")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    options = parser.parse_args()
    found = measure(options.slices, options.single, options.before, options.model)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
