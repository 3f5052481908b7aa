"""What does not fit between a configuration and the machine: each bad thing by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgbastion.config.machine import (
    Content,
    DirectoryFacts,
    Facts,
    FileFacts,
    ServerVersion,
)
from pgbastion.config.machine_checks import check_machine
from pgbastion.config.problems import Problem, Severity
from support.configs import (
    GOOD_FACTS,
    GOOD_FILE,
    POSTGRES_UID,
    of_severity,
    postgresql_facts,
    understood,
)

MISSING = FileFacts(exists=False)


def judged(facts: Facts, **sections: Any) -> list[Problem]:
    return check_machine(understood(**sections), facts)


def only(problems: list[Problem], severity: Severity = Severity.ERROR) -> Problem:
    found = [problem for problem in problems if problem.severity is severity]
    assert len(found) == 1, problems
    assert found[0].remedy
    return found[0]


def data(content: Content, **more: Any) -> DirectoryFacts:
    return DirectoryFacts(
        content=content, **{"uid": POSTGRES_UID, "mode": 0o700, **more}
    )


def test_a_good_machine_has_no_problem() -> None:
    assert judged(GOOD_FACTS) == []


def test_what_the_daemon_cannot_make_is_refused() -> None:
    facts = replace(GOOD_FACTS, unmakeable=(("raft.data_dir", Path("/var/lib")),))

    problem = only(judged(facts))

    assert problem.key == "raft.data_dir"
    assert "may not make it in /var/lib" in problem.problem


def test_an_address_that_the_machine_lacks_is_told_under_the_key_it_is_from() -> None:
    facts = replace(GOOD_FACTS, absent_addresses=("10.0.1.1", "10.0.1.9"))

    problems = judged(facts, api={"bind_address": "10.0.1.9"})

    assert of_severity(problems, Severity.ERROR) == []
    assert of_severity(problems, Severity.WARNING) == [
        "node.address",
        "api.bind_address",
    ]


def test_the_gossip_s_address_is_looked_at_too() -> None:
    facts = replace(GOOD_FACTS, absent_addresses=("10.0.1.9",))

    problem = only(
        judged(facts, memberlist={"bind_address": "10.0.1.9"}), Severity.WARNING
    )

    assert problem.key == "memberlist.bind_address"


def test_a_joiner_without_the_secret_is_refused() -> None:
    problem = only(judged(replace(GOOD_FACTS, secret=MISSING)))

    assert problem.key == "cluster.secret_file"
    assert "/etc/pgbastion/secret is missing" in problem.problem


def test_the_bootstrapping_node_makes_the_secret() -> None:
    problems = judged(replace(GOOD_FACTS, secret=MISSING), raft={"bootstrap": True})

    assert of_severity(problems, Severity.ERROR) == []
    assert of_severity(problems, Severity.NOTE) == ["cluster.secret_file"]


def test_a_secret_in_the_environment_needs_no_file() -> None:
    facts = replace(GOOD_FACTS, secret=MISSING, environment_secret_length=16)

    assert judged(facts) == []


@pytest.mark.parametrize(
    "facts",
    [
        replace(GOOD_FACTS, secret=replace(GOOD_FILE, length=15)),
        replace(GOOD_FACTS, environment_secret_length=15),
    ],
)
def test_a_secret_of_15_bytes_is_refused(facts: Facts) -> None:
    problem = only(judged(facts))

    assert problem.key == "cluster.secret_file"
    assert "15 bytes" in problem.problem


def test_a_secret_readable_by_all_is_refused() -> None:
    facts = replace(GOOD_FACTS, secret=replace(GOOD_FILE, mode=0o644))

    assert "0644" in only(judged(facts)).problem


def test_a_secret_readable_by_its_group_is_pointed_out() -> None:
    facts = replace(GOOD_FACTS, secret=replace(GOOD_FILE, mode=0o640))

    assert "0640" in only(judged(facts), Severity.WARNING).problem


def test_a_secret_that_cannot_be_read_is_refused() -> None:
    facts = replace(GOOD_FACTS, secret=replace(GOOD_FILE, fault="Permission denied"))

    assert "Permission denied" in only(judged(facts)).problem


def test_one_user_for_daemon_and_server_is_noted() -> None:
    facts = replace(GOOD_FACTS, uid=POSTGRES_UID, user="postgres")

    assert of_severity(judged(facts), Severity.NOTE) == ["cluster.secret_file"]
    assert of_severity(judged(facts), Severity.ERROR) == []


@pytest.mark.parametrize(
    "token",
    [MISSING, replace(GOOD_FILE, length=0), replace(GOOD_FILE, mode=0o604)],
)
def test_a_token_file_that_cannot_be_used_is_refused(token: FileFacts) -> None:
    assert only(judged(replace(GOOD_FACTS, auth_token=token))).key == (
        "api.auth_token_file"
    )
    assert only(judged(replace(GOOD_FACTS, read_token=token))).key == (
        "api.read_token_file"
    )


def test_a_daemon_neither_root_nor_os_user_is_refused() -> None:
    problem = only(judged(replace(GOOD_FACTS, uid=1000, user="ann")))

    assert problem.key == "postgresql.os_user"
    assert "ann" in problem.problem
    assert "postgres" in problem.problem


def test_a_witness_runs_as_any_user() -> None:
    facts = replace(GOOD_FACTS, uid=1000, user="ann", postgresql=None)

    assert judged(facts, postgresql=None) == []


def test_a_user_that_does_not_exist_is_refused() -> None:
    assert only(judged(postgresql_facts(os_uid=None))).key == "postgresql.os_user"


def test_missing_programs_are_named() -> None:
    facts = postgresql_facts(missing_programs=("initdb", "pg_rewind"))

    assert "initdb, pg_rewind" in only(judged(facts)).problem


def test_a_missing_setpriv_is_refused() -> None:
    assert (
        "setpriv"
        in only(judged(postgresql_facts(missing_launchers=("setpriv",)))).problem
    )


def test_a_server_program_that_states_no_version_is_refused() -> None:
    assert "-V" in only(judged(postgresql_facts(version=None))).problem


@pytest.mark.parametrize("major", [9, 13, 20])
def test_versions_outside_14_to_19_are_refused(major: int) -> None:
    facts = postgresql_facts(version=ServerVersion(major=major, minor=99))

    assert f"PostgreSQL {major}" in only(judged(facts)).problem


def test_version_14_is_pointed_out() -> None:
    facts = postgresql_facts(version=ServerVersion(major=14, minor=18))

    assert "14 has ended" in only(judged(facts), Severity.WARNING).problem


@pytest.mark.parametrize(("major", "minor"), [(14, 17), (15, 12), (16, 8), (17, 4)])
def test_minor_releases_that_may_skip_the_wait_are_pointed_out(
    major: int, minor: int
) -> None:
    old = postgresql_facts(version=ServerVersion(major=major, minor=minor))
    new = postgresql_facts(version=ServerVersion(major=major, minor=minor + 1))

    def told(facts: Facts, mode: str) -> bool:
        problems = judged(facts, replication={"mode": mode})
        return any("skip the wait" in problem.problem for problem in problems)

    assert told(old, "quorum")
    assert not told(new, "quorum")
    assert not told(old, "async")


def test_data_of_another_version_is_refused() -> None:
    facts = postgresql_facts(data=data(Content.POSTGRESQL, major=15, marked=True))

    problem = only(judged(facts))

    assert problem.key == "postgresql.data_dir"
    assert "15" in problem.problem
    assert "16" in problem.problem


def test_a_directory_of_something_else_is_refused() -> None:
    problem = only(judged(postgresql_facts(data=data(Content.OTHER))))

    assert "/srv/pg is neither empty nor" in problem.problem


def test_a_copy_cut_short_carries_our_mark_and_is_not_refused() -> None:
    facts = postgresql_facts(data=data(Content.OTHER, marked=True))

    assert judged(facts) == []


def test_data_of_another_owner_is_refused() -> None:
    facts = postgresql_facts(
        data=data(Content.POSTGRESQL, major=16, marked=True, uid=0)
    )

    assert "belongs to user 0" in only(judged(facts)).problem


def test_root_may_give_an_empty_directory_away() -> None:
    facts = postgresql_facts(data=data(Content.EMPTY, uid=0))

    assert judged(facts) == []


def test_an_ordinary_user_cannot_use_an_empty_directory_of_another() -> None:
    facts = replace(postgresql_facts(data=data(Content.EMPTY, uid=0)), uid=POSTGRES_UID)

    assert of_severity(judged(facts), Severity.ERROR) == ["postgresql.data_dir"]


@pytest.mark.parametrize(("mode", "refused"), [(0o755, True), (0o750, False)])
def test_a_mode_that_postgresql_refuses_is_refused(mode: int, refused: bool) -> None:
    facts = postgresql_facts(
        data=data(Content.POSTGRESQL, major=16, marked=True, mode=mode)
    )

    assert bool(judged(facts)) is refused


@pytest.mark.parametrize("content", [Content.NO_DIRECTORY, Content.UNREADABLE])
def test_a_directory_that_cannot_be_used_is_refused(content: Content) -> None:
    facts = postgresql_facts(data=data(content, fault="Input/output error"))

    assert only(judged(facts)).key == "postgresql.data_dir"


def test_an_empty_directory_on_a_node_that_had_a_cluster_is_pointed_out() -> None:
    facts = replace(
        postgresql_facts(data=data(Content.EMPTY)),
        raft=DirectoryFacts(content=Content.OTHER, uid=0, cluster_id="aa"),
    )

    assert "mount" in only(judged(facts), Severity.WARNING).problem


def test_data_of_another_cluster_is_refused() -> None:
    raft = DirectoryFacts(content=Content.OTHER, uid=0, cluster_id="aa")
    facts = [
        replace(
            postgresql_facts(
                data=data(Content.POSTGRESQL, major=16, marked=True, cluster_id=whose)
            ),
            raft=raft,
        )
        for whose in ("aa", "bb")
    ]

    assert judged(facts[0]) == []
    assert "belongs to cluster bb" in only(judged(facts[1])).problem


def test_a_closed_directory_above_the_data_is_named() -> None:
    facts = postgresql_facts(closed_parent=Path("/srv"))

    problem = only(judged(facts))

    assert "may not pass /srv" in problem.problem
    assert "chmod o+x /srv" in problem.remedy


def test_programs_that_the_servers_user_cannot_reach_are_refused() -> None:
    facts = postgresql_facts(closed_program_parent=Path("/root"))

    problem = only(judged(facts))

    assert problem.key == "postgresql.bin_dir"
    assert "may not pass /root" in problem.problem


@pytest.mark.parametrize(
    "raft",
    [
        DirectoryFacts(content=Content.NO_DIRECTORY),
        DirectoryFacts(content=Content.UNREADABLE, fault="Input/output error"),
        DirectoryFacts(content=Content.POSTGRESQL, uid=0),
    ],
)
def test_a_raft_directory_that_cannot_be_used_is_refused(raft: DirectoryFacts) -> None:
    assert only(judged(replace(GOOD_FACTS, raft=raft))).key == "raft.data_dir"


def test_a_raft_directory_of_another_user_is_refused_unless_root_runs() -> None:
    raft = DirectoryFacts(content=Content.OTHER, uid=7)
    as_user = replace(GOOD_FACTS, raft=raft, uid=POSTGRES_UID, user="postgres")

    assert of_severity(judged(as_user), Severity.ERROR) == ["raft.data_dir"]
    assert of_severity(judged(replace(GOOD_FACTS, raft=raft)), Severity.ERROR) == []


@pytest.mark.parametrize(
    "passwords",
    [
        MISSING,
        replace(GOOD_FILE, fault="line 3 is not ROLE:PASSWORD"),
        replace(GOOD_FILE, mode=0o640),
    ],
)
def test_a_password_file_that_cannot_be_used_is_refused(passwords: FileFacts) -> None:
    facts = postgresql_facts(passwords=passwords)

    problem = only(judged(facts, postgresql={"password_file": "/etc/pg/passwords"}))

    assert problem.key == "postgresql.password_file"
    assert "/etc/pg/passwords" in problem.problem


def test_a_postgresql_without_our_mark_is_the_founders_only() -> None:
    facts = postgresql_facts(data=data(Content.POSTGRESQL, major=16))

    refused = only(judged(facts))
    noted = only(judged(facts, raft={"bootstrap": True}), Severity.NOTE)

    assert "not of this cluster" in refused.problem
    assert "taken over" in noted.problem


def test_the_data_directory_of_another_node_s_daemon_is_refused() -> None:
    ours = data(Content.POSTGRESQL, major=16, marked=True)

    refused = only(judged(postgresql_facts(data=ours, other_daemon=77)))

    assert refused.key == "postgresql.data_dir"
    assert "another node of this machine, process 77, runs" in refused.problem


def test_a_server_that_was_taken_over_is_to_be_restarted_once() -> None:
    ours = data(Content.POSTGRESQL, major=16, marked=True)

    warned = only(judged(postgresql_facts(data=ours, adopted=True)), Severity.WARNING)

    assert "found running and taken over" in warned.problem
