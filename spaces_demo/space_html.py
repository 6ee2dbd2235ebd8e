# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Render the page's parts as HTML. Labels, file names and messages are not trusted: each goes through `text`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from itertools import groupby

from PIL import Image

from modeling_medglip.errors import one_line
from modeling_medglip.outputs.results import GroundedBox
from modeling_medglip.outputs.run_report import RESEARCH_USE
from modeling_medglip.outputs.volume_results import VolumeBox
from space_rows import Row


LONGEST = 1024
KINDS = {"lesion": "lesion", "substructure": "part"}
SOURCES = {
    "given": "as chosen",
    "header": "from the file's header",
    "checkpoint": "the checkpoint's only one",
    "pixels": "from the pixels",
    "unrecognized": "not recognized as a medical image",
}


def text(value: object, limit: int = 200) -> str:
    """Return any value as HTML text, also for attributes; one printable line.

    Braces and dollars are escaped too: gradio's templates would evaluate them.

    Args:
        value (`object`): its text is shown.
        limit (`int`, *optional*, defaults to 200): most characters.
    """
    return long_text(one_line(value, limit))


def long_text(value: str) -> str:
    """Return a value as [`text`] does, of any length, for content that this server made.

    Args:
        value (`str`): the content.
    """
    escaped = html.escape(value, quote=True)
    for character in "`${}":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped


def notice() -> str:
    """Return the notice at the top of the page, which is always visible."""
    return (
        f'<div class="mg-notice" role="note"><b>{text(RESEARCH_USE)}</b> <span>A box is not a finding, and no box '
        "does not mean that there is nothing.</span> Upload nothing that can be traced to a patient.</div>"
    )


def error(message: object) -> str:
    """Return an error message in the position of the result.

    Args:
        message (`object`): for the visitor.
    """
    return f'<div class="mg-error" role="alert"><b>That did not work.</b><br>{text(message, 400)}</div>'


def hint(message: str) -> str:
    """Return a hint about the next step.

    Args:
        message (`str`): for the visitor.
    """
    return f'<div class="mg-empty">{text(message, 400)}</div>'


def status(
    modality: str, source: str, probability: float | None, file: str, warnings: Iterable[str] = (), extra: str = ""
) -> str:
    """Return a line about the modality of the image, and the warnings.

    Args:
        modality (`str`): name of the modality.
        source (`str`): how it was chosen, a key of `SOURCES`.
        probability (`float`, *optional*): by the router, 0 to 1.
        file (`str`): name of the file.
        warnings (`Iterable[str]`, *optional*): one line each.
        extra (`str`, *optional*): shown behind the file.
    """
    known = SOURCES.get(source, source)
    sure = "" if probability is None else f", {probability:.0%} sure"
    chips = [f'<span class="mg-chip mg-modality">{text(modality)} <i>{text(known + sure)}</i></span>']
    chips += [f'<span class="mg-chip">{text(part, 120)}</span>' for part in (file, extra) if part]
    notes = "".join(f'<div class="mg-warning">{text(warning, 300)}</div>' for warning in warnings)
    return f'<div class="mg-status">{"".join(chips)}</div>{notes}'


# The image -----------------------------------------------------------------------------------------------------------


def image_uri(image: Image.Image) -> str:
    """Return an image as a data URI, so that no file of it is stored.

    Args:
        image (`PIL.Image.Image`): shrunk to `LONGEST` pixels.
    """
    small = image.copy()
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=90, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def figure(
    uri: str, size: tuple[int, int], ratio: float, rows: Sequence[Row], threshold: float, title: str = ""
) -> str:
    """Return the image with its boxes; the page's script hides those below the threshold.

    Args:
        uri (`str`): see [`image_uri`].
        size (`tuple[int, int]`): (width, height) in pixels that the boxes refer to.
        ratio (`float`): shown width / height.
        rows (`Sequence[Row]`): boxes of the image.
        threshold (`float`): boxes with lower scores are hidden.
        title (`str`, *optional*): above the image.
    """
    caption = f"<figcaption>{text(title)}</figcaption>" if title else ""
    frames = "".join(_frame(row, size, threshold) for row in rows if isinstance(row.box, GroundedBox))
    alt = f"medical image with {len(rows)} boxes, listed in the table"
    return (
        f'<figure class="mg-figure">{caption}'
        f'<div class="mg-stage" style="aspect-ratio:{ratio:.4f};--ratio:{ratio:.4f}">'
        f'<img src="{uri}" alt="{alt}" draggable="false">{frames}</div></figure>'
    )


def _frame(row: Row, size: tuple[int, int], threshold: float) -> str:
    box = row.box
    assert isinstance(box, GroundedBox)
    left, top, right, bottom = box.xyxy
    ends = (left / size[0], top / size[1], (right - left) / size[0], (bottom - top) / size[1])
    x, y, width, height = (f"{100 * value:.3f}%" for value in ends)
    hidden = "" if box.score >= threshold else " hidden"
    name = f"{text(box.label, 60)} <b>{box.score:.2f}</b>"
    return (
        f'<div class="mg-box mg-{row.kind}{_untrained(row)}" data-score="{box.score:.6f}" '
        f'data-number="{row.number}"{hidden} '
        f'style="left:{x};top:{y};width:{width};height:{height};--mg-color:{row.color}"><span>{name}</span></div>'
    )


def _untrained(row: Row) -> str:
    return " mg-untrained" if row.box.trained is False else ""


# The table -----------------------------------------------------------------------------------------------------------


def boxes_table(rows: Sequence[Row], labels: Sequence[str], threshold: float, spacing: Sequence[float] = ()) -> str:
    """Return a table of boxes by region and category, and below it the labels without a box.

    Args:
        rows (`Sequence[Row]`): boxes in their order.
        labels (`Sequence[str]`): of the prompt.
        threshold (`float`): rows with lower scores are hidden.
        spacing (`Sequence[float]`, *optional*): of a volume, mm along its axes.
    """
    columns = ("center (L, P, S) mm", "size mm", "slices") if spacing else ("x, y", "size px")
    head = "<th>label</th><th>score</th>" + _cells("th", columns)
    parts = []
    for region, group in groupby(rows, key=lambda row: row.region):
        name = f'<tr class="mg-region"><th colspan="{2 + len(columns)}">{text(region)}</th></tr>'
        parts.append(f"<tbody>{name}</tbody>")
        for category, members in groupby(group, key=lambda row: row.category):
            line = f'<tr class="mg-category"><th colspan="{2 + len(columns)}">{text(category)}</th></tr>'
            body = "".join(_table_row(row, threshold, spacing) for row in members)
            parts.append(f'<tbody data-region="{text(region)}">{line if category else ""}{body}</tbody>')
    missing = "".join(f'<span class="mg-chip" data-label="{text(label)}">{text(label, 60)}</span>' for label in labels)
    return (
        f'<div class="mg-table"><table><thead><tr>{head}</tr></thead>{"".join(parts)}</table>'
        f'<div class="mg-missing">Not found above the threshold: {missing}</div></div>'
    )


def _table_row(row: Row, threshold: float, spacing: Sequence[float]) -> str:
    box = row.box
    hidden = "" if box.score >= threshold else " hidden"
    nested = f"<small>in {text(row.inside, 60)}</small>" if row.inside else f"<small>{KINDS.get(row.kind, '')}</small>"
    if box.trained is False:
        nested += "<small>not trained</small>"
    cells = _volume_cells(box, spacing) if isinstance(box, VolumeBox) else _image_cells(box)
    jump = ""
    if isinstance(box, VolumeBox) and box.best:
        jump = f' data-plane="{text(box.plane)}" data-index="{box.best[0].index}" tabindex="0"'
    bar = f'<span class="mg-bar" style="--score:{box.score:.3f}"></span>{box.score:.2f}'
    return (
        f'<tr class="mg-row mg-{row.kind}{" mg-nested" if row.inside else ""}{_untrained(row)}" '
        f'data-score="{box.score:.6f}" data-number="{row.number}" data-label="{text(box.label)}" '
        f'style="--mg-color:{row.color}"{jump}{hidden}>'
        f'<td><i class="mg-swatch"></i>{text(box.label, 80)} {nested}</td><td>{bar}</td>'
        + _cells("td", cells)
        + "</tr>"
    )


def _cells(tag: str, cells: Sequence[str]) -> str:
    """Return cells of numbers; narrow pages show only the first one of a volume and the last one of an image."""
    always = 0 if len(cells) > 2 else 1
    wide = (f"<{tag}>" if index == always else f'<{tag} class="mg-wide">' for index in range(len(cells)))
    return "".join(f"{start}{cell}</{tag}>" for start, cell in zip(wide, cells, strict=True))


def _image_cells(box: GroundedBox) -> tuple[str, str]:
    x, y, width, height = box.bbox
    return f"{x:.0f}, {y:.0f}", f"{width:.0f} × {height:.0f}"


def _volume_cells(box: VolumeBox, spacing: Sequence[float]) -> tuple[str, str, str]:
    sides = [(box.box_ijk[axis + 3] - box.box_ijk[axis]) * spacing[axis] for axis in range(3)]
    center = ", ".join(f"{value:.0f}" for value in box.center_lps_mm)
    return center, " × ".join(f"{side:.0f}" for side in sides), str(box.slices)
