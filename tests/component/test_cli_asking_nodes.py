"""Commands talk to any node, and never do a thing twice."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.cli.exits import Exit
from support.cli import Api, answering, run

SILENT = "http://127.32.0.9:9"
ORDER = {"id": "o1", "outcome": "done", "to": "n2", "detail": "", "begun": True}
FORCED = {"to": "n2", "force": True}
REHEARSED = ("/cluster/failover", {**FORCED, "dry_run": True})
REFUSED = {"error": {"code": "unfit", "message": "n2 is silent", "remedy": "wait"}}


@pytest.fixture
def api() -> Iterator[str]:
    with answering() as url:
        yield url


def test_the_next_node_is_asked_when_one_does_not_answer(api: str) -> None:
    done = run("status", "--url", f"{SILENT},{api}")

    assert done.returncode == Exit.OK, done.stderr


def test_peers_of_the_configuration_are_asked_when_this_node_is_silent(
    tmp_path: Path,
) -> None:
    with answering("127.32.0.2") as url:
        port = url.rpartition(":")[2]
        config = tmp_path / "pgbastion.yaml"
        config.write_text(
            "node: {name: n1, address: 127.32.0.1}\n"
            "cluster: {peers: [127.32.0.1, 127.32.0.2]}\n"
            f"raft: {{data_dir: {tmp_path}/raft, tls_enabled: false}}\n"
            f"api: {{bind_address: 127.32.0.1, port: {port}}}\n"
        )

        done = run("list", "-c", str(config))

    assert done.returncode == Exit.OK, done.stderr
    assert done.stdout.splitlines()[1].startswith("n1    primary")


def test_every_node_that_was_tried_is_named(api: str) -> None:
    done = run("status", "--url", f"{SILENT},http://127.32.0.9:10")

    assert done.returncode == Exit.UNREACHABLE
    assert done.stderr.count("Connection refused") == 2


def test_an_order_goes_to_the_next_node_while_it_has_reached_nobody(api: str) -> None:
    Api.answers = {"/cluster/pause": {"ok": True}}

    done = run("pause", "--url", f"{SILENT},{api}", PGBASTION_TOKEN="t")

    assert done.returncode == Exit.OK, done.stderr
    assert Api.asked == [("/cluster/pause", {})]


@pytest.mark.parametrize(
    ("command", "paused", "words"),
    [
        ("pause", False, "would be switched off"),
        ("pause", True, "are off already"),
        ("resume", True, "would be switched on; what failed meanwhile"),
        ("resume", False, "are on already"),
    ],
)
def test_a_pause_that_is_only_tried_changes_nothing(
    api: str, command: str, paused: bool, words: str
) -> None:
    Api.answers = {"/health": {"paused": paused}}

    done = run(command, "--dry-run", "--url", api, PGBASTION_TOKEN="t")

    assert done.returncode == Exit.OK, done.stderr
    assert words in done.stdout
    assert Api.asked == []


def test_a_reload_that_is_only_tried_says_so_to_the_node(api: str) -> None:
    Api.answers = {"/reload": {"applied": "nothing was changed; would be applied: x"}}

    done = run("reload", "--dry-run", "--url", api, PGBASTION_TOKEN="t")

    assert done.returncode == Exit.OK, done.stderr
    assert Api.asked == [("/reload", {"dry_run": True})]
    assert "would be applied: x" in done.stdout
    assert Api.tokens == ["Bearer t"]


def test_an_order_that_may_have_arrived_is_not_given_again(api: str) -> None:
    """Whether it was carried out is not known: the next node could do it twice."""
    Api.answers = {"/cluster/pause": (None, None)}

    done = run("pause", "--url", f"{api},{api}/again", PGBASTION_TOKEN="t")

    assert done.returncode == Exit.UNFINISHED
    assert [path for path, _ in Api.asked] == ["/cluster/pause"]
    assert "may have done it all the same" in done.stderr


def test_an_outcome_that_the_node_does_not_know_has_its_own_exit_code(
    api: str,
) -> None:
    problem = {"code": "outcome_unknown", "message": "nobody knows", "remedy": "look"}
    Api.answers = {"/cluster/pause": (504, {"error": problem})}

    done = run("pause", "--url", api, PGBASTION_TOKEN="t")

    assert done.returncode == Exit.UNFINISHED
    assert "nobody knows; look" in done.stderr


def test_a_refusal_is_told_with_its_remedy(api: str) -> None:
    Api.answers = {"/cluster/switchover": (409, REFUSED)}

    done = run("switchover", "--to", "n2", "--url", api, PGBASTION_TOKEN="t")

    assert done.returncode == Exit.NO
    assert done.stderr == "pgbastion: n2 is silent; wait\n"


def test_an_order_is_followed_to_its_outcome(api: str) -> None:
    Api.answers = {
        "/cluster/switchover": {"ok": True, "id": "o1", "to": "n2"},
        "/raft/directives": {"directives": [ORDER]},
    }

    done = run("switchover", "--to", "n2", "--url", api, PGBASTION_TOKEN="t")

    assert (done.returncode, done.stdout) == (Exit.OK, "done: n2\n")


@pytest.mark.parametrize("command", ["switchover", "failover"])
def test_an_order_and_its_outcome_are_told_to_programs(api: str, command: str) -> None:
    Api.answers = {
        f"/cluster/{command}": {"ok": True, "id": "o1", "to": "n2"},
        "/raft/directives": {"directives": [ORDER]},
    }

    done = run(command, "--to", "n2", "--json", "--url", api, PGBASTION_TOKEN="t")

    assert (done.returncode, json.loads(done.stdout)) == (Exit.OK, ORDER)


@pytest.mark.parametrize("dry_run", [True, False])
def test_programs_hear_what_a_command_changed_or_would(api: str, dry_run: bool) -> None:
    said = {"ok": True, "paused": True, "changed": True}
    Api.answers = {"/cluster/pause": said}
    options = ["--dry-run"] if dry_run else []

    done = run("pause", "--json", *options, "--url", api, PGBASTION_TOKEN="t")

    assert json.loads(done.stdout) == said
    assert [body.get("dry_run", False) for _, body in Api.asked] == [dry_run]


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("replication --mode sync", "/cluster/replication"),
        ("profile fast", "/cluster/profile"),
        ("unfence n2", "/cluster/unfence"),
        ("fence n2 --dry-run", "/cluster/fence"),
        ("restart n2 --dry-run", "/cluster/restart"),
        ("reinit n2 --dry-run", "/cluster/reinit"),
        ("config set work_mem=8MB", "/config"),
        ("config undo", "/config/undo"),
        ("connections drain", "/connections/drain"),
        ("connections undrain", "/connections/undrain"),
        ("raft snapshot", "/raft/snapshot"),
        ("raft transfer --to n2", "/raft/transfer"),
        ("vip move --dry-run", "/cluster/switchover"),
        ("reload", "/reload"),
        ("remove-node --name n2 --dry-run", "/raft/remove-peer"),
        ("drill switchover --dry-run", "/cluster/switchover"),
        ("drill failover --dry-run", "/cluster/fence"),
    ],
)
def test_every_command_that_changes_something_speaks_to_programs(
    api: str, command: str, path: str
) -> None:
    said = {"ok": True, "what": "only a node knows"}
    Api.answers = {path: said}

    done = run(*command.split(), "--json", "--url", api, PGBASTION_TOKEN="t")

    assert (done.returncode, json.loads(done.stdout)) == (Exit.OK, said), done.stderr


@pytest.mark.parametrize(
    ("editor", "told"),
    [
        ("sh -c 'echo work_mem: 2MB > $0'", {"version": 2, "changed": True}),
        ("true", {"version": 1, "changed": False}),
    ],
)
def test_programs_hear_what_an_editor_changed(
    api: str, editor: str, told: dict[str, object]
) -> None:
    agreed = {"version": 1, "postgresql": {"parameters": {}}}
    Api.answers = {"/config": agreed}
    Api.changed = {"/config": {"version": 2, "changed": True}}

    done = run(
        "config", "edit", "--json", "--url", api, PGBASTION_TOKEN="t", EDITOR=editor
    )

    assert json.loads(done.stdout) == told, done.stderr


def test_an_order_without_an_outcome_in_time_has_its_own_exit_code(api: str) -> None:
    Api.answers = {
        "/cluster/switchover": {"ok": True, "id": "o1", "to": "n2"},
        "/raft/directives": {"directives": [{**ORDER, "outcome": None}]},
    }

    done = run("switchover", "--wait", "0.3", "--url", api, PGBASTION_TOKEN="t")

    assert done.returncode == Exit.UNFINISHED
    assert "not finished after 0.3 s: begun" in done.stderr


def test_what_hurts_needs_a_yes_where_nobody_can_be_asked(api: str) -> None:
    Api.answers = {"/cluster/failover": {"ok": True, "possible_loss": "16 bytes"}}

    done = run("failover", "--to", "n2", "--force", "--url", api, PGBASTION_TOKEN="t")

    assert done.returncode == Exit.USAGE
    assert "16 bytes" in done.stderr
    assert "add --yes" in done.stderr
    assert Api.asked == [REHEARSED]


def test_a_script_removes_the_node_that_it_names(api: str) -> None:
    Api.answers = {
        "/raft/remove-peer": {"ok": True, "id": "n2", "member_id": 2},
        "/raft/state": {"member_id": 1, "voters": [1, 3], "learners": []},
    }

    done = run("remove-node", "--name", "n2", "--url", api, PGBASTION_TOKEN="t")

    assert (done.returncode, done.stdout) == (
        Exit.OK,
        "n2 (member 2) has left the cluster\n",
    )


LEFT = {"ok": True, "id": "n1", "member_id": 1}
ADDED = {"ok": True, "id": "n1", "member_id": 4}
MEMBERSHIP = {
    "/cluster/switchover": {"ok": True, "id": "o1", "to": "n2"},
    "/operations/o1": ORDER,
    "/raft/remove-peer": LEFT,
    "/raft/add-peer": ADDED,
    "/raft/state": {"member_id": 2, "voters": [2, 3], "learners": []},
    "/raft/peers": {
        "peers": [
            {"id": "n1", "address": "10.0.0.1:8300"},
            {"id": "n3", "address": "10.0.0.3:8300"},
        ]
    },
}


def test_programs_hear_who_came_and_who_left(api: str) -> None:
    Api.answers = MEMBERSHIP
    as_asked = ("--json", "--url", api)

    added = run(
        "add-node", "--name=n1", "--address=10.0.0.9", *as_asked, PGBASTION_TOKEN="t"
    )
    removed = run("remove-node", "--name=n1", *as_asked, PGBASTION_TOKEN="t")
    replaced = run(
        *("replace-node", "--yes", "--name=n1", "--address=10.0.0.9", *as_asked),
        PGBASTION_TOKEN="t",
    )

    came, went = {**ADDED, "address": "10.0.0.9"}, {**LEFT, "switchover": ORDER}
    assert json.loads(added.stdout) == came, added.stderr
    assert json.loads(removed.stdout) == went, removed.stderr
    assert json.loads(replaced.stdout) == {"removed": went, "added": came}


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.0.0.3", "10.0.0.3:8300 is that of n3"),
        ("10.0.0.9:none", "port"),
        ("10.0.0", "neither an address nor a host name"),
    ],
)
def test_no_node_leaves_for_one_that_could_not_come(
    api: str, address: str, why: str, dry_run: bool
) -> None:
    Api.answers = MEMBERSHIP

    done = run(
        *("replace-node", "--name", "n1", "--address", address, "--url", api),
        "--dry-run" if dry_run else "--yes",
        PGBASTION_TOKEN="t",
    )

    assert (done.returncode, Api.asked) == (Exit.NO, [])
    assert why in done.stderr
    assert "nothing was changed" in done.stderr


def test_what_hurts_is_done_with_a_yes(api: str) -> None:
    Api.answers = {
        "/cluster/failover": {"ok": True, "id": "o1", "to": "n2"},
        "/raft/directives": {"directives": [ORDER]},
    }

    run("failover", "--to=n2", "--force", "--yes", "--url", api, PGBASTION_TOKEN="t")

    assert Api.asked == [REHEARSED, ("/cluster/failover", FORCED)]


def test_the_environment_names_the_nodes(api: str) -> None:
    done = run("list", "--json", PGBASTION_URL=api)

    assert [member["name"] for member in json.loads(done.stdout)] == ["n1", "n2"]


@pytest.mark.parametrize("command", ["status", "list", "history"])
def test_an_answer_that_is_none_of_ours_is_told_as_such(api: str, command: str) -> None:
    Api.answers = {"/cluster": ["what"], "/cluster/history": "what"}

    done = run(command, "--url", api)

    assert done.returncode == Exit.UNREACHABLE
    assert "does not answer as pgbastion does" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_that_no_request_can_carry_is_never_sent(api: str) -> None:
    done = run("pause", "--url", api, PGBASTION_TOKEN="t\nx")

    assert done.returncode == Exit.NO
    assert "the token has characters that no request can carry" in done.stderr
    assert Api.asked == []


def test_a_reload_is_for_this_node_alone(tmp_path: Path) -> None:
    """Another node's answer would say nothing of this one's configuration."""
    with answering("127.32.0.2") as url:
        port = url.rpartition(":")[2]
        (tmp_path / "secret").write_text("s" * 32)
        (tmp_path / "secret").chmod(0o600)
        config = tmp_path / "pgbastion.yaml"
        config.write_text(
            "node: {name: n1, address: 127.32.0.1}\n"
            f"cluster: {{peers: [127.32.0.2], secret_file: {tmp_path}/secret}}\n"
            f"raft: {{data_dir: {tmp_path}/raft, tls_enabled: false}}\n"
            f"api: {{bind_address: 127.32.0.1, port: {port}}}\n"
        )
        done = run("reload", "-c", str(config), PGBASTION_TOKEN="t")

        assert done.returncode == Exit.UNREACHABLE, done.stderr
        assert Api.asked == []


def test_a_reload_says_what_came_of_it(api: str) -> None:
    Api.answers = {"/reload": {"ok": True, "applied": "applied: log.level"}}

    done = run("reload", "--url", api, PGBASTION_TOKEN="t")

    assert (done.returncode, done.stdout) == (Exit.OK, "applied: log.level\n")


def test_shells_complete_commands_and_options() -> None:
    script = run("completion", "bash").stdout
    asked = {"_PGBASTION_COMPLETE": "complete_bash", "COMP_CWORD": "1"}

    assert "_PGBASTION_COMPLETE=complete_bash" in script
    assert run(**asked, COMP_WORDS="pgbastion sw").stdout.split() == ["switchover"]
    asked["COMP_CWORD"] = "2"
    options = run(**asked, COMP_WORDS="pgbastion status --j").stdout
    assert options.split() == ["--json"]


def test_status_loads_no_library_that_it_does_not_need(api: str) -> None:
    """A third of a second is not enough for those."""
    code = (
        "import sys\n"
        "from pgbastion.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--url", api],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )

    loaded = set(done.stdout.splitlines()[-1].split())
    assert "pgbastion.cli.status" in loaded
    assert not loaded & {"httpx", "textual", "starlette", "psycopg", "rich.console"}
    assert "pgbastion.config.checks" not in loaded
