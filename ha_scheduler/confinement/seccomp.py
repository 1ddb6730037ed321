"""What a process may do to others of its user by number, where Landlock has no say.

Guarantee: after ``restrict`` this process and all that it starts set neither the limits nor the
priority of another process: a limit of CPU time ends it as a signal does.

A child that names itself by its number, instead of by 0, is refused as well.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from ha_scheduler.confinement.kernel import prctl

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_LOAD, _AND, _JUMP_IF, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_NOT_X32 = 0xBFFFFFFF  # x86-64 has a second table of calls, by one bit of the number

#: Machine → its audit number, and of each call its number and which argument names the process.
_MACHINES: dict[str, tuple[int, dict[int, int]]] = {
    "x86_64": (0xC000003E, {142: 0, 144: 0, 314: 0, 141: 1, 302: 0}),
    "aarch64": (0xC00000B7, {118: 0, 119: 0, 274: 0, 140: 1, 261: 0}),
}  # sched_setparam, sched_setscheduler, sched_setattr, setpriority, prlimit64


def available() -> bool:
    """Whether the calls of this machine are known here."""
    return platform.machine() in _MACHINES


def restrict() -> None:
    """Restrict this process, which has given up new privileges before. Raises ``OSError``."""
    program = _program(*_MACHINES[platform.machine()])
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    prctl("PR_SET_SECCOMP", _PR_SET_SECCOMP, _MODE_FILTER, header)


def _program(machine: int, calls: dict[int, int]) -> bytes:
    """Classic BPF: each call of the table by itself, and all others allowed."""
    steps = [
        _step(_LOAD, _MACHINE),
        _step(_JUMP_IF, machine, 1, 0),
        _step(_RETURN, _REFUSE),  # a table of calls that is not looked at, as of 32 bits
        _step(_LOAD, _NUMBER),
        _step(_AND, _NOT_X32),
    ]
    for call, argument in calls.items():
        judged = _judged(argument, reads=call in (302, 261))
        steps += [_step(_JUMP_IF, call, 0, len(judged)), *judged]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _judged(argument: int, *, reads: bool) -> list[bytes]:
    """Allowed for 0 and our own number. ``reads``: and without a third argument, to read it."""
    steps = [
        _step(_LOAD, _ARGUMENTS + 8 * argument),
        _step(_JUMP_IF, 0, 0, 1),
        _step(_RETURN, _ALLOW),
        _step(_JUMP_IF, os.getpid(), 0, 1),
        _step(_RETURN, _ALLOW),
    ]
    if argument == 1:  # of a process, and not of a group or a user
        steps = [
            _step(_LOAD, _ARGUMENTS),
            _step(_JUMP_IF, 0, 1, 0),
            _step(_RETURN, _REFUSE),
            *steps,
        ]
    if reads:
        steps += [
            _step(_LOAD, _ARGUMENTS + 16),
            _step(_JUMP_IF, 0, 0, 3),
            _step(_LOAD, _ARGUMENTS + 20),
            _step(_JUMP_IF, 0, 0, 1),
            _step(_RETURN, _ALLOW),
        ]
    return [*steps, _step(_RETURN, _REFUSE)]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
