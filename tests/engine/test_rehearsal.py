"""What an engine that follows has done already when it leads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ha_scheduler.security.authority import client_files, engine_files
from tests.certificates import issue

FIRST_CALLER = """
import asyncio, ssl, sys
from distributed import versions
from distributed.comm import connect
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.engine.process import EngineProcess
from ha_scheduler.protocol.engine import EngineSettings
from ha_scheduler.protocol.peer import PeerAddress
from ha_scheduler.shared_exposures import SharedExposures
from ha_scheduler.shared_lease import SharedLease, now
from tests.certificates import security_of
from tests.engine.conftest import KeptLog
from ha_scheduler.cell.tls_files import TlsFiles
from pathlib import Path

engine, client = TlsFiles(*map(Path, sys.argv[1:4])), TlsFiles(*map(Path, sys.argv[4:7]))
loaded = []

def note(owner, name):
    original = getattr(owner, name)
    def noting(*args, **kwargs):
        loaded.append(name)
        return original(*args, **kwargs)
    setattr(owner, name, noting)

async def test():
    (port,) = free_ports("127.0.0.1", 1)
    lease = SharedLease.create()
    lease.extend(now() + 3600)
    process = EngineProcess(None, lease, SharedExposures(-1))
    options = {
        "host": "127.0.0.1", "port": port, "dashboard": False, "dashboard_address": ":0",
        "tls_ca_file": str(engine.ca_file), "tls_cert": str(engine.cert_file),
        "tls_key": str(engine.key_file),
    }
    peers = (PeerAddress("a", "127.0.0.1", 1, port),)
    process._handle(EngineSettings("cell", "a", peers, options))
    scheduler = process._scheduler
    arguments = security_of(client).get_connection_args("client")

    note(ssl.SSLContext, "load_default_certs")
    note(versions, "version")
    await scheduler.activate(1, KeptLog(), lambda phase, detail: None)
    comm = await connect(scheduler.address, **arguments)
    await comm.write({"op": "register-client", "client": "c", "reply": False, "versions": {}})
    await comm.read()
    print(loaded)

asyncio.run(test())
"""


def test_a_takeover_loads_nothing_that_the_follower_could_have_loaded(tmp_path: Path) -> None:
    issue(tmp_path, "a")
    files = [
        str(path)
        for files in (engine_files(tmp_path, "a"), client_files(tmp_path))
        for path in (files.ca_file, files.cert_file, files.key_file)
    ]
    told = subprocess.run(
        [sys.executable, "-c", FIRST_CALLER, *files], capture_output=True, text=True, check=False
    )
    assert told.stdout.strip() == "[]", told.stdout + told.stderr
