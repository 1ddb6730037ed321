"""The virtual address of a peer that has none; what a holder of one answers to."""

from __future__ import annotations

from ha_scheduler.vip.address import VirtualAddress


class NoAddress:
    """Of a peer without a virtual address."""

    vip: VirtualAddress | None = None
    held = False

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def elected(self, handed_over_since: float | None) -> None: ...

    def deposed(self) -> None: ...

    def tick(self, certain_until: float) -> None: ...

    def give_up(self) -> bool:
        return True
