"""Changes of who belongs to the cell, while all else goes on.

    remove      a peer is removed; the heal gives it an empty directory and adds it again
    replace     a peer has lost its disk and comes back with an empty one, as a new voter
    apart       a peer is removed, and added again while a follower is cut off (network targets)
    transfer    leadership is handed over, as for maintenance

Proof: what the leader says of its members, before and after.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from signal import SIGKILL
from typing import TYPE_CHECKING

from chaos.faults.base import (
    LASTS,
    VICTIM,
    Active,
    CannotInject,
    Command,
    Fault,
    Simple,
    chosen,
    lacks,
    one_of,
)
from chaos.faults.files import REPLACE, start_with
from chaos.faults.network import Partition, cut, network_of
from ha_scheduler.errors import ControlError
from ha_scheduler.protocol.control import (
    RemoveRequest,
    Request,
    Taken,
    Transferred,
    TransferRequest,
)

if TYPE_CHECKING:
    from chaos.targets.base import Target

JOIN = "--join"
CHANGED_S_MAX = 30.0
POLL_S = 0.2
KINDS = ("remove", "replace", "apart", "transfer")


def disks(target: Target) -> dict[str, int]:
    """The Raft id of each member's disk, by what the leader says; nothing while nobody leads."""
    statuses = target.statuses().values()
    leading = [s for s in statuses if s["role"] == "leader" and s["serving"]]
    newest = max(leading, key=lambda s: s["term"], default=None)
    return {m["name"]: m["id"] for m in newest["members"]} if newest is not None else {}


def ask_leader(target: Target, request: Request, wanted: type[object]) -> None:
    """Over changes of leaders; raises ``CannotInject``."""
    control = target.control
    assert control is not None
    deadline = time.monotonic() + CHANGED_S_MAX
    why = "nobody leads"
    while time.monotonic() < deadline:
        leader = target.leader()
        if leader is not None:
            try:
                control.request(leader, request, wanted)
                return
            except ControlError as error:
                why = str(error)
        time.sleep(POLL_S)
    raise CannotInject(f"{type(request).__name__}: {why}")


def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + CHANGED_S_MAX
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return met


@dataclass
class Changed:
    """A peer that was removed, or whose disk is another; ``cut`` goes with the heal."""

    target: Target
    peer: str
    option: str
    seen: list[str] = field(default_factory=list)
    cut: Partition | None = None
    healed: bool = False

    def heal(self) -> None:
        if self.healed:
            return
        self.healed = True
        try:
            if self.option == JOIN:
                self._come_back()
        finally:
            if self.cut is not None:
                self.cut.heal()

    def _come_back(self) -> None:
        """With an empty directory, as the disk of a removed peer never acts again."""
        forget_disk(self.target, self.peer)
        start_with(self.target, self.peer, JOIN)
        if self.cut is not None:
            self.cut.heal()
        if _until(lambda: self.peer in disks(self.target)):
            self.seen.append(f"{self.peer} is a member again")

    def proof(self) -> str | None:
        return "; ".join(self.seen) or None

    @property
    def will(self) -> Sequence[Command]:
        return self.cut.will if self.cut is not None else ()


def forget_disk(target: Target, peer: str) -> None:
    """Kill the peer and set its directory aside for an empty one."""
    target.signal(peer, "both", SIGKILL)
    directory = target.directory(peer)
    with contextlib.suppress(FileNotFoundError):
        directory.rename(directory.with_name(f"former-{time.monotonic_ns()}"))
    directory.mkdir()


def _remove(target: Target, random: Random, peer: str, *, apart: bool = False) -> Active:
    active = Changed(target, peer, JOIN)
    ask_leader(target, RemoveRequest(peer), Taken)
    if not _until(lambda: bool(disks(target)) and peer not in disks(target)):
        raise CannotInject(f"{peer} was not removed within {CHANGED_S_MAX:.0f} s")
    active.seen.append(f"{peer} is no member")
    if apart:
        network = network_of(target)
        leader = target.leader()
        others = [other for other in target.peers if other not in (peer, leader)]
        active.cut = cut(network, network.links_of([random.choice(others)]))
    return active


def _replace(target: Target, peer: str) -> Active:
    before = disks(target).get(peer)
    forget_disk(target, peer)
    start_with(target, peer, REPLACE)
    active = Changed(target, peer, REPLACE)
    if _until(lambda: disks(target).get(peer, before) != before):
        active.seen.append(f"{peer} has another disk than {before}")
    return active


@dataclass
class Transfer:
    """Leadership that was handed over."""

    text: str
    will: Sequence[Command] = ()

    def heal(self) -> None:
        """Nothing: any peer may lead."""

    def proof(self) -> str | None:
        return self.text or None


def _transfer(target: Target) -> Active:
    before = target.leader()
    ask_leader(target, TransferRequest(None), Transferred)
    _until(lambda: target.leader() not in (None, before))
    after = target.leader()
    return Transfer(f"from {before} to {after}" if after not in (None, before) else "")


def _change(target: Target, random: Random, kind: str, lasts_s: float | None, word: str) -> Active:
    if kind == "transfer":
        return _transfer(target)
    peer, *_ = chosen(target, word, random)
    if kind == "replace":
        return _replace(target, peer)
    return _remove(target, random, peer, apart=kind == "apart")


FAULTS: tuple[Fault, ...] = (
    Simple(
        "member",
        "A peer is removed and added again, or comes with an empty disk; or leadership moves.",
        _change,
        (one_of(*KINDS), LASTS, VICTIM),
        lacks("processes", "control", "environment"),
        destroys=True,
    ),
)
