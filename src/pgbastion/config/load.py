"""Reads the configuration: file to model to checks, all problems at once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgbastion.config.checks import check_config
from pgbastion.config.discovery import discover_bin_dir
from pgbastion.config.facts import directory_facts, gather_facts
from pgbastion.config.machine_checks import check_machine
from pgbastion.config.model import Config, File, Found, resolve, with_defaults
from pgbastion.config.parse import Document, parse_file
from pgbastion.config.problems import Problem, errors
from pgbastion.config.reading import Report, read_document
from pgbastion.config.rundir import run_directory
from pgbastion.config.salvage import salvage
from pgbastion.errors import ConfigError


def load_config(
    path: Path, environment: Mapping[str, str] = os.environ, *, machine: bool = True
) -> Config:
    """Return the configuration in ``path``, ready to be used.

    Args:
        path: The YAML file.
        environment: Where secrets and directories of the session may be named.
        machine: Judge it by the facts of this machine too.

    Raises:
        ConfigError: It cannot be used; the message has every error with its place and
            its remedy.
    """
    return examine(path, environment, machine=machine).usable()


def examine(
    path: Path, environment: Mapping[str, str] = os.environ, *, machine: bool = True
) -> Report:
    """Return everything that can be said about the configuration in ``path``."""
    return examine_document(read_document(path), path, environment, machine=machine)


def examine_document(
    document: Document | Problem,
    path: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    machine: bool = True,
) -> Report:
    """Return everything that can be said about what is, or may come, in ``path``."""
    if isinstance(document, Problem):
        return Report(source=path, config=None, problems=(document,), document=None)
    found, homeless = _find(document.values, environment)

    def judge(file: File) -> tuple[Config, list[Problem]]:
        config = resolve(file, source=path, found=found)
        problems = check_config(config)
        if machine:
            problems += check_machine(config, gather_facts(config, environment))
        return config, problems

    parsed = parse_file(with_defaults(document.values, found))
    if isinstance(parsed, File):
        config, problems = judge(parsed)
    else:
        config, problems = None, parsed
        wrong = {problem.key for problem in parsed}
        rest = parse_file(with_defaults(salvage(document.values, wrong), found))
        if isinstance(rest, File):
            problems += [p for p in errors(judge(rest)[1]) if p.key not in wrong]
    return Report(
        source=path,
        config=config,
        problems=(*homeless, *problems),
        document=document,
    )


def _find(
    values: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[Found, tuple[Problem, ...]]:
    """Look for what the file may leave out; values of a wrong kind are left out too.

    Without a place in memory for the node the rest can be judged all the same.
    """
    name = _text_at(values, "node", "name") or "node"
    raft_dir = _text_at(values, "raft", "data_dir") or "/"
    data_dir = _text_at(values, "postgresql", "data_dir")
    bin_dir = None
    if "postgresql" in values and _text_at(values, "postgresql", "bin_dir") is None:
        major = directory_facts(Path(data_dir)).major if data_dir else None
        bin_dir = discover_bin_dir(major, environment.get("PATH", ""))
    problems: tuple[Problem, ...] = ()
    try:
        run_dir = run_directory(name.replace("/", "_"), Path(raft_dir), environment)
    except ConfigError as exc:
        run_dir = Path("/run/pgbastion")
        problems = (
            Problem(key="", problem="the node has no place in memory", remedy=str(exc)),
        )
    return Found(run_dir=run_dir, bin_dir=bin_dir), problems


def _text_at(values: Mapping[str, Any], section: str, key: str) -> str | None:
    table = values.get(section)
    value = table.get(key) if isinstance(table, Mapping) else None
    return value if isinstance(value, str) and value else None
