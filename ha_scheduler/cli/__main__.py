"""``python -m ha_scheduler.cli`` is ``dask-ha-scheduler``."""

from __future__ import annotations

from ha_scheduler.cli.main import main

if __name__ == "__main__":
    main()
