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
    upgrade,
    visits,
    workers,
)
from chaos.faults.base import Registry

_MODULES = (
    *(process, network, packets, failpoints, syscalls, files, mounts, clock, membership),
    *(workers, address, visits, credentials, upgrade),
)

FAULTS = Registry(fault for module in _MODULES for fault in module.FAULTS)
