"""Leadership and the engine's life cycle as one state machine. Pure: events in, effects out.

Guarantee: an engine is activated at most once, and a term activates at most one engine. An engine
that may have written to a worker is dead before another is activated, because that needs a second
term, and so an election.

A term begins: elected → ``OpenTerm`` (the record TermStarted is proposed) → it commits → the engine
is ready and has been sent everything up to it → ``ActivateEngine``.

A leader without an engine hands over to a follower whose engine is ready. If there is none it keeps
the term and waits for its own engine, or steps down to get a new term if this one was used.

An engine that ended with something of a client open is *explained* first: what it died of is in the
log before another leads, and so before another reads it. That takes milliseconds, and is waited for
no longer than ``EXPLAIN_S``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

READY_WAIT_S = 1.0  # a new leader's engine may still be replaying
TRANSFER_PATIENCE_S = 1.0  # a transfer to a live follower takes two round trips
EXPLAIN_S = 1.0  # a process of many GB is gone by then
FRESH_S = 2.0  # the age limit of another peer's gossip


class EngineState(enum.Enum):
    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class Other:
    """Another peer's last report of itself; ``heard_at`` is our CLOCK_MONOTONIC.

    ``applied`` by its daemon; ``replayed`` by its engine, which is what a takeover waits for.
    """

    engine_ready: bool
    applied: int
    heard_at: float
    replayed: int = 0


@dataclass(frozen=True, slots=True)
class OpenTerm:
    """Propose TermStarted(term): the first record of the term."""

    term: int


@dataclass(frozen=True, slots=True)
class ActivateEngine:
    """Tell the engine that it leads, after everything up to ``index`` was sent to it."""

    term: int
    index: int


@dataclass(frozen=True, slots=True)
class RevokeLease:
    """Fence the engine: no writes from now on."""


@dataclass(frozen=True, slots=True)
class KillEngine:
    """End an engine that was active; a fresh one follows."""

    why: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """Transfer leadership to peer ``to``."""

    to: int


@dataclass(frozen=True, slots=True)
class StepDown:
    """Give the term up."""

    why: str


Effect = OpenTerm | ActivateEngine | RevokeLease | KillEngine | Transfer | StepDown


class Leadership:
    def __init__(self) -> None:
        self.engine = EngineState.ABSENT
        self.leading = False
        self.term = 0
        self._used_term = 0  # the last term in which an engine of ours was activated
        self._open_index = 0  # where TermStarted of ``term`` committed; 0: not yet
        self._led_since = 0.0
        self._engineless = False  # the engine died while we led
        self._transfer_until = 0.0
        self._explained_by = 0.0  # until then the end of an engine may be explained

    # -- events

    def role_changed(self, now: float, leading: bool, term: int) -> list[Effect]:
        """The core's state or term has changed."""
        if (leading, term) == (self.leading, self.term):
            return []
        effects: list[Effect] = [RevokeLease()] if self.leading else []
        if self.leading and self.engine is EngineState.ACTIVE:
            effects.append(KillEngine("it led, and leadership is lost"))
        self.leading, self.term = leading, term
        self._transfer_until, self._engineless, self._explained_by = 0.0, False, 0.0
        if leading:
            self._led_since, self._open_index = now, 0
            effects.append(OpenTerm(term))
        return effects

    def term_opened(self, term: int, index: int) -> list[Effect]:
        """TermStarted(term) has committed at ``index``."""
        if not self.leading or term != self.term or self._open_index:
            return []
        self._open_index = index
        return self._activate()

    def engine_started(self) -> list[Effect]:
        self.engine, self._explained_by = EngineState.STARTING, 0.0
        return []

    def engine_ready(self) -> list[Effect]:
        """The engine has replayed the ledger."""
        self.engine = EngineState.READY
        self._engineless = False
        return self._activate()

    def engine_exited(
        self, now: float, others: Mapping[int, Other], *, explained: bool = True
    ) -> list[Effect]:
        """The engine ended: transfer leadership to a peer with an engine, once it is explained."""
        self.engine = EngineState.ABSENT
        if not self.leading:
            return []
        self._engineless = True
        if not explained:
            self._explained_by = now + EXPLAIN_S
            return [RevokeLease()]
        return [RevokeLease(), *self._hand_over(now, others)]

    def exit_explained(self, now: float, others: Mapping[int, Other]) -> list[Effect]:
        """What the engine ended of is on its way into the log."""
        if not self.leading or not self._explained_by:
            return []
        self._explained_by = 0.0
        return self._hand_over(now, others) if self._engineless else []

    def tick(self, now: float, others: Mapping[int, Other], lease_closed: bool) -> list[Effect]:
        """One tick. ``lease_closed``: a transfer went so far that the lease cannot come back."""
        if not self.leading:
            return []
        if self._transfer_until:
            return self._judge_transfer(now, lease_closed)
        if self.engine in (EngineState.READY, EngineState.ACTIVE):
            return self._activate() if self.engine is EngineState.READY else []
        if now < self._explained_by:
            return []
        self._explained_by = 0.0
        if self._engineless or now - self._led_since > READY_WAIT_S:
            return self._hand_over(now, others)
        return []

    def transfer_requested(
        self, now: float, others: Mapping[int, Other], to: int | None
    ) -> list[Effect]:
        """An operator or a shutdown asks us to hand over. Empty: nobody can take it."""
        if not self.leading:
            return []
        return self._hand_over(now, others, only=to)

    # -- questions

    @property
    def electable(self) -> bool:
        """Whether this peer should stand for election without delay."""
        return self.engine is EngineState.READY

    def heir(self, now: float, others: Mapping[int, Other]) -> int | None:
        """The other peer that would serve first of those whose engine is ready."""
        to = self.nearest(now, others)
        return to if to is not None and others[to].engine_ready else None

    def nearest(self, now: float, others: Mapping[int, Other]) -> int | None:
        """The heir; while there is none, whoever will be it first."""
        known = [
            (other.engine_ready, other.replayed, other.applied, -peer, peer)
            for peer, other in others.items()
            if now - other.heard_at < FRESH_S
        ]
        return max(known)[-1] if known else None

    # -- decisions

    def _activate(self) -> list[Effect]:
        if not (self.leading and self._open_index and self.engine is EngineState.READY):
            return []
        if self._transfer_until:
            return []
        if self._used_term == self.term:
            return [StepDown("an engine was active in this term; a fresh one needs a new term")]
        self.engine = EngineState.ACTIVE
        self._used_term = self.term
        return [ActivateEngine(self.term, self._open_index)]

    def _hand_over(
        self, now: float, others: Mapping[int, Other], only: int | None = None
    ) -> list[Effect]:
        to = self.heir(now, {p: o for p, o in others.items() if only in (None, p)})
        if to is None or self._transfer_until:
            return []
        self._transfer_until = now + TRANSFER_PATIENCE_S
        return [Transfer(to)]

    def _judge_transfer(self, now: float, lease_closed: bool) -> list[Effect]:
        if now < self._transfer_until:
            return []
        self._transfer_until = 0.0
        if lease_closed:
            # The target was told to campaign and may still do so: the lease does not come back.
            return [StepDown("a transfer of leadership was not completed")]
        return self._activate()
