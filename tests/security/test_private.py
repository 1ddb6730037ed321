"""Files with secrets: what is refused, and that the sentence has the command that mends it.

Method: real files with real modes, owners and links; each command is run, and the file is read.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ha_scheduler.errors import OperatorError
from ha_scheduler.peer import pid_file
from ha_scheduler.security.private import check_directories, read_private

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "own" / "a key.pem"
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"secret")
    path.chmod(0o600)
    return path


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def given_away(path: Path) -> None:
    os.chown(path, 12345, 12345)


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.chmod(0o644), "read or written by other users .mode 0644"),
    (lambda path: path.chmod(0o640), "read or written by other users .mode 0640"),
    (lambda path: path.chmod(0o606), "read or written by other users .mode 0606"),
    (lambda path: path.parent.chmod(0o777), "can be written to by other users"),
    (linked, "is a symbolic link"),
]


@pytest.mark.parametrize(("fault", "sentence"), FAULTS)
def test_what_others_could_read_or_replace_is_refused_with_what_mends_it(
    secret: Path, fault: Callable[[Path], object], sentence: str
) -> None:
    assert read_private(secret, "key") == b"secret"
    fault(secret)
    with pytest.raises(OperatorError, match=sentence) as caught:
        read_private(secret, "key")
    command = re.search(r"(?:chmod|cp) .*", str(caught.value))
    assert command is not None
    subprocess.run(["sh", "-c", command.group()], check=True)
    assert read_private(secret, "key") == b"secret"


@as_root
def test_what_belongs_to_another_user_is_refused(secret: Path) -> None:
    given_away(secret)
    with pytest.raises(OperatorError, match=r"belongs to another user .*sudo chown 0 "):
        read_private(secret, "key")
    assert read_private(secret, "key", owner=12345) == b"secret"
    os.chown(secret, 0, 0)
    given_away(secret.parent)
    with pytest.raises(OperatorError, match=r"The directory .* belongs to another user"):
        read_private(secret, "key")


def test_a_directory_further_up_counts_as_well(secret: Path) -> None:
    deep = secret.parent / "deep"
    deep.mkdir()
    secret.parent.chmod(0o777)
    with pytest.raises(OperatorError, match="chmod go-w"):
        check_directories(deep)
    secret.parent.chmod(0o1777)  # as /tmp
    check_directories(deep)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "key")
    with pytest.raises(OperatorError, match="no regular file"):
        read_private(tmp_path / "key", "key")


def test_the_pid_file_follows_no_link(tmp_path: Path) -> None:
    precious, path = tmp_path / "precious", tmp_path / "pid"
    precious.write_text("precious")
    path.symlink_to(precious)
    with pytest.raises(OperatorError, match="not followed"):
        pid_file.write(path)
    path.unlink()
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(OperatorError, match="not followed"):
        pid_file.write(path)
    assert precious.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_the_pid_file_overwrites_a_number_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("12345\n")
    pid_file.write(path)
    assert path.read_text() == f"{os.getpid()}\n"
    path.write_text("precious")
    with pytest.raises(OperatorError, match="holds something else"):
        pid_file.check(path)
    assert path.read_text() == "precious"
