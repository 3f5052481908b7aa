"""What PostgreSQL reads says what was meant, whatever the names are."""

import re

import psycopg.conninfo
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.model.cluster import ReplicationMode, SyncSet
from pgbastion.model.ids import DataId, NodeId, standby_name
from pgbastion.postgres import render, scram
from pgbastion.postgres.layout import PgIdentity, PgRoles
from pgbastion.postgres.render import SYNCHRONIZED_SLOTS
from pgbastion.postgres.settings import (
    check_parameters,
    limits,
    static_settings,
    undermines,
)

IDENTITY = PgIdentity(
    node=NodeId("n1"), listen=("10.0.0.1",), port=5442, roles=PgRoles()
)
UPSTREAM = render.Upstream(host="10.0.0.2", port=5442)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), min_size=1)


def settings_of(text: str) -> dict[str, str]:
    """Read a configuration file as the server does: the last value counts."""
    found = {}
    for line in text.split("\n"):
        if match := re.fullmatch(r"([a-z_.]+) = '(.*)'", line):
            value = match[2].replace("''", "'")
            found[match[1]] = re.sub(r"\\(.)", r"\1", value)
    return found


@given(TEXT)
def test_a_setting_reads_back_as_it_was(value: str) -> None:
    text = render.settings_file("head", {"name": value})
    assert settings_of(text) == {"name": value}


@given(TEXT, TEXT)
def test_a_connection_string_reads_back_as_it_was(user: str, path: str) -> None:
    text = render.replication_conninfo(UPSTREAM, user=user, passfile=path, name="n")
    read = psycopg.conninfo.conninfo_to_dict(text)
    assert (read["user"], read["passfile"]) == (user, path)
    assert (read["host"], read["application_name"]) == ("10.0.0.2", "n")


def volatile(state: render.Volatile, major: int = 18) -> dict[str, str]:
    return render.volatile_settings(
        state, IDENTITY, DataId("ab" * 16), passfile="/run/pgpass", major=major
    )


def test_logical_consumers_wait_for_whom_commits_wait_for() -> None:
    names = (standby_name(NodeId(n), DataId("cd" * 16)) for n in ("n2", "n_3"))
    promised = render.Volatile(sync=SyncSet(names=tuple(names), num_sync=1))

    settings = volatile(promised)

    assert settings[SYNCHRONIZED_SLOTS] == "pgbastion_n2, pgbastion_n_3"
    assert volatile(render.Volatile(sync=SyncSet()))[SYNCHRONIZED_SLOTS] == ""
    assert volatile(render.Volatile())[SYNCHRONIZED_SLOTS] == ""
    assert SYNCHRONIZED_SLOTS not in volatile(promised, major=16)


def test_a_cut_standby_has_neither_address_nor_password() -> None:
    settings = volatile(render.Volatile())
    assert settings["primary_conninfo"] == ""
    secrets = {"replicator": "secret"}
    assert "secret" not in render.passfile(None, secrets)
    assert render.passfile(UPSTREAM, secrets) == "10.0.0.2:5442:*:replicator:secret\n"


def test_a_standby_names_itself_by_node_and_data() -> None:
    settings = volatile(render.Volatile(upstream=UPSTREAM))
    assert "application_name=n1_abababab" in settings["primary_conninfo"]
    assert settings["primary_slot_name"] == "pgbastion_n1"


def test_who_reads_from_a_standby_has_no_slot_there_and_no_members_name() -> None:
    settings = volatile(render.Volatile(upstream=UPSTREAM, passing=True))
    assert settings["primary_slot_name"] == ""
    assert "n1_abababab" not in settings["primary_conninfo"]
    assert "10.0.0.2" in settings["primary_conninfo"]


def test_a_standbys_commits_would_wait_for_nobody_who_exists() -> None:
    settings = volatile(render.Volatile(upstream=UPSTREAM))
    assert settings["synchronous_standby_names"] == 'ANY 1 ("pgbastion:nobody")'


@pytest.mark.parametrize(
    ("mode", "sync", "text"),
    [
        (ReplicationMode.QUORUM, None, 'ANY 1 ("pgbastion:nobody")'),
        (ReplicationMode.ASYNC, None, 'ANY 1 ("pgbastion:nobody")'),
        (ReplicationMode.ASYNC, SyncSet(names=("a",), num_sync=1), 'ANY 1 ("a")'),
        (ReplicationMode.QUORUM, SyncSet(), ""),
        (
            ReplicationMode.QUORUM,
            SyncSet(names=("a", "b"), num_sync=1),
            'ANY 1 ("a","b")',
        ),
        (ReplicationMode.SYNC, SyncSet(names=("any",), num_sync=1), 'FIRST 1 ("any")'),
        (ReplicationMode.SYNC, SyncSet(names=('x"y',), num_sync=1), 'FIRST 1 ("x""y")'),
    ],
)
def test_the_synchronous_set_is_written_in_quotes(
    mode: ReplicationMode, sync: SyncSet | None, text: str
) -> None:
    assert render.sync_names(mode, sync) == text


@given(TEXT, TEXT)
def test_no_two_nodes_share_a_slot(one: str, other: str) -> None:
    names = {render.slot_name(NodeId(one)), render.slot_name(NodeId(other))}
    assert len(names) == len({one, other})
    assert all(re.fullmatch(r"[a-z0-9_]{1,63}", name) for name in names)


def test_our_access_rules_come_first_and_once() -> None:
    theirs = "# theirs\nhost all all 10.0.0.0/8 md5\n"
    block = render.hba_block(
        PgRoles(), ["10.0.0.2", "fd00::2"], ["host all all all trust"]
    )
    once = render.replace_hba_block(theirs, block)
    assert once == block + theirs
    assert render.replace_hba_block(once, block) == once
    other = render.hba_block(PgRoles(), ["10.0.0.3"], [])
    changed = render.replace_hba_block(once, other)
    assert changed == other + theirs
    assert "10.0.0.2" not in changed


def test_access_is_for_members_alone_and_by_password() -> None:
    block = render.hba_block(PgRoles(), ["10.0.0.2", "fd00::2"], [])
    assert block.splitlines()[1:-1] == [
        "local all postgres scram-sha-256",
        "host all postgres,rewinder,replicator 10.0.0.2/32 scram-sha-256",
        "host replication replicator 10.0.0.2/32 scram-sha-256",
        "host all postgres,rewinder,replicator fd00::2/128 scram-sha-256",
        "host replication replicator fd00::2/128 scram-sha-256",
    ]


def test_nodes_on_loopback_connect_from_its_first_address() -> None:
    block = render.hba_block(PgRoles(), ["127.0.77.2"], [])
    assert "host replication replicator 127.0.0.1/32 scram-sha-256" in block


def test_a_role_with_a_reserved_name_is_quoted() -> None:
    roles = PgRoles(superuser="all", replication="Repl", rewind="r")
    assert 'local all "all" scram' in render.hba_block(roles, [], [])


def test_our_include_is_the_last_line_whatever_was_there() -> None:
    once = render.include_last("port = 1\ninclude 'pgbastion.conf'\nport = 2\n\n")
    assert once.splitlines()[-1] == render.INCLUDE_LINE
    assert once.count("pgbastion.conf") == 1
    assert render.include_last(once) == once


def test_what_a_human_set_against_us_is_taken_out() -> None:
    text = "# by ALTER SYSTEM\nSynchronous_Standby_Names = ''\nwork_mem = '4MB'\n"
    kept, removed = render.without_settings(text, undermines)
    assert kept == "# by ALTER SYSTEM\nwork_mem = '4MB'\n"
    assert removed == ("synchronous_standby_names",)


@pytest.mark.parametrize("value", ["'off'", "off", "= Local # why", "='remote_write'"])
def test_a_setting_under_which_no_commit_waits_is_taken_out(value: str) -> None:
    """S2: ALTER SYSTEM would have every commit acknowledged by the primary alone."""
    text = f"work_mem = '4MB'\nsynchronous_commit {value}\n"
    kept, removed = render.without_settings(text, undermines)
    assert kept == "work_mem = '4MB'\n"
    assert removed == ("synchronous_commit",)


def test_a_disk_that_failed_to_write_is_not_asked_once_more() -> None:
    """S2: it may say that it has written what it has dropped."""
    text = "data_sync_retry = 'on'\n"
    assert render.without_settings(text, undermines) == ("", ("data_sync_retry",))
    assert static_settings(IDENTITY, "/run/x", {}, {})["data_sync_retry"] is False


@pytest.mark.parametrize("value", ["'on'", "'remote_apply'", "true"])
def test_a_setting_that_is_strong_enough_is_a_humans_choice(value: str) -> None:
    text = f"synchronous_commit = {value}\nwal_level = 'logical'\n"
    assert render.without_settings(text, undermines) == (text, ())


def test_commits_wait_unless_somebody_chooses_otherwise() -> None:
    """What postgresql.conf says, of a server that was taken over, counts no more."""
    assert static_settings(IDENTITY, "/run/x", {}, {})["synchronous_commit"] == "on"


@given(TEXT)
def test_literals_and_names_end_where_they_should(text: str) -> None:
    name = render.quote_identifier(text)
    assert name[1:-1].replace('""', "").count('"') == 0
    literal = render.quote_literal(text)
    inner = literal.strip().removeprefix("E")[1:-1]
    assert inner.replace("\\\\", "").replace("''", "").count("'") == 0


@pytest.mark.parametrize(
    "parameters",
    [
        {"port": 5433},
        {"Synchronous_Standby_Names": "*"},
        {"fsync": "off"},
        {"synchronous_commit": "off"},
        {"data_sync_retry": True},
        {"wal_level": "minimal"},
        {"max_wal_senders": 2},
        {"max_connections": "many"},
        {"work_mem": "4MB\nfsync = off"},
        {"no name": 1},
        {"wal_retrieve_retry_interval": "5s"},
        {"recovery_target_lsn": "0/1"},
    ],
)
def test_a_parameter_that_breaks_a_promise_is_refused(
    parameters: dict[str, str | int],
) -> None:
    problems = check_parameters(parameters)
    assert [problem.name for problem in problems] == list(parameters)
    assert problems[0].reason


def test_other_parameters_are_the_users() -> None:
    chosen: dict[str, str | int | float | bool] = {
        "shared_buffers": "128MB",
        "synchronous_commit": "remote_apply",
        "wal_level": "logical",
        "max_connections": 300,
        "pg_stat_statements.max": 1000,
        "wal_retrieve_retry_interval": "20ms",
    }
    assert check_parameters(chosen) == ()
    settings = static_settings(IDENTITY, "/run/x", chosen, {})
    assert {name: settings[name] for name in chosen} == chosen


def test_a_standby_has_at_least_its_primarys_limits() -> None:
    chosen = {"max_connections": 50, "max_wal_senders": 40}
    floors = {"max_connections": 100, "max_wal_senders": 16, "max_worker_processes": 8}
    settings = static_settings(IDENTITY, "/run/x", chosen, floors)
    assert limits(settings) == {
        "max_connections": 100,
        "max_wal_senders": 40,
        "max_worker_processes": 8,
    }


def test_a_verifier_knows_its_password_and_no_other() -> None:
    stored = scram.verifier("pencil", b"0123456789abcdef")
    assert stored.startswith("SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$")
    assert scram.verifies(stored, "pencil")
    assert not scram.verifies(stored, "Pencil")
    assert scram.verifies("md5c2a9c1b8", "pencil") is None
    assert scram.verifies("SCRAM-SHA-256$x:y$z:w", "pencil") is None


def test_equal_looking_passwords_have_one_verifier() -> None:
    salt = b"0123456789abcdef"
    assert scram.verifier("\u00aa", salt) == scram.verifier("a", salt)
    assert scram.verifier("I\u00adX", salt) == scram.verifier("IX", salt)
    assert scram.verifier("\u0007\u00e4", salt) != scram.verifier("\u00e4", salt)


def test_a_password_file_keeps_its_server_and_gets_other_passwords() -> None:
    old = {"repli:cator": "old:\\", "rewinder": "old"}
    new = {"repli:cator": "new:\\1", "rewinder": "newer"}
    upstream = render.Upstream(host="::1", port=5442)

    text = render.with_passwords(render.passfile(upstream, old), new)

    assert text == render.passfile(upstream, new)


def test_a_password_file_that_lets_in_nowhere_stays_so() -> None:
    text = render.passfile(None, {"replicator": "x"})

    assert render.with_passwords(text, {"replicator": "y"}) == text
