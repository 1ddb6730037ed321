"""Tokens in a whole cell: who is revoked is cut off at once, and stays so under the next leader."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from client_replay import Client
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.token_admin import TokenAdmin
from ha_scheduler.security.authority import client_files, peer_files
from tests.certificates import security_of
from tests.deadlines import SCALE
from tests.system.conftest import Scene, wait_until

pytestmark = pytest.mark.system

REVOKED_WITHIN_S = 2.0 * SCALE  # as docs/tokens.md says


def test_a_revocation_in_the_middle_of_a_computation_cuts_its_client_alone(
    scene: Scene, tmp_path: Path
) -> None:
    cell = scene.cluster.cell
    assert cell is not None
    assert cell.certificates is not None
    admin = TokenAdmin(ControlClient(cell.cell, peer_files(cell.certificates, "a")))
    for file in ("ca.pem", "client.pem", "client-key.pem"):
        shutil.copy(cell.certificates / file, tmp_path)
    issued = admin.issue("mallory", "client")
    (tmp_path / "client.token").write_text(issued.text)
    address, security = cell.cell.client_address, security_of(client_files(tmp_path))

    mine = scene.client.submit(time.sleep, 2, key="mine")
    mallory = Client(address, security=security, set_as_default=False)
    try:
        assert mallory.submit(abs, -1).result() == 1
        began = time.monotonic()
        admin.revoke(issued.token)
        wait_until(lambda: mallory.status != "running", "mallory is cut off")
        assert time.monotonic() - began < REVOKED_WITHIN_S
    finally:
        mallory.close(timeout=1)
    scene.cluster.leader.kill()
    mine.result()
    with pytest.raises(OSError, match="revoked"):
        Client(address, security=security, set_as_default=False)
