"""Goal: an engine that replays a rebuild knows the tasks that the leader knows, each wanted alike.

Method: a toy engine with Dask's rules (a task lives while somebody wants it or a living task needs
it; a graph may refer to tasks of earlier ones; a graph implies its client's desires) plays the
leader and writes records; a second one replays the rebuild of the folded ledger. The rebuild must
keep the order of the log: regrouped by graph, it fails here at once.

While an engine replays a rebuild it forgets no task; it does so once at the end (``caught_up``).
What kept a task alive for a while may be a graph that has been retired since and is not replayed.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgpack
import pytest

from ha_scheduler.ledger import desires, encoding
from ha_scheduler.ledger import records as r
from ha_scheduler.ledger.fold import fold
from ha_scheduler.ledger.rebuild import rebuild
from tests.twins.tables import MemoryTables

CLIENTS = ("alice", "bob", "queue-q")


class Engine:
    """Tasks, who wants them, and which graph mentions them."""

    def __init__(self, *, replaying: bool = False) -> None:
        self.replaying = replaying
        self.needs: dict[bytes, set[bytes]] = {}
        self.wants: dict[bytes, set[str]] = {}
        self.graph: dict[bytes, int] = {}
        self.mentions: dict[int, set[bytes]] = {}
        self.scattered: set[bytes] = set()

    def submit(self, graph: int, client: str, dsk: dict[bytes, list[bytes]], keys: Any) -> None:
        dsk = dict(dsk)
        while lost := [
            k for k, need in dsk.items() if not set(need) <= self.needs.keys() | dsk.keys()
        ]:
            for key in lost:
                del dsk[key]
        for key, need in dsk.items():
            self.needs[key] = set(need)
            self.graph[key] = graph
        self.mentions[graph] = set(dsk)
        self.desire(client, [key for key in keys if key in dsk])

    def scatter(self, client: str, keys: Any) -> None:
        for key in keys:
            self.needs.setdefault(key, set())
            self.scattered.add(key)
        self.desire(client, keys)

    def desire(self, client: str, keys: Any) -> None:
        for key in keys:
            if key in self.needs:
                self.wants.setdefault(key, set()).add(client)

    def release(self, client: str, keys: Any) -> tuple[list[int], list[bytes]]:
        """Retired graphs and forgotten scattered keys."""
        for key in keys:
            self.wants.get(key, set()).discard(client)
        return ([], []) if self.replaying else self.forget()

    def caught_up(self) -> None:
        self.replaying = False
        self.forget()

    def forget(self) -> tuple[list[int], list[bytes]]:
        retired: list[int] = []
        forgotten: list[bytes] = []
        while dead := [k for k in self.needs if not self.wants.get(k) and not self._needed(k)]:
            for key in dead:
                del self.needs[key]
                forgotten += [key] if key in self.scattered else []
                self.scattered.discard(key)
                graph = self.graph.pop(key, 0)
                self.mentions.get(graph, set()).discard(key)
                if graph and not self.mentions[graph]:
                    retired.append(graph)
        return retired, forgotten

    def _needed(self, key: bytes) -> bool:
        return any(key in need for need in self.needs.values())

    def state(self) -> dict[bytes, tuple[set[str], set[bytes], int, bool]]:
        return {
            key: (self.wants.get(key, set()), need, self.graph.get(key, 0), key in self.scattered)
            for key, need in self.needs.items()
        }

    def replay(self, record: Any) -> None:
        match record:
            case r.GraphSubmitted():
                dsk, keys = msgpack.unpackb(record.payload, use_list=False)
                self.submit(record.graph, record.client, dsk, keys)
            case r.Desired():
                self.desire(record.client, record.keys)
            case r.Released():
                self.release(record.client, record.keys)
            case r.ClientLeft(client):
                self.release(client, list(self.needs))
            case r.Scattered():
                self.scatter(record.client, record.keys)
            case _:
                raise TypeError(record)


class Leader:
    """An engine that writes down what it does."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.engine = Engine()
        self.log: list[Any] = []
        self.graphs = 0

    def step(self) -> None:
        known = sorted(self.engine.needs)
        moves = [self.submit, self.scatter]
        if known:
            moves += [self.desire, self.release, self.release, self.leave]
        self.random.choice(moves)()

    def keys(self, known: bool, least: int = 1, pool: bytes = b"ks") -> list[bytes]:
        names = [b"%c%d" % (kind, n) for kind in pool for n in range(8)]
        fit = [key for key in names if (key in self.engine.needs) is known]
        count = min(len(fit), self.random.randint(least, 3))
        return self.random.sample(fit, count)

    def client(self) -> str:
        return self.random.choice(CLIENTS)

    def submit(self) -> None:
        new = self.keys(known=False, pool=b"k")
        if new:
            self.graphs += 1
            earlier = self.keys(known=True, least=0)
            dsk = {key: [*earlier, *new[:n]] for n, key in enumerate(new)}
            wanted, graph, client = new[-1:], (1 << 32) | self.graphs, self.client()
            payload = bytes(msgpack.packb((dsk, wanted)))
            self.log.append(r.GraphSubmitted(graph, client, "", 0, payload, 0, 0))
            self.engine.submit(graph, client, dsk, wanted)

    def scatter(self) -> None:
        new, client = self.keys(known=False, pool=b"s"), self.client()
        if new:
            self.log.append(r.Scattered(client, tuple(new)))
            self.engine.scatter(client, new)

    def desire(self) -> None:
        client = self.client()
        for key in self.keys(known=True):
            self.log.append(r.Desired(self.engine.graph.get(key, 0), client, (key,)))
            self.engine.desire(client, [key])

    def release(self) -> None:
        client = self.client()
        for key in self.keys(known=True):
            if client in self.engine.wants.get(key, set()):
                self.log.append(r.Released(self.engine.graph.get(key, 0), client, (key,)))
                self.ended(self.engine.release(client, [key]))

    def leave(self) -> None:
        client = self.client()
        self.log.append(r.ClientLeft(client))
        self.ended(self.engine.release(client, list(self.engine.needs)))

    def ended(self, what: tuple[list[int], list[bytes]]) -> None:
        graphs, scattered = what
        if scattered:
            self.log.append(r.ScatteredForgotten(tuple(scattered)))
        if graphs:
            self.log.append(r.GraphsRetired(tuple(graphs)))


@pytest.mark.parametrize("slack_bytes", [0, desires.SLACK_BYTES])
@pytest.mark.parametrize("seed", range(150))
def test_replaying_a_rebuild_leads_to_the_leaders_tasks_and_desires(
    slack_bytes: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = Leader(Random(seed))
    for _ in range(2 + seed // 2):
        leader.step()
    monkeypatch.setattr(desires, "SLACK_BYTES", slack_bytes)
    tables = MemoryTables()
    for index, record in enumerate(leader.log, start=1):
        fold(tables, index, 1, encoding.encode(record))
    follower = Engine(replaying=True)
    for data in rebuild(tables):
        follower.replay(encoding.decode(data))
    follower.caught_up()
    assert follower.state() == leader.engine.state()


def test_a_cell_that_has_let_go_of_everything_replays_nothing() -> None:
    tables = MemoryTables()
    payload = bytes(msgpack.packb(({b"a": []}, [b"a"])))
    history: list[Any] = []
    for n in range(1, 200):
        graph = (1 << 32) | n
        history += [r.GraphSubmitted(graph, "alice", "", 0, payload, 0, 0)]
        history += [r.Released(graph, "alice", (b"a",)), r.GraphsRetired((graph,))]
    for index, record in enumerate(history, start=1):
        fold(tables, index, 1, encoding.encode(record))
    assert list(rebuild(tables)) == []
