"""Up to which run of its tasks each leader had let go of what is no longer known.

A leader draws the ids of its runs and of its graphs from one counter, which begins with its term.
So a run has a higher id than the graph that made its task.

Guarantee: of a run with an id up to that of its term here, the graph has committed. If its task is
not known, it was let go of: what a worker still has of it is of no use to anybody. Of a higher
run nobody can say so: its graph may not have committed, and its client is about to resubmit it.

Order: the id stands in the record that lets go, not in one of its own, so that there is no moment
at which a task is forgotten and its runs are not known to be.
"""

from __future__ import annotations

from ha_scheduler.ledger.layout import pack, unpack
from ha_scheduler.ledger.tables import META, Tables

TERMS_MAX = 8  # of which is remembered how far they came, the latest; of others nothing is known

_ROW = b"runs"


def term_of(run: int) -> int:
    """The term in which a run or a graph was given its id."""
    return run >> 32


def advance(known: dict[int, int], upto: int) -> None:
    """A leader has let go of something, and had given out no id above ``upto`` (0: not said)."""
    if upto <= 0:
        return
    term = term_of(upto)
    known[term] = max(known.get(term, 0), upto)
    if len(known) > TERMS_MAX:
        del known[min(known)]


def let_go(tables: Tables, upto: int) -> None:
    """As ``advance``, of the ledger."""
    if upto > 0:
        known = load(tables)
        advance(known, upto)
        tables.put(META, _ROW, pack(tuple(sorted(known.items()))))


def load(tables: Tables) -> dict[int, int]:
    """By term the highest id that is known of, by rising terms."""
    row = tables.get(META, _ROW)
    return {} if row is None else dict(unpack(row))
