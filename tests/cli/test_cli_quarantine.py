"""``quarantine``: against peers that answer as real ones do (``test_cli_operate.py``)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_cli_operate import StandInCell, standin, status

from ha_scheduler.protocol.control import (
    CaseDeath,
    Declined,
    Quarantine,
    QuarantinedCase,
    QuarantineRequest,
    ReleaseRequest,
    Taken,
)

__all__ = ["standin"]

DEATHS = (
    CaseDeath("a", 3, True, "SIGSEGV", 1_700_000_000, True),
    CaseDeath("b", 4, True, "exit status 77", 1_700_000_001, True),
)


def case(content: bytes, *, set_aside: bool = True) -> QuarantinedCase:
    deaths = DEATHS if set_aside else DEATHS[:1]
    return QuarantinedCase(content, "graph", "of x", "Client-1", "s", 7, set_aside, deaths)


ASIDE, SUSPECT = case(b"\x12" * 16), case(b"\x34" * 16, set_aside=False)


class Cell:
    """Peer a leads; what it says of the quarantine follows what it is asked for."""

    def __init__(self, cell: StandInCell) -> None:
        self.cell = cell
        self.cases: list[QuarantinedCase] = [ASIDE, SUSPECT]
        self.declines = ""
        cell.lead("a", 5)
        for peer in cell:
            peer.answer = lambda request, usual=peer.answer: self._answer(request, usual)

    def _answer(self, request: Any, usual: Any) -> Any:
        match request:
            case QuarantineRequest():
                return Quarantine(tuple(self.cases))
            case ReleaseRequest() if self.declines:
                return Declined(self.declines)
            case ReleaseRequest(content):
                self.cases = [each for each in self.cases if each.content != content]
                return Taken()
        return usual(request)

    def run(self, *arguments: str) -> Any:
        return self.cell.run("quarantine", *arguments)


@pytest.fixture
def cell(standin: StandInCell) -> Cell:
    standin.run = lambda command, *rest: _run(standin, [command, *rest])  # type: ignore[method-assign]
    return Cell(standin)


def _run(standin: StandInCell, arguments: list[str]) -> Any:
    from click.testing import CliRunner

    from ha_scheduler.cli.main import main

    tls = ["--peers", standin.cell.text, "--tls-dir", str(standin.directory), "--timeout", "5"]
    return CliRunner().invoke(main, [*arguments, *tls])


def test_the_list_says_what_ended_which_engines_and_what_is_suspected(cell: Cell) -> None:
    table = cell.run("list").stdout
    for part in ("121212121212", "graph of x", "Client-1", "set aside", "suspected"):
        assert part in table
    assert "b: exit status 77" in table
    listed = json.loads(cell.run("list", "--format", "json").stdout)
    assert [each["content"] for each in listed] == ["12" * 16, "34" * 16]


def test_an_empty_quarantine_says_so(cell: Cell) -> None:
    cell.cases = []
    assert "No scheduler has ended" in cell.run("list").stdout


def test_one_is_shown_by_the_begin_of_its_id(cell: Cell) -> None:
    shown = json.loads(cell.run("show", "34").stdout)
    assert (shown["content"], shown["set_aside"]) == ("34" * 16, False)


@pytest.mark.parametrize("begin", ["56", ""])
def test_an_id_that_names_none_or_several_is_the_operators_mistake(cell: Cell, begin: str) -> None:
    result = cell.run("release", begin)
    assert result.exit_code == 2
    assert "quarantine list" in result.output
    assert len(cell.cases) == 2


def test_a_release_is_asked_of_the_leader_with_a_peers_certificate(cell: Cell) -> None:
    result = cell.run("release", "12")
    assert (result.exit_code, result.stdout) == (0, "graph of x is read again.\n")
    asked = [seen for seen in cell.cell.peers["a"].seen if isinstance(seen[1], ReleaseRequest)]
    assert asked == [("peer", ReleaseRequest(ASIDE.content))]
    assert cell.cases == [SUSPECT]


def test_a_refused_release_says_why(cell: Cell) -> None:
    cell.declines = "this takes the certificate of a peer"
    result = cell.run("release", "12")
    assert result.exit_code == 1
    assert "this takes the certificate of a peer" in result.output


def test_the_status_names_what_is_set_aside(cell: Cell) -> None:
    said = "graph of x of Client-1: SIGSEGV on a (term 3)"
    peers = cell.cell.cell.peers
    leading = status("a", "leader", 5, "a", peers=peers, applied=9, set_aside=(said,))
    cell.cell.peers["a"].answer = lambda request: leading
    result = cell.cell.run("status")
    assert said in result.stdout
    assert "quarantine list" in result.stdout
