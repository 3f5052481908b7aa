"""``pgbastion init``: a configuration that can be used, or none."""

import os
import pwd
import stat
from pathlib import Path

import pytest

from pgbastion.cli import initialising
from pgbastion.cli.exits import Exit
from pgbastion.config.reading import understand
from pgbastion.config.secrets import derive
from support.cli import run

ADDRESS = "127.32.0.1"


def options(folder: Path, *more: str) -> list[str]:
    return [
        "init",
        f"--config={folder}/etc/pgbastion.yaml",
        "--name=n1",
        f"--address={ADDRESS}",
        f"--peers={ADDRESS},127.32.0.2",
        f"--raft-dir={folder}/raft",
        f"--secret-file={folder}/etc/secret",
        "--yes",
        *more,
    ]


def server(folder: Path) -> str:
    """Return the option of a data directory that whoever tests could make."""
    # PostgreSQL's user may not pass a folder of root's.
    return "--data-dir=/srv/pg" if os.geteuid() == 0 else f"--data-dir={folder}/pg"


def test_the_first_node_gets_a_configuration_and_a_secret(tmp_path: Path) -> None:
    done = run(*options(tmp_path, "--witness", "--bootstrap"))

    assert done.returncode == Exit.OK, done.stderr
    secret = tmp_path / "etc/secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert len(secret.read_bytes()) >= 32
    found = understand(tmp_path / "etc/pgbastion.yaml")
    assert (found.node.name, found.node.address) == ("n1", ADDRESS)
    assert [peer.host for peer in found.cluster.peers] == [ADDRESS, "127.32.0.2"]
    assert found.raft.bootstrap
    assert run("check", "-c", str(found.source)).returncode == Exit.OK


def test_a_joiner_is_told_to_fetch_the_secret(tmp_path: Path) -> None:
    done = run(*options(tmp_path, "--witness", "--join"))

    assert done.returncode == Exit.OK, done.stderr
    assert not (tmp_path / "etc/secret").exists()
    assert f"copy {tmp_path}/etc/secret from another node" in done.stdout


def test_a_file_that_is_there_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "etc/pgbastion.yaml"
    path.parent.mkdir()
    path.write_text("mine")

    done = run(*options(tmp_path, "--witness", "--bootstrap"))

    assert done.returncode == Exit.NO
    assert "exists" in done.stderr
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("--name=a b", "node.name"),
        ("--address=here", "node.address"),
        ("--peers=1.2.3.4:x", "cluster.peers"),
        ("--data-dir=relative", "postgresql.data_dir"),
        ("--raft-dir=raft", "raft.data_dir"),
    ],
)
def test_what_cannot_be_used_is_told_and_nothing_is_written(
    tmp_path: Path, wrong: str, word: str
) -> None:
    done = run(*options(tmp_path, "--bootstrap", wrong))

    assert done.returncode == Exit.CONFIG
    assert word in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_file_and_writes_nothing(tmp_path: Path) -> None:
    done = run(*options(tmp_path, "--bootstrap", server(tmp_path), "--dry-run"))

    assert 'data_dir: "' in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_makes_every_check(tmp_path: Path) -> None:
    unusable = run(*options(tmp_path, "--bootstrap", "--name=a b", "--dry-run"))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/pgbastion.yaml").touch()
    again = run(*options(tmp_path, "--bootstrap", "--dry-run"))

    assert unusable.returncode == Exit.CONFIG
    assert "node.name" in unusable.stderr
    assert again.returncode == Exit.NO
    assert "pgbastion.yaml exists" in again.stderr


def test_the_unit_starts_the_program_that_made_it(tmp_path: Path) -> None:
    done = run(*options(tmp_path, "--witness", "--bootstrap", f"--unit-dir={tmp_path}"))

    assert done.returncode == Exit.OK, done.stderr
    unit = (tmp_path / "pgbastion.service").read_text()
    assert "ExecStart=/usr/local/bin/pgbastion start" in unit


def test_where_nobody_can_be_asked_the_question_is_told(tmp_path: Path) -> None:
    done = run("init", f"--config={tmp_path}/p.yaml")

    assert done.returncode == Exit.NO
    assert "Name of this node? Nobody can be asked here" in done.stderr


@pytest.mark.parametrize(("user", "line"), [(0, ""), (65534, "  os_user: ")])
def test_postgresql_runs_as_whoever_cannot_choose(
    monkeypatch: pytest.MonkeyPatch, user: int, line: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    name = f'"{pwd.getpwuid(user).pw_name}"' if user else ""

    answers = initialising.gather({"founds": True}, initialising.accept)

    assert answers.os_user == (pwd.getpwuid(user).pw_name if user else None)
    text = initialising.render_configuration(answers)
    assert ("os_user" in text) == bool(user)
    assert f"{line}{name}" in text


def test_the_next_step_can_be_typed(tmp_path: Path) -> None:
    file = f"{tmp_path}/etc/pgbastion.yaml"
    done = run(*options(tmp_path, "--bootstrap", server(tmp_path)))

    assert f"next: pgbastion start --config {file}\n" in done.stdout, done.stderr
    assert f"pgbastion password --config {file}\n" in done.stdout


def test_a_password_is_told_to_who_may_read_the_files(tmp_path: Path) -> None:
    options_made = options(tmp_path, "--bootstrap", server(tmp_path))
    run(*options_made)
    file, secret = tmp_path / "etc/pgbastion.yaml", tmp_path / "etc/secret"
    derived = derive(secret.read_bytes().rstrip(), "pg:postgres")
    with file.open("a") as written:
        written.write(f"  password_file: {tmp_path}/passwords\n")
    (tmp_path / "passwords").write_text("app:word\n")
    (tmp_path / "passwords").chmod(0o600)

    own = run("password", "-c", str(file))
    app = run("password", "app", "-c", str(file))
    other = run("password", "other", "-c", str(file))
    secret.unlink()
    missing = run("password", "-c", str(file))

    assert (own.stdout, own.returncode) == (f"{derived}\n", Exit.OK), own.stderr
    assert app.stdout == "word\n"
    assert (other.stdout, other.returncode) == ("", Exit.NO)
    assert "no password of other" in other.stderr
    assert (missing.stdout, missing.returncode) == ("", Exit.CONFIG)
    assert not secret.exists()


def test_a_witness_knows_no_passwords(tmp_path: Path) -> None:
    run(*options(tmp_path, "--witness", "--bootstrap"))

    done = run("password", "-c", f"{tmp_path}/etc/pgbastion.yaml")

    assert (done.stdout, done.returncode) == ("", Exit.NO)
    assert "witness" in done.stderr
