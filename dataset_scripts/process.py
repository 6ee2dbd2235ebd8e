# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Write one case into a folder: its images as PNG and `case.json`. The unit of work: idempotent, all or nothing.

A finished folder is moved into place in one step, so that a process killed at any moment leaves either all of a case
or nothing of it.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import io
import json
import os
import secrets
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from modeling_medglip.volumes.geometry import SlicePlane

from .boxes import annotate
from .clinical import clinical_facts
from .labels import annotated_labels
from .quality import is_mask_like
from .readers import Reader
from .recipe import Recipe
from .records import AnnotatedImage, Case, LabeledVolume, Rejected, Rejection
from .slicing import extract_images, with_square_pixels


CASE_FILE = "case.json"
PSEUDONYM_BYTES = 6
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# The hash uses 64 x 64 pixels; twice that many scale down well.
HASHED_SIDE = 128
# Part of every fingerprint: raise it when the outcome of a case changes.
VERSION = 14


@dataclass(frozen=True)
class BuildOptions:
    """Options that hold for all cases of a build.

    Attributes:
        profile (`str`): One of `quality.PROFILES`.
        square_pixels (`bool`): Resample the slices of volumes to square pixels.
        key (`bytes`): Secret key of the pseudonyms; never publish it.
    """

    profile: str = "none"
    square_pixels: bool = False
    key: bytes = b""


def pseudonym(options: BuildOptions, source: str, text: str) -> str:
    """Return a name for a case or patient that does not reveal the original: keyed SHA-256, 12 hexadecimal digits.

    Args:
        options ([`BuildOptions`]): With the key.
        source (`str`): Id of the source.
        text (`str`): Key of the case, or `"patient "` and the key of the patient.
    """
    digest = hmac.new(options.key, f"{source}\0{text}".encode("utf-8", "surrogatepass"), hashlib.sha256)
    return digest.hexdigest()[: 2 * PSEUDONYM_BYTES]


def split_key(source: str, patient: str) -> str:
    """Return the key by which the split of a patient is drawn: unlike the pseudonym, the same on every machine.

    It never leaves the work folder, since whoever knows the key of a patient can compute it.

    Args:
        source (`str`): Id of the source.
        patient (`str`): Key of the patient.
    """
    return hashlib.sha256(f"{source}\0{patient}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def fingerprint(reader: Reader, case: Case, options: BuildOptions) -> str:
    """Return a short hash of everything that decides the outcome of a case.

    It covers the case's files by size and time, its listed parts, the recipe, the options and `VERSION`.

    Args:
        reader ([`Reader`]): Of the source.
        case ([`Case`]): The case.
        options ([`BuildOptions`]): Options of the build.
    """
    listed = json.dumps([case.split, case.patient, case.parts], sort_keys=True, default=str)
    files = [(reader.key(path), stat.st_size, stat.st_mtime_ns) for path, stat in reader.files(case)]
    text = f"{reader.recipe.fingerprint} {options.profile} {options.square_pixels} {VERSION} {listed} {files}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def case_folder(work: Path, recipe: Recipe, options: BuildOptions, case: Case) -> Path:
    """Return the folder of a case in the work folder.

    Args:
        work (`Path`): The work folder.
        recipe ([`Recipe`]): Of the source.
        options ([`BuildOptions`]): With the key of the pseudonyms.
        case ([`Case`]): The case.
    """
    name = pseudonym(options, recipe.source, case.key)
    return work / "cases" / f"{recipe.source}-{recipe.modality}" / name[:2] / name


def is_done(folder: Path, expected: str) -> bool:
    """Return whether a case is finished, made by the same recipe and options.

    Args:
        folder (`Path`): Folder of the case.
        expected (`str`): Its fingerprint, see [`fingerprint`].
    """
    try:
        return json.loads((folder / CASE_FILE).read_text(encoding="utf-8"))["fingerprint"] == expected
    except (OSError, ValueError, KeyError, TypeError):
        return False


def process_case(reader: Reader, case: Case, options: BuildOptions, work: Path) -> Path:
    """Read, check and write one case. Errors become rows in its `case.json`.

    Args:
        reader ([`Reader`]): Of the source.
        case ([`Case`]): The case.
        options ([`BuildOptions`]): Options of the build.
        work (`Path`): The work folder.

    Returns:
        `Path`: The folder of the case.
    """
    target = case_folder(work, reader.recipe, options, case)
    expected = fingerprint(reader, case, options)
    if is_done(target, expected):
        return target
    with _new_folder(work) as part:
        with warnings.catch_warnings():  # they quote headers, which may name patients
            warnings.simplefilter("ignore")
            content = _content(reader, case, options, part, target.name)
        _finish(part, {**content, "fingerprint": expected}, target)
    return target


def record_failure(reader: Reader, case: Case, options: BuildOptions, work: Path, reason: str) -> None:
    """Record a case that ended the process that read it. The next build tries it again.

    Args:
        reader ([`Reader`]): Of the source.
        case ([`Case`]): The case.
        options ([`BuildOptions`]): Options of the build.
        work (`Path`): The work folder.
        reason (`str`): For the report.
    """
    target = case_folder(work, reader.recipe, options, case)
    rejected = [asdict(Rejection(reader.recipe.source, target.name, "", "unreadable", reason))]
    with _new_folder(work) as part:
        content = {**_facts(reader, case, options, target.name), "clinical": {}, "images": [], "rejected": rejected}
        _finish(part, {**content, "fingerprint": ""}, target)


@contextmanager
def _new_folder(work: Path) -> Iterator[Path]:
    """Create a folder and remove it after the block, unless it was moved."""
    part = work / "parts" / secrets.token_hex(8)
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _finish(part: Path, content: dict[str, Any], target: Path) -> None:
    """Write `case.json` into the folder of a case, and move the folder to its target."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    (part / CASE_FILE).write_text(text, encoding="utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # of another recipe
        shutil.rmtree(target)
    os.replace(part, target)


def _content(reader: Reader, case: Case, options: BuildOptions, folder: Path, name: str) -> dict[str, Any]:
    recipe = reader.recipe
    rejected: list[Rejection] = []
    images: list[dict[str, Any]] = []
    skipped: dict[str, int] = {}

    def report(item: str, rule: str, value: str) -> None:
        rejected.append(Rejection(recipe.source, name, item, rule, value))

    clinical: dict[str, str] = {}
    try:
        clinical = clinical_facts(recipe.clinical, reader.root, case)
        for image in _images(reader.read(case), recipe, options, report):
            if isinstance(image, str):
                skipped[image] = skipped.get(image, 0) + 1
            elif (entry := _image_entry(image, recipe, options, folder, name, report)) is not None:
                images.append(entry)
    except Rejected as error:
        report("", error.rule, error.value)
    except MemoryError:
        raise
    except Exception as error:  # one case must not stop the others
        if getattr(error, "errno", None) in NO_ROOM:  # not the fault of the case
            raise
        report("", "unreadable", type(error).__name__)
    for plane, count in sorted(skipped.items()):
        report(plane, "empty_slice", f"{count} images")
    rows = [asdict(row) for row in rejected]
    return {**_facts(reader, case, options, name), "clinical": clinical, "images": images, "rejected": rows}


def _facts(reader: Reader, case: Case, options: BuildOptions, name: str) -> dict[str, Any]:
    """Return the facts of a case that need no reading of its files."""
    recipe = reader.recipe
    return {
        "source": recipe.source,
        "case": name,
        "modality": recipe.modality,
        "patient": pseudonym(options, recipe.source, f"patient {case.patient}"),
        "split_key": split_key(recipe.source, case.patient),
        "split": case.split,
    }


def _images(
    read: AnnotatedImage | LabeledVolume, recipe: Recipe, options: BuildOptions, report: Any
) -> Iterator[AnnotatedImage | str]:
    if isinstance(read, LabeledVolume):
        for rule, value in read.notes:
            report("", rule, value)
        yield from extract_images(read, recipe, options.square_pixels)
    else:
        yield with_square_pixels(read) if options.square_pixels else read


def _image_entry(
    image: AnnotatedImage, recipe: Recipe, options: BuildOptions, folder: Path, name: str, report: Any
) -> dict[str, Any] | None:
    """Write one image and return its entry in `case.json`, or `None` if nothing of it remains."""
    if image.geometry is None and is_mask_like(image.pixels):
        report(image.item, "mask_like", f"{len(np.unique(image.pixels))} gray levels")
        return None
    annotations, left_open = annotate(
        image, recipe, options.profile, lambda rule, value: report(image.item, rule, value)
    )
    if not annotations and image.geometry is None and image.annotations and not left_open:
        report(image.item, "empty_mask", "")
    if not annotations and image.geometry is not None:
        report(image.item, "empty_slice", "nothing left after the rules")
        return None
    annotated = sorted(set(annotated_labels(recipe)) - left_open)
    if not annotations and not annotated:  # nothing is known about the image; the rows above say why
        return None
    plane, _, index = image.item.partition(" ")
    file = f"{name}-{plane}-{int(index):04d}.png" if plane else f"{name}.png"
    content, pixels = png(image.pixels)
    (folder / file).write_bytes(content)
    height, width = image.pixels.shape[:2]
    return {
        "file": file,
        "width": width,
        "height": height,
        "plane": plane or None,
        "index": int(index) if plane else None,
        "geometry": None if image.geometry is None else _geometry(image.geometry),
        "window": None if image.window is None else [round(value, 4) for value in image.window],
        "sha256": hashlib.sha256(pixels).hexdigest(),
        "perceptual_hash": perceptual_hash(image.pixels),
        "annotated": annotated,
        "annotations": annotations,
    }


def _geometry(plane: SlicePlane) -> dict[str, list[float]]:
    """Return origin and steps of a slice in LPS mm, as plain data."""
    vectors = (("origin", plane.origin), ("right", plane.right), ("down", plane.down))
    return {key: [round(float(value), 5) for value in vector] for key, vector in vectors}


def png(pixels: np.ndarray) -> tuple[bytes, bytes]:
    """Encode an image as PNG without metadata.

    Run lengths alone (`Z_RLE`) suit the noise of medical images: as small as the usual search, in a quarter of its
    time.

    Returns:
        `tuple[bytes, bytes]`: The file, and the pixels with type and shape, for comparing images.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_type=zlib.Z_RLE)
    shape = "x".join(map(str, pixels.shape))
    return buffer.getvalue(), f"{pixels.dtype.str} {shape} ".encode() + np.ascontiguousarray(pixels).tobytes()


def perceptual_hash(pixels: np.ndarray) -> str:
    """Return the 256-bit hash of the discrete cosine transform (pHash): similar images differ in few bits."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    image = Image.fromarray(pixels)
    factor = min(image.size) // HASHED_SIDE
    if factor > 1:  # block means first, which are quick
        image = image.reduce(factor)
    return str(imagehash.phash(image, hash_size=16))


__all__ = [
    "BuildOptions",
    "case_folder",
    "fingerprint",
    "is_done",
    "png",
    "process_case",
    "pseudonym",
    "record_failure",
]
