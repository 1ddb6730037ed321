"""Real hosts, for the faults of networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chaos.wire.network import Network, NoNamespaces, check_permitted
from tests.chaos.hosts import HOSTS, Hosts


@pytest.fixture(scope="module")
def hosts() -> Iterator[Any]:
    try:
        check_permitted()
    except NoNamespaces as error:
        pytest.skip(f"no network namespaces: {error}")
    with Network(HOSTS) as network:
        hosts = Hosts(network)
        yield hosts
        hosts.close()
