# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""The guards of the test run themselves."""

from __future__ import annotations

import os
import socket

import pytest


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_connecting_beyond_this_machine_fails(method: str) -> None:
    with socket.socket() as client, pytest.raises(RuntimeError, match="must not use the network"):
        getattr(client, method)(("192.0.2.1", 80))


def test_name_lookups_fail() -> None:
    with pytest.raises(RuntimeError, match=r"must not use the network: 'example\.org'"):
        socket.create_connection(("example.org", 80))


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_hub_is_offline() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
