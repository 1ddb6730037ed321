"""Per term, the highest run id at which its leader's releases are known.

Runs and graphs draw their ids from one counter, which begins with the term. So a run has a higher
id than the graph that made its task.

Guarantee: the graph of a run up to its term's id here has committed. If the task of such a run is
unknown, it was released, and its result is of no use. The graph of a higher run may not have
committed, and its client may be about to resubmit it.

Order: the id is a field of each record that releases keys. So a task is never forgotten without its
runs.
"""

from __future__ import annotations

from ha_scheduler.ledger.layout import pack, unpack
from ha_scheduler.ledger.tables import META, Tables

TERMS_MAX = 8  # of which is remembered how far they came, the latest; of others nothing is known

_ROW = b"runs"


def term_of(run: int) -> int:
    return run >> 32


def advance(known: dict[int, int], upto: int) -> None:
    """A release after which its leader had given out no id above ``upto`` (0: unknown)."""
    if upto <= 0:
        return
    term = term_of(upto)
    known[term] = max(known.get(term, 0), upto)
    if len(known) > TERMS_MAX:
        del known[min(known)]


def advance_stored(tables: Tables, upto: int) -> None:
    """As ``advance``, in the ledger."""
    if upto > 0:
        known = load(tables)
        advance(known, upto)
        tables.put(META, _ROW, pack(tuple(sorted(known.items()))))


def load(tables: Tables) -> dict[int, int]:
    """The highest id of each term, by rising terms."""
    row = tables.get(META, _ROW)
    return {} if row is None else dict(unpack(row))
