"""What a worker and the engine that leads say to each other, beside what upstream's say.

A worker joins by ``register-worker`` of upstream's under a name of ours, with ``Joining`` in it.
The engine answers as upstream's does, with a ``Welcome`` (``protocol/client.py``); or ``STALE``,
with its term, to a worker that has seen a later one. A new leader calls the workers that its ledger
names by ``LeaderCalled``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from ha_scheduler.protocol.client import Key
from ha_scheduler.protocol.codec import INT_MAX, Message, Name, Number, Part, Text

ERROR_BYTES_MAX = 256 * 1024  # of a task's error, which is for people; a larger one is not kept
METADATA_BYTES_MAX = 256 * 1024  # of one task's; larger metadata ends with its leader
FETCHING = "fetching"  # the state of a task that is computed, and will be told of as a transfer
STALE = "stale-leader"  # the status of an answer

#: The id of a run of a task; -1 for what was scattered or fetched from another worker.
Run = Annotated[int, Meta(ge=-1, le=INT_MAX)]
Error = Annotated[bytes, Meta(max_length=ERROR_BYTES_MAX)]
Metadata = Annotated[bytes, Meta(max_length=METADATA_BYTES_MAX)]


class Report(Part):
    """All that a worker has and does, at one instant: see ``worker/report.py``."""

    memory: tuple[tuple[Key, Number, str, Run], ...] = ()  # key, bytes, type, run
    running: tuple[tuple[Key, Run, str], ...] = ()  # key, run, state
    erred: tuple[tuple[Key, Error, Run], ...] = ()
    actors: tuple[Key, ...] = ()
    metadata: tuple[tuple[Key, Metadata], ...] = ()
    shuffles: tuple[tuple[str, Number, bool], ...] = ()  # id, run, whether it goes on
    heard: Run = -1  # the highest id of a run that a leader has named to the worker
    fetched: dict[Key, Run] = field(default_factory=dict)  # what had been named when it came


class Joining(Part):
    """What our registration of a worker has more than upstream's."""

    term: Number  # the highest that the worker has seen
    report: Report
    plugins: dict[str, str]  # name → digest of those that were set up


class RegisterPlainWorker(Message, tag="register-worker"):
    """What we rely on in upstream's registration of a worker."""

    address: Text
    server_id: Text
    nanny: Text | None


class RegisterWorker(Message, tag="ha-register-worker"):
    """Call: a worker joins. Upstream's other fields stand beside these."""

    address: Text
    server_id: Text
    nanny: Text | None
    ha: Joining


class LeaderCalled(Message, tag="ha-leader"):
    """Call of the engine to a worker: it leads now, and is served at this address."""

    term: Number
    address: Text
    leader: Name


class RunNamed(Message, tag="ha-runs"):
    """On the worker's stream: an id that is above all that were given out before."""

    run: Number
