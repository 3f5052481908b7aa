"""Configurations read from disk, judged by a machine made for the test."""

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from pgbastion.config.discovery import discover_bin_dir, server_version
from pgbastion.config.facts import closed_parent, directory_facts
from pgbastion.config.load import examine, load_config
from pgbastion.config.machine import SECRET_VARIABLE, Content, ServerVersion
from pgbastion.config.rundir import make_run_directory, on_memory, run_directory
from pgbastion.config.secrets import (
    derive,
    load_cluster_secret,
    load_secrets,
    strip_line_end,
)
from pgbastion.errors import ConfigError
from pgbastion.postgres.staging import INSIDE_NEW
from support.postgres import os_user

CONTRACT = """\
node: {{name: n1, address: 10.77.0.1}}
cluster: {{name: lab, peers: [10.77.0.1, 10.77.0.2, 10.77.0.3], secret_file: {dir}/secret}}
raft: {{data_dir: {dir}/n1/raft, bootstrap: true, tls_enabled: false}}
failover: {{profile: fast}}
replication: {{mode: quorum, sync_count: 1, strict: false}}
postgresql: {{bin_dir: {bin}, data_dir: {dir}/n1/pg, os_user: {user}, password_file: {dir}/passwords, parameters: {{shared_buffers: 128MB}}}}
api: {{auth_token_file: {dir}/token}}
"""  # noqa: E501 - the contract's file, line by line
WITNESS = """\
node: {{name: n3, address: 10.77.0.3}}
cluster: {{peers: [10.77.0.1, 10.77.0.2], secret_file: {dir}/secret}}
raft: {{data_dir: {dir}/n3/raft, tls_enabled: false}}
"""


class Place:
    """A directory with programs, secrets and a configuration."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.user = os_user()
        self.bin_dir = root / "bin"
        self.bin_dir.mkdir()
        for name in (
            "postgres",
            "initdb",
            "pg_basebackup",
            "pg_rewind",
            "pg_controldata",
            "pg_waldump",
        ):
            program = self.bin_dir / name
            program.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 16.9'\n")
            program.chmod(0o755)
        self.secret("s" * 32 + "\n")
        self.write("passwords", "postgres:one\nreplicator:two\n", 0o600)
        self.write("token", "a-token\n", 0o600)

    def secret(self, text: str, mode: int = 0o600) -> None:
        self.write("secret", text, mode)

    def write(self, name: str, text: str, mode: int) -> Path:
        path = self.root / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def config(self, text: str = CONTRACT) -> Path:
        filled = text.format(dir=self.root, bin=self.bin_dir, user=self.user)
        return self.write("pgbastion.yaml", filled, 0o644)

    def messages(self, text: str = CONTRACT) -> str:
        """Return what refuses the configuration; nothing of the user's may change."""
        path = self.config(text)
        before = _tree(self.root)
        with pytest.raises(ConfigError) as caught:
            load_config(path, ENVIRONMENT)
        assert _tree(self.root) == before
        assert str(caught.value).count("remedy:") >= 1
        return str(caught.value)


ENVIRONMENT: Mapping[str, str] = {"PATH": os.environ["PATH"]}


def _tree(root: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent.name.startswith("pytest"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    return Place(tmp_path)


def test_the_contracts_file_works_as_it_stands(place: Place) -> None:
    config = load_config(place.config(), ENVIRONMENT)

    assert config.timings.lease_ms == 2_000
    assert [peer.host for peer in config.peers] == ["10.77.0.2", "10.77.0.3"]
    assert config.postgresql is not None
    assert config.postgresql.parameters == {"shared_buffers": "128MB"}
    assert config.postgresql.socket_dir == config.run_dir


@pytest.mark.parametrize(
    ("address", "told"),
    [("192.0.2.1", 1), ("127.0.0.1", 0), ('"2001:db8::1"', 1)],
)
def test_an_address_that_no_interface_has_is_told(
    place: Place, address: str, told: int
) -> None:
    text = CONTRACT.replace("address: 10.77.0.1", f"address: {address}")

    report = examine(place.config(text), ENVIRONMENT)

    assert [problem.key for problem in report.problems].count("node.address") == told


@pytest.fixture
def closed(place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory in which this user may make nothing.

    Root may make everything, so it is asked for in the kernel's place.
    """
    directory = place.root / "closed"
    directory.mkdir()
    may = os.access

    def access(path: Path, mode: int, **how: bool) -> bool:
        return path != directory and may(path, mode, **how)

    monkeypatch.setattr(os, "access", access)
    return directory


def test_what_this_user_may_not_make_is_told(place: Place, closed: Path) -> None:
    inside = CONTRACT.replace("{dir}/n1", "{dir}/closed/n1")
    inside = inside.replace(
        "postgresql: {{", "postgresql: {{socket_dir: {dir}/closed/s, "
    )

    told = place.messages(inside)

    for key in ("raft.data_dir", "postgresql.data_dir", "postgresql.socket_dir"):
        assert f"{key}: is missing" in told
    assert f"may not make it in {closed}" in told


@pytest.mark.parametrize(
    ("bootstrap", "secret", "told"),
    [("true", "", True), ("false", "", False), ("true", "s" * 32, False)],
    ids=["made", "joins", "in-the-environment"],
)
def test_a_secret_that_would_be_made_where_it_may_not_is_told(
    place: Place, closed: Path, bootstrap: str, secret: str, told: bool
) -> None:
    text = CONTRACT.replace("bootstrap: true", f"bootstrap: {bootstrap}")
    text = text.replace("{dir}/secret", "{dir}/closed/secret")
    environment = {**ENVIRONMENT, **({SECRET_VARIABLE: secret} if secret else {})}

    keys = [
        each.key
        for each in examine(place.config(text), environment).problems
        if f"may not make it in {closed}" in each.problem
    ]

    assert keys == (["cluster.secret_file"] if told else [])


def test_the_contracts_file_of_a_witness_works(place: Place) -> None:
    assert load_config(place.config(WITNESS), ENVIRONMENT).postgresql is None


@pytest.mark.parametrize(
    "wrong",
    ["node: {{address: 10.0.0.300}}", "raft: ", "proxy: 5", "vip: [1]", "colour: red"],
)
def test_a_wrong_value_hides_no_other_problem(place: Place, wrong: str) -> None:
    """A clash of ports and a file that is missing are told beside it."""
    section = wrong.partition(":")[0]
    lines = [line for line in CONTRACT.splitlines() if not line.startswith(section)]
    (place.root / "token").unlink()

    text = place.messages("\n".join([*lines, "metrics: {{port: 5442}}", wrong]))

    assert "postgresql.port: port 5442" in text
    assert "api.auth_token_file" in text
    assert text.count(": error: ") >= 3


def test_nothing_is_said_of_what_stands_in_for_a_wrong_value(place: Place) -> None:
    text = CONTRACT.replace("{dir}/n1/raft", "raft").replace("{dir}/n1/pg", "pg")
    text = text.replace("n1, address: 10.77.0.1", "-, address: 10.77.0")
    text = text.replace("profile: fast", "profile: quick").replace("{bin}", "bin")

    said = [line.split(": ") for line in place.messages(text).splitlines()]

    assert [words[2] for words in said if words[1] == "error"] == [
        "node.name",
        "node.address",
        "raft.data_dir",
        "failover.profile",
        "postgresql.bin_dir",
        "postgresql.data_dir",
    ]


def test_every_line_of_the_contract_points_to_its_problem(place: Place) -> None:
    (place.root / "token").unlink()
    (place.root / "passwords").chmod(0o644)

    text = place.messages()

    assert f"{place.root}/pgbastion.yaml:7: error: api.auth_token_file" in text
    assert f"{place.root}/pgbastion.yaml:6: error: postgresql.password_file" in text


def test_a_data_directory_of_something_else_is_left_alone(place: Place) -> None:
    (place.root / "n1" / "pg").mkdir(parents=True)
    (place.root / "n1" / "pg" / "diary.txt").write_text("mine")

    assert "neither empty nor a data directory" in place.messages()


def test_a_data_directory_of_another_version_is_left_alone(place: Place) -> None:
    data = place.root / "n1" / "pg"
    data.mkdir(parents=True, mode=0o700)
    (data / "PG_VERSION").write_text("15\n")
    _give(data, place.user)

    assert "holds data of PostgreSQL 15" in place.messages()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other users")
def test_a_data_directory_of_another_owner_is_left_alone(place: Place) -> None:
    data = place.root / "n1" / "pg"
    data.mkdir(parents=True, mode=0o700)
    (data / "PG_VERSION").write_text("16\n")

    assert "belongs to user 0" in place.messages()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="root runs the server as another user")
def test_a_directory_that_the_server_may_not_pass_is_named(place: Place) -> None:
    closed = place.root / "n1"
    closed.mkdir(mode=0o700)

    assert f"may not pass {closed}" in place.messages()


def test_missing_programs_are_named(place: Place) -> None:
    (place.bin_dir / "pg_rewind").unlink()

    assert "lacks pg_rewind" in place.messages()


@pytest.mark.parametrize(
    ("secret", "mode", "message"),
    [("short\n", 0o600, "5 bytes"), ("s" * 32, 0o644, "0644")],
)
def test_a_bad_secret_is_refused(
    place: Place, secret: str, mode: int, message: str
) -> None:
    place.secret(secret, mode)

    assert message in place.messages()


def test_a_joiner_without_the_secret_is_refused(place: Place) -> None:
    (place.root / "secret").unlink()

    assert "secret is missing" in place.messages(WITNESS)


def test_a_file_that_is_not_there_is_one_message(place: Place) -> None:
    report = examine(place.root / "nothing.yaml", ENVIRONMENT)

    assert [p.problem for p in report.problems] == [
        "cannot be read: No such file or directory"
    ]


def test_a_file_that_is_not_text_is_one_message(place: Place) -> None:
    path = place.root / "binary.yaml"
    path.write_bytes(b"node: \xff")

    assert "UTF-8" in examine(path, ENVIRONMENT).problems[0].problem


def test_the_bootstrapping_node_makes_a_secret_once(place: Place) -> None:
    (place.root / "secret").unlink()
    config = load_config(place.config(), ENVIRONMENT)

    first = load_cluster_secret(config, ENVIRONMENT)
    second = load_cluster_secret(config, ENVIRONMENT)

    path = place.root / "secret"
    assert first == second == strip_line_end(path.read_bytes())
    assert len(first) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in place.root.glob(".secret*")] == []


def test_without_a_token_file_the_token_is_derived_and_written(place: Place) -> None:
    text = CONTRACT.replace("api: {{auth_token_file: {dir}/token}}\n", "")
    config = load_config(place.config(text), ENVIRONMENT)

    secrets = load_secrets(config, ENVIRONMENT)

    written = config.raft.data_dir / "api-token"
    assert secrets.write_token == derive(b"s" * 32, "api-token")
    assert written.read_text() == secrets.write_token + "\n"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert secrets.read_token is None
    assert secrets.passwords == {
        "postgres": "one",
        "replicator": "two",
        "rewinder": derive(b"s" * 32, "pg:rewinder"),
    }


def test_tokens_come_from_their_files(place: Place) -> None:
    config = load_config(place.config(), ENVIRONMENT)

    assert load_secrets(config, ENVIRONMENT).write_token == "a-token"
    assert (
        load_secrets(config, {**ENVIRONMENT, "PGBASTION_TOKEN": "b"}).write_token == "b"
    )


def test_programs_of_the_datas_version_are_preferred(place: Place) -> None:
    assert discover_bin_dir(16, str(place.bin_dir)) is not None
    assert discover_bin_dir(12, str(place.bin_dir)) is None


def test_a_server_program_states_its_version(place: Place) -> None:
    assert server_version(place.bin_dir) == ServerVersion(major=16, minor=9)
    (place.bin_dir / "postgres").write_text("#!/bin/sh\nexit 1\n")
    assert server_version(place.bin_dir) is None


def test_an_empty_directory_is_not_a_missing_one(tmp_path: Path) -> None:
    assert directory_facts(tmp_path).content is Content.EMPTY
    for name in ("lost+found", INSIDE_NEW):
        (tmp_path / name).mkdir()
    assert directory_facts(tmp_path).content is Content.EMPTY
    assert directory_facts(tmp_path / "x").content is Content.MISSING
    (tmp_path / "f").touch()
    assert directory_facts(tmp_path / "f").content is Content.NO_DIRECTORY


def test_the_cluster_of_marked_data_is_known(tmp_path: Path) -> None:
    mark = tmp_path / "pgbastion.cluster"
    mark.write_text('{"version": 1, "cluster_id": "c1"}')
    assert directory_facts(tmp_path).cluster_id == "c1"
    mark.write_text("[")
    assert directory_facts(tmp_path).cluster_id is None
    assert directory_facts(tmp_path).marked


def test_everybody_may_pass_the_root_directory() -> None:
    account = pwd.getpwnam(os_user())

    assert closed_parent(Path("/pgbastion-does-not-exist/pg"), account) is None


def test_the_run_directory_is_in_memory() -> None:
    path = run_directory("n1", Path("/srv/raft"), os.environ)

    existing = next(parent for parent in path.parents if parent.exists())
    assert on_memory(existing)
    assert path.name.startswith("n1-")


def test_two_raft_directories_have_two_run_directories() -> None:
    first = run_directory("n1", Path("/srv/one"), os.environ)
    second = run_directory("n1", Path("/srv/two"), os.environ)

    assert first != second


def test_a_run_directory_lets_others_pass_and_nobody_write(tmp_path: Path) -> None:
    path = tmp_path / "pgbastion" / "n1"

    make_run_directory(path, None)
    make_run_directory(path, None)

    assert stat.S_IMODE(path.stat().st_mode) == 0o711


def test_a_run_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "n1").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigError, match="not a directory"):
        make_run_directory(tmp_path / "n1", None)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_servers_group_may_add_its_socket_and_replace_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "n1"

    make_run_directory(path, pwd.getpwnam("nobody").pw_gid)

    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o1771
    assert found.st_gid == pwd.getpwnam("nobody").pw_gid


def _give(path: Path, user: str) -> None:
    if os.geteuid() == 0:
        account = pwd.getpwnam(user)
        os.chown(path, account.pw_uid, account.pw_gid)
