"""Going on with the journal of a process that has ended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from distributed.security import Security

from client_replay.client import Client
from client_replay.errors import JournalUnusable
from client_replay.journal.disk import DiskKeeper
from client_replay.journal.place import SUFFIX
from client_replay.lifecycle.journaling import bytes_max


def resume(
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    damaged: bool = False,
    address: Any = None,
    **kwargs: Any,
) -> Client:
    """The client of a journal, in this process; ``client.resumed`` has its futures by key.

    They are of everything that is unfinished, or that nobody has fetched. What never reached the
    cell is submitted again; nothing runs twice.

    ``path``: the journal, or a directory with one. ``force``: take it from a process that lives;
    that one is fenced. ``damaged``: go on with what can be saved. ``address`` and further arguments
    as for ``Client``; by default address and certificates are those of the former client.

    Raises ``JournalInUse``, ``JournalDamaged`` and ``JournalUnusable``.
    """
    keeper = DiskKeeper.resume(_the_file(path), bytes_max(), force=force, damaged=damaged)
    identity = keeper.identity
    if identity.tls and "security" not in kwargs:
        kwargs["security"] = Security(require_encryption=True, **identity.tls)
    try:
        return Client(address or identity.address or None, journal=keeper, **kwargs)
    except BaseException:
        keeper.close()
        raise


def _the_file(place: str | os.PathLike[str]) -> Path:
    path = Path(place).expanduser().absolute()
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) == 1:
        return found[0]
    raise JournalUnusable(
        path,
        f"the directory has {len(found)} journals",
        "Name one of those that `dask ha journal ls` shows",
    )
