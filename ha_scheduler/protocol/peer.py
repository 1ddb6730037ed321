"""What the peers of a cell say to each other."""

from __future__ import annotations

from ha_scheduler.protocol.codec import Name, Part, Port


class PeerAddress(Part):
    """Where one peer of the cell is reached: ``host``, its peer port and its Dask port."""

    name: Name
    host: Name
    peer_port: Port
    dask_port: Port
