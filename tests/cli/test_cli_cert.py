"""``dask ha cert``, and what ``--check`` finds before a start.

Method: the commands in this process, on real directories of certificates.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli.main import main
from ha_scheduler.deploy.ports import free_ports
from ha_scheduler.security.authority import (
    PEERS,
    create_authority,
    engine_files,
    load,
    pair_files,
    peer_files,
)
from ha_scheduler.security.checks import check_files, subject_of
from ha_scheduler.security.files import read_certificates
from ha_scheduler.security.tls import Role
from tests.certificates import odd

CELL = parse_peers("a=10.0.0.1,b=node-2,c=10.0.0.3")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    create_authority(tmp_path / "tls", CELL)
    return tmp_path / "tls"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def serial(path: Path) -> int:
    return read_certificates(path)[0].serial_number


def test_renew_keeps_keys_names_and_hosts(directory: Path) -> None:
    files = peer_files(directory, "b")
    before, key = serial(files.cert_file), files.key_file.read_bytes()
    subject = subject_of(files.cert_file)
    result = run("cert", "renew", "--dir", directory, "--days", "30")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("Renewed ") == 7
    assert serial(files.cert_file) != before
    assert files.key_file.read_bytes() == key
    assert subject_of(files.cert_file) == subject
    assert "node-2" in subject.hosts
    check_files(files, role=Role.PEER, name="b")
    left = read_certificates(files.cert_file)[0].not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)


def test_renew_of_one_leaves_the_others(directory: Path) -> None:
    before = serial(peer_files(directory, "a").cert_file)
    assert run("cert", "renew", "--dir", directory, "client.pem").exit_code == 0
    assert serial(peer_files(directory, "a").cert_file) == before
    wrong = run("cert", "renew", "--dir", directory, "alice.pem")
    assert wrong.exit_code == 2
    assert "has no certificate alice.pem" in wrong.stderr


def test_where_the_peers_key_is_offline_the_rest_is_renewed_and_said(directory: Path) -> None:
    (directory / PEERS.key_file).unlink()
    before = serial(peer_files(directory, "a").cert_file)
    result = run("cert", "renew", "--dir", directory)
    assert result.exit_code == 1
    assert "peer-a.pem was left as it is: peers-ca-key.pem is not in" in result.stderr
    assert "Renewed engine-a.pem." in result.stdout
    assert serial(peer_files(directory, "a").cert_file) == before


@pytest.mark.parametrize("role", list(Role))
def test_issue_makes_one_more(directory: Path, role: Role) -> None:
    arguments = ("cert", "issue", "--dir", directory, "--role", role.value, "--name", "d")
    result = run(*arguments, "--host", "10.0.0.4")
    assert result.exit_code == 0, result.stderr
    files = pair_files(directory, f"{role}-d")
    check_files(files, role=role, name="d")
    assert "10.0.0.4" in subject_of(files.cert_file).hosts
    again = run(*arguments)
    assert again.exit_code == 2
    assert "renew it" in again.stderr


def test_issue_of_a_peer_takes_the_peers_authority(directory: Path) -> None:
    (directory / PEERS.key_file).unlink()
    result = run("cert", "issue", "--dir", directory, "--role", "peer", "--name", "d")
    assert result.exit_code == 2
    assert "do it where this authority's key is kept" in result.stderr
    assert not peer_files(directory, "d").cert_file.exists()


def test_show_says_whose_they_are_and_until_when(directory: Path) -> None:
    result = run("cert", "show", "--dir", directory)
    assert result.exit_code == 0
    rows = [line for line in result.stdout.splitlines() if "sha256:" in line]
    assert len(rows) == 9  # two authorities, three peers, three engines, clients
    assert any("engine-c.pem" in row for row in rows)


def test_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    for command in ("renew", "show"):
        result = run("cert", command, "--dir", tmp_path)
        assert result.exit_code == 2
        assert "holds no ca.pem" in result.stderr


@pytest.fixture
def start(tmp_path: Path) -> list[str]:
    """A start on loopback that nothing is wrong with."""
    peer, dask = free_ports("127.0.0.1", 2)
    create_authority(tmp_path / "own", parse_peers(f"a=127.0.0.1:{peer}/{dask}"))
    return [
        *("--peers", f"a=127.0.0.1:{peer}/{dask}", "--tls-dir", str(tmp_path / "own")),
        *("--data-dir", str(tmp_path / "data"), "--check"),
    ]


def test_check_says_that_a_peer_can_start_and_starts_nothing(
    start: list[str], tmp_path: Path
) -> None:
    result = run(*start)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "can be started" in result.stdout
    assert not (tmp_path / "data").exists()


def test_check_finds_what_a_start_would_stop_at(start: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own"
    files, engine = peer_files(own, "a"), engine_files(own, "a")
    day = timedelta(days=1)

    def refused(sentence: str) -> None:
        result = run(*start)
        assert result.exit_code == 2, result.stdout
        assert sentence in result.stderr
        assert not (tmp_path / "data").exists()

    files.key_file.chmod(0o644)
    refused(f"chmod 600 {files.key_file}")
    files.key_file.chmod(0o600)
    engine.key_file.chmod(0o640)
    refused(f"chmod 600 {engine.key_file}")
    engine.key_file.chmod(0o600)
    own.chmod(0o777)
    refused(f"chmod go-w {own}")
    own.chmod(0o755)
    (tmp_path / "pid").symlink_to("data")
    start += ["--pid-file", str(tmp_path / "pid")]
    refused("which is not followed")
    del start[-2:]
    subject = [("OU", "peer"), ("CN", "a")]
    odd(own, "peer-a", subject, load(own, PEERS), valid=(-2 * day, -day))
    refused("expired on")
