"""The plays of etcd-io/raft, performed by our core: same states, messages, entries, same order.

The files are data of another project and stand outside this repository; without them the tests
are skipped, and the project's own tests stand alone.

All files of the subset apply and pass unchanged. Three things differ by design, and the stage
translates them: our core counts its own vote and disk by the number of a Ready, where etcd sends
messages to itself; it asks to sync a snapshot, where etcd leaves that to the driver; and a request
for votes waits until the disk has the candidate's term (see raft/outbox.py). Scenarios
of etcd that are not in the subset because they do not apply: the confchange files (joint
consensus, and membership in force when applied; ours is in force when appended) and the
forget_leader files (a call we do not have).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_scheduler.raft.quorum import UNLIMITED_INDEX, VoteResult, agreed_value, vote_result

from .script import VECTORS, Step, list_of, read_script
from .stage import Stage

PLAYS = sorted(VECTORS.glob("*.txt"))

VOTE_NAMES = {
    VoteResult.WON: "VoteWon",
    VoteResult.LOST: "VoteLost",
    VoteResult.PENDING: "VotePending",
}

pytestmark = pytest.mark.skipif(not PLAYS, reason="the vectors of etcd-io/raft are not here")


@pytest.mark.parametrize("path", PLAYS, ids=lambda path: path.stem)
def test_the_core_performs_the_play_line_by_line(path: Path) -> None:
    stage = Stage()
    for step in read_script(path):
        found = stage.perform(step)
        assert found == step.expected, (
            f"{path.name}:{step.line}: {step.command} {' '.join(step.positional)}"
        )


def _quorum_steps(name: str) -> list[Step]:
    path = VECTORS / "quorum" / name
    return read_script(path) if path.exists() else []


def _voters(step: Step) -> list[int]:
    return [int(v) for v in list_of(step.named.get("cfg", "()"))]


@pytest.mark.parametrize("step", _quorum_steps("majority_commit.txt"), ids=lambda s: str(s.line))
def test_the_committed_index_is_what_a_majority_reached(step: Step) -> None:
    voters, values = _voters(step), list_of(step.named.get("idx", "()"))
    reached = {v: int(i) for v, i in zip(voters, values, strict=True) if i != "_"}
    expected = step.expected[-1].removeprefix("<empty majority quorum>")
    found = agreed_value(voters, reached)
    assert (found == UNLIMITED_INDEX) if expected == "∞" else (found == int(expected))


@pytest.mark.parametrize("step", _quorum_steps("majority_vote.txt"), ids=lambda s: str(s.line))
def test_a_vote_is_won_lost_or_pending_as_etcd_counts_it(step: Step) -> None:
    voters, values = _voters(step), list_of(step.named.get("votes", "()"))
    votes = {v: b == "y" for v, b in zip(voters, values, strict=True) if b != "_"}
    assert VOTE_NAMES[vote_result(voters, votes)] == step.expected[-1]
