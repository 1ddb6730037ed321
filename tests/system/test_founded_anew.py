"""A cell whose data is lost as a whole, and that is founded anew on the same hosts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from distributed.client import FutureCancelledError

from ha_scheduler import LocalHACluster
from tests.deadlines import SCALE


@pytest.mark.slow
@pytest.mark.system
def test_running_workers_and_clients_go_on_in_the_cell_that_took_the_place_of_theirs(
    tmp_path: Path,
) -> None:
    with (
        LocalHACluster(data_dir=tmp_path, n_peers=3, n_workers=1) as cluster,
        cluster.get_client() as client,
    ):
        assert client.submit(sum, [1, 2]).result(30 * SCALE) == 3
        first = cluster.cell.control.status("a").cell_id
        for peer in cluster.peers:
            peer.kill()
            shutil.rmtree(tmp_path / f"peer-{peer.name}" / "data")
        lost = client.submit(sum, [3, 4])
        for peer in cluster.peers:
            peer.start()
        with pytest.raises(FutureCancelledError) as caught:
            lost.result(60 * SCALE)
        second = cluster.cell.control.status("a").cell_id
        assert first != second
        assert first in str(caught.value)
        assert second in str(caught.value)
        assert client.submit(sum, [5, 6]).result(60 * SCALE) == 11
        (worker,) = cluster.workers.values()
        told = f"The cell {first} of this worker is not there any more"
        assert told in worker.log_path.read_text()
