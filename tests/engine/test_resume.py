"""A client that is gone, and another process that goes on with its journal or its session."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from click.testing import CliRunner, Result
from distributed import CancelledError, fire_and_forget

from client_replay import Client, JournalFenced, JournalInUse, NoLeader, SessionTaken, resume
from client_replay.journal.file import JournalFile
from ha_scheduler.cli.dask_ha import ha
from ha_scheduler.engine.clients import absence
from tests.engine.conftest import Pair, eventually, pair
from tests.engine.counted import begin, blocked, gate, runs, work

PROGRAM = """
import sys
from client_replay import Client
from tests.engine.counted import blocked, work
client = Client({address!r}, journal={path!r}, timeout=20)
futures = {{}}
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Program:
    """A Python that does what it is told, line by line, until it is killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def do(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()
        assert await self.process.stdout.readline() == b"done\n", line

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        await self.process.wait()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    begin()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work.journal"


@asynccontextmanager
async def program(both: Pair, path: Path) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM.format(address=both.address, path=str(path)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    started = Program(process)
    try:
        await started.do("pass")
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            await started.kill()


async def resumed(path: Path, **options: Any) -> Client:
    client: Client = await resume(path, asynchronous=True, set_as_default=False, **options)
    return client


def wanted_by(path: Path) -> set[Any]:
    """The keys that the journal of a living program has on the disk."""
    file = JournalFile(path, bytes_max=1 << 30, create=False, readonly=True)
    try:
        return {key for keys in file.read().keys.values() for key in keys}
    finally:
        file.close()


SUBMIT = (
    "futures = {k: client.submit(f, k, key=k) for k, f in dict(a=work, b=work, c=blocked).items()}"
)


def from_a_terminal(*arguments: object) -> Result:
    return CliRunner().invoke(ha, ["journal", *map(str, arguments)])


async def test_from_a_terminal_what_never_reached_the_cell_is_submitted(path: Path) -> None:
    async with pair() as both:
        client = await Client(both.address, journal=path, asynchronous=True, set_as_default=False)
        assert await client.submit(work, "a", key="a") == "a"
        await both.kill_leader()
        client.submit(work, "b", key="b")
        client._ha.journal.wait_until_kept()
        await client._leave()
        nobody = await asyncio.to_thread(from_a_terminal, "resume", path, "--timeout", 1)
        assert nobody.exit_code == 1
        assert "No leader of the cell was found, and nothing was done" in nobody.output
        await both.take_over()
        done = await asyncio.to_thread(from_a_terminal, "resume", path)
        assert done.exit_code == 0
        assert "1 of 1 requests submitted" in done.output
        again = await resumed(path)  # which is left for a later process
        assert set(again.resumed) == {"b"}  # "a" was fetched
        assert await again.resumed["b"] == "b"
        await again.close()
    assert runs == {"a": 1, "b": 1}


async def test_from_a_terminal_a_journal_is_taken_from_a_living_process_by_force_alone(
    path: Path,
) -> None:
    async with pair() as both, program(both, path) as notebook:
        await notebook.do(SUBMIT)
        await eventually(lambda: runs["c"] == 1)
        refused = await asyncio.to_thread(from_a_terminal, "resume", path)
        assert refused.exit_code == 2
        assert "has it" in refused.output
        forced = await asyncio.to_thread(from_a_terminal, "resume", path, "--force")
        assert forced.exit_code == 0, forced.output
        assert runs["c"] == 1
        gate.set()


async def test_after_kill_9_another_process_has_what_is_unfinished_or_not_fetched(
    path: Path,
) -> None:
    async with pair() as both:
        async with program(both, path) as notebook:
            await notebook.do(SUBMIT)
            await notebook.do("futures['a'].result(), futures['b'].exception()")
            await eventually(lambda: wanted_by(path) == {"b", "c"})
            await eventually(lambda: runs["c"] == 1)
            await notebook.kill()
        gate.set()
        client = await resumed(path)
        assert set(client.resumed) == {"b", "c"}
        await eventually(lambda: "Cell <b>" in client._repr_html_())
        assert await client.gather([client.resumed["b"], client.resumed["c"]]) == ["b", "c"]
        assert runs == {"a": 1, "b": 1, "c": 1}
        await client.close()
        assert not path.exists()


async def test_what_never_reached_a_cell_is_submitted_when_the_journal_is_resumed(
    path: Path,
) -> None:
    """The notebook and the leader die, the notebook first; nothing runs twice."""
    async with pair() as both:
        async with program(both, path) as notebook:
            await notebook.do("futures['a'] = client.submit(work, 'a', key='a')")
            await eventually(lambda: runs["a"] == 1)
            await both.kill_leader()
            await notebook.do("futures['b'] = client.submit(work, 'b', key='b')")
            await notebook.do("client._ha.journal.wait_until_kept()")
            await notebook.kill()
        await both.take_over()
        client = await resumed(path)
        assert await client.gather(client.resumed) == {"a": "a", "b": "b"}
        assert runs == {"a": 1, "b": 1}
        again = client.submit(work, "c", key="c")
        assert await again == "c"
        await client.close()


async def test_of_two_processes_on_one_journal_the_first_is_fenced(path: Path) -> None:
    async with pair() as both, program(both, path) as notebook:
        await notebook.do("futures['x'] = client.submit(blocked, 'x', key='x')")
        await eventually(lambda: runs["x"] == 1)
        with pytest.raises(JournalInUse, match=r"process \d+ on .* has it since"):
            await resumed(path)
        notebook.process.send_signal(signal.SIGSTOP)  # a notebook that sleeps, and wakes up
        client = await resumed(path, force=True)
        notebook.process.send_signal(signal.SIGCONT)
        await notebook.do("import time, client_replay")
        await notebook.do(
            "exec('''try: client.submit(work, 'y', key='y').result(20)\\n"
            "except (client_replay.JournalFenced, Exception) as e: error = e''')"
        )
        gate.set()
        assert await client.resumed["x"] == "x"
        assert runs == {"x": 1}
        await client.close()


async def test_a_client_of_this_process_that_was_fenced_says_so(path: Path) -> None:
    async with pair() as both:
        client = await Client(both.address, journal=path, asynchronous=True, set_as_default=False)
        pending = client.submit(blocked, 1, key="x")
        await eventually(lambda: runs[1] == 1)
        error = JournalFenced(path, "another process has taken it over", "Go on there")
        await client._fenced(error)
        with pytest.raises(JournalFenced):
            await pending
        assert client.status == "closed"
        assert path.exists()
        gate.set()
        again = await resumed(path)
        assert await again.resumed["x"] == 1
        await again.close()
    assert runs[1] == 1


async def test_a_session_that_was_detached_is_attached_elsewhere_by_its_name() -> None:
    async with pair() as both:
        first = await Client(both.address, asynchronous=True, set_as_default=False)
        futures = [first.submit(work, 1, key="done"), first.submit(blocked, 2, key="running")]
        await futures[0]
        await eventually(lambda: runs[2] == 1)
        name = await first.detach()
        assert first.status == "closed"
        await both.kill_leader()
        await both.take_over()
        second = await Client.attach(name, both.address, asynchronous=True, set_as_default=False)
        assert set(second.resumed) == {"done", "running"}
        gate.set()
        assert await second.gather(second.resumed) == {"done": 1, "running": 2}
        assert await second.submit(work, 3) == 3  # under a number that the cell has not answered
        await second.close()
    assert runs == {1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize("leaders", ["same leader", "another leader"])
async def test_of_two_processes_that_attach_to_one_session_the_latest_has_it(leaders: str) -> None:
    async with pair() as both:
        begun = await Client(both.address, asynchronous=True, set_as_default=False)
        future = begun.submit(blocked, 1, key="running")
        await eventually(lambda: runs[1] == 1)
        name = await begun.detach()
        first = await Client.attach(name, both.address, asynchronous=True, set_as_default=False)
        pending = first.resumed["running"]
        second = await Client.attach(name, both.address, asynchronous=True, set_as_default=False)
        if leaders == "another leader":
            await both.kill_leader()
            await both.take_over()
        await eventually(lambda: first.status == "closed")
        with pytest.raises(SessionTaken, match="since 20"):
            await pending
        await eventually(lambda: second.status == "running")
        gate.set()
        assert await second.resumed["running"] == 1
        second.scheduler_comm.abort()
        assert await second.submit(work, 2) == 2
        await second.close()
    assert future.key == "running"
    assert runs == {1: 1, 2: 1}


async def test_who_has_begun_a_session_does_not_end_who_has_attached_to_it() -> None:
    async with pair() as both:
        await both.client.submit(work, 1)
        name = f"{both.client.id}:{both.client._ha.id}"  # as another process may have read it
        thief = await Client.attach(name, both.address, asynchronous=True, set_as_default=False)
        await eventually(lambda: both.client.status == "closed")
        assert await thief.submit(work, 2) == 2
        await thief.close()
        assert both.leader._succession._table.rows == {}


async def test_a_later_leader_knows_how_long_a_client_is_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with dask.config.set({"ha.client.session-ttl": "20 minutes"}):
        async with pair() as both:
            gone = await Client(both.address, asynchronous=True, set_as_default=False)
            kept = gone.submit(work, 1)
            await kept
            assert both.leader._absence.seconds(gone.id, silent=False) == 60.0
            await gone._leave()
            await eventually(lambda: both.leader._absence.was_closed(gone.id))
            await both.kill_leader()
            leader = await both.take_over()
            assert leader._absence.was_closed(gone.id)
            assert not leader._absence.was_closed(both.client.id)
            assert leader._absence.seconds(both.client.id, silent=True) == 1200.0
            waits = leader._leaving[gone.id].when() - asyncio.get_running_loop().time()
            assert 50 < waits <= 60


async def test_a_client_that_detaches_while_nobody_leads_goes_on_until_somebody_does() -> None:
    async with pair() as both:
        client = await Client(both.address, asynchronous=True, set_as_default=False)
        await both.kill_leader()
        future = client.submit(work, 1)
        with pytest.raises(NoLeader, match="1 requests"):
            await client.detach(timeout=0.1)
        await both.take_over()
        assert await future == 1
        await client.close()


async def test_sessions_are_listed_and_cancelled_whole() -> None:
    async with pair() as both:
        other = await Client(both.address, asynchronous=True, set_as_default=False)
        kept = both.client.submit(work, "kept", key="kept")
        await kept  # before both workers are blocked
        theirs = [other.submit(work, 1, key="one"), other.submit(blocked, 2, key="two")]
        fired = other.submit(blocked, 3, key="fired")
        fire_and_forget(fired)
        await theirs[0]
        await eventually(lambda: runs[2] == 1)
        listed = {session["name"]: session for session in await both.client.sessions()}
        assert set(listed) == {both.client.id, other.id, "fire-and-forget"}
        told = listed[other.id]
        assert (told["keys"], told["connected"]) == (3, True)
        assert sum(told["waits_for"].values()) == 2
        assert set(told["first"]) == {"two", "fired"}
        assert told["nbytes"] > 0
        assert listed["fire-and-forget"]["keys"] == 1
        assert await both.client.cancel_session(other.id) == 3
        with pytest.raises(CancelledError, match="cancel_session"):
            await theirs[1]
        assert kept.status == "finished"
        assert await both.client.cancel_session("fire-and-forget") == 1
        await eventually(lambda: set(both.leader.tasks) == {"kept"})
        with pytest.raises(ValueError, match="no session 'nobody'"):
            await both.client.cancel_session("nobody")
        gate.set()
        await other.close()


async def test_a_session_that_was_cancelled_while_its_client_was_away_is_told_to_it(
    path: Path,
) -> None:
    async with pair() as both:
        client = await Client(both.address, journal=path, asynchronous=True, set_as_default=False)
        running = client.submit(blocked, 1, key="x")
        await eventually(lambda: runs[1] == 1)
        name = client.id
        await client._leave()
        assert running.cancelled()
        assert await both.client.cancel_session(name) == 1
        await both.kill_leader()
        await both.take_over()
        again = await resumed(path)
        with pytest.raises(CancelledError, match="cancel_session"):
            await again.resumed["x"]
        gate.set()
        await again.close()


@pytest.mark.parametrize(
    ("on_disk", "silent", "expected"),
    [(False, False, 60.0), (False, True, 7200.0), (True, False, 7200.0), (True, True, 7200.0)],
)
async def test_a_client_is_awaited_as_long_as_it_may_come_back(
    path: Path, on_disk: bool, silent: bool, expected: float
) -> None:
    async with pair(0) as both:
        options = {"journal": path} if on_disk else {}
        client = await Client(both.address, asynchronous=True, set_as_default=False, **options)
        await eventually(lambda: client.id in both.leader.session_of)
        assert both.leader._absence.seconds(client.id, silent=silent) == expected
        await client.close()


async def test_a_client_may_ask_for_less_than_the_cell_gives() -> None:
    with dask.config.set({"ha.client.session-ttl": "20 minutes"}):
        async with pair(0) as both:
            await eventually(lambda: both.client.id in both.leader.session_of)
            asked = both.leader._absence
            assert asked.seconds(both.client.id, silent=True) == 1200
            asked.asked(both.client.id, silent_s=1e6, closed_s=1e6)
            assert asked.seconds(both.client.id, silent=True) == 7200


@pytest.mark.parametrize("meanwhile", ["same leader", "another leader"])
async def test_a_client_that_was_away_for_too_long_is_told_the_reason(
    meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absence, "CLOSED_TTL_SECONDS", 0.05)
    async with pair() as both:
        finished = both.client.submit(work, 1, key="finished")
        await finished
        back = asyncio.Event()

        async def sleep() -> None:
            await back.wait()

        monkeypatch.setattr(both.client._ha, "pause_between_streams", sleep)
        both.client.scheduler_comm.abort()
        await eventually(lambda: both.client.id not in both.leader.clients)
        if meanwhile == "another leader":
            await both.kill_leader()
            await both.take_over()
        back.set()
        await eventually(finished.cancelled)
        with pytest.raises(CancelledError, match="away for longer than the cell keeps") as told:
            await finished
        assert "session-ended" in str(told.value)
        assert await both.client.submit(work, 2) == 2


def test_silence_is_told_from_a_connection_that_was_closed() -> None:
    def ended(cause: BaseException | None) -> BaseException:
        error = OSError("in <TCP>: stream closed")
        error.__cause__ = cause
        return error

    assert not absence.is_silence(None)
    assert not absence.is_silence(ended(None))
    assert not absence.is_silence(ended(ConnectionResetError(104, "reset")))
    assert absence.is_silence(ended(TimeoutError(110, "timed out")))
    assert absence.is_silence(ended(OSError(113, "No route to host")))
