"""All faults there are."""

from __future__ import annotations

from chaos.faults import clock, failpoints, files, mounts, network, packets, process, syscalls
from chaos.faults.base import Registry

_MODULES = (process, network, packets, failpoints, syscalls, files, mounts, clock)

FAULTS = Registry(fault for module in _MODULES for fault in module.FAULTS)
