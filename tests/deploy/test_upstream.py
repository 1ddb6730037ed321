"""What ``deploy`` assumes of distributed beyond its public interface, with upstream's lines."""

from __future__ import annotations

import inspect

from distributed.deploy.cluster import Cluster
from distributed.deploy.spec import SpecCluster
from distributed.scheduler import Scheduler, WorkerStatusPlugin


def test_a_cluster_watches_until_its_connection_ends() -> None:
    """cluster.py:226."""
    source = inspect.getsource(Cluster._watch_worker_status)
    assert "except OSError:\n                break" in source
    assert "self._update_worker_status(op, msg)" in source


def test_a_cluster_subscribes_on_a_connection_of_its_own_when_it_starts() -> None:
    """cluster.py:117, which ``FollowsLeader._subscribe`` does again."""
    source = inspect.getsource(Cluster._start)
    connected = source.index("await self.scheduler_comm.live_comm()")
    subscribed = source.index('{"op": "subscribe_worker_status"}')
    told = source.index("self.scheduler_info = SchedulerInfo(await comm.read())")
    assert connected < subscribed < told < source.index("self._watch_worker_status(comm)")
    assert "self._watch_worker_status_task = " in source


def test_a_cluster_that_closes_ends_its_watch_if_it_has_one() -> None:
    """cluster.py:188: ``FollowsLeader._end_watch`` takes it away before."""
    source = inspect.getsource(Cluster._close)
    assert "if self._watch_worker_status_task:" in source
    assert "await self.scheduler_comm.close_rpc()" in source


def test_a_spec_cluster_makes_its_connection_from_the_address_of_its_scheduler() -> None:
    """spec.py:332: ``FollowsLeader.scheduler_comm`` makes another of it."""
    source = inspect.getsource(SpecCluster._start)
    assert "self.scheduler_comm = rpc(" in source
    assert "or self.scheduler.address" in source


def test_a_spec_cluster_leaves_a_scheduler_alone_that_it_was_told_to() -> None:
    """spec.py:373 and 460."""
    source = inspect.getsource(SpecCluster._close)
    assert source.count("self.shutdown_scheduler") == 2
    correct = inspect.getsource(SpecCluster._correct_state_internal)
    assert "if self.scheduler.status == Status.running:" in correct


def test_a_spec_cluster_replaces_a_worker_of_whose_removal_it_hears() -> None:
    """spec.py:414."""
    source = inspect.getsource(SpecCluster._update_worker_status)
    assert 'self.scheduler_info["workers"][msg]["name"]' in source


def test_what_a_watcher_is_told_is_sent_by_a_plugin_that_has_a_name() -> None:
    """scheduler.py:7836 and 9318: ``engine/workers/status_subscribers.py`` gives each its own."""
    assert WorkerStatusPlugin.name == "worker-status"
    source = inspect.getsource(Scheduler.subscribe_worker_status)
    assert "WorkerStatusPlugin(self, comm)" in source
    assert 'del v["metrics"]' in source
    assert 'del v["last_seen"]' in source
