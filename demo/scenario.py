"""The analysis and what befalls the cell meanwhile: first an engine is killed, then a whole peer.

The work is asked for by one client that knows of nothing. The blows fall when a part of the days
has been reported, so that there is work before, between and after them, whatever the machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from demo import analysis
from demo.data import MONTHS, Tables
from demo.display import Display, Picture
from ha_scheduler import LocalHACluster

POLL_S = 0.1
PEERS_EVERY_S = 1.0  # seconds between two looks at the peers, for the display
ENGINE_DIES_AT, PEER_DIES_AT = 0.15, 0.5  # part of the days that has been reported by then
INTO_THE_SHUFFLE_S = 0.4  # after the question that shuffles was asked
PEER_RETURNS_AFTER_S = 6.0  # long enough to see that two of three carry on
DEADLINE_S = 300.0  # minutes more than it takes; then something hangs
QUESTION_PRIORITY = 10  # before the days, which would otherwise all come first


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that was killed."""

    what: str
    at: float  # wall clock


@dataclass(slots=True)
class Outcome:
    """Everything that came of it."""

    days: dict[tuple[int, int], Any] = field(default_factory=dict)  # (month, day) -> future
    destinations: dict[str, Any] = field(default_factory=dict)  # airport -> future
    answers: dict[str, Any] = field(default_factory=dict)  # title of a question -> future
    parts: list[Any] = field(default_factory=list)  # futures of the months of flights
    blows: list[Blow] = field(default_factory=list)

    def futures(self) -> Iterator[Any]:
        """Every future the analysis holds."""
        for held in (self.days, self.destinations, self.answers):
            yield from held.values()
        yield from self.parts


class Scenario:
    """One run of the analysis against one cluster."""

    def __init__(
        self,
        cluster: LocalHACluster,
        client: Any,
        tables: Tables,
        directory: Path,
        display: Display,
    ) -> None:
        self.outcome = Outcome()
        self._cluster = cluster
        self._client = client
        self._tables = tables
        self._directory = directory
        self._display = display
        self._questions = analysis.questions()
        self._asked = 0
        self._asked_at = 0.0
        self._return_at: float | None = None
        self._return: threading.Thread | None = None
        self._peers: dict[str, str] = {}
        self._peers_at = 0.0
        self._dead: Any = None

    def run(self) -> Outcome:
        """Do it all. Raises ``TimeoutError`` if it does not end."""
        self._submit_days()
        deadline = time.monotonic() + DEADLINE_S
        while not self._over():
            self._ask_next_question()
            self._strike()
            self._bring_back()
            self._show()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the analysis did not end within {DEADLINE_S:g} s")
            time.sleep(POLL_S)
        self._show(force=True)
        return self.outcome

    # -- the work

    def _submit_days(self) -> None:
        paths = [self._directory / "flights" / f"month-{m:02}.parquet" for m in MONTHS]
        self.outcome.parts = self._client.map(analysis.read_part, [str(p) for p in paths])
        days = (
            self._tables.flights[["month", "day"]].drop_duplicates().sort_values(["month", "day"])
        )
        for month, day in days.itertuples(index=False):
            part = self.outcome.parts[month - 1]
            self.outcome.days[month, day] = self._client.submit(analysis.day_report, part, day)
        self._display.event(f"submitted {len(self.outcome.days)} tasks, one for each day of 2013")

    def _submit_destinations(self) -> None:
        for name in sorted(self._tables.flights["dest"].unique()):
            self.outcome.destinations[name] = self._client.submit(
                analysis.destination_report, self.outcome.parts, name
            )
        self._display.event(
            f"submitted {len(self.outcome.destinations)} more tasks while nobody led"
        )

    def _ask_next_question(self) -> None:
        answers = list(self.outcome.answers.values())
        if self._asked == self._may_ask() or (answers and not answers[-1].done()):
            return
        question = self._questions[self._asked]
        frames = [
            analysis.frame(self._directory / name, self._asked, getattr(self._tables, name))
            for name in ("flights", "weather", "planes")
        ]
        future = self._client.compute(question.dask(*frames), priority=QUESTION_PRIORITY)
        self.outcome.answers[question.title] = future
        self._asked += 1
        self._asked_at = time.monotonic()

    def _may_ask(self) -> int:
        """How many questions may have been asked by now: each blow is to hit the last of a join."""
        if len(self.outcome.blows) == 2:
            return len(self._questions)
        due = self._next_blow_is_due()
        return (3, 5)[len(self.outcome.blows)] + due  # the fourth and the sixth join and shuffle

    # -- what befalls

    def _strike(self) -> None:
        blows = self.outcome.blows
        if len(blows) == 2 or not (self._next_blow_is_due() and self._in_the_shuffle()):
            return
        if not blows:
            leader = self._cluster.leader
            blows.append(Blow(f"engine of peer {leader.name}", time.time()))
            leader.kill_engine()
            self._display.event(f"killed the engine of peer {leader.name}, which led (kill -9)")
            self._submit_destinations()
        else:
            self._dead = self._cluster.leader
            blows.append(Blow(f"peer {self._dead.name}", time.time()))
            self._dead.kill()
            self._display.event(f"killed peer {self._dead.name}, which led: daemon and engine")
            self._return_at = time.monotonic() + PEER_RETURNS_AFTER_S

    def _bring_back(self) -> None:
        if self._return_at is None or time.monotonic() < self._return_at:
            return
        self._return_at = None
        self._return = threading.Thread(target=self._restart, name="restart", daemon=True)
        self._return.start()

    def _restart(self) -> None:
        self._dead.restart()
        self._display.event(f"peer {self._dead.name} is back, and follows")

    def _next_blow_is_due(self) -> bool:
        done, of = _done(self.outcome.days)
        return done / of >= (ENGINE_DIES_AT, PEER_DIES_AT)[len(self.outcome.blows)]

    def _in_the_shuffle(self) -> bool:
        """Whether all that may be asked before the blow has been, and the last is on its way."""
        late_enough = time.monotonic() - self._asked_at > INTO_THE_SHUFFLE_S
        return self._asked == self._may_ask() and late_enough

    def _over(self) -> bool:
        return (
            self._asked == len(self._questions)
            and len(self.outcome.blows) == 2
            and self._return is not None
            and not self._return.is_alive()
            and all(future.done() for future in self.outcome.futures())
        )

    # -- what is shown

    def _show(self, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._peers_at > PEERS_EVERY_S:
            self._peers = {peer.name: peer.status for peer in self._cluster.peers}
            self._peers_at = now
        outcome = self.outcome
        open_answers = [t for t, future in outcome.answers.items() if not future.done()]
        self._display.show(
            Picture(
                peers=self._peers,
                progress={
                    "days": _done(outcome.days),
                    "destinations": _done(outcome.destinations),
                    "questions": (_done(outcome.answers)[0], len(self._questions)),
                },
                question=open_answers[0] if open_answers else "",
            )
        )


def _done(futures: Mapping[Any, Any]) -> tuple[int, int]:
    return sum(future.done() for future in futures.values()), len(futures)


def gathered(futures: Mapping[Any, Any]) -> dict[Any, Any]:
    """The results of those that finished; a future that was lost is left out."""
    return {key: f.result() for key, f in futures.items() if f.status == "finished"}


def lost(outcome: Outcome) -> list[str]:
    """The futures that did not finish, with what became of them."""
    return [f"{future.key}: {future.status}" for future in outcome.futures() if not _ok(future)]


def _ok(future: Any) -> bool:
    return bool(future.status == "finished")


def differences(outcome: Outcome, tables: Tables) -> list[str]:
    """What is not as pandas has it on the same data."""
    found: list[str] = []
    answers = gathered(outcome.answers)
    for question in analysis.questions():
        if question.title in answers:
            expected = question.pandas(tables)
            found += _compare(question.title, answers[question.title], expected)
    days = pd.DataFrame.from_dict(gathered(outcome.days), orient="index")
    days.index = pd.MultiIndex.from_tuples(days.index)
    found += _compare("reports of days", days, analysis.all_days(tables))
    destinations = pd.Series(gathered(outcome.destinations)).to_frame("air_time")
    expected = analysis.all_destinations(tables).to_frame("air_time")
    return found + _compare("reports of destinations", destinations, expected)


def _compare(what: str, found: pd.DataFrame, expected: pd.DataFrame) -> list[str]:
    try:
        pd.testing.assert_frame_equal(
            found.sort_index(),
            expected.sort_index(),
            check_dtype=False,
            check_index_type=False,
            check_column_type=False,
            check_names=False,
        )
    except AssertionError as error:
        return [f"{what}: {error}"]
    return []
