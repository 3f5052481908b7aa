"""Write what PostgreSQL reads: settings, connection strings, access rules. Pure."""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pgbastion.model.cluster import NOBODY, ReplicationMode, SyncSet
from pgbastion.model.ids import DataId, NodeId, node_of, standby_name
from pgbastion.postgres.layout import PgIdentity, PgRoles

NAME_MAX_BYTES: Final = 63
"""The length of a name in PostgreSQL (NAMEDATALEN - 1)."""

SLOT_PREFIX: Final = "pgbastion_"

NOBODY_NAME: Final = "pgbastion:nobody"
"""No standby has this name: a standby's name ends in ``_`` and hexadecimal digits."""

PASSING_NAME: Final = "pgbastion:catching up"
"""Of a standby that reads from another one; no set can name it either."""


def quote_setting(value: str | float | bool) -> str:  # noqa: FBT001 - a value
    """Return a value for a configuration file, always quoted."""
    if isinstance(value, bool):
        return "'on'" if value else "'off'"
    text = str(value).replace("\\", "\\\\").replace("'", "''")
    return f"'{text}'"


def quote_identifier(name: str) -> str:
    """Return a name that SQL, pg_hba.conf and sync names read as nothing but a name."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return a string literal of SQL, whatever ``standard_conforming_strings`` says."""
    doubled = text.replace("'", "''")
    if "\\" in doubled:
        return " E'" + doubled.replace("\\", "\\\\") + "'"
    return f"'{doubled}'"


def conninfo(parameters: Mapping[str, str | int]) -> str:
    """Return a libpq connection string."""
    return " ".join(f"{key}={_conninfo_value(v)}" for key, v in parameters.items())


def _conninfo_value(value: str | int) -> str:
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_./:,-]+", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def slot_name(node: NodeId) -> str:
    """Return the name of the physical slot of a node.

    Slot names know only ``a-z0-9_``: a node whose name has other characters gets a
    part of its hash, so that two nodes never share a slot.
    """
    plain = re.sub(r"[^a-z0-9_]", "_", node.lower())
    room = NAME_MAX_BYTES - len(SLOT_PREFIX)
    if plain == node and len(plain) <= room:
        return SLOT_PREFIX + plain
    digest = hashlib.sha256(node.encode()).hexdigest()[:8]
    return f"{SLOT_PREFIX}{plain[: room - 9]}_{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """The server that a standby streams from."""

    host: str
    port: int


# Dead peers are noticed by the wire, whatever the kernel's defaults are.
_WIRE: Final[Mapping[str, str | int]] = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}


def replication_conninfo(
    upstream: Upstream, *, user: str, passfile: str, name: str
) -> str:
    """Return ``primary_conninfo`` of the standby called ``name``."""
    return conninfo(
        {
            "host": upstream.host,
            "port": upstream.port,
            "user": user,
            # For the worker that copies logical slots from the primary, since 17.
            "dbname": "postgres",
            "passfile": passfile,
            "application_name": name,
            **_WIRE,
        }
    )


def source_conninfo(
    upstream: Upstream, *, user: str, passfile: str, name: str, dbname: str | None
) -> str:
    """Return the connection string of a program that reads from the primary."""
    database = {} if dbname is None else {"dbname": dbname}
    return conninfo(
        {
            "host": upstream.host,
            "port": upstream.port,
            "user": user,
            **database,
            "passfile": passfile,
            "application_name": name,
            **_WIRE,
        }
    )


_SYNC_NAMES: Final = re.compile(r"(?:ANY|FIRST) (\d+) \((.*)\)")


def sync_names(mode: ReplicationMode, sync: SyncSet | None) -> str:
    """Return ``synchronous_standby_names``.

    Args:
        mode: How commits are confirmed.
        sync: The set in force; None names nobody who exists, so that commits wait. A
            set with ``num_sync`` 0 is degraded: commits wait for nobody.
    """
    if sync is None:
        return f"ANY 1 ({quote_identifier(NOBODY_NAME)})"
    if sync.num_sync == 0:
        return ""
    word = "FIRST" if mode is ReplicationMode.SYNC else "ANY"
    names = ",".join(quote_identifier(name) for name in sync.names)
    return f"{word} {sync.num_sync} ({names})"


def parse_sync_names(names: str) -> SyncSet | None:
    """Read ``synchronous_standby_names`` as we write it; None: it names nobody real.

    A setting of another form was written by somebody else: who confirms under it, a
    ``*`` for example, is nobody that anything was promised of.
    """
    match = _SYNC_NAMES.fullmatch(names)
    if match is None:
        return NOBODY
    members = tuple(re.findall(r'"((?:[^"]|"")*)"', match[2]))
    if NOBODY_NAME in members:
        return None
    if not 0 < int(match[1]) <= len(members):
        return NOBODY
    return SyncSet(names=members, num_sync=int(match[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Volatile:
    """The settings that change with the cluster's state.

    A standby carries ``sync=None`` all its life, so that the commits of a server that
    was just promoted wait; ``upstream=None`` is a standby that is cut, or a primary.
    """

    upstream: Upstream | None = None
    passing: bool = False
    """``upstream`` is a standby that is read from for a moment: it has no slot for this
    one, and must not take its name for that of a member of a synchronous set."""
    mode: ReplicationMode = ReplicationMode.QUORUM
    sync: SyncSet | None = None


SYNCHRONIZED_SLOTS: Final = "synchronized_standby_slots"
SYNCHRONIZED_SLOTS_SINCE: Final = 17


def volatile_settings(
    volatile: Volatile,
    identity: PgIdentity,
    data_id: DataId,
    *,
    passfile: str,
    major: int,
) -> dict[str, str]:
    """Return the settings of ``pgbastion.recovery.conf``, names to values.

    Args:
        volatile: What follows from the cluster's state.
        identity: Whose settings they are.
        data_id: The directory's.
        passfile: Where the passwords are.
        major: The server's major version: an unknown setting keeps it from starting.
    """
    name = standby_name(identity.node, data_id)
    if volatile.passing:
        name = PASSING_NAME
    source = ""
    if volatile.upstream is not None:
        source = replication_conninfo(
            volatile.upstream,
            user=identity.roles.replication,
            passfile=passfile,
            name=name,
        )
    settings = {
        "primary_conninfo": source,
        "primary_slot_name": "" if volatile.passing else slot_name(identity.node),
        "synchronous_standby_names": sync_names(volatile.mode, volatile.sync),
    }
    if major >= SYNCHRONIZED_SLOTS_SINCE:
        settings[SYNCHRONIZED_SLOTS] = _synchronized_slots(volatile.sync)
    return settings


def _synchronized_slots(sync: SyncSet | None) -> str:
    """Return whose slots a logical consumer may not get ahead of.

    It must not have seen what a promoted standby lacks: whoever commits wait for, it
    waits for too.
    """
    if sync is None or sync.num_sync == 0:
        return ""
    return ", ".join(slot_name(node_of(name)) for name in sync.names)


def settings_file(head: str, settings: Mapping[str, str | float | bool]) -> str:
    """Return a configuration file of ``settings`` under a comment."""
    lines = [f"# {line}" for line in head.splitlines()]
    lines += [f"{name} = {quote_setting(v)}" for name, v in settings.items()]
    return "\n".join(lines) + "\n"


HBA_BEGIN: Final = "# pgbastion: begin (rewritten when members change)"
HBA_END: Final = "# pgbastion: end"

_HBA_WORDS: Final = frozenset(
    {"all", "sameuser", "samerole", "samegroup", "replication"}
)


def hba_block(roles: PgRoles, members: Sequence[str], configured: Sequence[str]) -> str:
    """Return our part of pg_hba.conf: our rules, then the configured lines.

    Args:
        roles: Who logs in.
        members: Addresses or host names of the nodes that run PostgreSQL.
        configured: Raw lines of ``postgresql.hba``.
    """
    superuser, replication, rewind = map(_hba_name, roles.all)
    lines = [HBA_BEGIN, f"local all {superuser} scram-sha-256"]
    for member in sorted({*members, *_loopback_source(members)}):
        host = hba_address(member)
        ours = f"{superuser},{rewind},{replication}"
        lines += [
            f"host all {ours} {host} scram-sha-256",
            f"host replication {replication} {host} scram-sha-256",
        ]
    return "\n".join([*lines, *configured, HBA_END]) + "\n"


def hba_address(member: str) -> str:
    """Return how pg_hba.conf names one host: an address as a network of one."""
    try:
        address = ipaddress.ip_address(member)
    except ValueError:
        return member
    return f"{address}/{address.max_prefixlen}"


def _loopback_source(members: Sequence[str]) -> tuple[str, ...]:
    """Return where nodes on loopback connect from: Linux chooses 127.0.0.1."""
    with_dots = [member for member in members if member.startswith("127.")]
    return ("127.0.0.1",) if with_dots else ()


def replace_hba_block(text: str, block: str) -> str:
    """Return pg_hba.conf with ``block`` first and the lines of others after it."""
    begin, end = text.find(HBA_BEGIN), text.find(HBA_END)
    if begin >= 0 and end > begin:
        text = text[:begin] + text[end + len(HBA_END) :].removeprefix("\n")
    return block + text


def _hba_name(name: str) -> str:
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in _HBA_WORDS
    return name if plain else quote_identifier(name)


def passfile(upstream: Upstream | None, passwords: Mapping[str, str]) -> str:
    """Return libpq's password file: for one server, or for none.

    A standby that was cut can log in nowhere, not even a WAL receiver that the server
    is about to start with the connection string of a moment ago.
    """
    if upstream is None:
        return "# no server to follow\n"
    where = f"{_passfile_value(upstream.host)}:{upstream.port}"
    return "".join(
        f"{where}:*:{_passfile_value(role)}:{_passfile_value(password)}\n"
        for role, password in sorted(passwords.items())
    )


_PASSFILE_LINE: Final = re.compile(
    r"^((?:[^:\\]|\\.)+:\d+:\*:)((?:[^:\\]|\\.)+):.*$", re.MULTILINE
)


def with_passwords(text: str, passwords: Mapping[str, str]) -> str:
    """Return our password file with other passwords at the same server, or at none."""

    def renewed(line: re.Match[str]) -> str:
        role = re.sub(r"\\(.)", r"\1", line[2])
        password = passwords.get(role)
        if password is None:
            return line[0]
        return f"{line[1]}{line[2]}:{_passfile_value(password)}"

    return _PASSFILE_LINE.sub(renewed, text)


def _passfile_value(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


INCLUDE_LINE: Final = "include 'pgbastion.conf'  # pgbastion: this line stays last"
_INCLUDE: Final = re.compile(r"\s*include\w*\s*=?\s*'pgbastion\.conf'.*")


def include_last(text: str) -> str:
    """Return postgresql.conf with our include as its last line, and only there."""
    kept = [line for line in text.split("\n") if not _INCLUDE.fullmatch(line)]
    while kept and not kept[-1].strip():
        kept.pop()
    return "\n".join([*kept, "", INCLUDE_LINE]) + "\n"


_SETTING_LINE: Final = re.compile(
    r"\s*([A-Za-z_][A-Za-z0-9_.]*)\s*(?:=|\s)\s*(?:'([^']*)'|([^\s#]*))"
)


def without_settings(
    text: str, unwanted: Callable[[str, str], bool]
) -> tuple[str, tuple[str, ...]]:
    """Return postgresql.auto.conf without unwanted settings, and the names of those.

    Args:
        text: The file.
        unwanted: Judges a name in lower case and its value.
    """
    kept: list[str] = []
    removed: list[str] = []
    for line in re.split(r"(?<=\n)", text):
        match = _SETTING_LINE.match(line)
        name = match[1].lower() if match else ""
        if match and unwanted(name, match[2] or match[3] or ""):
            removed.append(name)
        else:
            kept.append(line)
    return "".join(kept), tuple(removed)
