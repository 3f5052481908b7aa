"""What a server would take for a setting, judged from its own table."""

import pytest

from pgbastion.postgres.guc import Setting, judge, libraries


def setting(kind: str, **changes: object) -> Setting:
    made: dict[str, object] = {
        "name": "x",
        "kind": kind,
        "unit": None,
        "least": None,
        "most": None,
        "choices": (),
        "context": "user",
    }
    return Setting(**{**made, **changes})  # type: ignore[arg-type]


MEMORY = setting("integer", unit="8kB", least=16.0, most=1_073_741_823.0)
TIME = setting("integer", unit="s", least=0.0, most=3_600.0)
PLAIN = setting("integer", least=1.0, most=262_143.0)
RATIO = setting("real", least=0.0, most=1.0)
DELAY = setting("real", unit="ms", least=-1.0, most=100.0)
LEVEL = setting("enum", choices=("minimal", "replica", "logical"))
COMMIT = setting("enum", choices=("local", "on", "off"))


@pytest.mark.parametrize(
    ("which", "value"),
    [
        (MEMORY, "128MB"),
        (MEMORY, "16"),
        (MEMORY, " 1 GB "),
        (MEMORY, "0.5GB"),
        (MEMORY, "131072B"),
        (TIME, "1h"),
        (TIME, "1500ms"),
        (PLAIN, "100"),
        (PLAIN, "0x10"),
        (PLAIN, "1e3"),
        (RATIO, "0.5"),
        (RATIO, "1"),
        (DELAY, "-1"),
        (DELAY, "500us"),
        (setting("bool"), "ON"),
        (setting("bool"), "f"),
        (LEVEL, "Logical"),
        (COMMIT, "true"),
        (setting("string"), "anything; at all"),
    ],
)
def test_what_the_server_takes_is_accepted(which: Setting, value: str) -> None:
    assert judge(which, value) is None


@pytest.mark.parametrize(
    ("which", "value"),
    [
        (MEMORY, "64kB"),
        (MEMORY, "1gb"),
        (MEMORY, "128 apples"),
        (MEMORY, "5min"),
        (MEMORY, ""),
        (TIME, "2h"),
        (TIME, "1MB"),
        (PLAIN, "0"),
        (PLAIN, "100MB"),
        (PLAIN, "many"),
        (PLAIN, "1e999"),
        (RATIO, "1.5"),
        (RATIO, "nan"),
        (setting("bool"), "maybe"),
        (LEVEL, "on"),
        (LEVEL, ""),
        (setting("integer", context="internal"), "1"),
    ],
)
def test_what_the_server_refuses_is_refused_before(which: Setting, value: str) -> None:
    assert judge(which, value) is not None


def test_a_refusal_names_what_would_do() -> None:
    assert judge(LEVEL, "x") == "it is one of minimal, replica, logical"
    assert judge(TIME, "2h") == "it is from 0 to 3600 in units of s"
    assert "B, kB, MB, GB, TB" in (judge(MEMORY, "x") or "")


def test_libraries_to_preload_are_found_by_name() -> None:
    given = {
        "shared_preload_libraries": 'pg_stat_statements, "$libdir/auto_explain.so"',
        "session_preload_libraries": "/opt/own.so, ",
        "search_path": "a, b",
    }

    assert list(libraries(given)) == [
        ("shared_preload_libraries", "pg_stat_statements"),
        ("shared_preload_libraries", "auto_explain"),
    ]
