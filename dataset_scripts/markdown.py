# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Text of sources, such as labels, in Markdown: shown as it is, whatever is in it."""

from __future__ import annotations

import html
import re

from modeling_medglip.errors import one_line


SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def plain(text: object) -> str:
    """Text for a table or a line of Markdown: one line, no HTML, no links, no column of its own.

    Underscores within words stay, since they mean nothing there.
    """
    escaped = SPECIAL.sub(r"\\\1", html.escape(one_line(str(text), 200), quote=False))
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", escaped)


__all__ = ["plain"]
