"""What an engine counts of takeovers, beside upstream's metrics at ``/metrics``.

Guarantee: counters are those of this leader and begin anew with the next, as with any process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distributed.http.scheduler.prometheus import core
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

NAMES = (
    "dask_ha_engine_sessions",
    "dask_ha_engine_adopted_tasks_total",
    "dask_ha_engine_rerun_tasks_total",
    "dask_ha_engine_resubmitted_requests_total",
    "dask_ha_engine_recovered",
)


class Counts:
    """Since this engine was made."""

    def __init__(self) -> None:
        self.adopted_results = 0
        self.adopted_running = 0
        self.reruns = 0
        self.resubmitted = 0


class HACollector(Collector):
    """Made by upstream's handler at the first request, which gives it each scheduler."""

    def __init__(self, server: Any) -> None:
        self.server = server

    def collect(self) -> Iterator[Metric]:
        counts: Counts = self.server.counts
        yield GaugeMetricFamily(
            "dask_ha_engine_sessions", "Sessions of clients", value=len(self.server.session_of)
        )
        adopted = CounterMetricFamily(
            "dask_ha_engine_adopted_tasks",
            "Tasks that workers had of an earlier leader, and that were not run again",
            labels=["what"],
        )
        adopted.add_metric(["result"], counts.adopted_results)
        adopted.add_metric(["running"], counts.adopted_running)
        yield adopted
        yield CounterMetricFamily(
            "dask_ha_engine_rerun_tasks",
            "Tasks that were given to a worker though one had been given them before",
            value=counts.reruns,
        )
        yield CounterMetricFamily(
            "dask_ha_engine_resubmitted_requests",
            "Requests that clients sent again, and that were known",
            value=counts.resubmitted,
        )
        yield GaugeMetricFamily(
            "dask_ha_engine_recovered",
            "Whether this engine leads and has recovered",
            value=float(self.server.recovery.is_open),
        )


def install() -> None:
    """Idempotent."""
    collectors: list[Any] = core.COLLECTORS
    if HACollector not in collectors:
        collectors.append(HACollector)
