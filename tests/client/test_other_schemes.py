"""Schemes that are not ours, as ``gateway://`` of dask-gateway, are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask
import distributed
import pytest
from distributed.comm.registry import backends, get_backend

import client_replay
from ha_scheduler.comm.address import may_be_of_a_cell
from ha_scheduler.worker.worker import Worker

HANDSHAKES: list[dict[str, Any]] = []


class Gateway(type(get_backend("tcp"))):  # type: ignore[misc]
    """As dask-gateway's: an address with a path, and addresses of peers with the scheme."""

    def get_connector(self) -> Any:
        beneath = super().get_connector()

        class Connector:
            async def connect(self, address: str, *args: Any, **kwargs: Any) -> Any:
                comm = await beneath.connect(address.partition("/")[0], *args, **kwargs)
                comm._peer_addr = f"gateway://{address}"
                return comm

        return Connector()

    def get_address_host_port(self, loc: str) -> Any:
        return super().get_address_host_port(loc.partition("/")[0])

    def get_address_host(self, loc: str) -> Any:
        return super().get_address_host(loc.partition("/")[0])

    def resolve_address(self, loc: str) -> str:
        return loc


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[distributed.LocalCluster, str]]:
    """A plain cluster behind a proxy, in a process that is set up for a cell."""
    monkeypatch.setitem(backends, "gateway", Gateway())
    preloads = {"distributed.client.preload": ["client_replay.preload"]}
    with (
        dask.config.set(preloads),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=""
        ) as cluster,
    ):
        yield cluster, cluster.scheduler_address.replace("tcp://", "gateway://") + "/cluster-1"


def test_a_plain_client_of_a_proxy_stays_one(
    proxied: tuple[distributed.LocalCluster, str], caplog: pytest.LogCaptureFixture
) -> None:
    _, address = proxied
    with distributed.Client(address) as client:
        assert type(client) is distributed.Client
        assert client.submit(lambda: 1).result(timeout=10) == 1
    assert "ha-hello" not in caplog.text


def test_our_client_of_a_proxy_says_nothing_of_ours(
    proxied: tuple[distributed.LocalCluster, str], caplog: pytest.LogCaptureFixture
) -> None:
    _, address = proxied
    with client_replay.Client(address) as client:
        assert client.submit(lambda: 2).result(timeout=10) == 2
        assert client.get_metadata(["x"], default=3) == 3
    assert "ha-hello" not in caplog.text


@pytest.mark.parametrize(
    ("address", "ours"),
    [
        ("gateway://host:8786/name", False),
        ("inproc://1/2/3", False),
        ("ws://host:1", False),
        ("ha+srv://name", True),
        ("tls://vip:8786", True),
        ("vip:8786", True),
    ],
)
def test_which_schemes_may_lead_to_a_cell(address: str, *, ours: bool) -> None:
    assert may_be_of_a_cell(address) is ours


async def test_a_worker_of_a_proxy_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    from ha_scheduler.worker import preload

    monkeypatch.setitem(backends, "gateway", Gateway())
    worker = distributed.Worker("gateway://127.0.0.1:1/x", protocol="tcp", dashboard=False)
    preload.dask_setup(worker)
    assert not isinstance(worker, Worker)
    await worker.close()
