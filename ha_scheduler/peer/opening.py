"""Which disk this is, and whether it may start as the operator said.

Guarantee: only an empty disk begins as a founder, if the operator did not say otherwise; a disk
that began otherwise never becomes one. A disk with data keeps its id, cell and kind, whatever is
asked for later.

Order: the file of ``founding.py`` is durable before the store is made. Before that a cell is asked
only which cell it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ha_scheduler.audit.files import directory_of
from ha_scheduler.audit.log import AuditLog
from ha_scheduler.cell.peers import Cell, check_count
from ha_scheduler.errors import OperatorError
from ha_scheduler.ledger.encoding import decode
from ha_scheduler.ledger.fold import latest_term
from ha_scheduler.ledger.records import UnknownRecordError
from ha_scheduler.ledger.tables import Tables
from ha_scheduler.peer import founding
from ha_scheduler.peer.founding import Founding
from ha_scheduler.peer.roster import Roster, described
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.raft.messages import Membership
from ha_scheduler.storage.directory import DATA_FILE
from ha_scheduler.storage.environment import check_identity
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.port import OnDurable


def found(settings: PeerSettings, learn_cell: Callable[[], Cell]) -> Founding:
    """This disk's identity; an empty one is set up. Raises ``OperatorError`` and ``StorageError``.

    ``learn_cell`` asks the running cell for its founding list.
    """
    directory = settings.data_dir
    known = founding.load(directory)
    if known is not None:
        _check_again(settings, known)
        return known
    if _has_data(directory):  # of a release that knew founders only
        check_identity(directory, settings.cell.identity, settings.name)
    if _has_data(directory) or settings.admission is None:
        check_count(len(settings.cell.peers))
        own_id = settings.cell.peer_id(settings.name)
        known = founding.create(directory, settings.cell, own_id, witness=settings.witness)
        _check_again(settings, known)
        return known
    cell = learn_cell()
    return founding.create(directory, cell, founding.draw_number(), witness=settings.witness)


def _check_again(settings: PeerSettings, known: Founding) -> None:
    if known.witness != settings.witness:
        is_now, was = (
            ("a witness", "a full peer") if settings.witness else ("a full peer", "a witness")
        )
        raise OperatorError(
            f"{settings.data_dir} holds the disk of {was}, and this is {is_now}: the one keeps a "
            f"ledger and the other does not. Correct --witness, or start with an empty directory "
            f"and --replace."
        )
    if settings.admission is not None and known.peer_id in known.cell.by_id:
        raise OperatorError(
            f"{settings.data_dir} is not empty, and --{settings.admission.value} is for a new "
            f"disk; leave it out, or delete the data there first if it is lost or damaged."
        )


def open_store(settings: PeerSettings, known: Founding, on_durable: OnDurable) -> LmdbStore:
    """The store of this disk. Raises ``StorageError``."""
    cell = known.cell
    founders = Membership(tuple(sorted(cell.by_id)))
    return LmdbStore.open(
        settings.data_dir,
        cell=cell.identity,
        peer=settings.name,
        peer_id=known.peer_id,
        membership=founders if known.peer_id in cell.by_id else None,
        create=True,
        on_durable=on_durable,
    )


def call_roll(settings: PeerSettings, known: Founding, store: LmdbStore) -> Roster:
    """The members of the cell, as this disk knows them. Raises ``OperatorError``."""
    own = described(store.peer_id, known.disk, settings.address, witness=known.witness)
    roster = Roster(known.cell, settings.cell, own)
    with store.view() as view:
        check_format(settings.data_dir, view.tables)
        roster.restart(view.tables)
    if store.peer_id in store.initial_state()[1].peers:
        _check_list(settings, roster)
    return roster


def open_audit(settings: PeerSettings) -> AuditLog:
    """The audit log in the data directory. Raises ``OperatorError``."""
    directory = directory_of(settings.data_dir)
    try:
        return AuditLog(directory, settings.name)
    except OSError as error:
        raise OperatorError(
            f"The audit log in {directory} cannot be opened: {error.strerror or error}. Make room, "
            f"or see what is there."
        ) from error


def check_format(directory: Path, tables: Tables) -> None:
    """Refuse a ledger that a newer release has led. Raises ``OperatorError``."""
    latest = latest_term(tables)
    try:
        if latest is not None:
            decode(latest)
    except UnknownRecordError as error:
        raise OperatorError(f"{directory}: {error}.") from error


def _check_list(settings: PeerSettings, roster: Roster) -> None:
    """A member's ``--peers`` names the founders or the peers of today, and its own address."""
    today = Cell(roster.current())
    if not roster.is_own_cell(settings.cell.identity):
        raise OperatorError(
            f"--peers {settings.cell.identity} is neither the list that founded this cell "
            f"({roster.founding.identity}) nor that of its peers today ({today.identity}), as far "
            f"as {settings.data_dir} knows; use one of these two."
        )
    row, own = roster.disk(roster.own.peer), settings.address
    if row is not None and (row.host, row.peer_port) != (own.host, own.peer_port):
        raise OperatorError(
            f"--peers has another address for peer {own.name} than the cell; use the list of its "
            f"peers today: {today.identity}."
        )


def _has_data(directory: Path) -> bool:
    return (directory / DATA_FILE).exists()
