"""The commands as a user types them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion._build import VERSION
from pgbastion.cli.exits import Exit
from pgbastion.config.document import render_example
from support.cli import MEMBERS, Api, answering, run


@pytest.fixture
def api() -> Iterator[str]:
    with answering() as url:
        yield url


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pgbastion.yaml"
    path.write_text(
        "node: {name: n1, address: 127.32.0.1}\n"
        f"cluster: {{secret_file: {tmp_path}/secret}}\n"
        f"raft: {{data_dir: {tmp_path}/raft, bootstrap: true, tls_enabled: false}}\n"
    )
    return path


def test_the_version_is_told_as_by_other_programs() -> None:
    done = run("--version")

    assert (done.returncode, done.stdout) == (Exit.OK, f"pgbastion {VERSION}\n")


def test_version_prints_what_the_build_was_made_from() -> None:
    done = run("version", "--json")

    assert done.returncode == 0
    assert {"pgbastion", "python"} <= set(json.loads(done.stdout))


def test_check_of_a_good_file_ends_with_0(config: Path) -> None:
    done = run("check", "--config", str(config))

    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{config}: ok: 0 errors")


def test_check_finds_the_file_by_the_environment(config: Path) -> None:
    assert run("check", PGBASTION_CONFIG=str(config)).returncode == 0


def test_check_of_a_bad_file_names_everything_and_ends_with_78(config: Path) -> None:
    config.write_text(config.read_text() + "metrics: {port: 0}\nprxy: {}\n")

    done = run("check", "-c", str(config))

    assert done.returncode == 78
    assert f"{config}:4: error: metrics.port: 0: " in done.stdout
    assert f"{config}:5: error: prxy: unknown key" in done.stdout
    assert "did you mean proxy?" in done.stdout


def test_check_in_json_has_line_and_remedy(config: Path) -> None:
    config.write_text(config.read_text() + "prxy: {}\n")

    done = run("check", "-c", str(config), "--json")

    report = json.loads(done.stdout)
    assert done.returncode == 78
    assert report["ok"] is False
    assert report["problems"] == [
        {
            "severity": "error",
            "key": "prxy",
            "line": 4,
            "problem": "unknown key",
            "remedy": "did you mean proxy? Otherwise remove it",
        }
    ]


def test_check_never_shows_a_secret(config: Path) -> None:
    config.write_text(
        config.read_text()
        + "postgresql: {data_dir: /x/pg, connect_dsn: 'postgres://u:hidden@h/db'}\n"
    )

    done = run("check", "-c", str(config), PGBASTION_SECRET="hidden")

    assert "hidden" not in done.stdout + done.stderr


def test_check_of_a_missing_file_ends_with_78() -> None:
    done = run("check", "-c", "/nonexistent/pgbastion.yaml")

    assert done.returncode == 78
    assert "cannot be read" in done.stdout


def test_the_example_file_can_be_checked(tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(render_example())

    report = json.loads(run("check", "-c", str(path), "--json").stdout)

    assert "unknown key" not in {p["problem"] for p in report["problems"]}


def test_a_wrong_command_line_ends_with_2() -> None:
    assert run("frobnicate").returncode == 2


def test_status_shows_everybody_and_ends_with_0(api: str) -> None:
    done = run("status", "--url", api)

    assert done.returncode == 0, done.stderr
    assert "primary n1, epoch 7, asked n1 (primary, running)" in done.stdout
    assert "quorum standby" in done.stdout
    assert "127.32.0.2:5442" in done.stdout


def test_status_without_a_primary_ends_with_1(api: str) -> None:
    Api.cluster = {**Api.cluster, "members": MEMBERS[1:], "primary": None}

    assert run("status", "--url", api).returncode == 1


def test_a_live_screen_needs_a_terminal(api: str) -> None:
    done = run("top", "--url", api)

    assert (done.returncode, done.stdout) == (Exit.NO, "")
    assert "pgbastion explain" in done.stderr


def test_status_in_json_is_what_the_node_said(api: str) -> None:
    answer = json.loads(run("status", "--url", api, "--json").stdout)

    assert answer["cluster"]["members"] == MEMBERS
    assert answer["health"]["node"] == "n1"


def test_status_sends_the_token_of_the_environment(api: str) -> None:
    run("status", "--url", api, PGBASTION_TOKEN="t0ken")

    assert set(Api.tokens) == {"Bearer t0ken"}


def test_status_asks_this_nodes_own_api(api: str, config: Path) -> None:
    host, _, port = api.removeprefix("http://").rpartition(":")
    config.write_text(
        config.read_text() + f"api: {{bind_address: {host}, port: {port}}}\n"
    )

    assert run("status", "-c", str(config)).returncode == 0


def test_status_of_a_silent_node_ends_with_3() -> None:
    done = run("status", "--url", "http://127.32.0.1:9")

    assert done.returncode == 3
    assert "does not answer" in done.stderr


@pytest.mark.parametrize(
    ("path", "said"),
    [("/nonexistent.yaml", "cannot be read"), ("/dev/zero", "larger than 1048576")],
)
def test_status_with_a_bad_file_ends_with_78(path: str, said: str) -> None:
    done = run("status", "-c", path)

    assert done.returncode == 78
    assert said in done.stderr


def test_an_order_to_an_address_without_a_token_says_what_it_needs() -> None:
    done = run("pause", "--url", "http://127.32.0.1:9", "-c", "/nonexistent.yaml")

    assert done.returncode == 78
    assert "needs a token or a certificate: set PGBASTION_TOKEN" in done.stderr


def test_start_with_a_bad_file_says_why_and_ends_with_78() -> None:
    done = run("start", "-c", "/nonexistent.yaml")

    assert done.returncode == 78
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["explain", "status"])
def test_who_asks_with_a_bad_file_hears_how_to_ask_without_it(command: str) -> None:
    """The daemon goes on with the file that it has read."""
    done = run(command, "-c", "/nonexistent.yaml")

    assert done.returncode == Exit.CONFIG
    assert "cannot be read" in done.stderr
    assert done.stderr.endswith("--url http://HOST:8080\n")


@pytest.mark.parametrize("command", ["check", "start"])
def test_a_platform_that_does_not_exist_ends_with_78(
    command: str, config: Path
) -> None:
    done = run(command, "-c", str(config), PGBASTION_PLATFORM="beos")

    assert done.returncode == Exit.CONFIG
    assert done.stderr == (
        "PGBASTION_PLATFORM: beos is none of linux, linux-no-pidfd, portable\n"
    )
