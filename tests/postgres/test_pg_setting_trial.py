"""Values that no table lists are tried with the server's own program."""

import pytest

from pgbastion.postgres.guc import judge_settings
from pgbastion.postgres.setting_trial import SettingTrial
from support.postgres import Lab

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(60)]

FINE = {
    "timezone": "Asia/Kathmandu",
    "datestyle": "ISO, DMY",
    "log_line_prefix": "%m 'x' \\ ",
    "search_path": '"$user", public',
    "archive_command": "true",
    "auto_explain.log_min_duration": "1s",
}
WRONG = {
    "timezone": "Mars/Phobos",
    "datestyle": "sometimes",
    "log_destination": "paper",
}


async def test_a_server_is_not_given_what_it_would_not_start_with(
    any_lab: Lab,
) -> None:
    server = await any_lab.primary("n1")
    trial = SettingTrial(server.paths, server.files, server.programs)

    assert await judge_settings(server.address(), FINE, trial) == ()
    problems = await judge_settings(server.address(), WRONG, trial)

    assert {p.name for p in problems} == set(WRONG)
    assert all("parameter" in p.reason for p in problems), problems
    assert list(server.paths.run_dir.glob("trial-*")) == []


async def test_a_setting_that_the_kept_slots_forbid_is_refused(one_lab: Lab) -> None:
    server = await one_lab.primary("n1", wal_level="logical")
    trial = SettingTrial(server.paths, server.files, server.programs)
    fewer = {"max_replication_slots": "8", "wal_level": "replica"}
    assert await judge_settings(server.address(), fewer, trial) == ()
    for number in range(9):
        await server.rows(
            f"SELECT pg_create_logical_replication_slot('s{number}', 'pgoutput')"
        )

    problems = await judge_settings(server.address(), fewer, trial)

    assert {p.name: p.reason.partition(":")[0] for p in problems} == {
        "max_replication_slots": "there are 9 replication slots",
        "wal_level": "there are 9 logical replication slots",
    }


async def test_less_wal_than_two_segments_is_refused(one_lab: Lab) -> None:
    """A running server takes it, and none starts with it."""
    server = await one_lab.primary("n1")
    trial = SettingTrial(server.paths, server.files, server.programs)

    [problem] = await judge_settings(
        server.address(), {"min_wal_size": "31MB", "max_wal_size": "32MB"}, trial
    )

    assert problem.name == "min_wal_size"


async def test_tls_is_not_begun_without_its_files(one_lab: Lab) -> None:
    server = await one_lab.primary("n1")
    trial = SettingTrial(server.paths, server.files, server.programs)

    [problem] = await judge_settings(server.address(), {"ssl": "on"}, trial)

    assert problem.name == "ssl"
    assert "there is no file server." in problem.reason
    assert await judge_settings(server.address(), {"ssl": "off"}, trial) == ()
