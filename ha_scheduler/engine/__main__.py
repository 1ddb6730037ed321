"""``python -m ha_scheduler.engine``: started by a peer daemon, which passes the descriptors."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ha_scheduler.engine", description=__doc__)
    parser.add_argument("--channel-fd", type=int)
    parser.add_argument("--lease-fd", type=int)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--standalone", action="store_true", help="lead at once, without a cell")
    parser.add_argument("--term", type=int, default=1)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--protocol", default="tls")
    parser.add_argument("--tls-ca-file")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    return parser.parse_args()


def main() -> None:
    """Run an engine and exit with its status, without waiting for threads or handlers."""
    arguments = _arguments()
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)s engine %(name)s - %(message)s",
    )
    logging.getLogger("distributed").setLevel(arguments.log_level.upper())
    if arguments.standalone:
        from ha_scheduler.engine import standalone

        status = asyncio.run(standalone.run(vars(arguments), arguments.term))
    else:
        from ha_scheduler.engine import process

        status = asyncio.run(process.run(arguments.channel_fd, arguments.lease_fd))
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
