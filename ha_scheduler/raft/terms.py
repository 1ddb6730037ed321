"""Which terms of others a peer takes over, and how fast: terms cannot be spent.

The guarantee: on the word of others a peer's term rises by at most `max_term_jump` within an
election timeout, unless a majority of the voters in force was heard in a later term. So one peer
that says "term 2**31" moves nobody, and one that goes on for minutes uses up a few thousand terms
of two thousand million. A claim that is not believed is a lost message: safety needs no more.

Liveness, by three rules:

* An honest peer is never more than `max_term_jump` ahead of a majority, as the pre-vote before its
  candidacy was granted by one within *their* limits. So claims within the limit are all that a cell
  of connected peers has.
* A peer that was away for long hears the leader of a term far beyond its limit. It asks the voters
  (a pre-vote is answered with the term of whoever is further) and takes what a majority says.
* Where no majority can answer, because some of those who were there have died since, nobody leads
  either. A peer that has heard no leader for `PATIENCE` election timeouts goes towards the claim
  of a voter that stays, a jump at a time: slowly, but a majority of the living elects.

A peer without a membership knows no voters: it believes whoever calls it. It has nothing to lose
yet. Without pre-votes nothing bounds the term of a peer that is cut off, and there is no limit.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .config import Config
from .messages import MAX_PEERS, MAX_TERM, Membership, Message, MessageKind, PeerId
from .quorum import agreed_value

PATIENCE = 10  # election timeouts: by then every peer has stood, also the last in order


@dataclass(frozen=True, slots=True)
class Claim:
    """A term that was not believed; ``since`` in ticks of this peer."""

    term: int
    since: int


class TermLimit:
    """The limit of one peer."""

    def __init__(self, config: Config, term: int) -> None:
        self.doubted: dict[PeerId, Claim] = {}  # the latest of each, until a leader is heard
        self._config = config
        self._own = config.peer_id
        self._now = 0
        self._terms = deque([term], maxlen=config.election_ticks + 1)  # at each of the last ticks
        self._heard: dict[PeerId, int] = {}  # the highest term of each voter
        self._may_ask_at = 0

    def tick(self, term: int) -> None:
        self._now += 1
        self._terms.append(term)

    def limit(self, membership: Membership) -> int:
        """The highest term that is believed now."""
        if not membership.voters or not self._config.pre_vote:
            return MAX_TERM
        # Not our own term, which may have come from one voter: then two would seem to agree.
        said = {**self._heard, self._own: self._terms[0]}
        known = max(self._terms[0], agreed_value(membership.voters, said))
        return min(known + self._config.max_term_jump, MAX_TERM)

    def hear(self, message: Message, membership: Membership) -> None:
        """Note the term in which the sender certainly claims to be."""
        term = message.term
        if message.kind is MessageKind.PRE_VOTE:
            term -= 1
        elif message.kind is MessageKind.PRE_VOTE_RESPONSE and not message.reject:
            return  # the term of our own question
        if message.source in membership.voters:
            self._heard[message.source] = max(term, self._heard.get(message.source, 0))

    def taken(self, term: int) -> None:
        """We are in ``term``. What a majority confirmed is where the next jump begins."""
        if term > self._terms[0] + self._config.max_term_jump:
            self._terms = deque([term], maxlen=self._terms.maxlen)

    def believe(self, source: PeerId) -> None:
        """A message of a term within the limit."""
        self.doubted.pop(source, None)

    def forget(self) -> None:
        """A leader of our term is there: nothing that was claimed is needed."""
        self.doubted.clear()

    def doubt(self, message: Message) -> bool:
        """A message of a term beyond the limit. Returns whether to ask the voters now."""
        known = self.doubted.get(message.source)
        if known is not None or len(self.doubted) < MAX_PEERS:
            since = known.since if known is not None else self._now
            self.doubted[message.source] = Claim(message.term, since)
        if self._now < self._may_ask_at:
            return False
        self._may_ask_at = self._now + self._config.heartbeat_ticks
        return True

    def stays(self, source: PeerId) -> bool:
        """Whether the source has claimed so for an election timeout or longer."""
        claim = self.doubted.get(source)
        return claim is not None and self._now - claim.since >= self._config.election_ticks
