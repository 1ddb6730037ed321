"""What operators and watchers are told of this peer: its status, its view of who leads.

Guarantee: to ask changes nothing, and waits for nobody: it is what this peer knows now.
"""

from __future__ import annotations

import time

from ha_scheduler import shared_lease
from ha_scheduler.cell.address import join_address
from ha_scheduler.ledger import quarantine
from ha_scheduler.ledger.quarantine import Case
from ha_scheduler.ledger.rejections import describe
from ha_scheduler.peer.consensus.leadership import Other
from ha_scheduler.peer.engine.inquest import in_words
from ha_scheduler.peer.identity.certificates import Certificates
from ha_scheduler.peer.operators.alarms import REJECTIONS_SHOWN
from ha_scheduler.peer.replica import Replica
from ha_scheduler.protocol import RELEASE
from ha_scheduler.protocol.control import EngineStatus, Member, Status
from ha_scheduler.protocol.engine import LeaderNamed
from ha_scheduler.protocol.watch import WatchView
from ha_scheduler.storage.port import PeerStore

CASES_SHOWN = 5  # of the quarantine, in the status


class Report:
    """Reads the parts of one peer."""

    def __init__(
        self, replica: Replica, store: PeerStore, isolation: str, certificates: Certificates
    ) -> None:
        """``isolation``: how well the kernel keeps the engine apart."""
        self._certificates = certificates
        self._replica = replica
        self._store = store
        self._isolation = isolation

    def watch_view(self) -> WatchView:
        replica, roster = self._replica, self._replica.roster
        serving = replica.serving()
        return WatchView(
            cell=roster.founding.identity,
            name=replica.settings.name,
            term=replica.term(),
            leader=replica.leader_name(),
            address=serving[2] if serving else "",
            peers=roster.current(),
            cell_id=roster.cell_id,
            predecessor=roster.predecessor,
        )

    def status(self) -> Status:
        replica, view = self._replica, self.watch_view()
        now, driver, node = time.monotonic(), replica.driver, replica.driver.node
        rejections = self._store.rejections()
        set_aside = [case for case in self.cases() if case.set_aside]
        return Status(
            cell=view.cell,
            name=view.name,
            role=replica.state.role.value,
            witness=replica.roster.own.witness,
            term=view.term,
            leader=view.leader,
            serving=replica.serving() is not None,
            address=view.address,
            peers=view.peers,
            commit=node.commit,
            applied=replica.applied,
            first_index=node.first_index,
            last_index=node.last_index,
            lease_s=max(0.0, driver.certain_until() - shared_lease.now()),
            engine=self._engine(),
            members=tuple(self._member(peer, now) for peer in node.membership.peers),
            change=replica.reconfiguration.waiting,
            watchers=replica.watchers.count,
            tick_gap_s_max=driver.tick_gap_s_max,
            leader_gap_s_max=driver.leader_gap_s_max,
            history_tail=replica.history.tail(),
            rejected=rejections.count,
            rejections=tuple(map(describe, rejections.latest[-REJECTIONS_SHOWN:])),
            set_aside=tuple(map(in_words, set_aside[-CASES_SHOWN:])),
            cell_id=view.cell_id,
            predecessor=view.predecessor,
            vip=str(replica.vip.vip or ""),
            vip_held=replica.vip.held,
            heir=replica.heir_name() or "",
            certificates=self._certificates.ends(),
            maintenance=replica.maintenance.told(),
            ledgers_differ=replica.agreement.sentences,
            format=replica.format,
            waited_s=replica.service.waited_s(now),
        )

    def leader(self) -> LeaderNamed:
        """For whoever looks at the engine of this peer."""
        leader = self._replica.state.leader
        name = self._replica.leader_name() or ""
        return LeaderNamed(name, self._dashboard(leader) if leader else "")

    def _dashboard(self, peer: int) -> str:
        """The URL of the dashboard of a peer's engine, or empty."""
        replica, roster = self._replica, self._replica.roster
        own = peer == roster.own.peer
        place = replica.engine.dashboard if own else replica.others.dashboard(peer)
        disk = roster.disk(peer)
        if not place or disk is None:
            return ""
        scheme, _, port = place.partition("://:")
        return f"{scheme}://{join_address(disk.host, int(port))}"

    def cases(self) -> list[Case]:
        """The quarantine, as far as this peer has applied the log."""
        with self._store.view() as view:
            return list(quarantine.scan(view.tables))

    def _engine(self) -> EngineStatus:
        engine = self._replica.engine
        return EngineStatus(
            self._replica.leadership.engine.value,
            engine.pid,
            self._dashboard(self._replica.roster.own.peer),
            engine.fed or 0,
            engine.lag_s,
            "" if self._replica.roster.own.witness else self._isolation,
            engine.failing.why,
        )

    def _member(self, peer: int, now: float) -> Member:
        replica, own = self._replica, peer == self._replica.roster.own.peer
        other = replica.others.last(peer)
        if own:
            replayed = replica.engine.replayed
            other = Other(replica.fit_to_lead(), replica.applied, now, replayed)
        return replica.reconfiguration.member(
            peer,
            connected=own or replica.links.connected(peer),
            engine_ready=other is not None and other.engine_ready,
            applied=other.applied if other is not None else None,
            heard_s=now - other.heard_at if other is not None else None,
            replayed=other.replayed if other is not None else None,
            release=RELEASE if own else replica.others.releases.get(peer, ""),
        )
