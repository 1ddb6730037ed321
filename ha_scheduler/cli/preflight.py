"""Read-only checks before the start of a daemon.

These checks only look; another process can take a port or fill a disk afterwards, and the daemon
then fails with an error of its own. They are here for the sentence, not for safety.

``os.path`` and not ``Path``: what may not be looked at counts as absent, instead of an exception.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

from ha_scheduler.cell.address import join_address
from ha_scheduler.errors import OperatorError
from ha_scheduler.peer import pid_file
from ha_scheduler.peer.members import founding
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.security.private import check_directories

PORT_GRACE_S = 1.0  # the engine of a daemon that was just killed may still hold its port
_PORT_POLL_S = 0.05


def check_start(settings: PeerSettings) -> None:
    """All checks. Raises ``OperatorError`` and ``StorageError``."""
    check_data_dir(settings.data_dir)
    if settings.pid_file is not None:
        check_pid_file(settings.pid_file)
    host, own = settings.listen_host, settings.address
    check_port(host, own.peer_port, "peer port", "another port in --peers (HOST:PEER_PORT)")
    check_port(host, own.dask_port, "Dask port", "another one with --port")
    if settings.enrolment_port is not None:
        remedy = "another one with --enrolment-port"
        check_port(host, settings.enrolment_port, "enrolment port", remedy)
    check_data(settings)


def check_data_dir(path: Path) -> None:
    """Whether ``path`` is a directory that this user can write to, or can be made."""
    if os.path.exists(path) and not os.path.isdir(path):
        raise OperatorError(f"The data directory {path} is not a directory; name another one.")
    existing = _nearest_existing(path)
    if not os.path.isdir(existing):
        raise OperatorError(
            f"The data directory {path} cannot be made, since {existing} is not a directory; "
            f"name another one."
        )
    if not _writable(existing):
        raise OperatorError(
            f"The data directory {path} is not writable (checked {existing}); "
            f"change its owner to the user of this daemon, or name another one with --data-dir."
        )
    check_directories(existing)


def check_data(settings: PeerSettings) -> None:
    """Whether the data is this peer's and no running peer has it. Raises ``StorageError``."""
    from ha_scheduler.storage.environment import check_identity  # LMDB takes its time to load

    if os.access(settings.data_dir, os.R_OK | os.X_OK, effective_ids=True):
        known = founding.load(settings.data_dir)
        cell = known.cell if known is not None else settings.cell
        check_identity(settings.data_dir, cell.identity, settings.name)


def check_pid_file(path: Path) -> None:
    """Whether ``path`` can be written."""
    if os.path.isdir(path) or not os.path.isdir(path.parent) or not _writable(path.parent):
        raise OperatorError(
            f"The PID file {path} cannot be written; name a file in a directory that exists and "
            f"that this user can write to."
        )
    pid_file.check(path)


def check_port(host: str, port: int, kind: str, remedy: str) -> None:
    """Whether ``port`` can be listened at on ``host`` (empty: all addresses of this host)."""
    deadline = time.monotonic() + PORT_GRACE_S
    while True:
        try:
            _bind_and_close(host, port)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            if not taken or time.monotonic() > deadline:
                raise OperatorError(_cannot_listen(error, host, port, kind, remedy)) from error
            time.sleep(_PORT_POLL_S)
        else:
            return


def _cannot_listen(error: OSError, host: str, port: int, kind: str, remedy: str) -> str:
    where = f"{kind} {join_address(host, port)}" if host else f"{kind} {port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"The {where} is taken by another process; stop it (is this peer running already?), "
            f"or choose {remedy}."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"The {where} cannot be listened at, since {host} is no address of this host; "
            f"correct --peers, --name or --host."
        )
    if isinstance(error, socket.gaierror):
        return (
            f"The {where} cannot be listened at, since {host} does not resolve "
            f"({error.strerror}); correct --peers or --host."
        )
    return f"The {where} cannot be listened at: {error.strerror}; choose {remedy}."


def _bind_and_close(host: str, port: int) -> None:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in found:
        try:
            probe = socket.socket(family, kind, protocol)
        except OSError:
            continue  # a kernel without IPv6
        with probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                no_ipv6 = not host and family == socket.AF_INET6
                if no_ipv6 and error.errno == errno.EADDRNOTAVAIL:
                    continue
                raise


def _nearest_existing(path: Path) -> Path:
    path = path.absolute()
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def _writable(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)
