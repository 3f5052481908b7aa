"""Makes what a node needs to be started: configuration, secret, unit."""

import json
import os
import pwd
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pgbastion.cli.problems import CommandError
from pgbastion.cli.unit import PROGRAM, render_unit
from pgbastion.config.load import examine_document
from pgbastion.config.model import Config
from pgbastion.config.parse import parse_document
from pgbastion.config.secrets import load_cluster_secret
from pgbastion.errors import ConfigError

FETCHED_KEY: Final = "cluster.secret_file"
UNIT_NAME: Final = "pgbastion.service"
# An address for documentation: nothing is sent there, the kernel names the interface.
_ELSEWHERE: Final = ("192.0.2.1", 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the configuration of a node is made from."""

    name: str
    address: str
    peers: tuple[str, ...]
    founds: bool
    """Whether it is the cluster's first node."""
    data_dir: str | None
    """None: a witness."""
    raft_dir: str
    secret_file: str
    os_user: str | None
    """Whom PostgreSQL runs as; None: the default."""


Ask = Callable[[str, str], str]
"""Asks a question with a proposed answer, and returns what is to be."""


def ask_terminal(question: str, proposed: str) -> str:
    """Ask a person; an empty line takes what is proposed.

    Raises:
        CommandError: There is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Nobody can be asked here: --yes takes defaults")
    print(f"{question} [{proposed}] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or proposed


def accept(question: str, proposed: str) -> str:
    """Take what is proposed, for ``--yes``."""
    del question
    return proposed


def gather(given: Mapping[str, Any], ask: Ask) -> Answers:
    """Return all answers: those that options gave, and the others asked for."""

    def answer(key: str, question: str, proposed: str) -> str:
        value = given.get(key)
        return ask(question, proposed) if value is None else str(value)

    name = answer("name", "Name of this node?", socket.gethostname().split(".")[0])
    address = answer("address", "Its IP address, for the other nodes?", _own_address())
    listed = answer("peers", "Addresses of all nodes, with commas between?", address)
    peers = tuple(part.strip() for part in listed.split(",") if part.strip())
    founds = given.get("founds")
    if founds is None:
        asked = ask("Is it the cluster's first node (yes, no)?", "yes")
        founds = asked.lower() in ("y", "yes")
    data_dir = None
    if not given.get("witness"):
        data_dir = answer(
            "data_dir", "Data directory of PostgreSQL?", "/var/lib/postgresql/data"
        )
    return Answers(
        name=name,
        address=address,
        peers=peers,
        founds=bool(founds),
        data_dir=data_dir,
        raft_dir=str(given.get("raft_dir") or "/var/lib/pgbastion/raft"),
        secret_file=str(given.get("secret_file") or "/etc/pgbastion/secret"),
        os_user=_only_user(),
    )


def _only_user() -> str | None:
    """Return whom all has to run as; None: root starts it, and may choose."""
    user = os.geteuid()
    return None if user == 0 else pwd.getpwuid(user).pw_name


def _own_address() -> str:
    """Return the address with which this machine reaches others."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(_ELSEWHERE)
            return str(sock.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def render_configuration(answers: Answers) -> str:
    """Return the file that says so."""
    lines = [
        "# Made by pgbastion init; every key: docs/reference/configuration.md",
        "node:",
        f"  name: {_quoted(answers.name)}",
        f"  address: {_quoted(answers.address)}",
        "cluster:",
        f"  peers: [{', '.join(map(_quoted, answers.peers))}]",
        f"  secret_file: {_quoted(answers.secret_file)}",
        "raft:",
        f"  data_dir: {_quoted(answers.raft_dir)}",
    ]
    if answers.founds:
        lines.append("  bootstrap: true")
    if answers.data_dir is not None:
        lines += ["postgresql:", f"  data_dir: {_quoted(answers.data_dir)}"]
        if answers.os_user is not None:
            lines.append(f"  os_user: {_quoted(answers.os_user)}")
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    # What JSON quotes, YAML reads as it was.
    return json.dumps(text)


def judge(path: Path, text: str) -> Config:
    """Return what ``text`` would be in ``path``; a joiner's secret is fetched later.

    Raises:
        CommandError: There is a file already.
        ConfigError: It could not be used.
    """
    if path.exists():
        raise CommandError(f"{path} exists: change it, or name another with --config")
    report = examine_document(parse_document(text), path)
    errors = [p for p in report.errors if p.key != FETCHED_KEY]
    if report.config is None or errors:
        raise ConfigError(report.render(errors))
    return report.config


def write_configuration(path: Path, text: str) -> None:
    """Write the file as a whole; one that has come meanwhile is not touched.

    Raises:
        CommandError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8")
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror}") from exc


def make_secret(config: Config) -> None:
    """Make the cluster's secret where this node is its first.

    Raises:
        ConfigError: It cannot be made or used.
    """
    if config.raft.bootstrap:
        load_cluster_secret(config, os.environ)


def write_unit(directory: Path, program: Path) -> Path:
    """Write the service's unit for the program that runs now.

    Raises:
        CommandError: It cannot be written.
    """
    path = directory / UNIT_NAME
    try:
        path.write_text(render_unit(program), encoding="utf-8")
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror}") from exc
    return path


def next_steps(config: Config, unit_dir: Path | None) -> str:
    """Return what is left to be done."""
    secret = config.cluster.secret_file
    start = f"pgbastion start --config {config.source}"
    if unit_dir is not None:
        start = "systemctl daemon-reload; systemctl enable --now pgbastion"
    if not config.raft.bootstrap:
        return f"next: copy {secret} from another node with mode 0600, then {start}"
    lines = [f"next: {start}"]
    if config.postgresql is not None:
        shown = f"pgbastion password --config {config.source}"
        lines.append(f"the superuser's password: {shown}")
    lines.append(
        f"other nodes: copy {secret} to them with mode 0600, then pgbastion init --join"
    )
    return "\n".join(lines)


def own_program() -> Path:
    """Return the program that a service would start."""
    found = Path(sys.argv[0]).absolute()
    return found if found.name.startswith("pgbastion") else PROGRAM
