"""Where the node keeps its shared page and sockets: a directory on tmpfs.

A write to a mapped page of a frozen file system would block, so the directory has to
be in memory: the kernel is asked what kind of file system it is.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pgbastion.errors import ConfigError
from pgbastion.platform.choice import current

# Others may enter; PostgreSQL's user, the group, may add its socket; the sticky bit
# keeps it from replacing what the daemon and the guard made.
SHARED_MODE: Final = 0o1771
OWN_MODE: Final = 0o711


def run_directory(
    node_name: str, raft_data_dir: Path, environment: Mapping[str, str]
) -> Path:
    """Return the node's run directory, without making it.

    It is the first that lies on tmpfs and can be used by this process:
    ``/run/pgbastion/NODE-HASH``, the same under ``$XDG_RUNTIME_DIR``, the same under
    ``/dev/shm``. HASH is of the Raft directory's path, so that two nodes of one name
    on one machine do not meet.

    A platform without such file systems names a directory of its own.

    Raises:
        ConfigError: None of the three is on tmpfs and writable.
    """
    name = run_name(node_name, raft_data_dir)
    bases = [Path("/run/pgbastion")]
    if environment.get("XDG_RUNTIME_DIR"):
        bases.append(Path(environment["XDG_RUNTIME_DIR"]) / "pgbastion")
    bases.append(Path(f"/dev/shm/pgbastion-{os.geteuid()}"))  # noqa: S108 - see make
    for base in bases:
        if _usable(base):
            return base / name
    elsewhere = current().run_base
    if elsewhere is not None:
        return Path(elsewhere) / name
    raise ConfigError(
        "no directory in memory for the node's run files: none of "
        f"{', '.join(str(base) for base in bases)} is on tmpfs and writable; mount a "
        "tmpfs at /run or /dev/shm, or run under a service manager that gives "
        "/run/pgbastion (RuntimeDirectory=pgbastion)"
    )


def run_name(node_name: str, raft_data_dir: Path) -> str:
    """Return ``NODE-HASH``: 8 hexadecimal digits of the SHA-256 of the Raft path."""
    digest = hashlib.sha256(str(raft_data_dir).encode()).hexdigest()
    return f"{node_name}-{digest[:8]}"


def make_run_directory(path: Path, postgres_gid: int | None) -> None:
    """Make the run directory and its parent, or adopt what this user made before.

    Args:
        path: As `run_directory` returned it.
        postgres_gid: Group of PostgreSQL's user when it differs from this process's
            user and the server puts its socket here; else None.

    Raises:
        ConfigError: Somebody else owns it, it is not a directory, or it cannot be made.
    """
    try:
        _make_own(path.parent, 0o755)
        _make_own(path, SHARED_MODE if postgres_gid is not None else OWN_MODE)
        if postgres_gid is not None:
            os.chown(path, -1, postgres_gid)
            path.chmod(SHARED_MODE)
    except OSError as exc:
        raise ConfigError(f"cannot make the run directory {path}: {exc}") from exc


def on_memory(path: Path) -> bool:
    """Tell whether the existing ``path`` lies on tmpfs (or ramfs)."""
    return current().in_memory(str(path))


def _usable(base: Path) -> bool:
    existing = base if base.is_dir() else base.parent
    if not existing.is_dir() or not on_memory(existing):
        return False
    if existing is base and base.stat().st_uid != os.geteuid():
        # Root may use what a service manager gave to root only; others their own.
        return False
    if os.geteuid() == 0 and not base.parent.stat().st_mode & stat.S_IXOTH:
        # PostgreSQL's user could not get to its socket (a login session's directory).
        return False
    return os.access(existing, os.W_OK | os.X_OK, effective_ids=True)


def _make_own(path: Path, mode: int) -> None:
    """Make ``path``, or check that it is a directory of this user's own.

    In a directory that everybody may write to somebody else may have come first.
    """
    try:
        path.mkdir(mode=0o700)
        path.chmod(mode)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigError(
                f"{path} is not a directory, or of user {found.st_uid}: remove it, "
                "or run the daemon as its owner"
            ) from None
        if stat.S_IMODE(found.st_mode) & 0o022 and mode & 0o022 == 0:
            path.chmod(mode)
