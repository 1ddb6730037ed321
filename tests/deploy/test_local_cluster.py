"""``LocalHACluster`` behaves as ``LocalCluster`` does, and its peers can be hurt."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
from distributed import Client as PlainClient
from distributed import LocalCluster

from client_replay import Client
from client_replay.calls.rpc import REPEATS_MAX
from ha_scheduler import LocalHACluster
from ha_scheduler.deploy.cell import LocalCellError
from ha_scheduler.errors import ControlError
from tests.deadlines import SCALE

pytestmark = pytest.mark.system

DEADLINE_S = 30 * SCALE


def increment(x: int) -> int:
    return x + 1


def processes(cluster: LocalHACluster) -> list[psutil.Process]:
    """Everything the cluster has started, directly or not."""
    children = [*cluster.peers, *cluster.workers.values()]
    top = [psutil.Process(child.pid) for child in children if child.pid is not None]
    return [process for each in top for process in (each, *each.children(recursive=True))]


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalHACluster]:
    """A cluster for the tests that leave it as they found it."""
    with LocalHACluster(
        n_peers=3, n_workers=2, name="shared", leader_timeout=30 * SCALE
    ) as cluster:
        yield cluster


def test_it_is_used_as_a_local_cluster(shared: LocalHACluster) -> None:
    with shared.get_client() as client:
        assert isinstance(client, Client)
        assert client.cluster is shared
        assert shared.get_client() is client
        assert client.submit(increment, 1).result(timeout=DEADLINE_S) == 2
        assert len(client.scheduler_info()["workers"]) == 2
    assert shared.scheduler_address.startswith("ha://127.0.0.1:")
    assert shared.scheduler_address.count(",") == 2
    assert shared.security.require_encryption


def test_its_repr_says_what_it_is(shared: LocalHACluster) -> None:
    text = repr(shared)
    assert text.startswith("LocalHACluster(shared, 'ha://127.0.0.1:")
    assert "workers=2, threads=2" in text
    assert "shared" in shared._repr_html_()
    assert shared.dashboard_link.startswith("https://127.0.0.1:")


def test_every_peer_and_every_worker_is_a_process(shared: LocalHACluster) -> None:
    names = {process.pid: " ".join(process.cmdline()) for process in processes(shared)}
    assert sum("ha_scheduler.cli.main" in line for line in names.values()) == 3
    assert sum("ha_scheduler.engine" in line for line in names.values()) == 3
    assert sum("dask_worker" in line for line in names.values()) == 2
    assert os.getpid() not in names


def test_one_peer_leads_and_the_others_follow(shared: LocalHACluster) -> None:
    statuses = [peer.status for peer in shared.peers]
    assert sorted(statuses) == ["follower", "follower", "leader"]
    assert shared.leader.status == "leader"
    assert shared.find_leader() is shared.leader
    assert [peer.name for peer in shared.peers] == ["a", "b", "c"]


def test_leadership_goes_where_it_is_sent(shared: LocalHACluster) -> None:
    leader = shared.leader
    other = next(peer for peer in shared.peers if peer is not leader)
    assert shared.transfer(to=other) is other
    assert shared.transfer(to=leader.name) is leader
    assert shared.transfer(to=leader) is leader, "it leads already"
    assert shared.transfer() is not leader
    with pytest.raises(ControlError, match="there is no peer z"):
        shared.transfer(to="z")


def test_the_history_tells_of_the_changes_of_leader(shared: LocalHACluster) -> None:
    before = len(shared.history())
    leader = shared.transfer()
    entries = shared.history()
    assert len(entries) > before
    assert entries[-1]["leader"] == leader.name
    assert {"detected", "elected", "serving"} <= set(entries[-1]["phases"])


def test_workers_are_added_and_removed_without_losing_results(shared: LocalHACluster) -> None:
    with shared.get_client() as client:
        shared.scale(3)
        shared.wait_for_workers(3, timeout=DEADLINE_S)
        futures = client.map(increment, range(30))
        assert client.gather(futures) == list(range(1, 31))
        shared.scale(2)
        assert len(shared.workers) == 2
        assert client.gather(futures) == list(range(1, 31))


def test_the_logs_of_all_processes_are_given(shared: LocalHACluster) -> None:
    logs = shared.get_logs()
    assert set(logs) >= {"Cluster", "Peer a", "Peer b", "Peer c", "Worker 0", "Worker 1"}
    assert "Peer a" not in shared.get_logs(scheduler=False)
    assert set(shared.get_logs(cluster=False, scheduler=False, workers=["1"])) == {"Worker 1"}


def test_the_log_level_of_a_peer_is_that_of_its_engine() -> None:
    with LocalHACluster(n_peers=1, n_workers=0, peer_options=["--log-level=warning"]) as cluster:
        assert " INFO " not in cluster.peers[0].tail()


def test_a_plain_client_of_it_is_ours(shared: LocalHACluster) -> None:
    with PlainClient(shared) as client:
        assert isinstance(client, Client)
        assert client.submit(increment, 1).result(timeout=DEADLINE_S) == 2


def test_a_client_of_it_is_given_to_whoever_asks_within_its_context(
    shared: LocalHACluster,
) -> None:
    with shared.get_client() as client:
        with shared.get_client() as again:
            assert again is client
        assert client.submit(increment, 1).result(timeout=DEADLINE_S) == 2
    assert client.status == "closed"


def test_its_surface_is_that_of_local_cluster() -> None:
    """Upgrading distributed may add to it; then this says what is missing here."""
    ours, theirs = set(dir(LocalHACluster)), set(dir(LocalCluster))
    of_spec_cluster = {"from_name", "new_worker_spec", "start_worker"}
    missing = {name for name in theirs - ours if not name.startswith("_")} - of_spec_cluster
    assert not missing
    parameters = inspect.signature(LocalHACluster).parameters
    assert {"n_workers", "threads_per_worker", "memory_limit", "name", "host", "security"} <= set(
        parameters
    )


def test_nothing_is_left_behind() -> None:
    with LocalHACluster(n_peers=1, n_workers=1, dashboard_address=None) as cluster:
        running = processes(cluster)
        directory = cluster.directory
        assert directory.is_dir()
        assert cluster.dashboard_link == ""
    gone, alive = psutil.wait_procs(running, timeout=5 * SCALE)
    assert not alive
    assert len(gone) >= 4
    assert not directory.exists()


def test_nothing_is_left_behind_by_a_program_that_forgets_to_close() -> None:
    code = (
        "from ha_scheduler import LocalHACluster\n"
        "from tests.deploy.test_local_cluster import processes\n"
        "cluster = LocalHACluster(n_peers=1, n_workers=1, dashboard_address=None)\n"
        "print(cluster.directory, *(process.pid for process in processes(cluster)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    directory, *pids = done.stdout.split()
    assert len(pids) >= 4
    assert not any(psutil.pid_exists(int(pid)) for pid in pids)
    assert not Path(directory).exists()


def test_it_can_be_awaited() -> None:
    async def use() -> int:
        async with LocalHACluster(
            n_peers=3, n_workers=1, dashboard_address=None, asynchronous=True
        ) as cluster:
            async with cluster.get_client() as client:
                leader = await cluster.find_leader()
                leader.kill()
                result: int = await asyncio.wait_for(client.submit(increment, 1), DEADLINE_S)
            assert leader.status == "dead"
            await leader.restart()
            assert leader.status == "follower"
            assert await cluster.transfer(to=leader) is leader
            assert len(await cluster.history()) >= 3
        return result

    assert asyncio.run(use()) == 2


def test_a_cell_carries_on_with_its_data(tmp_path: Path) -> None:
    def term() -> int:
        options: dict[str, Any] = {"n_peers": 1, "n_workers": 0, "data_dir": tmp_path / "cell"}
        with LocalHACluster(dashboard_address=None, **options) as cluster:
            return int(cluster.history()[-1]["term"])

    assert term() < term()
    with pytest.raises(LocalCellError, match="holds a cell of 1 peers, not 3"):
        LocalHACluster(n_peers=3, n_workers=0, data_dir=tmp_path / "cell")


def test_plaintext_must_be_asked_for() -> None:
    with (
        LocalHACluster(
            n_peers=1, n_workers=1, security=False, nanny=False, dashboard_address=None
        ) as cluster,
        cluster.get_client() as client,
    ):
        assert client.submit(increment, 1).result(timeout=DEADLINE_S) == 2
        assert all(address.startswith("tcp://") for address in cluster.scheduler_info["workers"])


def test_configuration_of_the_caller_is_that_of_peers_and_workers() -> None:
    def worker_has() -> Any:
        return dask.config.get("answer", default=None)

    def scheduler_has(dask_scheduler: Any = None) -> Any:
        return dask.config.get("answer", default=None)

    with (
        dask.config.set({"answer": 42}),
        LocalHACluster(n_peers=1, n_workers=1, dashboard_address=None) as cluster,
        cluster.get_client() as client,
    ):
        assert list(client.run(worker_has).values()) == [42]
        assert client.run_on_scheduler(scheduler_has) == 42


class Unlucky(LocalHACluster):
    """One whose connections to the leader are lost at first, while it starts."""

    calls_to_lose = REPEATS_MAX + 1  # more than one call is repeated for
    subscriptions_to_lose = 1

    async def _await_workers(self, added: Any) -> None:
        connection = self._leading()
        send, live_comm = connection._send, connection.live_comm

        async def lose(comm: Any, *args: Any) -> Any:
            if self.calls_to_lose:
                self.calls_to_lose -= 1
                comm.abort()
            return await send(comm, *args)

        async def lose_subscription() -> Any:
            comm = await live_comm()
            if self.subscriptions_to_lose:
                self.subscriptions_to_lose -= 1
                comm.abort()
            return comm

        connection._send = lose  # type: ignore[method-assign]
        connection.live_comm = lose_subscription  # type: ignore[method-assign]
        await super()._await_workers(added)


@pytest.mark.parametrize("lost", ["calls", "subscription"])
def test_leaders_that_are_lost_while_it_starts_do_not_fail_the_start(
    lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"calls": "subscriptions_to_lose", "subscription": "calls_to_lose"}[lost]
    monkeypatch.setattr(Unlucky, other, 0)
    with (
        Unlucky(n_peers=1, n_workers=1, nanny=False, dashboard_address=None) as cluster,
        cluster.get_client() as client,
    ):
        assert not cluster.calls_to_lose
        assert not cluster.subscriptions_to_lose
        assert client.submit(increment, 1).result(timeout=DEADLINE_S) == 2


def test_a_failed_start_tells_what_the_processes_said() -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(LocalCellError) as caught:
        LocalHACluster(n_peers=3, n_workers=1, peer_options=["--no-such-option"])
    assert "ended with status 2" in str(caught.value)
    assert "no-such-option" in str(caught.value).split("output.log", 1)[1]
    assert set(psutil.Process().children(recursive=True)) == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"n_peers": 2}, "n_peers must be 1, 3, 5 or 7, not 2"),
        ({"dashboard_address": ":8787"}, "each peer needs a port of its own"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LocalHACluster(**options)
