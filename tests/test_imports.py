"""The direction of imports (docs/architecture.md): who may know whom.

Two questions. Of the source: does a package import one that it must not know, even inside a
function? Of a fresh interpreter: does importing a package load ``distributed``, which takes a
second and unpickles?
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Package -> the packages of ours that it may import, beside itself.
ALLOWED: dict[str, set[str]] = {
    "ha_scheduler.backoff": set(),
    "ha_scheduler.errors": set(),
    "ha_scheduler.failpoints": set(),
    "ha_scheduler.log_lines": set(),
    "ha_scheduler.forks": {"ha_scheduler.errors"},
    "ha_scheduler.gate": {"ha_scheduler.errors"},
    "ha_scheduler.protocol": set(),
    "ha_scheduler.shared_lease": set(),
    "ha_scheduler.shared_exposures": {"ha_scheduler.protocol"},
    "ha_scheduler.raft": set(),
    "ha_scheduler.ledger": {"ha_scheduler.protocol"},
    "ha_scheduler.storage": {
        "ha_scheduler.failpoints",
        "ha_scheduler.raft",
        "ha_scheduler.ledger",
    },
    "ha_scheduler.cell": {"ha_scheduler.errors", "ha_scheduler.protocol"},
    "ha_scheduler.security": {"ha_scheduler.cell", "ha_scheduler.errors", "ha_scheduler.protocol"},
    "ha_scheduler.confinement": set(),
    "ha_scheduler.web": {
        "ha_scheduler.cell",
        "ha_scheduler.errors",
        "ha_scheduler.gate",
        "ha_scheduler.protocol",
        "ha_scheduler.security",
    },
    "ha_scheduler.vip": {"ha_scheduler.errors", "ha_scheduler.shared_lease"},
    "ha_scheduler.audit": {"ha_scheduler.security"},
    "ha_scheduler.peer": {
        "ha_scheduler.audit",
        "ha_scheduler.backoff",
        "ha_scheduler.cell",
        "ha_scheduler.confinement",
        "ha_scheduler.errors",
        "ha_scheduler.ledger",
        "ha_scheduler.gate",
        "ha_scheduler.log_lines",
        "ha_scheduler.protocol",
        "ha_scheduler.raft",
        "ha_scheduler.security",
        "ha_scheduler.shared_exposures",
        "ha_scheduler.shared_lease",
        "ha_scheduler.storage",
        "ha_scheduler.web",
        "ha_scheduler.vip",
    },
    "ha_scheduler.repair": {
        "ha_scheduler.cell",
        "ha_scheduler.errors",
        "ha_scheduler.ledger",
        "ha_scheduler.peer",
        "ha_scheduler.protocol",
        "ha_scheduler.raft",
        "ha_scheduler.storage",
    },
    "ha_scheduler.comm": {
        "ha_scheduler.backoff",
        "ha_scheduler.cell",
        "ha_scheduler.errors",
        "ha_scheduler.gate",
        "ha_scheduler.protocol",
        "ha_scheduler.security",
        "ha_scheduler.web",
    },
    "ha_scheduler.engine": {
        "ha_scheduler.comm",
        "ha_scheduler.errors",
        "ha_scheduler.failpoints",
        "ha_scheduler.ledger",
        "ha_scheduler.log_lines",
        "ha_scheduler.gate",
        "ha_scheduler.protocol",
        "ha_scheduler.security",
        "ha_scheduler.shared_exposures",
        "ha_scheduler.shared_lease",
        "ha_scheduler.web",
    },
    # Tasks ask for a client (``get_client``); it must be one of our kind.
    "ha_scheduler.worker": {
        "client_replay",
        "ha_scheduler.backoff",
        "ha_scheduler.comm",
        "ha_scheduler.errors",
        "ha_scheduler.forks",
        "ha_scheduler.gate",
        "ha_scheduler.protocol",
        "ha_scheduler.security",
        "ha_scheduler.web",
    },
    "client_replay": {
        "ha_scheduler.backoff",
        "ha_scheduler.comm",
        "ha_scheduler.errors",
        "ha_scheduler.forks",
        "ha_scheduler.protocol",
    },
    "client_replay.cli": {"client_replay", "ha_scheduler.cli", "ha_scheduler.errors"},
    "ha_scheduler.cli": {
        "ha_scheduler.audit",
        "ha_scheduler.cell",
        "ha_scheduler.errors",
        "ha_scheduler.ledger",
        "ha_scheduler.log_lines",
        "ha_scheduler.peer",
        "ha_scheduler.protocol",
        "ha_scheduler.repair",
        "ha_scheduler.security",
        "ha_scheduler.storage",
        "ha_scheduler.web",
        "ha_scheduler.vip",
    },
    "ha_scheduler.deploy": {
        "client_replay",
        "ha_scheduler.backoff",
        "ha_scheduler.cell",
        "ha_scheduler.cli",
        "ha_scheduler.comm",
        "ha_scheduler.errors",
        "ha_scheduler.forks",
        "ha_scheduler.peer",
        "ha_scheduler.protocol",
        "ha_scheduler.security",
    },
    "ha_scheduler": {"ha_scheduler.deploy"},
    "demo": {"ha_scheduler"},
    # Of the harness a purpose is to look into the rest; nothing knows the harness.
    "chaos": {"client_replay", "ha_scheduler"},
}

_DASK = {"dask", "distributed"}
_UNPICKLING = {"pickle", "cloudpickle"}
_NETWORK = {"asyncio", "socket", "ssl", "tornado", "selectors", "http", "urllib"}

#: Package -> what it must not import from elsewhere.
FORBIDDEN: dict[str, set[str]] = {
    "ha_scheduler.protocol": _DASK | _UNPICKLING | {"tornado"},
    # Sans-IO: no clock and no thread either; a ``random.Random`` is handed in.
    "ha_scheduler.raft": _DASK | _UNPICKLING | _NETWORK | {"threading", "time", "os", "pathlib"},
    "ha_scheduler.ledger": _DASK | _UNPICKLING | _NETWORK | {"threading", "time", "os", "random"},
    "ha_scheduler.storage": _DASK | _UNPICKLING | _NETWORK,
    "ha_scheduler.cell": _DASK | _UNPICKLING | _NETWORK,
    "ha_scheduler.confinement": _DASK | _UNPICKLING | _NETWORK | {"threading"},
    "ha_scheduler.audit": _DASK | _UNPICKLING | _NETWORK,
    "ha_scheduler.peer": _DASK | _UNPICKLING,
    "ha_scheduler.security": _DASK | _UNPICKLING,
    "ha_scheduler.web": _DASK | _UNPICKLING,
}

#: Importing one of these must not load ``distributed``.
LIGHT = (
    "ha_scheduler",
    "ha_scheduler.raft",
    "ha_scheduler.protocol.introduction",
    "ha_scheduler.ledger.records",
    "ha_scheduler.storage.lmdb_store",
    "ha_scheduler.security.authority",
    "ha_scheduler.peer.daemon",
    "ha_scheduler.cli.main",
    "ha_scheduler.deploy.child",
)


def _package(module: str) -> str:
    """The entry of ``ALLOWED`` that a module belongs to."""
    parts = module.split(".")
    candidates = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in candidates if name in ALLOWED), "")


def _sources() -> Iterator[tuple[str, Path]]:
    for top in ("ha_scheduler", "client_replay", "demo", "chaos"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = path.parents[node.level - 1].relative_to(ROOT).parts
                module = ".".join((*base, *filter(None, [module])))
            yield node.lineno, module
            # ``from ha_scheduler.peer import daemon`` imports a module too.
            for alias in node.names:
                if (ROOT / Path(*module.split("."))).is_dir():
                    yield node.lineno, f"{module}.{alias.name}"


def _may(package: str, imported: str) -> bool:
    if _package(imported) == package:
        return True
    if any(imported == name or imported.startswith(f"{name}.") for name in ALLOWED[package]):
        return True
    # The parent of an allowed module is named on the way to it and holds nothing.
    return any(name.startswith(f"{imported}.") for name in ALLOWED[package] | {package})


def test_every_package_knows_only_what_is_below_it() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {_package(module)} must not import {imported}"
        for module, path in _sources()
        for line, imported in _imports(path)
        if _package(imported) and not _may(_package(module), imported)
    ]
    assert not wrong, "\n".join(wrong)


def test_what_must_stay_pure_or_small_imports_nothing_that_is_not() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {_package(module)} must not import {imported}"
        for module, path in _sources()
        for line, imported in _imports(path)
        if imported.split(".")[0] in FORBIDDEN.get(_package(module), ())
    ]
    assert not wrong, "\n".join(wrong)


def test_every_package_of_ours_has_its_rule() -> None:
    found = {_package(module) for module, _ in _sources()}
    packages = {
        f"ha_scheduler.{path.name}"
        for path in (ROOT / "ha_scheduler").iterdir()
        if (path / "__init__.py").exists()
    }
    assert "" not in found
    assert packages <= set(ALLOWED)


@pytest.mark.parametrize("module", LIGHT)
def test_importing_it_does_not_load_distributed(module: str) -> None:
    code = (
        f"import {module}, sys; "
        "loaded = [m for m in ('distributed', 'dask', 'cloudpickle') if m in sys.modules]; "
        "sys.exit(', '.join(loaded) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"importing {module} loads: {done.stderr}"


def test_the_cluster_is_loaded_when_it_is_asked_for() -> None:
    import ha_scheduler

    assert ha_scheduler.LocalHACluster.__name__ == "LocalHACluster"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = ha_scheduler.Nothing
