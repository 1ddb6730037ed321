"""A Dask client whose work outlives the scheduler.

A plain ``distributed.Client`` that is given a cluster object of ours or an ``ha://`` address
becomes one by itself. For the address of a single peer it takes ``client_replay.Client``, or the
preload ``client_replay.preload`` in the configuration.

Importing this package has it look after the plain clients of the process (``automatic.py``).
"""

from __future__ import annotations

from client_replay import automatic
from client_replay.client import Client
from client_replay.errors import (
    JournalDamaged,
    JournalFenced,
    JournalFull,
    JournalInUse,
    JournalUnusable,
    NoLeader,
    OutcomeUnknown,
)
from client_replay.resume import resume
from ha_scheduler.errors import SessionTaken

__all__ = [
    "Client",
    "resume",
    "JournalDamaged",
    "JournalFenced",
    "JournalFull",
    "JournalInUse",
    "JournalUnusable",
    "NoLeader",
    "OutcomeUnknown",
    "SessionTaken",
]

automatic.install()
