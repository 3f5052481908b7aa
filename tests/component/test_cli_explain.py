"""``pgbastion explain``: of the leader, of whoever answers, of this machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgbastion.cli.exits import Exit
from support.cli import Api, answering, run

TOLD: dict[str, Any] = {
    "node": "n1",
    "leader": "n1",
    "leader_url": None,
    "serving": True,
    "lines": ["healthy. Next: nothing to do."],
    "others": [
        {"node": "n2", "ready": True, "sentence": "is ready"},
        {"node": "n3", "ready": False, "sentence": "cannot take over: n3 is silent"},
    ],
}


@pytest.fixture
def api() -> Iterator[str]:
    with answering() as url:
        Api.answers = {"/cluster/explain": TOLD}
        yield url


def test_the_lines_are_printed_and_a_serving_primary_is_0(api: str) -> None:
    done = run("explain", "--url", api)

    assert (done.returncode, done.stdout) == (Exit.OK, TOLD["lines"][0] + "\n")


def test_without_a_serving_primary_the_exit_code_is_1(api: str) -> None:
    Api.answers = {"/cluster/explain": {**TOLD, "serving": False}}

    assert run("explain", "--url", api).returncode == Exit.NO


def test_the_leader_is_asked_and_without_it_the_first_answer_counts(api: str) -> None:
    follower = {**TOLD, "node": "n2", "leader_url": "http://127.32.0.9:9"}
    Api.answers = {"/cluster/explain": follower}

    done = run("explain", "--json", "--url", api)

    assert json.loads(done.stdout)["node"] == "n2"


def test_with_no_daemon_this_machine_is_looked_at(tmp_path: Path) -> None:
    data = tmp_path / "pg"
    data.mkdir()
    (data / "postmaster.pid").write_text("1999999999\n")
    config = tmp_path / "pgbastion.yaml"
    config.write_text(
        "node: {name: n1, address: 127.32.0.1}\n"
        f"raft: {{data_dir: {tmp_path}/raft, tls_enabled: false}}\n"
        "api: {bind_address: 127.32.0.9, port: 9}\n"
        f"postgresql: {{data_dir: {data}}}\n"
    )

    done = run("explain", "-c", str(config))

    assert done.returncode == Exit.UNREACHABLE, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("http://127.32.0.9:9 does not answer: Connection refused")
    assert first.endswith("Next: start the daemon here: systemctl start pgbastion.")
    assert f"  no daemon has {tmp_path}/raft locked" in rest
    assert "ended without an orderly stop" in rest[-1]


def test_of_a_node_elsewhere_nothing_is_said_from_here() -> None:
    done = run("explain", "--url", "http://127.32.0.9:9")

    assert done.returncode == Exit.UNREACHABLE
    assert done.stdout == (
        "http://127.32.0.9:9 does not answer: Connection refused. Next: start the "
        "daemon there, or ask another node.\n"
    )


@pytest.mark.parametrize(
    ("to", "code"), [(["--to", "n2"], 0), (["--to", "n3"], 1), (["--to", "x"], 1)]
)
def test_a_switchover_can_be_rehearsed_without_an_order(
    api: str, to: list[str], code: int
) -> None:
    done = run("switchover", "--dry-run", *to, "--url", api)

    assert done.returncode == code
    assert done.stdout.startswith(to[1])
    assert Api.asked == []


def test_a_time_that_is_none_is_refused_in_a_dry_run_too(api: str) -> None:
    refused = {"code": "bad_request", "message": "at: no time", "remedy": "write one"}
    Api.answers["/cluster/switchover"] = (400, {"error": refused})

    done = run(
        *("switchover", "--dry-run", "--to", "n2", "--at", "soon", "--url", api),
        PGBASTION_TOKEN="secret",
    )

    assert done.returncode != 0
    assert "at: no time" in done.stderr
    assert Api.asked[-1][1]["at"] == "soon"
