"""All faults there are."""

from __future__ import annotations

from chaos.faults import (
    address,
    clock,
    credentials,
    failpoints,
    files,
    membership,
    mounts,
    network,
    packets,
    process,
    syscalls,
    visits,
    workers,
)
from chaos.faults.base import Registry

_MODULES = (
    *(process, network, packets, failpoints, syscalls, files, mounts, clock, membership),
    *(workers, address, visits, credentials),
)

FAULTS = Registry(fault for module in _MODULES for fault in module.FAULTS)
