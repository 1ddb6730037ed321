"""Every mistake of an operator: one sentence on stderr, exit status 2, nothing changed on disk.

Method: the command runs as a real process where the process matters (imports, exit status,
concurrency), else through click in this one. The daemon is never reached; one that is reached is
replaced by a stand-in that records its settings.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cli import host as host_module
from ha_scheduler.cli import preflight
from ha_scheduler.cli.main import main
from ha_scheduler.errors import OperatorError
from ha_scheduler.peer.settings import ENGINE_OPTIONS, PeerSettings
from ha_scheduler.security.authority import create_authority
from ha_scheduler.storage import errors

Run = Callable[..., Result]


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b""
        for path in directory.rglob("*")
    }


@pytest.fixture
def ports() -> list[int]:
    """Six ports that are free at this moment, below the range of source ports."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        while len(found) < 6:
            port = random.SystemRandom().randrange(10_000, 32_000)  # other test runs choose too
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        return found


@pytest.fixture
def peers(ports: list[int]) -> str:
    pairs = zip("abc", ports[::2], ports[1::2], strict=True)
    return ",".join(f"{name}=127.0.0.1:{peer}/{dask}" for name, peer, dask in pairs)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for which no operator has named another, and a short grace for ports."""
    from ha_scheduler.cli import certificates
    from ha_scheduler.cli import main as main_module

    path = tmp_path / "state"
    monkeypatch.setattr(certificates, "state_directory", lambda: path)
    monkeypatch.setattr(main_module, "state_directory", lambda: path)
    monkeypatch.setattr(preflight, "PORT_GRACE_S", 0.05)
    return path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[PeerSettings]:
    """The settings with which daemons were run."""
    seen: list[PeerSettings] = []

    def run(settings: PeerSettings, **more: Any) -> int:
        seen.append(settings)
        return 0

    import ha_scheduler.peer

    daemon = types.ModuleType("ha_scheduler.peer.daemon")
    daemon.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ha_scheduler.peer.daemon", daemon)
    monkeypatch.setattr(ha_scheduler.peer, "daemon", daemon, raising=False)
    from ha_scheduler.cli import main as main_module

    monkeypatch.setattr(main_module, "set_up_logging", lambda *given: None)
    return seen


@pytest.fixture
def run(started: list[PeerSettings]) -> Run:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke


def assert_refused(result: Result, sentence: str, status: int = 2) -> None:
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert sentence in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith(".\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--peers is missing"),
        (["--peers", "a,b", "--name", "a"], "odd number"),
        (["--peers", "a=127.0.0.1", "--join", "--replace"], "leave one of them out"),
        (["--peers", "a=127.0.0.1", "--join"], "--join needs a certificate of the cell"),
        (["--peers", "a=127.0.0.1", "--name", "z"], "--name z is not one of the peers (a)"),
        (["--peers", "a=127.0.0.1", "--tick-ms", "1"], "--tick-ms 1 is out of range"),
        (["--peers", "a=127.0.0.1", "--election-ticks", "2"], "--election-ticks 2"),
        (["--peers", "a=127.0.0.1", "--engine-watchdog", "0"], "--engine-watchdog 0"),
        (["--peers", "a=127.0.0.1", "--port", "0"], "'--port': 0 is not in the range"),
        (["--peers", "a=127.0.0.1/5", "--port", "6"], "--port 6 differs from the Dask port 5"),
        (["--peers", "a=10.0.0.1", "--protocol", "tcp"], "--protocol tcp is for cells on loopback"),
        (
            ["--peers", "a=127.0.0.1", "--protocol", "tcp", "--tls-dir", "x"],
            "--protocol tcp uses no TLS files",
        ),
        (["--peers", "a=127.0.0.1", "--protocol", "ucx"], "'ucx' is not one of"),
        (["--peers", "a=127.0.0.1", "--interface", "nope"], "--interface nope is no network"),
        (
            ["--peers", "a=127.0.0.1", "--interface", "lo", "--host", "127.0.0.1"],
            "--host and --interface both",
        ),
        (["--peers", "a=127.0.0.1", "--host", "tcp://127.0.0.1"], "the protocol is tls"),
        (["--peers", "a=127.0.0.1", "--host", "127.0.0.1:99"], "says port 99"),
        (["--peers", "a=127.0.0.1", "--host", "a/b"], "no address or host name"),
        (["--peers", "a=127.0.0.1", "--tls-cert", "x"], "belong together"),
        (["--peers", "a=127.0.0.1", "--dashboard-address", "x:y"], "ends in no port"),
        (["--peers", "a=127.0.0.1", "--http-address", "8788x"], "ends in no port"),
        (
            ["--peers", "a=127.0.0.1", "--protocol", "tcp", "--http-address", "0.0.0.0:8788"],
            "name an address of loopback",
        ),
        (
            ["--peers", "a=127.0.0.1", "--protocol", "tcp", "--dashboard-address", "0.0.0.0:8787"],
            "name an address of loopback",
        ),
        (["--peers", "a=127.0.0.1", "--idle-timeout", "soon"], "'soon' is no span of time"),
        (["--peers", "a=127.0.0.1", "--idle-timeout", "0"], "'0' is no span of time"),
        (["--peers", "a=127.0.0.1", "--session-ttl", "lunch"], "--session-ttl 'lunch' is no span"),
        (["--peers", "a=127.0.0.1", "--preload", "/no/such.py"], "/no/such.py does not exist"),
        (["--peers", "a=127.0.0.1", "--preload-argv", "x"], "no --preload to take it"),
        (["--peers", "a=127.0.0.1", "--nonsense"], "No such option"),
        (["--peers", "a=127.0.0.1", "stauts"], "No such command 'stauts'"),
        (["--peers", "a=127.0.0.1", "status"], "--peers stands before the command status"),
        (["status"], "--peers is missing"),
        (["status", "--peers", "a=10.0.0.1"], "No certificate to ask the peers with"),
        (["status", "--peers", "a,b,c,d,e,f,g,h"], "at most 7"),
        (["members", "remove", "--peers", "a=127.0.0.1"], "Missing argument 'NAME'"),
        (["transfer", "--peers", "a=127.0.0.1", "--protocol", "tcp", "--to", "z"], "--to z is not"),
        (["init"], "--peers is missing"),
        (["init", "--peers", "a"], "--dir is missing"),
        (["init", "--peers", "a,b", "--dir", "made"], "odd number"),
        (["init", "--peers", "a", "--dir", "made", "--reissue"], "holds no peers-ca-key.pem"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(
    arguments: list[str],
    sentence: str,
    run: Run,
    started: list[PeerSettings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(run(*arguments), sentence)
    assert started == []
    assert tree(tmp_path) == {}


def test_the_own_name_is_not_found_on_this_host(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ha_scheduler.cli.main.local_addresses", lambda: {"198.51.100.1"})
    peers = "a=192.0.2.1,b=192.0.2.2,c=192.0.2.3"
    assert_refused(run("--peers", peers), "None of the peers (a, b, c)")
    assert tree(tmp_path) == {}


def test_the_own_name_is_found_by_address_and_by_a_resolvable_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "local_addresses", lambda: {"10.0.0.7"})
    found = {"me.example.com": "10.0.0.7", "other.example.com": "10.0.0.8"}

    def resolve(host: str, port: object, **_: object) -> list[object]:
        if host not in found:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found[host], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    cell = parse_peers("a=me.example.com,b=other.example.com,c=gone.example.com")
    names = host_module.local_names(cell)
    assert "me.example.com" in names
    assert not {"other.example.com", "gone.example.com"} & names


@pytest.mark.parametrize(("index", "kind"), [(0, "peer port"), (1, "Dask port")])
def test_a_taken_port_is_named(
    index: int, kind: str, run: Run, peers: str, ports: list[int], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", ports[index])):
        result = run("--peers", peers, "--name", "a", "--data-dir", tmp_path / "data")
    assert_refused(result, f"The {kind} 127.0.0.1:{ports[index]} is taken by another process")
    assert tree(tmp_path) == {}


def test_an_address_of_another_host_cannot_be_listened_at(
    run: Run, peers: str, tmp_path: Path
) -> None:
    result = run(
        "--peers", peers, "--name", "a", "--host", "203.0.113.1", "--data-dir", tmp_path / "data"
    )
    assert_refused(result, "203.0.113.1 is no address of this host")
    assert tree(tmp_path) == {}


def test_a_port_that_is_freed_within_the_grace_is_no_error(
    monkeypatch: pytest.MonkeyPatch, ports: list[int]
) -> None:
    monkeypatch.setattr(preflight, "PORT_GRACE_S", 10.0)
    listener = socket.create_server(("127.0.0.1", ports[0]))
    monkeypatch.setattr(preflight.time, "sleep", lambda _: listener.close())
    preflight.check_port("127.0.0.1", ports[0], "peer port", "another")


def test_all_addresses_are_tried_when_no_host_is_named(ports: list[int]) -> None:
    preflight.check_port("", ports[0], "peer port", "another")
    with (
        socket.create_server(("127.0.0.1", ports[0])),
        pytest.raises(OperatorError, match=f"The peer port {ports[0]} is taken"),
    ):
        preflight.check_port("", ports[0], "peer port", "another")


def test_a_data_directory_that_is_a_file(run: Run, peers: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        result = run("--peers", peers, "--name", "a", "--data-dir", path)
        assert_refused(result, "is not a directory")
    assert tree(tmp_path) == {"file": b""}


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o755)
    other = 65534
    if os.geteuid() == 0:
        os.chmod(tmp_path, 0o755)
        os.seteuid(other)
    else:
        locked.chmod(0o555)
    try:
        for path in (locked, locked / "a" / "b"):
            with pytest.raises(OperatorError, match="is not writable"):
                preflight.check_data_dir(path)
        with pytest.raises(OperatorError, match=r"PID file .* cannot be written"):
            preflight.check_pid_file(locked / "pid")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        else:
            locked.chmod(0o755)


def test_a_pid_file_that_cannot_be_written(run: Run, peers: str, tmp_path: Path) -> None:
    result = run(
        "--peers", peers, "--name", "a", "--data-dir", tmp_path / "data",
        "--pid-file", tmp_path / "none" / "pid",
    )  # fmt: skip
    assert_refused(result, "cannot be written")
    assert tree(tmp_path) == {}


def test_a_cell_beyond_loopback_needs_certificates(run: Run, tmp_path: Path) -> None:
    result = run(
        "--peers", "a=192.0.2.1,b=192.0.2.2,c=192.0.2.3", "--name", "a",
        "--data-dir", tmp_path / "data",
    )  # fmt: skip
    assert_refused(result, "Peer a has no certificate in")
    assert "dask-ha-scheduler init" in result.stderr
    assert tree(tmp_path) == {}


def test_a_certificate_of_another_peer_is_refused(run: Run, peers: str, tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    create_authority(tls, parse_peers(peers))
    before = tree(tmp_path)
    result = run(
        "--peers", peers, "--name", "a", "--data-dir", tmp_path / "data",
        "--tls-ca-file", tls / "ca.pem",
        "--tls-cert", tls / "peer-b.pem",
        "--tls-key", tls / "peer-b-key.pem",
    )  # fmt: skip
    assert_refused(result, "is for peer b (OU, CN), not for peer a")
    result = run(
        "--peers", peers, "--name", "a", "--data-dir", tmp_path / "data",
        "--tls-ca-file", tls / "ca.pem",
        "--tls-cert", tls / "peer-a.pem",
        "--tls-key", tls / "peer-b-key.pem",
    )  # fmt: skip
    assert_refused(result, "peer-b-key.pem is not the key of the certificate")
    assert tree(tmp_path) == before


def test_a_missing_file_of_a_pair_is_named(run: Run, tmp_path: Path) -> None:
    peers = "a=192.0.2.1,b=192.0.2.2,c=192.0.2.3"
    tls = tmp_path / "data" / "tls"
    create_authority(tls, parse_peers(peers))
    (tls / "peer-a-key.pem").unlink()
    result = run("--peers", peers, "--name", "a", "--data-dir", tmp_path / "data")
    assert_refused(result, "peer-a-key.pem does not exist")


@pytest.mark.parametrize("missing", ["engine-a.pem", "engine-a-key.pem"])
@pytest.mark.parametrize("named", [False, True])
def test_a_peer_without_the_pair_of_its_engine_does_not_start(
    run: Run, started: list[PeerSettings], tmp_path: Path, missing: str, named: bool
) -> None:
    peers = "a=192.0.2.1,b=192.0.2.2,c=192.0.2.3"
    tls = tmp_path / "data" / "tls"
    create_authority(tls, parse_peers(peers))
    (tls / missing).unlink()
    files = [
        *("--tls-ca-file", tls / "ca.pem"),
        *("--tls-cert", tls / "peer-a.pem"),
        *("--tls-key", tls / "peer-a-key.pem"),
    ]
    arguments = ["--peers", peers, "--name", "a", "--data-dir", tmp_path / "data"]
    result = run(*arguments, *(files if named else []))
    assert_refused(result, f"{missing} does not exist")
    assert started == []


def test_the_pair_of_a_peer_is_none_of_an_engine(
    run: Run, started: list[PeerSettings], tmp_path: Path
) -> None:
    peers = "a=192.0.2.1,b=192.0.2.2,c=192.0.2.3"
    tls = tmp_path / "data" / "tls"
    create_authority(tls, parse_peers(peers))
    for suffix in (".pem", "-key.pem"):
        (tls / f"engine-a{suffix}").write_bytes((tls / f"peer-a{suffix}").read_bytes())
    result = run("--peers", peers, "--name", "a", "--data-dir", tmp_path / "data")
    assert_refused(result, "is for peer a (OU, CN), not for engine a")
    assert started == []


def test_a_witness_needs_no_pair_for_an_engine(
    run: Run, started: list[PeerSettings], tmp_path: Path, ports: list[int]
) -> None:
    peers = f"a=192.0.2.1:{ports[0]}/{ports[1]},b=192.0.2.2,c=192.0.2.3"
    tls = tmp_path / "data" / "tls"
    create_authority(tls, parse_peers(peers))
    for file in tls.glob("engine-*"):
        file.unlink()
    result = run("--peers", peers, "--name", "a", "--data-dir", tmp_path / "data", "--witness")
    assert (result.exit_code, result.output) == (0, "")
    assert started[0].engine_tls is None


def test_certificates_in_the_data_directory_are_found(
    run: Run, started: list[PeerSettings], tmp_path: Path, ports: list[int]
) -> None:
    peers = f"a=192.0.2.1:{ports[0]}/{ports[1]},b=192.0.2.2,c=192.0.2.3"
    tls = tmp_path / "data" / "tls"
    create_authority(tls, parse_peers(peers))
    result = run("--peers", peers, "--name", "a", "--data-dir", tmp_path / "data")
    assert (result.exit_code, result.output) == (0, "")
    (settings,) = started
    assert settings.tls is not None
    assert settings.tls.cert_file == tls / "peer-a.pem"
    assert settings.listen_host == ""


def test_the_daemon_is_given_what_the_options_said(
    run: Run, started: list[PeerSettings], tmp_path: Path, peers: str, ports: list[int]
) -> None:
    preload = tmp_path / "p.py"
    preload.touch()
    result = run(
        "--peers", peers, "--name", "b", "--data-dir", tmp_path / "data",
        "--host", "tls://127.0.0.1", "--tls-dir", tmp_path / "tls",
        "--no-dashboard", "--dashboard-address", ":0", "--dashboard-prefix", "/x",
        "--http-address", ":8788",
        "--preload", preload, "--preload-argv", "y", "--preload-argv", "z",
        "--idle-timeout", "1 hour", "--session-ttl", "30 minutes",
        "--pid-file", tmp_path / "pid", "--log-level", "DEBUG",
        "--tick-ms", "20", "--heartbeat-ticks", "1", "--election-ticks", "30",
        "--engine-watchdog", "60", "--priority", "1",
    )  # fmt: skip
    assert (result.exit_code, result.output) == (0, "")
    (settings,) = started
    tls = tmp_path / "tls"
    assert settings.cell == parse_peers(peers)
    assert settings.name == "b"
    assert settings.host == "127.0.0.1"
    assert settings.data_dir == tmp_path / "data"
    assert settings.pid_file == tmp_path / "pid"
    assert settings.timing.election_s == pytest.approx((0.6, 1.2))
    assert settings.engine_watchdog_s == 60.0
    assert settings.priority == 1
    assert settings.http == ("127.0.0.1", 8788)  # as the peer is
    assert tuple(settings.engine_options) == ENGINE_OPTIONS
    assert settings.engine_options == {
        "host": "127.0.0.1",
        "port": ports[3],
        "protocol": "tls",
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",  # as the peer is
        "dashboard_prefix": "/x",
        "preload": [str(preload)],
        "preload_argv": ["y", "z"],
        "idle_timeout": "1 hour",
        "session_ttl": "30 minutes",
        "tls_ca_file": str(tls / "ca.pem"),
        "tls_cert": str(tls / "engine-b.pem"),
        "tls_key": str(tls / "engine-b-key.pem"),
        "log_level": "debug",
    }
    assert not settings.data_dir.exists()  # that is the daemon's to make


def test_plaintext_on_loopback_when_asked_for(
    run: Run, started: list[PeerSettings], tmp_path: Path, peers: str
) -> None:
    result = run("--peers", peers, "--name", "a", "--protocol", "tcp", "--data-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert started[0].tls is None
    assert started[0].engine_options["tls_ca_file"] is None
    assert tree(tmp_path) == {}


def test_peers_of_a_loopback_cell_find_the_certificates_of_the_first(
    run: Run, started: list[PeerSettings], tmp_path: Path, peers: str, state: Path
) -> None:
    for name in "abc":
        result = run("--peers", peers, "--name", name, "--data-dir", tmp_path / name)
        assert result.exit_code == 0, result.output
    authorities = {settings.tls.ca_file for settings in started if settings.tls is not None}
    (ca_file,) = authorities
    assert ca_file.is_relative_to(state)
    assert len(started) == 3


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (errors.DataDirectoryLocked(Path("/d")), 2, "another process runs on /d"),
        (errors.ForeignDataDirectory(Path("/d"), "x", "y"), 2, "/d belongs to x, this is y"),
        (errors.NewerFormat(Path("/d"), 9, 1), 2, "/d has format 9"),
        (errors.CorruptLog(Path("/d"), 7, "checksum"), 1, "log entry 7"),
        (errors.DiskFull(Path("/d"), "ENOSPC"), 1, "no room"),
        (OperatorError("No."), 2, "No."),
    ],
)
def test_what_the_daemon_raises_is_one_sentence(
    error: Exception,
    status: int,
    sentence: str,
    run: Run,
    tmp_path: Path,
    peers: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(settings: PeerSettings, **more: Any) -> int:
        raise error

    monkeypatch.setattr(sys.modules["ha_scheduler.peer.daemon"], "run", refuse)
    result = run("--peers", peers, "--name", "a", "--protocol", "tcp", "--data-dir", tmp_path)
    assert_refused(result, sentence, status)


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ha_scheduler.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_real_process_exits_with_2_and_one_line() -> None:
    done = process("--peers", "a,b,c,d", "--name", "a")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: --peers names 4 peers")
    assert done.stderr.count("\n") == 1


def test_help_names_the_options_of_dask_scheduler() -> None:
    done = process("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for option in (
        "--host", "--port", "--interface", "--protocol", "--tls-ca-file", "--tls-cert",
        "--tls-key", "--dashboard-address", "--dashboard / --no-dashboard", "--dashboard-prefix",
        "--preload", "--idle-timeout", "--pid-file", "--version",
    ):  # fmt: skip
        assert option in done.stdout, option


def test_the_command_line_imports_neither_dask_nor_distributed() -> None:
    code = (
        "import sys, ha_scheduler.cli.main\n"
        "print([m for m in ('dask', 'distributed', 'rich', 'ha_scheduler.raft') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
