"""What follows from the settings of a peer: its lease, its contexts, the parts that it may have.

Guarantee: nothing here outlives the settings that it was made of, but what its caller keeps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ha_scheduler.peer.operators.web_port import WebPort

from ha_scheduler.audit.log import AuditLog
from ha_scheduler.peer import pid_file
from ha_scheduler.peer.consensus.lease import MARGIN_TICKS
from ha_scheduler.peer.network.links import Security
from ha_scheduler.peer.operators.report import Report
from ha_scheduler.peer.replica import Replica
from ha_scheduler.peer.settings import PeerSettings, Timing
from ha_scheduler.raft.config import Config
from ha_scheduler.security.contexts import client_context, server_context
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.vip.no_address import NoAddress

DISK_PATIENCE_ELECTIONS = 5  # [3 s]; healthy disks stalled for 0.8 s


def lease_s(timing: Timing) -> float:
    """How long after a quorum's contact no other peer can be elected."""
    return max(0.0, (timing.election_ticks - MARGIN_TICKS) * timing.tick_s)


def virtual_address(settings: PeerSettings) -> NoAddress:
    """Raises ``OperatorError``. Removes what a killed daemon of this host left of the address."""
    if settings.vip is None:
        return NoAddress()
    from ha_scheduler.vip.holder import AddressHolder  # pyroute2 takes a third of a second

    return AddressHolder(settings.vip, lease_s(settings.timing))


def web_port(
    settings: PeerSettings, replica: Replica, report: Report, store: LmdbStore, audit: AuditLog
) -> WebPort | None:
    """Raises ``OperatorError`` if its port is taken."""
    if settings.http is None:
        return None
    from ha_scheduler.peer.operators.web_port import WebPort  # tornado and the client of Prometheus

    return WebPort(settings, replica, report, store, audit)


def config(settings: PeerSettings, own_id: int) -> Config:
    ticks = settings.timing.election_ticks
    return Config(
        peer_id=own_id,
        election_ticks=ticks,
        heartbeat_ticks=settings.timing.heartbeat_ticks,
        promotion_lag_ticks=ticks,
        disk_patience_ticks=DISK_PATIENCE_ELECTIONS * ticks,
        priority=settings.priority,
    )


def security(settings: PeerSettings) -> Security:
    if settings.tls is None:
        return Security(None, None)
    return Security(server_context(settings.tls), client_context(settings.tls))


@contextlib.contextmanager
def kept_pid_file(settings: PeerSettings) -> Iterator[None]:
    path = settings.pid_file
    if path is None:
        yield
        return
    pid_file.write(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
