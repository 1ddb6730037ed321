"""The scheduler file: what daemons write there, and what clients make of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed.comm import connect, get_address_host, resolve_address

from ha_scheduler.comm.address import Endpoint, HAAddressError, parse, unparse
from ha_scheduler.comm.directory import forget_directories
from ha_scheduler.comm.names import NameNotResolved, spread
from ha_scheduler.peer.operators import scheduler_file
from ha_scheduler.peer.operators.scheduler_file import SchedulerFile, content, write
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.protocol.watch import WatchView

PEERS = (PeerAddress("a", "10.0.0.1", 8785, 8786), PeerAddress("b", "fd00::2", 8785, 8786))


def view(term: int, cell_id: str = "11" * 16, address: str = "tls://10.0.0.1:8786") -> WatchView:
    return WatchView("cell", "a", term, "a", address, PEERS, cell_id)


async def until(file: Path, term: int) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            if file.exists() and (said := json.loads(file.read_text()))["term"] == term:
                return dict(said)
            await asyncio.sleep(0.01)


async def test_it_names_all_peers_and_itself_and_follows_the_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_file, "LOOK_EVERY_S", 0.01)
    file, now = tmp_path / "scheduler.json", [view(3, address="")]
    running = asyncio.create_task(SchedulerFile(file, lambda: now[0]).run())
    await asyncio.sleep(0.05)
    assert not file.exists(), "nobody serves yet"
    now[0] = view(3)
    said = await until(file, 3)
    assert said["address"] == f"ha://10.0.0.1:8786,[fd00::2]:8786,@{file}"
    assert unparse(parse(said["address"])) == said["address"]
    now[0] = view(4)
    assert (await until(file, 4))["leader"] == "a"
    assert os.listdir(tmp_path) == [file.name]
    running.cancel()


def test_what_a_later_term_wrote_stays_and_another_cells_does_not(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    write(file, content(view(7), file))
    late = SchedulerFile(file, lambda: view(6))
    assert late._write(view(6))
    assert json.loads(file.read_text())["term"] == 7
    assert late._write(view(1, cell_id="22" * 16))
    assert json.loads(file.read_text())["term"] == 1
    file.write_text("half a fi")
    assert late._write(view(1))
    assert json.loads(file.read_text())["term"] == 1


def test_a_file_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = SchedulerFile(tmp_path / "none" / "scheduler.json", lambda: view(6))
    with caplog.at_level(logging.WARNING):
        assert not late._write(view(6))
        assert not late._write(view(6))
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text


async def test_the_file_is_read_at_each_connection(tmp_path: Path) -> None:
    comms: list[Any] = []

    async def keep(comm: Any) -> None:
        comms.append(comm)
        await comm.write("here")

    file = tmp_path / "scheduler.json"
    address = f"ha://127.0.0.1:1,@{file}"
    for _ in range(2):  # the cell is somewhere else the second time
        async with distributed.comm.listen("tcp://127.0.0.1:0", keep) as listener:
            place = listener.contact_address.removeprefix("tcp://")
            file.write_text(json.dumps({"address": f"ha://127.0.0.1:1,{place},@{file}"}))
            comm = await connect(address, timeout=5)
            assert comm.peer_address == f"tcp://{place}"
            comm.abort()
            for served in comms:
                served.abort()
    forget_directories()


async def test_what_is_no_scheduler_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NameNotResolved, match=r"scheduler file .*none cannot be used"):
        await spread(Endpoint(f"@{tmp_path}/none", 0))
    (tmp_path / "odd").write_text("[1]")
    with pytest.raises(NameNotResolved, match="TypeError"):
        await spread(Endpoint(f"@{tmp_path}/odd", 0))


async def test_in_plaintext_a_file_leads_nowhere_else(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": "ha://10.255.255.1:1"}))
    with pytest.raises(OSError) as caught:
        await connect(f"ha://127.0.0.1:1,@{file}", timeout=0.5)
    said, error = "", caught.value.__cause__
    while error is not None:
        said, error = said + str(error), error.__cause__
    assert "10.255.255.1:1 is not on this machine" in said
    forget_directories()


def test_distributed_keeps_the_path(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    write(file, content(view(1), file))
    address = f"ha://10.0.0.1:8786,@{file}"
    assert resolve_address(address) == address
    assert get_address_host(f"ha://@{file}") == "10.0.0.1"
    with pytest.raises(HAAddressError, match="is @/whole/path"):
        parse("ha://@scheduler.json")
