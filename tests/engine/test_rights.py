"""Who may do what in a scheduler: by role, by subject, and for how long that is remembered."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from distributed.comm import CommClosedError
from distributed.core import clean_exception
from distributed.protocol.serialize import to_serialize

from ha_scheduler.comm.permitted import Denials
from ha_scheduler.protocol.client import Hello
from ha_scheduler.protocol.codec import to_op
from ha_scheduler.security.identity import TokenRole
from ha_scheduler.security.permissions import ADDED, Operation, Surface, parties_of, rows
from tests.engine.callers import ROLES, IdentifyingWorker, Subjects, subjects
from tests.engine.conftest import eventually, rebuild

ONE_OF_EACH = ("alice", "eve", "node", "root", "joiner")
REQUESTS = sorted(name for surface, name in rows() if surface is Surface.REQUEST and name != ADDED)
#: They end the connection, or the whole scheduler, or never answer.
NOT_ASKED = {"terminate", "restart", "register-client", "register_nanny", "subscribe_worker_status"}
WAIT = {"queue_get", "variable_get", "semaphore_acquire", "multi_lock_acquire"}
WAIT |= {"benchmark_hardware", "event_wait"}
NOT_ASKED |= {"feed", "connection_stream", "register-worker", "ha-register-worker"}


def refused(answer: Any) -> str:
    """Why, if it is a refusal of a caller; else empty."""
    if not isinstance(answer, dict) or answer.get("status") not in ("uncaught-error", "error"):
        return ""
    error = clean_exception(**answer)[1]
    return str(error) if isinstance(error, PermissionError) else ""


async def test_each_request_is_answered_for_the_roles_of_its_row_and_refused_to_all_others() -> (
    None
):
    """On real connections, without arguments: who may ask gets an error of another kind."""
    async with subjects() as both:
        for caller in ONE_OF_EACH:
            comm = await both.comm(caller)
            for op in sorted({*REQUESTS} - NOT_ASKED):
                row = rows()[Operation(Surface.REQUEST, op)]
                if parties_of(ROLES[caller]) & row.parties and op in WAIT:
                    continue
                await comm.write({"op": op, "reply": True})
                async with asyncio.timeout(5):
                    why = refused(await comm.read())
                may = bool(parties_of(ROLES[caller]) & row.parties)
                named = "is for the role" in why or "that anybody may make" in why
                named = named and "acts for the submitter" not in why  # of none here
                assert named != may, (caller, op, why)
            comm.abort()


@pytest.mark.parametrize("op", sorted(NOT_ASKED))
async def test_what_ends_a_connection_or_everything_is_refused_to_a_node_that_joins(
    op: str,
) -> None:
    async with subjects() as both:
        answer = await both.ask("joiner", op=op, reply=op in ("terminate", "restart"))
        assert "is for the role" in (refused(answer) or answer.get("message", ""))
        assert len(both.leader.workers) == 1


@pytest.mark.parametrize("caller", ["eve", "node"])
@pytest.mark.parametrize("op", ["run", "run_coroutine", "terminate", "free_keys", "plugin-add"])
@pytest.mark.parametrize("passed_on", ["broadcast", "proxy"])
async def test_the_inner_request_of_one_that_is_passed_on_needs_its_own_row(
    caller: str, op: str, passed_on: str
) -> None:
    async with subjects() as both:
        (worker,) = both.workers
        to = {"worker": worker.address} if passed_on == "proxy" else {}
        assert refused(await both.ask(caller, op=passed_on, msg={"op": op, "keys": ["x"]}, **to))


@pytest.mark.parametrize("op", ["free_keys", "plugin-add", "terminate", "ha-leader"])
async def test_a_client_passes_on_to_workers_what_it_might_ask_of_them_alone(op: str) -> None:
    async with subjects() as both:
        (worker,) = both.workers
        answer = await both.ask("alice", op="broadcast", msg={"op": op, "keys": ["x"]})
        assert f"broadcast: {op} is for the role" in refused(answer)
        answer = await both.ask("alice", op="broadcast", nanny=True, msg={"op": "kill"})
        assert "broadcast: kill is for the role engine or admin" in refused(answer)
        assert await both.client.run(lambda: 5) == {worker.address: 5}


async def test_a_scheduler_carries_messages_to_its_own_workers_and_to_nobody_else() -> None:
    async with subjects() as both:
        message = {"op": "identity"}
        answer = await both.ask("alice", op="proxy", msg=message, worker=both.leader.address)
        assert "is no worker of this cell" in refused(answer)
        for wrong in (None, "text", {"op": ["run"]}, {}):
            answer = await both.ask("alice", op="broadcast", msg=wrong)
            assert "a message with an op" in refused(answer)


@pytest.mark.parametrize("op", ["get_data", "run", "update_data", "plugin-add", "terminate"])
async def test_a_worker_serves_by_the_table_too(op: str) -> None:
    async with subjects() as both:
        address = both.workers[0].address
        arguments = {"keys": ["x"], "data": {}}
        for caller in ("eve", "joiner"):
            assert f"{op} is for the role" in refused(
                await both.ask(caller, address, op=op, **arguments)
            )
        assert both.workers[0].status.name == "running"


async def test_an_observer_sees_what_there_is_and_submits_nothing() -> None:
    async with subjects() as both:
        observer = await both.client_of("eve")
        assert len((await observer.scheduler.identity())["workers"]) == 1
        future = observer.submit(int, 5)
        with pytest.raises(PermissionError, match="update-graph is for the role client"):
            await future
        for call in (
            lambda: observer.run(int),
            lambda: observer.run_on_scheduler(int),
            lambda: observer.scatter([1]),
            lambda: observer.publish_dataset(1, name="x"),
            lambda: observer.restart(),
            lambda: observer.shutdown(),
        ):
            with pytest.raises(Exception, match=r"role client|role admin"):
                await call()
        await observer.close()
        assert await both.client.submit(int, 6) == 6


RAN: list[int] = []


def ran() -> None:
    RAN.append(1)


class Runs:
    """Unpickled in this process, it says so."""

    def __reduce__(self) -> Any:
        return ran, ()


async def test_nothing_of_an_observer_is_unpickled() -> None:
    """A pickle would run in the engine before anybody looks at what is asked for."""
    async with subjects() as both:
        for caller, runs in (("eve", False), ("alice", True)):
            RAN.clear()
            comm = await both.comm(caller)
            await comm.write({"op": "get_task_status", "keys": [Runs()]})
            await comm.read()
            comm.abort()
            comm = await both.comm(caller, both.workers[0].address)
            await comm.write({"op": "get_story", "keys_or_stimuli": [to_serialize(Runs())]})
            with contextlib.suppress(CommClosedError):
                await comm.read()
            comm.abort()
            assert len(RAN) == 2 * runs, caller


async def test_a_session_is_resumed_by_its_subject_alone() -> None:
    """Also by one who knows it."""
    async with subjects() as both:
        future = both.client.submit(int, 7, key="held")
        assert await future == 7
        registration = {"op": "register-client", "client": both.client.id, "versions": {}}
        for caller in ("bob", "eve", "root"):
            comm = await both.comm(caller)
            await comm.write({**registration, "reply": False})
            answer = await comm.read()
            assert "is not of" in str(clean_exception(**answer)[1])
            with pytest.raises(CommClosedError):
                await comm.read()
        assert both.client.id in both.leader.client_comms
        assert await both.client.submit(int, 8, pure=False) == 8


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_the_next_leader_knows_whose_a_session_is(rebuilt: bool) -> None:
    async with subjects() as both:
        future = both.client.submit(int, 7, key="held")
        assert await future == 7
        session, name = both.client._ha.id, both.client.id
        await both.kill_leader()
        both.client.scheduler_comm.abort()
        leader = await both.take_over(rebuilt=rebuilt)
        assert leader.subject_of(name) == "alice"
        comm = await both.comm("bob")
        await comm.write({"op": "register-client", "client": name, "versions": {}, "reply": False})
        await comm.write([to_op(Hello(session, 0, 0))])
        assert "is not of" in str(clean_exception(**(await comm.read()))[1])
        assert await both.client.submit(int, 8, pure=False) == 8
        assert await future == 7


async def test_a_subject_comes_back_with_another_token() -> None:
    async with subjects() as both:
        name = both.client.id
        both.client.connection_args["introduction"] = both.client.connection_args[
            "introduction"
        ].__class__(1, "r", (), "client", name="alice-again")
        both.client.scheduler_comm.abort()
        await eventually(lambda: name in both.leader.client_comms)
        assert await both.client.submit(int, 8, pure=False) == 8


async def test_the_numbered_calls_of_a_session_are_its_subjects() -> None:
    async with subjects() as both:
        await both.client.set_metadata("x", 1)
        session = both.client.scheduler._numbers.session
        assert both.leader.sessions.calls.subject(session) == "alice"
        call = {"session": session, "slot": 0, "sequence": 99}
        answer = await both.ask("bob", op="set_metadata", keys=["x"], value=2, ha_call=call)
        assert "another subject's" in refused(answer)
        assert await both.client.get_metadata("x") == 1
        after = rebuild(both.log.records)
        assert after.sessions.calls.subject(session) == "alice"


async def test_the_work_of_another_subject_is_an_admins_to_touch() -> None:
    async with subjects() as both:
        held = both.client.submit(int, 7, key="held")
        failed = both.client.submit(lambda: 1 / 0, key="failed")
        assert await held == 7
        await failed.exception()
        other = await both.client_of("bob")
        for message, wanted in (
            ({"op": "retry", "keys": ["failed"]}, "work of another subject"),
            ({"op": "set_restrictions", "worker": {"held": ["w"]}}, "work of another subject"),
            ({"op": "restart"}, "would end the work of 1 other subjects"),
            ({"op": "restart_workers", "workers": []}, "would end the work"),
            ({"op": "terminate"}, "would end the work"),
        ):
            assert wanted in refused(await both.ask("bob", **message))
        other._send_to_scheduler(
            {"op": "cancel-keys", "keys": ["held"], "client": other.id, "force": True}
        )
        assert await other.submit(int, 1) == 1
        assert held.status == "finished"
        assert not refused(await both.ask("root", op="retry", keys=["failed"]))
        await other.close()


async def test_an_admin_cancels_the_futures_of_others() -> None:
    async with subjects() as both:
        held = both.client.submit(int, 7, key="held")
        assert await held == 7
        admin = await both.client_of("root")
        admin._send_to_scheduler(
            {"op": "cancel-keys", "keys": ["held"], "client": admin.id, "force": True}
        )
        await eventually(lambda: held.status == "cancelled")
        await admin.close()


async def test_a_client_that_is_alone_restarts_and_shuts_down_as_ever() -> None:
    async with subjects() as both:
        await both.client.restart(timeout=5, wait_for_workers=False)
        assert not refused(await both.ask("alice", op="terminate"))


async def test_what_a_client_may_not_without_a_scope_says_so() -> None:
    async with subjects() as both:
        narrowed = await both.client_of("carol")
        with pytest.raises(PermissionError, match="needs the scope run_on_scheduler"):
            await narrowed.run_on_scheduler(int)
        with pytest.raises(PermissionError, match="needs the scope plugins"):
            await narrowed.upload_file(__file__)
        assert await narrowed.submit(int, 3) == 3
        await narrowed.close()


def test_refusals_are_counted_and_logged_with_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    denials = Denials(lambda: now[0])
    for now[0] in (0.0, 1.0, 2.0, 11.0):
        for caller in ("eve", "bob"):
            denials.note(ROLES[caller], "gather", f"gather is not for {caller}")
    assert denials.count == 8
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4  # two of each in four times
    assert "2 more since the last line" in said[-1]


def test_the_callers_of_these_tests_are_one_of_each_role() -> None:
    assert {ROLES[name].role for name in ONE_OF_EACH} == set(TokenRole)
    assert issubclass(IdentifyingWorker, object)
    assert Subjects.kind


async def test_a_worker_may_retire_itself_and_nobody_else() -> None:
    """As at the end of its lifetime, or of its job."""
    async with subjects() as both:
        other = await both.worker("other", "other-node")
        both.workers.append(other)
        await eventually(lambda: len(both.leader.worker_callers) == 2)
        own = both.workers[0].address
        for workers in ([other.address], [own, other.address], [], "all", [own, 1]):
            answer = await both.ask("node", op="retire_workers", workers=workers, reply=True)
            assert refused(answer), workers
        for how in ({"names": ["w0"]}, {"workers": [own], "n": 2}):
            assert refused(await both.ask("node", op="retire_workers", **how, reply=True)), how
        answer = await both.ask(
            "node", op="retire_workers", workers=[own], close_workers=False, remove=True, reply=True
        )
        assert own in answer
