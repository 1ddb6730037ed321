"""What ends the scheduler that reads it costs the cell two engines, and others some moments."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest
from click.testing import CliRunner
from distributed import SchedulerPlugin, Variable

from client_replay import Client
from ha_scheduler import LocalHACluster
from ha_scheduler.cli.main import main
from ha_scheduler.errors import SetAside
from tests.deadlines import SCALE
from tests.system.conftest import follows, new_cluster, wait_until

PATIENCE_S = 20 * SCALE
OTHERS_WAIT_S_MAX = 15 * SCALE  # alone on two cores it is about one second

LARGE = 100_000  # tasks, which block the leader for longer than the watchdog's five seconds

AN_ENGINE = "any('--channel-fd' in each for each in sys.argv)"
EXIT = "os._exit(77)"


def poison(book: Path, code: str = EXIT, unless: str = "False") -> str:
    """Code that an engine ends of, which leaves a line in ``book`` before."""
    return (
        f"import os, signal, sys\n"
        f"if {AN_ENGINE} and not ({unless}):\n"
        f" open({str(book)!r}, 'a').write('x')\n"
        f" {code}"
    )


def leads(cluster: LocalHACluster) -> str:
    """Whether an engine is that of the present leader; a condition for ``poison``."""
    return f"os.getpid() == {cluster.leader.engine_pid}"


class Poison:
    """Ends each engine that unpickles it."""

    def __init__(self, book: Path, code: str = EXIT, unless: str = "False") -> None:
        self.code = poison(book, code, unless)

    def __reduce__(self) -> Any:
        return exec, (self.code, {})


class OncePickled:
    """Is read well, and ends the engine that pickles it for a worker."""

    def __init__(self, book: Path) -> None:
        self.code = poison(book)

    def __reduce__(self) -> Any:
        exec(self.code, {})
        return _once_more, (self.code,)


def _once_more(code: str) -> OncePickled:
    made = OncePickled.__new__(OncePickled)
    made.code = code
    return made


class Starts(SchedulerPlugin):  # type: ignore[misc]
    """Ends the engine that starts it."""

    name = "starts"

    def __init__(self, book: Path) -> None:
        self.code = poison(book)

    def start(self, scheduler: Any) -> None:
        exec(self.code, {})


class Hears(SchedulerPlugin):  # type: ignore[misc]
    """Ends the engine that tells it of a graph."""

    name = "hears"

    def __init__(self, book: Path) -> None:
        self.code = poison(book)

    def update_graph(self, *args: Any, **kwargs: Any) -> None:
        exec(self.code, {})


def use(*inputs: Any) -> str:
    return "used"


def plant(book: Path) -> str:
    """Leaves what ends engines in what the worker tells of the task, to each leader anew."""
    worker = distributed.get_worker()
    worker.state.tasks[worker.get_current_task()].metadata["poison"] = Poison(book)
    return "planted"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalHACluster]:
    with new_cluster(n_workers=1, nanny=False) as started:
        yield started


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "book"


@pytest.fixture
def client(cluster: LocalHACluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as connected:
        yield connected


@contextmanager
def others_work_on(cluster: LocalHACluster) -> Iterator[None]:
    """Another user's tasks go on meanwhile, none of them much later than usual."""
    waits: list[float] = []
    over = threading.Event()

    def work(other: Client) -> None:
        while not over.is_set():
            began = time.monotonic()
            other.submit(use, pure=False).result(timeout=PATIENCE_S)
            waits.append(time.monotonic() - began)

    with Client(cluster, set_as_default=False) as other:
        thread = threading.Thread(target=work, args=(other,))
        thread.start()
        try:
            wait_until(lambda: waits, "another user's task")
            waits.clear()
            yield
        finally:
            over.set()
            thread.join()
    sys.stdout.write(f"[others waited for up to {max(waits):.2f} s] ")
    assert max(waits) < OTHERS_WAIT_S_MAX


def ended(book: Path) -> int:
    return len(book.read_text()) if book.exists() else 0


def error_of(call: Callable[[], Any], times: int = 3) -> Exception:
    """What a user gets who repeats a call whose outcome is unknown."""
    for _ in range(times):
        try:
            return AssertionError(call())
        except SetAside as error:
            return error
        except OSError:
            continue
    raise AssertionError("its outcome stays unknown")


def settled(cluster: LocalHACluster) -> None:
    """Every peer has an engine that could lead, so that each test begins alike."""
    for peer in cluster.peers:
        wait_until(partial(follows, cluster, peer), f"{peer.name} has an engine", every_s=0.1)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        pytest.param("os._exit(77)", "exit status 77", marks=pytest.mark.slow),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL", marks=pytest.mark.slow),
        pytest.param("os.abort()", "SIGABRT", marks=pytest.mark.slow),
    ],
)
def test_a_graph_that_ends_who_reads_it_is_refused_after_two_engines(
    cluster: LocalHACluster, client: Client, book: Path, code: str, cause: str
) -> None:
    with others_work_on(cluster):
        error = client.submit(use, Poison(book, code), pure=False).exception(timeout=PATIENCE_S)
    assert isinstance(error, SetAside)
    assert f"{cause} on " in str(error)
    assert client.id in str(error)
    assert ended(book) == 2
    assert client.submit(use, pure=False).result(timeout=PATIENCE_S) == "used"


def test_what_ends_only_those_that_replay_it_leaves_the_leader_alone(
    cluster: LocalHACluster, client: Client, book: Path
) -> None:
    leader = cluster.leader
    future = client.submit(use, Poison(book, unless=leads(cluster)), pure=False)
    assert future.result(timeout=PATIENCE_S) == "used"
    wait_until(lambda: ended(book) == 2, "two followers ended of it")
    wait_until(lambda: all(peer.engine_pid for peer in cluster.peers), "there are others")
    assert cluster.leader.name == leader.name
    leader.kill_engine()
    assert client.submit(use, pure=False).result(timeout=PATIENCE_S) == "used"
    assert isinstance(future.exception(timeout=PATIENCE_S), SetAside)
    assert ended(book) == 2


def test_kills_from_outside_condemn_nobody(
    cluster: LocalHACluster, client: Client, book: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    code = f"while not os.path.exists({str(gate)!r}): __import__('time').sleep(0.01)"
    slow = client.submit(use, Poison(book, code), pure=False)
    for deaths in range(1, 4):
        wait_until(lambda n=deaths: ended(book) == n, "it is being read")
        os.kill(cluster.leader.engine_pid, signal.SIGKILL)
    gate.touch()
    assert slow.result(timeout=PATIENCE_S) == "used"


def annotated(client: Client, book: Path) -> Any:
    with dask.annotate(poison=Poison(book)):
        future = client.submit(use, pure=False)
    return future.exception(timeout=PATIENCE_S)


KINDS: dict[str, Callable[[Client, Path], Any]] = {
    "an annotation": annotated,
    "the argument of a function for the scheduler": lambda client, book: error_of(
        lambda: client.run_on_scheduler(use, Poison(book))
    ),
    "a scheduler plugin": lambda client, book: error_of(
        lambda: client.register_plugin(Starts(book))
    ),
    "a value of a variable": lambda client, book: error_of(
        lambda: Variable("v", client=client).set(Poison(book))
    ),
    "a value of the metadata": lambda client, book: error_of(
        lambda: client.set_metadata("m", Poison(book))
    ),
    "what is pickled for a worker": lambda client, book: client.submit(
        use, OncePickled(book), pure=False
    ).exception(timeout=PATIENCE_S),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_client_sends_is_refused_as_well(
    cluster: LocalHACluster, client: Client, book: Path, kind: str
) -> None:
    with others_work_on(cluster):
        error = KINDS[kind](client, book)
    assert isinstance(error, SetAside)
    assert "exit status 77 on " in str(error)
    assert 2 <= ended(book) <= 3, "the third if another graph was being read beside it"
    settled(cluster)


def test_a_plugin_that_ends_engines_is_not_started_again_and_the_graphs_go_on(
    cluster: LocalHACluster, client: Client, book: Path
) -> None:
    client.register_plugin(Hears(book))
    for _ in range(3):  # a leader may end of it when the graph is in the log, and need not be told
        assert client.submit(use, pure=False).result(timeout=PATIENCE_S) == "used"
    assert ended(book) == 2
    client.unregister_scheduler_plugin("hears")
    settled(cluster)


@pytest.mark.slow
def test_an_uploaded_file_that_ends_followers_is_passed_over(
    cluster: LocalHACluster, client: Client, book: Path, tmp_path: Path
) -> None:
    file = tmp_path / "uploaded_poison.py"
    file.write_text(poison(book, unless=leads(cluster)))
    client.upload_file(str(file))
    wait_until(lambda: ended(book) == 2, "two followers ended of it")
    settled(cluster)
    assert ended(book) == 2
    assert client.submit(use, pure=False).result(timeout=PATIENCE_S) == "used"


@pytest.mark.slow
def test_what_a_task_left_with_its_worker_ends_leaders_and_is_set_aside_without_the_worker(
    book: Path,
) -> None:
    with (
        new_cluster(n_workers=2, nanny=True) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        workers = set(client.scheduler_info()["workers"])
        with others_work_on(cluster):
            planted = client.submit(plant, book, pure=False)
            wait_until(lambda: ended(book) >= 3, "one ended of the result, two of the report")
            assert planted.result(timeout=PATIENCE_S) == "planted"
            settled(cluster)
        before = ended(book)
        assert before <= 4, "the fourth if something else was being read beside it"
        cluster.leader.kill_engine()
        assert client.submit(use, planted, pure=False).result(timeout=PATIENCE_S) == "used"
        assert ended(book) == before
        assert set(client.scheduler_info()["workers"]) == workers


@pytest.mark.slow
def test_an_unmodified_client_that_tries_again_by_hand_costs_two_engines_in_all(
    cluster: LocalHACluster, book: Path
) -> None:
    answers: list[Any] = []
    while not any(isinstance(answer, SetAside) for answer in answers):
        assert len(answers) < 5
        plain = distributed.Client(
            cluster.scheduler_address, security=cluster.security, set_as_default=False
        )
        try:
            future = plain.submit(use, Poison(book), pure=False)
            answers.append(future.exception(timeout=PATIENCE_S))
        except Exception as error:
            answers.append(error)
        finally:
            plain.close(timeout=1)
    assert ended(book) == 2


def test_an_operator_lists_shows_and_releases_what_was_set_aside(
    cluster: LocalHACluster, client: Client, book: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "mended"
    refused = client.submit(use, Poison(book, unless=f"os.path.exists({str(gone)!r})"), key="k")
    refused.exception(timeout=PATIENCE_S)
    assert cluster.cell is not None
    tls = ["--peers", cluster.cell.cell.text, "--tls-dir", str(cluster.cell.certificates)]

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, [*arguments, *tls])
        assert done.exit_code == 0, done.output
        return done.output

    assert "graph of k" in run("status")
    assert "exit status 77" in run("quarantine", "list")
    assert "exit status 77" in run("history")
    (content,) = (
        case["content"]
        for case in json.loads(run("quarantine", "list", "--format", "json"))
        if case["client"] == client.id
    )
    assert client.id in run("quarantine", "show", content[:8])
    del refused
    gone.touch()
    assert "is read again" in run("quarantine", "release", content[:8])
    again = client.submit(use, Poison(book, unless=f"os.path.exists({str(gone)!r})"), key="k")
    assert again.result(timeout=PATIENCE_S) == "used"


SOURCE = "int crash(void) { volatile int *p = 0; return *p; }"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_an_extension_that_faults_as_it_is_read_is_refused(
    cluster: LocalHACluster, client: Client, book: Path, tmp_path: Path
) -> None:
    (tmp_path / "crash.c").write_text(SOURCE)
    library = tmp_path / "crash.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "crash.c"], check=True)
    assert ctypes.CDLL(str(library)).crash
    code = f"__import__('ctypes').CDLL({str(library)!r}).crash()"
    error = client.submit(use, Poison(book, code), pure=False).exception(timeout=PATIENCE_S)
    assert isinstance(error, SetAside)
    assert "SIGSEGV on " in str(error)
    assert ended(book) == 2
    settled(cluster)


@pytest.mark.slow
def test_running_out_of_an_address_space_is_an_error_like_any_other(
    cluster: LocalHACluster, client: Client, book: Path
) -> None:
    code = "raise MemoryError('no room')"
    error = client.submit(use, Poison(book, code), pure=False).exception(timeout=PATIENCE_S)
    assert not isinstance(error, SetAside)
    assert ended(book) == 1
    assert client.submit(use, pure=False).result(timeout=PATIENCE_S) == "used"


@pytest.mark.slow
@pytest.mark.timeout(400 * SCALE)
@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_an_endless_loop_is_ended_by_the_watchdog_and_a_large_graph_is_not(book: Path) -> None:
    options = ["--engine-watchdog=5"]
    with (
        new_cluster(n_workers=1, nanny=False, peer_options=options) as cluster,
        Client(cluster, set_as_default=False) as client,
        Client(cluster, set_as_default=False) as other,
    ):
        began = time.monotonic()
        loop = client.submit(use, Poison(book, "exec('while True: pass')"), pure=False)
        error = loop.exception(timeout=60 * SCALE)
        assert isinstance(error, SetAside)
        assert "made no progress" in str(error)
        assert ended(book) == 2
        assert other.submit(use, pure=False).result(timeout=PATIENCE_S) == "used"
        sys.stdout.write(f"[others waited for up to {time.monotonic() - began:.1f} s] ")
        term = cluster.history()[-1]["term"]
        began = time.monotonic()
        large = client.map(use, range(LARGE), pure=False)
        assert large[0].result(timeout=200 * SCALE) == "used"
        sys.stdout.write(f"[a graph of {LARGE:,} was in after {time.monotonic() - began:.1f} s] ")
        assert cluster.history()[-1]["term"] == term
