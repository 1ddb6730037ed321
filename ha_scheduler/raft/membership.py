"""Membership changes: one peer at a time, in force when the entry is appended (thesis 4.1).

The guarantee: a peer's membership is always that of the newest configuration entry in its log,
committed or not. It follows the log forward on append, and back when an uncommitted entry is
truncated: `MembershipHistory` holds the memberships that may be rolled back to. An entry carries
the *resulting* membership, so no replay is needed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from .errors import LogCorruptionError, MembershipChangeError
from .messages import MAX_PEERS, Entry, EntryKind, Membership, PeerId

_HEADER = struct.Struct("<BII")
_FORMAT_VERSION = 1


class ChangeKind(IntEnum):
    ADD_VOTER = 1
    ADD_LEARNER = 2
    REMOVE = 3


@dataclass(frozen=True, slots=True)
class MembershipChange:
    """One change: promote a learner, add a learner or demote a voter, remove a peer.

    ``context`` travels with the entry for the daemon; it is opaque to the core.
    """

    kind: ChangeKind
    peer: PeerId
    context: bytes = b""


def changed(membership: Membership, change: MembershipChange) -> Membership:
    """The membership after the change. Raises `MembershipChangeError`."""
    if change.peer < 1:
        raise MembershipChangeError(f"{change.peer} is not a peer id; use 1 or more")
    voters = set(membership.voters) - {change.peer}
    learners = set(membership.learners) - {change.peer}
    if change.kind is ChangeKind.ADD_VOTER:
        voters.add(change.peer)
    elif change.kind is ChangeKind.ADD_LEARNER:
        learners.add(change.peer)
    result = Membership(tuple(sorted(voters)), tuple(sorted(learners)))
    _check_change(membership, result, change)
    return result


def _check_change(before: Membership, after: Membership, change: MembershipChange) -> None:
    if after == before:
        raise MembershipChangeError(
            f"{change.kind.name} of peer {change.peer} changes nothing: {before}"
        )
    if not after.voters:
        raise MembershipChangeError(f"peer {change.peer} is the last voter; add another first")
    if len(after.peers) > MAX_PEERS:
        raise MembershipChangeError(f"a cell has at most {MAX_PEERS} peers")


def encode_membership(membership: Membership, context: bytes = b"") -> bytes:
    """The data of a configuration entry: the resulting membership, then the context."""
    peers = (*membership.voters, *membership.learners)
    header = _HEADER.pack(_FORMAT_VERSION, len(membership.voters), len(membership.learners))
    return header + struct.pack(f"<{len(peers)}Q", *peers) + context


def decode_membership(data: bytes) -> tuple[Membership, bytes]:
    """The membership and context of a configuration entry."""
    try:
        version, voter_count, learner_count = _HEADER.unpack_from(data)
        if version != _FORMAT_VERSION or voter_count + learner_count > MAX_PEERS:
            raise LogCorruptionError(
                f"configuration entry of format {version} with {voter_count} voters and "
                f"{learner_count} learners: written by a newer release, or damaged"
            )
        peers = struct.unpack_from(f"<{voter_count + learner_count}Q", data, _HEADER.size)
    except struct.error as error:
        raise LogCorruptionError(f"configuration entry is cut short: {error}") from error
    context = data[_HEADER.size + 8 * len(peers) :]
    return Membership(peers[:voter_count], peers[voter_count:]), context


class MembershipHistory:
    """The newest membership, and those that a truncation may bring back."""

    __slots__ = ("_steps",)

    def __init__(self, index: int, membership: Membership) -> None:
        self._steps: list[tuple[int, Membership]] = [(index, membership)]

    @property
    def current(self) -> Membership:
        return self._steps[-1][1]

    @property
    def index(self) -> int:
        """The index at which the current membership took effect."""
        return self._steps[-1][0]

    def at(self, index: int) -> Membership:
        """The membership in force at ``index``, at or after the last `forget`."""
        for start, membership in reversed(self._steps):
            if start <= index:
                return membership
        return self._steps[0][1]

    def append(self, entries: tuple[Entry, ...]) -> bool:
        """Follow the log forward. Returns whether the membership changed."""
        before = len(self._steps)
        for entry in entries:
            if entry.kind is EntryKind.CONF_CHANGE:
                self._steps.append((entry.index, decode_membership(entry.data)[0]))
        return len(self._steps) != before

    def truncate(self, first_removed: int) -> bool:
        """Follow the log back to before ``first_removed``. Returns whether it changed."""
        before = len(self._steps)
        while len(self._steps) > 1 and self._steps[-1][0] >= first_removed:
            self._steps.pop()
        return len(self._steps) != before

    def forget(self, committed: int) -> None:
        """Committed entries are never truncated: drop the memberships before ``committed``."""
        while len(self._steps) > 1 and self._steps[1][0] <= committed:
            del self._steps[0]

    def restart(self, index: int, membership: Membership) -> None:
        """A snapshot replaced the log."""
        self._steps = [(index, membership)]
