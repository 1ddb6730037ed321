"""Which disk this is, and whether it may start as the operator said.

Guarantee: only an empty disk begins as a founder, if the operator did not say otherwise; a disk
that began otherwise never becomes one. A disk with data keeps its id, cell and kind, whatever is
asked for later.

Order: the file of ``founding.py`` is durable before the store is made. Before that a cell is asked
only which cell it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ha_scheduler.audit.files import directory_of
from ha_scheduler.audit.log import AuditLog
from ha_scheduler.cell.peers import Cell, check_count
from ha_scheduler.errors import OperatorError
from ha_scheduler.ledger.encoding import decode
from ha_scheduler.ledger.fold import latest_term
from ha_scheduler.ledger.tables import Tables
from ha_scheduler.ledger.unfit import UnknownRecordError
from ha_scheduler.peer.members import founding
from ha_scheduler.peer.members.founding import Founding
from ha_scheduler.peer.members.roster import Roster, described
from ha_scheduler.peer.settings import PeerSettings
from ha_scheduler.raft.messages import Membership
from ha_scheduler.storage.directory import DATA_FILE, erase
from ha_scheduler.storage.environment import check_identity
from ha_scheduler.storage.lmdb_store import LmdbStore
from ha_scheduler.storage.port import OnDurable

logger = logging.getLogger(__name__)


def found(settings: PeerSettings, learn_cell: Callable[[], Cell]) -> Founding:
    """This disk's identity; an empty one is set up. Raises ``OperatorError`` and ``StorageError``.

    ``learn_cell`` asks the running cell for its founding list.
    """
    directory = settings.data_dir
    known = founding.load(directory)
    if known is not None and _was_mistaken(settings, known):
        erase(directory)
        (directory / founding.FILE).unlink()
        known = None
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


def _was_mistaken(settings: PeerSettings, known: Founding) -> bool:
    """Whether the operator corrects the list of a founder that has never voted nor stored an entry:
    it is as good as an empty disk. Raises ``StorageError``.
    """
    same = known.cell.identity == settings.cell.identity
    if same or known.peer_id not in known.cell.by_id or settings.admission is not None:
        return False
    if not _has_data(settings.data_dir):
        return False
    store = open_store(settings, known, lambda number, error: None)
    try:
        hard, _ = store.initial_state()
        unused = hard.term == 0 and store.last_index() == 0
    finally:
        store.close()
    if unused:
        logger.warning(
            "nothing was voted or stored on this disk yet: it forgets the list that it began with, "
            "%s, and begins with %s",
            known.cell.identity,
            settings.cell.identity,
            extra={"action": "founded_again"},
        )
    return unused


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
    """A member's ``--peers`` names the founders or the peers of today; they may have moved."""
    today, founders = roster.names()
    if settings.cell.names not in (today, founders):
        raise OperatorError(
            f"--peers {settings.cell.identity} names neither the peers of this cell today "
            f"({', '.join(today)}) nor those that founded it ({', '.join(founders)}), as far as "
            f"{settings.data_dir} knows; name one of these two, at the addresses of today."
        )
    for name, (was, now) in roster.moved().items():
        logger.warning(
            "peer %s was at %s and is at %s by --peers; the cell learns it from the peer itself",
            name,
            was,
            now,
            extra={"action": "peer_moved"},
        )


def _has_data(directory: Path) -> bool:
    return (directory / DATA_FILE).exists()
