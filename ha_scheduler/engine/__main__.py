"""``python -m ha_scheduler.engine``: started by a peer daemon, which passes the descriptors."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from ha_scheduler.engine import process
from ha_scheduler.log_lines import FORMATS, VARIABLE, formatter


def main() -> None:
    """Run an engine and exit with its status, without waiting for threads or handlers."""
    parser = argparse.ArgumentParser(prog="python -m ha_scheduler.engine", description=__doc__)
    parser.add_argument("--channel-fd", type=int, required=True)
    parser.add_argument("--lease-fd", type=int, required=True)
    parser.add_argument("--exposures-fd", type=int, required=True)
    parser.add_argument("--dask-fd", type=int, action="append", default=[])
    arguments = parser.parse_args()
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(os.environ.get(VARIABLE, FORMATS[0]), "engine"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("distributed").setLevel(logging.INFO)
    status = asyncio.run(
        process.run(
            arguments.channel_fd, arguments.lease_fd, arguments.exposures_fd, arguments.dask_fd
        )
    )
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
