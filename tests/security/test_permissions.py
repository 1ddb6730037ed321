"""Every operation of every port has a row, and each role may what its row says and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import get_args

import distributed
import pytest
from distributed.http.scheduler.api import routes as api

from ha_scheduler.engine.scheduler import Scheduler
from ha_scheduler.protocol.codec import tag_of
from ha_scheduler.protocol.control import Request
from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity, Scopes, TokenRole
from ha_scheduler.security.permissions import (
    ADDED,
    PAGE,
    Operation,
    Party,
    Surface,
    is_admin,
    only_own,
    parties_of,
    permitted,
    refusal,
    rows,
)
from ha_scheduler.security.tls import Role
from ha_scheduler.worker.nanny import Nanny
from ha_scheduler.worker.worker import Worker
from tests.test_answers import paths

#: Of the guard (``web/guard.py``) and of the daemons' own port (``web/routes.py``).
OF_DAEMONS = {"/ready", "/leader", "/follower", "/cell", "/history", "/dashboard", "/openapi.json"}
OF_DAEMONS |= {"/login", "/logout"}
OF_TOKENS = {role: Identity(f"a {role}", role, token_id="t") for role in TokenRole}
OF_CERTIFICATES = {role: Identity(f"a {role}", role) for role in Role}


def names(surface: Surface) -> set[str]:
    return {name for of, name in rows() if of is surface} - {ADDED, PAGE}


@pytest.fixture(scope="module")
def living() -> dict[Surface, set[str]]:
    """The operations of processes of this release, of Dask and of ours."""

    async def look() -> dict[Surface, set[str]]:
        scheduler = Scheduler(dashboard_address=":0")
        scheduler.http_server.stop()
        found: dict[Surface, set[str]] = {
            Surface.STREAM: set(scheduler.stream_handlers),
            Surface.REQUEST: set(scheduler.handlers),
            Surface.HTTP: {
                *paths(scheduler.http_application.default_router),
                *(p for p, *_ in api),
            },
            Surface.CONTROL: {tag_of(kind) for kind in get_args(Request)},
        }
        async with (
            distributed.Scheduler(dashboard_address=":0", port=0) as plain,
            Worker(plain.address, dashboard_address=":0") as worker,
        ):
            found[Surface.WORKER] = set(worker.handlers)
            found[Surface.ORDER] = set(worker.stream_handlers)
            found[Surface.HTTP] |= set(paths(worker.http_application.default_router))
        found[Surface.NANNY] = set(Nanny("tcp://127.0.0.1:1").handlers)
        return found

    return asyncio.run(look())


@pytest.mark.parametrize("surface", Surface)
def test_each_operation_has_a_row_and_each_row_an_operation(
    living: dict[Surface, set[str]], surface: Surface
) -> None:
    told = names(surface)
    if surface is Surface.HTTP:
        told -= OF_DAEMONS
    assert sorted(living[surface] - told) == [], "these have no row: everybody is refused"
    assert sorted(told - living[surface]) == [], "these rows are of nothing"


@pytest.mark.parametrize(
    "operation", rows(), ids=lambda operation: f"{operation[0]}-{operation[1]}"
)
def test_each_role_may_what_its_column_says(operation: Operation) -> None:
    """Row by row, for each token and each certificate."""
    row = rows()[operation]
    for identity in (*OF_TOKENS.values(), *OF_CERTIFICATES.values(), None):
        told = refusal(identity, operation)
        assert (told is None) == bool(parties_of(identity) & row.parties), (identity, told)
        if told and identity is not None:
            assert identity.subject in told
    assert refusal(ANYBODY_LOCAL, operation) is None


@pytest.mark.parametrize("identity", [*OF_TOKENS.values(), *OF_CERTIFICATES.values(), None])
@pytest.mark.parametrize("surface", Surface)
def test_what_has_no_row_is_refused(surface: Surface, identity: Identity | None) -> None:
    told = refusal(identity, Operation(surface, "of a later release"))
    assert told is not None
    assert "of a later release" in told


def test_what_a_plugin_adds_is_for_clients_and_tasks_and_not_for_observers() -> None:
    added = Operation(Surface.REQUEST, "optuna_storage")
    may = {role for role in TokenRole if refusal(OF_TOKENS[role], added, added=True) is None}
    assert may == {TokenRole.CLIENT, TokenRole.WORKER, TokenRole.ADMIN}


def test_a_refusal_says_which_role_is_needed_and_how_to_get_it() -> None:
    told = refusal(OF_TOKENS[TokenRole.OBSERVER], Operation(Surface.REQUEST, "gather"))
    assert told == (
        "gather is for the role client, worker or admin, and this is a observer (token of the role "
        "observer). Use a token of such a role (`dask ha token issue --role client`)"
    )


#: Whoever has a token renews it, and whom the site knows gets one.
OF_HOLDERS = {"token-renew", "token-login"}


def test_no_operation_of_an_observer_runs_code_or_has_data() -> None:
    """The boundary that holds: what it may do is listed here once more, by hand."""
    may = permitted(Surface.REQUEST, Party.OBSERVER)
    code = {"run_function", "feed", "broadcast", "proxy", "scatter", "gather", "get_runspec"}
    assert not may & code
    assert not {op for op in may if op.startswith(("register_", "unregister", "queue_put"))}
    assert "update-graph" not in permitted(Surface.STREAM, Party.OBSERVER)
    assert not permitted(Surface.WORKER, Party.OBSERVER) & {"get_data", "run", "actor_execute"}
    assert permitted(Surface.CONTROL, Party.OBSERVER) == {"status", "history", *OF_HOLDERS}


def test_a_token_is_of_one_role_and_a_clients_certificate_alone_is_a_workers_as_well() -> None:
    finished = Operation(Surface.STREAM, "task-finished")
    assert refusal(OF_TOKENS[TokenRole.CLIENT], finished)
    assert refusal(OF_CERTIFICATES[Role.CLIENT], finished) is None


def test_only_an_admin_touches_membership() -> None:
    changes = names(Surface.CONTROL) - {"status", "history", *OF_HOLDERS}
    for name in changes:
        may = {
            identity
            for identity in (*OF_TOKENS.values(), *OF_CERTIFICATES.values())
            if refusal(identity, Operation(Surface.CONTROL, name)) is None
        }
        assert may == {OF_TOKENS[TokenRole.ADMIN], OF_CERTIFICATES[Role.PEER]}


@pytest.mark.parametrize("name", ["restart", "restart_workers", "terminate"])
def test_a_client_ends_everything_only_while_it_is_alone(name: str) -> None:
    operation = Operation(Surface.REQUEST, name)
    assert only_own(OF_TOKENS[TokenRole.CLIENT], operation)
    assert not only_own(OF_TOKENS[TokenRole.ADMIN], operation)
    assert not only_own(ANYBODY_LOCAL, operation)


@pytest.mark.parametrize(
    ("scope", "name"),
    [("run_on_scheduler", "run_function"), ("plugins", "register_scheduler_plugin")],
)
def test_a_scope_that_a_token_lacks_is_named(scope: str, name: str) -> None:
    narrow = replace(Scopes(), **{scope: False})  # type: ignore[arg-type]
    narrowed = Identity("alice", TokenRole.CLIENT, narrow, token_id="t")
    told = refusal(narrowed, Operation(Surface.REQUEST, name))
    assert told is not None
    assert f"needs the scope {scope}" in told
    admin = Identity("root", TokenRole.ADMIN, narrow, token_id="t")
    assert is_admin(admin)
    assert refusal(admin, Operation(Surface.REQUEST, name)) is None
