"""The engine's settings, from the daemon's ``Welcome`` to upstream's Scheduler.

The keys are ``ENGINE_OPTIONS`` of ``ha_scheduler/peer/settings.py``: the options of ``dask
scheduler`` under their own names.
"""

from __future__ import annotations

from typing import Any

from distributed.security import Security


def scheduler_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``distributed.Scheduler``."""
    protocol = options.get("protocol") or "tls"
    return {
        "host": options.get("host") or None,
        "port": options.get("port") or 0,
        "protocol": f"{protocol}://",
        "security": security(options),
        "dashboard": options.get("dashboard"),
        "dashboard_address": options.get("dashboard_address"),
        "http_prefix": options.get("dashboard_prefix") or "/",
        "preload": options.get("preload") or None,
        "preload_argv": options.get("preload_argv") or (),
        "idle_timeout": options.get("idle_timeout"),
    }


def security(options: dict[str, Any]) -> Security:
    """TLS of everything that the engine listens to and connects to."""
    if not options.get("tls_ca_file"):
        return Security(require_encryption=False)
    return Security(
        require_encryption=True,
        tls_ca_file=options["tls_ca_file"],
        tls_scheduler_cert=options["tls_cert"],
        tls_scheduler_key=options["tls_key"],
    )
