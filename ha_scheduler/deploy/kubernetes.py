"""What the pods of the chart (``deploy/helm``) run beside peers and workers.

    python -m ha_scheduler.deploy.kubernetes copy --source DIR --target DIR [--peer NAME]
    python -m ha_scheduler.deploy.kubernetes lead
    python -m ha_scheduler.deploy.kubernetes certificates --peers LIST --secret NAME
    python -m ha_scheduler.deploy.kubernetes tokens --peers LIST --secret NAME --lifetime TIME

``copy``: what a volume of a secret gives its readers in a form that keys may have (mode 0600), and
of the peers' keys those of one peer. ``lead`` (``--on-promote``): label the pods of the cell with
who leads; a command that comes late, from a peer that was frozen, changes nothing: the term is in
an annotation. ``certificates`` and ``tokens`` make secrets once; one that exists is left alone.

The API server is that of the pod's service account. Nothing here runs in an engine.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from ha_scheduler.errors import OperatorError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TLS = Path("/etc/dask-ha/tls")
ROLE, TERM = "dask-ha/role", "dask-ha/term"
REQUEST_S = 5.0
PROGRAM = [sys.executable, "-m", "ha_scheduler.cli.main"]
OF_CLIENTS = ("ca.pem", "client.pem", "client-key.pem", "dask.yaml")
OF_THE_AUTHORITY = ("peers-ca.pem", "peers-ca-key.pem")
TOKENS = ("worker", "client")


class Api:
    """The API server, in the namespace of this pod."""

    def __init__(self, account: Path = ACCOUNT, url: str | None = None) -> None:
        """Raises ``OperatorError`` where no pod with a service account is."""
        try:
            self._token = (account / "token").read_text().strip()
            namespace = (account / "namespace").read_text().strip()
            host, port = (os.environ[f"KUBERNETES_SERVICE_{name}"] for name in ("HOST", "PORT"))
        except (OSError, KeyError) as error:
            raise OperatorError(f"This is no pod with a service account: {error}") from error
        host = f"[{host}]" if ":" in host else host
        self._url = f"{url or f'https://{host}:{port}'}/api/v1/namespaces/{namespace}/"
        authority = account / "ca.crt"
        self._context = ssl.create_default_context(cafile=authority) if url is None else None

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer. Raises ``urllib.error.HTTPError``, ``OSError``."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._url + path,
            data,
            {"Authorization": f"Bearer {self._token}", "Content-Type": kind},
            method=method,
        )
        # The scheme is ours, never a caller's.
        opened = urllib.request.urlopen(  # nosec B310
            request, timeout=REQUEST_S, context=self._context
        )
        with opened as answer:
            return json.loads(answer.read())

    def has_secret(self, name: str) -> bool:
        try:
            self.ask("GET", f"secrets/{name}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise
        return True

    def create_secret(self, name: str, files: Mapping[str, bytes]) -> None:
        """Create it; one that another job has created meanwhile is left alone."""
        data = {key: base64.b64encode(value).decode() for key, value in files.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
        try:
            self.ask("POST", "secrets", secret)
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise


@click.group()
def main() -> None:
    """For the pods of a cell."""


@main.command()
@click.option("--source", type=click.Path(path_type=Path), required=True)
@click.option("--target", type=click.Path(path_type=Path), default=TLS)
@click.option("--peer", default=None, help="Leave out the pairs of other peers.")
def copy(source: Path, target: Path, peer: str | None) -> None:
    """Copy the files of a secret, for this user alone."""
    for file in sorted(source.iterdir()):
        if file.name.startswith("..") or (peer is not None and _of_another(file.name, peer)):
            continue
        fd = os.open(target / file.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "wb") as copied, file.open("rb") as given:
            shutil.copyfileobj(given, copied)


def _of_another(name: str, peer: str) -> bool:
    pair = name.startswith(("peer-", "engine-"))
    own = [f"{kind}-{peer}{end}.pem" for kind in ("peer", "engine") for end in ("", "-key")]
    return pair and name not in own


@main.command()
def lead() -> None:
    """Label this pod as the leader's, and the others as followers'."""
    own, term = os.environ["POD_NAME"], int(os.environ["DASK_HA_TERM"])
    label_pods(Api(), os.environ["DASK_HA_PODS"], own, term)


def label_pods(api: Api, selector: str, own: str, term: int) -> None:
    """Label the pods; nothing if a later leader has. ``term``: in which ``own`` leads."""
    query = urllib.parse.urlencode({"labelSelector": selector})
    pods = api.ask("GET", f"pods?{query}")["items"]
    terms = [int(_of(pod, "annotations").get(TERM, 0)) for pod in pods]
    if max(terms, default=0) > term:
        return
    # The former leader's first: a Service that has nobody for a moment sends nobody astray.
    for pod in sorted(pods, key=lambda pod: pod["metadata"]["name"] == own):
        name = pod["metadata"]["name"]
        role = "leader" if name == own else "follower"
        if _of(pod, "labels").get(ROLE) != role or name == own:
            labels = {"labels": {ROLE: role}, "annotations": {TERM: str(term)}}
            api.ask("PATCH", f"pods/{name}", {"metadata": labels})


def _of(pod: Any, what: str) -> Mapping[str, str]:
    found: Mapping[str, str] = pod["metadata"].get(what) or {}
    return found


@main.command()
@click.option("--peers", required=True)
@click.option("--secret", required=True)
def certificates(peers: str, secret: str) -> None:
    """Make the certificates of a cell, as three secrets."""
    api = Api()
    if api.has_secret(secret):
        click.echo(f"The secret {secret} is there.")
        return
    # In this place, because dask.yaml names it.
    subprocess.run([*PROGRAM, "init", "--peers", peers, "--dir", str(TLS)], check=True)
    create_certificates(api, secret, TLS)


def create_certificates(api: Api, secret: str, directory: Path) -> None:
    """The peers' comes last: it says that all are there."""
    files = {file.name: file.read_bytes() for file in directory.iterdir()}
    api.create_secret(f"{secret}-authority", _only(files, OF_THE_AUTHORITY))
    api.create_secret(f"{secret}-client", _only(files, OF_CLIENTS))
    api.create_secret(secret, {n: d for n, d in files.items() if n not in OF_THE_AUTHORITY})


def _only(files: Mapping[str, bytes], names: Iterable[str]) -> dict[str, bytes]:
    return {name: files[name] for name in names}


@main.command()
@click.option("--peers", required=True)
@click.option("--secret", required=True)
@click.option("--lifetime", required=True)
def tokens(peers: str, secret: str, lifetime: str) -> None:
    """Have the cell issue tokens, as one secret. Fails while nobody leads: a job tries again."""
    api = Api()
    if api.has_secret(secret):
        click.echo(f"The secret {secret} is there.")
        return
    # The issue of tokens takes a peer's certificate.
    first = peers.partition("=")[0]
    pair = TLS / f"peer-{first}.pem", TLS / f"peer-{first}-key.pem"
    issue = [sys.executable, "-m", "dask", "ha", "token", "issue", "--peers", peers]
    issue += ["--tls-ca-file", str(TLS / "ca.pem"), "--tls-cert", str(pair[0])]
    issue += ["--tls-key", str(pair[1]), "--lifetime", lifetime]
    files = {}
    for role in TOKENS:
        words = [*issue, "--role", role, "--subject", f"{secret}-{role}"]
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
        files[f"{role}.token"] = done.stdout
    api.create_secret(secret, files)


if __name__ == "__main__":
    main()
