"""What ``ha://`` assumes of distributed and tornado beyond their public interfaces.

Each test names the line of distributed 2026.8.0 that it is about.
"""

from __future__ import annotations

import inspect
from typing import Any

import distributed
from distributed.comm import core, tcp
from distributed.comm.registry import Backend, get_backend
from distributed.core import ConnectionPool
from tornado.iostream import BaseIOStream

from ha_scheduler.comm.backend import HABackend, HAConnector

source = inspect.getsource


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_a_backend_has_the_methods_that_ours_has() -> None:
    """comm/registry.py:13: the entry point ``distributed.comm.backends``."""
    abstract = Backend.__abstractmethods__
    assert abstract <= set(vars(HABackend))
    for name in abstract:
        assert parameters(getattr(HABackend, name))[:2] == parameters(getattr(Backend, name))[:2]
    assert isinstance(get_backend("ha"), HABackend)


def test_a_connector_takes_an_address_and_whether_to_deserialize() -> None:
    """comm/core.py:299."""
    assert parameters(core.Connector.connect)[:3] == ["self", "address", "deserialize"]
    assert parameters(HAConnector.connect)[:3] == ["self", "address", "deserialize"]


def test_connect_tries_again_after_a_refusal_until_its_timeout() -> None:
    """comm/core.py:338: why ``HAConnector`` has a race of its own, and the engine asks a host."""
    text = source(core.connect)
    assert "except (asyncio.TimeoutError, OSError) as exc:" in text
    assert "while time_left() > 0:" in text


def test_only_a_fatal_error_ends_the_attempts_of_connect() -> None:
    """comm/core.py:347: what a certificate that does not verify is told by."""
    assert "except FatalCommClosedError:\n            raise" in source(core.connect)
    assert "FatalCommClosedError" in source(tcp.BaseTCPConnector.connect)


def test_a_server_speaks_first_so_the_first_byte_proves_life() -> None:
    """comm/core.py:386: the handshake is written before it is read, on both sides."""
    for handshake in (core.connect, core.Listener.on_connection):
        text = source(handshake)
        assert text.index("comm.write(local_info)") < text.index("await comm.read()")


def test_tornado_shows_how_much_it_has_read_ahead() -> None:
    """tornado 6, iostream.py: no public name for it."""
    assert "self._read_buffer_size = 0" in source(BaseIOStream.__init__)


def test_a_stream_is_an_attribute_of_a_comm() -> None:
    """comm/tcp.py:158."""
    assert "self.stream = stream" in source(tcp.TCP.__init__)


def test_a_worker_listens_towards_its_scheduler_for_known_protocols_only() -> None:
    """worker.py:1296: ``ha://`` has to find its own address by itself."""
    text = source(distributed.Worker.start_unsafe)
    assert 'if self._protocol in ("tcp", "tls"):' in text
    assert 'kwargs["default_host"] = get_ip(' in text


def test_a_worker_without_preloads_reads_them_from_the_configuration() -> None:
    """worker.py:713; and nanny.py: an empty list of the command line is one."""
    assert 'preload = dask.config.get("distributed.worker.preload")' in source(
        distributed.Worker.__init__
    )
    assert 'dask.config.get("distributed.nanny.preload")' in source(distributed.Nanny.__init__)


def test_a_stream_is_prepared_before_anything_else_becomes_of_it() -> None:
    """comm/tcp.py:647: where ``TLSListener`` hears who calls. A stopped server is noticed after."""
    text = source(tcp.BaseTCPListener._handle_stream)
    steps = [
        "self._prepare_stream(",
        "self.tcp_server is None",
        "self.comm_class(",
        "on_connection",
    ]
    assert [text.index(step) for step in steps] == sorted(text.index(step) for step in steps)
    assert "if stream is None:" in text


def test_what_is_in_the_connection_arguments_comes_to_the_connector() -> None:
    """core.py:1288 and comm/core.py:343: a worker's connections say that they are a worker's."""
    assert "self.connection_args = connection_args or {}" in source(ConnectionPool.__init__)
    assert "**self.connection_args" in source(ConnectionPool._connect)
    assert "connector.connect(loc, deserialize=deserialize, **connection_args)" in source(
        core.connect
    )


def test_a_comm_is_asked_what_both_sides_agree_on_after_both_have_spoken() -> None:
    """comm/core.py:274 and 384: an unmodified process ignores what it does not know."""
    for handshake in (core.connect, core.Listener.on_connection):
        assert "comm.handshake_configuration(" in source(handshake)
    assert "local[" in source(core.Comm.handshake_configuration)
