"""The site's command that starts and ends workers, as the leading daemon runs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ha_scheduler.peer.operators.scale_command import ScaleCommand
from ha_scheduler.protocol.engine import ScaleWanted
from tests.deadlines import SCALE


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5 * SCALE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return tmp_path / "told"


def program(told: Path, then: str = "") -> str:
    file = told.with_name("command")
    names = "$DASK_HA_OWNER $DASK_HA_PEER $DASK_HA_CELL $DASK_HA_TERM"
    file.write_text(f'#!/bin/sh\necho "$* for {names}" >> {told}\n{then}\n')
    file.chmod(0o755)
    return str(file)


def lines(told: Path) -> list[str]:
    return told.read_text().splitlines() if told.exists() else []


async def test_it_is_told_how_many_and_who_has_left(told: Path) -> None:
    command = ScaleCommand(program(told), "a", "cell")
    command.want(ScaleWanted(3, "farm", 5))
    await until(lambda: len(lines(told)) == 1)
    command.want(ScaleWanted(3, "farm", 4, ("farm-0", "farm 1; rm -rf $HOME")))
    await until(lambda: len(lines(told)) == 2)
    await command.stop()
    assert lines(told) == [
        "up 5 for farm a cell 3",
        "down farm-0 farm 1; rm -rf $HOME for farm a cell 3",
    ]


async def test_of_what_comes_while_it_runs_the_latest_counts_and_no_name_is_lost(
    told: Path,
) -> None:
    go_on = told.with_name("go-on")
    slow = f"while [ ! -e {go_on} ]; do sleep 0.02; done"
    command = ScaleCommand(program(told, slow), "a", "cell")
    command.want(ScaleWanted(1, "farm", 1))
    await until(lambda: lines(told))
    for total in (2, 3, 4):
        command.want(ScaleWanted(1, "farm", total))
    command.want(ScaleWanted(1, "other", 1, ("x",)))
    command.want(ScaleWanted(1, "other", 0, ("y", "x")))
    go_on.touch()
    await until(lambda: len(lines(told)) == 3)
    await command.stop()
    assert [line.partition(" for")[0] for line in lines(told)] == ["up 1", "up 4", "down x y"]


async def test_nothing_is_begun_for_a_peer_that_leads_no_more(told: Path) -> None:
    go_on = told.with_name("go-on")
    slow = f"while [ ! -e {go_on} ]; do sleep 0.02; done"
    command = ScaleCommand(program(told, slow), "a", "cell")
    command.want(ScaleWanted(1, "farm", 1))
    await until(lambda: lines(told))
    command.want(ScaleWanted(1, "farm", 2))
    command.forget()
    go_on.touch()
    await command.stop()
    assert len(lines(told)) == 1


@pytest.mark.parametrize("then", ["exit 3", "sleep 60 & wait"])
async def test_one_that_fails_or_hangs_is_told_of_and_the_next_is_run(
    told: Path, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    command = ScaleCommand(program(told, then), "a", "cell", time_limit_s=0.5)
    command.want(ScaleWanted(1, "farm", 1))
    await until(lambda: lines(told))
    command.want(ScaleWanted(1, "farm", 2))
    await until(lambda: len(lines(told)) == 2)
    await command.stop()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


async def test_a_peer_without_one_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    command = ScaleCommand(None, "a", "cell")
    for total in (1, 2):
        command.want(ScaleWanted(1, "farm", total))
    await command.stop()
    assert ["--scale-command" in record.message for record in caplog.records] == [True]


async def test_a_program_that_is_not_there_is_an_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ScaleCommand(str(tmp_path / "nothing"), "a", "cell")
    command.want(ScaleWanted(1, "farm", 1, ("a\0b",)))
    await until(lambda: caplog.records)
    await command.stop()
    assert "not run" in caplog.text
