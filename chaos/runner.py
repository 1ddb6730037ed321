"""One run: from the start of the target to a directory that holds all that was seen.

The phases: setup, warm (every client has connected and got an answer), baseline (nothing is
broken), faults, heal, settle (until the cell is whole), final (clients finish what is under way),
collect. The faults' times count from the beginning of the baseline.

Guarantee: however a run ends (an error of the harness, Ctrl-C, SIGTERM), every fault is healed,
every client ended and the target stopped before ``run`` returns; after ``kill -9`` the watchdog
heals and the clients end by themselves.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import psutil

from chaos import history, record
from chaos.controls.install import for_clients, install
from chaos.faults.base import CannotInject, parse
from chaos.faults.registry import FAULTS
from chaos.guard import Guard, guarded
from chaos.ledgers import read_ledger
from chaos.monitor import Monitor
from chaos.record import Facts, Fired, append, write_json
from chaos.scenario import Scenario, command, to_toml
from chaos.schedule import Injection, schedule
from chaos.targets.base import Target
from chaos.workloads.base import Workload
from chaos.workloads.registry import workload
from chaos.workloads.session import Settings
from ha_scheduler.errors import ControlError

WARM_S_MAX = 60.0
POLL_S = 0.1
CLIENT_GRACE_S = 15.0  # beyond its deadline, to close
Say = Callable[[str], None]


class Interrupted(Exception):
    """The run was told to end, by a signal."""


class Runner:
    """Runs ``scenario`` on ``target`` and leaves what was seen in ``directory``."""

    def __init__(self, scenario: Scenario, target: Target, directory: Path, say: Say) -> None:
        self.scenario = scenario
        self.target = target
        self.directory = directory
        self.workload: Workload = workload(scenario.workload)
        self._say = say
        self._clients: dict[str, subprocess.Popen[bytes]] = {}
        self._phases: dict[str, float] = {}
        self._fired: dict[int, Fired] = {}
        self._active: dict[int, Any] = {}
        self._settled_s: float | None = None
        self._trouble = ""
        self._overdue: list[str] = []
        self._began, self._began_wall = time.monotonic(), time.time()

    def run(self) -> None:
        """Returns when all is over and written down; what went wrong is in the facts.

        Raises ``Interrupted`` after that, if it was.
        """
        for name in (record.LOGS, record.CLIENTS, record.FILES):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / record.SCENARIO).write_text(to_toml(self.scenario))
        (self.directory / record.REPRODUCE).write_text(command(self.scenario) + "\n")
        with _signals():
            try:
                self._work()
            except (Interrupted, KeyboardInterrupt) as error:
                self._trouble = f"interrupted: {error or 'Ctrl-C'}"
                raise Interrupted(self._trouble) from error
            except Exception as error:
                self._trouble = f"{type(error).__name__}: {error}"
            finally:
                self._phase("collect")
                self._end_clients()
                self._collect()

    # -- phases

    def _phase(self, name: str) -> None:
        self._phases[name] = time.monotonic()
        self._say(f"{time.monotonic() - self._began:6.1f} s  {name}")

    def _work(self) -> None:
        self._phase("setup")
        install(self.target, self.scenario.controls)
        for text in self.scenario.faults:
            FAULTS.of(parse(text)).prepare(self.target)
        self.target.start()
        watching = Monitor(self.target, self.directory / record.STATUS)
        with watching, guarded(self.directory / record.LOGS / "watchdog.log", self._say) as guard:
            guard.bequeath(getattr(self.target, "will", ()))
            self._phase("warm")
            self._start_clients()
            self._phase("baseline")
            self._inject_all(guard)
            self._phase("heal")
            self._heal(guard)
            self._phase("settle")
            self._settle()
            self._phase("final")
            self._finish_clients()

    def _start_clients(self) -> None:
        for role in self.workload.roles(self.scenario):
            name = f"c{role}"
            self._clients[name] = self._start_client(name, role)
        waiting = set(self._clients)
        deadline = time.monotonic() + WARM_S_MAX
        while waiting:
            waiting -= {name for name in waiting if self._is_warm(name)}
            ended = [name for name in waiting if self._clients[name].poll() is not None]
            if ended or time.monotonic() > deadline:
                raise TimeoutError(
                    f"clients {', '.join(ended or sorted(waiting))} did not begin: see "
                    f"{self.directory / record.CLIENTS}"
                )
            time.sleep(POLL_S)

    def _is_warm(self, name: str) -> bool:
        path = self._history_of(name)
        wanted = b'"connected"' if self.workload.patient else b'"type":"ok"'
        return path.exists() and wanted in path.read_bytes()

    def _start_client(self, name: str, role: str) -> subprocess.Popen[bytes]:
        settings = Settings(
            self.scenario.workload,
            name,
            role,
            self.target.address,
            self.scenario.seed,
            self.scenario.rate,
            self.scenario.deadline_s,
            self.scenario.clients,
            self.scenario.workers,
            str(self.directory / record.FILES),
            str(self._history_of(name)),
        )
        words = ["-m", "chaos.workloads.process", msgspec.json.encode(settings).decode()]
        log = self.directory / record.CLIENTS / f"{name}.log"
        return self.target.spawn_client(words, log, for_clients(self.scenario.controls))

    def _history_of(self, name: str) -> Path:
        return self.directory / record.CLIENTS / f"{name}.ndjson"

    # -- faults

    def _inject_all(self, guard: Guard) -> None:
        zero = time.monotonic()
        plan = schedule(self.scenario, lambda call: FAULTS.of(call).lasts(call.arguments))
        if not plan:
            _sleep_until(zero + self.scenario.baseline_s)
            self._phase("faults")
            _sleep_until(zero + self.scenario.baseline_s + self.scenario.time_limit_s)
            return
        for injection in plan:
            _sleep_until(zero + injection.at_s)
            if "faults" not in self._phases:
                self._phase("faults")
            self._inject(injection, guard)
            # One that took long to make lasts no less for it.
            _sleep_until(time.monotonic() + injection.heal_at_s - injection.at_s)
            self._heal_one(injection.number, guard)
        _sleep_until(zero + self.scenario.baseline_s + self.scenario.time_limit_s)

    def _inject(self, injection: Injection, guard: Guard) -> None:
        call, number = injection.call, injection.number
        at = time.monotonic()
        try:
            random = injection.random(self.scenario.seed)
            active = FAULTS.of(call).inject(self.target, call.arguments, random)
        except CannotInject as error:
            self._fired[number] = Fired(number, str(call), at, at, error=f"not made: {error}")
            self._say(f"{at - self._began:6.1f} s  {call}: not made: {error}")
            return
        self._active[number] = active
        guard.made(number, active)
        proof = active.proof()
        self._fired[number] = Fired(number, str(call), at, proof=proof, made=time.monotonic())
        self._say(f"{at - self._began:6.1f} s  {call}: {proof or 'no proof yet'}")

    def _heal_one(self, number: int, guard: Guard) -> None:
        active = self._active.pop(number, None)
        if active is None:
            return
        fired = self._fired[number]
        proof = active.proof() or fired.proof
        error = guard.heal(number)
        self._fired[number] = msgspec.structs.replace(
            fired, healed=time.monotonic(), proof=proof or active.proof(), error=error
        )

    def _heal(self, guard: Guard) -> None:
        for number in reversed(list(self._active)):
            self._heal_one(number, guard)

    def _settle(self) -> None:
        began = time.monotonic()
        while time.monotonic() - began < self.scenario.settle_s:
            if self.target.ready():
                self._settled_s = time.monotonic() - began
                return
            time.sleep(POLL_S)

    # -- the end

    def _finish_clients(self) -> None:
        for client in self._clients.values():
            _tell(client, b"stop\n")
        deadline = time.monotonic() + self.scenario.deadline_s + CLIENT_GRACE_S
        for name, client in self._clients.items():
            try:
                client.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._overdue.append(name)

    def _end_clients(self) -> None:
        for client in self._clients.values():
            if client.poll() is None:
                client.kill()
                client.wait()
            if client.stdin is not None:
                with contextlib.suppress(OSError):
                    client.stdin.close()

    def _collect(self) -> None:
        """Whatever can be had; what fails is told, and the rest is taken all the same."""
        exits = {name: client.returncode for name, client in self._clients.items()}
        self._try(self._take_failovers)
        self._try(self._take_logs)
        self._try(self.target.stop)
        self._try(self._take_logs)  # what is said at the end belongs to it
        if {"cell", "files"} <= self.target.abilities:
            self._try(self._take_ledgers)
        paths = sorted((self.directory / record.CLIENTS).glob("*.ndjson"))
        history.write_all(self.directory / record.HISTORY, history.read(paths))
        for fired in self._fired.values():
            append(self.directory / record.FAULTS, fired)
        write_json(self.directory / record.FACTS, self._facts(exits))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._trouble = self._trouble or f"{call.__name__}: {type(error).__name__}: {error}"

    def _take_failovers(self) -> None:
        control = self.target.control
        if control is None:
            return
        best: dict[int, Any] = {}
        for answer in control.of_all(control.history).values():
            for entry in () if isinstance(answer, ControlError) else answer:
                if entry.term not in best or len(entry.phases) > len(best[entry.term].phases):
                    best[entry.term] = entry
        entries = [msgspec.to_builtins(best[term]) for term in sorted(best)]
        write_json(self.directory / record.FAILOVERS, entries)

    def _take_logs(self) -> None:
        logs = {f"peer-{peer}": self.target.log(peer) for peer in self.target.peers}
        logs |= {
            f"worker-{worker}": self.target.worker_log(worker) for worker in self.target.workers
        }
        for name, path in logs.items():
            if path.exists():
                shutil.copyfile(path, self.directory / record.LOGS / f"{name}.log")

    def _take_ledgers(self) -> None:
        found = {peer: read_ledger(self.target.directory(peer)) for peer in self.target.peers}
        write_json(self.directory / record.LEDGERS, found)

    def _facts(self, exits: dict[str, int | None]) -> Facts:
        return Facts(
            self._began,
            self._began_wall,
            self._phases,
            self.target.peers,
            self.target.workers,
            tuple(sorted(self.target.abilities)),
            _versions(),
            _host(),
            exits,
            self._settled_s,
            self._trouble,
            tuple(self._overdue),
        )


def _versions() -> dict[str, str]:
    names = ("dask-ha-scheduler", "distributed", "dask", "lmdb")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _host() -> dict[str, Any]:
    load = psutil.getloadavg()
    return {
        "kernel": platform.release(),
        "processors": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load": list(load),
    }


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _tell(client: subprocess.Popen[bytes], line: bytes) -> None:
    assert client.stdin is not None
    with contextlib.suppress(OSError):
        client.stdin.write(line)
        client.stdin.flush()


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run in order, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    wanted = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
