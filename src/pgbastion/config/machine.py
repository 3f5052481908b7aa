"""What is known of a machine and of the files that a configuration names. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

OLDEST_MAJOR: Final = 14
NEWEST_MAJOR: Final = 19
PROGRAMS: Final = (
    "postgres",
    "initdb",
    "pg_basebackup",
    "pg_rewind",
    "pg_controldata",
    "pg_waldump",
)
MARK_NAME: Final = "pgbastion.cluster"
SECRET_BYTES_MIN: Final = 16
SECRET_VARIABLE: Final = "PGBASTION_SECRET"  # noqa: S105 - the variable's name


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ServerVersion:
    """The version that ``postgres -V`` states; a beta's minor number is 0."""

    major: int
    minor: int

    @property
    def supported(self) -> bool:
        """Whether pgbastion works with it."""
        return OLDEST_MAJOR <= self.major <= NEWEST_MAJOR


class Content(StrEnum):
    """What a directory holds."""

    MISSING = "missing"
    EMPTY = "empty"
    POSTGRESQL = "postgresql"
    OTHER = "other"
    NO_DIRECTORY = "no_directory"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """A file that holds a secret; never its content."""

    exists: bool
    mode: int = 0
    length: int = 0
    """Bytes without line ends at the end."""
    fault: str | None = None
    """Why it cannot be read or understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFacts:
    """A directory and what is in it."""

    content: Content
    uid: int = -1
    mode: int = 0
    major: int | None = None
    """The PostgreSQL version whose data it holds."""
    marked: bool = False
    """It carries the mark of a pgbastion cluster."""
    cluster_id: str | None = None
    """Of which cluster it is, by its mark or its log; None: of none, or unreadable."""
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlFacts:
    """PostgreSQL as it is found on this machine."""

    os_uid: int | None
    """None: there is no such user."""
    missing_programs: tuple[str, ...]
    version: ServerVersion | None
    """None: the server's program cannot say."""
    data: DirectoryFacts
    closed_parent: Path | None
    """The first directory above the data that the server's user may not pass."""
    closed_program_parent: Path | None
    """The same above the programs."""
    passwords: FileFacts | None
    """None: no file is configured."""
    missing_launchers: tuple[str, ...] = ()
    """Programs without which no server can be started as another user."""
    adopted: bool = False
    """A server runs on our data directory that no guard started."""
    other_daemon: int = 0
    """The daemon of another node whose server runs there; 0: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFacts:
    """The operator's certificate, key and authority, taken together."""

    fault: str | None = None
    """Why they are of no use."""
    places: tuple[str, ...] = ()
    """Addresses and names of the certificate."""
    days_left: int = 0
    key_mode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiTlsFacts:
    """The certificate and key of the API's ports, and the authority for clients."""

    fault: str | None = None
    """Why one of them is of no use."""
    key: str = ""
    """The key of the configuration whose file that is."""
    days_left: int = 0
    key_mode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that `pgbastion.config.checks` knows of the machine."""

    uid: int
    user: str
    environment_secret_length: int | None
    """Bytes of the secret in the environment; None: it has none."""
    secret: FileFacts
    auth_token: FileFacts | None
    read_token: FileFacts | None
    raft: DirectoryFacts
    postgresql: PostgresqlFacts | None
    tls: TlsFacts | None = None
    """None: no certificates are configured."""
    api_tls: ApiTlsFacts | None = None
    """None: none are configured for the API."""
    unmakeable: tuple[tuple[str, Path], ...] = ()
    """Keys of what is missing, each with the directory that it cannot be made in."""
    absent_addresses: tuple[str, ...] = ()
    """Addresses to listen on that no interface has."""
    has_addresses: bool = True
    """This platform can have virtual addresses."""
    interfaces: tuple[str, ...] = ()
    """The network interfaces by name; read where a virtual address is configured."""
    missing_capabilities: tuple[str, ...] = ()
    """What this process would need to set and announce an address."""
    hook_runs: bool = True
    """The program of ``vip.hook`` can be run."""
    fence_runs: bool = True
    """The program of ``failover.fence_command`` can be run."""
    fence_mode: int = 0o700
    """Its mode; 0 where it cannot be told."""
    watchdog_fault: str | None = None
    """Why ``watchdog.device`` cannot be used, as a verb; None: it can."""
