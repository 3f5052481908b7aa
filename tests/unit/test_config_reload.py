"""What a changed file means for a running daemon."""

from typing import Any

import pytest

from pgbastion.config.model import Config, File
from pgbastion.config.reload import APPLIED, HELD_BY_CLUSTER, Changes, what_changes
from support.configs import understood


def changed(**sections: Any) -> Changes:
    return what_changes(understood(), understood(**sections))


def test_an_unchanged_file_changes_nothing() -> None:
    assert changed() == Changes()


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"log": {"level": "debug"}}, "log.level"),
        ({"tags": {"nofailover": True}}, "tags.nofailover"),
        ({"postgresql": {"parameters": {"work_mem": "8MB"}}}, "postgresql.parameters"),
        ({"failover": {"stop_timeout": "5s"}}, "failover.stop_timeout"),
        ({"proxy": {"max_connections": 5}}, "proxy.max_connections"),
    ],
)
def test_what_can_be_applied_is_applied(sections: dict[str, Any], key: str) -> None:
    assert changed(**sections) == Changes(applied=(key,))


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"node": {"name": "n9"}}, "node.name"),
        ({"proxy": {"data_path": "userspace"}}, "proxy.data_path"),
        ({"raft": {"election_timeout": "400ms"}}, "raft.election_timeout"),
        ({"postgresql": {"data_dir": "/srv/other"}}, "postgresql.data_dir"),
        ({"postgresql": None}, "postgresql"),
    ],
)
def test_the_rest_needs_a_restart(sections: dict[str, Any], key: str) -> None:
    assert changed(**sections) == Changes(needs_restart=(key,))


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"failover": {"profile": "wide"}}, "failover.profile"),
        ({"replication": {"mode": "async"}}, "replication.mode"),
    ],
)
def test_what_the_cluster_agreed_on_stays(sections: dict[str, Any], key: str) -> None:
    assert changed(**sections) == Changes(held_by_cluster=(key,))


def test_every_key_of_the_table_is_a_key_of_the_file() -> None:
    known = set(File.model_fields)
    for name, part in dict(understood_sections()).items():
        known |= {f"{name}.{key}" for key in type(part).model_fields}

    assert known >= APPLIED | HELD_BY_CLUSTER


def understood_sections() -> list[tuple[str, Any]]:
    config: Config = understood()
    return [
        (name, getattr(config, name))
        for name in File.model_fields
        if getattr(config, name, None) is not None
    ]
