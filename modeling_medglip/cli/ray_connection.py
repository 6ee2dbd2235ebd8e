# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The connection to a Ray cluster, or to a Ray of this machine alone; for `--engine ray` of every command."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ..errors import UsageError, install_hint, one_line


ADDRESS = "RAY_ADDRESS"
PROBE_SECONDS = 10.0


def _wanted_address() -> str:
    """Return where the cluster is; empty if Ray is to run on this machine alone."""
    address = os.environ.get(ADDRESS, "").strip()
    return "" if address == "local" else address


def require_ray() -> Any:
    """Import Ray, which then reports nothing to its makers.

    Raises:
        `UsageError`: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not _wanted_address():
        # A Ray of this machine alone then listens on the loopback address instead of all. Ray reads this when it is
        # imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        importlib.import_module("ray.data")
        return importlib.import_module("ray")
    except ImportError:
        raise UsageError(f"--engine ray needs Ray: {install_hint('scale')}") from None


@contextlib.contextmanager
def ray_cluster(debug: bool = False) -> Iterator[Any]:
    """Connect to the cluster of the environment variable `RAY_ADDRESS`, or start Ray on this machine alone.

    Ray's own search for a running cluster is not used: it may find one of another user of the machine. The connection
    ends with the block, unless it was there before.

    Args:
        debug (`bool`, *optional*, defaults to `False`): show what Ray logs.

    Raises:
        `UsageError`: Ray is not installed, or the cluster cannot be reached.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    with _restored_sigterm():
        try:
            _connect(ray, _wanted_address(), debug)
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _restored_sigterm() -> Iterator[None]:
    """Put back how this process answers SIGTERM, which Ray changes."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if _is_main_thread():
            signal.signal(signal.SIGTERM, before)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _connect(ray: Any, address: str, debug: bool) -> None:
    if not debug:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        ray._private.worker._worker_logs_enabled = False  # or the end of an actor fills stdout
    _probe(address)
    where = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        with _hidden_stderr(debug):
            ray.init(**where, log_to_driver=False, logging_level=logging.INFO if debug else logging.ERROR)
    except Exception as error:  # Ray raises bare exceptions too
        name = f"{ADDRESS} {one_line(address, 80)}" if address else "on this machine"
        raise UsageError(f"--engine ray: {name}: Ray cannot be used ({one_line(error, 200)})") from None
    if _is_main_thread():
        # Ray's own handler prints a trace and aborts; this one lets its processes end first.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _probe(address: str) -> None:
    """Raise `UsageError` at once if nobody listens: Ray itself tries for minutes and then ends the process."""
    try:
        parts = urlsplit(f"//{address}")
        if parts.hostname and parts.port and "://" not in address:
            socket.create_connection((parts.hostname, parts.port), PROBE_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        problem = f"{ADDRESS} {one_line(address, 80)}: cannot be reached ({reason})"
        raise UsageError(f"--engine ray: {problem}: give host:port of the cluster's first machine") from None


@contextlib.contextmanager
def _hidden_stderr(debug: bool) -> Iterator[None]:
    """Hide what the C++ part of Ray writes on stderr inside the block, unless `debug` is set."""
    if debug:
        yield
        return
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


__all__ = ["ADDRESS", "ray_cluster", "require_ray"]
