"""``distributed.Queue``: each item is got once, in order.

Guarantee: an item is a row from its ``put`` to the ``get`` that takes it; the record that deletes
the row holds the answer, so a repeated ``get`` has the same item. A future in a queue is wanted by
the queue until whoever got it has confirmed its own desire.

A ``get`` of ``n`` items waits until it has them all, as upstream's, and takes them in one step:
until then they are in its hand here, and rows in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distributed.queues import QueueExtension
from distributed.utils import Deadline

from ha_scheduler.engine.base import SchedulerBase
from ha_scheduler.engine.coordination.futures import Item, item_of, with_state
from ha_scheduler.engine.coordination.key_holds import KeyHolds
from ha_scheduler.engine.coordination.wait_queue import WaitQueue
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.tables import DELETED, Deleted, Table
from ha_scheduler.engine.stream.transactions import Transactions

QUEUES = "queue"  # name → (maxsize, how many clients opened it)
ITEMS = "queue-item"  # (name, number) → item


class LedgerQueue:
    """One queue: its items by rising number, and who waits for an item or for room."""

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.items: dict[int, Item] = {}
        self.in_hand: dict[int, Item] = {}  # of calls that gather a batch; rows still
        self.getters = WaitQueue()
        self.putters = WaitQueue()
        self._last = 0

    def qsize(self) -> int:
        return len(self.items)

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self.items)

    def add(self, item: Item) -> int:
        """Append an item; returns its number."""
        self._last += 1
        self.items[self._last] = item
        return self._last

    def restore(self, number: int, item: Item) -> None:
        """An item of the ledger; a rebuild brings them in any order."""
        self.items[number] = item
        self._last = max(self._last, number)

    def take(self) -> tuple[int, Item]:
        number = next(iter(self.items))
        item = self.in_hand[number] = self.items.pop(number)
        return number, item

    def deliver(self, hand: list[tuple[int, Item]]) -> None:
        """Taken items leave the queue."""
        for number, _ in hand:
            del self.in_hand[number]

    def give_back(self, hand: list[tuple[int, Item]]) -> None:
        """Taken items return to their places."""
        self.deliver(hand)
        self.items = dict(sorted([*hand, *self.items.items()]))


class Queues(QueueExtension):
    scheduler: SchedulerBase

    queues: dict[str, LedgerQueue]
    client_refcount: dict[str, int]

    def __init__(self, scheduler: SchedulerBase) -> None:
        super().__init__(scheduler)
        self._transactions: Transactions = scheduler.transactions
        self._holds = KeyHolds(scheduler, "queue")
        scheduler.handlers["queue_release"] = self.release
        scheduler.calls.present["queue_get"] = self._present
        self._queue_rows = scheduler.tables.add(
            Table(QUEUES, apply=self._apply_queue, settle=self._restore)
        )
        self._item_rows = scheduler.tables.add(Table(ITEMS, apply=self._apply_item))

    # The ledger

    def _apply_queue(self, name: Any, value: tuple[int, int] | Deleted) -> None:
        if value is DELETED:
            self.queues.pop(name, None)
            self.client_refcount.pop(name, None)
            return
        maxsize, self.client_refcount[name] = value
        self._queue(name).maxsize = maxsize

    def _apply_item(self, at: tuple[Any, int], value: Item | Deleted) -> None:
        name, number = at
        queue = self._queue(name)
        if value is DELETED:
            # One that cannot be read here was never in.
            former = queue.items.pop(number, None)
            for key in _keys([former] if former is not None else []):
                self._holds.unname(name, key)
        else:
            queue.restore(number, value)
            for key in _keys([value]):
                self._holds.name(name, key)

    def _queue(self, name: Any) -> LedgerQueue:
        """In a rebuild an item may come before its queue."""
        if name not in self.queues:
            self.queues[name] = LedgerQueue(0)
        return self.queues[name]

    def _restore(self) -> None:
        for queue in self.queues.values():
            queue.items = dict(sorted(queue.items.items()))
        self._holds.restore()

    # Its clients

    def create(self, name: Any = None, client: str | None = None, maxsize: int = 0) -> None:
        """A client opens the queue, the first one creates it."""
        if name not in self.queues:
            self.queues[name] = LedgerQueue(maxsize)
        self._count(name, 1)

    def release(self, name: Any = None, client: str | None = None) -> None:
        """A client closes the queue; the last one deletes it."""
        if name not in self.queues:
            return
        if self.client_refcount[name] > 1:
            self._count(name, -1)
            return
        del self.client_refcount[name]
        queue = self.queues.pop(name)
        rows = {**queue.in_hand, **queue.items}
        gone = [self._item_rows.delete((name, number)) for number in rows]
        self._transactions.write(*gone, self._queue_rows.delete(name))
        for key in _keys(rows.values()):
            self._holds.unname(name, key)

    def _count(self, name: Any, change: int) -> None:
        self.client_refcount[name] = self.client_refcount.get(name, 0) + change
        row = (self.queues[name].maxsize, self.client_refcount[name])
        self._transactions.write(self._queue_rows.set(name, row))

    # Items

    async def put(
        self,
        name: Any = None,
        key: Key | None = None,
        data: Any = None,
        client: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Put an item, when there is room. Raises ``TimeoutError``."""
        deadline = Deadline.after(timeout)
        item = await item_of(self.scheduler, key, data, deadline)
        queue = self.queues[name]
        await queue.putters.turn(lambda: self._put(name, queue, item), deadline)

    def _put(self, name: Any, queue: LedgerQueue, item: Item) -> bool | None:
        if queue.full():
            return None
        for key in _keys([item]):
            self._holds.name(name, key)
        number = queue.add(item)
        self._transactions.write(self._item_rows.set((name, number), item))
        queue.getters.serve()
        return True

    async def get(
        self,
        name: Any = None,
        client: str | None = None,
        timeout: float | None = None,
        batch: bool | int = False,
    ) -> Any:
        """Get an item, all present (``batch=True``), or so many. Raises ``TimeoutError``."""
        queue = self.queues[name]
        if batch is True:
            return self._deliver(name, queue, [queue.take() for _ in range(queue.qsize())], True)
        if batch and timeout is not None:
            raise NotImplementedError(
                "Dask queues don't support simultaneous use of integer batch sizes and timeouts"
            )
        return await self._get(name, queue, batch, Deadline.after(timeout))

    async def _get(self, name: Any, queue: LedgerQueue, batch: int, deadline: Deadline) -> Any:
        hand: list[tuple[int, Item]] = []

        def attempt() -> list[Any] | None:
            before = len(hand)
            while queue.items and len(hand) < (batch or 1):
                hand.append(queue.take())
            if len(hand) > before:
                queue.putters.serve()
            if len(hand) < (batch or 1):
                return None
            taken = hand.copy()
            hand.clear()
            return [self._deliver(name, queue, taken, bool(batch))]

        try:
            return (await queue.getters.turn(attempt, deadline))[0]
        finally:
            if hand:
                queue.give_back(hand)
                queue.getters.serve()

    def _deliver(
        self, name: Any, queue: LedgerQueue, taken: list[tuple[int, Item]], as_list: bool
    ) -> Any:
        """These items leave the queue, as the answer to the call in progress."""
        items = [item for _, item in taken]
        answer = items if as_list else items[0]
        queue.deliver(taken)
        if taken:
            for key in _keys(items):
                self._holds.hand_out(name, key)
            gone = [self._item_rows.delete((name, number)) for number, _ in taken]
            self._transactions.write(*gone, answer=answer)
            for key in _keys(items):
                self._holds.unname(name, key)
            queue.putters.serve()
        return self._present(answer)

    def _present(self, answer: Any) -> Any:
        if isinstance(answer, list):
            return [with_state(self.scheduler, item) for item in answer]
        return with_state(self.scheduler, answer)

    def future_release(self, name: Any = None, key: Any = None, client: str = "") -> None:
        self.scheduler.client_desires_keys(keys=[key], client=client)
        self._holds.confirm(name, key)


def _keys(items: Any) -> Iterator[Key]:
    return (item["value"] for item in items if item["type"] == "Future")
