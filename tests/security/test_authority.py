"""The CA and its certificates: contents, modes, and that nothing there is ever replaced.

Method: every property is read back from the files with ``cryptography``; concurrent creation is
done by real processes; an interrupted creation is every prefix of the files it writes.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import stat
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.errors import OperatorError
from ha_scheduler.security import certificate as certificates
from ha_scheduler.security.authority import (
    client_files,
    create_authority,
    engine_files,
    ensure_certificates,
    peer_files,
    reissue,
)
from ha_scheduler.security.checks import check_files
from ha_scheduler.security.tls import Role

CELL = parse_peers("a=10.0.0.1,b=node-2.example.com,c=[fd00::3]")
ALL_FILES = {
    "ca.pem",
    *(f"{name}-ca{suffix}.pem" for name in ("peers", "issuing") for suffix in ("", "-key")),
    *(f"peer-{name}{suffix}.pem" for name in "abc" for suffix in ("", "-key")),
    *(f"engine-{name}{suffix}.pem" for name in "abc" for suffix in ("", "-key")),
    "client.pem",
    "client-key.pem",
    "dask.yaml",
}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name[0] != "."}


def test_init_writes_the_documented_files(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "tls"
    written = create_authority(directory, CELL)
    assert {path.name for path in written} == set(contents(directory)) == ALL_FILES
    assert len(written) == len(ALL_FILES)


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    create_authority(tmp_path, CELL)
    for path in tmp_path.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        private = path.name.endswith("-key.pem") or path.name == ".lock"
        assert mode == (0o600 if private else 0o644), path


def test_certificates_say_who_their_holder_is(tmp_path: Path) -> None:
    create_authority(tmp_path, CELL)
    for name in "abc":
        check_files(peer_files(tmp_path, name), role=Role.PEER, name=name)
        check_files(engine_files(tmp_path, name), role=Role.ENGINE, name=name)
    check_files(client_files(tmp_path), role=Role.CLIENT, name="client")
    names = certificate(tmp_path / "peer-b.pem").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["node-2.example.com", "b", "localhost"]
    names = certificate(tmp_path / "peer-c.pem").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(text) for text in ("fd00::3", "127.0.0.1", "::1")
    ]


def test_lifetimes(tmp_path: Path) -> None:
    create_authority(tmp_path, CELL)
    ca, leaf = certificate(tmp_path / "ca.pem"), certificate(tmp_path / "peer-a.pem")
    skew = certificates.CLOCK_SKEW
    assert ca.not_valid_after_utc - ca.not_valid_before_utc == certificates.CA_LIFETIME + skew
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == certificates.LEAF_LIFETIME + skew
    assert timedelta(days=3650) <= certificates.CA_LIFETIME


def test_an_existing_authority_is_never_overwritten(tmp_path: Path) -> None:
    create_authority(tmp_path, CELL)
    before = contents(tmp_path)
    with pytest.raises(OperatorError, match="never overwritten; add --reissue"):
        create_authority(tmp_path, CELL)
    assert contents(tmp_path) == before


def test_reissue_renews_certificates_and_keeps_authority_and_keys(tmp_path: Path) -> None:
    create_authority(tmp_path, parse_peers("a=10.0.0.1"))
    before = contents(tmp_path)
    reissue(tmp_path, CELL)
    after = contents(tmp_path)
    assert set(after) == ALL_FILES
    for name, data in before.items():
        kept = name.endswith(("-key.pem", "ca.pem"))
        assert (after[name] == data) is kept, name
    for name in "abc":
        check_files(peer_files(tmp_path, name), role=Role.PEER, name=name)


def test_reissue_keeps_what_was_edited(tmp_path: Path) -> None:
    create_authority(tmp_path, parse_peers("a=10.0.0.1"))
    config = tmp_path / "dask.yaml"
    edited = config.read_text() + "\narray:\n  slicing: {}\n"
    config.write_text(edited)
    written = reissue(tmp_path, CELL)
    assert config.read_text() == edited
    assert tmp_path / "dask.yaml.new" in written
    assert "10.0.0.1:8786,node-2.example.com" in (tmp_path / "dask.yaml.new").read_text()


def test_reissue_brings_up_to_date_what_nobody_edited(tmp_path: Path) -> None:
    create_authority(tmp_path, parse_peers("a=10.0.0.1"))
    reissue(tmp_path, CELL)
    assert "10.0.0.1:8786,node-2.example.com" in (tmp_path / "dask.yaml").read_text()
    assert not (tmp_path / "dask.yaml.new").exists()


@pytest.mark.parametrize("peers", ["a=10.0.0.1", "a=10.0.0.1,x=10.0.0.9", "c=10.0.0.3"])
def test_reissue_for_fewer_peers_changes_nothing(tmp_path: Path, peers: str) -> None:
    create_authority(tmp_path, CELL)
    before = contents(tmp_path)
    with pytest.raises(OperatorError, match="which --peers does not name") as caught:
        reissue(tmp_path, parse_peers(peers, any_count=True))
    assert contents(tmp_path) == before
    assert f"rm {tmp_path}/{{peer,engine}}-" in str(caught.value)


def test_reissue_needs_an_authority(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"no peers-ca-key\.pem and no issuing-ca"):
        reissue(tmp_path / "none", CELL)
    assert not (tmp_path / "none").exists()


def test_ensure_changes_nothing_when_all_is_there(tmp_path: Path) -> None:
    create_authority(tmp_path, CELL)
    before = contents(tmp_path)
    assert ensure_certificates(tmp_path, CELL) == []
    assert contents(tmp_path) == before


def test_an_interrupted_creation_is_completed_from_every_prefix(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    order = create_authority(whole, CELL)
    for length in range(len(order)):
        directory = tmp_path / str(length)
        directory.mkdir()
        for path in order[:length]:
            shutil.copy(path, directory)
        ensure_certificates(directory, CELL)
        assert set(contents(directory)) == ALL_FILES
        for name in "abc":
            check_files(peer_files(directory, name), role=Role.PEER, name=name)
        for path in order[:length]:
            if path.name != "dask.yaml":
                assert (directory / path.name).read_bytes() == path.read_bytes(), path


def test_without_the_key_of_the_authority_nothing_is_issued(tmp_path: Path) -> None:
    create_authority(tmp_path, parse_peers("a=10.0.0.1"))
    (tmp_path / "peers-ca-key.pem").unlink()
    before = contents(tmp_path)
    with pytest.raises(OperatorError, match=r"peers-ca-key\.pem is missing"):
        ensure_certificates(tmp_path, CELL)
    assert contents(tmp_path) == before


def test_a_foreign_authority_key_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    create_authority(one, parse_peers("a=10.0.0.1"))
    create_authority(other, parse_peers("a=10.0.0.1"))
    (one / "peers-ca-key.pem").write_bytes((other / "peers-ca-key.pem").read_bytes())
    with pytest.raises(OperatorError, match="is not the key of"):
        ensure_certificates(one, CELL)


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match=r"Certificates cannot be made in .*Not a directory"):
        create_authority(tmp_path / "file" / "tls", CELL)


RACE = """
import pathlib, sys, time
from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.security.authority import ensure_certificates
directory, peers = pathlib.Path(sys.argv[1]), parse_peers(sys.argv[2])
print(flush=True)
start = float(sys.stdin.readline())
for number in range(int(sys.argv[3])):
    while time.monotonic() < start + 0.05 * number:
        pass
    ensure_certificates(directory / str(number), peers)
"""


def test_three_first_starts_at_once_agree_on_one_authority(tmp_path: Path) -> None:
    """Many races, each begun by three processes within microseconds; without the lock most fail."""
    races = 12
    peers = "a=127.0.0.1:1/2,b=127.0.0.1:3/4,c=127.0.0.1:5/6"
    cell, arguments = parse_peers(peers), [str(tmp_path), peers, str(races)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in cell.peers
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
    start = time.monotonic() + 0.05
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{start}\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0, 0]
    for number in range(races):
        assert set(contents(tmp_path / str(number))) == ALL_FILES
        for name in cell.names:
            check_files(peer_files(tmp_path / str(number), name), role=Role.PEER, name=name)


def test_dask_yaml_configures_clients_and_workers(tmp_path: Path) -> None:
    directory = tmp_path / 'with "quotes" and: colons'
    create_authority(directory, CELL)
    config = yaml.safe_load((directory / "dask.yaml").read_text())["distributed"]
    pair = {"cert": str(directory / "client.pem"), "key": str(directory / "client-key.pem")}
    assert config["comm"]["require-encryption"] is True
    assert config["comm"]["tls"] == {
        "min-version": 1.3,
        "ca-file": str(directory / "ca.pem"),
        "client": pair,
        "worker": pair,
    }
    assert config["worker"]["preload"] == ["ha_scheduler.worker.preload"]
    assert config["nanny"]["preload"] == ["ha_scheduler.worker.nanny_preload"]
    assert config["client"]["preload"] == ["client_replay.preload"]


def test_dask_yaml_keeps_a_notebook_free_of_lines_about_preloads(tmp_path: Path) -> None:
    create_authority(tmp_path / "tls", CELL)
    code = (
        "from distributed.preloading import process_preloads\n"
        "process_preloads(None, ['client_replay.preload'], [])\n"
    )

    def said(config: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "DASK_CONFIG": str(config)},
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stderr

    assert "preload" in said(tmp_path / "nothing")
    assert "preload" not in said(tmp_path / "tls" / "dask.yaml")
