"""``pgbastion debug``: decisions recorded and replayed, a bundle without secrets."""

import json
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgbastion.cli.bundling import redact, redact_values
from pgbastion.cli.exits import Exit
from pgbastion.model.recording import RECORDS_MAX, encode_recorded
from pgbastion.testing.sim.scripts import THREE
from support.cli import Api, answering, run
from support.simulated import staged
from support.situations import failover_under_way

SECRET = "planted-value-0123456789"


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """Return what a node keeps that went through a failover."""
    with staged(THREE) as stage:
        failover_under_way(stage)
        stage.wait(5_000)
        daemon = stage.n[3].daemon
        assert daemon is not None
        return [encode_recorded(kept) for kept in daemon.main.recorder.records]


@pytest.fixture
def api(records: list[dict[str, Any]]) -> Iterator[str]:
    with answering() as url:
        Api.answers = {"/debug/decisions": records}
        yield url


def test_recorded_decisions_are_the_same_when_decided_again(
    api: str, tmp_path: Path
) -> None:
    file = tmp_path / "records"
    recorded = run("debug", "record", "--out", str(file), "--url", api)

    done = run("debug", "replay", str(file))

    assert recorded.returncode == Exit.OK, recorded.stderr
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    assert done.stdout.endswith(" decisions, 0 differ\n")
    assert "furthest_chosen" in file.read_text()


def test_a_decision_that_would_be_another_today_is_told(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    chosen = next(r for r in records if r["r"]["reason"] == "furthest_chosen")
    changed = {**chosen, "r": {**chosen["r"], "reason": "no_candidate"}}
    file = tmp_path / "records"
    file.write_text(json.dumps(changed) + "\n")

    done = run("debug", "replay", str(file))

    assert done.returncode == Exit.NO
    assert "reason: then no_candidate, now furthest_chosen" in done.stdout


@pytest.mark.parametrize("content", ["{}\n", "nonsense\n", '{"v": 99, "r": {}}\n'])
def test_a_file_that_holds_no_records_is_refused_with_its_line(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "records"
    file.write_text(content)

    done = run("debug", "replay", str(file))

    assert done.returncode == Exit.NO
    assert f"{file}:1: no record" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_step_shows_what_is_due_found_and_decided(api: str) -> None:
    done = run("debug", "step", "--url", api)

    assert done.returncode == Exit.OK, done.stderr
    assert "due: hold, found: primary" in done.stdout
    assert "decision: PostgreSQL runs as the primary of this epoch" in done.stdout
    assert "cluster primary_has_lease" in done.stdout


def test_what_is_kept_is_bounded() -> None:
    with staged(THREE) as stage:
        daemon = stage.n[1].daemon
        assert daemon is not None
        stage.wait(2_000)
        recorder = daemon.main.recorder
        kept = recorder.records[-1]
        for _ in range(3 * RECORDS_MAX):
            recorder.note(kept.view, kept.decision, changed=True)
        assert len(recorder.records) <= RECORDS_MAX + 2


def test_a_bundle_holds_the_state_and_no_secret(api: str, tmp_path: Path) -> None:
    for name in ("secret", "token", "passwords"):
        file = tmp_path / name
        file.write_text(f"postgres:{SECRET}\n" if name == "passwords" else SECRET)
        file.chmod(0o600)
    config = tmp_path / "pgbastion.yaml"
    config.write_text(
        "node: {name: n1, address: 127.32.0.1}\n"
        f"cluster: {{secret_file: {tmp_path}/secret}}\n"
        f"raft: {{data_dir: {tmp_path}/raft, tls_enabled: false}}\n"
        "postgresql:\n"
        "  data_dir: /srv/pg\n"
        f"  password_file: {tmp_path}/passwords\n"
        f"  connect_dsn: 'postgres://u:{SECRET}@h/db'\n"
        "  parameters:\n"
        f"    archive_command: 'PGPASSWORD={SECRET} cp %p /x/%f'\n"
        f"api: {{auth_token_file: {tmp_path}/token}}\n"
    )
    # Even a node that tells one where none is due must not bring it in.
    Api.answers["/cluster/explain"] = {"lines": [f"by value {SECRET}"]}
    Api.answers["/history"] = [{"cause": "x", "password": SECRET}]
    Api.answers["/connections"] = {"line": f"Authorization: Bearer {SECRET}x"}
    Api.answers["/raft/state"] = (500, {})
    out = tmp_path / "bundle.tar.gz"

    done = run("debug", "bundle", "--out", str(out), "-c", str(config), "--url", api)

    assert done.returncode == Exit.OK, done.stderr
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with tarfile.open(out) as archive:
        texts = {
            member.name: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive
        }
    assert not [name for name, text in texts.items() if SECRET in text]
    assert "/srv/pg" in texts["pgbastion-bundle/pgbastion.yaml"]
    assert "furthest_chosen" in texts["pgbastion-bundle/debug-decisions.json"]
    assert "without /raft/state" in done.stdout


def test_a_bundle_never_replaces_a_file(api: str, tmp_path: Path) -> None:
    out = tmp_path / "bundle.tar.gz"
    out.write_text("mine")

    done = run("debug", "bundle", "--out", str(out), "--url", api)

    assert done.returncode == Exit.NO
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        "password: hunter22",
        "host=h password='hunter22 x' user=u",
        'export AWS_SECRET_ACCESS_KEY="hunter22"',
        "postgres://u:hunter22@h:5432/db",
        "Authorization: bearer hunter22",
        "ssl_passphrase_command: echo hunter22",
        "{token: hunter22, name: x}",
    ],
)
def test_what_could_be_a_secret_is_hidden(line: str) -> None:
    assert "hunter22" not in redact(line)


def test_what_is_no_secret_stays() -> None:
    for line in (
        "  secret_file: /etc/pgbastion/secret",
        "data_dir: /srv/pg",
        "  tls: {mode: passthrough}",
    ):
        assert redact(line) == line


def test_values_below_a_secret_name_are_hidden_at_any_depth() -> None:
    plain = {"tokens": [{"a": "x"}], "b": ["keep", 1, None]}

    assert redact_values(plain) == {
        "tokens": [{"a": "(hidden)"}],
        "b": ["keep", 1, None],
    }
