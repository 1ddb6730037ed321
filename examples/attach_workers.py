"""Workers of one's own for a cell that runs already, scaled while its leader is killed.

A ``LocalHACluster`` without workers stands for the cell of your operator. Of it this program uses
the address and the certificates, as any program on another machine would.

Run it: ``python examples/attach_workers.py``
"""

from __future__ import annotations

import logging
import os

from ha_scheduler import HACluster, LocalHACluster


def main() -> None:
    with LocalHACluster(n_peers=3, n_workers=0) as cell:
        address, security = cell.scheduler_address, cell.security
        with (
            HACluster(address, security=security, silence_logs=logging.WARNING) as cluster,
            cluster.get_client() as client,
        ):
            cluster.scale(1)
            client.wait_for_workers(1)
            first = client.submit(os.getpid).result()
            cell.leader.kill()
            cluster.scale(2)  # asked for while nobody leads
            client.wait_for_workers(2)
            pids = client.run(os.getpid).values()
            print(f"workers under the next leader: {len(pids)}")
            print(f"the first one is still there: {first in pids}")
        print(f"the cluster is closed, the cell is there: peer {cell.leader.name} leads")


if __name__ == "__main__":
    main()
