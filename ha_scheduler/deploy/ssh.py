"""``HASSHCluster``: a whole cell over ssh, peers and workers, with its certificates brought along.

Guarantee: peers outlive this program: they are processes of their hosts, and no connection holds
them. ``close`` ends the peers and workers that this object has started; peers that answered before
are somebody else's, and stay. A start that fails ends what it had begun.

Order: certificates are made here, and each host gets what is its own, over ssh, before its process
starts: a peer its pair, its engine's and the issuing authority's; a worker host the client's pair
and a token. The authority of the peers stays in ``directory``.
"""

from __future__ import annotations

import asyncio
import functools
import io
import logging
import os
import shlex
import sys
import tarfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dask
import yaml
from distributed.deploy import ssh
from distributed.deploy.spec import SpecCluster
from distributed.security import Security

from ha_scheduler.cell.peers import Cell, parse_peers
from ha_scheduler.cli.control import ControlClient
from ha_scheduler.cli.token_admin import TokenAdmin
from ha_scheduler.deploy.attached import AttachedToCell
from ha_scheduler.deploy.cell import is_serving
from ha_scheduler.errors import ControlError
from ha_scheduler.security.authority import client_files, ensure_certificates, peer_files
from ha_scheduler.security.dask_config import DASK_CONFIG_FILE
from ha_scheduler.security.files import MODE_PRIVATE, write_file

logger = logging.getLogger("distributed.deploy.ha")

START_TIMEOUT_S = 60.0  # three daemons and engines on hosts that have just booted
STOP_TIMEOUT_S = 5.0  # a leader looks for a successor, and here all stop at once
ASK_TIMEOUT_S = 2.0
POLL_S = 0.2
LINES_IN_ERROR = 20  # of a peer's log
DIRECTORY = "dask-ha"  # here, and on each host, in the user's home there
TOKEN_LIFETIME_S = 30 * 86400  # of what this cluster's workers and clients show
EXTRA = "pip install 'dask-ha-scheduler[ssh]'"


class _Worker(ssh.Worker):
    """Upstream's, which asks its ssh server for a signal, and so ends the shell alone at most."""

    def __init__(self, *args: Any, end: Callable[[], Awaitable[None]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._end = end

    async def close(self) -> None:
        await self._end()
        await super().close()


class HASSHCluster(AttachedToCell, SpecCluster):
    """A cell of peers on ``peers`` and workers on ``workers``, started over ssh. ::

        cluster = HASSHCluster(
            peers=["a=alices-desktop.lan", "b=bobs-desktop.lan", "c=fileserver.lan"],
            workers=["alices-desktop.lan", "bobs-desktop.lan"],
        )

    Parameters
    ----------
    peers:
        ``[NAME=]HOST[:PEER_PORT][/DASK_PORT]`` each, an odd number. Peers that run already, with
        the certificates of ``directory``, are used and not ended.
    workers:
        Hosts, each of which gets one nanny; a host may be named again.
    directory:
        Here: the certificates of the cell, which this computer keeps. Default: ``dask-ha``.
    remote_directory, remote_python:
        There: what peers and workers keep, and the Python that has this package.
    connect_options:
        Of ``asyncssh.connect``: one mapping, or one for each host.
    worker_options, peer_options:
        Arguments of ``distributed.Nanny``; words for the command line of each peer.
    kwargs:
        As with ``SpecCluster``.

    Raises ``OperatorError`` for peers that make no cell, ``RuntimeError`` if it does not start,
    with the last lines of the peers' logs; ``ImportError`` without the extra ``ssh``.
    """

    def __init__(
        self,
        peers: Sequence[str],
        workers: Sequence[str] = (),
        *,
        directory: str | os.PathLike[str] = DIRECTORY,
        remote_directory: str = DIRECTORY,
        remote_python: str = sys.executable,
        connect_options: Mapping[str, Any] | Mapping[str, Mapping[str, Any]] | None = None,
        worker_options: Mapping[str, Any] | None = None,
        peer_options: Sequence[str] = ("--no-dashboard",),
        start_timeout_s: float = START_TIMEOUT_S,
        **kwargs: Any,
    ) -> None:
        try:
            import asyncssh  # noqa: F401
        except ImportError as error:
            raise ImportError(f"HASSHCluster needs asyncssh: {EXTRA}") from error
        self.cell: Cell = parse_peers(",".join(peers))
        self.directory = Path(directory).absolute()
        self._tls = self.directory / "tls"
        self._remote_directory, self._remote_python = remote_directory, remote_python
        self._connect_options = dict(connect_options or {})
        self._peer_options, self._start_timeout_s = tuple(peer_options), start_timeout_s
        self._worker_hosts = tuple(workers)
        self._worker_options = dict(worker_options or {})
        self._started: dict[str, int] = {}  # peers by name: the process on its host
        self.directory.mkdir(parents=True, exist_ok=True)
        ensure_certificates(self._tls, self.cell)
        self._control = ControlClient(
            self.cell, peer_files(self._tls, self.cell.names[0]), ASK_TIMEOUT_S
        )
        super().__init__(self.cell.client_address, security=self._security(), workers={}, **kwargs)

    def _security(self) -> Security:
        files = client_files(self._tls)
        cert, key = str(files.cert_file), str(files.key_file)
        return Security(
            require_encryption=True,
            tls_ca_file=str(files.ca_file),
            tls_client_cert=cert,
            tls_client_key=key,
            tls_worker_cert=cert,
            tls_worker_key=key,
        )

    # -- start

    async def _start(self) -> None:
        try:
            await self._start_peers()
            self.worker_spec = await self._specify_workers()
        except BaseException:
            await self._stop_peers()
            raise
        await super()._start()

    async def _start_peers(self) -> None:
        running = await asyncio.to_thread(self._answering)
        missing = [peer for peer in self.cell.peers if peer.name not in running]
        await asyncio.gather(*(self._start_peer(peer.name, peer.host) for peer in missing))
        deadline = asyncio.get_running_loop().time() + self._start_timeout_s
        while not any(map(is_serving, (await asyncio.to_thread(self._answering)).values())):
            if asyncio.get_running_loop().time() > deadline:
                raise RuntimeError(await self._failure())
            await asyncio.sleep(POLL_S)
        await asyncio.to_thread(self._issue_tokens)

    def _answering(self) -> dict[str, Any]:
        said = self._control.of_all(self._control.status, list(self.cell.names))
        return {n: answer for n, answer in said.items() if not isinstance(answer, ControlError)}

    def _issue_tokens(self) -> None:
        admin = TokenAdmin(self._control)
        for role in ("client", "worker"):
            file = self._tls / f"{role}.token"
            issued = admin.issue(f"ssh-{role}", role, lifetime_s=TOKEN_LIFETIME_S)
            write_file(file, issued.text.encode(), MODE_PRIVATE)

    async def _start_peer(self, name: str, host: str) -> None:
        pair = [f"{kind}-{name}{end}.pem" for kind in ("peer", "engine") for end in ("", "-key")]
        files = ["ca.pem", "issuing-ca.pem", "issuing-ca-key.pem", *pair]
        async with self._connect(host) as connection:
            place = await self._bring(connection, f"peer-{name}", files)
            words = [self._remote_python, "-m", "ha_scheduler.cli.main"]
            words += [f"--peers={self.cell.text}", f"--name={name}"]
            words += [f"--data-dir={place}/data", f"--tls-dir={place}/tls", *self._peer_options]
            log = shlex.quote(f"{place}/output.log")
            start = f"nohup setsid {shlex.join(words)} >> {log} 2>&1 < /dev/null & echo $!"
            said = await connection.run(start, check=True)
        self._started[name] = int(said.stdout)
        logger.info("Peer %s runs on %s as process %s", name, host, self._started[name])

    async def _specify_workers(self) -> dict[Any, dict[str, Any]]:
        specs = {}
        places: dict[str, str] = {}
        for number, host in enumerate(self._worker_hosts):
            if host not in places:
                async with self._connect(host) as connection:
                    files = ["ca.pem", "client.pem", "client-key.pem", "worker.token"]
                    places[host] = await self._bring(connection, "worker", files)
            name = f"{self.name}-{number}"
            file = shlex.quote(f"{places[host]}/{name}.pid")
            options = {
                "address": host,
                "connect_options": self._options(host),
                "kwargs": {**self._worker_options, "name": name},
                "remote_python": self._noting_python(places[host], file),
                "end": functools.partial(self._stop, host, f"$(cat {file})"),
            }
            specs[name] = {"cls": _Worker, "options": options}
        return specs

    def _noting_python(self, place: str, file: str) -> str:
        """Python with the worker's configuration, which notes its process in the file."""
        note = shlex.quote(f'echo $$ > {file}; exec {self._remote_python} "$@"')
        return f"env {self._configuration(place)} sh -c {note} sh"

    def _configuration(self, place: str) -> str:
        """The configuration of a worker, with the files that its host has."""
        ours = (self._tls / DASK_CONFIG_FILE).read_text().replace(str(self._tls), f"{place}/tls")
        merged = dask.config.merge(dask.config.global_config, yaml.safe_load(ours))
        return f"DASK_INTERNAL_INHERIT_CONFIG={shlex.quote(dask.config.serialize(merged))}"

    async def _bring(self, connection: Any, name: str, files: Sequence[str]) -> str:
        """Copy these files of the certificates; the directory there."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for file in files:
                archive.add(self._tls / file, arcname=file)
        place = shlex.quote(f"{self._remote_directory}/{name}")
        unpack = f"umask 077 && mkdir -p {place}/tls && tar -x -o -f - -C {place}/tls"
        unpack += f" && cd {place} && pwd"
        done = await connection.run(unpack, input=packed.getvalue(), encoding=None, check=True)
        found: str = done.stdout.decode().strip()
        return found

    # -- hosts

    def _options(self, host: str) -> dict[str, Any]:
        own = self._connect_options.get(host)
        return dict(own) if isinstance(own, Mapping) else dict(self._connect_options)

    def _connect(self, host: str) -> Any:
        import asyncssh

        return asyncssh.connect(host, **self._options(host))

    async def _failure(self) -> str:
        """Why no peer leads, as far as their logs say."""
        tails = [f"no peer leads after {self._start_timeout_s:g} s"]
        for peer in self.cell.peers:
            if peer.name in self._started:
                file = shlex.quote(f"{self._remote_directory}/peer-{peer.name}/output.log")
                async with self._connect(peer.host) as connection:
                    said = await connection.run(f"tail -n {LINES_IN_ERROR} {file}")
                tails.append(f"--- {peer.name} on {peer.host}\n{said.stdout}")
        return "\n".join(tails)

    # -- the end

    async def _close(self) -> None:
        try:
            await super()._close()
        finally:
            await self._stop_peers()

    async def _stop_peers(self) -> None:
        """End the peers that this object has started; returns when they are gone."""
        started, self._started = self._started, {}
        hosts = {peer.name: peer.host for peer in self.cell.peers}
        await asyncio.gather(*(self._stop(hosts[name], str(pid)) for name, pid in started.items()))

    async def _stop(self, host: str, pid: str) -> None:
        """End a process; ``pid``: its number, or words of a shell that give it."""
        polls = int(STOP_TIMEOUT_S / POLL_S)
        end = (
            f"p={pid}; kill -TERM $p; for i in $(seq {polls}); do "
            f"kill -0 $p || exit 0; sleep {POLL_S}; done; kill -KILL $p"
        )
        try:
            async with self._connect(host) as connection:
                await connection.run(f"({end}) 2> /dev/null")
        except Exception as error:  # asyncssh, the network: it is told, the rest is stopped
            logger.warning(
                "Process %s on %s may still run: %s",
                pid,
                host,
                error,
                extra={"action": "process_left"},
            )
