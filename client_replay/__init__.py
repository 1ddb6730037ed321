"""A Dask client whose work outlives the scheduler.

``from client_replay import Client`` instead of ``from distributed import Client``, or the preload
``client_replay.preload`` in the configuration.
"""

from __future__ import annotations

from client_replay.client import Client
from client_replay.errors import JournalFull, NoLeader, OutcomeUnknown

__all__ = ["Client", "JournalFull", "NoLeader", "OutcomeUnknown"]
