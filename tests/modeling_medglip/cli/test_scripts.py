# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""How scripts end: exit status and the line on stderr."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from modeling_medglip.cli.scripts import error_text, script_main
from modeling_medglip.errors import UsageError


HINT = f" (python -m {__name__} --help explains the options)"


def ending(error: BaseException, **options: object) -> int:
    """Run a script that raises an error."""

    @script_main(**options)  # type: ignore[arg-type]
    def main(argv: Sequence[str] | None = None) -> int:
        """Command line."""
        raise error

    assert main.__doc__ == "Command line."
    return main([])


def test_status_of_a_run_that_ends_well() -> None:
    @script_main()
    def main(argv: Sequence[str] | None = None) -> int:
        return len(argv or ())

    assert (main(), main(["first"])) == (0, 1)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\nlines"), "two lines"),
        (UsageError("--size 17: choose 32"), f"--size 17: choose 32{HINT}"),
        (OSError(errno.ENOSPC, "No space left on device", "/home/me/x.png"), "No space left on device: x.png"),
        (OSError("no connection"), "no connection"),
        (ModuleNotFoundError("No module named 'peft'"), "No module named 'peft'"),
    ],
)
def test_expected_errors_are_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (ending(error), capsys.readouterr().err) == (2, f"error: {line}\n")


def test_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    assert (ending(KeyboardInterrupt()), capsys.readouterr().err) == (130, "error: interrupted\n")


def test_unexpected_errors_keep_their_traceback() -> None:
    with pytest.raises(KeyError):
        ending(KeyError("boxes"))


def test_further_errors_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(KeyError("boxes"), status=1, also=(KeyError,)) == 1
    assert capsys.readouterr().err == "error: 'boxes'\n"


def test_file_names_without_folder() -> None:
    assert error_text(PermissionError(errno.EACCES, "Permission denied", b"/root/a")) == "Permission denied: a"
