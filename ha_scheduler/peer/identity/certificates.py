"""The certificates of a daemon while it runs: renewed ones are taken in, and their end is foretold.

Guarantee: contexts look at their files by themselves (``security/contexts.py``); SIGHUP has them do
so at once. Warnings go to the log, the status has the dates.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from datetime import UTC, datetime

from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.protocol.control import CertificateEnd
from ha_scheduler.security.contexts import reload_all
from ha_scheduler.security.expiry import Warnings, ends

LOOK_EVERY_S = 3600.0
READ_EVERY_S = 5.0  # for the status, which may be asked for twenty times a second

logger = logging.getLogger(__name__)


class Certificates:
    def __init__(self, settings: PeerSettings) -> None:
        self._pairs = [files for files in (settings.tls, settings.engine_tls) if files is not None]
        self._warnings = Warnings()
        self._ends: tuple[CertificateEnd, ...] = ()
        self._read_at = -math.inf

    def ends(self) -> tuple[CertificateEnd, ...]:
        """When those of this daemon and of its engine expire, the first first."""
        if time.monotonic() - self._read_at > READ_EVERY_S:
            found = sorted(ends(self._pairs).items(), key=lambda pair: pair[1])
            self._ends = tuple(CertificateEnd(str(p), int(end.timestamp())) for p, end in found)
            self._read_at = time.monotonic()
        return self._ends

    def reload(self) -> None:
        """The operator says that the files have changed."""
        errors = reload_all()
        self._read_at = -math.inf
        logger.info(
            "looked at the certificates again: %s",
            "; ".join(map(str, errors)) or "all can be used",
            extra={"action": "certificates_looked_at"},
        )
        self._warn()

    async def run(self) -> None:
        """Warn until cancelled."""
        while True:
            self._warn()
            await asyncio.sleep(LOOK_EVERY_S)

    def _warn(self) -> None:
        for sentence in self._warnings.due(ends(self._pairs), datetime.now(UTC)):
            logger.warning("%s", sentence, extra={"action": "certificate_expires"})
