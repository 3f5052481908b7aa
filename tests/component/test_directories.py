"""Directories that the daemon makes."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pgbastion.bench.lab.servers import os_user
from pgbastion.daemon import prepare_directories
from pgbastion.directories import PASSABLE, make_directory
from support.configs import understood


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """The daemon's: nobody else is let in."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def modes(*paths: Path) -> list[int]:
    return [path.stat().st_mode & 0o7777 for path in paths]


def test_everybody_may_pass_what_lies_above(tmp_path: Path) -> None:
    """PostgreSQL's data lie beside the log, and are another user's."""
    made = tmp_path / "lab" / "n1" / "raft"

    make_directory(made, 0o700)

    assert modes(made.parent.parent, made.parent, made) == [PASSABLE, PASSABLE, 0o700]


def test_what_is_there_keeps_its_mode(tmp_path: Path) -> None:
    there = tmp_path / "n1"
    there.mkdir()
    there.chmod(0o710)

    make_directory(there, PASSABLE)
    make_directory(there / "raft", 0o700)

    assert modes(there) == [0o710]


def test_the_server_finds_the_directory_of_its_socket(tmp_path: Path) -> None:
    raft, sockets = tmp_path / "n1" / "raft", tmp_path / "run" / "n1"
    config = understood(
        raft={"data_dir": str(raft)},
        postgresql={"socket_dir": str(sockets), "os_user": os_user()},
    )

    prepare_directories(replace(config, run_dir=tmp_path / "page"))

    assert sockets.owner() == os_user()
    assert modes(sockets.parent, sockets, raft) == [PASSABLE, PASSABLE, 0o700]
