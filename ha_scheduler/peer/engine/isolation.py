"""What the engine of this peer is kept from, decided when the daemon starts.

Guarantee: the daemon itself can be looked into by no process of its user (memory, open files,
environment), and an engine can reach neither the key of the peer, nor those of the authorities, nor
the data directory, unless ``Plan.lacks`` says so; that is told in the log at the start, with what
to do, and in the status for as long as it is so. An engine gets of the environment only what is
listed here, or what the operator names.

What an engine is *not* kept from is in docs/security.md: the rest of what its user may do.
"""

from __future__ import annotations

import logging
import os
import pwd
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ha_scheduler import log_lines
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.confinement import kernel, landlock, mounts
from ha_scheduler.confinement.mounts import Namespace
from ha_scheduler.confinement.plan import Plan, User, become
from ha_scheduler.errors import OperatorError
from ha_scheduler.peer.settings import PeerSettings

PACKAGE = Path(__file__).resolve().parent.parent

#: The environment of an engine: what Python, Dask and numerical libraries look at, and no secrets.
NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "HOSTNAME"),
        *("TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "JAVA_HOME", "HADOOP_HOME"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "MPLCONFIGDIR"),
    }
)
PREFIXES = (
    *("LC_", "XDG_", "PYTHON", "DASK_", "CONDA_", "COVERAGE_", "COV_CORE_", "MALLOC_", "GLIBC_"),
    *("OMP_", "OPENBLAS_", "MKL_", "BLIS_", "NUMEXPR_", "VECLIB_", "NUMBA_", "CUDA_", "NVIDIA_"),
    *("RAPIDS_", "UCX_", "ARROW_", "GDAL_", "PROJ_"),
)
#: Not even one of these prefixes, if a part of its name says so: ``DASK_HA_TOKEN``.
SECRETS = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|(API|ACCESS)_?KEY", re.IGNORECASE)

logger = logging.getLogger(__name__)


def isolate(settings: PeerSettings) -> Plan:
    """Close this daemon to others of its user, and decide what its engine is kept from.

    Call it before any thread is started: it forks. Raises ``OperatorError``.
    """
    user = _user(settings.engine_user) if settings.engine_user is not None else None
    _check_data_dir(settings)
    kinds = (Namespace.ROOT,) if user is not None else (Namespace.ROOT, Namespace.USER)
    hidden, shown = _hidden(settings), _shown(settings)
    plan = Plan(hidden, shown, _sockets(), _code(), mounts.available(*kinds), landlock.abi(), user)
    if user is not None:
        _check_readable(plan, user, settings.engine_tls)
    kernel.set_dumpable(False)  # not before: who is not cannot try a namespace of a user
    if not settings.witness:
        _tell(plan)
    return plan


def environment(
    settings: PeerSettings, plan: Plan, own: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment of an engine, from that of the daemon."""
    further = NAMES | set(settings.engine_env)
    chosen = {name: value for name, value in own.items() if name in further or _is_known(name)}
    if plan.user is not None:
        chosen |= {"HOME": plan.user.home, "USER": plan.user.name, "LOGNAME": plan.user.name}
    # Replay of a graph must give every engine the same order (dask.order hashes).
    return {**chosen, "PYTHONHASHSEED": "0", log_lines.VARIABLE: settings.log_format}


def _is_known(name: str) -> bool:
    return name.startswith(PREFIXES) and not SECRETS.search(name)


def _hidden(settings: PeerSettings) -> tuple[str, ...]:
    """The data directory, and the keys of peers and of authorities that lie elsewhere."""
    directory = os.path.realpath(settings.data_dir)
    keys = map(os.path.realpath, _keys(settings.tls) if settings.tls is not None else ())
    outside = (key for key in keys if not _is_beneath(key, directory))
    return tuple(dict.fromkeys((directory, *outside)))


def _keys(files: TlsFiles) -> Iterator[Path]:
    yield files.key_file
    for directory in {files.key_file.parent, files.cert_file.parent, files.ca_file.parent}:
        for pattern in ("ca-key.pem", "*-ca-key.pem", "peer-*-key.pem"):
            yield from directory.glob(pattern)


def _shown(settings: PeerSettings) -> tuple[str, ...]:
    """What the engine needs of its data directory: its own pair, where it lies there."""
    files = settings.engine_tls
    if files is None:
        return ()
    directory = os.path.realpath(settings.data_dir)
    paths = map(os.path.abspath, (files.ca_file, files.cert_file, files.key_file))
    return tuple(dict.fromkeys(path for path in paths if _is_beneath(path, directory)))


def _sockets() -> tuple[str, ...]:
    """Services of this host that run programs for whoever asks as the daemon's user."""
    user = f"/run/user/{os.geteuid()}"
    paths = (
        *("/run/systemd/private", "/run/dbus/system_bus_socket", "/run/docker.sock"),
        *("/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock"),
        *(f"{user}/bus", f"{user}/systemd/private", f"{user}/podman/podman.sock"),
    )
    return tuple(path for path in map(os.path.realpath, paths) if os.path.exists(path))


def _code() -> tuple[str, ...]:
    """What this daemon runs when it is started again."""
    found = [os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, PACKAGE)]
    return tuple(path for path in dict.fromkeys(found) if path not in ("/", "/usr"))


def _is_beneath(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _user(name: str) -> User:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise OperatorError(
            f"--engine-user {name}: there is no such user on this host; make one without a login."
        ) from None
    if os.geteuid() != 0:
        raise OperatorError(
            "--engine-user takes a daemon that runs as root, which alone can start a process as "
            "another user; leave it out, or start the daemon as root."
        )
    if found.pw_uid == 0:
        raise OperatorError("--engine-user is to have fewer rights than root; name another user.")
    groups = tuple(os.getgrouplist(name, found.pw_gid))
    return User(name, found.pw_uid, found.pw_gid, groups, found.pw_dir)


def _check_data_dir(settings: PeerSettings) -> None:
    """The engine runs from outside: what is in the data directory is hidden from it."""
    directory = os.path.realpath(settings.data_dir)
    preloads = settings.engine_options.get("preload") or ()
    for path in (sys.prefix, str(PACKAGE), *preloads):
        if _is_beneath(os.path.realpath(path), directory):
            raise OperatorError(
                f"The data directory {settings.data_dir} holds {path}, which the Dask scheduler "
                f"of this peer needs, and it is kept from that directory; name one that holds "
                f"nothing else with --data-dir."
            )


def _check_readable(plan: Plan, user: User, files: TlsFiles | None) -> None:
    """Whether ``user`` can read what its engine needs."""
    needed = [PACKAGE / "__init__.py", Path(sys.executable)]
    if files is not None:
        needed += [files.ca_file, files.cert_file, files.key_file]
    copied = plan.shown if plan.namespace is not Namespace.NONE else ()
    for path in needed:
        if str(path) not in copied and not _can_read(user, path):
            raise OperatorError(
                f"--engine-user {user.name}: this user cannot read {path}; change its owner or "
                f"mode, or keep it where the user has access."
            )


def _can_read(user: User, path: Path) -> bool:
    child = os.fork()
    if not child:
        status = 1
        try:
            become(user)
            os.close(os.open(path, os.O_RDONLY))
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _tell(plan: Plan) -> None:
    if plan.lacks:
        logger.warning(
            "this kernel cannot keep code of users in the engine from the %s of this peer; upgrade "
            "it (Linux 5.13 has Landlock for files, 6.12 for signals), or give the engine a user "
            "of its own with --engine-user",
            " and ".join(plan.lacks),
            extra={"action": "engine_isolation"},
        )
    elif plan.namespace is Namespace.NONE and plan.user is None:
        logger.info(
            "the engine is kept from files by a list of what lies beside them: it can make nothing "
            "in the directories above %s, and reads nothing that is made there later",
            " and ".join(plan.hidden),
            extra={"action": "engine_isolation"},
        )
