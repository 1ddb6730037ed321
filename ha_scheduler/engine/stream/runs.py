"""Whether a worker's result belongs to the present task of its key, or to a former one.

Guarantee: an engine that followed the log and one that was rebuilt decide alike, by ids that are in
the records. Runs and graphs draw their ids from one counter, so a task's run has a higher id than
the graph that made the task (``Recorder.next_id``).

- The task of a known key was made by the oldest graph that mentions it; a run with a lower id is of
  a former task.
- The task of an unknown key was released if the run is not above its leader's ids in
  ``ledger/runs.py``. Otherwise its graph may not have committed: workers keep their results until
  the client has resubmitted it. The resubmitted graph has a higher id than those runs, so its
  record names the tasks that were *found*, and their oldest valid run.

A result fetched from another worker has no run. It counts as the last id that the worker had heard
of before (``worker/runs.py``): a ``free-keys`` for a former task would have come earlier.
"""

from __future__ import annotations

from ha_scheduler.engine.stream.graphs import GraphTable
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.ledger.runs import advance, term_of


class RunIds:
    """What the records and the leader tell of run ids."""

    def __init__(self, graphs: GraphTable) -> None:
        self._graphs = graphs
        self.known: dict[int, int] = {}  # by term: as in the ledger
        self.found: dict[Key, int] = {}  # of tasks that were resubmitted: the run that counts

    def advance(self, upto: int) -> None:
        """A record says up to which id its leader knew of all."""
        advance(self.known, upto)

    def lead(self, term: int) -> None:
        """This engine leads: every key that it does not know was released."""
        advance(self.known, ((term + 1) << 32) - 1)

    def forget(self, key: Key) -> None:
        self.found.pop(key, None)

    def is_present(self, key: Key, run: int) -> bool:
        """Whether the run is of the present task of a known key."""
        since = self.found.get(key)
        return run >= since if since is not None else run > self._graphs.maker_of(key)

    def is_over(self, run: int) -> bool:
        """Whether the task of the run was released, if its key is unknown."""
        return run <= self.known.get(term_of(run), -1)
