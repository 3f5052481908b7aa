"""``pgbastion config``: what people see of the cluster's settings, and change."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgbastion.cli.exits import Exit
from pgbastion.cli.problems import CommandError
from pgbastion.cli.settings import (
    edit_settings,
    parse_settings,
    render_settings,
    render_versions,
)
from support.cli import Api, answering, run

AGREED: dict[str, Any] = {
    "version": 2,
    "by": "an operator",
    "at": "2026-01-01T00:00:00+00:00",
    "postgresql": {"parameters": {"work_mem": "16MB", "max_connections": "200"}},
}
STATUS: dict[str, Any] = {
    "version": 2,
    "nodes": [
        {
            "node": "n1",
            "version": 2,
            "overrides": {"work_mem": "1GB"},
            "held_back": [{"name": "max_connections", "reason": "standbys first"}],
            "pending_restart": [],
        },
        {
            "node": "n2",
            "version": 1,
            "overrides": {},
            "held_back": [],
            "pending_restart": [{"name": "jit", "reason": "it takes effect later"}],
        },
        {
            "node": "n3",
            "version": None,
            "overrides": {},
            "held_back": [],
            "pending_restart": [],
        },
    ],
}


@pytest.fixture
def api() -> Iterator[str]:
    with answering() as url:
        Api.answers = {"/config": AGREED, "/config/status": STATUS}
        yield url


def test_the_settings_are_shown_with_whoever_has_others(api: str) -> None:
    done = run("config", "show", "--url", api)

    assert done.returncode == Exit.OK
    assert done.stdout.rstrip() == render_settings(AGREED, STATUS)


def test_each_difference_has_its_reason() -> None:
    assert render_settings(AGREED, STATUS).splitlines()[-6:] == [
        "NODE  SETTING          WHY IT DIFFERS",
        "n1    work_mem         its own file says 1GB",
        "n1    max_connections  standbys first",
        "n2    jit              restart: it takes effect later",
        "n2    -                it is at version 1 yet",
        "n3    -                its server does not run, or the node is silent",
    ]


def test_each_version_says_what_it_changed() -> None:
    versions = [
        {"version": 1, "at": "t1", "by": "x", "parameters": {"a": "1", "b": "2"}},
        {"version": 2, "at": "t2", "by": "y", "parameters": {"a": "3"}},
    ]

    assert render_versions(versions).splitlines()[1:] == [
        "      1  t1  x   a=1 b=2",
        "      2  t2  y   a=3 b=",
    ]


def test_a_setting_is_a_name_an_equals_sign_and_a_value() -> None:
    assert parse_settings(["a=1", "b = x=y", "c="]) == {"a": "1", "b": "x=y", "c": None}


@pytest.mark.parametrize("word", ["a", "=1", ""])
def test_a_word_that_is_no_setting_is_refused(word: str) -> None:
    with pytest.raises(CommandError):
        parse_settings([word])


def editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    script = tmp_path / "editor.py"
    script.write_text(f"import sys, pathlib\np = pathlib.Path(sys.argv[1])\n{code}\n")
    monkeypatch.setitem(os.environ, "EDITOR", f"{sys.executable} {script}")


def test_what_the_editor_leaves_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    editor(monkeypatch, tmp_path, 'p.write_text("a: 2\\nlist: [x, y]\\n")')

    assert edit_settings({"a": "1"}) == {"a": 2, "list": ["x", "y"]}


def test_an_editor_that_changes_nothing_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    editor(monkeypatch, tmp_path, "pass")

    assert edit_settings({"a": "1", "b": "on"}) is None


@pytest.mark.parametrize(
    "code",
    ["sys.exit(1)", 'p.write_text("[1")', 'p.write_text("- x")', "p.unlink()"],
)
def test_an_editor_that_fails_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str
) -> None:
    editor(monkeypatch, tmp_path, code)

    with pytest.raises(CommandError, match="nothing was changed"):
        edit_settings({"a": "1"})
