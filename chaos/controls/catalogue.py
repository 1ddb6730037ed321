"""The safeguards that a run can take away, and the scenario in which that must be noticed.

A harness that finds nothing proves nothing unless it finds this. Each control is an edit of one or
more modules of the product, made as they are imported (``preload/sitecustomize.py``): the product
has no switch for it. An edit whose text is no longer found ends the process: it must follow the
source.

Proof: each process that has a safeguard taken away says so on its standard error.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ha_scheduler.errors import OperatorError


class NoControl(OperatorError):
    """Operator: there is no such safeguard to take away."""


@dataclass(frozen=True, slots=True)
class Edit:
    """``before``: text of the module, once; ``after``: what takes its place."""

    module: str
    before: str
    after: str

    def apply(self, source: str) -> str:
        """Raises ``ValueError`` if the text is not there once."""
        if source.count(self.before) != 1:
            raise ValueError(
                f"{self.module} has not once, but {source.count(self.before)} times: "
                f"{self.before!r}"
            )
        return source.replace(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Control:
    """``scenario``: fields of the one in which a checker must notice it."""

    name: str
    about: str
    edits: tuple[Edit, ...]
    scenario: dict[str, object]
    side: str = "peers"  # or "clients"


#: A read waits for a majority's confirmation, and before that for all that was written. Without
#: the first alone nothing shows: while anybody writes, the second holds it back.
UNCONFIRMED = (
    Edit(
        "ha_scheduler.engine.confirmations",
        "        await confirm()\n        return result\n",
        "        return result\n",
    ),
    Edit(
        "ha_scheduler.engine.stream.calls",
        "        await self._transactions.settled()\n"
        '        failpoints.reach(f"{call.op}.committed")',
        "        if call.op != 'variable_get':\n"
        "            await self._transactions.settled()\n"
        '        failpoints.reach(f"{call.op}.committed")',
    ),
)

CONTROLS = {
    control.name: control
    for control in (
        Control(
            "no-fsync",
            "commits of the store are not synced",
            (Edit("ha_scheduler.storage.environment", " sync=True,", " sync=False,"),),
            {"faults": ("power:all",), "time_limit_s": 15.0, "settle_s": 20.0, "deadline_s": 30.0},
        ),
        Control(
            "no-fencing",
            "an engine whose daemon stands still goes on answering, as if it led for ever",
            (
                Edit(
                    "ha_scheduler.shared_lease",
                    "        return now() < deadline\n",
                    "        return True\n",
                ),
                *UNCONFIRMED,
            ),
            {
                "workload": "coordination",
                "faults": ("orphan:leader:6s",),
                "time_limit_s": 24.0,
                "clients": 3,
            },
        ),
        Control(
            "no-barrier",
            "a read is answered though no majority has confirmed the leader, nor what was written",
            (*UNCONFIRMED,),
            {
                "workload": "coordination",
                "faults": ("clock:halted:leader:4s",),
                "time_limit_s": 24.0,
                "clients": 3,
            },
        ),
        Control(
            "no-dedupe",
            # Of all calls at once it would not show: a get that is done again takes the copy.
            "an item whose put is repeated to the next leader is put in again",
            (
                Edit(
                    "ha_scheduler.engine.stream.calls",
                    "if kept is not None and kept.sequence >= call.sequence:",
                    "if call.op != 'queue_put' and kept is not None "
                    "and kept.sequence >= call.sequence:",
                ),
            ),
            {
                "workload": "coordination",
                "faults": ("failpoint:queue_put.committed",),
                "time_limit_s": 20.0,
            },
        ),
        Control(
            "no-checksum",
            "rows of the log and of the ledger are believed without their checksums",
            (
                Edit(
                    "ha_scheduler.storage.schema",
                    "if crc32c(row[CRC_BYTES:], crc32c(index_key(index))) != crc:",
                    "if False:",
                ),
                Edit(
                    "ha_scheduler.storage.schema",
                    "if len(row) < CRC_BYTES or "
                    "_CRC.unpack_from(row)[0] != crc32c(value, crc32c(key)):",
                    "if len(row) < CRC_BYTES:",
                ),
            ),
            {"faults": ("damage:rot:follower",), "time_limit_s": 12.0},
        ),
        Control(
            "no-pre-vote",
            "who has heard nothing of the leader raises the term without asking",
            (Edit("ha_scheduler.raft.config", "pre_vote: bool = True", "pre_vote: bool = False"),),
            {
                "target": "namespaces",
                "faults": ("partition:one:follower:5s",),
                "time_limit_s": 18.0,
            },
        ),
        Control(
            "no-replay",
            "a client does not repeat to the next leader what the last one had not acknowledged",
            (
                Edit(
                    "client_replay.session.session",
                    "            stream.send(entry.message)\n        if (self._connection",
                    "            if self._connection == 1:\n"
                    "                stream.send(entry.message)\n        if (self._connection",
                ),
            ),
            {"faults": ("failpoint:graph.arrived", "kill:leader"), "time_limit_s": 20.0},
            "clients",
        ),
        Control(
            "no-typed-decoding",
            "what others say is not checked against its type",
            (
                Edit(
                    "ha_scheduler.protocol.codec",
                    "        return msgspec.convert(fields, cls, builtin_types=(bytes,))\n",
                    "        return cls(**{n: v for n, v in fields.items() "
                    "if n in cls.__struct_fields__})\n",
                ),
            ),
            {"faults": ("malformed",), "time_limit_s": 15.0, "lasts_s": 8.0},
        ),
    )
}


def of(names: Sequence[str]) -> list[Control]:
    """Raises ``NoControl``."""
    for name in names:
        if name not in CONTROLS:
            known = ", ".join(CONTROLS)
            raise NoControl(f"There is no safeguard {name!r} to take away; there are: {known}.")
    return [CONTROLS[name] for name in names]


def source_of(module: str) -> str:
    """As it is installed."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text()
