"""What the client says on each new stream, and to whom it listens."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import dask
import distributed
import pytest
from distributed import fire_and_forget
from distributed.protocol.pickle import dumps

from client_replay import Client, JournalFull, resume
from client_replay.journal.disk import DiskKeeper
from client_replay.journal.file import Identity, Owner
from client_replay.journal.journal import Journal
from ha_scheduler.comm.address import Endpoint
from ha_scheduler.comm.directory import View, directory_of
from ha_scheduler.protocol.client import UNKNOWN_KEYS
from tests.client.scripted import commit, connected
from tests.worker.cell import free_ports
from tests.worker.scripted_leader import ScriptedLeader, until

pytestmark = pytest.mark.filterwarnings("default")


async def test_hello_is_the_first_word_and_graphs_are_numbered_until_committed() -> None:
    leader = await ScriptedLeader(term=4).open()
    async with connected(leader) as client:
        futures = [client.submit(int, i, key=f"k{i}") for i in range(2)]
        await until(lambda: len(leader.said("update-graph")) == 2)
        hello = leader.told[0]
        assert (hello["op"], hello["term"], hello["floor"]) == ("ha-hello", 0, 0)
        assert [g["ha_sequence"] for g in leader.said("update-graph")] == [1, 2]
        await until(lambda: client._ha.follower.fence.term == 4)
        await leader.tell(commit([1]))
        await until(lambda: len(client._ha.journal) == 1)
        assert {f.status for f in futures} == {"pending"}
    assert leader.ops()[-2:] == ["close-client", "close-stream"]
    await leader.die()


async def test_the_next_leader_hears_hello_then_the_open_graphs_then_what_is_wanted() -> None:
    first, (port,) = await ScriptedLeader(term=1).open(), free_ports(1)
    async with connected(first, port) as client:
        futures = {key: client.submit(int, key=key) for key in ("a", "b", "c")}
        await until(lambda: len(first.said("update-graph")) == 3)
        await first.tell(commit([1]), {"op": "key-in-memory", "key": "a"})
        await until(lambda: futures["a"].status == "finished")
        await first.die()
        await until(lambda: client.status == "connecting")
        futures["d"] = client.submit(int, key="d")
        fire_and_forget(futures["d"])
        del futures["c"]
        second = await ScriptedLeader(term=2).open(port)
        await until(lambda: second.said("ha-resume"))
        hello = second.told[0]
        assert (hello["op"], hello["term"], hello["floor"]) == ("ha-hello", 1, 1)
        assert hello["session"] == first.told[0]["session"]
        assert [g["ha_sequence"] for g in second.said("update-graph")] == [2, 3, 4]
        (desire,) = second.said("ha-fire-and-forget")
        assert (list(desire["keys"]), desire["ha_sequence"]) == (["d"], 5)
        resume = second.said("ha-resume")[0]
        assert sorted(resume["keys"]) == ["a", "b", "d"]
        assert resume["finished"] == ["a"] or resume["finished"] == ("a",)
        assert second.ops().index("ha-resume") > second.ops().index("ha-fire-and-forget")
        assert {s["topic"] for s in second.said("subscribe-topic")} == {"print", "warn"}
        assert futures["a"].status == "finished"
        await until(lambda: client._ha.follower.fence.term == 2)
        await asyncio.sleep(0.1)
        assert len(second.said("update-graph")) == 3
    await second.die()


@pytest.mark.parametrize("word", ["close", "stream-closed"])
async def test_a_goodbye_of_the_leader_is_no_reason_to_stop_listening(word: str) -> None:
    leader = await ScriptedLeader().open()
    async with connected(leader) as client:
        future = client.submit(int, key="x")
        await until(lambda: leader.said("update-graph"))
        await leader.tell({"op": word})
        await until(lambda: len(leader.said("ha-hello")) == 2)
        await leader.tell({"op": "key-in-memory", "key": "x"})
        await until(lambda: future.status == "finished")
    await leader.die()


async def test_a_leader_that_says_it_is_stale_is_left() -> None:
    leader = await ScriptedLeader(term=1).open()
    stale = [{"op": "ha-stale", "term": 1}, {"op": "cancelled-keys", "keys": ["x"]}]
    leader.answer = lambda message: stale if message.get("term") == 0 else None
    async with connected(leader) as client:
        client._ha.follower.fence.term = 0
        future = client.submit(int, key="x")
        await until(lambda: len(leader.said("ha-hello")) >= 2)
        leader.answer = lambda message: None
        await until(lambda: client._ha.follower.fence.term == 1)
        assert future.status == "pending"
    await leader.die()


async def test_a_welcome_of_an_older_term_is_refused_with_all_that_follows_it() -> None:
    old, (port,) = await ScriptedLeader(term=2).open(), free_ports(1)
    async with connected(old, port) as client:
        future = client.submit(int, key="x")
        await until(lambda: client._ha.follower.fence.term == 2)
        client._ha.follower.fence.term = 3  # as the watch said
        welcome = {"op": "ha-welcome", **old.cell()}
        await old.tell(welcome, {"op": "cancelled-keys", "keys": ["x"]})
        await until(lambda: len(old.said("ha-hello")) >= 2)
        assert old.said("ha-hello")[1]["term"] == 3
        assert future.status == "pending"
        await old.die()
        new = await ScriptedLeader(term=3).open(port)
        await until(lambda: new.said("ha-resume"))
        await until(lambda: client.status == "running")
    await new.die()


async def test_a_newer_view_makes_the_client_leave_a_frozen_leader_at_once() -> None:
    frozen, new = await ScriptedLeader(term=1).open(), await ScriptedLeader(term=2).open()
    async with connected(frozen) as client:
        await until(lambda: client._ha.follower.fence.term == 1)
        cell = client._ha.follower.directory
        assert cell is not None
        cell.observe(View("test", 2, "new", Endpoint("127.0.0.1", new.port)))
        await until(lambda: new.said("ha-hello"), within_s=1)
        assert client._ha.follower.fence.term == 2
    await frozen.die()
    await new.die()


async def test_a_leader_that_freezes_before_its_welcome_is_left_when_another_is_told() -> None:
    """The cell is known to another client of the process."""
    frozen, (port,) = await ScriptedLeader(term=1).open(), free_ports(1)
    frozen.answer = lambda message: [] if message["op"] == "ha-hello" else None
    async with connected(frozen, port):
        await until(lambda: frozen.said("ha-hello"))
        new = await ScriptedLeader(term=2).open(port)
        addresses = [Endpoint("127.0.0.1", leader.port) for leader in (frozen, new)]
        directory_of(addresses).observe(View("test", 2, "new", addresses[1]))
        await until(lambda: new.said("ha-hello"), within_s=1)
    await frozen.die()
    await new.die()


async def test_an_attempt_just_begun_is_given_up_soon_when_another_leader_is_told() -> None:
    """It is with a peer that accepts and does not answer, and no later view comes."""
    first, (port,) = await ScriptedLeader(term=1).open(), free_ports(1)
    async with connected(first, port) as client:
        await until(lambda: client._ha.follower.fence.term == 1)
        cell = client._ha.follower.directory
        assert cell is not None
        await first.die()
        deaf = await ScriptedLeader(term=1).open(port)
        asked = asyncio.Event()

        async def say_nothing(comm: Any, **message: Any) -> Any:
            asked.set()
            await asyncio.Event().wait()

        deaf.handlers["register-client"] = say_nothing
        await asked.wait()
        new = await ScriptedLeader(term=2).open(first.port)
        cell.observe(View("test", 2, "new", Endpoint("127.0.0.1", new.port)))
        await until(lambda: new.said("ha-hello"), within_s=5)
    await deaf.die()
    await new.die()


async def test_a_future_that_was_cancelled_stays_so_and_one_submitted_again_does_not() -> None:
    """A leader that lacks the cancellation says what it has before it is told what is wanted."""
    leader = await ScriptedLeader().open()
    async with connected(leader) as client:
        futures = {key: client.submit(int, key=key) for key in ("x", "last")}
        await until(lambda: len(leader.said("update-graph")) == 2)
        await leader.tell({"op": "cancelled-keys", "keys": ["x"]})
        await until(futures["x"].cancelled)
        in_memory = [{"op": "key-in-memory", "key": key} for key in ("x", "last")]
        await leader.tell(*in_memory)
        await until(futures["last"].done)
        assert futures["x"].status == "cancelled"
        again = client.submit(int, key="x")
        assert again.status == "pending"
        await leader.tell(*in_memory)
        await until(again.done)
        assert (again.status, futures["x"].status) == ("finished", "cancelled")
    await leader.die()


async def test_an_error_stays_the_outcome_of_a_future_whose_key_no_leader_knows() -> None:
    leader = await ScriptedLeader().open()
    async with connected(leader) as client:
        failed, unknown = client.submit(int, key="failed"), client.submit(int, key="unknown")
        await until(lambda: len(leader.said("update-graph")) == 2)
        error = {"exception": dumps(ValueError("unreadable")), "traceback": None}
        await leader.tell({"op": "task-erred", "key": "failed", **error})
        await until(lambda: failed.status == "error")
        client.scheduler_comm.abort()
        await until(lambda: leader.said("ha-resume"))
        keys = ["failed", "unknown"]
        await leader.tell({"op": "cancelled-keys", "keys": keys, "reason": UNKNOWN_KEYS})
        await until(lambda: unknown.status == "cancelled")
        assert failed.status == "error"
    await leader.die()


@pytest.mark.parametrize("outcome", ["finished", "error"])
async def test_what_came_of_a_retry_before_its_answer_is_not_forgotten(outcome: str) -> None:
    leader = await ScriptedLeader().open()
    async with connected(leader) as client:
        future = client.submit(int, key="x")
        await until(lambda: leader.said("update-graph"))
        error = {"exception": dumps(ValueError("again")), "traceback": None}
        erred = {"op": "task-erred", "key": "x", **error}
        in_memory = {"op": "key-in-memory", "key": "x"}
        await leader.tell(erred)
        await until(lambda: future.status == "error")

        async def retry(**kwargs: Any) -> list[str]:
            retried = {"op": "task-retried", "key": "x"}
            await leader.tell(retried, in_memory if outcome == "finished" else erred)
            await leader.tell({"op": "ha-committed", "sequences": [1]})
            await until(lambda: not client._ha.journal)
            return ["x"]

        leader.handlers["retry"] = retry
        await client.retry(future)
        assert future.status == outcome
    await leader.die()


async def test_a_client_that_is_welcomed_while_it_closes_watches_nobody() -> None:
    leader = await ScriptedLeader().open()
    leader.answer = lambda message: [] if message["op"] == "ha-hello" else None
    async with connected(leader) as client:
        await until(lambda: leader.said("ha-hello"))
        await client._ha.follower.stop()
        await leader.tell({"op": "ha-welcome", **leader.cell()})
        await until(lambda: client._ha.follower.fence.term == 1)
        assert client._ha.follower._watch is None
    await leader.die()


async def test_a_key_submitted_after_the_resume_is_not_cancelled_by_the_answer_to_it() -> None:
    leader = await ScriptedLeader().open()
    async with connected(leader) as client:
        old = client.submit(int, key="old")
        await until(lambda: client._ha.follower.fence.term == 1)
        client.scheduler_comm.abort()
        await until(lambda: leader.said("ha-resume"))
        new = client.submit(int, key="new")
        await leader.tell({"op": "cancelled-keys", "keys": ["old", "new"], "reason": UNKNOWN_KEYS})
        await until(lambda: old.status == "cancelled")
        assert new.status == "pending"
    await leader.die()


async def test_a_full_journal_is_told_to_the_one_who_submits() -> None:
    leader = await ScriptedLeader().open()
    async with connected(leader) as client:
        client._ha.journal = Journal(entries_max=1)
        first = client.submit(int, key="x")
        with pytest.raises(JournalFull):
            client.submit(int, key="y")
        assert first.status == "pending"
    await leader.die()


async def test_the_client_gives_up_after_the_time_that_is_configured() -> None:
    with dask.config.set({"ha.client.reconnect-timeout": "0.5s"}):
        leader = await ScriptedLeader().open()
        async with connected(leader) as client:
            await leader.die()
            await until(lambda: client.status == "closed")


async def test_an_address_without_ha_becomes_the_cell_that_the_leader_names() -> None:
    (other,) = free_ports(1)
    leader = await ScriptedLeader().open()
    leader.welcome = {"addresses": [f"tcp://127.0.0.1:{leader.port}", f"tcp://127.0.0.1:{other}"]}
    client = await Client(leader.address, asynchronous=True, set_as_default=False)
    await until(lambda: client._ha.follower.fence.term == 1)
    assert client.scheduler.address == f"ha://127.0.0.1:{leader.port},127.0.0.1:{other}"
    await leader.die()
    second = await ScriptedLeader(term=2).open(other)
    await until(lambda: second.said("ha-hello"))
    await client.close()
    await second.die()


async def test_an_unmodified_scheduler_is_served_as_upstream_serves_it() -> None:
    """core.py:895: an unknown stream operation ends the stream."""
    async with distributed.LocalCluster(
        n_workers=1,
        processes=False,
        dashboard_address=":0",
        asynchronous=True,
        protocol="tcp",
    ) as cluster:
        client = await Client(cluster, asynchronous=True, set_as_default=False)
        assert await client.submit(int, 7) == 7
        assert client._ha.plain
        assert len(client._ha.journal) == 0
        assert await client.submit(int, 8) == 8
        await client.close()


async def test_the_preload_makes_a_plain_client_one_of_ours() -> None:
    """client.py:1503 runs the preloads before it listens to the stream."""
    leader = await ScriptedLeader().open()
    with dask.config.set({"distributed.client.preload": ["client_replay.preload"]}):
        client = await distributed.Client(leader.address, asynchronous=True, set_as_default=False)
    assert type(client) is Client
    assert client.id.startswith("Client-")
    await until(lambda: client._ha.follower.fence.term == 1)
    client.submit(int, key="x")
    assert (await until(lambda: leader.said("update-graph")))[0]["ha_sequence"] == 1
    await client.close()
    await leader.die()


async def test_one_line_of_configuration_gives_every_client_of_a_program_a_file(
    tmp_path: Path,
) -> None:
    leader = await ScriptedLeader().open()
    with dask.config.set({"ha.client.journal": str(tmp_path / "journals")}):
        address = f"ha://127.0.0.1:{leader.port}"
        clients = [
            await distributed.Client(address, asynchronous=True, set_as_default=False)
            for _ in range(2)
        ]
        futures = [client.submit(int, key="x") for client in clients]
        await until(lambda: len(leader.said("update-graph")) == 2)
        names = {path.name for path in (tmp_path / "journals").glob("*.journal")}
        assert names == {f"{client.id}.journal" for client in clients}
        assert {future.status for future in futures} == {"pending"}
        for client in clients:
            await client.close()
    assert list((tmp_path / "journals").iterdir()) == []
    await leader.die()


async def test_a_request_is_sent_when_the_journal_has_it_and_what_follows_waits(
    tmp_path: Path,
) -> None:
    leader = await ScriptedLeader().open()
    address = f"ha://127.0.0.1:{leader.port}"
    async with Client(
        address, journal=tmp_path / "x.journal", asynchronous=True, set_as_default=False
    ) as client:
        await until(lambda: client._ha.follower.fence.term)
        keep = threading.Event()
        write = client._ha.journal._keeper._file.apply
        client._ha.journal._keeper._file.apply = lambda changes: (keep.wait(10), write(changes))
        future = client.submit(int, key="x")
        future.release()  # it is said after the graph, or the cell would have it for ever
        await asyncio.sleep(0.1)
        assert not leader.said("update-graph")
        assert not leader.said("client-releases-keys")
        keep.set()
        await until(lambda: leader.said("client-releases-keys"))
        ops = leader.ops()
        assert ops.index("update-graph") < ops.index("client-releases-keys")
    await leader.die()


async def test_a_disk_that_is_full_fails_the_future_and_nothing_is_sent(tmp_path: Path) -> None:
    leader = await ScriptedLeader().open()
    address = f"ha://127.0.0.1:{leader.port}"
    async with Client(
        address, journal=tmp_path / "x.journal", asynchronous=True, set_as_default=False
    ) as client:
        await until(lambda: client._ha.follower.fence.term)
        file = client._ha.journal._keeper._file
        full = OSError(28, "No space left on device")
        with mock.patch.object(file, "apply", side_effect=full):
            lost = client.submit(int, key="x")
            with pytest.raises(JournalFull, match="No space left"):
                await lost
        client.submit(int, key="y")
        graphs = await until(lambda: leader.said("update-graph"))
        assert [list(graph["keys"]) for graph in graphs] == [["y"]]
        assert graphs[0]["ha_sequence"] == 2
    await leader.die()


async def test_an_asynchronous_client_is_refused_what_its_loop_would_wait_for(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="durable=True"):
        Client("ha://127.0.0.1:1", journal=tmp_path / "x.journal", durable=True, asynchronous=True)


@pytest.mark.parametrize("durable", [False, True])
async def test_submit_waits_for_room_and_then_says_how_to_have_more(
    durable: bool, tmp_path: Path
) -> None:
    leader = await ScriptedLeader().open()
    sizes = {"ha.client.journal-limit": "3 kB"}
    patience = {"ha.client.journal-patience": "20s"}

    def use() -> None:
        address = f"ha://127.0.0.1:{leader.port}"
        journal = {"journal": tmp_path / "x.journal", "durable": True} if durable else {}
        with Client(address, timeout=5, set_as_default=False, **journal) as client:
            kept = [client.submit(len, b"x" * 1500, key=f"k{i}") for i in range(2)]
            assert len(client._ha.journal) == 1  # the second waited for the first
            with pytest.raises(JournalFull, match="journal-limit"):
                client.submit(len, b"x" * 4000)
            with (
                dask.config.set({"ha.client.journal-patience": "0.1s"}),
                pytest.raises(JournalFull, match="raise the limit"),
            ):
                client.submit(len, b"x" * 1500)
            assert client._ha.journal.nbytes <= 3000
            assert len(kept) == 2

    with dask.config.set({**sizes, **patience}):
        using = asyncio.ensure_future(asyncio.to_thread(use))
        await until(lambda: leader.said("update-graph"))
        await asyncio.sleep(0.2)
        assert len(leader.said("update-graph")) == 1
        await leader.tell(commit([1]))
        await using
    await leader.die()


def left_in(path: Path) -> tuple[int, list[Any]]:
    """What a later process would find: open requests, and keys."""
    with mock.patch.object(Owner, "is_alive", return_value=False):
        journal = Journal(DiskKeeper.resume(path, 1 << 20))
    found = len(journal), journal.wanted()
    journal.leave()
    return found


async def test_a_journal_is_not_lost_by_resuming_it_while_nobody_leads(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    journal = Journal(DiskKeeper.create(path, Identity("s", "Client-1", "ha://127.0.0.1:1"), 1000))
    journal.append({"op": "update-graph", "keys": {"x"}}, 1)
    journal.leave()
    with pytest.raises(OSError):
        await resume(path, asynchronous=True, timeout=0.3, set_as_default=False)
    assert left_in(path) == (1, ["x"])


async def test_an_error_in_a_context_leaves_the_journal_to_another_process(tmp_path: Path) -> None:
    leader, path = await ScriptedLeader().open(), tmp_path / "x.journal"
    address = f"ha://127.0.0.1:{leader.port}"

    async def break_off() -> Any:
        async with Client(address, journal=path, asynchronous=True, set_as_default=False) as client:
            futures.append(client.submit(int, key="x"))
            await until(lambda: leader.said("update-graph"))
            raise ZeroDivisionError

    futures: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        await break_off()
    assert futures[0].cancelled()
    assert left_in(path) == (1, ["x"])
    assert "close-client" not in leader.ops()
    await leader.die()
