"""All faults there are."""

from __future__ import annotations

from chaos.faults import process
from chaos.faults.base import Registry

FAULTS = Registry([*process.FAULTS])
