# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""What visitors read of the library's errors and warnings, which advise Python arguments."""

from __future__ import annotations

import re
import sys
import traceback

from modeling_medglip.errors import MedGlipError, hint_of


# Controls of the page in place of an argument; the advice to pass another argument is left out.
CONTROLS = {"modality": ": choose it under Modality"}


def in_page_terms(message: object) -> str:
    """Return an error or a warning with a control of the page instead of the advice to pass an argument.

    Args:
        message (`object`): of the library, with its hint.
    """
    text, hint = str(message), hint_of(message)
    if hint is None:
        return text
    # The advice is the last clause, or the last words in brackets.
    advice = re.fullmatch(rf"(.*)(?: \([^()]+|[:;,] [^:;,]*)\b{hint}=.*", text)
    return advice[1] + CONTROLS.get(hint, "") if advice else text


def visitor_message(error: Exception) -> str:
    """Return the message for the visitor. An unexpected error is printed to the log of the server instead.

    Args:
        error (`Exception`): raised by a handler.
    """
    if isinstance(error, MedGlipError):
        return in_page_terms(error)
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return "not enough memory for this on the server"
    traceback.print_exception(error, file=sys.stderr)
    return f"unexpected {type(error).__name__} on the server"
