"""The client of a process: of the kind that the address is for."""

from __future__ import annotations

from typing import Any

import distributed

import client_replay

CONNECT_TIMEOUT = "60s"


def connect(address: str, *, set_as_default: bool = True, **options: Any) -> Any:
    """A plain one for a plain scheduler, which has no journal."""
    kind = client_replay.Client if address.startswith("ha://") else distributed.Client
    return kind(address, timeout=CONNECT_TIMEOUT, set_as_default=set_as_default, **options)
