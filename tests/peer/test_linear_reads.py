"""What any peer tells of the cell is current where that is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from toy_cell import ToyCell

from ha_scheduler.peer.consensus import reads
from ha_scheduler.peer.consensus.reads import NotConfirmed, Reads
from ha_scheduler.raft.errors import CallerError


async def test_an_answer_waits_for_what_had_committed() -> None:
    one, asked, applied = Reads(), [], [5]
    reading = asyncio.ensure_future(one.current(asked.append, lambda: applied[0]))
    await asyncio.sleep(0)
    one.confirmed(b"another's", 1)
    one.confirmed(asked[0], 7)
    await asyncio.sleep(0.01)
    assert not reading.done(), "two entries are missing here"
    applied[0] = 7
    one.on_applied()
    await reading


async def test_a_question_that_was_lost_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "ASK_EVERY_S", 0.01)
    one, asked = Reads(), list[bytes]()

    def ask(context: bytes) -> None:
        asked.append(context)
        if len(asked) == 1:
            raise CallerError("there is no leader to ask")
        if len(asked) == 3:  # the second was lost
            one.confirmed(context, 1)

    await one.current(ask, lambda: 1)
    assert len(set(asked)) == 3, "a late answer must not be taken for that of a later question"


async def test_without_a_quorum_nothing_is_called_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "PATIENCE_S", 0.05)
    with pytest.raises(NotConfirmed, match="no quorum"):
        await Reads().current(lambda context: None, lambda: 1)


@pytest.mark.system
def test_a_follower_answers_and_a_lone_leader_does_not(tmp_path: Path) -> None:
    with ToyCell(tmp_path) as cell:
        leader = cell.settled()
        follower, other = (name for name in cell.names if name != leader)
        cell.propose(leader, "x", 50)
        cell.fed(leader, "x", 50)
        committed = cell.status(leader)["commit"]
        answer = cell.ask(follower, op="status", linearizable=True)
        assert answer["applied"] >= committed
        assert cell.ask(leader, op="status", linearizable=True)["role"] == "leader"
        for name in (follower, other):
            cell.kill(name)
        refused = cell.ask(leader, op="status", linearizable=True)
        assert not refused["ok"]
        assert "no quorum has confirmed" in refused["reason"]
        assert cell.status(leader) is not None, "what it knows it tells all the same"
