"""A ledger saved in a file: the frames of a peer's answer to ``SnapshotRequest``, as they came.

Guarantee: ``verify`` has read every byte, and raises ``OperatorError`` for a file that is cut
short, damaged, or of a newer release. Nothing of a user is shown but how much there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ha_scheduler.errors import OperatorError
from ha_scheduler.ledger.dump import SnapshotDamagedError, load
from ha_scheduler.ledger.encoding import decode
from ha_scheduler.ledger.layout import unpack
from ha_scheduler.ledger.records import FORMAT, PeerNamed
from ha_scheduler.ledger.tables import DERIVED_TABLES, PEERS
from ha_scheduler.protocol import frames
from ha_scheduler.protocol.codec import ProtocolError
from ha_scheduler.protocol.control import OF_A_COPY, SnapshotBegins
from ha_scheduler.protocol.peer import SnapshotChunk


@dataclass(frozen=True, slots=True)
class Saved:
    """What a file holds. ``peers``: the cell's disks that were not gone."""

    head: SnapshotBegins
    nbytes: int
    rows: dict[str, int]
    peers: tuple[PeerNamed, ...]


def verify(path: Path) -> Saved:
    """Read all of it. Raises ``OperatorError``."""
    counting = _Counting()
    head = read_head(path)
    try:
        load(chunks(path), counting)
    except (SnapshotDamagedError, ProtocolError, EOFError) as error:
        raise OperatorError(
            f"{path} is no whole snapshot: {error or 'it is cut short'}."
        ) from error
    rows = {table: n for table, n in counting.rows.items() if table not in DERIVED_TABLES}
    peers = tuple(peer for peer in counting.peers if not peer.gone)
    return Saved(head, path.stat().st_size, rows, peers)


def read_head(path: Path) -> SnapshotBegins:
    """Raises ``OperatorError``."""
    try:
        with path.open("rb") as file:
            head = _next(file)
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ProtocolError, EOFError) as error:
        raise OperatorError(f"{path} is no snapshot of a ledger.") from error
    if not isinstance(head, SnapshotBegins):
        raise OperatorError(f"{path} is no snapshot of a ledger.")
    if head.format > FORMAT:
        raise OperatorError(
            f"{path} was saved by a newer release (format {head.format}, and known here is "
            f"{FORMAT}); upgrade this one."
        )
    return head


def chunks(path: Path) -> Iterator[bytes]:
    """The ledger's chunks. Raises ``ProtocolError`` and ``EOFError``."""
    with path.open("rb") as file:
        _next(file)
        while True:
            try:
                message = _next(file)
            except EOFError:
                return  # the chunks know their own end
            if not isinstance(message, SnapshotChunk):
                raise ProtocolError("a snapshot has one head")
            yield message.data


def _next(file: BinaryIO) -> SnapshotBegins | SnapshotChunk:
    def exactly(size: int) -> bytes:
        data = file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    return OF_A_COPY.decode(frames.receive(exactly, frames.CONTROL_BYTES_MAX))


class _Counting:
    """Tables that only count."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.peers: list[PeerNamed] = []

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.rows[table] += 1
        if table == PEERS:
            record = decode(unpack(value)[1])
            assert isinstance(record, PeerNamed)
            self.peers.append(record)

    def delete_prefix(self, table: str, prefix: bytes) -> int:
        return 0
