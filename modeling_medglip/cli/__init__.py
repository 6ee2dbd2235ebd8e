# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The console script `medglip`: ground, demo, merge, export, info, env.

Exit status: 0 success, 1 some input failed (its reason is on stderr, the others are done), 2 wrong usage. Each command
is a dataclass: its fields are the options, its `run` does the work. Slow imports happen inside `run`, so that `--help`
is quick.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..errors import MedGlipError, UsageError, one_line
from ..outputs.run_report import RESEARCH_USE, package_version
from .console import fail
from .demo import DemoCommand
from .export import ExportCommand
from .ground import GroundCommand
from .info import EnvCommand, InfoCommand
from .merge import MergeCommand
from .scripts import INTERRUPTED


COMMANDS: dict[str, Any] = {
    "ground": GroundCommand,
    "demo": DemoCommand,
    "merge": MergeCommand,
    "export": ExportCommand,
    "info": InfoCommand,
    "env": EnvCommand,
}

app = typer.Typer(name="medglip", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
for _name, _command in COMMANDS.items():
    app.command(_name, help=inspect.getdoc(_command))(_command)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"med-glip {package_version()}")
        raise typer.Exit


@app.callback(epilog=RESEARCH_USE)
def _general(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    """Find what phrases name in medical images: boxes with labels and scores."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    program: Any = typer.main.get_command(app)
    try:
        command = program.main(args=arguments, prog_name="medglip", standalone_mode=False)
        # What typer answers itself, such as --help, comes back as a status.
        status = command.run() if hasattr(command, "run") else int(command or 0)
        return fail("interrupted", INTERRUPTED, False) if status == INTERRUPTED else status
    except MedGlipError as error:
        return fail(error, 2 if isinstance(error, UsageError) else 1, debug)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted", INTERRUPTED, False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is not None:  # the command line itself was wrong
            chosen = next((f"medglip {name}" for name in arguments[:1] if name in COMMANDS), "medglip")
            command = getattr(getattr(error, "ctx", None), "command_path", chosen)
            return fail(f"{message()} ({command} --help shows the usage)", int(getattr(error, "exit_code", 2)), debug)
        return fail(f"unexpected {type(error).__name__}: {one_line(error)} (--debug shows where)", 1, debug)


__all__ = ["app", "main"]
