"""The daemon's port of HTTP (``--http-address``): what it tells of this peer, and what it measures.

Guarantee: it is off unless it is asked for. What it tells is read when somebody asks; what it
measures costs two clock readings for one proposal at a time, and for one transaction of the disk.
"""

from __future__ import annotations

import contextlib

from ha_scheduler.audit.chain import Event
from ha_scheduler.audit.log import AuditLog
from ha_scheduler.errors import OperatorError
from ha_scheduler.ledger import tokens
from ha_scheduler.peer.consensus.reads import NotConfirmed
from ha_scheduler.peer.operators.history import ENTRIES_MAX
from ha_scheduler.peer.operators.metrics import Facts, Metrics
from ha_scheduler.peer.operators.report import Report
from ha_scheduler.peer.replica import Replica
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.security.files import read_certificates
from ha_scheduler.security.identity import Identity
from ha_scheduler.security.key_ring import KeyRing
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.web.routes import NotCurrent, Source
from ha_scheduler.web.server import Server, bind


class WebPort:
    def __init__(
        self,
        settings: PeerSettings,
        replica: Replica,
        report: Report,
        store: LmdbStore,
        audit: AuditLog,
    ) -> None:
        """``settings.http`` is set. Raises ``OperatorError`` if the port is taken."""
        assert settings.http is not None
        self._settings = settings
        self._replica = replica
        self._report = report
        self._store = store
        self._transitions = 0
        self._seen = (0, 0)  # term and leader
        self._metrics = Metrics(report.status, self._facts)
        self._audit = audit
        self._server = Server(bind(*settings.http), settings.tls, self._ring, self._note)

    def start(self) -> None:
        self._replica.driver.on_commit_s = self._metrics.commit.observe
        self._store.observe_writes(self._metrics.fsync.observe)
        self._server.start(
            Source(
                self._report.status,
                lambda: self._replica.history.tail(ENTRIES_MAX),
                self._metrics.text,
                lambda: self._report.leader().dashboard,
                self._current,
            )
        )

    async def _current(self) -> None:
        try:
            await self._replica.current()
        except NotConfirmed as error:
            raise NotCurrent(str(error)) from error

    def tick(self) -> None:
        """Called every tick of the cell."""
        seen = self._replica.state.term, self._replica.state.leader
        if seen != self._seen:
            self._seen = seen
            self._transitions += 1

    async def stop(self) -> None:
        await self._server.stop()

    def _note(self, identity: Identity | None, what: str) -> None:
        event = Event.AUTHENTICATED if identity is not None else Event.REFUSED
        self._audit.record(event, identity, what=what)

    def _ring(self) -> KeyRing | None:
        return self._replica.ring.ring

    def _facts(self) -> Facts:
        space = self._store.space()
        with self._store.view() as view:
            revoked = {record.token for record in tokens.revocations(view.tables)}
            issued = tokens.tokens(view.tables)
        ends = tuple(float(each.expires) for each in issued if each.token not in revoked)
        return Facts(
            self._transitions,
            space.log_bytes,
            space.room_bytes,
            sum(case.set_aside for case in self._report.cases()),
            self._replica.vip.held if self._settings.vip is not None else None,
            self._certificates(),
            ends,
        )

    def _certificates(self) -> dict[str, float]:
        """The ends of those in use; of what cannot be read now, none: that is told elsewhere."""
        ends: dict[str, float] = {}
        for files in (self._settings.tls, self._settings.engine_tls):
            for path in (files.cert_file, files.ca_file) if files is not None else ():
                with contextlib.suppress(OperatorError):
                    certificates = read_certificates(path)
                    ends[path.name] = min(
                        each.not_valid_after_utc.timestamp() for each in certificates
                    )
        return ends
