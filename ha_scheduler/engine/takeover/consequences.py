"""What one step of a takeover recommends to tasks, and tells clients and workers.

Guarantee: nothing is sent before ``send``, and messages to one receiver keep their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distributed.scheduler import Msgs, Recs

from ha_scheduler.engine.stream.keys import Key
from ha_scheduler.engine.stream.state import StreamScheduler


@dataclass(slots=True)
class Consequences:
    """Gathered under one stimulus."""

    scheduler: StreamScheduler
    stimulus_id: str
    recommendations: Recs = field(default_factory=dict)
    client_msgs: Msgs = field(default_factory=dict)
    worker_msgs: Msgs = field(default_factory=dict)

    def free(self, worker: str, *keys: Key) -> None:
        self.tell({worker: [free(*keys, stimulus_id=self.stimulus_id)]})

    def tell(self, worker_msgs: Msgs) -> None:
        for worker, messages in worker_msgs.items():
            self.worker_msgs.setdefault(worker, []).extend(messages)

    def tell_clients(self, client_msgs: Msgs) -> None:
        for client, messages in client_msgs.items():
            self.client_msgs.setdefault(client, []).extend(messages)

    def follow(self) -> None:
        recommendations, self.recommendations = self.recommendations, {}
        self.scheduler._transitions(
            recommendations, self.client_msgs, self.worker_msgs, self.stimulus_id
        )

    def send(self) -> None:
        self.scheduler.send_all(self.client_msgs, self.worker_msgs)


def free(*keys: Key, stimulus_id: str) -> dict[str, Any]:
    """Upstream's message that has a worker drop these keys."""
    return {"op": "free-keys", "keys": list(keys), "stimulus_id": stimulus_id}
