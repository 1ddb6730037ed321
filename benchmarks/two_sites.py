"""A cell over two sites and a third place: 40 ms from A to each of the others, 80 between those.

    python -m benchmarks.two_sites [--milliseconds 40]

Peer a, worker w0 and the client are at site A, peer b and worker w1 at site B, peer c in the third
place. Root, iproute2 and nftables.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from distributed import Variable

from benchmarks.spread_cell import SpreadCell
from chaos.wire.line import Line
from chaos.wire.spoil import Rules
from ha_scheduler.protocol.control import Transferred, TransferRequest

AWAY = ("b", "w1", "c")  # from site A, and from each other
CALLS = 40


def median_ms(call: Callable[[int], object]) -> float:
    """Of some calls, one after the other."""
    took = []
    for number in range(CALLS):
        begun = time.monotonic()
        call(number)
        took.append(time.monotonic() - begun)
    return statistics.median(took) * 1000


def measure(cell: SpreadCell) -> str:
    """With the present leader."""
    variable = Variable("two-sites", client=cell.client)
    committed = median_ms(variable.set)
    near = median_ms(lambda i: cell.client.submit(int, i, pure=False, workers=["w0"]).result())
    far = median_ms(lambda i: cell.client.submit(int, i, pure=False, workers=["w1"]).result())
    return f"a call that commits {committed:.0f} ms, a task at A {near:.0f} ms, at B {far:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--milliseconds", type=float, default=40.0, help="of a round trip")
    delay = Rules(delay_s=parser.parse_args().milliseconds / 2000)
    with tempfile.TemporaryDirectory() as directory, SpreadCell(Path(directory)) as cell:
        cell.wait_until_ready()
        lines = [Line(cell.network, host, number) for number, host in enumerate(AWAY)]
        for line in lines:
            line.insert()
            line.follow(delay)
        try:
            time.sleep(5)  # elections, if there are any
            cell.wait_until_ready()
            if cell.leader().name != "a":
                cell.target.control.request(cell.leader().name, TransferRequest("a"), Transferred)
            cell.wait_until_ready()
            print(f"{cell.leader().name} leads: {measure(cell)}")
            cell.client.submit(int, 1).result()
            begun = time.monotonic()
            cell.network.cut("a")
            cell.client.submit(int, 2, pure=False).result(timeout=60)
            print(f"a is cut off: the next task is done after {time.monotonic() - begun:.2f} s")
            print(f"{cell.leader().name} leads: {measure(cell)}")
            cell.network.heal()
            cell.wait_until_ready()
            print(f"the cut is over: {cell.leader().name} leads")
        finally:
            for line in lines:
                line.remove()


if __name__ == "__main__":
    main()
