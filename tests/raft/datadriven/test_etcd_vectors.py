"""The plays of etcd-io/raft, performed by our core: same states, messages, entries, same order.

The files are data of another project and stand outside this repository; without them the tests
are skipped, and the project's own tests stand alone. The README beside this file says of each file
whether it applies to our design, and where and why the others begin to differ.

Three things differ by design, and the stage translates them: our core counts its own vote and disk
by the number of a Ready, where etcd sends messages to itself; it asks to sync a snapshot, where
etcd leaves that to the driver; and requests for votes and answers to heartbeats wait until the
disk has their term (see raft/outbox.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_scheduler.raft.errors import CallerError
from ha_scheduler.raft.quorum import UNLIMITED_INDEX, VoteResult, agreed_value, vote_result

from .script import Step, find_scripts, list_of, read_script
from .stage import NotOurDesignError, Stage

SCRIPTS = find_scripts()
README = (Path(__file__).parent / "README.md").read_text()

FIRST_DIFFERENCE = {
    "confchange_disable_validation": 30,
    "confchange_v1_add_single": 25,
    "confchange_v1_remove_leader": 36,
    "confchange_v1_remove_leader_stepdown": 37,
    "confchange_v2_add_double_auto": 26,
    "confchange_v2_add_double_implicit": 28,
    "confchange_v2_add_single_auto": 27,
    "confchange_v2_add_single_explicit": 27,
    "confchange_v2_replace_leader": 44,
    "confchange_v2_replace_leader_stepdown": 45,
    "forget_leader": 22,
    "forget_leader_prevote_checkquorum": 90,
    "forget_leader_read_only_lease_based": 22,
}
"""The line up to which a play that does not apply to our design is performed all the same."""

MAJORITIES = ("quorum/majority_commit", "quorum/majority_vote")
NOT_PERFORMED = ("quorum/joint_", "confchange/")
"""Joint memberships, and the command-line tool around etcd's `confchange.Changer`."""

PLAYS = [name for name in SCRIPTS if "/" not in name]

VOTE_NAMES = {
    VoteResult.WON: "VoteWon",
    VoteResult.LOST: "VoteLost",
    VoteResult.PENDING: "VotePending",
}

pytestmark = pytest.mark.skipif(not SCRIPTS, reason="the vectors of etcd-io/raft are not here")


def first_difference(name: str) -> tuple[int, str] | None:
    """The first line at which our core does something else, and what."""
    stage = Stage()
    for step in read_script(SCRIPTS[name]):
        try:
            found = stage.perform(step)
        except (CallerError, NotOurDesignError) as error:
            return step.line, f"{type(error).__name__}: {error}"
        if found != step.expected:
            return step.line, "\n".join(["expected", *step.expected, "found", *found])
    return None


@pytest.mark.parametrize("name", [name for name in PLAYS if name not in FIRST_DIFFERENCE])
def test_the_core_performs_the_play_line_by_line(name: str) -> None:
    assert first_difference(name) is None


@pytest.mark.parametrize("name", [name for name in PLAYS if name in FIRST_DIFFERENCE])
def test_a_play_for_another_design_goes_as_far_as_the_designs_agree(name: str) -> None:
    difference = first_difference(name)
    assert difference is not None
    assert difference[0] == FIRST_DIFFERENCE[name], difference[1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_file_is_performed_or_accounted_for(name: str) -> None:
    performed = name in PLAYS or name in MAJORITIES
    assert performed or name.startswith(NOT_PERFORMED), f"{name} is new: add it to the README"
    assert f"| {name.rpartition('/')[2]} |" in README


def _quorum_steps(name: str) -> list[Step]:
    return read_script(SCRIPTS[name]) if name in SCRIPTS else []


def _voters(step: Step) -> list[int]:
    return [int(v) for v in list_of(step.named.get("cfg", "()"))]


@pytest.mark.parametrize("step", _quorum_steps("quorum/majority_commit"), ids=lambda s: str(s.line))
def test_the_committed_index_is_what_a_majority_reached(step: Step) -> None:
    voters, values = _voters(step), list_of(step.named.get("idx", "()"))
    reached = {v: int(i) for v, i in zip(voters, values, strict=True) if i != "_"}
    expected = step.expected[-1].removeprefix("<empty majority quorum>")
    found = agreed_value(voters, reached)
    assert (found == UNLIMITED_INDEX) if expected == "∞" else (found == int(expected))


@pytest.mark.parametrize("step", _quorum_steps("quorum/majority_vote"), ids=lambda s: str(s.line))
def test_a_vote_is_won_lost_or_pending_as_etcd_counts_it(step: Step) -> None:
    voters, values = _voters(step), list_of(step.named.get("votes", "()"))
    votes = {v: b == "y" for v, b in zip(voters, values, strict=True) if b != "_"}
    assert VOTE_NAMES[vote_result(voters, votes)] == step.expected[-1]
