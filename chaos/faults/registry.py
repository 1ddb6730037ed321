"""All faults there are."""

from __future__ import annotations

from chaos.faults import network, packets, process
from chaos.faults.base import Registry

FAULTS = Registry([*process.FAULTS, *network.FAULTS, *packets.FAULTS])
