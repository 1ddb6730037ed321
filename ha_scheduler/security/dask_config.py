"""The Dask configuration of unchanged clients and workers of a cell.

For ``DASK_CONFIG=<dir>/dask.yaml``, or ``~/.config/dask/``. The certificates are for every link;
the preloads turn plain ``Client(...)`` and ``dask worker`` into their HA kind. The first line has a
digest of the rest, by which an edited one is known, and never overwritten.
"""

from __future__ import annotations

import hashlib
import json

from ha_scheduler.cell.tls_files import TlsFiles

DASK_CONFIG_FILE = "dask.yaml"

_FIRST_LINE = "# Made by dask-ha-scheduler, which overwrites it while it is unchanged ({digest})"

_TEMPLATE = """\
# Dask configuration of clients and workers of {address}
# Use: DASK_CONFIG=<this file>. Correct the paths if the certificates are copied elsewhere.
#
# With the next line uncommented, Client() and `dask worker` need no address:
# scheduler-address: {address}

logging:
  distributed.preloading: warning  # or each Client() in a notebook begins with three lines of it

distributed:
  comm:
    require-encryption: true
    tls:
      min-version: 1.3
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
    text = _TEMPLATE.format(
        address=address,
        ca=json.dumps(str(files.ca_file)),  # a JSON string is a YAML string, whatever is in it
        cert=json.dumps(str(files.cert_file)),
        key=json.dumps(str(files.key_file)),
    )
    return f"{_first_line(text)}\n{text}"


def is_edited(text: str) -> bool:
    """Whether ``text`` is not as it was made here."""
    first, _, rest = text.partition("\n")
    return first != _first_line(rest)


def _first_line(rest: str) -> str:
    return _FIRST_LINE.format(digest=hashlib.sha256(rest.encode()).hexdigest()[:16])
