"""``doctor`` and ``debug bundle``: what is concluded, and that no secret leaves the cell.

Method: what peers may find out, made up and judged; and a cell of one real daemon.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from test_cli_operate import member, status

from ha_scheduler.cli.debug import scrub, without_secrets
from ha_scheduler.cli.diagnosis import Finding, NoElection, Prediction, findings, predict
from ha_scheduler.cli.main import main
from ha_scheduler.protocol.control import CertificateEnd, Examined, Member, Order, Status, Way
from ha_scheduler.protocol.peer import Failover
from tests.peer.toy_cell import ToyCell

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def way(to: str, **more: Any) -> Way:
    usual = {"error": "", "trip_s": 0.0002, "offset_s": 0.0, "port_error": ""}
    return Way(peer=to, **{**usual, **more})


def peer(name: str, *ways: Way, **more: Any) -> Examined:
    usual: dict[str, Any] = {
        "release": "1",
        "versions": {"python": "3.11.7"},
        "system": "Linux",
        "at": 0.0,
        "tick_ms": 50,
        "heartbeat_ticks": 2,
        "election_ticks": 12,
        "priority": 2,
        "fsync_s": 0.001,
        "fsync_s_max": 0.002,
        "free_bytes": 1 << 40,
        "files_max": 65536,
    }
    ways = ways or tuple(way(other) for other in "abc" if other != name)
    return Examined(name=name, ways=ways, **{**usual, **more})


def cell(**more: Any) -> dict[str, Status]:
    members = tuple(map(member, "abc"))
    leads = status("a", "leader", 4, "a", **{"members": members, **more})
    return {"a": leads, **{n: status(n, "follower", 4, "a", members=members) for n in "bc"}}


def examined(**changed: Examined) -> dict[str, Examined]:
    return {**{name: peer(name) for name in "abc"}, **changed}


def judge(
    statuses: dict[str, Status] | None = None,
    found: dict[str, Examined] | None = None,
    unreachable: dict[str, str] | None = None,
) -> list[Finding]:
    return findings(unreachable or {}, statuses or cell(), found or examined(), NOW)


def test_of_a_sound_cell_there_is_nothing_to_fix() -> None:
    assert judge() == []


AWAY = peer("b", way("a"), way("c", error="Connection refused"))
FAR = peer("b", way("a", trip_s=0.08), way("c"))


@pytest.mark.parametrize(
    ("given", "fatal", "what", "fix"),
    [
        ({"found": examined(b=AWAY)}, True, "b does not reach c", "from b to c"),
        ({"unreachable": {"c": "Peer c is away."}}, False, "Peer c is away", "from this machine"),
        ({"found": examined(b=FAR)}, False, "a round trip of 80 ms", "--election-ticks 17"),
        ({"found": examined(b=peer("b", fsync_s=0.3))}, False, "300 ms on the disk of b", "SSD"),
        ({"found": examined(a=peer("a", way("b", offset_s=-3.0)))}, False, "3.0 s behind", "NTP"),
        ({"found": examined(b=peer("b", release="2"))}, False, "differs: a 1, b 2", "the same"),
        (
            {"found": examined(b=peer("b", versions={"python": "3.12"}))},
            False,
            "python differs",
            "the same",
        ),
        ({"found": examined(b=peer("b", election_ticks=6))}, True, "timing", "the same options"),
        ({"found": examined(b=peer("b", free_bytes=1 << 20))}, True, "0.0 GiB", "make room"),
        ({"found": examined(b=peer("b", files_max=1024))}, False, "1024 files", "LimitNOFILE"),
        ({"statuses": {"a": status("a", "follower", 1, "")}}, True, "nobody leads", "majority"),
        (
            {"statuses": cell(maintenance=(Order("c", 0, "root", 1),))},
            False,
            "c is drained",
            "`undrain c`",
        ),
        (
            {"statuses": cell(maintenance=(Order("", 1 << 31, "root", 1),))},
            False,
            "failover is off",
            "`failover on`",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(
    given: dict[str, Any], fatal: bool, what: str, fix: str
) -> None:
    found = judge(**given)
    assert [f.fatal for f in found if what in f.what and fix in f.fix] == [fatal], found


def test_a_certificate_that_ends_soon_is_named_and_one_that_has_ended_is_fatal() -> None:
    ends = [CertificateEnd("peer-a.pem", int((NOW + timedelta(days=d)).timestamp())) for d in (3,)]
    (soon,) = judge(cell(certificates=tuple(ends)))
    assert "peer-a.pem" in soon.what
    assert not soon.fatal
    past = CertificateEnd("peer-a.pem", int((NOW - timedelta(days=1)).timestamp()))
    assert judge(cell(certificates=(past,)))[0].fatal


def test_the_prediction_follows_from_the_timing_and_what_was_measured() -> None:
    took = [
        Failover(n, "a", 0.0, {"elected": 1.0, "serving": 1.0 + s}, {})
        for n, s in enumerate((0.1, 0.2, 0.9))
    ]
    expected = predict(cell(), examined(), took)
    assert isinstance(expected, Prediction)
    assert 0.6 < expected.election_least < 0.61
    assert 0.8 < expected.election_mean < 0.81, "the first of two stands after 4/3 of 600 ms"
    assert 1.2 < expected.election_most < 1.21
    assert expected.serving == pytest.approx(0.2)
    slow = predict(cell(), {n: peer(n, election_ticks=24) for n in "abc"}, [])
    assert isinstance(slow, Prediction)
    assert 1.6 < slow.failover < 1.61
    assert predict({"b": cell()["b"]}, examined(), []) is None


def members(*down: str, of: str = "abc", role: str = "voter") -> tuple[Member, ...]:
    """Of a cell of ``of``, with some ``down``."""
    return tuple(replace(member(n, role), connected=n not in down) for n in of)


OFF = Order("", 1_796_083_200, "root", 1)
DRAINED = (Order("b", 0, "root", 1), Order("c", 0, "root", 1))


@pytest.mark.parametrize(
    ("statuses", "why"),
    [
        (cell(members=members("c")), "it takes 2 of 3 voters, and 1 would be up"),
        (cell(members=members("d", "e", of="abcde")), "it takes 3 of 5 voters, and 2 would be up"),
        (cell(members=members(of="a")), "it takes 1 of 1 voters, and 0 would be up"),
        (
            cell(members=members("c") + members(of="d", role="learner")),
            "it takes 2 of 3 voters, and 1 would be up",
        ),
        (
            {"b": status("b", "follower", 4, "", members=members("a", "c"))},
            "Nobody can be elected now: it takes 2 of 3 voters, and 1 are up.",
        ),
        (cell(maintenance=(OFF,)), "nobody would be elected: failover is off until 2026-"),
        (cell(maintenance=DRAINED), "the other peers that are up are drained, or witnesses"),
        (
            cell(
                members=members(of="ab") + members(of="c", role="witness"), maintenance=DRAINED[:1]
            ),
            "the other peers that are up are drained, or witnesses",
        ),
    ],
)
def test_where_nobody_would_be_elected_no_time_is_told(
    statuses: dict[str, Status], why: str
) -> None:
    expected = predict(statuses, examined(), [])
    assert isinstance(expected, NoElection)
    assert why in expected.why


def test_a_peer_that_is_away_drained_or_a_learner_does_not_make_an_election_shorter() -> None:
    alone = predict(cell(members=members("d", "e", of="abcde")[:4]), examined(), [])
    assert isinstance(alone, NoElection), "of four voters, three must be up"
    drained = predict(cell(maintenance=DRAINED[1:]), examined(), [])
    more = predict(cell(members=members() + members(of="d", role="learner")), examined(), [])
    usual = predict(cell(), examined(), [])
    assert isinstance(drained, Prediction)
    assert isinstance(usual, Prediction)
    assert drained.election_mean == pytest.approx(usual.election_mean + 0.1), "3/2, not 4/3"
    assert more == usual


CANARY = "canary-4711-secret"
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJjYW5hcnktNDcxMSJ9.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
        f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}\n(cut off here)",
        f"Authorization: Bearer {CANARY}",
        f"https://user:{CANARY}@proxy:3128/",
        f"DB_PASSWORD={CANARY}",
        f'"api_key": "{CANARY}"',
        f"password: {CANARY}",
        f"token={CANARY};",
    ],
)
def test_what_looks_like_a_secret_is_left_out_of_any_text(text: str) -> None:
    scrubbed = scrub(f"before\n{text}\nafter\n")
    assert CANARY not in scrubbed
    assert scrubbed.startswith("before\n")


def test_a_token_is_left_out_and_the_line_around_it_stays() -> None:
    assert scrub(f"it showed {JWT} at 12:00") == "it showed (left out) at 12:00"


def test_of_a_configuration_secrets_are_left_out_and_files_stay() -> None:
    tree = {"a": {"auth-token": CANARY, "tls": {"client": {"key": "/etc/key.pem"}}}, "n": [1]}
    assert without_secrets(tree) == {
        "a": {"auth-token": "(left out)", "tls": {"client": {"key": "/etc/key.pem"}}},
        "n": [1],
    }


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyCell]:
    with ToyCell(tmp_path_factory.mktemp("cell"), names="a") as cell:
        cell.settled()
        yield cell


def run(cell: ToyCell, *command: str) -> Result:
    where = ["--peers", cell.peers, "--tls-dir", str(cell.base / "certs")]
    return CliRunner().invoke(main, [*command, *where])


@pytest.mark.system
def test_doctor_of_a_real_peer(toys: ToyCell) -> None:
    done = run(toys, "doctor", "--format", "json")
    answer = json.loads(done.stdout)
    assert answer["peers"]["a"]["fsync_s"] > 0
    assert {"dask", "distributed", "lmdb"} <= answer["peers"]["a"]["versions"].keys()
    assert any("1 voters" in finding["what"] for finding in answer["findings"])
    assert done.exit_code == 1
    assert "To fix:" in run(toys, "doctor").stdout


@pytest.mark.system
def test_a_bundle_of_a_real_peer_has_no_secret(
    toys: ToyCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.propose("a", CANARY, 5)
    toys.fed("a", CANARY, 5)
    monkeypatch.setenv("DASK_HA_TOKEN", JWT)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    log = tmp_path / "a.log"
    log.write_text(f"{toys.log('a')}\n{JWT}\npassword={CANARY}\n")
    bundle = tmp_path / "bundle.tar.gz"
    done = run(toys, "debug", "bundle", str(bundle), "--log", str(log))
    assert done.exit_code == 0, done.stderr
    assert bundle.stat().st_mode & 0o777 == 0o600
    with tarfile.open(bundle) as archive:
        files = [archive.extractfile(member) for member in archive]
        whole = b"\n".join(file.read() for file in files if file is not None)
        assert "bundle/status.json" in archive.getnames()
    secrets = [CANARY.encode(), JWT.encode()]
    for path in (*toys.base.rglob("*-key.pem"), *toys.base.rglob("*.token")):
        secrets += [text for text in path.read_bytes().splitlines() if len(text) > 40]
    assert len(secrets) > 4
    assert not [secret for secret in secrets if secret in whole]
    assert b"peer_up" in whole or b"is up" in whole, "it has the log"
