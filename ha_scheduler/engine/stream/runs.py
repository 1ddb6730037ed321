"""Whether what a worker has of a key is of the task that has this name now, or of a former one.

Guarantee: an engine that followed the log and one that was started on the ledger judge alike, for
they judge by ids that are in the records. Ids of runs and graphs come from one counter, so a run
of a task has a higher id than the graph that made the task (``Recorder.next_id``).

- A task that is known was made by the oldest graph that mentions it. A run with a lower id is of a
  task that was let go and had the same name.
- A task that is not known was let go if the run is not above what is known of its leader
  (``ledger/runs.py``). Else its graph may not have committed: what workers have of it is kept until
  its client has resubmitted the graph. That gives the graph an id above those runs; so the record
  of a graph names the tasks of which something was *found*, and since which run it counts.

What a worker fetched from another has no run. It is as new as the last word of its leader that the
worker had heard when it came (``worker/runs.py``): the word that frees a task of before would have
come earlier.
"""

from __future__ import annotations

from ha_scheduler.engine.stream.graphs import GraphTable
from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.ledger.runs import advance, term_of


class RunIds:
    """Judges runs by their ids; ``replay`` and the leader tell what they need to know."""

    def __init__(self, graphs: GraphTable) -> None:
        self._graphs = graphs
        self.known: dict[int, int] = {}  # by term: as in the ledger
        self.found: dict[Key, int] = {}  # of tasks that were resubmitted: the run that counts

    def let_go(self, upto: int) -> None:
        """A record says up to which id its leader knew of all."""
        advance(self.known, upto)

    def lead(self, term: int) -> None:
        """This engine leads: of what it does not know it has let go, whatever has committed."""
        advance(self.known, ((term + 1) << 32) - 1)

    def forget(self, key: Key) -> None:
        """The key is no longer known."""
        self.found.pop(key, None)

    def is_present(self, key: Key, run: int) -> bool:
        """Whether a run is one of the task that has this name now, and not of a former one."""
        since = self.found.get(key)
        return run >= since if since is not None else run > self._graphs.maker_of(key)

    def is_over(self, run: int) -> bool:
        """Whether the task of a run was let go, provided that its key is not known."""
        return run <= self.known.get(term_of(run), -1)
