"""Commands for a running cell take the cell and the files of TLS from Dask's configuration.

Method: three stand-ins for peers, and the command line with a configuration; options win.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from click.testing import CliRunner, Result
from test_cli_operate import StandInCell

from ha_scheduler.cli.dask_ha import ha
from ha_scheduler.cli.main import main


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[StandInCell]:
    found = StandInCell(tmp_path / "tls")
    found.lead("b", 4)
    yield found
    for peer in found:
        peer.close()


def run(settings: dict[str, Any], *arguments: str, command: Any = main) -> Result:
    with dask.config.set({"ha.peer": settings}):
        return CliRunner().invoke(command, [*arguments, "--timeout", "5"])


def status(settings: dict[str, Any], *options: str, command: Any = main) -> str | None:
    """Who leads, as ``status`` says it."""
    done = run(settings, "status", "--format", "json", *options, command=command)
    assert done.exit_code == 0, done.stderr
    leader: str | None = json.loads(done.stdout)["leader"]
    return leader


@pytest.mark.parametrize("command", [main, ha])
def test_a_command_needs_no_option_where_a_peer_is_configured(
    cell: StandInCell, command: Any
) -> None:
    settings = {"peers": cell.cell.text, "tls-dir": str(cell.directory)}
    assert status(settings, command=command) == "b"
    assert run(settings, "transfer", "--to", "a", command=command).exit_code == 0


def test_the_environment_is_read(cell: StandInCell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_HA__PEER__PEERS", cell.cell.text)
    monkeypatch.setenv("DASK_HA__PEER__TLS_DIR", str(cell.directory))
    with dask.config.set({"ha": dask.config.collect_env().get("ha", {})}):
        assert CliRunner().invoke(main, ["status"]).exit_code == 0


def test_options_win_one_by_one(cell: StandInCell, tmp_path: Path) -> None:
    peers, directory = cell.cell.text, str(cell.directory)
    away = {"peers": "a=127.0.0.1:1/2,b=127.0.0.1:3/4,c=127.0.0.1:5/6", "tls-dir": str(tmp_path)}
    assert status({**away, "tls-dir": directory}, "--peers", peers) == "b"
    assert status({**away, "peers": peers}, "--tls-dir", directory) == "b"
    assert status(away, "--peers", peers, "--tls-dir", directory) == "b"
    assert run(away, "status", "--peers", peers).exit_code == 2, "its directory is empty"


def test_an_option_for_one_file_replaces_all_that_is_configured(
    cell: StandInCell, tmp_path: Path
) -> None:
    single = {"tls-ca-file": "ca.pem", "tls-cert": str(tmp_path / "none.pem"), "protocol": "tcp"}
    settings = {"peers": cell.cell.text, **single}
    assert status(settings, "--tls-dir", str(cell.directory)) == "b"
    refused = run(settings, "status", "--tls-key", "key.pem")
    assert "--tls-ca-file, --tls-cert and --tls-key belong together" in refused.stderr


def test_a_mistake_elsewhere_in_the_configuration_keeps_no_operator_out(cell: StandInCell) -> None:
    settings = {"peers": cell.cell.text, "tls-dir": str(cell.directory)}
    assert status({**settings, "tik-ms": 4, "token-command": "/no/such/file"}) == "b"
    given = ("--peers", cell.cell.text, "--tls-dir", str(cell.directory))
    assert status({"peers": "a,,b", "port": "x", "protocol": "udp"}, *given) == "b"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "--peers is missing"),
        ({"peers": "a,,b"}, "empty entry"),
        ({"peers": "a=127.0.0.1", "protocol": "udp"}, "ha.peer.protocol in Dask's configuration"),
    ],
)
def test_what_is_wrong_there_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    done = run(settings, "status")
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_founds_a_cell_is_told_the_peers(tmp_path: Path) -> None:
    with dask.config.set({"ha.peer": {"peers": "a=127.0.0.1"}}):
        done = CliRunner().invoke(main, ["init", "--dir", str(tmp_path / "new")])
    assert "--peers is missing" in done.stderr


def test_a_token_is_renewed_with_the_certificate_beside_it(
    cell: StandInCell, tmp_path: Path
) -> None:
    """It may be bound to that one, and the configuration names a peer's."""
    token = tmp_path / "own" / "client.token"
    token.parent.mkdir()
    for name in ("client.pem", "client-key.pem", "peers-ca.pem", "issuing-ca.pem", "ca.pem"):
        if (cell.directory / name).exists():
            shutil.copy(cell.directory / name, token.parent / name)
    token.write_text("a.b.c")
    token.chmod(0o600)
    settings = {"peers": cell.cell.text, "tls-dir": str(cell.directory)}
    done = run(settings, "token", "renew", str(token))
    roles = {str(role) for peer in cell for role, _ in peer.seen}
    assert roles == {"client"}, done.stderr
    run(settings, "token", "renew", str(token), "--tls-dir", str(cell.directory))
    assert "peer" in {str(role) for peer in cell for role, _ in peer.seen}, "an option wins"
