"""How long tests wait for what does not come: on two cores, times ``DASK_HA_TEST_SCALE``."""

from __future__ import annotations

import os

SCALE = float(os.environ.get("DASK_HA_TEST_SCALE", "1"))
