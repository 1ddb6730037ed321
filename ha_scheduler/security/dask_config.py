"""The Dask configuration of unchanged clients and workers of a cell.

For ``DASK_CONFIG=<dir>/dask.yaml``, or ``~/.config/dask/``. The certificates are for every link;
the preloads turn plain ``Client(...)`` and ``dask worker`` into their HA kind.
"""

from __future__ import annotations

import json

from ha_scheduler.cell.tls_files import TlsFiles

DASK_CONFIG_FILE = "dask.yaml"

_TEMPLATE = """\
# Dask configuration of clients and workers of {address}
# Use: DASK_CONFIG=<this file>. Correct the paths if the certificates are copied elsewhere.
#
# With the next line uncommented, Client() and `dask worker` need no address:
# scheduler-address: {address}

distributed:
  comm:
    require-encryption: true
    tls:
      ca-file: {ca}
      client:
        cert: {cert}
        key: {key}
      worker:
        cert: {cert}
        key: {key}
  worker:
    preload:
      - ha_scheduler.worker.preload
  nanny:
    preload:
      - ha_scheduler.worker.nanny_preload
  client:
    preload:
      - client_replay.preload
"""


def dask_config(files: TlsFiles, address: str) -> str:
    """The text of ``dask.yaml`` for clients and workers that use ``files``."""
    return _TEMPLATE.format(
        address=address,
        ca=json.dumps(str(files.ca_file)),  # a JSON string is a YAML string, whatever is in it
        cert=json.dumps(str(files.cert_file)),
        key=json.dumps(str(files.key_file)),
    )
