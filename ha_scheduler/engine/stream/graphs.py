"""Graphs in the event stream, and the keys of each graph.

Guarantee: an engine that replays a graph makes the same tasks, priorities and span as the leader
that recorded it. If ``key_digest`` shows a difference, that engine ends rather than stand by with
another state.

The payload of a plain low-level graph is the client's bytes as they arrived: materialising is
deterministic and recording costs one copy. Any other expression is recorded as the leader
materialised it, because some draw random keys (dask/dataframe/dask_expr/_shuffle.py,
``DiskShuffle``).

A graph is retired when none of its keys is known. Desires and releases of a key are filed under the
latest graph that mentions it: graphs rebuild in the order of their ids, so a later graph's implied
desire cannot undo a later release. When such a key is forgotten while an older graph with it lives
on, a ``Forgotten`` withdraws the older one's implied desire. A rebuild would bring that desire back
otherwise, after the latest graph and all that is filed under it were retired.
"""

from __future__ import annotations

import pickle  # nosec B403
import re
import struct
from collections.abc import Collection, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distributed.protocol.pickle import dumps, loads
from distributed.utils import nbytes

from ha_scheduler.engine.exposures import Exposures, digest, short_name
from ha_scheduler.engine.stream.keys import Key, pack_keys, unpack_keys
from ha_scheduler.protocol.engine import Exposure

DRAWN_BYTES_MAX = 1024 * 1024  # of a graph that a user sends again by hand
_TAIL_BYTES = 96
_UUID_CHARS = 36
_DRAWN = re.compile(rb"[0-9a-f]{32}")

_LENGTH = struct.Struct(">I")  # of the keys, before them


class ReplayDivergedError(Exception):
    """Local: this engine made other tasks of a graph than the leader.

    All peers must run the same versions of Python, Dask and the user's packages.
    """


@dataclass(slots=True)
class GraphRequest:
    """One ``update-graph`` on its way through the leader."""

    session: str
    sequence: int
    header: dict[str, Any]
    frames: list[Any]
    exposure: Exposure
    exposures: Exposures
    patience_s: float  # for what is to be done next with so much
    materialised: bytes | None = None
    recorded: bool = False

    @property
    def size(self) -> int:
        """Bytes in the ledger, but for what is decided about it here."""
        return (
            sum(map(nbytes, self.frames)) if self.materialised is None else len(self.materialised)
        )


#: The request that the running task handles; ``offload`` hands it to the materialising thread.
current_request: ContextVar[GraphRequest | None] = ContextVar("current_request", default=None)


def key_digest(keys: Iterable[Key]) -> int:
    """An order-free digest of a set of keys; all engines of a cell share one PYTHONHASHSEED."""
    return sum(map(hash, keys)) & 0xFFFF_FFFF_FFFF_FFFF


def encode_graph(request: GraphRequest, keys: Iterable[Key], decisions: dict[str, Any]) -> bytes:
    """The payload of ``GraphSubmitted``: the keys it was asked for, the graph, the decisions."""
    if request.materialised is not None:
        form: tuple[Any, ...] = ("materialised", request.materialised)
    else:
        form = ("raw", request.header, [bytes(frame) for frame in request.frames])
    return _payload(keys, _pickled((form, decisions)))


def _pickled(value: Any) -> bytes:
    """As ``dumps``, which asks first whether all is to be pickled by value: for a graph that holds
    the name of a user's ``__main__`` it would be. That is within what the client has pickled, and
    what it left among the decisions cannot be pickled by name here.
    """
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:  # pickling runs users' code
        return bytes(dumps(value))


def encode_set_aside(keys: Iterable[Key]) -> bytes:
    """The payload of a graph that is not read: nobody needs more of it."""
    return _payload(keys, b"")


def _payload(keys: Iterable[Key], body: bytes) -> bytes:
    listed = pack_keys(keys)
    return b"".join((_LENGTH.pack(len(listed)), listed, body))


def keys_of(payload: bytes) -> tuple[list[Key], memoryview]:
    """The keys of a payload, which are read without unpickling, and its pickled rest."""
    (length,) = _LENGTH.unpack_from(payload)
    start = _LENGTH.size + length
    return unpack_keys(payload[_LENGTH.size : start]), memoryview(payload)[start:]


def decode_graph(body: memoryview) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The graph and the decisions; unpickles what a client sent."""
    form, decisions = loads(body)
    return form, decisions


def content_of(frames: list[Any], keys: Collection[Key]) -> bytes:
    """The digest of a graph as it was sent, the same when a user sends it again by hand.

    So what a client draws at random for each submission is left out: the name of the expression,
    which comes last (``LLGExpr``, client.py:2135), and the key of an impure call.
    """
    if len(frames) != 1 or nbytes(frames[0]) > DRAWN_BYTES_MAX:
        return digest(frames)
    (frame,) = map(bytes, frames)
    start = max(0, len(frame) - _TAIL_BYTES)
    frame = frame[:start] + _DRAWN.sub(b"", frame[start:])
    for key in keys if len(keys) == 1 else ():
        if isinstance(key, str) and len(key) > _UUID_CHARS:
            frame = frame.replace(key.encode(errors="replace"), b"")
    return digest([frame])


def exposure_of(
    content: bytes, keys: Iterable[Key], client: str, session: str, sequence: int
) -> Exposure:
    """What an engine is exposed to that reads this graph."""
    listed = list(islice(keys, 2))
    what = short_name(listed[0]) if listed else "without keys"
    what = f"of {what}" + (" and others" if listed[1:] else "")
    return Exposure(content, "graph", what, short_name(client), session, sequence)


class GraphTable:
    """Which graphs mention which keys, on leader and follower alike."""

    def __init__(self) -> None:
        self._latest: dict[Key, int] = {}
        self._older: dict[Key, list[int]] = {}
        self._live: dict[int, set[Key]] = {}
        self.contents: dict[int, bytes] = {}  # of graphs with known keys: what was sent
        self.subjects: dict[int, str] = {}  # of those: who submitted them, if it has a name
        self.sizes: dict[int, int] = {}  # likewise: bytes in the ledger

    def __len__(self) -> int:
        return len(self._live)

    def add(self, graph: int, keys: set[Key], content: bytes = b"") -> None:
        if content:
            self.contents[graph] = content
        latest = self._latest
        for key in keys & latest.keys():
            self._older.setdefault(key, []).append(latest[key])
        latest.update(dict.fromkeys(keys, graph))
        self._live[graph] = set(keys)

    def note(self, graph: int, subject: str, size: int) -> None:
        """Who has submitted a graph that is about to be added, and its bytes in the ledger."""
        if subject:
            self.subjects[graph], self.sizes[graph] = subject, size

    def of_subject(self, subject: str) -> list[int]:
        """The graphs with known keys that ``subject`` has submitted."""
        return [graph for graph, of in self.subjects.items() if of == subject]

    def graph_of(self, key: Key) -> int:
        """The latest graph that mentions ``key``; 0 for none."""
        return self._latest.get(key, 0)

    def graphs_of(self, key: Key) -> list[int]:
        """Every graph that mentions ``key``, the latest first; [0] for none."""
        return [self._latest.get(key, 0), *self._older.get(key, ())]

    def maker_of(self, key: Key) -> int:
        """The graph that made the task of ``key``; 0 for none."""
        older = self._older.get(key)
        return older[0] if older else self._latest.get(key, 0)

    def keys_of(self, graph: int) -> set[Key]:
        """The keys of ``graph`` that are still known."""
        return self._live.get(graph, set())

    def forget(self, key: Key) -> tuple[list[int], list[int]]:
        """Forget ``key``; returns the graphs to be retired, and the older ones that live on.

        The latest is not among these: desires of ``key`` are filed under it.
        """
        graph = self._latest.pop(key, 0)
        older = self._older.pop(key, ())
        retired = [g for g in (graph, *older) if self._drop(g, key)]
        return retired, [g for g in older if g in self._live]

    def _drop(self, graph: int, key: Key) -> bool:
        live = self._live.get(graph)
        if live is None:
            return False
        live.discard(key)
        if live:
            return False
        del self._live[graph]
        self._forget(graph)
        return True

    def _forget(self, graph: int) -> None:
        for known in (self.contents, self.subjects, self.sizes):
            known.pop(graph, None)

    def drop(self, graph: int) -> None:
        """Forget a retired graph with all its keys."""
        self._forget(graph)
        for key in self._live.pop(graph, ()):
            if self._latest.get(key) == graph:
                del self._latest[key]
