# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Mutators: each takes a random generator and the content of a file, and returns damaged content."""

from __future__ import annotations

import copy
import io
import json
import math
import re
import struct
import warnings
from collections.abc import Callable, Sequence
from random import Random
from typing import Any


Mutator = Callable[[Random, bytes], bytes]

INTEGERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
NUMBERS = (*INTEGERS, -1, -2, -128, -32768, -(2**31), -(2**63), 10**30, 0.5, -0.5, 1e-300, 1e308)
TEXTS = (
    "", " ", "0", "-1", "1e999", "nan", "inf", "-inf", "1e-320", "99999999999999999999", "x", "\ud800", "A" * 5000,
    "é\u202e\u0000", "../../etc/passwd", "/etc/passwd", "C:\\x", "\\\\host\\share", "%s%n%d", "{0.__class__}", "\x0c",
    "LIST", "1 2 3 4 5 6 7 8 9", "(1,0,0)", "none", "true", "null", "*", "**/*", "[", "(a+)+$", "=1+1", "\r\n",
    "NaN NaN NaN",
)  # fmt: skip
VALUES: tuple[Any, ...] = (None, True, False, math.nan, math.inf, [], {}, [[]], [None], {"": None}, *NUMBERS, *TEXTS)


def raw_bytes(random: Random, content: bytes) -> bytes:
    """Damage bytes without knowing what they mean; the first kilobyte, where headers are, more often than the rest."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        reach = len(data) if random.random() < 0.4 else min(len(data), 1024)
        at = random.randrange(reach) if reach else 0
        length = random.choice((1, 2, 4, 8, 64, 1000))
        kind = random.randrange(8)
        if kind == 0 and data:
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1 and data:
            data[at] = random.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, random.randrange(256)))
        elif kind == 2:
            form = random.choice("<>") + random.choice("HIQ")
            data[at : at + struct.calcsize(form)] = struct.pack(form, _fitting(random.choice(INTEGERS), form))
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length] or b"\0"
        elif kind == 5:
            data[at:at] = bytes(random.choice((0, 0xFF, random.randrange(256))) for _ in range(length))
        elif kind == 6 and random.random() < 0.4:
            del data[at:]
        else:
            other = random.randrange(len(data)) if data else 0
            data[at : at + length] = data[other : other + length]
    return bytes(data)


def _fitting(value: int, form: str) -> int:
    return value % 256 ** struct.calcsize(form)


def fields(*layout: tuple[int, str]) -> Mutator:
    """Make a mutator of binary headers: `layout` holds (offset, struct format) of each field."""

    def mutate(random: Random, content: bytes) -> bytes:
        data = bytearray(content)
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            offset, form = random.choice(layout)
            value: Any = random.choice(NUMBERS if form[-1] in "fd" else INTEGERS)
            if form[-1] in "fd":
                value = random.choice((math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-38, 3e38, value))
                value = max(-3e38, min(3e38, value)) if math.isfinite(value) else value
            else:
                value = random.choice((value, random.randrange(0, 70))) % 256 ** struct.calcsize(form)
                form = form[0] + form[-1].upper()
            data[offset : offset + struct.calcsize(form)] = struct.pack(form, value)
        return bytes(data)

    return mutate


def header_lines(random: Random, content: bytes) -> bytes:
    """Damage a text header line by line (NRRD, MetaImage, CSV, YAML); binary data behind it stays."""
    head, blank, tail = content.partition(b"\n\n") if b"\n\n" in content else (content, b"", b"")
    lines = head.split(b"\n")
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(lines)) if lines else 0
        kind = random.randrange(9)
        if not lines:
            break
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, random.choice(lines))
        elif kind == 2:
            lines.insert(
                at, random.choice((b"", b"#" + b"x" * 70000, b"\x0c", b"\xff\xfe", b"# a\rdata file: /etc/passwd"))
            )
        elif kind == 3:
            lines[at] = random.choice((b" ", b"\x0c", b"\t", b"\xef\xbb\xbf", b"\0")) + lines[at]
        elif kind == 4:
            words = re.split(rb"([^\w.+-]+)", lines[at])
            words[random.randrange(len(words))] = _text(random)
            lines[at] = b"".join(words)
        elif kind == 5:
            name, mark, _ = _parted(lines[at])
            lines[at] = name + mark + b" " + _text(random)
        elif kind == 6:
            lines[at] = lines[at].replace(b"=", b":").replace(b": ", random.choice((b":", b" : ", b":=", b"=")))
        elif kind == 7:
            lines[at] += _text(random) * random.choice((1, 1, 50))
        else:
            lines[at] = random.choice((lines[at].upper(), lines[at].swapcase(), lines[at][::-1]))
    return random.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r")).join(lines) + blank + tail


def _parted(line: bytes) -> tuple[bytes, bytes, bytes]:
    mark = next((mark for mark in (b":=", b":", b"=") if mark in line), b":")
    return line.partition(mark)


def _text(random: Random) -> bytes:
    value = random.choice(TEXTS) if random.random() < 0.5 else str(random.choice(NUMBERS))
    return value.encode("utf-8", "surrogatepass")


def json_tree(random: Random, content: bytes) -> bytes:
    """Change, remove, repeat or rename parts of a JSON document; damage the bytes of other files."""
    if not content.startswith((b"{", b"[")):
        return raw_bytes(random, content)
    tree = json.loads(content)
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        tree = _changed(random, tree)
    text = json.dumps(tree)
    if random.random() < 0.1:
        text = _respelled(random, text)
    data = text.encode("utf-8", "surrogatepass")
    return raw_bytes(random, data) if random.random() < 0.1 else data


def _respelled(random: Random, text: str) -> str:
    """JSON that other programs write, or nobody should."""
    deep = random.choice((50, 1000, 100_000))
    return random.choice(
        (
            "\ufeff" + text,
            "[" * deep + text + "]" * deep,
            text.replace("1", "1e999", 1),
            text.replace('"id"', '"id": 1, "id"', 1),
            text + text,
            "//x\n" + text,
            text.replace(":", ":" + "9" * 5000, 1),
        )
    )


def _changed(random: Random, tree: Any) -> Any:
    places = list(_places(tree))
    if not places:
        return random.choice(VALUES)
    holder, key = random.choice(places)
    kind = random.randrange(6)
    if kind <= 2:
        holder[key] = copy.deepcopy(random.choice(VALUES))
    elif kind == 3:
        del holder[key]
    elif kind == 4:
        _, other = random.choice(places), copy.deepcopy(holder[key])
        if isinstance(holder, list):
            holder.append(other)
        else:
            holder[random.choice(TEXTS)] = other
    else:
        source, name = random.choice(places)
        holder[key] = copy.deepcopy(source[name])
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    entries: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting and len(entries) < 5000:
        node = waiting.pop()
        keys: Sequence[Any] = (
            list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        )
        entries += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    return entries


def dicom_elements(random: Random, content: bytes) -> bytes:
    """Change, remove or nest elements of a DICOM data set, or its transfer syntax, or bytes of its pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = _dicom_changed(random, content)
        except Exception:  # pydicom refuses to write some values: damage the file instead
            return raw_bytes(random, content)
    return raw_bytes(random, data) if random.random() < 0.1 else data


def _dicom_changed(random: Random, content: bytes) -> bytes:
    import pydicom
    from pydicom.uid import UID

    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    for _ in range(random.choice((1, 1, 2, 3))):
        kind = random.randrange(8)
        if kind == 0 and "PixelData" in dataset:
            pixels = raw_bytes(random, bytes(dataset.PixelData))
            dataset["PixelData"]._value = pixels + b"\0" * (len(pixels) % 2)
        elif kind == 1:
            dataset.file_meta.TransferSyntaxUID = UID(random.choice(SYNTAXES))
        else:
            _change_element(random, dataset)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=False)
    return stream.getvalue()


SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5", "1.2.3", "",
)  # fmt: skip
# Elements that decide what pixels mean, or where they lie.
PICKED = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PlanarConfiguration", "PhotometricInterpretation", "NumberOfFrames", "RescaleSlope", "RescaleIntercept",
    "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness", "SpacingBetweenSlices",
    "Modality", "ImageType", "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "PatientID", "InstanceNumber",
    "RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "ModalityLUTSequence", "PixelData",
)  # fmt: skip


def _change_element(random: Random, dataset: Any) -> None:
    """Change or remove one element, of the data set or of an item of its sequences."""
    import pydicom

    nested = [element for element in dataset if element.VR == "SQ" and element.value]
    if nested and random.random() < 0.4:
        _change_element(random, random.choice(random.choice(nested).value))
        return
    if random.random() < 0.6:
        tag = pydicom.tag.Tag(random.choice(PICKED))
    else:
        tag = random.choice([element.tag for element in dataset])
    if random.random() < 0.25:
        dataset.pop(tag, None)
        return
    vr = pydicom.datadict.dictionary_VR(tag).split(" or ")[0]
    if random.random() < 0.1:
        vr = random.choice(("LO", "US", "DS", "SQ", "OB", "FD", "UN"))
    if vr == "SQ":
        dataset[tag] = pydicom.DataElement(tag, vr, pydicom.Sequence(_nested(random.choice((0, 1, 3, 40)))))
    else:
        # A raw element is written as it is, whatever its value means.
        value = _element_value(random, vr)
        value += b" " * (len(value) % 2)
        dataset[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)


def _element_value(random: Random, vr: str) -> bytes:
    """Encode a value of a value representation: extreme, of the wrong count, or no value at all."""
    forms = {"US": "<H", "SS": "<h", "UL": "<L", "SL": "<l", "FL": "<f", "FD": "<d"}
    if vr in forms:
        kind = forms[vr]
        limit = 256 ** struct.calcsize(kind) // 2
        whole = [number for number in NUMBERS if -limit < number < limit and number == int(number) and number >= 0]
        numbers = [random.choice(whole) for _ in range(random.choice((1, 1, 1, 3)))]
        return b"".join(struct.pack(kind, int(number) if kind[1] not in "fd" else number) for number in numbers)
    if vr in ("OB", "OW", "UN"):
        return bytes(random.choice((0, 2, 100)))
    if vr in ("DS", "IS"):
        return "\\".join(random.choice(TEXTS[:9]) for _ in range(random.choice((0, 1, 1, 2, 3, 6, 7)))).encode()
    return _text(random)


def _nested(depth: int) -> list[Any]:
    import pydicom

    item = pydicom.Dataset()
    for _ in range(depth):
        outer = pydicom.Dataset()
        outer.SharedFunctionalGroupsSequence = pydicom.Sequence([item])
        item = outer
    return [item]


def one_of(*mutators: Mutator) -> Mutator:
    """Make a mutator that picks one of several each time."""

    def mutate(random: Random, content: bytes) -> bytes:
        return random.choice(mutators)(random, content)

    return mutate
