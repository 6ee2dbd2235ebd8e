# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""How scripts such as `python -m training.evaluate` end: exit status, and one line for an error."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import one_line
from .console import in_flags


Main = Callable[..., int]
# What a user can put right: bad options and files, no connection or right to write, an extra that is not installed.
EXPECTED = (ValueError, OSError, ModuleNotFoundError)
INTERRUPTED = 130


def script_main(status: int = 2, also: tuple[type[Exception], ...] = ()) -> Callable[[Main], Main]:
    """Decorate the `main(argv)` of a script: an error becomes one line on stderr and an exit status.

    Unexpected errors keep their traceback. An interruption ends with status 130, a closed pipe with 1.

    Args:
        status (`int`, *optional*, defaults to 2): exit status of the expected errors `EXPECTED`.
        also (`tuple[type[Exception], ...]`, *optional*): further errors to expect, such as `KeyError` of a JSON file.
    """
    expected: tuple[type[Exception], ...] = (*EXPECTED, *also)

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def wrapped(argv: Sequence[str] | None = None) -> int:
            try:
                return main(argv)
            except KeyboardInterrupt:
                return fail_script("interrupted", INTERRUPTED)
            except BrokenPipeError:  # the reader is gone; flushing at exit must not fail too
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            except expected as error:
                text = error_text(error)
                return fail_script(text + (_help_hint(main) if text.startswith("--") else ""), status)

        return wrapped

    return decorate


def fail_script(text: object, status: int = 2) -> int:
    """Print an error as one line on stderr and return the exit status."""
    print(f"error: {one_line(text)}", file=sys.stderr, flush=True)
    return status


def error_text(error: BaseException) -> str:
    """Return the one-line text of an error; one of the operating system names the file without its folder."""
    if isinstance(error, OSError) and error.strerror:
        name = Path(os.fsdecode(error.filename)).name if isinstance(error.filename, (str, bytes)) else ""
        return one_line(f"{error.strerror}: {name}" if name else error.strerror)
    return one_line(in_flags(error))


def _help_hint(main: Main) -> str:
    """Point to the help of the module that defines a `main`, also when that module runs as `__main__`."""
    spec = getattr(main, "__globals__", {}).get("__spec__")
    return f" (python -m {spec.name.removesuffix('.__main__')} --help explains the options)" if spec else ""


__all__ = ["EXPECTED", "INTERRUPTED", "error_text", "fail_script", "script_main"]
