"""Hosts and ports as text."""

from __future__ import annotations

import ipaddress


def join_address(host: str, port: int) -> str:
    """``host:port``, with an IPv6 address in brackets."""
    return f"{in_brackets(host)}:{port}"


def in_brackets(host: str) -> str:
    """``host``, an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether ``host`` is loopback by its name; no resolver is asked."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.rstrip(".").lower()
        return name == "localhost" or name.endswith(".localhost")
