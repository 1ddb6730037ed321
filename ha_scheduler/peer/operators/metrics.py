"""The metrics of a daemon, for Prometheus (docs/operations/metrics.md has each with its meaning).

Guarantee: a scrape reads what the daemon knows now. Counters and histograms begin anew with the
process, and are those of this peer: a former leader's stay where they were counted.

Names are by Prometheus' conventions: ``dask_ha_``, base units, ``_total`` for counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from ha_scheduler.ledger.maintenance import ALL
from ha_scheduler.protocol import RELEASE
from ha_scheduler.protocol.control import Member, Status
from ha_scheduler.web.conditions import leads, unready

#: From a fast local commit to a disk that is about to fail; a lease lasts half a second.
BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
ROLES = ("follower", "pre-candidate", "candidate", "leader")
SOON_S = 24 * 3600.0  # a token or certificate that ends within it is about to


@dataclass(frozen=True, slots=True)
class Facts:
    """What is no part of the status. Times in seconds of the epoch, sizes in bytes.

    ``transitions``: changes of leader or term since the start. ``certificates``: the ends of those
    that this peer shows, by name. ``tokens``: the ends of those that hold.
    """

    transitions: int
    log_bytes: int
    room_bytes: int
    quarantined: int
    vip_held: bool | None
    certificates: dict[str, float]
    tokens: tuple[float, ...]


class Metrics:
    def __init__(self, status: Callable[[], Status], facts: Callable[[], Facts]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(status, facts))
        self.commit = Histogram(
            "dask_ha_commit_duration_seconds",
            "From the proposal of a record by this leader until a quorum has it; one at a time",
            registry=self._registry,
            buckets=BUCKETS_S,
        )
        self.fsync = Histogram(
            "dask_ha_fsync_duration_seconds",
            "One transaction of log and ledger on the disk of this peer, with its fsync",
            registry=self._registry,
            buckets=BUCKETS_S,
        )

    def text(self) -> tuple[bytes, str]:
        """In Prometheus' text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class _Collector(Collector):
    def __init__(self, status: Callable[[], Status], facts: Callable[[], Facts]) -> None:
        self._status = status
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        status, facts = self._status(), self._facts()
        yield from _of_consensus(status, facts)
        yield from _of_members(status.members)
        yield from _of_failover(status)
        yield from _of_maintenance(status)
        yield from _of_this_peer(status, facts)
        yield from _of_credentials(facts)


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dask_ha_{name}", help_, value=value)


def _of_consensus(status: Status, facts: Facts) -> Iterator[Metric]:
    role = GaugeMetricFamily("dask_ha_role", "1 for the role of this peer", labels=["role"])
    for name in sorted({*ROLES, status.role}):
        role.add_metric([name], float(name == status.role))
    yield role
    yield _gauge("leader", "Whether this peer leads, and its engine serves", leads(status))
    yield _gauge("ready", "Whether this peer counts, as /ready says", not unready(status))
    yield _gauge("has_leader", "Whether this peer knows who leads", status.leader is not None)
    yield _gauge("term", "Term of this peer", status.term)
    yield CounterMetricFamily(
        "dask_ha_transitions", "Changes of leader or term that this peer saw", facts.transitions
    )
    yield _gauge("commit_index", "Last entry that a quorum has, as this peer knows", status.commit)
    yield _gauge("applied_index", "Last entry in the ledger of this peer", status.applied)
    entries = max(0, status.last_index - status.first_index + 1)
    yield _gauge("log_entries", "Entries in the log of this peer", entries)
    yield _gauge("log_size_bytes", "Bytes of the log of this peer", facts.log_bytes)
    yield _gauge("disk_free_bytes", "Bytes that the disk of this peer has left", facts.room_bytes)
    yield _gauge("lease_remaining_seconds", "Of this leader's lease; 0: none", status.lease_s)


def _of_members(members: Iterable[Member]) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "dask_ha_peer_lag_entries",
        "Entries that it lacks, as its leader knows",
        labels=["peer"],
    )
    up = GaugeMetricFamily(
        "dask_ha_peer_connected", "Whether this peer has a connection to it", labels=["peer"]
    )
    ready = GaugeMetricFamily(
        "dask_ha_peer_engine_ready", "Whether it said that its engine could lead", labels=["peer"]
    )
    for member in members:
        if member.lag is not None:
            lag.add_metric([member.name], member.lag)
        up.add_metric([member.name], float(member.connected))
        ready.add_metric([member.name], float(member.engine_ready))
    yield from (lag, up, ready)


def _of_failover(status: Status) -> Iterator[Metric]:
    phases = GaugeMetricFamily(
        "dask_ha_failover_phase_seconds",
        "When the last failover reached a phase, from the detection on",
        labels=["phase"],
    )
    last = max(status.history_tail, key=lambda entry: entry.term, default=None)
    for phase, seconds in (last.phases if last is not None else {}).items():
        phases.add_metric([phase], seconds)
    yield phases
    started = last.started if last is not None else 0.0
    yield _gauge("last_failover_timestamp_seconds", "When it was detected; 0: never", started)


def _of_maintenance(status: Status) -> Iterator[Metric]:
    """What operators have ordered. One that is over by this peer's clock is none."""
    orders = {order.peer: order for order in status.maintenance}
    yield _gauge("failover_off", "Whether nobody takes over by itself, by order", ALL in orders)
    until = orders[ALL].until if ALL in orders else 0
    yield _gauge("failover_off_until_timestamp_seconds", "When that order ends; 0: none", until)
    drained = GaugeMetricFamily(
        "dask_ha_peer_drained", "Whether it is not elected, by order", labels=["peer"]
    )
    for member in status.members:
        drained.add_metric([member.name], float(member.name in orders))
    yield drained


def _of_this_peer(status: Status, facts: Facts) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "dask_ha_build", "Release of this peer", {"version": RELEASE, "peer": status.name}
    )
    yield CounterMetricFamily(
        "dask_ha_rejected_records", "Records that no peer can apply", status.rejected
    )
    differ = len(status.ledgers_differ)
    yield _gauge("ledgers_differing", "Peers whose ledger differs from that of this one", differ)
    yield _gauge("quarantined_requests", "Contents that are not read any more", facts.quarantined)
    yield _gauge("watchers", "Clients, workers and nannies that watch this peer", status.watchers)
    active = status.engine.state in ("ready", "active")
    yield _gauge("engine_up", "Whether its engine is ready or active", active)
    failing = bool(status.engine.failing)
    yield _gauge("engine_failing", "Whether its engines end again and again", failing)
    yield _gauge("engine_lag_seconds", "How far the engine is behind", status.engine.lag_s)
    yield _gauge("tick_gap_max_seconds", "Longest delay of a tick", status.tick_gap_s_max)
    yield _gauge("leader_gap_max_seconds", "Longest silence of a leader", status.leader_gap_s_max)
    if facts.vip_held is not None:
        yield _gauge("vip_owner", "Whether this host has the virtual address", facts.vip_held)


def _of_credentials(facts: Facts) -> Iterator[Metric]:
    ends = GaugeMetricFamily(
        "dask_ha_certificate_expiry_timestamp_seconds",
        "When a certificate that this peer uses ends",
        labels=["certificate"],
    )
    for name, at in facts.certificates.items():
        ends.add_metric([name], at)
    yield ends
    now = time.time()
    holding = [end for end in facts.tokens if end > now]
    yield _gauge("tokens_valid", "Issued tokens that hold", len(holding))
    soon = sum(end < now + SOON_S for end in holding)
    yield _gauge("tokens_expiring_soon", "Of these, what ends within a day", soon)
