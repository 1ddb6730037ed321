"""Whether the ledgers of all peers are equal, as their logs are. Pure.

Guarantee: two ledgers are compared at one index alone, so a difference is a fault: of a disk, or of
releases that apply a record differently. Nothing is done about it but telling, since nobody knows
here which one is right.

A digest reads the whole ledger (``ledger/rebuild.py``), so only a quiet cell is compared: the
leader begins when nothing was applied for ``QUIET_S``, and not again before ``EVERY_S``, or
``REST_FACTOR`` times what it took; the others follow at the index that it tells, if they are there.
"""

from __future__ import annotations

QUIET_S = 2.0
EVERY_S = 60.0
REST_FACTOR = 100.0  # at most one hundredth of the time is spent on it


class Agreement:
    """One peer's digest, and those that the others told."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.own: tuple[int, bytes] | None = None
        self._told: dict[str, tuple[int, bytes]] = {}
        self._quiet_at = (0, 0.0)  # an applied index, since when
        self._next_at = 0.0
        #: Peers whose ledger differed from ours when it was compared last, and where.
        self.differs: dict[str, int] = {}

    def is_due(self, now: float, applied: int, leader: str | None) -> bool:
        """Whether to make a digest now, of the ledger at ``applied``."""
        if applied != self._quiet_at[0]:
            self._quiet_at = applied, now
        done = self.own is not None and self.own[0] == applied
        if not applied or done or leader is None:
            return False
        if leader != self._name:
            return self._told.get(leader, (0, b""))[0] == applied
        return now - self._quiet_at[1] >= QUIET_S and now >= self._next_at

    def made(self, now: float, took_s: float, index: int, digest: bytes) -> list[str]:
        """A digest of our ledger. Returns the peers that differ and did not before."""
        self.own = index, digest
        self._next_at = now + max(EVERY_S, REST_FACTOR * took_s)
        return [name for name in self._told if self._compare(name)]

    def told(self, name: str, index: int, digest: bytes) -> list[str]:
        """Another peer's digest. Returns it, if it differs and did not before."""
        self._told[name] = index, digest
        return [name] if self._compare(name) else []

    def _compare(self, name: str) -> bool:
        told = self._told[name]
        if self.own is None or told[0] != self.own[0]:
            return False
        if told[1] == self.own[1]:
            self.differs.pop(name, None)
            return False
        news = name not in self.differs
        self.differs[name] = told[0]
        return news

    @property
    def sentences(self) -> tuple[str, ...]:
        """For a status."""
        return tuple(f"peer {name}, at {index}" for name, index in sorted(self.differs.items()))
