"""The protocol between a worker and the leading engine, beside upstream's.

A worker joins by ``RegisterWorker``: upstream's registration with ``Joining`` in it. The engine
answers as upstream's, with a ``Welcome`` (``protocol/client.py``); or ``STALE``, with its term, to
a worker that has seen a later one; or ``OTHER_CELL``, with a ``Welcome``. A new leader calls the
workers of its ledger by ``LeaderCalled``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from ha_scheduler.protocol.client import Key
from ha_scheduler.protocol.codec import INT_MAX, CellId, Message, Name, Number, Part, Term, Text

ERROR_BYTES_MAX = 256 * 1024  # of a task's error; a larger one is not kept
METADATA_BYTES_MAX = 256 * 1024  # of one task's; larger metadata ends with its leader
FETCHING = "fetching"  # the state of a computed task that will be reported as a transfer
#: In upstream's ``compute-task``: the subject that has submitted the task, if it has a name.
SUBMITTER = "ha_submitter"
STALE = "stale-leader"  # the status of an answer
OTHER_CELL = "other-cell"  # likewise: what the worker holds is of a cell that this one is not

#: In upstream's metrics of a worker that has a lifetime: it, and what is left of it, in seconds.
LIFETIME, LIFETIME_LEFT = "ha-lifetime", "ha-lifetime-left"

#: The id of a run of a task; -1 for scattered data, or data fetched from another worker.
Run = Annotated[int, Meta(ge=-1, le=INT_MAX)]
Error = Annotated[bytes, Meta(max_length=ERROR_BYTES_MAX)]
Metadata = Annotated[bytes, Meta(max_length=METADATA_BYTES_MAX)]


class Report(Part):
    """The state of a worker at one instant: see ``worker/report.py``."""

    memory: tuple[tuple[Key, Number, str, Run], ...] = ()  # key, bytes, type, run
    running: tuple[tuple[Key, Run, str], ...] = ()  # key, run, state
    erred: tuple[tuple[Key, Error, Run], ...] = ()
    actors: tuple[Key, ...] = ()
    metadata: tuple[tuple[Key, Metadata], ...] = ()
    shuffles: tuple[tuple[str, Number, bool], ...] = ()  # id, run, whether it goes on
    heard: Run = -1  # the highest id of a run that a leader has sent to the worker
    fetched: dict[Key, Run] = field(default_factory=dict)  # ``heard`` at the arrival of each key
    died: tuple[tuple[Key, Run], ...] = ()  # what the former worker of its Nanny died under


class Joining(Part):
    """The additions to upstream's registration of a worker."""

    term: Term  # the highest that the worker has seen
    report: Report
    plugins: dict[str, str]  # name → digest, of plugins that are set up
    cell_id: CellId = ""  # of which cell the worker is, and the term


class RegisterPlainWorker(Message, tag="register-worker"):
    """The fields that we need of upstream's registration of a worker."""

    address: Text
    server_id: Text
    nanny: Text | None


class RegisterWorker(Message, tag="ha-register-worker"):
    """Call: a worker joins. Upstream's other fields are beside these."""

    address: Text
    server_id: Text
    nanny: Text | None
    ha: Joining


class LeaderCalled(Message, tag="ha-leader"):
    """Call of the engine to a worker: it leads now, at this address."""

    term: Term
    address: Text
    leader: Name
    cell_id: CellId = ""


class RunNamed(Message, tag="ha-runs"):
    """On the worker's stream: a run id above all earlier ones."""

    run: Number
