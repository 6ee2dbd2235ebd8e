# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Check a built set, with other routines than those that built it.

    python -m dataset_scripts.verify built/med-glip [--table counts.md]

Every box against its mask (decoded by pycocotools, bounded by numpy), every image's size and hash against its file,
COCO against Parquet, every patient in one split, and no metadata in any PNG. Exit status 1 and a line for each fault.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from pycocotools import mask as coco_mask

from modeling_medglip.cli.scripts import script_main
from modeling_medglip.outputs.files import write_text
from modeling_medglip.outputs.markdown import table


PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"PLTE"}
MOST_FAULTS = 20


@dataclass
class Findings:
    """What was checked, and what was wrong.

    Attributes:
        boxes (`int`): Number of checked boxes.
        masks (`int`): Number of checked masks.
        images (`int`): Number of checked images.
        faults (`list[str]`): One line each.
        counts (`dict[tuple[str, str], Counter[str]]`): (source, split) -> numbers of images and boxes.
    """

    boxes: int = 0
    masks: int = 0
    images: int = 0
    faults: list[str] = field(default_factory=list)
    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def verify(out: Path) -> Findings:
    """Check a built set.

    Args:
        out (`Path`): Folder of the set.

    Raises:
        `ValueError`: The folder is not a built set.
    """
    files = sorted(out.glob("coco/*/*.json"))
    if not files:
        raise ValueError(f"{out.name}: is not a data set that this project built")
    findings = Findings()
    patients: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in files:
        content = json.loads(path.read_text(encoding="utf-8"))
        annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in content["annotations"]:
            annotations[entry["image_id"]].append(entry)
        rows = {row["image_id"]: row for row in _parquet_rows(out / path.parent.name, path.stem)}
        if len(rows) != len(content["images"]):
            findings.faults.append(f"{path.parent.name} {path.stem}: COCO and Parquet differ in their images")
        for image in content["images"]:
            patients[image["source"], image["patient"]].add(path.stem)
            _check_image(path.parent, image, annotations[image["id"]], rows.get(image["id"]), findings)
            findings.counts[image["source"], path.stem].update(images=1, boxes=len(annotations[image["id"]]))
    for (source, patient), splits in patients.items():
        if len(splits) > 1:
            findings.faults.append(f"{source}: patient {patient} is in {' and '.join(sorted(splits))}")
    return findings


def _parquet_rows(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    columns = ["image_id", "sha256", "objects.id", "objects.bbox", "objects.segmentation"]
    for path in sorted(folder.glob(f"{split}-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=500, columns=columns):
            yield from batch.to_pylist()


def _check_image(
    folder: Path,
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    row: dict[str, Any] | None,
    findings: Findings,
) -> None:
    name = f"{image['source']} {image['file_name']}"
    path = folder / "images" / image["file_name"]
    findings.images += 1
    try:
        with Image.open(path) as image_file:
            pixels = np.asarray(image_file)
    except OSError as error:
        findings.faults.append(f"{name}: the file is not there or damaged ({type(error).__name__})")
        return
    if pixels.shape[:2] != (image["height"], image["width"]):
        findings.faults.append(f"{name}: the file has another size")
    shape = "x".join(map(str, pixels.shape))
    if hashlib.sha256(f"{pixels.dtype.str} {shape} ".encode() + pixels.tobytes()).hexdigest() != image["sha256"]:
        findings.faults.append(f"{name}: the pixels have another hash")
    findings.faults.extend(f"{name}: {fault}" for fault in png_metadata(path.read_bytes()))
    for entry in annotations:
        findings.boxes += 1
        if problem := box_problem(entry, image):
            findings.faults.append(f"{name}: annotation {entry['id']}: {problem}")
        findings.masks += not entry.get("box_only", False)
    theirs = None if row is None else (row["objects"]["id"], row["objects"]["bbox"])
    if theirs != ([m["id"] for m in annotations], [[float(np.float32(v)) for v in m["bbox"]] for m in annotations]):
        findings.faults.append(f"{name}: COCO and Parquet differ")


def png_metadata(content: bytes) -> Iterator[str]:
    """Yield what a PNG file holds beside pixels."""
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        yield "is not a PNG file"
        return
    kinds: list[bytes] = []
    offset = 8
    while offset + 12 <= len(content) and (not kinds or kinds[-1] != b"IEND"):
        kinds.append(content[offset + 4 : offset + 8])
        offset += 12 + int.from_bytes(content[offset : offset + 4], "big")
    if unknown := set(kinds) - PLAIN_CHUNKS:
        yield f"holds metadata ({', '.join(sorted(kind.decode('latin-1') for kind in unknown))})"
    elif offset != len(content) or kinds[-1:] != [b"IEND"]:
        yield "holds more than its pixels, or is cut short"


def box_problem(entry: dict[str, Any], image: dict[str, Any]) -> str | None:
    """Return what is wrong with a box, or `None`.

    Args:
        entry (`dict`): Annotation of the COCO file.
        image (`dict`): Its image in the COCO file.
    """
    x, y, width, height = entry["bbox"]
    if not (x >= 0 and y >= 0 and width > 0 and height > 0):
        return "the box has no area or begins outside"
    if x + width > image["width"] + 1e-3 or y + height > image["height"] + 1e-3:
        return "the box ends outside"
    if entry.get("box_only"):
        outline = np.array(entry["segmentation"][0]).reshape(4, 2)
        outline_box = [*outline[0], *(outline[2] - outline[0])]
        return None if np.allclose(outline_box, entry["bbox"]) else "the outline is another box"
    mask = np.asarray(coco_mask.decode(entry["segmentation"]))
    rows, columns = np.flatnonzero(np.any(mask, axis=1)), np.flatnonzero(np.any(mask, axis=0))
    tight = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1] if len(rows) else []
    if mask.shape != (image["height"], image["width"]) or tight != entry["bbox"]:
        return f"the box is {entry['bbox']}, its mask's {[int(value) for value in tight]}"
    return None if int(mask.sum()) == entry["area"] else "the area is not its mask's"


def count_table(findings: Findings) -> str:
    """Return the number of images and boxes of every source and split, as a Markdown table."""
    splits = sorted({split for _, split in findings.counts})
    rows = []
    for source in sorted({source for source, _ in findings.counts}):
        cells = [findings.counts.get((source, split), Counter()) for split in splits]
        rows.append([source, *(cell[name] for cell in cells for name in ("images", "boxes"))])
    return table(["source", *(name for split in splits for name in (f"{split}: images", "boxes"))], rows)


@script_main()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m dataset_scripts.verify", description="Check a built data set.")
    parser.add_argument("out", type=Path, help="the data set")
    parser.add_argument("--table", type=Path, help="write the counts of every source as Markdown")
    options = parser.parse_args(argv)
    findings = verify(options.out)
    for fault in findings.faults[:MOST_FAULTS]:
        print(f"fault: {fault}", file=sys.stderr)
    if options.table:
        write_text(options.table, count_table(findings))
    checked = f"{findings.images} images, {findings.boxes} boxes, {findings.masks} of them with masks"
    print(f"{checked}: {len(findings.faults)} faults")
    return 1 if findings.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
