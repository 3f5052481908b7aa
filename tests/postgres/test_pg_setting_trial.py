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


async def test_tls_is_not_begun_without_its_files(one_lab: Lab) -> None:
    server = await one_lab.primary("n1")
    trial = SettingTrial(server.paths, server.files, server.programs)

    [problem] = await judge_settings(server.address(), {"ssl": "on"}, trial)

    assert problem.name == "ssl"
    assert "there is no file server." in problem.reason
    assert await judge_settings(server.address(), {"ssl": "off"}, trial) == ()
