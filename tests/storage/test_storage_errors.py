"""Goal: every error of the storage says whose fault it is and what to do next."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from storage_helpers import open_store

from ha_scheduler.storage import errors as e

PATH = Path("/var/lib/peer")
REPLACE = r"but tls/, and start this peer once with --replace .* \(dask-ha-scheduler … --replace\)"

#: Error, what it says is wrong, what it says to do.
CASES: list[tuple[e.StorageError, str, str]] = [
    (e.DataDirectoryMissing(PATH), "holds no data of a peer", "correct the path, or ask for a new"),
    (e.DataDirectoryUnusable(PATH, "EROFS"), r"cannot be used \(EROFS\)", "let the user of this"),
    (e.DataDirectoryLocked(PATH), "another process runs on", "stop it first, or give"),
    (
        e.ForeignDataDirectory(PATH, "peer 'b' of cell 'x'", "peer 'a' of cell 'x'"),
        "belongs to peer 'b' of cell 'x', this is peer 'a'",
        "correct the path or the names, and do not delete",
    ),
    (e.NewerFormat(PATH, 9, 2), "format 9, this release knows up to 2", "upgrade this peer"),
    (e.AddressSpaceLimited(PATH, 1 << 40), "1024 GiB of addresses", "ulimit -v unlimited"),
    (e.StoreOverloaded(7, 900), r"7 batches \(900 bytes\) wait", "wait for completions"),
    (e.StoreClosed(), "the store is closed", "open it again"),
    (e.CorruptData(PATH, "data.mdb"), r"data\.mdb is damaged", f"check the disk .*{REPLACE}"),
    (e.CorruptLog(PATH, 7, "it is missing"), r"log entry 7 \(it is missing\)", REPLACE),
    (e.CorruptLedger(PATH, "values", b"\x01"), r"row 01 of table 'values' \(its check", REPLACE),
    (e.CorruptLedger(PATH, "peer", b"hard_state"), "row hard_state of table 'peer'", REPLACE),
    (e.DiskFailed(PATH, "EIO"), r"writing to .* failed \(EIO\)", "Check the disk, then start it"),
    (e.DiskFull(PATH, "the disk is full"), "no room: the disk is full", "free space first"),
]


def all_errors(base: type[e.StorageError] = e.StorageError) -> Iterator[type[e.StorageError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from all_errors(kind)


@pytest.mark.parametrize(("error", "wrong", "step"), CASES)
def test_an_error_says_where_what_is_wrong_and_what_to_do(
    error: e.StorageError, wrong: str, step: str
) -> None:
    with pytest.raises(e.StorageError, match=wrong):
        raise error
    with pytest.raises(e.StorageError, match=step):
        raise error
    local = isinstance(error, e.StoreOverloaded | e.StoreClosed)
    assert local or str(PATH) in str(error)


def test_no_error_is_missing_above_and_each_names_whose_fault_it_is() -> None:
    tested = {type(error) for error, _, _ in CASES}
    for kind in all_errors():
        assert kind in tested, kind
        assert (kind.__doc__ or "").startswith(("Operator: ", "Local: ", "Disk: ")), kind
        assert kind.__name__ in (e.__doc__ or ""), kind


def test_a_process_with_too_few_addresses_says_so(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from storage_helpers import open_store\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 36, 1 << 36))\n"
        "open_store(Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "AddressSpaceLimited" in done.stderr
    assert "LimitAS=infinity" in done.stderr


@pytest.mark.parametrize("name", ["lock", "data.mdb", "lock.mdb"])
def test_a_directory_whose_files_cannot_be_opened_is_the_operators_business(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    for _ in range(2):  # and the lock is not kept
        with pytest.raises(e.DataDirectoryUnusable, match="let the user of this process own"):
            open_store(tmp_path)
