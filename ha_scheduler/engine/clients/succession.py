"""Which process has a session that several may know: the one that took it last.

Guarantee: of two processes that attached to one session, or resumed copies of one journal, the
latest has it, under this leader and all later ones. Any other is refused when it registers, so they
do not end each other's streams in turns.

Order: by the moment at which each took the session, by its own clock. Who has never taken one but
begun it is earlier than all. The row is written when the process is welcomed; if it is lost with
its leader, the next one hears the same moment.
"""

from __future__ import annotations

from time import localtime, strftime

from ha_scheduler.engine.stream.tables import Table
from ha_scheduler.engine.stream.transactions import Transactions
from ha_scheduler.errors import SessionTaken

TAKEN = "session-taken"  # client → when its session was taken, in ns since the epoch


class Succession:
    def __init__(self, table: Table[str, int], transactions: Transactions) -> None:
        self._table = table
        self._transactions = transactions

    def check(self, client: str, taken: int) -> None:
        """Raises ``SessionTaken``."""
        latest = self._table.rows.get(client, 0)
        if taken < latest:
            at = strftime("%Y-%m-%d %H:%M:%S", localtime(latest / 1e9))
            raise SessionTaken(
                f"Another process has the session of {client} since {at}, by Client.attach or "
                f"resume. Go on there, or attach here anew."
            )

    def took(self, client: str, taken: int) -> None:
        if taken > self._table.rows.get(client, 0):
            self._transactions.note(self._table.set(client, taken))

    def forget(self, client: str) -> None:
        if client in self._table.rows:
            self._transactions.note(self._table.delete(client))
