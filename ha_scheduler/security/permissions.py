"""Who may do what: one row for each operation of each port, and no row is no permission.

Guarantee: ``refusal`` is a pure function of the identity and the operation. What the table does not
name is refused to everybody but who is on loopback in plaintext, and who stands alone.

Columns, who: ``N`` nobody in particular (no certificate, no token), ``O`` an observer, ``C`` a
client, ``W`` a worker or nanny, ``E`` an engine, ``J`` a node with a token to join, ``A`` an admin.
The certificate of a peer is an admin's. That of a client, without a token, is a client's and a
worker's: it says no more. A lower-case letter: for its own alone, which the place that does the
operation looks at: ``c`` as long as no other subject has work in the cell, ``w`` for itself, or for
the submitter of a task that it runs. A last word names the scope that a client's token must have.

Graphs run the code of users in the engine and on workers, so client, worker and engine are one
level for an attacker, and rows among them prevent accidents. The boundaries are those between
``N``, ``O``, the three, and ``A`` (docs/security.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from ha_scheduler.security.identity import ANYBODY_LOCAL, Identity, Scopes, TokenRole
from ha_scheduler.security.tls import Role


class Surface(StrEnum):
    """What an operation belongs to."""

    STREAM = "message to a scheduler"
    REQUEST = "request to a scheduler"
    WORKER = "request to a worker"
    ORDER = "message to a worker"
    NANNY = "request to a nanny"
    CONTROL = "control request"
    HTTP = "HTTP route"


class Party(StrEnum):
    """A column of the table."""

    NOBODY = "N"
    OBSERVER = "O"
    CLIENT = "C"
    WORKER = "W"
    ENGINE = "E"
    JOIN = "J"
    ADMIN = "A"


class Operation(NamedTuple):
    """One row."""

    surface: Surface
    name: str


#: The row of what a library adds to a scheduler, a worker or a page that has none of its own.
ADDED = "(added by a plugin)"
#: That of each page of a dashboard.
PAGE = "(page of a dashboard)"

_TABLE = {
    Surface.STREAM: """
        ha-hello                            O C . . . A
        ha-resume                           O C . . . A
        ha-heard                            O C . . . A
        heartbeat-client                    O C . . . A
        close-client                        O C . . . A
        subscribe-topic                     O C . . . A
        unsubscribe-topic                   O C . . . A
        report-key                          O C . . . A
        update-graph                        . C . . . A
        ha-fire-and-forget                  . C . . . A
        client-desires-keys                 . C . . . A
        client-releases-keys                . C . . . A
        cancel-keys                         . C . . . A
        update-data                         . C . . . A
        queue-future-release                . C . . . A
        queue_release                       . C . . . A
        variable-future-received-confirm    . C . . . A
        variable_delete                     . C . . . A
        publish_flush_batched_send          . C . . . A
        log-event                           . C W . . A
        keep-alive                          O C W . . A
        task-finished                       . . W . . .
        task-erred                          . . W . . .
        release-worker-data                 . . W . . .
        add-keys                            . . W . . .
        long-running                        . . W . . .
        reschedule                          . . W . . .
        worker-status-change                . . W . . .
        request-refresh-who-has             . . W . . .
        steal-response                      . . W . . .
        (added by a plugin)                 . C W . . A
    """,
    Surface.REQUEST: """
        identity                            O C W E . A
        versions                            O C W E . A
        echo                                O C W . . A
        connection_stream                   . C W . . A
        register-client                     O C w . . A
        register-worker                     . . W . . .
        ha-register-worker                  . . W . . .
        register_nanny                      . . W . . .
        heartbeat_worker                    . . w . . .
        unregister                          . . w . . A
        add_keys                            . . w . . .
        ncores                              O C W . . A
        ncores_running                      O C W . . A
        has_what                            O C W . . A
        who_has                             O C W . . A
        nbytes                              O C W . . A
        processing                          O C W . . A
        call_stack                          O C W . . A
        get_task_status                     O C W . . A
        get_task_stream                     O C W . . A
        get_task_stream_index               O C W . . A
        get_task_prefix_states              O C W . . A
        get_logs                            O C W . . A
        logs                                O C W . . A
        worker_logs                         O C W . . A
        get_story                           O C W . . A
        profile                             O C W . . A
        performance_report                  O C W . . A
        events                              O C W . . A
        subscribe_worker_status             O C W . . A
        adaptive_target                     O C W . . A
        workers_to_close                    O C W . . A
        check_idle                          O C W . . A
        queue_qsize                         O C W . . A
        semaphore_value                     O C W . . A
        event_is_set                        O C W . . A
        publish_list                        O C W . . A
        ha-lock-forgotten                   O C W . . A
        gather                              . C W . . A
        scatter                             . C w . . A
        update_data                         . C w . . A
        retry                               . C w . . A
        get_runspec                         . C W . . A
        get_error_cause                     . C W . . A
        get_metadata                        . C W . . A
        set_metadata                        . C W . . A
        start_task_metadata                 . C W . . A
        stop_task_metadata                  . C W . . A
        log_event                           . C W . . A
        publish_get                         . C W . . A
        publish_put                         . C W . . A
        publish_delete                      . C W . . A
        queue_create                        . C W . . A
        queue_put                           . C W . . A
        queue_get                           . C W . . A
        queue_release                       . C W . . A
        variable_set                        . C W . . A
        variable_get                        . C W . . A
        variable_delete                     . C W . . A
        event_set                           . C W . . A
        event_clear                         . C W . . A
        event_wait                          . C W . . A
        semaphore_register                  . C W . . A
        semaphore_acquire                   . C W . . A
        semaphore_release                   . C W . . A
        semaphore_refresh_leases            . C W . . A
        semaphore_close                     . C W . . A
        multi_lock_acquire                  . C W . . A
        multi_lock_release                  . C W . . A
        ha-open-calls                       . C W . . A
        ha-detach                           . C w . . A
        ha-session-keys                     . C w . . A
        ha-sessions                         . C w . . A
        ha-scale                            . C w . . A
        ha-unscale                          . C w . . A
        ha-scaling                          O C W . . A
        ha-cancel-session                   . C w . . A
        shuffle_get                         . . W . . A
        shuffle_get_or_create               . . W . . A
        shuffle_barrier                     . . W . . A
        shuffle_restrict_task               . . W . . A
        replicate                           . C w . . A
        rebalance                           . C w . . A
        set_restrictions                    . C w . . A
        set_resources                       . C W . . A
        amm_handler                         . C w . . A
        memory_sampler_start                . C w . . A
        memory_sampler_stop                 . C w . . A
        benchmark_hardware                  . C w . . A
        dump_state                          . C w . . A
        get_cluster_state                   . C w . . A
        dump_cluster_state_to_url           . C w . . A
        retire_workers                      . C w . . A
        restart_workers                     . c w . . A
        restart                             . c w . . A
        terminate                           . c w . . A
        broadcast                           . C w . . A
        proxy                               . C w . . A
        run_function                        . C w . . A  run_on_scheduler
        feed                                . C w . . A  run_on_scheduler
        register_scheduler_plugin           . C w . . A  plugins
        unregister_scheduler_plugin         . C w . . A  plugins
        register_worker_plugin              . C w . . A  plugins
        unregister_worker_plugin            . C w . . A  plugins
        register_nanny_plugin               . C w . . A  plugins
        unregister_nanny_plugin             . C w . . A  plugins
        (added by a plugin)                 . C W . . A
    """,
    Surface.WORKER: """
        identity                            O C W E . A
        ping                                O C W E . A
        versions                            O C W E . A
        echo                                . C W E . A
        connection_stream                   . C W E . A
        keys                                O C W E . A
        call_stack                          O C W E . A
        get_logs                            O C W E . A
        get_story                           O C W E . A
        get_monitor_info                    O C W E . A
        profile                             O C W E . A
        profile_metadata                    O C W E . A
        get_data                            . C W E . A
        update_data                         . C W E . A
        gather                              . C . E . A
        run                                 . C . E . A
        run_coroutine                       . C . E . A
        upload_file                         . C . E . A  plugins
        plugin-add                          . . . E . A
        plugin-remove                       . . . E . A
        actor_execute                       . C W E . A
        actor_attribute                     . C W E . A
        shuffle_receive                     . . W E . A
        shuffle_inputs_done                 . . W E . A
        benchmark_disk                      . C . E . A
        benchmark_memory                    . C . E . A
        benchmark_network                   . C . E . A
        dump_state                          . C . E . A
        free_keys                           . . . E . A
        terminate                           . . . E . A
        ha-leader                           . . . E . A
        (added by a plugin)                 . C W E . A
    """,
    Surface.ORDER: """
        compute-task                        . . . E . .
        cancel-compute                      . . . E . .
        free-keys                           . . . E . .
        acquire-replicas                    . . . E . .
        remove-replicas                     . . . E . .
        steal-request                       . . . E . .
        refresh-who-has                     . . . E . .
        remove-worker                       . . . E . .
        shuffle-fail                        . . . E . .
        worker-status-change                . . . E . .
        close                               . . . E . .
        ha-runs                             . . . E . .
        (added by a plugin)                 . . . E . .
    """,
    Surface.NANNY: """
        identity                            O C W E . A
        echo                                . C W E . A
        connection_stream                   . C W E . A
        get_logs                            O C W E . A
        dump_state                          . C . E . A
        run                                 . C . E . A
        instantiate                         . . . E . A
        kill                                . . . E . A
        restart                             . . . E . A
        terminate                           . . . E . A
        close_gracefully                    . . W E . A
        plugin_add                          . . . E . A
        plugin_remove                       . . . E . A
        (added by a plugin)                 . C . E . A
    """,
    Surface.CONTROL: """
        status                              O C W . . A
        history                             O C W . . A
        cell                                . . . . . A
        join                                . . . . . A
        may-join                            . . . . . A
        promote                             . . . . . A
        remove                              . . . . . A
        maintain                            . . . . . A
        transfer                            . . . . . A
        snapshot                            . . . . . A
        log                                 . . . . . A
        clock                               . . . . . A
        examine                             . . . . . A
        quarantine                          . . . . . A
        release                             . . . . . A
        token-renew                         O C W . . A
        token-login                         O C W . . A
        token-issue                         . . . . . A
        token-revoke                        . . . . . A
        token-rotate                        . . . . . A
        tokens                              . . . . . A
    """,
    Surface.HTTP: """
        /health                           N O C W E . A
        /metrics                            O C W . . A
        /sitemap.json                       O C W . . A
        /statics/(.*)                       O C W . . A
        /individual-plots.json            N O C W E . A
        /eventstream                        O C W . . A
        /json/counts.json                   O C W . . A
        /json/identity.json                 O C W . . A
        /json/index.html                    O C W . . A
        /info                               O C W . . A
        /info/main/workers.html             O C W . . A
        /info/main/exceptions.html          O C W . . A
        /info/main/logs.html                O C W . . A
        /info/worker/(.*).html              O C W . . A
        /info/task/(.*).html                O C W . . A
        /info/logs/(.*).html                O C W . . A
        /info/call-stacks/(.*).html         O C W . . A
        /info/call-stack/(.*).html          O C W . . A
        /api/v1                             O C W . . A
        /api/v1/get_workers                 O C W . . A
        /api/v1/adaptive_target             O C W . . A
        /api/v1/check_idle                  O C W . . A
        /api/v1/retire_workers              . C . . . A
        /ha/scaling                         O C W . . A
        /proxy/(\\d+)/(.*?)/(.*)             O C W . . A
        /login                            N O C W E . A
        /logout                           N O C W E . A
        /openapi.json                     N O C W E . A
        /ready                            N O C W E . A
        /leader                           N O C W E . A
        /follower                         N O C W E . A
        /cell                               O C W . . A
        /history                            O C W . . A
        /dashboard                          O C W . . A
        (page of a dashboard)               O C W . . A
    """,
}


@dataclass(frozen=True, slots=True)
class Row:
    """Who may: ``fully``, or ``own``: for its own alone. ``scope``: of ``Scopes``, or empty."""

    fully: frozenset[Party]
    own: frozenset[Party]
    scope: str = ""

    @property
    def parties(self) -> frozenset[Party]:
        return self.fully | self.own


_LINE = re.compile(r"\s*(\S.*?)\s+((?:[A-Zcw.] )+[A-Zcw.])(?:\s+(\w+))?")


def _row(line: str) -> tuple[str, Row]:
    found = _LINE.fullmatch(line)
    assert found is not None, line
    name, marks, scope = found.groups()
    letters = [mark for mark in marks.split() if mark != "."]
    fully = frozenset(Party(mark) for mark in letters if mark.isupper())
    own = frozenset(Party(mark.upper()) for mark in letters if mark.islower())
    return name, Row(fully, own, scope or "")


def _rows() -> Iterator[tuple[Operation, Row]]:
    for surface, text in _TABLE.items():
        for line in filter(str.strip, text.splitlines()):
            name, row = _row(line)
            yield Operation(surface, name), row


_ROWS: Mapping[Operation, Row] = dict(_rows())
assert len(_ROWS) == len(list(_rows()))  # none twice

_NO_ROW = Row(frozenset(), frozenset())
_OF_CERTIFICATES = {
    Role.PEER: frozenset({Party.ADMIN}),
    Role.ENGINE: frozenset({Party.ENGINE}),
    Role.CLIENT: frozenset({Party.CLIENT, Party.WORKER}),
}
_OF_TOKENS = {
    TokenRole.CLIENT: frozenset({Party.CLIENT}),
    TokenRole.WORKER: frozenset({Party.WORKER}),
    TokenRole.ADMIN: frozenset({Party.ADMIN}),
    TokenRole.OBSERVER: frozenset({Party.OBSERVER}),
    TokenRole.JOIN: frozenset({Party.JOIN}),
}
_WORDS = {
    Party.OBSERVER: "observer",
    Party.CLIENT: "client",
    Party.WORKER: "worker",
    Party.ENGINE: "engine",
    Party.JOIN: "join",
    Party.ADMIN: "admin",
}
_EVERY_PARTY = frozenset(Party)


def rows() -> Mapping[Operation, Row]:
    """The whole table."""
    return _ROWS


def parties_of(identity: Identity | None) -> frozenset[Party]:
    """The columns of whoever shows ``identity``; None: no certificate and no token."""
    if identity is None:
        return frozenset({Party.NOBODY})
    if identity is ANYBODY_LOCAL:
        return _EVERY_PARTY
    if isinstance(identity.role, TokenRole):  # equal to a Role of the same name, as a string
        return _OF_TOKENS[identity.role]
    return _OF_CERTIFICATES[identity.role]


def is_admin(identity: Identity) -> bool:
    return Party.ADMIN in parties_of(identity)


def is_worker_alone(identity: Identity) -> bool:
    """Whether it is a worker's, and so acts as a client for the submitters of its tasks alone."""
    return parties_of(identity) == {Party.WORKER}


def row_of(operation: Operation, *, added: bool = False) -> Row:
    """The row of ``operation``; of one without a row that of what plugins add, if it was added."""
    row = _ROWS.get(operation)
    if row is None and added:
        row = _ROWS.get(Operation(operation.surface, ADDED))
    return row or _NO_ROW


def refusal(identity: Identity | None, operation: Operation, *, added: bool = False) -> str | None:
    """Why ``identity`` may not do ``operation``, for whoever reads the error; None if it may.

    Of a row in lower case this says that it may: the rest is looked at where it is done.
    """
    if identity is ANYBODY_LOCAL:
        return None
    row = row_of(operation, added=added)
    may = parties_of(identity) & row.parties
    if not may:
        return _reason(identity, operation, row)
    if row.scope and Party.ADMIN not in may and not has_scope(identity, row.scope):
        return missing_scope(operation.name, row.scope, identity)
    return None


def only_own(identity: Identity, operation: Operation) -> bool:
    """Whether ``identity`` may do it for its own alone."""
    return not parties_of(identity) & row_of(operation).fully


@cache
def permitted(surface: Surface, party: Party) -> frozenset[str]:
    """The names of all operations of ``surface`` that ``party`` may do, if for its own alone."""
    return frozenset(
        name for (of, name), row in _ROWS.items() if of is surface and party in row.parties
    )


def on_client_stream(identity: Identity) -> frozenset[str]:
    """The messages that ``identity`` may say on a stream on which it registered as a client.

    A worker says there what the submitter of its task would.
    """
    watches = parties_of(identity) <= {Party.OBSERVER}
    return permitted(Surface.STREAM, Party.OBSERVER if watches else Party.CLIENT)


def has_scope(identity: Identity | None, scope: str) -> bool:
    scopes = identity.scopes if identity is not None else Scopes()
    return bool(getattr(scopes, scope))


def missing_scope(what: str, scope: str, identity: Identity | None) -> str:
    """The refusal for want of a scope."""
    who = describe(identity)
    return (
        f"{what} needs the scope {scope}, which {who} does not have. An admin issues a token with "
        f"it, or turns it on for the cell"
    )


def describe(identity: Identity | None) -> str:
    """Who it is, in words."""
    if identity is None:
        return "somebody without a certificate and a token"
    kind = "token" if identity.token_id else "certificate"
    return f"{identity.subject or 'a process of this host'} ({kind} of the role {identity.role})"


def _reason(identity: Identity | None, operation: Operation, row: Row) -> str:
    named = [word for party, word in _WORDS.items() if party in row.parties]
    if not named:
        return f"there is no {operation.surface} {operation.name!r} that anybody may make"
    roles = " or ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
    return (
        f"{operation.name} is for the role {roles}, and this is {describe(identity)}. Use a token "
        f"of such a role (`dask ha token issue --role {named[0]}`)"
    )
