"""Every command that changes something can be tried, and changes nothing then."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main
from typer.testing import CliRunner

from pgbastion.cli import certificates
from pgbastion.cli.app import app
from support.cli import Api, answering

# What each of these shows, it changes nothing of.
READING: Final = {
    "check", "completion", "version", "password", "status", "list", "top", "explain",
    "history", "operations", "vip status", "raft state", "raft peers", "raft verify",
    "config show", "config history", "connections", "debug replay", "debug step", "fsm",
}  # fmt: skip
# What writes the file that it is told, and nothing else.
WRITING_A_FILE: Final = {"raft backup", "debug record", "debug bundle"}
# `check` says what comes of a start; the other two run clusters of their own.
STARTING: Final = {"start", "demo", "lab"}
# Commands on this machine's files, whose tests are where their files are.
ELSEWHERE: Final = {"init", "raft restore", "raft recover"}

# What is asked of a node that takes a dry run, and in the end changed by none.
ASKING: Final[Mapping[str, tuple[str, ...]]] = {
    "reload": (),
    "pause": (),
    "resume": (),
    "replication": ("--strict",),
    "profile": ("fast",),
    "switchover": ("--cancel",),
    "failover": ("--to", "n2", "--force"),
    "fence": ("n2", "--force"),
    "unfence": ("n2",),
    "restart": ("n2",),
    "reinit": ("n2",),
    "drill": ("failover",),
    "vip move": (),
    "add-node": ("--name", "n4", "--address", "10.0.0.4"),
    "remove-node": ("--name", "n2"),
    "replace-node": ("--name", "n1", "--address", "10.0.0.4"),
    "raft snapshot": (),
    "raft transfer": ("--to", "n2"),
    "config set": ("work_mem=1MB",),
    "config edit": (),
    "config undo": (),
    "connections drain": (),
    "connections undrain": (),
}
ON_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "certs init": ("--dir", "{new}"),
    "certs issue": ("--dir", "{made}", "--name", "n2", "--address", "10.0.0.2"),
    "certs renew": ("--dir", "{made}", "--name", "n1"),
}
ORDERED: Final = {
    "to": "n2", "member_id": 4, "cancelled": ["o1"], "changed": True, "dry_run": True,
}  # fmt: skip
SETTINGS: Final[dict[str, Any]] = {"version": 1, "postgresql": {"parameters": {}}}
ANSWERS: Final[dict[str, Any]] = {
    "/cluster/replication": {"mode": "sync", "sync_count": 1, "strict": True},
    "/cluster/profile": {"profile": "fast", "lease_ms": 2_000, "changed": True},
    "/connections/drain": {"sessions": 1, "timeout_ms": 1},
    "/raft/snapshot": {"node": "n1", "index": 7},
    "/raft/transfer": {"changed": True},
    "/raft/peers": {"peers": []},
    "/config": SETTINGS,
    "/config/undo": {"version": 2, "changed": True},
    **dict.fromkeys(
        ("/reload", "/raft/add-peer", "/raft/remove-peer", "/connections/undrain",
         "/cluster/switchover", "/cluster/failover", "/cluster/fence",
         "/cluster/unfence", "/cluster/restart", "/cluster/reinit"),
        ORDERED,
    ),
}  # fmt: skip


def every_command(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield each command with its whole name; a group that is one, too."""
    inner = getattr(group, "commands", {})
    if above and (not inner or getattr(group, "invoke_without_command", False)):
        yield " ".join(above), group
    for name, command in inner.items():
        yield from every_command(command, (*above, name))


COMMANDS: Final = dict(every_command(typer.main.get_command(app)))


@pytest.fixture
def api() -> Iterator[str]:
    with answering() as url:
        Api.answers = dict(ANSWERS)
        Api.cluster["members"] = [
            *Api.cluster["members"][:1],
            {**Api.cluster["members"][1], "state": "streaming"},
        ]
        yield url


def invoke(name: str, *words: str, **environment: str) -> str:
    done = CliRunner().invoke(
        app, [*name.split(), *words, "--dry-run"], env={"COLUMNS": "100", **environment}
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.output
    return str(done.output)


def test_every_command_that_changes_something_can_be_tried() -> None:
    changing = set(COMMANDS) - READING - WRITING_A_FILE - STARTING

    assert changing == {*ASKING, *ON_FILES, *ELSEWHERE}
    for name in changing:
        assert any("--dry-run" in p.opts for p in COMMANDS[name].params), name


@pytest.mark.parametrize("name", ASKING)
def test_a_dry_run_is_one_for_the_node_as_well(
    api: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An editor that changes something, or there would be nothing to ask.
    editor = "sh -c 'echo work_mem: 2MB > $0'"
    for variable in ("PGBASTION_CERT_FILE", "PGBASTION_KEY_FILE", "PGBASTION_CA_FILE"):
        monkeypatch.delenv(variable, raising=False)

    invoke(name, *ASKING[name], "--url", api, PGBASTION_TOKEN="t", EDITOR=editor)

    assert all(body["dry_run"] is True for _, body in Api.asked), Api.asked
    assert Api.asked or name in ("pause", "resume")


@pytest.mark.parametrize("name", ON_FILES)
def test_a_dry_run_writes_no_file(tmp_path: Path, name: str) -> None:
    made = tmp_path / "made"
    certificates.init(made, "lab", 10)
    certificates.issue(made, "n1", ["10.0.0.1"], 10)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    places = {"made": made, "new": tmp_path / "new"}

    said = invoke(name, *(word.format(**places) for word in ON_FILES[name]))

    assert "would be made" in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
