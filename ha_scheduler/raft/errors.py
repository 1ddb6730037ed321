"""Every error of the consensus core, by whose fault it is.

The guarantee: a raised error leaves the core as it was before the call, except
`LogCorruptionError`: this peer's storage broke a promise, and the process must stop. Base classes
are never raised.

* `CallerError`: the request of the driver or operator is not possible now.
* `PeerError`: another peer sent a message that no correct peer sends.
* `LogReadError`: of the log reader. Two of them are ordinary answers.
"""

from __future__ import annotations


class RaftError(Exception):
    """Base of all errors of the core."""


class CallerError(RaftError):
    """The request was refused; nothing changed."""


class PeerError(RaftError):
    """Another peer misbehaved; drop the message and close its connection."""


class LogReadError(RaftError):
    """The log reader cannot answer, or contradicts its promises."""


class ConfigError(CallerError):
    """The configuration would endanger safety or liveness; correct it and start again."""


class NotLeaderError(CallerError):
    """This peer does not lead; ask `leader_id` instead (0: no leader is known, retry later)."""

    def __init__(self, leader_id: int) -> None:
        where = f"peer {leader_id} leads" if leader_id else "no leader is known; retry later"
        super().__init__(f"this peer is not the leader: {where}")
        self.leader_id = leader_id


class ProposalDroppedError(CallerError):
    """The proposal was not appended and never will be; a retry is safe."""


class EntryTooLargeError(ProposalDroppedError):
    """One entry exceeds `max_entry_bytes`; split it."""


class MembershipChangeError(ProposalDroppedError):
    """The change is not possible now, or makes no sense; the message says which."""


class TransferError(CallerError):
    """Leadership cannot be handed to that peer; choose a voter other than the leader."""


class MalformedMessageError(PeerError):
    """A message from the wire is not one that a correct peer can have sent."""


class CompactedError(LogReadError):
    """The entry was compacted away; a snapshot holds its effect."""


class UnavailableError(LogReadError):
    """The log does not reach that index yet."""


class LogCorruptionError(LogReadError):
    """This peer's log lost or contradicts acknowledged entries; stop and replace its data."""


class InvariantViolationError(RaftError):
    """The core reached a state that it must never reach: a defect of the core, please report."""
