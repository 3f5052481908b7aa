"""Where one server's files are, and whose they are."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.ids import NodeId

BACKUP_LABEL: Final = "backup_label"
"""In a data directory: it is a base backup, whose recovery begins where this says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The operating system's user that PostgreSQL and its programs run as."""

    name: str
    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether this process runs as somebody else (then it must be root)."""
        return os.geteuid() != self.uid


def resolve_account(os_user: str) -> Account:
    """Look up the user ``os_user``.

    Raises:
        PostgresError: There is none, or this process can neither be it nor become it.
    """
    try:
        entry = pwd.getpwnam(os_user)
    except KeyError as exc:
        raise PostgresError(f"there is no user {os_user!r} on this machine") from exc
    if os.geteuid() not in (0, entry.pw_uid):
        raise PostgresError(
            f"programs cannot run as user {os_user!r}: this process is user"
            f" {os.geteuid()} and not root"
        )
    if entry.pw_uid == 0:
        raise PostgresError("PostgreSQL refuses to run as root: choose another user")
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


@dataclass(frozen=True, slots=True, kw_only=True)
class PgPaths:
    """The directories of one server."""

    bin_dir: Path
    data_dir: Path
    config_dir: Path | None = None
    """Where postgresql.conf and pg_hba.conf are; None: in the data directory."""
    run_dir: Path
    """Volatile: the password file. ``os_user`` must be able to pass through it."""
    socket_dir: Path
    state_dir: Path
    """Durable and outside of PGDATA: what a rewind must not copy over."""
    account: Account

    def program(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's programs."""
        return self.bin_dir / name

    @property
    def conf_dir(self) -> Path:
        """Where the server's configuration files are."""
        return self.config_dir or self.data_dir

    @property
    def wal_dir(self) -> Path:
        """The directory of WAL segments (it may be a symbolic link)."""
        return self.data_dir / "pg_wal"

    @property
    def passfile(self) -> Path:
        """The password file of libpq for replication and rewind."""
        return self.run_dir / "pgpass"

    @property
    def work_flag(self) -> Path:
        """Present while a rewind may have left the data directory half changed."""
        return self.state_dir / "pgbastion.unfinished"

    def server_options(self) -> tuple[str, ...]:
        """Return the options that make ``postgres`` use these directories."""
        if self.config_dir is None:
            return ("-D", str(self.data_dir))
        return (
            "-D",
            str(self.data_dir),
            "-c",
            f"config_file={self.config_dir / 'postgresql.conf'}",
            "-c",
            f"data_directory={self.data_dir}",
            "-c",
            f"hba_file={self.config_dir / 'pg_hba.conf'}",
        )

    def server_command(self) -> tuple[str, ...]:
        """Return the argument list that starts the server in the foreground."""
        return (str(self.program("postgres")), *self.server_options())


@dataclass(frozen=True, slots=True, kw_only=True)
class PgRoles:
    """The names of the roles that pgbastion logs in as."""

    superuser: str = "postgres"
    replication: str = "replicator"
    rewind: str = "rewinder"

    @property
    def all(self) -> tuple[str, str, str]:
        """The three names."""
        return (self.superuser, self.replication, self.rewind)


@dataclass(frozen=True, slots=True, kw_only=True)
class PgIdentity:
    """What distinguishes this server from its peers."""

    node: NodeId
    listen: tuple[str, ...]
    """Addresses to listen on."""
    port: int
    roles: PgRoles
