"""Slices per second from NIfTI to PNG, COCO and Parquet, beside a plain loop of nibabel, Pillow and pycocotools.

    python -m tests.benchmarks.bench_data [--rounds 3] [--volumes 16] [--out docs/data_benchmark.json]

Both read the same CT-like volumes (phantoms with noise, 512 x 512 x 40, 12 labels, gzip) and write every slice with
something in it. The plain loop writes what everybody writes: a window, PNG, one run-length mask and box per label,
COCO JSON, Parquet. Ours also finds connected components, hashes images, keeps the geometry, checks its rules, splits
and can be resumed. Rounds alternate, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pycocotools import mask as coco_mask

from dataset_scripts import process
from dataset_scripts.build import build
from dataset_scripts.recipe import Recipe


SHAPE = (512, 512, 40)
LABELS = {
    1: "liver", 2: "spleen", 3: "right kidney", 4: "left kidney", 5: "aorta", 6: "stomach", 7: "pancreas",
    8: "gallbladder", 9: "esophagus", 10: "urinary bladder", 11: "colon", 12: "duodenum",
}  # fmt: skip
TARGETS = {name: name.replace(" ", "_") for name in LABELS.values()}
TARGETS |= {"right kidney": "kidney_right", "left kidney": "kidney_left"}
WINDOW = (-160.0, 240.0)


def write_volume(folder: Path, number: int, shape: tuple[int, int, int] = SHAPE) -> None:
    """A body of smooth structures with noise of 12 HU, as int16, and its label map."""
    random = np.random.default_rng(number)
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    middle = np.array(shape) / 2
    body = ((i - middle[0]) / (0.42 * shape[0])) ** 2 + ((j - middle[1]) / (0.33 * shape[1])) ** 2 + 0 * k < 1
    labels = np.zeros(shape, np.uint8)
    for value in LABELS:
        center = middle + random.uniform(-0.25, 0.25, 3) * shape * [1, 0.8, 1.2]
        size = random.uniform(0.04, 0.12, 3) * shape[0] * [1, 1, shape[2] / shape[0] * 3]
        labels[sum(((axis - c) / s) ** 2 for axis, c, s in zip((i, j, k), center, size, strict=True)) < 1] = value
    labels[~body] = 0
    image = np.where(body, 20, -1000).astype(np.float32) + labels * 9
    image += random.normal(0, 12, shape).astype(np.float32)
    affine = np.diag([-0.8, -0.8, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), affine), folder / f"p{number:04d}_ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / f"p{number:04d}_seg.nii.gz")


def plain_loop(raw: Path, out: Path) -> int:
    """What a script of forty lines does. Number of slices."""
    (out / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for path in sorted(raw.glob("*_ct.nii.gz")):
        image = nibabel.load(path).get_fdata()
        labels = np.asarray(nibabel.load(path.with_name(path.name.replace("_ct", "_seg"))).dataobj)
        for index in range(image.shape[2]):
            annotations = labels[:, :, index].T
            present = [value for value in np.unique(annotations) if value]
            if not present:
                continue
            gray = (image[:, :, index].T - WINDOW[0]) / (WINDOW[1] - WINDOW[0]) * 255
            buffer = io.BytesIO()
            Image.fromarray(gray.clip(0, 255).astype(np.uint8)).save(buffer, format="PNG")
            name = f"{path.name[:5]}_{index:04d}.png"
            (out / "images" / name).write_bytes(buffer.getvalue())
            number = len(images) + 1
            images.append(
                {"id": number, "file_name": name, "height": annotations.shape[0], "width": annotations.shape[1]}
            )
            boxes = []
            for value in present:
                runs = coco_mask.encode(np.asfortranarray(annotations == value).view(np.uint8))
                box = [float(side) for side in coco_mask.toBbox(runs)]
                boxes.append(box)
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": int(value), "iscrowd": 0}
                counts = {"size": runs["size"], "counts": runs["counts"].decode()}
                annotations.append({**entry, "bbox": box, "area": float(coco_mask.area(runs)), "segmentation": counts})
            rows.append({"image": {"bytes": buffer.getvalue(), "path": name}, "bbox": boxes, "label": present})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": v, "name": n} for v, n in LABELS.items()],
    }
    (out / "train.json").write_text(json.dumps(content), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), out / "train.parquet")
    return len(images)


def ours(raw: Path, out: Path, workers: int = 1) -> int:
    """The builder on the same folder. Number of slices."""
    recipe = Recipe(
        "bench", "ct", "volume_labelmap", files={"image": "*_ct.nii.gz", "labelmap": "{stem}_seg.nii.gz"},
        values=LABELS, labels=TARGETS, window=WINDOW, confirmed=True,
    )  # fmt: skip
    return build([recipe], raw, out, workers=workers, echo=lambda text: None).images


def timed(action: Callable[[Path, Path], int], raw: Path) -> tuple[float, int]:
    """Seconds and slices of one run into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        count = action(raw, Path(folder) / "out")
        return time.perf_counter() - start, count


def floor_shares(raw: Path) -> dict[str, float]:
    """Share of one build's time in what nobody can leave out: unpacking gzip, PNG, run lengths."""
    spent = dict.fromkeys(("gzip", "png", "rle"), 0.0)

    def measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                spent[name] += time.perf_counter() - start

        return wrapper

    from dataset_scripts import boxes
    from modeling_medglip.volumes import voxels

    places = (("gzip", voxels._Inflated, "readinto"), ("png", process, "png"), ("rle", boxes.coco_mask, "encode"))
    before = [getattr(module, name) for _, module, name in places]
    try:
        for (kind, module, name), function in zip(places, before, strict=True):
            setattr(module, name, measured(kind, function))
        seconds, _ = timed(ours, raw)
    finally:
        for (_, module, name), function in zip(places, before, strict=True):
            setattr(module, name, function)
    return {kind: round(value / seconds, 3) for kind, value in spent.items()}


def memory_of(cases: int) -> float:
    """Peak MB of a process that builds so many small cases."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (cases,))


def _memory(cases: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        raw.mkdir()
        for number in range(cases):
            write_volume(raw, number, (32, 32, 12))
        ours(raw, Path(folder) / "out")
    # Not `ru_maxrss`, which a process begins with that of its parent.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--volumes", type=int, default=16)
    parser.add_argument("--cases", type=int, nargs=2, default=(10, 1000), help="for the memory")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        for number in range(options.volumes):
            write_volume(raw, number)
        runs: dict[str, list[float]] = {"plain": [], "one": [], "two": []}
        actions = {"plain": plain_loop, "one": ours, "two": lambda raw, out: ours(raw, out, 2)}
        slices = 0
        for _ in range(options.rounds):
            for name, action in actions.items():
                seconds, slices = timed(action, raw)
                runs[name].append(seconds)
        best = {name: min(values) for name, values in runs.items()}
        figures: dict[str, Any] = {
            "slices": slices,
            "slices_per_second": {name: round(slices / value, 1) for name, value in best.items()},
            "times_the_plain_loop": round(
                statistics.median(p / o for p, o in zip(runs["plain"], runs["one"], strict=True)), 2
            ),
            "two_workers_times_one": round(
                statistics.median(o / t for o, t in zip(runs["one"], runs["two"], strict=True)), 2
            ),
            "share_of_time": floor_shares(raw),
        }
    low, high = options.cases
    figures["peak_memory_mb"] = {str(count): round(memory_of(count)) for count in (low, high)}
    text = json.dumps(figures, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
