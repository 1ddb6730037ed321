"""What messages bring pickled, and what is pickled for workers.

Guarantee: in an engine nothing of a message is unpickled, and no task is pickled, without its
exposure being open (``exposures.py``). A part that is set aside is one that cannot be read
(``comm/decoding.py``): its sender is told, and the connection goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dask._task_spec import GraphNode
from distributed.protocol import core
from distributed.utils import nbytes

from ha_scheduler.comm import decoding
from ha_scheduler.engine.exposures import READ_BYTES_PER_S, digest
from ha_scheduler.engine.stream.state import StreamScheduler
from ha_scheduler.protocol.engine import Exposure


class ExposedPickle:
    """Takes the place of the module ``distributed.protocol.pickle``."""

    def __init__(self, pickle: Any, scheduler: StreamScheduler) -> None:
        self._pickle = pickle
        self._scheduler = scheduler

    def loads(self, data: bytes, *, buffers: Iterable[Any] = ()) -> Any:
        """As the module's. Raises ``SetAside``, too."""
        frames = [data, *buffers]
        size = sum(map(nbytes, frames))
        exposure = Exposure(digest(frames), "part of a message", f"of {size} bytes")
        with self._scheduler.exposures.open(exposure, size / READ_BYTES_PER_S):
            return self._pickle.loads(data, buffers=buffers)

    def dumps(self, value: Any, **options: Any) -> Any:
        """As the module's; a task is its graph's."""
        exposure = None
        if isinstance(value, GraphNode):
            exposure = self._scheduler.exposure_of_task(value.key)
        if exposure is None:
            return self._pickle.dumps(value, **options)
        with self._scheduler.exposures.watch(exposure):
            return self._pickle.dumps(value, **options)


def install(scheduler: StreamScheduler) -> None:
    """For the one scheduler of this process, for ever (protocol/core.py:73)."""
    exposed: Any = ExposedPickle(core.pickle, scheduler)
    core.pickle = exposed
    vars(decoding)["pickle"] = exposed
