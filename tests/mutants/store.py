"""Seeded bugs of the store and of the driver, which turns the core's decisions into writes.

As those of the core (``tests/raft/mutants.py``): small edits of the source, each of which breaks
one promise. An edit whose text is no longer found fails: it must follow the source.
"""

from __future__ import annotations

from functools import partial

from .mutant import Mutant

_store = partial(Mutant, package="storage")
_driver = partial(Mutant, module="driver.py", package="peer/consensus")

STORE_MUTANTS = (
    _store(
        "an entry is believed without its checksum",
        "schema.py",
        "if crc32c(row[CRC_BYTES:], crc32c(index_key(index))) != crc:",
        "if False:",
    ),
    _store(
        "a row of the ledger is believed without its checksum",
        "schema.py",
        "if len(row) < CRC_BYTES or _CRC.unpack_from(row)[0] != crc32c(value, crc32c(key)):",
        "if len(row) < CRC_BYTES:",
    ),
    _store(
        "an entry of another history is believed",
        "schema.py",
        "if before is not None and chained != before:",
        "if False:",
    ),
    _store(
        "a hole in the log is skipped",
        "log_table.py",
        """            if key_index(cursor.key()) != index:
                raise CorruptLog(dbs.path, index, "it is missing")
            entry,""",
        "            entry,",
    ),
    _store(
        "a log that ends early reads as short",
        "log_table.py",
        "if not found or found[-1].index + 1 < hi:",
        "if False:",
    ),
    _store(
        "rows are not counted at open",
        "log_table.py",
        'if int(txn.stat(dbs.log)["entries"]) != last - compacted.index:',
        "if False:",
    ),
    _store(
        "a truncation keeps one entry too many",
        "log_table.py",
        "for index in range(first, self._last_index + 1):",
        "for index in range(first + 1, self._last_index + 1):",
    ),
    _store(
        "a replaced suffix chains to what it replaced",
        "log_table.py",
        "            _, self._last_crc = read_entry(txn, self._dbs, self._last_index)\n",
        "            pass\n",
    ),
    _store(
        "compaction takes one entry too many",
        "log_table.py",
        "for index in range(self._compacted.index + 1, to + 1):",
        "for index in range(self._compacted.index + 1, to + 2):",
    ),
    _store(
        "compaction loses the crc of the last row",
        "log_table.py",
        "Compacted(to, entry.term, crc))",
        "Compacted(to, entry.term, CHAIN_START))",
    ),
    _store(
        "compaction does not end",
        "log_table.py",
        "return self._compacted.index >= self._compact_to",
        "return True",
    ),
    _store(
        "a snapshot leaves the rows of the old log",
        "log_table.py",
        "        txn.drop(self._dbs.log, delete=False)\n",
        "",
    ),
    _store(
        "after a snapshot the chain goes on from the old log",
        "log_table.py",
        "self._last_index, self._last_crc = meta.index, CHAIN_START",
        "self._last_index = meta.index",
    ),
    _store(
        "a snapshot does not restart the log",
        "transactional.py",
        "            self._log.restart(txn, batch.snapshot.meta)\n",
        "",
    ),
    _store(
        "a snapshot does not bring its ledger",
        "transactional.py",
        "            self._slot = use_staged(txn, self._dbs, self._slot)\n",
        "",
    ),
    _store(
        "the ledger is the sent one before the log is",
        "transactional.py",
        "                stage(self._dbs, 1 - self._slot, batch.snapshot.chunks)\n",
        "                stage(self._dbs, self._slot, batch.snapshot.chunks)\n",
    ),
    _store(
        "which ledger is in use is forgotten",
        "staging.py",
        "    put_fields(txn, dbs.peer, LEDGER, (slot,))\n",
        "",
    ),
    _store(
        "the hard state has a transaction of its own",
        "transactional.py",
        """        with self._dbs.env.begin(write=True) as txn:
            for batch in group:
""",
        """        for early in group:
            if early.hard_state is not None:
                state = early.hard_state
                with self._dbs.env.begin(write=True) as txn:
                    fields = (state.term, state.vote, state.commit)
                    put_fields(txn, self._dbs.peer, HARD_STATE, fields)
        with self._dbs.env.begin(write=True) as txn:
            for batch in group:
""",
    ),
    _store(
        "the hard state is not written",
        "transactional.py",
        "put_fields(txn, self._dbs.peer, HARD_STATE, (state.term, state.vote, state.commit))",
        "pass",
    ),
    _store(
        "the vote is not written",
        "transactional.py",
        "(state.term, state.vote, state.commit)",
        "(state.term, 0, state.commit)",
    ),
    _store(
        "the applied index is ahead of the fold",
        "transactional.py",
        "fold_entries(self._tables(txn), batch.apply, ",
        "fold_entries(self._tables(txn), batch.apply[:-1], ",
    ),
    _store(
        "the applied index stays behind the fold",
        "transactional.py",
        "            self._put_applied(txn, applied_after(batch, self._applied))\n",
        "            self._applied = applied_after(batch, self._applied)\n",
    ),
    _store(
        "a group is written newest first",
        "transactional.py",
        "            for batch in group:\n                self._write",
        "            for batch in reversed(group):\n                self._write",
    ),
    _store(
        "a term older than the log is believed",
        "transactional.py",
        "if hard_state.term < last_term:",
        "if False:",
    ),
    _store(
        "an applied index beyond the log is believed",
        "transactional.py",
        "if not compacted.index <= self._applied.index <= last:",
        "if False:",
    ),
    _store(
        "a batch is settled when it is submitted",
        "settled.py",
        "        self._pending.append(batch)\n",
        "        self._view.settle(batch)\n",
    ),
    _store(
        "one batch too many is settled",
        "settled.py",
        "self._pending[0].number <= number:",
        "self._pending[0].number <= number + 1:",
    ),
    _store(
        "entries above the settled index are read",
        "log_view.py",
        "if hi > self._last + 1:",
        "if False:",
    ),
    _store(
        "compaction past the applied index is taken",
        "port.py",
        "assert batch.compact_to <= self._applied,",
        "assert True,",
    ),
    _store(
        "applied entries may be replaced",
        "port.py",
        "assert self._applied < first <= self._last + 1, (",
        "assert first <= self._last + 1, (",
    ),
    _store(
        "a batch is reported before it is durable",
        "writer.py",
        """            if self._failure is None:
                self._try_commit(group)
            for batch in group:
                self._on_durable(batch.number, self._failure)
""",
        """            for batch in group:
                self._on_durable(batch.number, self._failure)
            if self._failure is None:
                self._try_commit(group)
""",
    ),
    _store(
        "a batch is reported twice",
        "writer.py",
        "                self._on_durable(batch.number, self._failure)\n",
        "                self._on_durable(batch.number, self._failure)\n" * 2,
    ),
    _store(
        "only the last batch of a group is reported",
        "writer.py",
        "            for batch in group:\n                self._on_durable",
        "            for batch in group[-1:]:\n                self._on_durable",
    ),
    _store(
        "a failed commit is tried again",
        "writer.py",
        "        except Exception as error:  # any error of a commit ends the process\n"
        "            self._failure = error\n",
        "        except Exception:\n            self._commit(group)\n",
    ),
    _store(
        "after a failed commit the writing goes on",
        "writer.py",
        "            if self._unreported:\n",
        "            self._failure = None\n            if self._unreported:\n",
    ),
    _store(
        "the newest batch is written first",
        "writer.py",
        "batch = self._queue.popleft()",
        "batch = self._queue.pop()",
    ),
    _store(
        "what is queued is lost when the store is closed",
        "writer.py",
        "            if not self._queue and not self._unreported:\n                return None\n",
        "            if self._closing:\n                return None\n",
    ),
    _store(
        "the queue has no bound",
        "writer.py",
        "        if self._queue and (len(self._queue)",
        "        if False and (len(self._queue)",
    ),
    _store(
        "a directory of another peer is opened",
        "environment.py",
        "if (found_cell, found_peer) != (cell, peer):",
        "if False:",
    ),
    _store(
        "a newer format is opened",
        "environment.py",
        "if found is not None and found[0] > FORMAT_VERSION:",
        "if False:",
    ),
    _store(
        "known damage is forgotten",
        "environment.py",
        "if (damage := directory.damage()) is not None:",
        "if (damage := directory.damage()) is None and damage:",
    ),
    _store(
        "commits are not synced",
        "environment.py",
        "            sync=True,\n",
        "            sync=False,\n",
    ),
    _store(
        "the reserve is never released",
        "environment.py",
        "        directory.release_reserve()\n",
        "",
    ),
    _store(
        "two processes may open one directory",
        "directory.py",
        "            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
    ),
    _driver(
        "what waits for the disk leaves at once",
        before="        self._send(ready.messages)\n",
        after="        self._send(ready.messages + ready.messages_after_persist)\n",
    ),
    _driver(
        "a completion counts for what comes after it",
        before="            if item.ready.number > number:\n",
        after="            if False:\n",
    ),
    _driver(
        "an answer overtakes the write before it",
        before="        while self._in_flight and self._in_flight[0].durable and not "
        "self._stopped:\n            ready = self._in_flight.popleft().ready\n",
        after="        for item in [item for item in self._in_flight if item.durable]:\n"
        "            self._in_flight.remove(item)\n"
        "            ready = item.ready\n",
    ),
    _driver(
        "the reader does not see what is durable",
        before="        self._store.settle(number)\n",
        after="",
    ),
    _driver(
        "the core hears of the disk before the reader does",
        before="        self._store.settle(number)\n"
        "        for item in self._in_flight:\n"
        "            if item.ready.number > number:\n"
        "                break\n"
        "            item.durable = True\n"
        "        try:\n"
        "            self._complete()\n",
        after="        for item in self._in_flight:\n"
        "            if item.ready.number > number:\n"
        "                break\n"
        "            item.durable = True\n"
        "        try:\n"
        "            self._complete()\n"
        "            self._store.settle(number)\n",
    ),
    _driver(
        "an error of the store is not fatal",
        before="        if error is not None:\n            self._fail(error)\n            return\n",
        after="        if error is not None:\n            return\n",
    ),
    _driver(
        "a driver that failed goes on",
        before="            self._stopped = True\n            self._events.on_fatal(error)\n",
        after="            self._events.on_fatal(error)\n",
    ),
    _driver(
        "messages leave before a lost leadership takes effect",
        before="        if ready.soft_state is not None:\n"
        "            self._timed = None  "
        "# what another leader commits says nothing of our proposals\n"
        "            self._events.on_soft_state(ready.soft_state)\n"
        "        self._send(ready.messages)\n",
        after="        self._send(ready.messages)\n"
        "        if ready.soft_state is not None:\n"
        "            self._timed = None  "
        "# what another leader commits says nothing of our proposals\n"
        "            self._events.on_soft_state(ready.soft_state)\n",
    ),
    _driver(
        "ticks that were due count after a message",
        before="        self._advance_clock()\n        try:\n            self.node.step(message)\n",
        after="        try:\n"
        "            self.node.step(message)\n"
        "            self._advance_clock()\n",
    ),
    _driver(
        "all ticks missed in a freeze are made up for",
        before="        if due > CATCH_UP_TICKS_MAX:\n",
        after="        if False:\n",
    ),
    _driver(
        "batches in flight have no bound",
        before="                if len(self._in_flight) >= IN_FLIGHT_MAX:\n",
        after="                if False:\n",
    ),
)
