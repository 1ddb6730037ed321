"""The plan of an engine's confinement, and how its process carries it out on itself.

Guarantee: when ``Plan.carry_out`` returns, the process has no capability and gains none, and is
kept from all that ``Plan.lacks`` does not name. If the kernel refuses a part of it, it raises, and
no code of users runs.

Order: namespaces and the change of user need the privileges that are given up next; Landlock comes
after the mounts, which it forbids, and after ``no_new_privs``, which it needs.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from ha_scheduler.confinement import kernel, landlock, mounts, seccomp
from ha_scheduler.confinement.mounts import Namespace


@dataclass(frozen=True, slots=True)
class User:
    """Another user than the daemon's, for the engine."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class Plan:
    """``hidden``: real paths that the engine is kept from, a directory first; ``shown``: files
    beneath them that it may read. ``sockets``: at which nobody answers it, and ``fixed``: that it
    cannot write to, where there is a namespace. ``landlock``: the ABI; 0: there is none.
    """

    hidden: tuple[str, ...]
    shown: tuple[str, ...]
    sockets: tuple[str, ...]
    fixed: tuple[str, ...]
    namespace: Namespace
    landlock: int
    user: User | None = None

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the kernel cannot keep this engine from, in words."""
        if self.user is not None:
            return ()
        lacking = []
        if not self.landlock:  # without it a namespace can be left through /proc
            lacking.append("files")
        if self.landlock < landlock.SIGNALS_ABI:
            lacking.append("signals")
        if not seccomp.available():
            lacking.append("limits")
        return tuple(lacking)

    @property
    def summary(self) -> str:
        """``full``, or what it is without, as the status shows it."""
        return f"without {' and '.join(self.lacks)}" if self.lacks else "full"

    def to_text(self) -> str:
        """For the command line of the engine's process; there is no secret in it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Plan:
        fields = json.loads(text)
        user = fields.pop("user")
        return cls(
            hidden=tuple(fields["hidden"]),
            shown=tuple(fields["shown"]),
            sockets=tuple(fields["sockets"]),
            fixed=tuple(fields["fixed"]),
            namespace=Namespace(fields["namespace"]),
            landlock=fields["landlock"],
            user=User(**{**user, "groups": tuple(user["groups"])}) if user else None,
        )

    def carry_out(self) -> None:
        """Confine this process, which has one thread. Raises ``OSError``."""
        user, hidden, shown = self.user, self.hidden, self.shown
        if self.namespace is not Namespace.NONE:
            owner = (user.uid, user.gid) if user is not None else (-1, -1)
            mounts.hide(self.namespace, (*hidden, *self.sockets), shown, self.fixed, owner)
            hidden = shown = ()
        kernel.bound_capabilities()
        if user is not None:
            become(user)
        kernel.refuse_new_privileges()
        if self.landlock:
            landlock.restrict(self.landlock, hidden, shown)
        if seccomp.available():
            seccomp.restrict()
        kernel.drop_capabilities()
        kernel.set_dumpable(True)  # a change of user takes it away, and with it /proc/self


def become(user: User) -> None:
    """Be ``user``, for ever. Raises ``OSError``."""
    os.setgroups(user.groups)
    os.setgid(user.gid)
    os.setuid(user.uid)
