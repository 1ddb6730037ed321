"""Quorums: the only place that counts voters.

The guarantee: any two majorities of one voter set share a voter, and so do those of sets that
differ by one voter (thesis 4.1). "Agreed" is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum

from .messages import PeerId

UNLIMITED_INDEX = 2**63 - 1  # agreed on by an empty voter set


class VoteResult(Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(count: int) -> int:
    """The smallest number of voters that is more than half."""
    return count // 2 + 1


def agreed_value(voters: Collection[PeerId], values: Mapping[PeerId, int]) -> int:
    """The largest value that a majority has reached; voters without a value count as 0."""
    if not voters:
        return UNLIMITED_INDEX
    reached = sorted((values.get(voter, 0) for voter in voters), reverse=True)
    return reached[majority(len(reached)) - 1]


def vote_result(voters: Collection[PeerId], votes: Mapping[PeerId, bool]) -> VoteResult:
    """Whether the votes so far decide the election. Votes of non-voters do not count."""
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    missing = sum(1 for voter in voters if voter not in votes)
    needed = majority(len(voters)) if voters else 0
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST
