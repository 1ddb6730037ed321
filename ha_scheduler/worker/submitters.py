"""Whose tasks a worker runs, and a client for each of them that submits.

Guarantee: a task that submits acts for who has submitted it, and never for another whose tasks run
here as well: it gets a client of its submitter's own, which says for which task it was made. What
the leader makes of that is in ``engine/clients/registration.py``.

A task that runs in the event loop is known by no thread: it has a client while all tasks that run
here are one subject's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.worker import thread_state

from client_replay.session.session import made_for
from ha_scheduler.protocol.worker import SUBMITTER

SPARE = 1_000  # of tasks that are over, whose submitters are remembered beside those of living ones


class Submitters:
    """Of one worker."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._of: dict[Any, str] = {}
        self._clients: dict[str, Any] = {}
        self._compute = worker.stream_handlers["compute-task"]
        worker.stream_handlers["compute-task"] = self.compute_task

    def compute_task(self, **message: Any) -> None:
        """As upstream's, with the submitter."""
        subject = message.pop(SUBMITTER, "")
        if subject:
            self._of[message["key"]] = subject
            if len(self._of) > len(self._worker.state.tasks) + SPARE:
                living = self._worker.state.tasks
                self._of = {key: of for key, of in self._of.items() if key in living}
        self._compute(**message)

    def client(self, make: Callable[[], Any]) -> Any:
        """The client of who has submitted the running task; None if it has no name."""
        task = self._running()
        subject = self._of.get(task, "")
        if not subject:
            return None
        known = self._clients.get(subject)
        if known is not None and known.status not in ("closing", "closed"):
            return known
        token = made_for.set(task)
        try:
            made = self._clients[subject] = make()
        finally:
            made_for.reset(token)
        return made

    def _running(self) -> Any:
        task = getattr(thread_state, "key", None)
        if task is not None:
            return task
        executing = [ts.key for ts in self._worker.state.executing]
        subjects = {self._of.get(key, "") for key in executing}
        return executing[0] if len(subjects) == 1 else None

    async def close(self) -> None:
        """End the clients."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client._close(fast=True)
