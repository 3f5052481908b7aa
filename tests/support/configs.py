"""Configurations for tests: small texts, and machines on which all is well."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgbastion.config.machine import (
    Content,
    DirectoryFacts,
    Facts,
    FileFacts,
    PostgresqlFacts,
    ServerVersion,
)
from pgbastion.config.model import Config, Found, resolve, with_defaults
from pgbastion.config.parse import parse_file
from pgbastion.config.problems import Problem, Severity

FOUND = Found(
    run_dir=Path("/run/pgbastion/n1-00000000"),
    bin_dir=Path("/usr/lib/postgresql/16/bin"),
)
POSTGRES_UID = 101
GOOD_FILE = FileFacts(exists=True, mode=0o600, length=32)
GOOD_POSTGRESQL = PostgresqlFacts(
    os_uid=POSTGRES_UID,
    missing_programs=(),
    version=ServerVersion(major=16, minor=9),
    data=DirectoryFacts(content=Content.MISSING),
    closed_parent=None,
    closed_program_parent=None,
    passwords=None,
)
GOOD_FACTS = Facts(
    uid=0,
    user="root",
    environment_secret_length=None,
    secret=GOOD_FILE,
    auth_token=None,
    read_token=None,
    raft=DirectoryFacts(content=Content.MISSING),
    postgresql=GOOD_POSTGRESQL,
)


def values(**sections: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the smallest file of a node with PostgreSQL, with ``sections`` merged in.

    A section that is None is left out.
    """
    base: dict[str, Any] = {
        "node": {"name": "n1", "address": "10.0.1.1"},
        "cluster": {"peers": ["10.0.1.1:8300", "10.0.1.2:8300"]},
        "raft": {"data_dir": "/srv/raft", "tls_enabled": False},
        "postgresql": {"data_dir": "/srv/pg"},
    }
    for name, section in sections.items():
        if section is None:
            del base[name]
        else:
            base[name] = {**base.get(name, {}), **section}
    return base


def understood(**sections: Mapping[str, Any] | None) -> Config:
    """Return the configuration of `values`; it has to be understood."""
    file = parse_file(with_defaults(values(**sections), FOUND))
    assert not isinstance(file, list), file
    return resolve(file, source=Path("pgbastion.yaml"), found=FOUND)


def refused(**sections: Mapping[str, Any] | None) -> dict[str, Problem]:
    """Return the problems of `values` by key; it must not be understood."""
    problems = parse_file(with_defaults(values(**sections), FOUND))
    assert isinstance(problems, list)
    return {problem.key: problem for problem in problems}


def postgresql_facts(**changes: Any) -> Facts:
    """Return a good machine on which ``changes`` are true of PostgreSQL."""
    return replace(GOOD_FACTS, postgresql=replace(GOOD_POSTGRESQL, **changes))


def of_severity(problems: list[Problem], severity: Severity) -> list[str]:
    """Return the keys of the problems of ``severity``."""
    return [problem.key for problem in problems if problem.severity is severity]
