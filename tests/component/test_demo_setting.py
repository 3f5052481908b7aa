"""What a demonstration is built from: addresses, files, programs, and its remains."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.network import MARK, NAME_PREFIX
from pgbastion.config.load import examine
from pgbastion.demo import files, leftovers
from pgbastion.demo.addresses import PORTS, reserve_addresses
from pgbastion.demo.programs import find_programs, os_user
from pgbastion.errors import DemoError

# Outside the range of real demonstrations, which may run beside the tests.
NETWORKS = range(138, 141)
ADDRESSES = {"n1": "127.0.138.1", "n2": "127.0.138.2", "n3": "127.0.138.3"}


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files of its own, which every user can get through."""
    folder = Path(tempfile.mkdtemp(prefix="demo-test-"))
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


# Addresses


def test_two_demonstrations_have_different_addresses() -> None:
    first = reserve_addresses(NETWORKS)
    second = reserve_addresses(NETWORKS)
    try:
        assert first.prefix == "127.0.138"
        assert second.prefix == "127.0.139"
    finally:
        first.release()
        second.release()


def test_released_addresses_can_be_had_again() -> None:
    reserve_addresses(NETWORKS).release()

    again = reserve_addresses(NETWORKS)
    again.release()

    assert again.network == NETWORKS[0]


@pytest.mark.parametrize("port", PORTS)
def test_addresses_with_a_port_that_is_taken_are_passed_over(port: int) -> None:
    with closing(socket.create_server(("127.0.138.3", port))):
        found = reserve_addresses(NETWORKS)
        found.release()

    assert found.prefix == "127.0.139"


def test_a_port_that_is_taken_everywhere_is_named_with_its_holder() -> None:
    with (
        closing(socket.create_server(("127.0.138.2", PORTS[0]))),
        pytest.raises(DemoError) as caught,
    ):
        reserve_addresses(NETWORKS[:1])

    message = str(caught.value)
    assert f"port {PORTS[0]}" in message
    assert "127.0.138.2" in message
    assert f"(pid {os.getpid()})" in message


def test_a_machine_full_of_demonstrations_is_told_as_such() -> None:
    held = [reserve_addresses(NETWORKS) for _ in NETWORKS]
    try:
        with pytest.raises(DemoError, match="other demonstrations"):
            reserve_addresses(NETWORKS)
    finally:
        for each in held:
            each.release()


# Files


@pytest.mark.parametrize("profile", ["fast", "normal", "wide"])
def test_the_settings_are_accepted_and_each_node_is_bound_to_its_own_address(
    scratch: Path, profile: str
) -> None:
    files.write_keys(scratch)
    plan = files.Plan(
        directory=scratch,
        addresses=ADDRESSES,
        bin_dir=find_programs(os_user(), scratch / "programs"),
        os_user=os_user(),
        profile=profile,
    )

    files.write_settings(plan)

    for name, address in ADDRESSES.items():
        report = examine(scratch / f"{name}.yaml", os.environ, machine=False)
        assert not report.errors, report.render(report.errors)
        config = report.config
        assert config is not None
        assert config.postgresql is not None
        bound = {
            config.raft.bind_address,
            *config.proxy.bind_address,
            config.api.bind_address,
            config.metrics.bind_address,
            config.postgresql.listen,
        }
        assert bound == {address}
        assert config.raft.bootstrap is (name == "n1")


def test_keys_are_readable_by_their_owner_only_and_never_the_same(
    scratch: Path,
) -> None:
    (scratch / "a").mkdir()
    (scratch / "b").mkdir()

    first, second = files.write_keys(scratch / "a"), files.write_keys(scratch / "b")

    for name in ("secret", "token", "passwords"):
        mode = (scratch / "a" / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
    assert first.password != second.password
    assert first.password not in repr(first)


def test_the_directory_can_be_entered_by_the_servers_user(scratch: Path) -> None:
    directory = files.make_directory()

    assert directory.parent == scratch
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


# Programs


def test_the_programs_that_are_found_can_be_run_by_the_servers_user(
    scratch: Path,
) -> None:
    assert (find_programs(os_user(), scratch / "programs") / "initdb").exists()


@pytest.mark.root
def test_programs_that_the_servers_user_cannot_reach_are_copied(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package below a home of mode 0700."""
    if os.geteuid() != 0:
        pytest.skip("not run: only root's server has another user")
    found = find_programs(os_user(), scratch / "unused")
    hidden = scratch / "home" / "package"
    hidden.mkdir(parents=True)
    (scratch / "home").chmod(0o700)
    shutil.copytree(found.parent, hidden / "pginstall", symlinks=True)
    monkeypatch.setattr(
        "pgbastion.demo.programs.discover_bin_dir",
        lambda _major, _path: hidden / "pginstall" / "bin",
    )

    copied = find_programs(os_user(), scratch / "programs")

    assert copied.is_relative_to(scratch / "programs")
    assert (copied / "postgres").exists()


def test_a_machine_without_postgresql_is_told_what_to_install(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pgbastion.demo.programs.discover_bin_dir", lambda _major, _path: None
    )

    with pytest.raises(DemoError, match="apt-get install postgresql"):
        find_programs(os_user(), scratch)


# What a demonstration that died leaves


@pytest.fixture
def dead_owner() -> list[int]:
    """A process that has ended."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    ) as p:
        found = processes.find(p.pid)
        assert found is not None
        p.communicate(b"\n")
    return [found.pid, found.started]


@pytest.fixture
def orphans(scratch: Path) -> Iterator[Path]:
    """A demonstration's directory with one process by its mark, one by its place."""
    directory = files.make_directory()
    mark = f"{NAME_PREFIX}{leftovers.tag_of(directory)}-n1:"
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    started = [
        subprocess.Popen(sleep, cwd="/", env={**os.environ, MARK: mark}),
        subprocess.Popen(sleep, cwd=directory),
    ]
    yield directory
    for process in started:
        process.kill()
        process.wait()


def _runs(directory: Path) -> int:
    mark = f"{NAME_PREFIX}{leftovers.tag_of(directory)}-"
    by_mark = processes.marked(MARK, mark)
    return len({*by_mark, *processes.working_below(directory)})


def test_the_remains_of_a_dead_demonstration_are_removed(
    orphans: Path, dead_owner: list[int]
) -> None:
    (orphans / "owner.json").write_text(json.dumps(dead_owner))

    assert leftovers.remove_leftovers() == [orphans]

    assert not orphans.exists()
    assert _runs(orphans) == 0


@pytest.mark.parametrize("owner", ["alive", "unknown", "nonsense"])
def test_what_may_still_be_in_use_is_left_alone(orphans: Path, owner: str) -> None:
    if owner == "alive":
        leftovers.sign(orphans)
    elif owner == "nonsense":
        (orphans / "owner.json").write_text("{}")

    assert leftovers.remove_leftovers() == []

    assert orphans.exists()
    assert _runs(orphans) == 2


def test_a_link_is_not_followed(scratch: Path, dead_owner: list[int]) -> None:
    """In a folder for everybody, a name proves nothing."""
    victim = scratch / "victim"
    victim.mkdir()
    (victim / "owner.json").write_text(json.dumps(dead_owner))
    (scratch / f"{files.PREFIX}link").symlink_to(victim)

    leftovers.remove_leftovers()

    assert victim.exists()
