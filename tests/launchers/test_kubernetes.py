"""What the pods of the chart run, on a server that answers as the API server does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from ha_scheduler.deploy import kubernetes
from ha_scheduler.deploy.kubernetes import ROLE, TERM, Api, create_certificates, label_pods
from ha_scheduler.errors import OperatorError


class Server:
    """Pods and secrets of one namespace, in memory."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []

    def answer(self, method: str, path: str, body: Any, kind: str) -> tuple[int, Any]:
        place = urlsplit(path)
        words = place.path.removeprefix("/api/v1/namespaces/dask/").split("/")
        self.requests.append(f"{method} {'/'.join(words)}")
        match method, words:
            case "GET", ["pods"]:
                (selector,) = parse_qs(place.query)["labelSelector"]
                wanted = dict(term.split("=") for term in selector.split(","))
                chosen = [p for p in self.pods.values() if wanted.items() <= p["labels"].items()]
                return 200, {"items": [{"metadata": pod} for pod in chosen]}
            case "PATCH", ["pods", name] if kind == "application/merge-patch+json":
                for what, values in body["metadata"].items():
                    self.pods[name].setdefault(what, {}).update(values)
                return 200, {"metadata": self.pods[name]}
            case "GET", ["secrets", name]:
                return (200, {}) if name in self.secrets else (404, {})
            case "POST", ["secrets"]:
                name = body["metadata"]["name"]
                if name in self.secrets:
                    return 409, {}
                decoded = {key: base64.b64decode(v) for key, v in body["data"].items()}
                self.secrets[name] = decoded
                return 201, {}
        return 405, {}

    def pod(self, name: str, **labels: str) -> None:
        self.pods[name] = {"name": name, "labels": {"app": "ha", **labels}}

    def roles(self) -> dict[str, str | None]:
        return {name: pod["labels"].get(ROLE) for name, pod in self.pods.items()}


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def api(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            kind = self.headers.get("Content-Type", "")
            code, said = server.answer(self.command, self.path, body, kind)
            if self.headers["Authorization"] != "Bearer secret":
                code, said = 401, {}
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        do_POST = do_PATCH = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "namespace").write_text("dask")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield Api(tmp_path, f"http://127.0.0.1:{http.server_port}")
    http.shutdown()
    thread.join()
    http.server_close()


def test_who_leads_is_labelled_and_who_led_no_more(server: Server, api: Api) -> None:
    for name in ("p-0", "p-1", "p-2"):
        server.pod(name)
    server.pod("other")
    server.pods["other"]["labels"] = {"app": "other"}
    label_pods(api, "app=ha", "p-1", 3)
    assert server.roles() == {"p-0": "follower", "p-1": "leader", "p-2": "follower", "other": None}
    server.requests.clear()
    label_pods(api, "app=ha", "p-2", 4)
    assert server.roles() == {"p-0": "follower", "p-1": "follower", "p-2": "leader", "other": None}
    assert server.requests == ["GET pods", "PATCH pods/p-1", "PATCH pods/p-2"]


def test_a_command_of_a_leader_that_was_frozen_changes_nothing(server: Server, api: Api) -> None:
    for name in ("p-0", "p-1"):
        server.pod(name)
    label_pods(api, "app=ha", "p-1", 4)
    label_pods(api, "app=ha", "p-0", 3)
    assert server.roles() == {"p-0": "follower", "p-1": "leader"}
    assert server.pods["p-1"]["annotations"] == {TERM: "4"}


def test_a_leader_that_leads_again_has_its_label(server: Server, api: Api) -> None:
    server.pod("p-0", **{ROLE: "leader"})  # of its former container
    label_pods(api, "app=ha", "p-0", 9)
    assert server.pods["p-0"]["annotations"] == {TERM: "9"}


def test_certificates_are_in_three_secrets_and_no_pod_needs_the_authority(
    server: Server, api: Api, tmp_path: Path
) -> None:
    directory = tmp_path / "tls"
    from ha_scheduler.cell.peers import parse_peers
    from ha_scheduler.security.authority import ensure_certificates

    ensure_certificates(directory, parse_peers("p-0=h0,p-1=h1,p-2=h2"))
    create_certificates(api, "tls", directory)
    assert server.secrets.keys() == {"tls", "tls-client", "tls-authority"}
    assert server.requests[-1] == "POST secrets"
    assert "peers-ca-key.pem" in server.secrets["tls-authority"]
    assert "peers-ca-key.pem" not in server.secrets["tls"] | server.secrets["tls-client"]
    assert server.secrets["tls-client"].keys() == {
        *("ca.pem", "client.pem", "client-key.pem", "dask.yaml")
    }
    assert {"peer-p-1-key.pem", "engine-p-2-key.pem", "issuing-ca-key.pem"} <= server.secrets[
        "tls"
    ].keys()
    former = dict(server.secrets)
    create_certificates(api, "tls", directory)  # a second job
    assert server.secrets == former
    assert api.has_secret("tls")
    assert not api.has_secret("other")


def test_a_secret_is_copied_for_this_user_alone_without_the_keys_of_other_peers(
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "secret", tmp_path / "tls"
    source.mkdir()
    target.mkdir()
    names = ["ca.pem", "issuing-ca-key.pem", "peer-p-1.pem", "peer-p-1-key.pem"]
    others = ["peer-p-10-key.pem", "peer-p-2-key.pem", "engine-p-2-key.pem", "..data"]
    for name in [*names, *others]:
        (source / name).write_text(name)
        (source / name).chmod(0o440)
    words = ["copy", f"--source={source}", f"--target={target}", "--peer=p-1"]
    for _ in range(2):  # a container that starts again
        assert CliRunner().invoke(kubernetes.main, words).exit_code == 0
    assert {file.name for file in target.iterdir()} == set(names)
    assert {file.stat().st_mode & 0o777 for file in target.iterdir()} == {0o600}


def test_outside_of_a_pod_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no pod with a service account"):
        Api(tmp_path)
