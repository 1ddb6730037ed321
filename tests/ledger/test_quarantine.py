"""The quarantine: what two engines ended of is set aside, and nothing else."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ha_scheduler.ledger import encoding, quarantine
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.quarantine import CASES_MAX, Cases
from ha_scheduler.ledger.rebuild import digest, rebuild
from ha_scheduler.protocol.engine import Exposure
from tests.twins.tables import MemoryTables

A, B, C = (Exposure(name * 16, "graph", "of x", "alice", "s", 1) for name in (b"a", b"b", b"c"))


def ended(number: int, *exposures: Exposure, peer: str = "a") -> r.EngineEnded:
    return r.EngineEnded(number, peer, number, True, "SIGSEGV", number, exposures)


def cases_of(history: list[Any]) -> Cases:
    cases = Cases()
    for record in history:
        cases.apply(record)
    return cases


def aside(history: list[Any]) -> set[Exposure]:
    return {case.exposure for case in cases_of(history) if case.set_aside}


def test_what_two_engines_ended_of_is_set_aside_and_one_death_is_an_accident() -> None:
    assert aside([ended(1, A)]) == set()
    assert aside([ended(1, A), ended(2, A, peer="b")]) == {A}


def test_one_death_that_is_told_twice_is_one() -> None:
    assert aside([ended(1, A), ended(1, A)]) == set()


def test_what_was_never_tried_alone_is_never_set_aside() -> None:
    together = [ended(number, A, B) for number in range(1, 9)]
    assert aside(together) == set()
    assert aside([*together, ended(9, B)]) == {B}, "and the next that dies alone is to blame"


def test_a_released_content_begins_anew() -> None:
    history = [ended(1, A), ended(2, A), r.CaseReleased(A.content)]
    assert list(cases_of(history)) == []
    assert aside([*history, ended(3, A)]) == set()
    assert aside([*history, ended(3, A), ended(4, A)]) == {A}


def test_the_reason_names_the_signal_the_peers_and_the_terms() -> None:
    (case,) = cases_of([ended(3, A), ended(4, A, peer="b")])
    assert case.reason == "SIGSEGV on a (term 3), SIGSEGV on b (term 4)"


def test_beyond_the_bound_suspects_go_before_what_is_set_aside() -> None:
    history = [ended(1, A), ended(2, A)]
    crowd = [Exposure(n.to_bytes(16, "big"), "graph", "of y") for n in range(CASES_MAX)]
    history += [ended(10 + n, each) for n, each in enumerate(crowd)]
    kept = list(cases_of(history))
    assert len(kept) == CASES_MAX
    assert kept[0].exposure == A
    assert kept[0].set_aside
    assert kept[1].exposure == crowd[1], "the oldest suspect went"


def test_the_bound_holds_for_what_is_set_aside_as_well() -> None:
    crowd = [Exposure(n.to_bytes(16, "big"), "graph", "of y") for n in range(CASES_MAX + 3)]
    history = [ended(10 * n + d, each) for n, each in enumerate(crowd, 1) for d in (1, 2)]
    kept = list(cases_of(history))
    assert [case.exposure for case in kept] == crowd[3:], "and a new one still finds room"


_deaths = st.builds(
    ended, st.integers(1, 6), st.sampled_from([A, B, C]), peer=st.sampled_from("abc")
) | st.builds(
    lambda number, open: r.EngineEnded(number, "a", number, False, "exit status 1", 1, open),
    st.integers(1, 6),
    st.sampled_from([(A, B), (B, C), (A, B, C)]),
)
_history = st.lists(
    _deaths | st.sampled_from([A, B, C]).map(lambda e: r.CaseReleased(e.content)), max_size=20
)


@given(_history)
def test_nothing_is_set_aside_without_two_deaths_one_of_them_alone(history: list[Any]) -> None:
    for exposure in aside(history):
        since = 0
        for at, record in enumerate(history):
            if record == r.CaseReleased(exposure.content):
                since = at + 1
        ends = [e for e in history[since:] if isinstance(e, r.EngineEnded) and exposure in e.open]
        assert len({e.id for e in ends}) >= 2
        assert any(len(e.open) == 1 for e in ends)


@given(_history)
def test_who_dies_of_one_content_alone_costs_two_engines_whatever_came_before(
    history: list[Any],
) -> None:
    assert A in aside([*history, ended(101, A), ended(102, A)])


@given(_history)
def test_the_ledger_and_the_engine_and_a_rebuilt_ledger_agree(history: list[Any]) -> None:
    tables, again = MemoryTables(), MemoryTables()
    for index, record in enumerate(history, 1):
        fold(tables, index, 1, encoding.encode(record))
    for index, data in enumerate(rebuild(tables), 1):
        fold(again, index, 1, data)
    assert list(quarantine.scan(tables)) == list(cases_of(history))
    assert digest(again) == digest(tables)
